/* main(): go on where the seed stopped.
 *
 * Relies on CPython 3.11: what a process must have of its own are the key of the thread's state
 * (autoTSSkey), the ids of thread and main thread, and posix.environ; PyThread_get_thread_ident
 * is pthread_self. With _init_main = 0 Python has no signal handlers, so none can run.
 */
#define _GNU_SOURCE
#define Py_BUILD_CORE 1
#include "snapshot.h"
#include <internal/pycore_runtime.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

extern char **environ;

static const char answer[] =
    "{\"cniVersion\": \"1.0.0\", \"code\": 100, \"msg\": \"the plugin cannot start: its "
    "executable is not whole, or there is no memory\", \"details\": \"free memory on the host, or "
    "install it again\"}\n";

static void
refuse(int number)
{
    const char *rest = answer;
    size_t left = sizeof answer - 1;
    (void)number;
    while (left > 0) {
        ssize_t written = write(1, rest, left);
        if (written <= 0) {
            break;
        }
        rest += written;
        left -= (size_t)written;
    }
    _exit(1);
}

/* Of a file that was cut, the end is missing: then reading there is refused by the kernel. */
static void
check_end(void)
{
    struct sigaction refusing = {.sa_handler = refuse}, before;
    const volatile char *end = snapshot_blocks + memory_blocks_used() - MARK_SIZE;
    size_t i;

    sigaction(SIGBUS, &refusing, &before);
    for (i = 0; i < MARK_SIZE; i++) {
        if (end[i] != (char)MARK) {
            refuse(0);
        }
    }
    sigaction(SIGBUS, &before, NULL);
}

/* Returns: 0, or -1 when there is no memory. */
static int
fill_environ(void)
{
    char **each;

    for (each = environ; each != NULL && *each != NULL; each++) {
        const char *equal = strchr(*each, '=');
        PyObject *name, *value, *found = NULL;
        if (equal == NULL) {
            continue;
        }
        name = PyBytes_FromStringAndSize(*each, equal - *each);
        value = PyBytes_FromString(equal + 1);
        if (name != NULL && value != NULL) {
            found = PyDict_SetDefault(kept_environ, name, value); /* the first counts */
        }
        Py_XDECREF(name);
        Py_XDECREF(value);
        if (found == NULL) {
            return -1;
        }
    }
    return 0;
}

static int
fill_argv(int argc, char **argv)
{
    int i;

    for (i = 0; i < argc; i++) {
        PyObject *word = PyUnicode_DecodeUTF8(argv[i], (Py_ssize_t)strlen(argv[i]), "surrogateescape");
        if (word == NULL || PyList_Append(kept_argv, word) != 0) {
            return -1;
        }
        Py_DECREF(word);
    }
    return 0;
}

static int
adopt_thread(void)
{
    _PyRuntime.gilstate.autoTSSkey._is_initialized = 0;
    if (PyThread_tss_create(&_PyRuntime.gilstate.autoTSSkey) != 0 ||
        PyThread_tss_set(&_PyRuntime.gilstate.autoTSSkey, kept_thread) != 0) {
        return -1;
    }
    _PyRuntime.main_thread = PyThread_get_thread_ident();
    kept_thread->thread_id = _PyRuntime.main_thread;
    kept_thread->native_thread_id = (unsigned long)gettid();
    return 0;
}

/* Instead of handlers: a verb that has begun is not stopped in the middle by who wants it to end,
 * and a runtime that does not listen any more is an error to undo for, not a death. */
static void
hold_signals(void)
{
    sigset_t ending;
    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    sigaddset(&ending, SIGINT);
    sigprocmask(SIG_BLOCK, &ending, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* What these two verbs write to, nearly all of it: the kernel copies it at once and not at a fault
 * for each page. One before 5.14 refuses, and does as before. */
static void
copy_what_is_written(void)
{
    const char *verb = getenv("CNI_COMMAND");

    if (verb != NULL && (strcmp(verb, "ADD") == 0 || strcmp(verb, "CHECK") == 0)) {
        (void)madvise(snapshot_blocks, memory_hot_used(), MADV_POPULATE_WRITE);
    }
}

int
main(int argc, char **argv)
{
    if (kept_main == NULL) {
        return seed_main(argc, argv);
    }
    check_end();
    copy_what_is_written();
    hold_signals();
    if (adopt_thread() != 0 || fill_environ() != 0 || fill_argv(argc, argv) != 0) {
        refuse(0);
    }
    PyObject_CallNoArgs(kept_main); /* ends the process */
    refuse(0);
    return 1;
}
