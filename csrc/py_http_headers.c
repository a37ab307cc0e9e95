/* py_http_headers.c - Headers: an ordered, case-insensitive multi-map.
 *
 * One type serves requests and responses.  For a request an entry is a pair of
 * slices of the head; they become str objects when somebody asks.  Names compare
 * without case and are kept as they were given; values are latin-1, as on the wire.
 *
 * Several threads may use one object.  All entries are read and changed under its lock;
 * str objects are made there, but none is dropped: what goes is collected first.
 */
#include "py_http.h"

#include <strings.h>

typedef struct {
    PyObject *name, *value;     /* owned str, or NULL: still a slice */
    const char *n, *v;          /* name and value bytes: of the str or of the block */
    uint32_t nn, nv;
} entry;

typedef struct {
    PyObject_HEAD
    py_lock lock;               /* guards the entries */
    http_block *block;          /* owned, or NULL: where slices point */
    entry *entries;             /* owned array */
    uint32_t len, cap;
    bool trailers;              /* takes only what may be a trailer; never changes */
} Headers;

static bool
name_is(const entry *e, const char *name, size_t n)
{
    return e->nn == n && strncasecmp(e->n, name, n) == 0;
}

/* The bytes of a field name argument; NULL with an exception set. */
static const char *
name_arg(PyObject *name, size_t *n)
{
    if (RT_UNLIKELY(!PyUnicode_Check(name))) {
        PyErr_Format(PyExc_TypeError, "a header name must be str, not %.200s",
                     Py_TYPE(name)->tp_name);
        return NULL;
    }
    if (PyUnicode_READY(name) < 0)
        return NULL;
    *n = (size_t)PyUnicode_GET_LENGTH(name);
    return PyUnicode_IS_ASCII(name) ? PyUnicode_DATA(name) : "";
}

static PyObject *
entry_value(entry *e)
{
    if (e->value == NULL)
        e->value = PyUnicode_DecodeLatin1(e->v, e->nv, NULL);
    return Py_XNewRef(e->value);
}

static PyObject *
entry_name(entry *e)
{
    if (e->name == NULL)
        e->name = PyUnicode_DecodeLatin1(e->n, e->nn, NULL);
    return Py_XNewRef(e->name);
}

static entry *
find(Headers *h, const char *name, size_t n)
{
    for (uint32_t i = 0; i < h->len; i++)
        if (name_is(&h->entries[i], name, n))
            return &h->entries[i];
    return NULL;
}

