"""Make the plugin's executable; used by build.sh.

    build.py SIMPLEJSON FOLDER      FOLDER/faasm is made; SIMPLEJSON: its unpacked sources

Links Debian's libpython with the files of this folder, runs the result twice as the seed, and
packs what it has written (pack.py). Nothing here needs root, a namespace or the network.
"""

import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)

import elf
import pack

PYTHON = "/usr/bin/python3.11"
STDLIB = "/usr/lib/python3.11"
INCLUDE = "/usr/include/python3.11"
LIBRARY = f"{STDLIB}/config-3.11-{sysconfig.get_config_var('MULTIARCH')}/libpython3.11.a"

OURS = (
    *("adopt.o", "attributes.o", "memory.o", "modules.o", "namespaces.o", "order.o"),
    *("refused.o", "seed.o"),
)
THEIRS = ("frozen.o", "speedups.o")
INPUTS = (*OURS, *THEIRS)

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}

# No debugging information, no paths, no order that depends on anything. NDEBUG: as Debian's
# libpython was compiled.
FLAGS = (
    *("-O2", "-DNDEBUG", "-std=gnu11", "-fno-pie", "-fwrapv", "-fno-common", "-g0"),
    *("-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"),
    *(f"-I{INCLUDE}", f"-ffile-prefix-map={ROOT}=."),
)
STRICT = (
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-Wno-missing-field-initializers",
)

# What libpython takes from the C library and must not: memory.c's are in the place of it.
MEMORY = ("malloc", "calloc", "realloc", "free", "mmap", "mmap64", "munmap")
# What refused.c is in the place of.
REFUSED = (
    *("dlerror", "dlopen", "dlsym", "getaddrinfo", "getgrouplist", "gethostbyaddr_r"),
    *("gethostbyname_r", "getprotobyname", "getservbyname", "getservbyport", "initgroups"),
)
# Sections of Python's data, and what they become: apart from the C library's. Without `contents`
# the second would have no room in the file.
RENAMED = (
    ".data=pydata",
    ".data.rel=pydata",
    ".data.rel.local=pydata",
    ".bss=pybss,alloc,load,data,contents",
    ".PyRuntime=pyruntime",
    ".bss.snapshot_blocks=.snapshot_blocks",
    ".bss.snapshot_pages=.snapshot_pages",
)
RENAMED_SECTIONS = {one.partition("=")[2].partition(",")[0] for one in RENAMED}
# Of libpython, and not kept: counters for tracers in the kernel.
NOT_RENAMED = {".probes"}

# Behind everything else, and far from small numbers.
PLACES = {".snapshot_pages": 0x20000000, ".snapshot_blocks": 0x20400000}


class Step:
    """Run the compiler's programs in one folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, *command: str, env: dict[str, str] = ENVIRONMENT) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.returncode}\n{done.stdout}")
        return done.stdout

    def compile(self, source: str, target: str, *flags: str) -> None:
        self.run("gcc", *FLAGS, *flags, "-c", "-o", target, source)

    def rename(self, source: str, target: str, *flags: str) -> None:
        sections = [word for one in RENAMED for word in ("--rename-section", one)]
        self.run("objcopy", *sections, *flags, source, target)


def frozen_source() -> str:
    """Return C that freezes the one module without which Python cannot import any.

    In the place of libpython's frozen modules, which are two thirds of its data.
    """
    code = (
        "import marshal, sys; path = sys.argv[1] + '/importlib/_bootstrap.py';"
        "text = open(path, encoding='utf-8').read();"
        "code = compile(text, '<frozen importlib._bootstrap>', 'exec', optimize=2);"
        "print(marshal.dumps(code, 2).hex())"
    )
    command = [PYTHON, "-I", "-S", "-B", "-X", "no_debug_ranges", "-c", code, STDLIB]
    text = subprocess.run(command, env={}, check=True, capture_output=True, text=True).stdout
    numbers = ",".join(str(byte) for byte in bytes.fromhex(text.strip()))
    return f"""#include <Python.h>
