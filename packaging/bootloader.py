"""Compile PyInstaller's bootloader with a few lines changed, for the tool; used by build.sh.

    bootloader.py FOLDER      FOLDER/run is made

The one in PyInstaller's wheel executes itself a second time, with LD_LIBRARY_PATH set, to
find the bundled libraries: a variable that programs executed by us would inherit. Ours finds
them by an rpath in the executable, which also goes before the caller's LD_LIBRARY_PATH. And it
never takes up the state of another bootloader from the environment.

The C library is one of those, and so the host's does not matter: start.c.

It holds Python itself, as /usr/bin/python3 does: no library to find and map.

The source is PyInstaller's own, at the version and hash in requirements/build.txt.
"""

import glob
import os
import subprocess
import sys
import sysconfig

import sources

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Where Debian has its C library.
FOLDER = f"/lib/{sysconfig.get_config_var('MULTIARCH')}"

# The first two are what we need. The rest is for what the host's name services bring along
# (nsswitch.conf, in the tool alone): of libraries that know each other's inside all must be
# of one kind. What ends a thread loads the last.
LIBRARIES = (
    *("libc.so.6", "libm.so.6"),
    *("libdl.so.2", "libnss_compat.so.2", "libpthread.so.0", "libresolv.so.2", "librt.so.1"),
    *("libutil.so.1", "libgcc_s.so.1"),
)

# Where Debian's relatives and others have what is not in the bundle: modules of name services.
SYSTEM = f"{FOLDER}:/lib64:/usr/lib64"

# For start.c: nothing that takes a C library for granted.
ALONE = (
    *("-O2", "-Wall", "-Wextra", "-Werror", "-fno-pie", "-ffreestanding", "-fno-stack-protector"),
    "-fno-tree-loop-distribute-patterns",
)

# Below bootloader/src; each must be found exactly once.
CHANGES = (
    (
        "pyi_main.c",
        "    reset_environment = false;\n\n    env_var_value =",
        "    reset_environment = true;\n\n    env_var_value =",
    ),
    (
        "pyi_main.c",
        "pyi_utils_set_library_search_path(pyi_ctx->application_home_dir) == -1",
        "false",
    ),
    (
        "pyi_main.c",
        "needs_restart = pyi_ctx->process_level == PYI_PROCESS_LEVEL_PARENT_NEEDS_RESTART;",
        "needs_restart = false;",
    ),
    (
        "pyi_dylib_python.c",
        "dlopen(dll_fullpath, dlopen_flags)",
        "dlopen(NULL /* this executable */, dlopen_flags)",
    ),
    # Nothing is printed for a person's locale: no data of one to find and map, and none of a
    # host's that was made for another C library.
    (
        "pyi_pyconfig.c",
        "    config.configure_locale = 1;\n",
        "    config.configure_locale = 0;\n",
    ),
)


def change(folder: str) -> None:
    for name, old, new in CHANGES:
        path = os.path.join(folder, name)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if text.count(old) != 1:
            raise SystemExit(f"{path}: not the source that CHANGES was written for: {old!r}")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace(old, new))


def python_flags() -> str:
    """Return what makes the linker put Python in: all of it, and for extensions to find."""
    name = sysconfig.get_config_var("LIBRARY")
    library = os.path.join(sysconfig.get_config_var("LIBPL"), name)
    needs = "-l:libexpat.a -l:libz.a -lm"
    hidden = "-Wl,--exclude-libs,libexpat.a:libz.a"
    return f"-no-pie -Wl,-E {hidden} -Wl,--whole-archive {library} -Wl,--no-whole-archive {needs}"


def loader() -> str:
    """Return the file name of the dynamic loader, as ld-linux-x86-64.so.2."""
    (path,) = glob.glob(f"{FOLDER}/ld-linux-*.so.*")
    return os.path.basename(path)


def c_library() -> list[tuple[str, str]]:
    """Return (name, path) of each file of the C library that goes into the bundle.

    Debian's own, of the machine that builds: an executable linked against one C library runs
    with that one or a later one. With its own it runs on hosts that have an older one, too.
    """
    return [(name, os.path.join(FOLDER, name)) for name in (loader(), *LIBRARIES)]


def compile_start(folder: str) -> str:
    """Compile what the kernel starts. Returns: the path of the object."""
    source, target = os.path.join(ROOT, "packaging", "start.c"), os.path.join(folder, "start.o")
    name = f'-DLOADER="{loader()}"'
    subprocess.run(["gcc", *ALONE, name, "-c", "-o", target, source], check=True)
    missing = subprocess.run(["nm", "-u", target], capture_output=True, check=True, text=True)
    if missing.stdout.split() != ["U", "_start"]:
        raise SystemExit(f"start.c calls what is not there yet: {missing.stdout}")
    return target


def main() -> None:
    folder = os.path.abspath(sys.argv[1])
    source = os.path.join(sources.fetch("pyinstaller", folder), "bootloader")
    change(os.path.join(source, "src"))
    # DT_RPATH, not DT_RUNPATH: only that holds for what bundled libraries need in turn.
    flags = f"-Wl,--disable-new-dtags,-rpath,$ORIGIN/_internal:{SYSTEM} {python_flags()}"
    flags += f" {compile_start(folder)} -Wl,--no-dynamic-linker,-e,faasm_start"
    environment = {"PATH": os.environ["PATH"], "LDFLAGS": flags, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "./waf", "configure", "--static-zlib", "build_release"],
        cwd=source,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the bootloader cannot be compiled:\n{done.stdout}")
    os.replace(os.path.join(source, "build", "release", "run"), os.path.join(folder, "run"))


if __name__ == "__main__":
    main()