static int
reserve(Headers *h, uint32_t n)
{
    if (h->cap - h->len >= n)
        return 0;
    uint32_t cap = h->len + n < 8 ? 8 : (h->len + n) * 2;
    entry *entries = PyMem_Realloc(h->entries, cap * sizeof(entry));
    if (entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    h->entries = entries;
    h->cap = cap;
    return 0;
}

static Headers *
headers_alloc(void)
{
    Headers *h = PyObject_New(Headers, core->headers_type);
    if (h != NULL) {
        memset(&h->lock, 0, sizeof(h->lock));
        h->block = NULL;
        h->entries = NULL;
        h->len = h->cap = 0;
        h->trailers = false;
    }
    return h;
}

PyObject *
http_headers_new(void)
{
    return (PyObject *)headers_alloc();
}

PyObject *
http_headers_of_block(http_block *b, const char *base, const rt_http1_field *fields, uint32_t n)
{
    Headers *h = headers_alloc();
    if (h == NULL || reserve(h, n) < 0) {
        Py_XDECREF(h);
        return NULL;
    }
    h->block = http_block_ref(b);
    for (uint32_t i = 0; i < n; i++) {
        const rt_http1_field *f = &fields[i];
        h->entries[i] = (entry){NULL, NULL, base + f->name.off, base + f->value.off,
                                f->name.len, f->value.len};
    }
    h->len = n;
    return (PyObject *)h;
}

PyObject *
http_headers_of_request(http_request *r)
{
    return http_headers_of_block(r->block, r->base, r->fields, r->head.nfields);
}

PyObject *
http_headers_new_trailers(void)
{
    Headers *h = headers_alloc();
    if (h != NULL)
        h->trailers = true;
    return (PyObject *)h;
}

void
http_headers_acquire(PyObject *self)
{
    py_acquire(&((Headers *)self)->lock);
}

void
http_headers_release(PyObject *self)
{
    py_release(&((Headers *)self)->lock);
}

int
http_headers_each(PyObject *self, http_field_fn fn, void *arg)
{
    Headers *h = (Headers *)self;
    for (uint32_t i = 0; i < h->len; i++) {
        entry *e = &h->entries[i];
        int r = fn(arg, e->n, e->nn, e->v, e->nv);
        if (r)
            return r;
    }
    return 0;
}

static void
drop_entry(entry *e)
{
    Py_XDECREF(e->name);
    Py_XDECREF(e->value);
}

static void
headers_dealloc(Headers *h)
{
    PyTypeObject *type = Py_TYPE(h);
    for (uint32_t i = 0; i < h->len; i++)
        drop_entry(&h->entries[i]);
    PyMem_Free(h->entries);
    http_block_unref(h->block);
    PyObject_Free(h);
    Py_DECREF(type);
}

/* ---- changing ---- */

/* Fill e from arguments, checked: nothing that ends a line can get into a head. */
static int
make_entry(entry *e, PyObject *name, PyObject *value)
{
    size_t n;
    const char *bytes = name_arg(name, &n);
    if (bytes == NULL)
        return -1;
    bool ok = n != 0 && PyUnicode_IS_ASCII(name);
    for (size_t i = 0; ok && i < n; i++)
        ok = rt_http1_class[(unsigned char)bytes[i]] & RT_HC_TOKEN;
    if (!ok) {
        PyErr_Format(PyExc_ValueError, "%R is not a valid header name", name);
        return -1;
    }
    PyObject *text = PyUnicode_Check(value) ? Py_NewRef(value)
                     : PyLong_Check(value)  ? PyObject_Str(value)
                                            : NULL;
    if (text == NULL) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_TypeError, "the value of header %R must be str or int, not %.200s",
                         name, Py_TYPE(value)->tp_name);
        return -1;
    }
    if (PyUnicode_READY(text) < 0) {
        Py_DECREF(text);
        return -1;
    }
    ok = PyUnicode_KIND(text) == PyUnicode_1BYTE_KIND;
    const char *v = ok ? PyUnicode_DATA(text) : "";
    size_t nv = ok ? (size_t)PyUnicode_GET_LENGTH(text) : 0;
    for (size_t i = 0; ok && i < nv; i++)
        ok = rt_http1_class[(unsigned char)v[i]] & RT_HC_VALUE;
    if (!ok) {
        PyErr_Format(PyExc_ValueError, "the value of header %R has characters that a header "
                     "cannot carry: %R", name, text);
        Py_DECREF(text);
        return -1;
    }
    *e = (entry){Py_NewRef(name), text, bytes, v, (uint32_t)n, (uint32_t)nv};
    return 0;
}

#define MAX_TAKEN 8

/* Take the entries of that name out, at most MAX_TAKEN; returns how many.  The caller drops
   them after the lock, and calls again if there were that many. */
static uint32_t
take_name(Headers *h, const char *name, size_t n, entry *taken)
{
    uint32_t kept = 0, ntaken = 0;
    for (uint32_t i = 0; i < h->len; i++) {
        if (ntaken < MAX_TAKEN && name_is(&h->entries[i], name, n))
            taken[ntaken++] = h->entries[i];
        else
            h->entries[kept++] = h->entries[i];
    }
    h->len = kept;
    return ntaken;
}

/* True if there were any. */
static bool
remove_name(Headers *h, const char *name, size_t n)
{
    entry taken[MAX_TAKEN];
    uint32_t ntaken;
    bool any = false;
    do {
        py_acquire(&h->lock);
        ntaken = take_name(h, name, n, taken);
        py_release(&h->lock);
        for (uint32_t i = 0; i < ntaken; i++)
            drop_entry(&taken[i]);
        any = any || ntaken != 0;
    } while (ntaken == MAX_TAKEN);
    return any;
}

