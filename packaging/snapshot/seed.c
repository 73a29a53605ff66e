/* The seed: start Python, run seed.py, write all that there is then.
 *
 *   seed CODE OUT ORDER                CODE: collect.py's list of modules; OUT: what pack.py reads
 *   seed CODE ORDER SCRIPT FOLDER      run SCRIPT then, and write what it wrote to: order.c
 *
 * Relies on CPython 3.11: with _init_main = 0 an interpreter needs no files, streams, signal
 * handlers or text encodings; what differs from process to process are _PyRuntime.main_thread and
 * the ids in the thread's state; no other thread is ever made. pack.py proves that it was all.
 */
#define _GNU_SOURCE
#define Py_BUILD_CORE 1
#include "snapshot.h"
#include <internal/pycore_runtime.h>
#include <marshal.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef Py_REF_DEBUG
#error "a release build of Python is wanted"
#endif

PyThreadState *kept_thread;
PyObject *kept_main, *kept_environ, *kept_argv;


/* Of the linker, which has them for every section whose name is a C identifier. */
extern char __start_pydata[], __stop_pydata[], __start_pybss[], __stop_pybss[];
extern char __start_pyruntime[], __stop_pyruntime[];

static void
fail(const char *what)
{
    fprintf(stderr, "seed: %s\n", what);
    if (PyErr_Occurred()) {
        PyObject *type, *value, *trace, *text;
        PyErr_Fetch(&type, &value, &trace);
        PyErr_NormalizeException(&type, &value, &trace);
        text = PyObject_Repr(value);
        fprintf(stderr, "seed: %s\n", text == NULL ? "?" : PyUnicode_AsUTF8(text));
        for (; trace != NULL && trace != Py_None; trace = PyObject_GetAttrString(trace, "tb_next")) {
            PyObject *frame = PyObject_GetAttrString(trace, "tb_frame");
            PyObject *line = PyObject_GetAttrString(trace, "tb_lineno");
            PyObject *where = PyObject_Repr(frame);
            fprintf(stderr, "seed: line %ld, %s\n", PyLong_AsLong(line), PyUnicode_AsUTF8(where));
        }
    }
    _exit(1);
}

static void
check(PyStatus status)
{
    if (PyStatus_Exception(status)) {
        fprintf(stderr, "seed: %s: %s\n", status.func, status.err_msg);
        fail("Python does not start");
    }
}

/* Nothing of the environment, the files or the locale of this machine. */
static void
start_python(void)
{
    PyPreConfig before;
    PyConfig config;
    wchar_t **each;
    wchar_t **empty[] = {
        &config.executable, &config.base_executable, &config.prefix, &config.base_prefix,
        &config.exec_prefix, &config.base_exec_prefix, &config.home, &config.stdlib_dir,
    };
    size_t i;

    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
    before.configure_locale = 0;
    before.coerce_c_locale = 0;
    check(Py_PreInitialize(&before));
    memory_use_recorder();
    PyConfig_InitIsolatedConfig(&config);
    config._init_main = 0;
    config.site_import = 0;
    config.write_bytecode = 0;
    config.optimization_level = 2;
    config.code_debug_ranges = 0;
    config.use_hash_seed = 1;
    config.hash_seed = 0;
    config.install_signal_handlers = 0;
    config.pathconfig_warnings = 0;
    config.module_search_paths_set = 1;
    for (i = 0; i < sizeof empty / sizeof *empty; i++) {
        each = empty[i];
        check(PyConfig_SetString(&config, each, L""));
    }
    check(PyConfig_SetString(&config, &config.program_name, L"faasm"));
    check(PyConfig_SetString(&config, &config.platlibdir, L"lib"));
    check(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);
}

/* Returns: what a file holds, in the C library's memory. */
static char *
read_file(const char *path, size_t *size)
{
    const size_t most = 16UL << 20;
    FILE *file = fopen(path, "rb");
    char *contents = malloc(most);

    if (file == NULL || contents == NULL) {
        fail(path);
    }
    *size = fread(contents, 1, most, file);
    if (*size == 0 || *size == most) {
        fail(path);
    }
    fclose(file);
    return contents;
}

static PyObject *
read_code(const char *path)
{
    size_t size;
    char *code = read_file(path, &size);
    PyObject *modules = PyMarshal_ReadObjectFromString(code, (Py_ssize_t)size);

    if (modules == NULL) {
        fail("not a list of modules");
    }
    free(code);
    return modules;
}

/* collect.py's dictionary is the script's names; it leaves main() of the plugin there. */
static void
run_script(const char *path)
{
    PyObject *names = read_code(path), *bytes, *script, *done;

    bytes = PyDict_GetItemString(names, "");
    if (bytes == NULL || PyDict_SetItemString(names, "__builtins__", PyEval_GetBuiltins()) != 0) {
        fail("no script");
    }
    script = PyMarshal_ReadObjectFromString(PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes));
    if (script == NULL || (done = PyEval_EvalCode(script, names, names)) == NULL) {
        fail("seed.py");
    }
    Py_DECREF(done);
    Py_DECREF(script);
    kept_main = PyDict_GetItemString(names, "main");
    if (kept_main == NULL) {
        fail("seed.py left no main");
    }
    Py_INCREF(kept_main);
    PyDict_Clear(names);
    Py_DECREF(names);
}

