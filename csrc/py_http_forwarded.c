/* py_http_forwarded.c - what proxies say of a request, for the middleware real_address(). */
#include "py_core.h"
#include "py_http.h"

#define NAMES 3

/* "host:port" without the port; what has none, such as "@", as it is. */
static PyObject *
host_of(PyObject *addr)
{
    Py_ssize_t n = PyUnicode_GET_LENGTH(addr);
    Py_ssize_t colon = PyUnicode_FindChar(addr, ':', 0, n, -1);
    return colon > 0 ? PyUnicode_Substring(addr, 0, colon) : Py_NewRef(addr);
}

/* _forwarding(r, name, name, name): None if r has none of these header fields; a name may be None.
   Else r.remote_addr, the same without the port, and the value of each field or None, those of
   several lines joined by ",". */
static PyObject *
m_forwarding(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 1 + NAMES) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: _forwarding(r, name, name, name)");
        return NULL;
    }
    if (http_request_check(args[0], "real_address()") < 0)
        return NULL;
    http_request *r = (http_request *)args[0];
    PyObject *parts[2 + NAMES] = {NULL}, *found = NULL;
    bool any = false;
    for (int i = 0; i < NAMES; i++) {
        PyObject *name = args[1 + i];
        PyObject *value = name == Py_None ? Py_NewRef(name) : http_request_values(r, name);
        if (value == NULL)
            goto out;
        parts[2 + i] = value;
        any |= value != Py_None;
    }
    if (!any)
        found = Py_NewRef(Py_None);
    else if ((parts[0] = http_request_remote_addr(r)) != NULL
             && (parts[1] = host_of(parts[0])) != NULL
             && (found = PyTuple_New(RT_ARRAY_LEN(parts))) != NULL)
        for (size_t i = 0; i < RT_ARRAY_LEN(parts); i++)
            PyTuple_SET_ITEM(found, (Py_ssize_t)i, Py_NewRef(parts[i]));
out:
    for (size_t i = 0; i < RT_ARRAY_LEN(parts); i++)
        Py_XDECREF(parts[i]);
    return found;
}

static PyMethodDef functions[] = {
    {"_forwarding", (PyCFunction)(void (*)(void))m_forwarding, METH_FASTCALL, NULL},
    {0},
};

int
http_forwarded_init(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