static int
add_entry(Headers *h, PyObject *name, PyObject *value, bool replace)
{
    entry e, taken[MAX_TAKEN];
    if (make_entry(&e, name, value) < 0)
        return -1;
    if (h->trailers && !rt_http1_trailer_allowed(e.n, e.nn)) {
        PyErr_Format(PyExc_ValueError, "header %R cannot be a trailer (RFC 9110 6.5.1)", name);
        drop_entry(&e);
        return -1;
    }
    uint32_t ntaken = 0;
    int r;
    do {
        py_acquire(&h->lock);
        r = reserve(h, 1);
        if (r == 0 && replace)
            ntaken = take_name(h, e.n, e.nn, taken);
        if (r == 0 && ntaken < MAX_TAKEN)
            h->entries[h->len++] = e;       /* with the last ones, so that none is lost */
        py_release(&h->lock);
        for (uint32_t i = 0; i < ntaken; i++)
            drop_entry(&taken[i]);
    } while (r == 0 && ntaken == MAX_TAKEN);
    if (r < 0)
        drop_entry(&e);
    return r;
}

PyObject *
http_headers_copy(PyObject *fields)
{
    PyObject *items = PyObject_HasAttrString(fields, "items")
                          ? PyObject_CallMethod(fields, "items", NULL) : Py_NewRef(fields);
    PyObject *it = items ? PyObject_GetIter(items) : NULL;
    Headers *h = it ? headers_alloc() : NULL;
    PyObject *item;
    while (h != NULL && (item = PyIter_Next(it)) != NULL) {
        PyObject *pair = PySequence_Tuple(item);
        Py_DECREF(item);
        if (pair != NULL && PyTuple_GET_SIZE(pair) != 2)
            PyErr_SetString(PyExc_ValueError, "header fields must be pairs of name and value");
        else if (pair != NULL)
            add_entry(h, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1), false);
        Py_XDECREF(pair);
        if (PyErr_Occurred())
            break;
    }
    if (PyErr_Occurred())
        Py_CLEAR(h);
    Py_XDECREF(it);
    Py_XDECREF(items);
    return (PyObject *)h;
}

static PyObject *
headers_set(Headers *h, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: set(name, value)");
        return NULL;
    }
    if (add_entry(h, args[0], args[1], true) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
headers_add(Headers *h, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: add(name, value)");
        return NULL;
    }
    if (add_entry(h, args[0], args[1], false) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
headers_delete(Headers *h, PyObject *name)
{
    size_t n;
    const char *bytes = name_arg(name, &n);
    if (bytes == NULL)
        return NULL;
    remove_name(h, bytes, n);
    Py_RETURN_NONE;
}

static int
headers_ass_subscript(Headers *h, PyObject *name, PyObject *value)
{
    if (value != NULL)
        return add_entry(h, name, value, true);
    size_t n;
    const char *bytes = name_arg(name, &n);
    if (bytes == NULL)
        return -1;
    if (remove_name(h, bytes, n))
        return 0;
    PyErr_SetObject(PyExc_KeyError, name);
    return -1;
}

/* ---- looking ---- */

/* The first value of that name (a new reference), or NULL. */
static PyObject *
first_value(Headers *h, const char *name, size_t n, bool *found)
{
    py_acquire(&h->lock);
    entry *e = find(h, name, n);
    PyObject *value = e ? entry_value(e) : NULL;
    py_release(&h->lock);
    *found = e != NULL;
    return value;
}

static PyObject *
headers_get(Headers *h, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 2) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: get(name, default=None)");
        return NULL;
    }
    size_t n;
    bool found;
    const char *bytes = name_arg(args[0], &n);
    if (bytes == NULL)
        return NULL;
    PyObject *value = first_value(h, bytes, n, &found);
    return found ? value : Py_NewRef(nargs == 2 ? args[1] : Py_None);
}

PyObject *
http_headers_first(PyObject *headers, PyObject *name, PyObject *otherwise)
{
    PyObject *args[2] = {name, otherwise};
    return headers_get((Headers *)headers, args, 2);
}