static void
tidy(void)
{
    PyObject *posix = PyImport_ImportModule("posix"), *gc = PyImport_ImportModule("gc"), *done;
    const char *steps[] = {"collect", "freeze"};
    size_t i;

    if (posix == NULL || (kept_environ = PyObject_GetAttrString(posix, "environ")) == NULL) {
        fail("no posix.environ");
    }
    Py_DECREF(posix);
    PyDict_Clear(kept_environ);
    kept_argv = PyList_New(0);
    if (kept_argv == NULL || PySys_SetObject("argv", kept_argv) != 0) {
        fail("no sys.argv");
    }
    /* PyGC_Collect does nothing where seed.py has switched it off. */
    for (i = 0; i < sizeof steps / sizeof *steps; i++) {
        done = gc == NULL ? NULL : PyObject_CallMethod(gc, steps[i], NULL);
        if (done == NULL) {
            fail(steps[i]);
        }
        Py_DECREF(done);
    }
    Py_DECREF(gc);
    kept_thread = PyThreadState_Get();
    if (kept_thread->next != NULL || kept_thread->prev != NULL) {
        fail("there is another thread");
    }
    kept_thread->thread_id = 0;
    kept_thread->native_thread_id = 0;
    _PyRuntime.main_thread = 0;
}

/* A part: name, address, size, then what lies there. */
static void
write_part(FILE *out, const char *name, const char *start, size_t size)
{
    char label[16] = "";
    uint64_t numbers[2] = {(uint64_t)(uintptr_t)start, size};

    memcpy(label, name, strlen(name));
    if (fwrite(label, sizeof label, 1, out) != 1 || fwrite(numbers, sizeof numbers, 1, out) != 1 ||
        (size > 0 && fwrite(start, size, 1, out) != 1)) {
        fail("cannot write");
    }
}

/* What is mapped where, and what the C library has chosen: for pack.py's proofs. */
static void
write_surroundings(FILE *out)
{
    size_t size;
    char *maps = read_file("/proc/self/maps", &size);
    extern const char __rela_iplt_start[] __attribute__((weak));
    extern const char __rela_iplt_end[] __attribute__((weak));
    const uint64_t *row = (const uint64_t *)(const void *)__rela_iplt_start;

    write_part(out, "maps", maps, size);
    for (; row < (const uint64_t *)(const void *)__rela_iplt_end; row += 3) {
        write_part(out, "chosen", (const char *)(uintptr_t)row[0], sizeof(uint64_t));
    }
}

static void
write_dump(const char *path)
{
    FILE *out = fopen(path, "wb");

    if (out == NULL) {
        fail("cannot write");
    }
    write_surroundings(out);
    write_part(out, "pydata", __start_pydata, (size_t)(__stop_pydata - __start_pydata));
    write_part(out, "pybss", __start_pybss, (size_t)(__stop_pybss - __start_pybss));
    write_part(out, "pyruntime", __start_pyruntime, (size_t)(__stop_pyruntime - __start_pyruntime));
    write_part(out, "pages", snapshot_pages, memory_pages_used());
    write_part(out, "blocks", snapshot_blocks, memory_blocks_used());
    if (fclose(out) != 0) {
        fail("cannot write");
    }
}

/* path: a marshalled list of marshalled codes. folder: where they may write. */
static void
call_plugin(const char *path, const char *folder)
{
    PyObject *scripts = read_code(path), *script;
    PyObject *names = PyDict_New(), *place = PyUnicode_FromString(folder);
    Py_ssize_t i;

    if (names == NULL || place == NULL ||
        PyDict_SetItemString(names, "__builtins__", PyEval_GetBuiltins()) != 0 ||
        PyDict_SetItemString(names, "FOLDER", place) != 0) {
        fail(path);
    }
    order_watch();
    for (i = 0; i < PyList_GET_SIZE(scripts); i++) {
        script = PyList_GET_ITEM(scripts, i);
        script = PyMarshal_ReadObjectFromString(PyBytes_AS_STRING(script), PyBytes_GET_SIZE(script));
        if (script == NULL || PyEval_EvalCode(script, names, names) == NULL) {
            fail(path);
        }
    }
}

int
seed_main(int argc, char **argv)
{
    if (argc != 4 && argc != 5) {
        fail("seed CODE OUT ORDER, or seed CODE ORDER SCRIPT FOLDER");
    }
    order_begin(argc == 4 ? argv[3] : NULL);
    memory_begin();
    start_python();
    if (namespaces_add() != 0) {
        fail("posix.setns");
    }
    run_script(argv[1]);
    tidy();
    memory_end();
    if (argc == 5) {
        call_plugin(argv[3], argv[4]);
        order_write(argv[2]);
        _exit(0);
    }
    if (memory_blocks_used() == 0) {
        fail("nothing was recorded: malloc has another name");
    }
    write_dump(argv[2]);
    _exit(0); /* none of this is to be taken down */
}