#define Py_BUILD_CORE 1
#include <internal/pycore_import.h>
static const unsigned char code[] = {{{numbers}}};
static const struct _frozen bootstrap[] = {{
    {{"_frozen_importlib", code, (int)sizeof code, 0, NULL}},
    {{NULL, NULL, 0, 0, NULL}},
}};
static const struct _frozen none[] = {{{{NULL, NULL, 0, 0, NULL}}}};
static const struct _module_alias aliases[] = {{
    {{"_frozen_importlib", "importlib._bootstrap"}},
    {{NULL, NULL}},
}};
const struct _frozen *_PyImport_FrozenBootstrap = bootstrap;
const struct _frozen *_PyImport_FrozenStdlib = none;
const struct _frozen *_PyImport_FrozenTest = none;
const struct _frozen *PyImport_FrozenModules = NULL;
const struct _module_alias *_PyImport_FrozenAliases = aliases;
extern int _Py_Deepfreeze_Init(void);
extern void _Py_Deepfreeze_Fini(void);
int _Py_Deepfreeze_Init(void) {{ return 0; }}
void _Py_Deepfreeze_Fini(void) {{}}
"""


START = "libc-start.o"
ASKS_FOR_CACHES = {"handle_amd", "handle_intel"}
LARGE = bytes.fromhex("b800000002c3")  # mov $32 MiB, %eax; ret
JUMP = 0xEB  # so many bytes from behind its two
MOST_SKIPPED = 64


def quick_start(step: Step) -> list[str]:
    """Have the C library take each cache of the processor for 32 MiB instead of asking.

    It asks some thirty times at each start, with an instruction that leaves a virtual machine for
    3 to 4 µs. All that it decides by the answers is from which size on it copies in another way.
    Returns: the object to link, none for processors that are not asked so.
    """
    if os.uname().machine != "x86_64":
        return []
    with open(step.run("gcc", "-print-file-name=libc.a").strip(), "rb") as file:
        data = bytearray(dict(elf.members(file.read()))[START])
    path = os.path.join(step.folder, START)
    with open(path, "wb") as file:
        file.write(data)
    whole = elf.Elf(bytes(data))
    sections = {one.name: one for one in whole.sections}
    relocations = struct.iter_unpack("<QQq", whole.contents(sections[".rela.text"]))
    moved = {at for at, _, _ in relocations}
    found = set()
    for line in step.run("nm", "--format=posix", START).splitlines():
        name, kind, *place = line.split()
        name = name.partition(".")[0]  # behind a point the compiler says what it has made of it
        if kind != "t" or name not in ASKS_FOR_CACHES:
            continue
        begin = int(place[0], 16)
        # The linker writes four bytes from where it is told: those are jumped over.
        skipped = next(
            skipped
            for skipped in (0, *range(2, MOST_SKIPPED))
            if moved.isdisjoint(range(begin + skipped - 3, begin + skipped + len(LARGE)))
        )
        at = sections[".text"].offset + begin
        if skipped:
            if not moved.isdisjoint(range(begin - 3, begin + 2)):
                raise SystemExit(f"{START}: the linker writes where {name} begins")
            data[at : at + 2] = bytes((JUMP, skipped - 2))
        data[at + skipped : at + skipped + len(LARGE)] = LARGE
        found.add(name)
    if found != ASKS_FOR_CACHES:
        raise SystemExit(f"{START} has {sorted(found)} alone: who asks for the processor's caches?")
    with open(path, "wb") as file:
        file.write(data)
    return [START]


def check_objects(step: Step) -> None:
    """Refuse data that would be left out of the snapshot in silence."""
    with open(os.path.join(step.folder, "libpython.a"), "rb") as file:
        objects = dict(elf.members(file.read()))
    for name in INPUTS:
        with open(os.path.join(step.folder, name), "rb") as file:
            objects[name] = file.read()
    wanted = elf.SHF_ALLOC | elf.SHF_WRITE
    for name, data in objects.items():
        for section in elf.Elf(data).sections:
            if (
                section.flags & wanted == wanted
                and section.size
                and section.name not in RENAMED_SECTIONS | NOT_RENAMED
            ):
                raise SystemExit(f"{name}: nobody knows the section {section.name}")


def linked(step: Step) -> set[str]:
    """Return the members of libpython that are in the seed, by the linker's map."""
    with open(os.path.join(step.folder, "map"), encoding="utf-8") as file:
        return set(re.findall(r"^libpython\.a\((\S+)\)", file.read(), re.MULTILINE))


def check_symbols(step: Step) -> None:
    """Refuse calls of the C library that nobody has looked at."""
    members = linked(step)
    undefined: set[str] = set()
    defined: set[str] = set()
    member = ""
    for line in step.run("nm", "--format=posix", *THEIRS, "libpython.a").splitlines():
        words = line.split()
        if line.endswith("]:"):
            member = line.partition("[")[2][:-2]
        elif line.endswith(":"):
            member = ""
        elif len(words) >= 2 and (member == "" or member in members):
            (undefined if words[1] in "Uw" else defined).add(words[0])
    outside = undefined - defined
    with open(f"{HERE}/libc.txt", encoding="utf-8") as file:
        known = {line.strip() for line in file if not line.startswith("#")}
    ours = ("snapshot_", "refused_", "__aarch64_")  # the last are of the compiler
    strange = {name for name in outside - known if not name.startswith(ours)}
    if strange:
        raise SystemExit(
            "Python calls what packaging/snapshot/libc.txt does not know. Does any of it give "
            f"memory that stays, or keep an address? {' '.join(sorted(strange))}"
        )
    for name in step.run("nm", "--format=posix", "-u", "libpython.a").split():
        if name in MEMORY:
            raise SystemExit(f"{name} has not been renamed in libpython")


