/* py_http_request.c - Request and Body.
 *
 * A Request is slices of the head until somebody asks: each attribute becomes a
 * Python object on first use and is kept.  Head and slices stay valid as long as
 * the Request lives, also after the handler has returned; the body does not.
 */
#include "py_http.h"

#include <arpa/inet.h>
#include <net/if.h>

static PyObject *
slice_str(http_request *r, rt_slice s)
{
    return PyUnicode_DecodeLatin1(r->base + s.off, s.len, NULL);
}

static http_request *
alloc_slow(void)
{
#if PY_VERSION_HEX < 0x030C0000
    /* No collection here: finalizers could run, and even park, while the shard's
       scratch fields are in use. */
    int gc = PyGC_Disable();
#endif
    http_request *r = PyObject_GC_New(http_request, core->request_type);
#if PY_VERSION_HEX < 0x030C0000
    if (gc)
        PyGC_Enable();
#endif
    if (r != NULL)
        memset((char *)r + sizeof(PyObject), 0, sizeof(*r) - sizeof(PyObject));
    return r;
}

http_request *
http_request_new(http_conn *c, const rt_http1_req *head)
{
    http_cache *cache = http_cache_here();
    http_request *r;
    if (RT_LIKELY(cache != NULL && (r = cache->requests) != NULL)) {
        cache->requests = r->next_free;
        cache->nrequests--;
        _Py_NewReference((PyObject *)r);
    }
    else {
        r = alloc_slow();
        if (r == NULL)
            return NULL;
    }
    r->head = *head;
    r->fields = r->inline_fields;
    r->conn = c;
    http_count(&c->refs, 1);
    r->block = http_block_ref(c->in);
    if (RT_UNLIKELY(head->nfields > RT_ARRAY_LEN(r->inline_fields))) {
        r->fields = PyMem_Malloc(head->nfields * sizeof(rt_http1_field));
        if (r->fields == NULL) {
            r->fields = r->inline_fields;
            Py_DECREF(r);
            PyErr_NoMemory();
            return NULL;
        }
    }
    memcpy(r->fields, head->fields, head->nfields * sizeof(*r->fields));
    r->head.fields = r->fields;
    r->base = c->in->data + c->in_pos;
    return r;
}

bool
http_request_end(http_conn *c)
{
    http_request *r = c->req;
    py_acquire(&c->lock);
    c->req = NULL;
    bool busy = c->reading || c->sending;
    PyObject *body = r->body;       /* it refers back to r */
    r->body = NULL;
    PyObject *context = r->context;
    py_release(&c->lock);
    Py_XDECREF(body);
    if (RT_UNLIKELY(context != NULL))
        http_context_end(context);
    if (RT_UNLIKELY(Py_REFCNT(r) != 1)) {
        r->tracked = true;
        PyObject_GC_Track(r);
    }
    Py_DECREF(r);
    return busy;
}

static int
request_clear(http_request *r)
{
    if (!RT_LOAD(r->made))
        return 0;
    RT_STORE(r->made, false);
    Py_CLEAR(r->method);
    Py_CLEAR(r->path);
    Py_CLEAR(r->raw_path);
    Py_CLEAR(r->raw_query);
    Py_CLEAR(r->query);
    Py_CLEAR(r->host);
    Py_CLEAR(r->headers);
    Py_CLEAR(r->remote_addr);
    Py_CLEAR(r->body);
    Py_CLEAR(r->path_values);
    Py_CLEAR(r->pattern);
    Py_CLEAR(r->form);
    Py_CLEAR(r->context);
    Py_CLEAR(r->origin);
    return 0;
}

static int
request_traverse(http_request *r, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(r));
    Py_VISIT(r->query);
    Py_VISIT(r->headers);
    Py_VISIT(r->body);
    Py_VISIT(r->path_values);
    Py_VISIT(r->form);
    Py_VISIT(r->context);
    Py_VISIT(r->origin);
    return 0;
}

static void
request_dealloc(http_request *r)
{
    PyTypeObject *type = Py_TYPE(r);
    if (RT_UNLIKELY(r->tracked)) {
        PyObject_GC_UnTrack(r);
        r->tracked = false;
    }
    request_clear(r);
    if (r->fields != r->inline_fields)
        PyMem_Free(r->fields);
    http_block_unref(r->block);
    http_conn_unref(r->conn);
    http_cache *cache = http_cache_here();
    if (RT_LIKELY(cache != NULL && cache->nrequests < HTTP_MAX_FREE_OBJECTS)) {
        r->next_free = cache->requests;     /* and it keeps its reference to the type */
        cache->requests = r;
        cache->nrequests++;
        return;
    }
    PyObject_GC_Del(r);
    Py_DECREF(type);
}

/* ---- attributes ---- */

