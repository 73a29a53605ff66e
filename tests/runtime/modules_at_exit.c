/* Preloaded by test_bundle.py: when a program that embeds Python ends by _exit(), append the
 * names of its modules to the file $MODULES_AT_EXIT. So what the built plugin imported is
 * seen without any provision for that in the plugin. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

void _exit(int status)
{
    int (*run)(const char *) = (int (*)(const char *))dlsym(RTLD_DEFAULT, "PyRun_SimpleString");

    if (run != NULL && getenv("MODULES_AT_EXIT") != NULL) {
        run("import sys, posix\n"
            "_f = posix.open(posix.environ[b'MODULES_AT_EXIT'],\n"
            "    posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND)\n"
            "posix.write(_f, (' '.join(sorted(sys.modules)) + '\\n').encode())\n");
    }
    for (;;)
        syscall(SYS_exit_group, status);
}
