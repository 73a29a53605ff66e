/* posix.setns and posix.unshare, which Python has since 3.12; cni_faasm/link/netns.py asks for them.
 *
 * Relies on CPython 3.11: functions made by PyCFunction_NewEx are as good as a module's own.
 */
#define _GNU_SOURCE
#include "snapshot.h"

#include <sched.h>

static PyObject *
answer(int status)
{
    if (status != 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *
posix_setns(PyObject *self, PyObject *arguments)
{
    int descriptor, kind = 0;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "i|i:setns", &descriptor, &kind)) {
        return NULL;
    }
    return answer(setns(descriptor, kind));
}

static PyObject *
posix_unshare(PyObject *self, PyObject *arguments)
{
    int kinds;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "i:unshare", &kinds)) {
        return NULL;
    }
    return answer(unshare(kinds));
}

static PyMethodDef methods[] = {
    {"setns", posix_setns, METH_VARARGS, NULL},
    {"unshare", posix_unshare, METH_VARARGS, NULL},
};

/* Returns: 0, or -1 with an exception set. */
int
namespaces_add(void)
{
    PyObject *module = PyImport_ImportModule("posix");
    int status = module == NULL ? -1 : 0;
    size_t i;

    for (i = 0; status == 0 && i < sizeof methods / sizeof *methods; i++) {
        PyObject *function = PyCFunction_NewEx(&methods[i], NULL, NULL);
        status = function == NULL ? -1 : PyObject_SetAttrString(module, methods[i].ml_name, function);
        Py_XDECREF(function);
    }
    Py_XDECREF(module);
    return status;
}