/* http_lazy_set() for one of r's slots. */
static inline PyObject *
keep(http_request *r, PyObject **slot, PyObject *value)
{
    RT_STORE(r->made, true);
    return http_lazy_set(slot, value);
}

static PyObject *
get_method(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *method = http_lazy(&r->method);
    if (method != NULL)
        return Py_NewRef(method);
    method = slice_str(r, r->head.method);
    if (method != NULL)
        PyUnicode_InternInPlace(&method);
    return keep(r, &r->method, method);
}

static PyObject *
get_raw_path(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *path = http_lazy(&r->raw_path);
    if (path != NULL)
        return Py_NewRef(path);
    bool root = r->head.path.len == 0 && r->head.method_id != RT_HM_CONNECT;
    return keep(r, &r->raw_path,
                         root ? PyUnicode_FromString("/") : slice_str(r, r->head.path));
}

static int
hex_digit(char ch)
{
    return ch >= '0' && ch <= '9'   ? ch - '0'
           : ch >= 'a' && ch <= 'f' ? ch - 'a' + 10
           : ch >= 'A' && ch <= 'F' ? ch - 'A' + 10
                                    : -1;
}

/* Percent-decode; what is no valid escape stays, what is no UTF-8 becomes U+FFFD. */
static PyObject *
unescape(const char *s, uint32_t n)
{
    char *buf = PyMem_Malloc(n);
    if (buf == NULL)
        return PyErr_NoMemory();
    uint32_t len = 0;
    for (uint32_t i = 0; i < n; i++) {
        int hi, lo;
        if (s[i] == '%' && i + 2 < n && (hi = hex_digit(s[i + 1])) >= 0
            && (lo = hex_digit(s[i + 2])) >= 0) {
            buf[len++] = (char)(hi << 4 | lo);
            i += 2;
        }
        else
            buf[len++] = s[i];
    }
    PyObject *text = PyUnicode_DecodeUTF8(buf, len, "replace");
    PyMem_Free(buf);
    return text;
}

static PyObject *
get_path(http_request *r, void *closure)
{
    PyObject *path = http_lazy(&r->path);
    if (path != NULL)
        return Py_NewRef(path);
    const char *s = r->base + r->head.path.off;
    bool plain = memchr(s, '%', r->head.path.len) == NULL;
    return keep(r, &r->path, plain ? get_raw_path(r, closure)
                                         : unescape(s, r->head.path.len));
}

static PyObject *
get_raw_query(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *query = http_lazy(&r->raw_query);
    return query ? Py_NewRef(query) : keep(r, &r->raw_query, slice_str(r, r->head.query));
}

static PyObject *
get_query(http_request *r, void *closure)
{
    PyObject *query = http_lazy(&r->query);
    if (query != NULL)
        return Py_NewRef(query);
    PyObject *raw = get_raw_query(r, closure);
    if (raw == NULL)
        return NULL;
    query = PyObject_CallOneArg(http_hooks.parse_query, raw);
    Py_DECREF(raw);
    return keep(r, &r->query, query);
}

static PyObject *
get_target(http_request *r, void *Py_UNUSED(closure))
{
    return slice_str(r, r->head.target);
}

static PyObject *
get_host(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *host = http_lazy(&r->host);
    return host ? Py_NewRef(host) : keep(r, &r->host, slice_str(r, r->head.host));
}

static PyObject *
get_headers(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *headers = http_lazy(&r->headers);
    return headers ? Py_NewRef(headers) : keep(r, &r->headers, http_headers_of_request(r));
}

static PyObject *
get_proto(http_request *r, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(r->head.minor ? "HTTP/1.1" : "HTTP/1.0");
}

static PyObject *
get_content_length(http_request *r, void *Py_UNUSED(closure))
{
    int64_t n = r->head.content_length;
    return PyLong_FromLongLong(n < 0 && !r->head.chunked ? 0 : n);
}

PyObject *
http_conn_addr(const http_conn *c)
{
    char ip[INET6_ADDRSTRLEN];
    if (c->peer.family != AF_INET && c->peer.family != AF_INET6)
        return PyUnicode_FromString("@");       /* as Go for unix sockets */
    if (inet_ntop(c->peer.family, c->peer.ip, ip, sizeof(ip)) == NULL)
        return PyErr_SetFromErrno(PyExc_OSError);
    if (c->peer.family == AF_INET)
        return PyUnicode_FromFormat("%s:%d", ip, (int)c->peer.port);
    if (c->peer.scope != 0)
        return PyUnicode_FromFormat("[%s%%%u]:%d", ip, c->peer.scope, (int)c->peer.port);
    return PyUnicode_FromFormat("[%s]:%d", ip, (int)c->peer.port);
}

static PyObject *
get_remote_addr(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *addr = http_lazy(&r->remote_addr);
    return addr ? Py_NewRef(addr) : keep(r, &r->remote_addr, http_conn_addr(r->conn));
}