def link(step: Step, simplejson: str) -> None:
    """Compile and link the seed."""
    renamed = [f"--redefine-sym={name}=snapshot_{name}" for name in MEMORY]
    renamed += [f"--redefine-sym={name}=refused_{name}" for name in REFUSED]
    step.rename(LIBRARY, "libpython.a", *renamed)
    with open(os.path.join(step.folder, "frozen.c"), "w", encoding="utf-8") as file:
        file.write(frozen_source())
    speedups = f"{simplejson}/simplejson/_speedups.c"
    step.compile("frozen.c", "frozen.o", *STRICT)
    step.compile(speedups, "speedups.o", "-w", f"-ffile-prefix-map={simplejson}=simplejson")
    for name in THEIRS:
        step.rename(name, name, *renamed)
    for name in OURS:  # memory.c is the one that calls the C library's malloc
        step.compile(f"{HERE}/{name[:-2]}.c", name, *STRICT)
        step.rename(name, name)
    places = [f"-Wl,--section-start={name}={place:#x}" for name, place in PLACES.items()]
    step.run(
        *("gcc", "-static", "-no-pie", "-o", "seed", *INPUTS, *quick_start(step)),
        *("libpython.a", "-l:libz.a", "-lm"),
        *(*places, "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,max-page-size=65536"),
        *("-Wl,--fatal-warnings", "-Wl,-Map=map"),
    )


CALL = {"CNI_CONTAINERID": "c", "CNI_NETNS": "/x", "CNI_IFNAME": "e", "CNI_PATH": "/"}
# By environment and input: the status, and what the answer must hold.
TRIALS: tuple[tuple[dict[str, str], bytes, int, bytes], ...] = (
    ({"CNI_COMMAND": "VERSION"}, b'{"cniVersion": "1.0.0"}', 0, b'"supportedVersions":["0.1.0"'),
    ({"CNI_COMMAND": "ADD", **CALL}, b'{"name": nothing}', 1, b'"code":6,'),
    ({"CNI_COMMAND": "ADD", **CALL}, b'{"name": "\xff"}', 1, b"not UTF-8"),
    ({"CNI_COMMAND": "DANCE"}, b'{"cniVersion": "1.0.0", "name": "n"}', 1, b'"code":4,'),
    ({"LD_PRELOAD": "/nowhere", "PYTHONHOME": "/nowhere"}, b"", 0, b""),
)


def try_out(path: str) -> None:
    """Refuse an executable that does not answer as it must."""
    for environment, given, status, wanted in TRIALS:
        done = subprocess.run(
            [path], input=given, env=environment, capture_output=True, check=False, timeout=60
        )
        if done.returncode != status or wanted not in done.stdout:
            raise SystemExit(f"{environment}: {done}")


def sow(step: Step, seed: str, *words: str) -> None:
    """Run the seed, which calls the plugin with this folder for all its files."""
    played = os.path.join(step.folder, "played")
    shutil.rmtree(played, ignore_errors=True)
    os.mkdir(played)
    try:
        step.run(seed, "code", *words, env={})
    finally:
        shutil.rmtree(played)


def find_order(step: Step, seed: str) -> None:
    """Have a seed find out what calls write to."""
    with tempfile.TemporaryDirectory(dir=step.folder) as place:
        sow(step, seed, "order", "calls", place)


def main() -> None:
    simplejson, folder = (os.path.abspath(one) for one in sys.argv[1:])
    os.makedirs(folder, exist_ok=True)
    step = Step(folder)
    step.run(
        PYTHON,
        "-I",
        "-S",
        "-B",
        "-X",
        "no_debug_ranges",
        f"{HERE}/collect.py",
        ROOT,
        "code",
        "calls",
    )
    link(step, simplejson)
    check_objects(step)
    check_symbols(step)
    seed = os.path.join(folder, "seed")
    find_order(step, seed)
    dumps = []
    for name, roundabout in (("one", ""), ("other", "./" * 1000)):
        # A longer argument moves all that is on the stack, even where no address is random.
        sow(step, seed, f"{roundabout}{name}", "order")
        with open(os.path.join(folder, name), "rb") as file:
            dumps.append(pack.Dump(file.read()))
    pack.prove_same(*dumps)
    with open(seed, "rb") as file:
        made = pack.pack(file.read(), *dumps)
    pack.prove_nothing_of_here(made, [ROOT, folder, simplejson, socket.gethostname()])
    target = os.path.join(folder, "faasm.new")
    with open(target, "wb") as file:
        file.write(made)
    os.chmod(target, 0o755)
    try_out(target)
    os.replace(target, os.path.join(folder, "faasm"))


if __name__ == "__main__":
    main()