static PyObject *
headers_get_all(Headers *h, PyObject *name)
{
    size_t n;
    const char *bytes = name_arg(name, &n);
    PyObject *list = bytes ? PyList_New(0) : NULL;
    if (list == NULL)
        return NULL;
    int r = 0;
    py_acquire(&h->lock);
    for (uint32_t i = 0; r == 0 && i < h->len; i++) {
        if (!name_is(&h->entries[i], bytes, n))
            continue;
        PyObject *value = entry_value(&h->entries[i]);
        r = value ? PyList_Append(list, value) : -1;
        if (value != NULL)
            Py_DECREF(value);       /* the entry has one, too */
    }
    py_release(&h->lock);
    if (r < 0)
        Py_CLEAR(list);
    return list;
}

static PyObject *
headers_subscript(Headers *h, PyObject *name)
{
    size_t n;
    bool found;
    const char *bytes = name_arg(name, &n);
    if (bytes == NULL)
        return NULL;
    PyObject *value = first_value(h, bytes, n, &found);
    if (!found)
        PyErr_SetObject(PyExc_KeyError, name);
    return value;
}

bool
http_headers_has(PyObject *self, const char *name, size_t n)
{
    Headers *h = (Headers *)self;
    py_acquire(&h->lock);
    bool found = find(h, name, n) != NULL;
    py_release(&h->lock);
    return found;
}

static int
headers_contains(Headers *h, PyObject *name)
{
    size_t n;
    const char *bytes = name_arg(name, &n);
    if (bytes == NULL)
        return -1;
    return http_headers_has((PyObject *)h, bytes, n);
}

int
http_headers_set(PyObject *self, PyObject *name, PyObject *value)
{
    return add_entry((Headers *)self, name, value, true);
}

static inline bool
field_is(const http_request *r, uint32_t i, const char *name, size_t n)
{
    rt_slice own = r->fields[i].name;
    return own.len == n && strncasecmp(r->base + own.off, name, n) == 0;
}

bool
http_request_value(http_request *r, const char *name, size_t n, http_value *value)
{
    Headers *h = (Headers *)http_lazy(&r->headers);
    if (h != NULL) {
        py_acquire(&h->lock);
        entry *e = find(h, name, n);
        if (e != NULL)
            *value = (http_value){e->v, e->nv, Py_XNewRef(e->value)};
        py_release(&h->lock);
        return e != NULL;
    }
    for (uint32_t i = 0; i < r->head.nfields; i++) {
        if (field_is(r, i, name, n)) {
            rt_slice s = r->fields[i].value;
            *value = (http_value){r->base + s.off, s.len, NULL};
            return true;
        }
    }
    return false;
}

PyObject *
http_request_values(http_request *r, PyObject *name)
{
    size_t n;
    const char *bytes = name_arg(name, &n);
    if (bytes == NULL)
        return NULL;
    if (http_lazy(&r->headers) == NULL) {
        const rt_http1_field *found = NULL;
        uint32_t same = 0;
        for (uint32_t i = 0; i < r->head.nfields; i++)
            if (field_is(r, i, bytes, n)) {
                found = &r->fields[i];
                same++;
            }
        if (same == 0)
            Py_RETURN_NONE;
        if (RT_LIKELY(same == 1))
            return PyUnicode_DecodeLatin1(r->base + found->value.off, found->value.len, NULL);
    }
    PyObject *headers = PyObject_GetAttr((PyObject *)r, core->http_names.headers);
    PyObject *list = headers ? headers_get_all((Headers *)headers, name) : NULL;
    PyObject *comma = list ? PyUnicode_FromString(",") : NULL, *joined = NULL;
    if (comma != NULL)
        joined = PyList_GET_SIZE(list) ? PyUnicode_Join(comma, list) : Py_NewRef(Py_None);
    Py_XDECREF(comma);
    Py_XDECREF(list);
    Py_XDECREF(headers);
    return joined;
}

uint32_t
http_headers_count(PyObject *self)
{
    Headers *h = (Headers *)self;
    py_acquire(&h->lock);
    uint32_t n = h->len;
    py_release(&h->lock);
    return n;
}

static Py_ssize_t
headers_len(Headers *h)
{
    return http_headers_count((PyObject *)h);
}

/* A list of what make() makes of each entry, in order.  A collection, where one can come in
   between, may run anything: the list is whole at all times, and make() looks at its
   entry before it makes anything but str objects. */
