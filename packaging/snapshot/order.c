/* Which blocks lie together: those that calls write to, and those that they read.
 *
 * A call writes to some thousand small objects, mostly to count who refers to them, and the kernel
 * copies each page that is written to. Scattered, they are on most pages of the snapshot.
 *
 * So the seed runs once with each block on a page of its own, and a script (calls.py) calls the plugin; the
 * pages are protected before and tell what is read and written. The seed whose memory is kept puts
 * what is written in front, and what is read behind that. It knows them by what Python was executing when it asked for them, by
 * their size, and by how many of the kind came before. A few are not found again, as the cache of
 * types' attributes keeps more names or fewer when they lie elsewhere: these stay behind.
 *
 * Relies on CPython 3.11: the thread's cframe->current_frame is NULL, or a frame with its code and
 * the instruction that it is at.
 */
#define _GNU_SOURCE
#define Py_BUILD_CORE 1
#include "snapshot.h"
#include <internal/pycore_frame.h>

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOST_PAGES (BLOCKS_SIZE / PAGE)
#define SLOTS (1UL << 20) /* of the two tables below; far more than kinds and blocks */

/* Known by a number that is not 0; how often it came, or the Heat of a block. */
typedef struct {
    uint64_t key, value;
} Slot;

int order_is_sought;
static Slot *kinds, *heats;      /* the C library's memory, as the next */
static uint64_t *block_of_page; /* 0 where a block has several pages */
static size_t total_bytes[HEATS];

static void
fail(const char *what)
{
    fprintf(stderr, "seed: order: %s\n", what);
    _exit(1);
}

static uint64_t
mix(uint64_t one, uint64_t other)
{
    one = (one ^ other) * 0x9e3779b97f4a7c15UL;
    return one ^ one >> 29;
}

static uint64_t
mix_text(uint64_t seen, PyObject *text)
{
    const unsigned char *bytes = PyUnicode_DATA(text);
    Py_ssize_t i, size = PyUnicode_GET_LENGTH(text) * PyUnicode_KIND(text);

    for (i = 0; i < size; i++) {
        seen = mix(seen, bytes[i]);
    }
    return seen;
}

/* Returns: a key's slot, which is empty if it was never there. */
static Slot *
find(Slot *table, uint64_t key)
{
    size_t i, at = key % SLOTS;

    for (i = 0; i < SLOTS; i++, at = (at + 1) % SLOTS) {
        if (table[at].key == key || table[at].key == 0) {
            return &table[at];
        }
    }
    fail("too many blocks");
    return NULL;
}

static uint64_t
what_is_executed(void)
{
    PyThreadState *thread = _PyThreadState_UncheckedGet();
    _PyInterpreterFrame *frame;

    if (thread == NULL || thread->cframe == NULL || thread->cframe->current_frame == NULL) {
        return 0;
    }
    frame = thread->cframe->current_frame;
    return mix(mix_text(mix_text(1, frame->f_code->co_filename), frame->f_code->co_qualname),
               (uint64_t)_PyInterpreterFrame_LASTI(frame));
}

/* Call before memory_begin(). path: what order_write() wrote, NULL to find out. */
void
order_begin(const char *path)
{
    FILE *file;
    uint64_t told[3];

    kinds = calloc(SLOTS, sizeof *kinds);
    heats = calloc(SLOTS, sizeof *heats);
    block_of_page = calloc(MOST_PAGES, sizeof *block_of_page);
    if (kinds == NULL || heats == NULL || block_of_page == NULL) {
        fail("no memory");
    }
    order_is_sought = path == NULL;
    if (order_is_sought) {
        return;
    }
    file = fopen(path, "rb");
    if (file == NULL) {
        fail(path);
    }
    while (fread(told, sizeof told, 1, file) == 1) {
        Slot *slot = find(heats, told[0]);
        if (told[1] != HOT && told[1] != WARM) {
            fail(path);
        }
        slot->key = told[0];
        slot->value = told[1];
        total_bytes[told[1]] += told[2];
    }
    if (fclose(file) != 0 || total_bytes[HOT] == 0) {
        fail(path);
    }
}

/* Returns: how much memory the hot or warm blocks need, rounded up to whole pages. */
size_t
order_bytes(Heat heat)
{
    return (total_bytes[heat] + PAGE - 1) & ~(PAGE - 1);
}

/* Call for each block that is asked for. Returns: its key. */
uint64_t
order_key(size_t size)
{
    uint64_t kind = mix(mix(2, what_is_executed()), size);
    Slot *slot = find(kinds, kind);

    slot->key = kind;
    return mix(kind, ++slot->value);
}

Heat
order_heat(uint64_t key)
{
    return (Heat)find(heats, key)->value;
}

/* Call then, while the order is sought, with the place of its first page. size: with its head. */
void
order_lies_at(uint64_t key, size_t place, size_t size)
{
    block_of_page[place / PAGE] = size > PAGE ? 0 : key;
}

/* Call when nothing is recorded any more: nothing of this process stays. */
void
order_end(void)
{
    free(kinds);
    kinds = NULL;
    if (!order_is_sought) {
        free(heats);
        free(block_of_page);
        heats = NULL;
        block_of_page = NULL;
    }
}

/* What is not readable is read; then what is not writable is written. */
static void
note(int number, siginfo_t *information, void *context)
{
    char *place = information->si_addr;
    size_t page = (size_t)(place - snapshot_blocks) / PAGE;
    uint64_t key = place < snapshot_blocks || page >= MOST_PAGES ? 0 : block_of_page[page];
    Slot *slot = key == 0 ? NULL : find(heats, key);
    int is_written = slot == NULL || slot->value == WARM;

    (void)number;
    (void)context;
    if (slot != NULL) {
        slot->key = key;
        slot->value = is_written ? HOT : WARM;
    }
    if (place < snapshot_blocks || page >= MOST_PAGES ||
        mprotect(snapshot_blocks + page * PAGE, PAGE,
                 is_written ? PROT_READ | PROT_WRITE : PROT_READ) != 0) {
        signal(SIGSEGV, SIG_DFL);
    }
}

/* From here on notice what is read and written. */
void
order_watch(void)
{
    struct sigaction noting = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};

    if (sigaction(SIGSEGV, &noting, NULL) != 0 ||
        mprotect(snapshot_blocks, memory_blocks_used(), PROT_NONE) != 0) {
        fail("cannot watch");
    }
}

/* Write what was noticed: key, heat and size of each block. */
void
order_write(const char *path)
{
    FILE *file = fopen(path, "wb");
    size_t page;

    for (page = 0; file != NULL && page < memory_blocks_used() / PAGE; page++) {
        uint64_t key = block_of_page[page];
        uint64_t heat = key == 0 ? COLD : find(heats, key)->value;
        if (heat != COLD) {
            /* Its head says its size: memory.c. */
            uint64_t size = *(size_t *)(void *)(snapshot_blocks + page * PAGE) + HEAD_SIZE;
            uint64_t told[3] = {key, heat, size};
            if (fwrite(told, sizeof told, 1, file) != 1) {
                fail(path);
            }
        }
    }
    if (file == NULL || fclose(file) != 0) {
        fail(path);
    }
}
