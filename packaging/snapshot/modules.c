/* Which C modules there are: what the plugin imports, and what that imports in turn.
 *
 * In the place of libpython's own table (Modules/config.c), so that nothing else is linked in.
 * A module that is missing ends the build: the seed cannot import it.
 *
 * Relies on CPython 3.11: the names of Modules/config.c.in; builtins and sys have no function.
 */
#include "snapshot.h"

#define MODULES(X) \
    X(_abc) X(_bisect) X(_codecs) X(_collections) X(_faasm_attributes) X(_functools) X(_heapq) \
    X(_io) X(_json_speedups) X(_locale) X(_opcode) X(_operator) X(_socket) X(_sre) X(_stat) \
    X(_struct) X(_thread) X(_weakref) X(array) X(atexit) X(binascii) X(errno) X(fcntl) \
    X(itertools) X(math) X(posix) X(select) X(time)

#define PyInit__json_speedups PyInit__speedups /* simplejson's */

#define DECLARE(name) extern PyObject *PyInit_##name(void);
MODULES(DECLARE)

extern PyObject *PyInit__ast(void), *PyInit__imp(void), *PyInit__string(void);
extern PyObject *PyInit__tokenize(void), *PyInit_gc(void);
extern PyObject *PyMarshal_Init(void), *_PyWarnings_Init(void);

#define ROW(name) {#name, PyInit_##name},
struct _inittab _PyImport_Inittab[] = {
    MODULES(ROW)
    {"_ast", PyInit__ast},
    {"_imp", PyInit__imp},
    {"_string", PyInit__string},
    {"_tokenize", PyInit__tokenize},
    {"_warnings", _PyWarnings_Init},
    {"builtins", NULL},
    {"gc", PyInit_gc},
    {"marshal", PyMarshal_Init},
    {"sys", NULL},
    {NULL, NULL},
};