static PyObject *
list_of(Headers *h, PyObject *(*make)(entry *))
{
    PyObject *list = PyList_New(0);
    if (list == NULL)
        return NULL;
    int r = 0;
    py_acquire(&h->lock);
    for (uint32_t i = 0; r == 0 && i < h->len; i++) {
        PyObject *item = make(&h->entries[i]);
        r = item ? PyList_Append(list, item) : -1;
        Py_XDECREF(item);       /* the list has one, too */
    }
    py_release(&h->lock);
    if (r < 0)
        Py_CLEAR(list);
    return list;
}

static PyObject *
entry_pair(entry *e)
{
    PyObject *name = entry_name(e), *value = entry_value(e);
    PyObject *pair = name && value ? PyTuple_Pack(2, name, value) : NULL;
    Py_XDECREF(name);
    Py_XDECREF(value);
    return pair;
}

static PyObject *
headers_items(Headers *h, PyObject *Py_UNUSED(ignored))
{
    return list_of(h, entry_pair);
}

static PyObject *
headers_iter(Headers *h)
{
    PyObject *list = list_of(h, entry_name);
    PyObject *it = list ? PyObject_GetIter(list) : NULL;
    Py_XDECREF(list);
    return it;
}

static PyObject *
headers_repr(Headers *h)
{
    PyObject *items = headers_items(h, NULL);
    PyObject *repr = items ? PyUnicode_FromFormat("<Headers %R>", items) : NULL;
    Py_XDECREF(items);
    return repr;
}

static PyObject *
headers_tp_new(PyTypeObject *Py_UNUSED(type), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Headers", names))
        return NULL;
    return http_headers_new();
}

static PyMethodDef methods[] = {
    {"get", (PyCFunction)(void (*)(void))headers_get, METH_FASTCALL,
     "get($self, name, default=None, /)\n--\n\nThe first value of that name, or default."},
    {"get_all", (PyCFunction)headers_get_all, METH_O,
     "get_all($self, name, /)\n--\n\nAll values of that name, in order.  Go: Header.Values."},
    {"set", (PyCFunction)(void (*)(void))headers_set, METH_FASTCALL,
     "set($self, name, value, /)\n--\n\n"
     "Make value the only one of that name.\n\n"
     "ValueError where name or value has characters a header cannot carry."},
    {"add", (PyCFunction)(void (*)(void))headers_add, METH_FASTCALL,
     "add($self, name, value, /)\n--\n\nAdd a value, keeping others of that name."},
    {"delete", (PyCFunction)headers_delete, METH_O,
     "delete($self, name, /)\n--\n\nRemove all values of that name.  Go: Header.Del."},
    {"items", (PyCFunction)headers_items, METH_NOARGS,
     "items($self, /)\n--\n\nA list of (name, value), in order."},
    {0},
};
static PyType_Slot slots[] = {
    {Py_tp_new, headers_tp_new},
    {Py_tp_dealloc, headers_dealloc},
    {Py_tp_iter, headers_iter},
    {Py_tp_repr, headers_repr},
    {Py_tp_methods, methods},
    {Py_mp_length, headers_len},
    {Py_mp_subscript, headers_subscript},
    {Py_mp_ass_subscript, headers_ass_subscript},
    {Py_sq_contains, headers_contains},
    {Py_tp_doc,
     "Headers()\n--\n\n"
     "HTTP header fields: an ordered multi-map whose names ignore case.\n\n"
     "    h[\"Content-Type\"] = \"text/plain\"\n"
     "    h.add(\"Set-Cookie\", \"a=1\")\n\n"
     "Go: http.Header."},
    {0, NULL},
};
static PyType_Spec spec = {"runtime.http.Headers", sizeof(Headers), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};

/* For a ResponseWriter that is not this server's. */
static PyObject *
m_new_trailers(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return http_headers_new_trailers();
}

static PyMethodDef functions[] = {
    {"_new_trailers", m_new_trailers, METH_NOARGS, NULL},
    {0},
};

int
http_headers_init(PyObject *module)
{
    if (PyModule_AddFunctions(module, functions) < 0)
        return -1;
    return py_add_type(module, &spec, &core->headers_type, true);
}
