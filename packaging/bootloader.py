"""Compile PyInstaller's bootloader with a few lines changed; used by build.sh.

    bootloader.py FOLDER      FOLDER/run is made

The one in PyInstaller's wheel executes itself a second time, with LD_LIBRARY_PATH set, to
find the bundled libraries: 1.1 ms of every call, a sixth of the start, and a variable that
programs executed by us would inherit. Ours finds them by an rpath in the executable, which
also goes before the caller's LD_LIBRARY_PATH. And it never takes up the state of another
bootloader from the environment.

The C library is one of those, and so the host's does not matter: start.c.

It holds Python itself, as /usr/bin/python3 does, at fixed addresses: no library to find and
map, nothing to relocate, no detour at calls. That is 0.5 ms of every call.

The source is PyInstaller's own, at the version and hash in requirements/build.txt.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Of our own, compiled along.
ADDED = ("agent_client.c", "map_data.c")

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
        "main.c",
        """    /* Store arguments in global context structure. */
    global_pyi_ctx->argc = argc;
    global_pyi_ctx->argv = argv;
""",
        """    extern int faasm_ask_agent(int);
    int status = faasm_ask_agent(argc);
    if (status >= 0) {
        return status;
    }
    extern void faasm_map_data(void);
    faasm_map_data();

    /* Store arguments in global context structure. */
    global_pyi_ctx->argc = argc;
    global_pyi_ctx->argv = argv;
""",
    ),
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
    # The plugin needs neither Python's text streams nor its path-based imports nor its signal
    # handlers. Without them the interpreter is up 1.4 ms sooner. Instead of handlers: a verb
    # that has begun is not stopped in the middle by who wants it to end, and a runtime that
    # does not listen any more is an error to undo for, not a death. Two X options mark the
    # plugin.
    (
        "pyi_pyconfig_pep587.c",
        "/*\n * Set run-time options.\n */\nint\npyi_pyconfig_pep587_set_runtime_options(",
        """#include <signal.h>

int pyi_is_agent(void);

