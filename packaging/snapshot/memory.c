/* Where Python's memory comes from.
 *
 * build.py renames malloc, calloc, realloc, free, mmap, mmap64 and munmap in libpython to the
 * functions below. While the seed records, all memory comes from two arrays at fixed addresses;
 * afterwards from the C library. What lies in the arrays is never given to the C library's free.
 *
 * Relies on CPython 3.11: all domains end in these functions or in the table that
 * PyMem_SetAllocator sets; an address that no arena of pymalloc holds is handed to the raw domain
 * (Objects/obmalloc.c: address_in_range); _PyObject_VirtualAlloc and arenas come from mmap.
 */
#define _GNU_SOURCE
#include "snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGES_SIZE (2UL << 20)

/* The last sections of the executable, at addresses that build.py gives; it renames them, for by
 * this beginning of their names the compiler knows that they have nothing in the file. */
__attribute__((section(".bss.snapshot_blocks"), aligned(65536))) char snapshot_blocks[BLOCKS_SIZE];
__attribute__((section(".bss.snapshot_pages"), aligned(65536))) char snapshot_pages[PAGES_SIZE];

typedef struct {
    size_t size;
    size_t unused; /* blocks are aligned to 16 bytes, as malloc's are */
} Head;
_Static_assert(sizeof(Head) == HEAD_SIZE, "order.c reads it");

/* Freed blocks by size / 16. What is larger is not used again. */
#define CLASSES (1UL << 17)
static void **free_blocks; /* of the C library's memory, while it is recorded */

/* libpython's. */
void *snapshot_malloc(size_t size);
void *snapshot_calloc(size_t count, size_t size);
void *snapshot_realloc(void *block, size_t size);
void snapshot_free(void *block);
void *snapshot_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
void *snapshot_mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int snapshot_munmap(void *address, size_t length);

int memory_is_recorded;
static size_t pages_used;
/* The blocks have three parts, hot, warm and cold, each after the other. */
static size_t used[HEATS], end[HEATS];

size_t memory_blocks_used(void) { return used[COLD]; }
size_t memory_hot_used(void) { return used[HOT]; }
size_t memory_pages_used(void) { return pages_used; }

/* Compared with what is used and not with what there is: behind it may lie anything. */
static int
in_blocks(const void *place)
{
    const char *byte = place;
    return byte >= snapshot_blocks && byte < snapshot_blocks + used[COLD];
}

static int
in_pages(const void *place)
{
    const char *byte = place;
    return byte >= snapshot_pages && byte < snapshot_pages + pages_used;
}

/* Returns: where a block of this size with its head begins, NULL when there is no room. */
static Head *
take_new(size_t size, Heat heat)
{
    char *place = snapshot_blocks + used[heat];

    if (order_is_sought) { /* pages of its own */
        size = (size + PAGE - 1) & ~(PAGE - 1);
    }
    if (size > end[heat] - used[heat]) {
        return NULL;
    }
    used[heat] += size;
    return (Head *)(void *)place;
}

static void *
take(size_t size)
{
    size_t rounded = size == 0 ? 16 : (size + 15) & ~(size_t)15;
    void **freed = NULL;
    uint64_t key = order_key(rounded);
    Head *head = NULL;
    Heat heat;

    if (rounded < size || rounded > BLOCKS_SIZE) {
        return NULL;
    }
    heat = order_heat(key);
    if (heat != COLD) { /* it is known to stay, so none that was freed is taken for it */
        head = take_new(rounded + sizeof(Head), heat);
    }
    if (head == NULL && rounded / 16 < CLASSES && (freed = free_blocks[rounded / 16]) != NULL) {
        free_blocks[rounded / 16] = *freed;
        *freed = NULL;
        head = (Head *)(void *)freed - 1;
    }
    if (head == NULL) {
        head = take_new(rounded + sizeof(Head), COLD);
    }
    if (head == NULL) {
        return NULL;
    }
    head->size = rounded;
    if (order_is_sought) {
        order_lies_at(key, (size_t)((char *)head - snapshot_blocks), rounded + sizeof(Head));
    }
    return head + 1;
}

static void
give_back(void *block)
{
    size_t size = ((Head *)block)[-1].size;

    memset(block, 0, size); /* what was in it must not be in the snapshot */
    if (size / 16 < CLASSES) {
        *(void **)block = free_blocks[size / 16];
        free_blocks[size / 16] = block;
    }
}

