/*
 * Start the tool with the C library that lies beside it, whatever the host has.
 *
 * An executable names its dynamic loader by an absolute path, and the loader and the C library
 * of a host fit each other alone. So ours name none: the kernel starts them here, as it would a
 * static program. This maps _internal/ld-linux-*, tells it by the auxiliary vector what the
 * kernel would have told it, and goes on there; the rest is as ever. No second exec, and
 * /proc/PID/exe is the executable.
 *
 * Nothing is relocated and no library is there yet, so everything is done here, by system
 * calls. bootloader.py compiles it so that the compiler calls nothing by itself, and looks.
 *
 * Layout of the stack: "Process Initialization" in the System V ABI of each processor.
 */

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#ifndef LOADER
#error "LOADER is the name of the dynamic loader in _internal"
#endif

extern const char _start[] __attribute__((visibility("hidden")));

static Elf64_Phdr copied[32];
static const char name[] = LOADER;

/* What the kernel jumps to: the loader gets the stack and the registers as they came. */
#if defined(__x86_64__)
__asm__(".globl faasm_start\n"
        "faasm_start:\n"
        "    mov %rsp, %rdi\n"
        "    call faasm_map_loader\n"
        "    xor %edx, %edx\n" /* no function to call at exit */
        "    jmp *%rax\n");

