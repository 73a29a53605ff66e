/* Kill a process that a command forks at its Nth system call, or let that call fail.
 *
 *   fork_fault LOG WHICH NTH WHAT COMMAND [ARGUMENT...]
 *
 * LOG: gets the number of each call that the child begins, a line each. WHICH: the first child,
 * the second... NTH: from 1; 0 for none. WHAT: "kill", or the errno that the call gives.
 * strace counts the calls of every process for itself, so what it does to the child's third
 * sendto it has done to the parent's. Ends, with the command's status, when all have ended.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __x86_64__
#error "a call is kept from happening by x86-64's registers only"
#endif

#define OPTIONS (PTRACE_O_TRACEFORK | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)

static void check(long result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(125);
    }
}

int main(int argc, char **argv) {
    if (argc < 6)
        return 125;
    FILE *log = fopen(argv[1], "w");
    int which = atoi(argv[2]), nth = atoi(argv[3]), error = atoi(argv[4]);
    if (!log)
        return 125;
    pid_t first = fork();
    check(first, "fork");
    if (first == 0) {
        check(ptrace(PTRACE_TRACEME, 0, 0, 0), "PTRACE_TRACEME");
        fclose(log);
        raise(SIGSTOP);
        execvp(argv[5], argv + 5);
        _exit(127);
    }
    int status, answer = 125, seen = 0, begun = 0, entering = 1, failing = 0;
    pid_t chosen = 0, known[16] = {first};
    check(waitpid(first, &status, 0), "waitpid");
    check(ptrace(PTRACE_SETOPTIONS, first, 0, OPTIONS), "PTRACE_SETOPTIONS");
    ptrace(PTRACE_CONT, first, 0, 0);
    for (pid_t pid; (pid = waitpid(-1, &status, __WALL)) > 0;) {
        if (!WIFSTOPPED(status)) {
            if (pid == first)
                answer = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            continue;
        }
        int is_known = 0, pass_on = 0;
        for (int i = 0; i <= seen; i++)
            is_known |= known[i] == pid;
        if (!is_known) { /* a new child's first stop */
            if (++seen == 16)
                return 125;
            known[seen] = pid;
            if (seen == which)
                chosen = pid;
        } else if (WSTOPSIG(status) == (SIGTRAP | 0x80) && pid == chosen) {
            struct user_regs_struct registers;
            struct iovec where = {&registers, sizeof registers};
            check(ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &where), "PTRACE_GETREGSET");
            if (entering) {
                fprintf(log, "%llu\n", registers.orig_rax);
                if (++begun == nth && !error) {
                    kill(pid, SIGKILL);
                } else if (begun == nth) {
                    failing = 1;
                    registers.orig_rax = -1;
                    check(ptrace(PTRACE_SETREGSET, pid, NT_PRSTATUS, &where), "PTRACE_SETREGSET");
                }
            } else if (failing) {
                failing = 0;
                registers.rax = -error;
                check(ptrace(PTRACE_SETREGSET, pid, NT_PRSTATUS, &where), "PTRACE_SETREGSET");
            }
            entering = !entering;
        } else if (status >> 16 == 0 && WSTOPSIG(status) != (SIGTRAP | 0x80)) {
            pass_on = WSTOPSIG(status);
        }
        ptrace(pid == chosen ? PTRACE_SYSCALL : PTRACE_CONT, pid, 0, pass_on);
    }
    fclose(log);
    return answer;
}
