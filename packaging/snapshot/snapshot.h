/* What the parts of the plugin's executable share.
 *
 * The executable has two lives. As the linker makes it (the seed) it starts Python, imports the
 * plugin and writes its memory to a file (seed.c). pack.py puts that memory into the executable;
 * the kernel maps it at every start, and adopt.c goes on where the seed stopped.
 *
 * Data of this folder's files and of libpython lies in the sections py* (build.py renames them),
 * which are kept. Data of the C library is not: it makes its own at each start.
 */
#ifndef SNAPSHOT_H
#define SNAPSHOT_H

#include <Python.h>

#if PY_VERSION_HEX < 0x030B0000 || PY_VERSION_HEX >= 0x030C0000
#error "read every file of packaging/snapshot anew for this version of Python"
#endif

/* What lies at the end of the blocks, and so of the file. */
#define MARK 0xfa
#define MARK_SIZE 16UL

/* memory.c */
extern int memory_is_recorded;
void memory_begin(void);
void memory_use_recorder(void);
void memory_end(void);
size_t memory_blocks_used(void);
size_t memory_pages_used(void);
extern char snapshot_blocks[], snapshot_pages[];

/* namespaces.c */
int namespaces_add(void);

/* seed.c: what adopt.c goes on with. Empty in the seed. */
extern PyThreadState *kept_thread;
extern PyObject *kept_main, *kept_environ, *kept_argv;
int seed_main(int argc, char **argv);

#endif