static long
_call(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
__asm__(".globl faasm_start\n"
        "faasm_start:\n"
        "    mov x0, sp\n"
        "    bl faasm_map_loader\n"
        "    mov x16, x0\n"
        "    mov x0, #0\n" /* no function to call at exit */
        "    br x16\n");

static long
_call(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c, x3 __asm__("x3") = d, x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}
#else
#error "the start of a process is written for x86-64 and arm64"
#endif

static void
_say(int file, const char *text)
{
    size_t length = 0;

    while (text[length] != 0) {
        length++;
    }
    _call(SYS_write, file, (long)text, (long)length, 0, 0, 0);
}

static void __attribute__((noreturn))
_fail(void)
{
    _say(2, "cni-faasm: _internal/" LOADER " beside it cannot be loaded; its folder is "
            "incomplete, or there is no /proc: install it again\n");
    for (;;) {
        _call(SYS_exit_group, 1, 0, 0, 0, 0, 0);
    }
}

/* Returns a descriptor of the loader, negative when there is none. */
static long
_open_loader(void)
{
    static const char rest[] = "_internal/" LOADER;
    char path[PATH_MAX + sizeof(rest)];
    long length = _call(SYS_readlinkat, AT_FDCWD, (long)"/proc/self/exe", (long)path, PATH_MAX, 0, 0);
    size_t i;

    while (length > 0 && path[length - 1] != '/') {
        length--;
    }
    if (length <= 0) {
        return -1;
    }
    for (i = 0; i < sizeof(rest); i++) {
        path[(size_t)length + i] = rest[i];
    }
    return _call(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
}

/* Returns where a segment of the loader is mapped from and to, in whole pages. */
static unsigned long
_down(unsigned long address, unsigned long page)
{
    return address & ~(page - 1);
}

static long
_map(unsigned long address, unsigned long size, int protection, int flags, long file, unsigned long offset)
{
    return _call(SYS_mmap, (long)address, (long)size, protection, MAP_PRIVATE | flags, file, (long)offset);
}

/* Maps one segment over what is reserved. Returns whether that was possible. */
static int
_map_segment(const Elf64_Phdr *segment, unsigned long base, unsigned long page, long file)
{
    unsigned long start = base + segment->p_vaddr, first = _down(start, page);
    unsigned long end = start + segment->p_filesz, last = _down(end + page - 1, page);
    unsigned long wanted = _down(start + segment->p_memsz + page - 1, page);
    int protection = (segment->p_flags & PF_R ? PROT_READ : 0) | (segment->p_flags & PF_W ? PROT_WRITE : 0) |
                     (segment->p_flags & PF_X ? PROT_EXEC : 0);

    if (segment->p_filesz > 0 && _map(first, last - first, protection, MAP_FIXED, file,
                                      _down(segment->p_offset, page)) != (long)first) {
        return 0;
    }
    if (segment->p_memsz > segment->p_filesz && segment->p_flags & PF_W) {
        for (; end < last; end++) { /* what the file has after the segment */
            *(volatile char *)end = 0;
        }
    }
    return wanted <= last || _map(last, wanted - last, protection, MAP_FIXED | MAP_ANONYMOUS, -1, 0) == (long)last;
}

/*
 * Copies the executable's program headers and adds what the kernel must not see and the loader
 * wants to: its own name. It takes the executable's place to be 0, which it is.
 */
static int
_copy_headers(const Elf64_Phdr *headers, unsigned long count)
{
    unsigned long i;

    if (count >= sizeof(copied) / sizeof(copied[0])) {
        return 0;
    }
    for (i = 0; i < count; i++) {
        copied[i] = headers[i];
        if (headers[i].p_type == PT_PHDR) {
            copied[i].p_vaddr = (unsigned long)copied;
        }
    }
    copied[count].p_type = PT_INTERP;
    copied[count].p_vaddr = (unsigned long)name;
    copied[count].p_filesz = copied[count].p_memsz = sizeof(name);
    return 1;
}

/*
 * Maps the loader. stack: as the kernel made it. Returns where the loader begins.
 */
unsigned long
faasm_map_loader(unsigned long *stack)
{
    union {
        Elf64_Ehdr head;
        char bytes[2048];
    } file;
    char **variable = (char **)(stack + 1 + stack[0] + 1);
    const Elf64_Phdr *segments, *headers = NULL;
    Elf64_auxv_t *fact;
    unsigned long page = 4096, size = 0, count = 0;
    long loader, length, base;
    int i;

    while (*variable != NULL) {
        variable++;
    }
    for (fact = (Elf64_auxv_t *)(variable + 1); fact->a_type != AT_NULL; fact++) {
        if (fact->a_type == AT_PAGESZ) {
            page = fact->a_un.a_val;
        }
    }

    loader = _open_loader();
    length = loader < 0 ? 0 : _call(SYS_pread64, loader, (long)&file, sizeof(file), 0, 0, 0);
    if (length < (long)sizeof(file.head) || *(unsigned *)file.bytes != *(const unsigned *)ELFMAG ||
        file.head.e_type != ET_DYN ||
        file.head.e_phoff + file.head.e_phnum * sizeof(Elf64_Phdr) > (unsigned long)length) {
        _fail();
    }
    segments = (const Elf64_Phdr *)(file.bytes + file.head.e_phoff);
    for (i = 0; i < file.head.e_phnum; i++) {
        if (segments[i].p_type == PT_LOAD && segments[i].p_vaddr + segments[i].p_memsz > size) {
            size = segments[i].p_vaddr + segments[i].p_memsz;
        }
    }
    base = _map(0, size, PROT_NONE, MAP_ANONYMOUS, -1, 0);
    if (base <= 0) {
        _fail();
    }
    for (i = 0; i < file.head.e_phnum; i++) {
        if (segments[i].p_type == PT_LOAD && !_map_segment(&segments[i], (unsigned long)base, page, loader)) {
            _fail();
        }
    }
    _call(SYS_close, loader, 0, 0, 0, 0, 0);

    for (fact = (Elf64_auxv_t *)(variable + 1); fact->a_type != AT_NULL; fact++) {
        if (fact->a_type == AT_BASE) {
            fact->a_un.a_val = (unsigned long)base;
        } else if (fact->a_type == AT_ENTRY) {
            fact->a_un.a_val = (unsigned long)_start;
        } else if (fact->a_type == AT_PHDR) {
            headers = (const Elf64_Phdr *)fact->a_un.a_val;
            fact->a_un.a_val = (unsigned long)copied;
        } else if (fact->a_type == AT_PHNUM) {
            count = fact->a_un.a_val++;
        }
    }
    if (!_copy_headers(headers, count)) {
        _fail();
    }
    return (unsigned long)base + file.head.e_entry;
}
