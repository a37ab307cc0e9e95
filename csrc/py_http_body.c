/* py_http_body.c - Body: the body of a request, read as it arrives. */
#include "py_http.h"

typedef struct Body {
    PyObject_HEAD
    union {
        http_request *request;  /* owned */
        struct Body *next_free;
    };
} Body;

PyObject *
http_body_new(http_request *r)
{
    http_cache *cache = http_cache_here();
    Body *b;
    if (RT_LIKELY(cache != NULL && (b = cache->bodies) != NULL)) {
        cache->bodies = b->next_free;
        cache->nbodies--;
        _Py_NewReference((PyObject *)b);
    }
    else if ((b = PyObject_GC_New(Body, core->body_type)) == NULL)
        return NULL;
    /* A cycle, which http_request_end() cuts. */
    b->request = (http_request *)Py_NewRef((PyObject *)r);
    PyObject_GC_Track(b);
    return (PyObject *)b;
}

static int
body_traverse(Body *b, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(b));
    Py_VISIT(b->request);
    return 0;
}

static int
body_clear(Body *b)
{
    Py_CLEAR(b->request);
    return 0;
}

static void
body_dealloc(Body *b)
{
    PyTypeObject *type = Py_TYPE(b);
    PyObject_GC_UnTrack(b);
    body_clear(b);
    http_cache *cache = http_cache_here();
    if (RT_LIKELY(cache != NULL && cache->nbodies < HTTP_MAX_FREE_OBJECTS)) {
        b->next_free = cache->bodies;       /* and it keeps its reference to the type */
        cache->bodies = b;
        cache->nbodies++;
        return;
    }
    PyObject_GC_Del(b);
    Py_DECREF(type);
}

/* What is left of the body, as http_body_read() tells; -1 with an exception set. */
static int
body_left(http_request *r, int64_t *left)
{
    bool live = false;
    if (RT_LIKELY(r != NULL)) {         /* NULL: a Body the collector has cleared */
        http_conn *c = r->conn;
        py_acquire(&c->lock);
        live = c->req == r;
        *left = http_body_left(c);
        py_release(&c->lock);
    }
    if (RT_LIKELY(live))
        return 0;
    PyErr_SetString(PyExc_RuntimeError, HTTP_REQUEST_OVER);
    return -1;
}

PyObject *
http_body_read_all(http_request *r)
{
    int64_t left;
    if (body_left(r, &left) < 0)
        return NULL;
    /* What a client announces is not allocated before it comes. */
    Py_ssize_t len = 0, cap = left < 0 ? 16384 : left > 1 << 20 ? 1 << 20 : (Py_ssize_t)left;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, cap);
    while (bytes != NULL && left != 0) {
        if (len == cap) {
            cap *= 2;
            if (left > 0 && cap > len + left)
                cap = (Py_ssize_t)(len + left);
            if (_PyBytes_Resize(&bytes, cap) < 0)
                return NULL;
        }
        Py_ssize_t n = http_body_read(r, PyBytes_AS_STRING(bytes) + len, cap - len, &left);
        if (n < 0)
            Py_CLEAR(bytes);
        else
            len += n;
    }
    if (bytes != NULL && len != cap)
        _PyBytes_Resize(&bytes, len);
    return bytes;
}

static PyObject *
read_some(http_request *r, Py_ssize_t n)
{
    int64_t left;
    if (body_left(r, &left) < 0)
        return NULL;
    if (left >= 0 && n > left)
        n = (Py_ssize_t)left;
    if (n > 1 << 18)
        n = 1 << 18;            /* a read may return less than asked for */
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, n);
    if (bytes == NULL || n == 0)
        return bytes;
    Py_ssize_t got = http_body_read(r, PyBytes_AS_STRING(bytes), n, &left);
    if (got < 0) {
        Py_DECREF(bytes);
        return NULL;
    }
    if (got != n)
        _PyBytes_Resize(&bytes, got);
    return bytes;
}