static int
_is_plugin(const struct PyiRuntimeOptions *runtime_options)
{
    sigset_t ending;
    if (runtime_options->num_xflags != 2) {
        return 0;
    }
    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    sigaddset(&ending, SIGINT);
    if (!pyi_is_agent()) { /* its workers do, during a call */
        sigprocmask(SIG_BLOCK, &ending, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
    return 1;
}

/*
 * Set run-time options.
 */
int
pyi_pyconfig_pep587_set_runtime_options(""",
    ),
    (
        "pyi_pyconfig_pep587.c",
        "        config_impl->install_signal_handlers = 1; \\\n",
        """        config_impl->install_signal_handlers = 1; \\
        config_impl->_init_main = !_is_plugin(runtime_options); \\
""",
    ),
    # Python gained posix.setns and posix.unshare in 3.12. Loading _ctypes to call the C
    # library's costs 0.35 ms of every call. Python's functions are looked up, not linked:
    # like the rest of the bootloader, this is compiled without Python's headers.
    (
        "pyi_launch.c",
        "/*\n * Run scripts\n * Return non zero on failure\n */\n",
        """#include <dlfcn.h>
#include <signal.h>
#include <sys/prctl.h>

int
pyi_is_agent(void)
{
    return global_pyi_ctx->argc == 2 && strcmp(global_pyi_ctx->argv[1], "--agent") == 0;
}

extern int setns(int, int); /* glibc shows them only with _GNU_SOURCE */
extern int unshare(int);

typedef struct {
    const char *name;
    PyObject *(*function)(PyObject *, PyObject *);
    int flags;
    const char *doc;
} MethodDef; /* struct PyMethodDef, part of the stable ABI */

static void *
_python_symbol(const char *name)
{
    return dlsym(NULL /* RTLD_DEFAULT */, name);
}

static PyObject *
_python_answer(int status)
{
    if (status != 0) {
        PyObject *(*set_error)(PyObject *) = _python_symbol("PyErr_SetFromErrno");
        PyObject **os_error = _python_symbol("PyExc_OSError");
        return set_error(*os_error);
    }
    PyObject *(*build)(const char *, ...) = _python_symbol("Py_BuildValue");
    return build("");
}

static PyObject *
_python_setns(PyObject *self, PyObject *arguments)
{
    int (*parse)(PyObject *, const char *, ...) = _python_symbol("PyArg_ParseTuple");
    int descriptor, kind = 0;
    if (!parse(arguments, "i|i:setns", &descriptor, &kind)) {
        return NULL;
    }
    return _python_answer(setns(descriptor, kind));
}

static PyObject *
_python_unshare(PyObject *self, PyObject *arguments)
{
    int (*parse)(PyObject *, const char *, ...) = _python_symbol("PyArg_ParseTuple");
    int kinds;
    if (!parse(arguments, "i:unshare", &kinds)) {
        return NULL;
    }
    return _python_answer(unshare(kinds));
}

static PyObject *
_python_hold_ending(PyObject *self, PyObject *arguments)
{
    int (*parse)(PyObject *, const char *, ...) = _python_symbol("PyArg_ParseTuple");
    int held;
    sigset_t ending;
    if (!parse(arguments, "i:hold_ending", &held)) {
        return NULL;
    }
    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    sigaddset(&ending, SIGINT);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    return _python_answer(sigprocmask(held ? SIG_BLOCK : SIG_UNBLOCK, &ending, NULL));
}

static MethodDef _python_methods[] = {
    {"setns", _python_setns, 1 /* METH_VARARGS */, NULL},
    {"unshare", _python_unshare, 1 /* METH_VARARGS */, NULL},
    {"hold_ending", _python_hold_ending, 1, NULL}, /* agents alone */
};

static void
_add_python_methods(const struct DYLIB_PYTHON *dylib_python)
{
    PyObject *(*new_function)(MethodDef *, PyObject *, PyObject *) =
        _python_symbol("PyCFunction_NewEx");
    PyObject *module = dylib_python->PyImport_ImportModule("posix");
    size_t i;
    size_t count = sizeof(_python_methods) / sizeof(MethodDef) - (pyi_is_agent() ? 0 : 1);
    for (i = 0; module != NULL && i < count; i++) {
        PyObject *function = new_function(&_python_methods[i], NULL, NULL);
        dylib_python->PyObject_SetAttrString(
            module, (char *)_python_methods[i].name, function);
    }
}

/*
 * Run scripts
 * Return non zero on failure
 */
""",
    ),
    (
        "pyi_launch.c",
        "    /* Iterate through toc looking for scripts (type 's') */\n",
        """    _add_python_methods(dylib_python);

    /* Iterate through toc looking for scripts (type 's') */
""",
    ),
)


def download(folder: str) -> str:
    """Fetch PyInstaller's source by pip. Returns: the path of the archive."""
    with open(os.path.join(ROOT, "requirements", "build.txt"), encoding="utf-8") as file:
        pinned = re.search(r"^pyinstaller==(?:.*\\\n)*.*\n", file.read(), re.MULTILINE)
    if pinned is None:
        raise SystemExit("requirements/build.txt does not name pyinstaller")
    requirement = os.path.join(folder, "pyinstaller.txt")
    with open(requirement, "w", encoding="utf-8") as file:
        file.write(pinned[0])
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-binary=:all:", "--no-build-isolation", "--require-hashes"),
            *("--dest", folder, "--requirement", requirement),
        ],
        check=True,
        # Some versions of pip compile it all to learn the metadata; that needs no zlib then.
        env={**os.environ, "PYI_STATIC_ZLIB": "1"},
    )
    (archive,) = (name for name in os.listdir(folder) if name.endswith(".tar.gz"))
    return os.path.join(folder, archive)


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
    archive = download(folder)
    with tarfile.open(archive) as tar:
        tar.extractall(folder)  # noqa: S202 -- its hash was checked
    source = os.path.join(archive.removesuffix(".tar.gz"), "bootloader")
    change(os.path.join(source, "src"))
    for name in ADDED:
        shutil.copy(os.path.join(ROOT, "packaging", name), os.path.join(source, "src"))
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