/* Of the attributes that can be set again: the object there (a new reference), or NULL. */
static PyObject *
load_locked(http_request *r, PyObject **slot)
{
    py_acquire(&r->conn->lock);
    PyObject *value = Py_XNewRef(*slot);
    py_release(&r->conn->lock);
    return value;
}

/* Set it to value (stolen). */
static void
store_locked(http_request *r, PyObject **slot, PyObject *value)
{
    py_acquire(&r->conn->lock);
    PyObject *old = *slot;
    *slot = value;
    RT_STORE(r->made, true);
    py_release(&r->conn->lock);
    Py_XDECREF(old);
}

/* Fill it with value (stolen) unless it is filled now; a new reference to what is there. */
static PyObject *
fill_locked(http_request *r, PyObject **slot, PyObject *value)
{
    PyObject *drop = value;
    py_acquire(&r->conn->lock);
    if (*slot == NULL) {
        *slot = value;
        RT_STORE(r->made, true);
        drop = NULL;
    }
    value = Py_XNewRef(*slot);
    py_release(&r->conn->lock);
    Py_XDECREF(drop);
    return value;
}

static PyObject *
get_pattern(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *pattern = load_locked(r, &r->pattern);
    return pattern ? pattern : PyUnicode_FromString("");
}

static int
set_pattern(http_request *r, PyObject *value, void *Py_UNUSED(closure))
{
    store_locked(r, &r->pattern, Py_XNewRef(value));
    return 0;
}

static PyObject *
get_path_values(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *values = load_locked(r, &r->path_values);
    return values ? values : fill_locked(r, &r->path_values, PyDict_New());
}

static int
set_path_values(http_request *r, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || !PyDict_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "path_values must be a dict");
        return -1;
    }
    store_locked(r, &r->path_values, Py_NewRef(value));
    return 0;
}

static PyObject *
request_path_value(http_request *r, PyObject *name)
{
    PyObject *values = load_locked(r, &r->path_values), *value = NULL;
    if (values != NULL && py_dict_get(values, name, &value) < 0) {
        Py_DECREF(values);
        return NULL;
    }
    Py_XDECREF(values);
    return value ? value : PyUnicode_FromString("");
}

static PyObject *
request_repr(http_request *r)
{
    PyObject *method = get_method(r, NULL), *target = get_target(r, NULL);
    PyObject *repr = method && target
                         ? PyUnicode_FromFormat("<Request %U %U>", method, target) : NULL;
    Py_XDECREF(method);
    Py_XDECREF(target);
    return repr;
}

/* ---- the body ---- */

typedef struct Body {
    PyObject_HEAD
    union {
        http_request *request;  /* owned */
        struct Body *next_free;
    };
} Body;

static PyObject *
get_body(http_request *r, void *Py_UNUSED(closure))
{
    r = http_request_root(r);
    PyObject *body = load_locked(r, &r->body);
    if (body != NULL)
        return body;
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
    return fill_locked(r, &r->body, (PyObject *)b);
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

/* Everything that is left. */
static PyObject *
read_all(http_request *r)
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
    return n < 0 ? read_all(b->request) : read_some(b->request, n);
}

static PyObject *
body_next(Body *b)
{
    PyObject *bytes = read_some(b->request, 65536);
    if (bytes != NULL && PyBytes_GET_SIZE(bytes) == 0)
        Py_CLEAR(bytes);        /* StopIteration */
    return bytes;
}

