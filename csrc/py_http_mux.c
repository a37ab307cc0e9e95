/* py_http_mux.c - what of ServeMux is written in C: from a request to its handler.
 *
 * The server calls Mux.serve_http(), which finds the route by the bytes of the request's
 * head and calls its handler, with no Python code and no Python object in between.  What
 * the lookup leaves to the full rules goes to Mux._serve_slow() in http/mux.py.
 */
#include "py_http_mux.h"

typedef struct {
    PyObject_HEAD
    PyObject *table;            /* owned: a MuxTable, or NULL: one must be built; guarded by
                                   lock */
    py_lock lock;
} Mux;

/* The table (a new reference), or NULL: decoding a path may run the collector, and that
   anything, which may replace it. */
static inline http_mux_table *
table_of(Mux *m)
{
    py_acquire(&m->lock);
    PyObject *table = Py_XNewRef(m->table);
    py_release(&m->lock);
    return (http_mux_table *)table;
}

static RT_COLD PyObject *
serve_slow(Mux *m, PyObject *w, PyObject *r)
{
    return PyObject_CallMethod((PyObject *)m, "_serve_slow", "OO", w, r);
}

/* Give the values to the route's converters.  1, 0: one refuses its text, -1: an exception
   is set. */
static int
convert(http_route *route, PyObject *values)
{
    PyObject *ok = PyObject_CallMethod(route->route, "convert", "O", values);
    int r = ok == NULL ? -1 : ok == Py_True;
    Py_XDECREF(ok);
    return r;
}

/* The owner of the text, a new reference; NULL with an exception set. */
static RT_NOINLINE PyObject *
host_that_was_set(http_request *r, http_bytes *host)
{
    Py_ssize_t n;
    PyObject *owner = http_request_host(r);
    const char *text = owner ? PyUnicode_AsUTF8AndSize(owner, &n) : NULL;
    if (text == NULL || n > INT32_MAX) {
        if (text != NULL)
            PyErr_SetString(PyExc_ValueError, "r.host is too long");
        Py_CLEAR(owner);
    } else
        *host = (http_bytes){text, (uint32_t)n};
    return owner;
}

static PyObject *
serve_request(Mux *m, PyObject *const *args, http_request *r)
{
    rt_slice wild[HTTP_MAX_WILD];
    uint32_t strip = 0;
    http_mux_table *t = table_of(m);
    if (RT_UNLIKELY(t == NULL))
        return serve_slow(m, args[0], args[1]);
    const char *base = r->base;
    const rt_http1_req *head = &r->head;
    http_bytes host = {base + head->host.off, head->host.len};
    PyObject *owner = NULL;
    if (RT_UNLIKELY(RT_LOAD(r->host_set)) && (owner = host_that_was_set(r, &host)) == NULL) {
        Py_DECREF(t);
        return NULL;
    }
    rt_slice path = http_request_path(r);
    http_route *route = http_mux_lookup(
        t, (http_bytes){base + head->method.off, head->method.len}, host,
        (http_bytes){base + path.off, path.len}, wild, &strip);
    Py_DECREF(t);
    Py_XDECREF(owner);
    if (route == NULL)
        return serve_slow(m, args[0], args[1]);
    http_request_matched(r, route, path.off, wild);
    if (RT_UNLIKELY(route->converts)) {
        PyObject *values = http_request_path_values(r);
        int ok = values ? convert(route, values) : -1;
        Py_XDECREF(values);
        if (ok <= 0) {
            Py_DECREF(route);
            return ok < 0 ? NULL : serve_slow(m, args[0], args[1]);
        }
    }
    PyObject *result;
    if (RT_LIKELY(strip == 0))
        result = PyObject_Vectorcall(route->target, args, 2, NULL);
    else {
        http_request_strip(r, (int32_t)strip);
        result = PyObject_Vectorcall(route->target, args, 2, NULL);
        http_request_strip(r, -(int32_t)strip);
    }
    Py_DECREF(route);
    return result;
}

/* Put a str attribute of op into *text (plain ASCII) and *owner (owned).  False: it is none. */
static bool
ascii_attr(PyObject *op, const char *name, http_bytes *text, PyObject **owner)
{
    *owner = PyObject_GetAttrString(op, name);
    if (*owner == NULL) {
        PyErr_Clear();          /* the slow way asks again */
        return false;
    }
    if (!PyUnicode_Check(*owner) || !PyUnicode_IS_ASCII(*owner)
        || PyUnicode_GET_LENGTH(*owner) > INT32_MAX)
        return false;
    *text = (http_bytes){PyUnicode_DATA(*owner), (uint32_t)PyUnicode_GET_LENGTH(*owner)};
    return true;
}

