/* py_http_cookies.c - what a Request says by its Cookie and Authorization fields; they are
 * parsed in Python, in http/cookies.py and http/auth.py.
 */
#include "py_http.h"

/* A method of r.headers with one argument. */
static PyObject *
ask_headers(http_request *r, const char *method, const char *name)
{
    PyObject *headers = PyObject_GetAttrString((PyObject *)r, "headers");
    PyObject *value = headers ? PyObject_CallMethod(headers, method, "s", name) : NULL;
    Py_XDECREF(headers);
    return value;
}

PyObject *
http_request_cookies(http_request *r)
{
    PyObject *cookies = http_lazy(&r->cookies);
    if (cookies != NULL)
        return Py_NewRef(cookies);
    PyObject *lines = ask_headers(r, "get_all", "Cookie");
    if (lines == NULL)
        return NULL;
    cookies = PyObject_CallOneArg(http_hooks.parse_cookies, lines);
    Py_DECREF(lines);
    RT_STORE(r->made, true);
    return http_lazy_set(&r->cookies, cookies);
}

PyObject *
http_request_cookies_named(http_request *r, PyObject *name, bool first)
{
    if (!PyUnicode_Check(name)) {
        PyErr_Format(PyExc_TypeError, "the name of a cookie must be str, not %.200s",
                     Py_TYPE(name)->tp_name);
        return NULL;
    }
    PyObject *cookies = http_request_cookies(r), *found = NULL;
    if (cookies != NULL && !first)
        found = PyList_New(0);
    for (Py_ssize_t i = 0; cookies != NULL && (found || first) && i < PyTuple_GET_SIZE(cookies);
         i++) {
        PyObject *cookie = PyTuple_GET_ITEM(cookies, i);
        PyObject *own = PyObject_GetAttrString(cookie, "name");
        int same = own ? PyObject_RichCompareBool(own, name, Py_EQ) : -1;
        Py_XDECREF(own);
        if (same > 0 && first) {
            found = Py_NewRef(cookie);
            break;
        }
        if (same < 0 || (same > 0 && PyList_Append(found, cookie) < 0)) {
            Py_CLEAR(found);
            break;
        }
    }
    Py_XDECREF(cookies);
    if (found == NULL && !PyErr_Occurred())
        found = Py_NewRef(Py_None);
    return found;
}

PyObject *
http_request_basic_auth(http_request *r)
{
    PyObject *field = ask_headers(r, "get", "Authorization");
    if (field == NULL || field == Py_None)
        return field;
    PyObject *pair = PyObject_CallOneArg(http_hooks.parse_basic, field);
    Py_DECREF(field);
    return pair;
}