static PyObject *
body_read(Body *b, PyObject *const *args, Py_ssize_t nargs)
{
    Py_ssize_t n = -1;
    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: read(n=-1)");
        return NULL;
    }
    if (nargs == 1 && args[0] != Py_None && (n = PyLong_AsSsize_t(args[0])) == -1
        && PyErr_Occurred())
        return NULL;
    return n < 0 ? http_body_read_all(b->request) : read_some(b->request, n);
}

static PyObject *
body_next(Body *b)
{
    PyObject *bytes = read_some(b->request, 65536);
    if (bytes != NULL && PyBytes_GET_SIZE(bytes) == 0)
        Py_CLEAR(bytes);        /* StopIteration */
    return bytes;
}

static PyObject *
body_read_into(Body *b, PyObject *buffer)
{
    Py_buffer view;
    int64_t left;
    if (body_left(b->request, &left) < 0
        || PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0)
        return NULL;
    Py_ssize_t n = view.len ? http_body_read(b->request, view.buf, view.len, &left) : 0;
    PyBuffer_Release(&view);
    return n < 0 ? NULL : PyLong_FromSsize_t(n);
}

static PyObject *
body_makefile(PyObject *b, PyObject *args, PyObject *kwargs)
{
    PyObject *module = PyImport_ImportModule("runtime._net.files"), *file = NULL;
    PyObject *make = module ? PyObject_GetAttrString(module, "makefile") : NULL;
    PyObject *all = make ? PyTuple_New(1 + PyTuple_GET_SIZE(args)) : NULL;
    if (all != NULL) {
        PyTuple_SET_ITEM(all, 0, Py_NewRef(b));
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args); i++)
            PyTuple_SET_ITEM(all, i + 1, Py_NewRef(PyTuple_GET_ITEM(args, i)));
        file = PyObject_Call(make, all, kwargs);
    }
    Py_XDECREF(all);
    Py_XDECREF(make);
    Py_XDECREF(module);
    return file;
}

static PyMethodDef body_methods[] = {
    {"read", (PyCFunction)(void (*)(void))body_read, METH_FASTCALL,
     "read($self, n=-1, /)\n--\n\n"
     "Read up to n bytes, as soon as there are some; b\"\" at the end.  Without n: all.\n\n"
     "Raises BodyTooLargeError over the server's max_body_bytes, HTTPError with status\n"
     "400 for malformed chunks, TimeoutError when nothing comes for read_timeout,\n"
     "ConnectionError when the client goes away."},
    {"read_into", (PyCFunction)body_read_into, METH_O,
     "read_into($self, buffer, /)\n--\n\n"
     "Read into a writable buffer, as soon as there is something: how many bytes, 0 at the\n"
     "end.  Raises what read() does."},
    {"makefile", (PyCFunction)(void (*)(void))body_makefile, METH_VARARGS | METH_KEYWORDS,
     "makefile($self, /, *args, **kwargs)\n--\n\n"
     "A file of Python's io that reads the body, with readline() and iteration by lines; its\n"
     "arguments are those of net.Conn.makefile().\n\n"
     "    for row in csv.reader(r.body.makefile(newline=\"\")): ..."},
    {0},
};
static PyType_Slot body_slots[] = {
    {Py_tp_dealloc, body_dealloc},
    {Py_tp_traverse, body_traverse},
    {Py_tp_clear, body_clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, body_next},
    {Py_tp_methods, body_methods},
    {Py_tp_doc, "The body of a request, read as it arrives; iteration gives pieces."},
    {0, NULL},
};
static PyType_Spec body_spec = {
    "runtime.http.Body", sizeof(Body), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION
        | Py_TPFLAGS_IMMUTABLETYPE,
    body_slots};

int
http_body_init(PyObject *module)
{
    return py_add_type(module, &body_spec, &core->body_type, true);
}