static PyMethodDef body_methods[] = {
    {"read", (PyCFunction)(void (*)(void))body_read, METH_FASTCALL,
     "read($self, n=-1, /)\n--\n\n"
     "Read up to n bytes, as soon as there are some; b\"\" at the end.  Without n: all.\n\n"
     "Raises BodyTooLargeError over the server's max_body_bytes, HTTPError with status\n"
     "400 for malformed chunks, TimeoutError when nothing comes for read_timeout,\n"
     "ConnectionError when the client goes away."},
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

static PyObject *
request_json(http_request *r, PyObject *Py_UNUSED(ignored))
{
    PyObject *bytes = read_all(http_request_root(r));
    if (bytes == NULL)
        return NULL;
    PyObject *value = PyObject_CallOneArg(http_hooks.load_json, bytes);
    Py_DECREF(bytes);
    return value;
}

static PyObject *
request_form(http_request *r, PyObject *Py_UNUSED(ignored))
{
    r = http_request_root(r);
    PyObject *form = http_lazy(&r->form);
    if (form != NULL)
        return Py_NewRef(form);
    return keep(r, &r->form, PyObject_CallOneArg(http_hooks.parse_form, (PyObject *)r));
}

static PyObject *
get_context(http_request *r, void *Py_UNUSED(closure))
{
    return http_request_context(r);
}

/* A copy shares what is on the way with the connection's own. */
static PyObject *
request_with_context(http_request *r, PyObject *context)
{
    if (http_context_check(context) < 0)
        return NULL;
    http_request *copy = alloc_slow();
    if (copy == NULL)
        return NULL;
    copy->head = r->head;
    copy->fields = copy->inline_fields;
    copy->conn = r->conn;
    http_count(&r->conn->refs, 1);
    copy->block = http_block_ref(r->block);
    copy->base = r->base;
    copy->origin = (http_request *)Py_NewRef((PyObject *)http_request_root(r));
    copy->context = Py_NewRef(context);
    copy->tracked = true;
    RT_STORE(copy->made, true);
    PyObject_GC_Track(copy);
    size_t n = r->head.nfields * sizeof(*r->fields);
    if (r->head.nfields > RT_ARRAY_LEN(copy->inline_fields)) {
        rt_http1_field *fields = PyMem_Malloc(n);
        if (fields == NULL) {
            Py_DECREF(copy);
            return PyErr_NoMemory();
        }
        copy->fields = fields;
    }
    memcpy(copy->fields, r->fields, n);
    copy->head.fields = copy->fields;
    copy->path_values = load_locked(r, &r->path_values);
    copy->pattern = load_locked(r, &r->pattern);
    return (PyObject *)copy;
}

static PyMethodDef methods[] = {
    {"path_value", (PyCFunction)request_path_value, METH_O,
     "path_value($self, name, /)\n--\n\n"
     "What the wildcard {name} of the matched pattern stood for; \"\" if there is none.\n\n"
     "Go: Request.PathValue."},
    {"json", (PyCFunction)request_json, METH_NOARGS,
     "json($self, /)\n--\n\n"
     "Read the body and decode it as JSON.\n\n"
     "Raises BadRequestError where it is not JSON; uncaught, that is a 400."},
    {"form", (PyCFunction)request_form, METH_NOARGS,
     "form($self, /)\n--\n\n"
     "Read the body as a form (application/x-www-form-urlencoded) and return its\n"
     "values, those of the query after them.\n\n"
     "Raises BadRequestError; uncaught, that is a 400.  Go: Request.ParseForm."},
    {"with_context", (PyCFunction)request_with_context, METH_O,
     "with_context($self, ctx, /)\n--\n\n"
     "A copy of the request whose context is ctx, to be passed on to another handler.\n\n"
     "    ctx = context.with_value(r.context, USER, user)\n"
     "    return handler(w, r.with_context(ctx))\n\n"
     "Both read the same body.  Raises TypeError if ctx is no context.\n\n"
     "Go: Request.WithContext."},
    {0},
};
#define RO(name, doc) {#name, (getter)get_##name, NULL, doc, NULL}
static PyGetSetDef getset[] = {
    RO(method, "The method, such as \"GET\"."),
    RO(path, "The path, percent-decoded."),
    RO(raw_path, "The path as it was sent."),
    RO(query, "The query as Values: a mapping of names to lists, with get() for the first."),
    RO(raw_query, "The query as it was sent, without \"?\"."),
    RO(target, "The whole request target as it was sent."),
    RO(host, "The host asked for, with the port if one was given."),
    RO(headers, "The header fields."),
    RO(proto, "\"HTTP/1.1\" or \"HTTP/1.0\"."),
    RO(content_length, "Length of the body in bytes; -1 if not known before (chunked)."),
    RO(remote_addr, "The client's \"ip:port\"."),
    RO(body, "The body, to be read while the handler runs."),
    RO(context, "The context of the request; made when it is asked for.\n\n"
       "It ends when the client closes the connection, or its sending side; when the\n"
       "handler returns; and when the server is closed.  What the client has sent beyond\n"
       "the request is no matter.\n\n"
       "Go: Request.Context."),
    {"pattern", (getter)get_pattern, (setter)set_pattern,
     "The pattern that the mux matched; \"\" without one.", NULL},
    {"path_values", (getter)get_path_values, (setter)set_path_values,
     "What the wildcards of the pattern stood for.", NULL},
    {0},
};
static PyType_Slot slots[] = {
    {Py_tp_dealloc, request_dealloc},
    {Py_tp_traverse, request_traverse},
    {Py_tp_clear, request_clear},
    {Py_tp_repr, request_repr},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {Py_tp_doc, "An HTTP request, as a handler gets it.  Go: http.Request."},
    {0, NULL},
};
static PyType_Spec spec = {
    "runtime.http.Request", sizeof(http_request), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION
        | Py_TPFLAGS_IMMUTABLETYPE,
    slots};

int
http_request_init(PyObject *module)
{
    if (py_add_type(module, &spec, &core->request_type, true) < 0)
        return -1;
    return py_add_type(module, &body_spec, &core->body_type, true);
}