/* The same for an object that only looks like a Request: a wrapper, a test's own. */
static RT_NOINLINE PyObject *
serve_other(Mux *m, PyObject *const *args)
{
    PyObject *w = args[0], *r = args[1], *owner[3] = {NULL, NULL, NULL}, *values = NULL;
    rt_slice wild[HTTP_MAX_WILD];
    uint32_t strip = 0;
    http_route *route = NULL;
    http_bytes method, host, path;
    if (ascii_attr(r, "method", &method, &owner[0]) && ascii_attr(r, "host", &host, &owner[1])
        && ascii_attr(r, "raw_path", &path, &owner[2])) {
        http_mux_table *t = table_of(m);
        if (t != NULL) {
            route = http_mux_lookup(t, method, host, path, wild, &strip);
            Py_DECREF(t);
        }
    }
    int go = 0;                 /* 0: the slow way, 1: call it, -1: an exception is set */
    if (route != NULL && strip == 0) {
        values = http_wild_values(route, wild, path.s);
        go = values == NULL ? -1 : 1;
        if (go > 0 && route->converts)
            go = convert(route, values);
        if (go > 0 && (PyObject_SetAttrString(r, "pattern", route->pattern) < 0
                       || PyObject_SetAttrString(r, "path_values", values) < 0))
            go = -1;
    }
    for (int i = 0; i < 3; i++)
        Py_XDECREF(owner[i]);
    Py_XDECREF(values);
    PyObject *result = go < 0    ? NULL
                       : go == 0 ? serve_slow(m, w, r)
                                 : PyObject_Vectorcall(route->target, args, 2, NULL);
    Py_XDECREF(route);
    return result;
}

static PyObject *
mux_serve_http(Mux *m, PyObject *const *args, Py_ssize_t nargs)
{
    if (RT_UNLIKELY(nargs != 2)) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: serve_http(w, r)");
        return NULL;
    }
    if (RT_LIKELY(Py_IS_TYPE(args[1], core->request_type)))
        return serve_request(m, args, (http_request *)args[1]);
    return serve_other(m, args);
}

static PyObject *
mux_call(Mux *m, PyObject *args, PyObject *kwargs)
{
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: a mux is called with (w, r)");
        return NULL;
    }
    return mux_serve_http(m, ((PyTupleObject *)args)->ob_item, PyTuple_GET_SIZE(args));
}

/* _publish(table): lookups use it from now on; None: one must be built. */
static PyObject *
mux_publish(Mux *m, PyObject *table)
{
    if (table != Py_None && !Py_IS_TYPE(table, core->mux_table_type)) {
        PyErr_SetString(PyExc_TypeError, "_publish() needs a MuxTable or None");
        return NULL;
    }
    PyObject *now = table == Py_None ? NULL : Py_NewRef(table);
    py_acquire(&m->lock);
    PyObject *old = m->table;
    m->table = now;
    py_release(&m->lock);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *
mux_get_table(Mux *m, void *Py_UNUSED(closure))
{
    py_acquire(&m->lock);
    PyObject *table = Py_XNewRef(m->table);
    py_release(&m->lock);
    return table ? table : Py_NewRef(Py_None);
}

static int
mux_traverse(Mux *m, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(m));
    Py_VISIT(m->table);
    return 0;
}

static int
mux_clear(Mux *m)
{
    Py_CLEAR(m->table);
    return 0;
}

static void
mux_dealloc(Mux *m)
{
    PyTypeObject *type = Py_TYPE(m);
    PyObject_GC_UnTrack(m);
    mux_clear(m);
    type->tp_free((PyObject *)m);
    Py_DECREF(type);
}

static PyMethodDef mux_methods[] = {
    {"serve_http", (PyCFunction)(void (*)(void))mux_serve_http, METH_FASTCALL,
     "serve_http($self, w, r, /)\n--\n\n"
     "Call the handler for r and return what it returns; calling the mux is the same.\n\n"
     "Go: ServeMux.ServeHTTP."},
    {"_publish", (PyCFunction)mux_publish, METH_O, NULL},
    {0},
};
static PyGetSetDef mux_getset[] = {
    {"_table", (getter)mux_get_table, NULL, NULL, NULL},
    {0},
};
static PyType_Slot mux_slots[] = {
    {Py_tp_dealloc, mux_dealloc},
    {Py_tp_traverse, mux_traverse},
    {Py_tp_clear, mux_clear},
    {Py_tp_call, mux_call},
    {Py_tp_methods, mux_methods},
    {Py_tp_getset, mux_getset},
    {Py_tp_doc, "What of ServeMux is written in C."},
    {0, NULL},
};
static PyType_Spec mux_spec = {
    "runtime._core.Mux", sizeof(Mux), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    mux_slots};

int
http_mux_init(PyObject *module)
{
    if (http_route_init(module) < 0 || http_mux_table_init(module) < 0)
        return -1;
    return py_add_type(module, &mux_spec, &core->mux_type, true);
}
