/* _faasm_attributes.parse_attrs and .split: what cni_faasm/netlink/wire.py does in Python, in C.
 *
 * A CHECK takes apart four hundred attributes, which was a quarter of all that it executed. Whatever
 * is wrong is told as there; tests/unit/netlink/test_wire_in_c.py holds the two against each other.
 *
 * Relies on CPython 3.11: METH_FASTCALL, and that a module of the table in modules.c is made once.
 */
#include "snapshot.h"

#include <string.h>

#define ATTRIBUTE_HEAD 4
#define TYPE_MASK 0x3fff /* NLA_TYPE_MASK */
#define MESSAGE_HEAD 16
#define ALIGNED(length) (((length) + 3) & ~(Py_ssize_t)3)

static uint16_t
number16(const char *place)
{
    uint16_t number;
    memcpy(&number, place, sizeof number);
    return number;
}

static uint32_t
number32(const char *place)
{
    uint32_t number;
    memcpy(&number, place, sizeof number);
    return number;
}

/* Raises what wire.malformed() returns. Returns: NULL. */
static PyObject *
malformed(const char *what)
{
    PyObject *wire = PyImport_ImportModule("cni_faasm.netlink.wire");
    PyObject *error = wire == NULL ? NULL : PyObject_CallMethod(wire, "malformed", "s", what);

    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    }
    Py_XDECREF(error);
    Py_XDECREF(wire);
    return NULL;
}

/* Returns: 1, or 0 with an exception set when an argument is no number. None is what it was. */
static int
read_place(PyObject *argument, Py_ssize_t *place)
{
    if (argument == Py_None) {
        return 1;
    }
    *place = PyLong_AsSsize_t(argument);
    return *place != -1 || !PyErr_Occurred();
}

static PyObject *
parse_attrs(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    Py_ssize_t start = 0, end;
    const char *data;
    PyObject *found;

    (void)self;
    if (count < 1 || count > 3 || !PyBytes_CheckExact(arguments[0])) {
        PyErr_SetString(PyExc_TypeError, "parse_attrs(data: bytes, start, end)");
        return NULL;
    }
    data = PyBytes_AS_STRING(arguments[0]);
    end = PyBytes_GET_SIZE(arguments[0]);
    if ((count > 1 && !read_place(arguments[1], &start)) ||
        (count > 2 && !read_place(arguments[2], &end))) {
        return NULL;
    }
    if (start < 0 || end > PyBytes_GET_SIZE(arguments[0])) {
        return malformed("attribute");
    }
    found = PyDict_New();
    while (found != NULL && end - start >= ATTRIBUTE_HEAD) {
        Py_ssize_t length = number16(data + start);
        PyObject *kind, *payload;
        int status = -1;

        if (length < ATTRIBUTE_HEAD || length > end - start) {
            Py_DECREF(found);
            return malformed("attribute");
        }
        kind = PyLong_FromLong(number16(data + start + 2) & TYPE_MASK);
        payload = PyBytes_FromStringAndSize(data + start + ATTRIBUTE_HEAD, length - ATTRIBUTE_HEAD);
        if (kind != NULL && payload != NULL) {
            status = PyDict_SetItem(found, kind, payload);
        }
        Py_XDECREF(kind);
        Py_XDECREF(payload);
        if (status != 0) {
            Py_CLEAR(found);
        }
        start = ALIGNED(start + length); /* what is before the first one is aligned, too */
    }
    return found;
}

static PyObject *
split(PyObject *self, PyObject *data)
{
    Py_ssize_t start = 0, end;
    PyObject *messages;

    (void)self;
    if (!PyBytes_CheckExact(data)) {
        PyErr_SetString(PyExc_TypeError, "split(data: bytes)");
        return NULL;
    }
    end = PyBytes_GET_SIZE(data);
    messages = PyList_New(0);
    while (messages != NULL && start < end) {
        const char *head = PyBytes_AS_STRING(data) + start;
        Py_ssize_t length = end - start < MESSAGE_HEAD ? 0 : (Py_ssize_t)number32(head);
        PyObject *message;

        if (length < MESSAGE_HEAD || length > end - start) {
            Py_DECREF(messages);
            return malformed(end - start < MESSAGE_HEAD ? "message header" : "message length");
        }
        message = Py_BuildValue("HHIIy#", number16(head + 4), number16(head + 6), number32(head + 8),
                                number32(head + 12), head + MESSAGE_HEAD, length - MESSAGE_HEAD);
        if (message == NULL || PyList_Append(messages, message) != 0) {
            Py_CLEAR(messages);
        }
        Py_XDECREF(message);
        start += ALIGNED(length);
    }
    return messages;
}

static PyMethodDef methods[] = {
    {"parse_attrs", (PyCFunction)(void (*)(void))parse_attrs, METH_FASTCALL, NULL},
    {"split", split, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_faasm_attributes", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__faasm_attributes(void);

PyMODINIT_FUNC
PyInit__faasm_attributes(void)
{
    return PyModule_Create(&definition);
}
