/* py_http_etag.c - entity tags of whole bodies, for the middleware etag(). */
#include "py_core.h"
#include "py_http.h"

#include "rt_xxh64.h"

static PyObject *
make_tag(const void *data, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    uint64_t hash = rt_xxh64(data, n);
    char tag[] = "W/\"0123456789abcdef\"";
    for (int i = 0; i < 16; i++)
        tag[3 + i] = digits[hash >> (60 - 4 * i) & 15];
    return PyUnicode_FromStringAndSize(tag, sizeof(tag) - 1);
}

/* The bytes of a body that is made of them already; NULL: of any other. */
static const void *
plain_bytes(PyObject *body, size_t *n)
{
    if (PyUnicode_CheckExact(body) && PyUnicode_IS_ASCII(body)) {
        *n = (size_t)PyUnicode_GET_LENGTH(body);
        return PyUnicode_1BYTE_DATA(body);
    }
    if (PyBytes_CheckExact(body)) {
        *n = (size_t)PyBytes_GET_SIZE(body);
        return PyBytes_AS_STRING(body);
    }
    return NULL;
}

/* _weak_etag(data): an entity tag of its bytes, of a str those of its UTF-8. */
static PyObject *
m_weak_etag(PyObject *Py_UNUSED(module), PyObject *data)
{
    size_t n;
    const void *bytes = plain_bytes(data, &n);
    if (bytes != NULL)
        return make_tag(bytes, n);
    PyObject *coded = NULL;
    if (PyUnicode_Check(data) && (data = coded = PyUnicode_AsUTF8String(data)) == NULL)
        return NULL;
    Py_buffer view;
    PyObject *tag = NULL;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) == 0) {
        tag = make_tag(view.buf, (size_t)view.len);
        PyBuffer_Release(&view);
    }
    Py_XDECREF(coded);
    return tag;
}

/* Has nobody said anything of the response that matters for a tag, and does the client have none
   of it? */
static bool
is_fresh(http_writer *w, PyObject *headers, http_request *r)
{
    http_value asked;
    if (http_writer_status(w) != 0 || http_headers_has(headers, "ETag", 4)
        || http_headers_has(headers, "Cache-Control", 13))
        return false;
    if (!http_request_value(r, "If-None-Match", 13, &asked))
        return true;
    Py_XDECREF(asked.owner);
    return false;
}

/* _tag_fresh(w, r, body, max_size): what most responses need, in one call: set the ETag of a
   body of at most max_size bytes, where there is nothing else to look at.  False: there is, and
   nothing was done. */
static PyObject *
m_tag_fresh(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4 || !PyLong_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: _tag_fresh(w, r, body, max_size)");
        return NULL;
    }
    size_t n, max = PyLong_AsSize_t(args[3]);
    if (max == (size_t)-1 && PyErr_Occurred())
        return NULL;
    const void *bytes = plain_bytes(args[2], &n);
    if (bytes == NULL || n > max || !Py_IS_TYPE(args[0], core->writer_type)
        || !Py_IS_TYPE(args[1], core->request_type))
        Py_RETURN_FALSE;
    PyObject *headers = PyObject_GetAttr(args[0], core->http_names.headers);
    if (headers == NULL)
        return NULL;
    bool fresh = is_fresh((http_writer *)args[0], headers, (http_request *)args[1]);
    PyObject *tag = fresh ? make_tag(bytes, n) : NULL;
    int err = fresh && (tag == NULL || http_headers_set(headers, core->http_names.etag, tag) < 0);
    Py_XDECREF(tag);
    Py_DECREF(headers);
    return err ? NULL : PyBool_FromLong(fresh);
}

static PyMethodDef functions[] = {
    {"_weak_etag", m_weak_etag, METH_O, NULL},
    {"_tag_fresh", (PyCFunction)(void (*)(void))m_tag_fresh, METH_FASTCALL, NULL},
    {0},
};

int
http_etag_init(PyObject *module)
{
    core->http_names.etag = PyUnicode_InternFromString("ETag");
    return core->http_names.etag ? PyModule_AddFunctions(module, functions) : -1;
}
