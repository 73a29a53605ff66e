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

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

#if PY_VERSION_HEX < 0x030B0000 || PY_VERSION_HEX >= 0x030C0000
#error "read every file of packaging/snapshot anew for this version of Python"
#endif

/* What lies at the end of the blocks, and so of the file. */
#define MARK 0xfa
#define MARK_SIZE 16UL

#define PAGE 4096UL
/* Up to 1 << 30: below, the address of an object is a number of one digit to Python, as it is in
 * the plugin, wherever blocks lie while their order is sought. */
#define BLOCKS_SIZE ((1UL << 30) - 0x20400000UL)

/* order.c: what calls do with a block. */
typedef enum { COLD, WARM, HOT, HEATS } Heat; /* nothing, read it, write to it */
extern int order_is_sought;
void order_begin(const char *path);
size_t order_bytes(Heat heat);
uint64_t order_key(size_t size);
Heat order_heat(uint64_t key);
void order_lies_at(uint64_t key, size_t place, size_t size);
void order_end(void);
void order_watch(void);
void order_write(const char *path);

/* memory.c */
#define HEAD_SIZE 16UL
extern int memory_is_recorded;
void memory_begin(void);
void memory_use_recorder(void);
void memory_end(void);
size_t memory_blocks_used(void);
size_t memory_hot_used(void);
size_t memory_pages_used(void);
extern char snapshot_blocks[], snapshot_pages[];

/* namespaces.c */
int namespaces_add(void);

/* seed.c: what adopt.c goes on with. Empty in the seed. */
extern PyThreadState *kept_thread;
extern PyObject *kept_main, *kept_environ, *kept_argv;
int seed_main(int argc, char **argv);

#endif