void *
snapshot_malloc(size_t size)
{
    return memory_is_recorded ? take(size) : malloc(size);
}

void *
snapshot_calloc(size_t count, size_t size)
{
    if (!memory_is_recorded) {
        return calloc(count, size);
    }
    if (size != 0 && count > BLOCKS_SIZE / size) {
        return NULL;
    }
    return take(count * size); /* zero: never used before, or cleared when given back */
}

void
snapshot_free(void *block)
{
    if (!in_blocks(block)) {
        free(block);
    }
    else if (memory_is_recorded) {
        give_back(block);
    }
    /* else: a call is over before anybody would need it again */
}

void *
snapshot_realloc(void *block, size_t size)
{
    size_t old;
    void *other;

    if (block == NULL) {
        return snapshot_malloc(size);
    }
    if (!in_blocks(block)) {
        return realloc(block, size);
    }
    old = ((Head *)block)[-1].size;
    if (size <= old && (size > old / 2 || !memory_is_recorded)) {
        return block;
    }
    other = snapshot_malloc(size);
    if (other != NULL) {
        memcpy(other, block, old < size ? old : size);
        snapshot_free(block);
    }
    return other;
}

void *
snapshot_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    char *place = snapshot_pages + pages_used;

    if (!memory_is_recorded || fd != -1 || address != NULL) {
        return mmap(address, length, protection, flags, fd, offset);
    }
    length = (length + PAGE - 1) & ~(PAGE - 1);
    if (length > PAGES_SIZE - pages_used) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    pages_used += length;
    return place;
}

/* The same, by the name that Debian's Python calls. */
void *
snapshot_mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return snapshot_mmap(address, length, protection, flags, fd, offset);
}

int
snapshot_munmap(void *address, size_t length)
{
    return in_pages(address) ? 0 : munmap(address, length);
}

/* pymalloc's pools would be half empty in the snapshot, and calls would write all over them: so
 * while it is recorded its two domains go to the recorder as well, and pymalloc begins empty. */
static void *record_malloc(void *context, size_t size) { (void)context; return snapshot_malloc(size); }
static void *record_calloc(void *context, size_t n, size_t size) { (void)context; return snapshot_calloc(n, size); }
static void *record_realloc(void *context, void *block, size_t size) { (void)context; return snapshot_realloc(block, size); }
static void record_free(void *context, void *block) { (void)context; snapshot_free(block); }

static const PyMemAllocatorDomain domains[] = {PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};
static PyMemAllocatorEx usual[2];
static PyMemAllocatorEx recorder = {NULL, record_malloc, record_calloc, record_realloc, record_free};

/* Call before anything of Python, and after order_begin(). */
void
memory_begin(void)
{
    free_blocks = calloc(CLASSES, sizeof *free_blocks);
    if (free_blocks == NULL) {
        abort();
    }
    end[HOT] = order_bytes(HOT);
    used[WARM] = end[HOT];
    end[WARM] = used[WARM] + order_bytes(WARM);
    used[COLD] = end[WARM];
    end[COLD] = BLOCKS_SIZE;
    memory_is_recorded = 1;
}

/* Call after Py_PreInitialize, which chooses allocators. */
void
memory_use_recorder(void)
{
    size_t i;
    for (i = 0; i < 2; i++) {
        PyMem_GetAllocator(domains[i], &usual[i]);
        PyMem_SetAllocator(domains[i], &recorder);
    }
}

/* Call last. Clears the lists of free blocks, and their links in the blocks. */
void
memory_end(void)
{
    Head *mark;
    size_t i;
    for (i = 0; i < 2; i++) {
        PyMem_SetAllocator(domains[i], &usual[i]);
    }
    for (i = 0; i < CLASSES; i++) {
        void **block = free_blocks[i], **next;
        for (; block != NULL; block = next) {
            next = *block;
            *block = NULL;
        }
    }
    free(free_blocks);
    free_blocks = NULL;
    mark = take_new(sizeof(Head) + MARK_SIZE, COLD);
    if (mark == NULL) {
        abort();
    }
    memset(mark + 1, MARK, MARK_SIZE);
    order_end();
    memory_is_recorded = 0;
}
