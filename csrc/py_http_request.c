/* py_http_request.c - Request.
 *
 * A Request is slices of the head until somebody asks: each attribute becomes a
 * Python object on first use and is kept.  Head and slices stay valid as long as
 * the Request lives, also after the handler has returned; the body does not.
 */
#include "py_http_mux.h"

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
    r->stripped = 0;
    RT_STORE(r->label, 0);
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

/* Let go of uploads: whoever still refers to the request does not need them. */
static RT_COLD void
close_forms(PyObject *forms)
{
    PyObject *done = PyObject_CallMethod(forms, "close", NULL);
    if (done == NULL)
        PyErr_WriteUnraisable(forms);
    Py_XDECREF(done);
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
    if (RT_UNLIKELY(context != NULL))
        http_context_end(context);
    if (RT_UNLIKELY(body != NULL)) {
        PyObject *forms = http_lazy(&r->form);
        if (forms != NULL)
            close_forms(forms);
        Py_DECREF(body);
    }
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
    Py_CLEAR(r->scheme);
    RT_STORE(r->host_set, false);
    Py_CLEAR(r->headers);
    Py_CLEAR(r->remote_addr);
    Py_CLEAR(r->body);
    Py_CLEAR(r->path_values);
    Py_CLEAR(r->pattern);
    Py_CLEAR(r->form);
    Py_CLEAR(r->trailers);
    Py_CLEAR(r->state);
    http_block_unref(r->trailer);
    r->trailer = NULL;
    r->trailer_len = 0;
    r->trailer_whole = false;
    Py_CLEAR(r->context);
    Py_CLEAR(r->origin);
    Py_CLEAR(r->cookies);
    Py_CLEAR(r->route);
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
    Py_VISIT(r->trailers);
    Py_VISIT(r->state);
    Py_VISIT(r->context);
    Py_VISIT(r->origin);
    Py_VISIT(r->cookies);
    Py_VISIT((PyObject *)r->route);
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
    if (RT_LIKELY(r->head.method_id != RT_HM_OTHER))
        return Py_NewRef(core->http_methods[r->head.method_id]);
    PyObject *method = http_lazy(&r->method);
    if (method != NULL)
        return Py_NewRef(method);
    method = slice_str(r, r->head.method);
    if (method != NULL)
        PyUnicode_InternInPlace(&method);
    return keep(r, &r->method, method);
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

static PyObject *
get_tls(http_request *r, void *Py_UNUSED(closure))
{
    return Py_NewRef(r->conn->stream ? http_stream_tls(r->conn) : Py_None);
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

PyObject *
http_request_known_addr(http_request *r)
{
    return load_locked(r, &r->remote_addr);
}

PyObject *
http_request_remote_addr(http_request *r)
{
    PyObject *addr = load_locked(r, &r->remote_addr);
    if (addr == NULL && (addr = http_conn_addr(r->conn)) != NULL)
        addr = fill_locked(r, &r->remote_addr, addr);
    return addr;
}

static PyObject *
get_remote_addr(http_request *r, void *Py_UNUSED(closure))
{
    return http_request_remote_addr(r);
}

static int
check_str(PyObject *value, const char *name)
{
    if (value != NULL && PyUnicode_Check(value))
        return 0;
    PyErr_Format(PyExc_TypeError, "%s must be a str", name);
    return -1;
}

static int
set_remote_addr(http_request *r, PyObject *value, void *Py_UNUSED(closure))
{
    if (check_str(value, "remote_addr") < 0)
        return -1;
    store_locked(r, &r->remote_addr, Py_NewRef(value));
    return 0;
}

PyObject *
http_request_host(http_request *r)
{
    PyObject *host = load_locked(r, &r->host);
    if (host == NULL && (host = slice_str(r, r->head.host)) != NULL)
        host = fill_locked(r, &r->host, host);
    return host;
}

static PyObject *
get_host(http_request *r, void *Py_UNUSED(closure))
{
    return http_request_host(r);
}

static int
set_host(http_request *r, PyObject *value, void *Py_UNUSED(closure))
{
    if (check_str(value, "host") < 0)
        return -1;
    RT_STORE(r->host_set, true);
    store_locked(r, &r->host, Py_NewRef(value));
    return 0;
}

static PyObject *
get_scheme(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *scheme = load_locked(r, &r->scheme);
    if (scheme != NULL)
        return scheme;
    bool tls = r->conn->stream != NULL && http_stream_tls(r->conn) != Py_None;
    return PyUnicode_InternFromString(tls ? "https" : "http");
}

static int
set_scheme(http_request *r, PyObject *value, void *Py_UNUSED(closure))
{
    if (check_str(value, "scheme") < 0)
        return -1;
    store_locked(r, &r->scheme, Py_NewRef(value));
    return 0;
}

int
http_request_check(PyObject *r, const char *what)
{
    if (RT_LIKELY(Py_IS_TYPE(r, core->request_type)))
        return 0;
    PyErr_Format(PyExc_TypeError, "%s: a Request is needed, not %.200s", what,
                 Py_TYPE(r)->tp_name);
    return -1;
}

PyObject *
http_request_state(http_request *r)
{
    r = http_request_root(r);
    PyObject *state = http_lazy(&r->state);
    return state ? Py_NewRef(state) : keep(r, &r->state, PyDict_New());
}

static PyObject *
get_state(http_request *r, void *Py_UNUSED(closure))
{
    return http_request_state(r);
}

static PyObject *
get_stripped(http_request *r, void *Py_UNUSED(closure))
{
    py_acquire(&r->conn->lock);
    rt_slice s = {r->head.path.off - r->stripped, r->stripped};
    py_release(&r->conn->lock);
    return slice_str(r, s);
}

rt_slice
http_request_path(http_request *r)
{
    py_acquire(&r->conn->lock);
    rt_slice path = r->head.path;
    py_release(&r->conn->lock);
    return path;
}

static PyObject *
get_raw_path(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *path = load_locked(r, &r->raw_path);
    if (path != NULL)
        return path;
    rt_slice s = http_request_path(r);
    bool root = s.len == 0 && r->head.method_id != RT_HM_CONNECT;
    path = root ? PyUnicode_FromString("/") : slice_str(r, s);
    return path ? fill_locked(r, &r->raw_path, path) : NULL;
}

/* Percent-decode; what is no valid escape stays, what is no UTF-8 becomes U+FFFD. */
static PyObject *
unescape(const char *s, uint32_t n)
{
    char *buf = PyMem_Malloc(n);
    if (buf == NULL)
        return PyErr_NoMemory();
    size_t len = http_unescape(buf, s, n, true);
    PyObject *text = PyUnicode_DecodeUTF8(buf, (Py_ssize_t)len, "replace");
    PyMem_Free(buf);
    return text;
}

static PyObject *
get_path(http_request *r, void *closure)
{
    PyObject *path = load_locked(r, &r->path);
    if (path != NULL)
        return path;
    rt_slice s = http_request_path(r);
    bool plain = memchr(r->base + s.off, '%', s.len) == NULL;
    path = plain ? get_raw_path(r, closure) : unescape(r->base + s.off, s.len);
    return path ? fill_locked(r, &r->path, path) : NULL;
}

void
http_request_strip(http_request *r, int32_t n)
{
    py_acquire(&r->conn->lock);
    r->head.path.off += (uint32_t)n;
    r->head.path.len -= (uint32_t)n;
    r->stripped += (uint32_t)n;
    PyObject *path = r->path, *raw_path = r->raw_path;
    r->path = r->raw_path = NULL;
    py_release(&r->conn->lock);
    Py_XDECREF(path);
    Py_XDECREF(raw_path);
}

void
http_request_matched(http_request *r, http_route *route, uint32_t path, const rt_slice *wild)
{
    uint16_t label = RT_LOAD(route->label);
    if (RT_UNLIKELY(label == 0)) {
        label = http_stats_label(route->pattern);
        RT_STORE(route->label, label);
    }
    RT_STORE(http_request_root(r)->label, label);
    Py_INCREF((PyObject *)route);
    py_acquire(&r->conn->lock);
    http_route *old = r->route;
    PyObject *pattern = r->pattern, *values = r->path_values;
    r->route = route;
    r->pattern = r->path_values = NULL;
    for (int i = 0; i < route->nwild; i++)
        r->wild[i] = (rt_slice){path + wild[i].off, wild[i].len};
    RT_STORE(r->made, true);
    py_release(&r->conn->lock);
    if (RT_UNLIKELY(old != NULL || pattern != NULL || values != NULL)) {
        Py_XDECREF((PyObject *)old);
        Py_XDECREF(pattern);
        Py_XDECREF(values);
    }
}

/* The matched route (a new reference) and where its wildcards are, or NULL. */
static http_route *
load_route(http_request *r, rt_slice *wild)
{
    py_acquire(&r->conn->lock);
    http_route *route = (http_route *)Py_XNewRef((PyObject *)r->route);
    if (route != NULL)
        memcpy(wild, r->wild, route->nwild * sizeof(*wild));
    py_release(&r->conn->lock);
    return route;
}

PyObject *
http_request_pattern(http_request *r)
{
    py_acquire(&r->conn->lock);
    PyObject *pattern = Py_XNewRef(r->pattern ? r->pattern : r->route ? r->route->pattern : NULL);
    py_release(&r->conn->lock);
    return pattern;
}

static PyObject *
get_pattern(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *pattern = http_request_pattern(r);
    return pattern ? pattern : PyUnicode_FromString("");
}

static int
set_pattern(http_request *r, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || !PyUnicode_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "pattern must be a str");
        return -1;
    }
    RT_STORE(http_request_root(r)->label, http_stats_label(value));
    store_locked(r, &r->pattern, Py_NewRef(value));
    return 0;
}

PyObject *
http_request_path_values(http_request *r)
{
    PyObject *values = load_locked(r, &r->path_values);
    if (values != NULL)
        return values;
    rt_slice wild[HTTP_MAX_WILD];
    http_route *route = load_route(r, wild);
    values = route ? http_wild_values(route, wild, r->base) : PyDict_New();
    Py_XDECREF((PyObject *)route);
    return values ? fill_locked(r, &r->path_values, values) : NULL;
}

static PyObject *
get_path_values(http_request *r, void *Py_UNUSED(closure))
{
    return http_request_path_values(r);
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
    if (!PyUnicode_Check(name)) {
        PyErr_Format(PyExc_TypeError, "the name of a path value must be str, not %.200s",
                     Py_TYPE(name)->tp_name);
        return NULL;
    }
    PyObject *values = load_locked(r, &r->path_values), *value = NULL;
    if (values != NULL)
        (void)py_dict_get(values, name, &value);
    else {
        rt_slice wild[HTTP_MAX_WILD];
        http_route *route = load_route(r, wild);
        if (route != NULL)
            value = http_wild_value(route, wild, r->base, name);
        Py_XDECREF((PyObject *)route);
    }
    Py_XDECREF(values);
    if (value == NULL && !PyErr_Occurred())
        value = PyUnicode_FromString("");
    return value;
}

static PyObject *
request_set_path_value(http_request *r, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !PyUnicode_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: set_path_value(name, value)");
        return NULL;
    }
    PyObject *values = http_request_path_values(r);
    int err = values ? PyDict_SetItem(values, args[0], args[1]) : -1;
    Py_XDECREF(values);
    if (err < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* _strip(n): see http_request_strip(). */
static PyObject *
request_strip(http_request *r, PyObject *arg)
{
    long n = PyLong_AsLong(arg);
    if (n == -1 && PyErr_Occurred())
        return NULL;
    py_acquire(&r->conn->lock);
    bool ok = n >= 0 ? n <= (long)r->head.path.len : -n <= (long)r->stripped;
    py_release(&r->conn->lock);
    if (!ok) {
        PyErr_SetString(PyExc_ValueError, "_strip(): there is no such prefix");
        return NULL;
    }
    http_request_strip(r, (int32_t)n);
    Py_RETURN_NONE;
}

static PyObject *
get_cookies(http_request *r, void *Py_UNUSED(closure))
{
    return http_request_cookies(r);
}

static PyObject *
request_cookie(http_request *r, PyObject *name)
{
    return http_request_cookies_named(r, name, true);
}

static PyObject *
request_cookies_named(http_request *r, PyObject *name)
{
    return http_request_cookies_named(r, name, false);
}

static PyObject *
request_basic_auth(http_request *r, PyObject *Py_UNUSED(ignored))
{
    return http_request_basic_auth(r);
}

/* _values(name): all of that field, joined by commas; None without any. */
static PyObject *
request_values(http_request *r, PyObject *name)
{
    return http_request_values(r, name);
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

static PyObject *
get_body(http_request *r, void *Py_UNUSED(closure))
{
    r = http_request_root(r);
    PyObject *body = load_locked(r, &r->body);
    if (body != NULL)
        return body;
    body = http_body_new(r);
    return body ? fill_locked(r, &r->body, body) : NULL;
}

/* Another reader takes the body's place: one with a limit, or one that decodes. */
static int
set_body(http_request *r, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        PyErr_SetString(PyExc_TypeError, "the body of a request cannot be deleted");
        return -1;
    }
    r = http_request_root(r);
    store_locked(r, &r->body, Py_NewRef(value));
    return 0;
}

static PyObject *
request_json(http_request *r, PyObject *Py_UNUSED(ignored))
{
    r = http_request_root(r);
    PyObject *body = load_locked(r, &r->body), *bytes;
    if (RT_LIKELY(body == NULL || Py_IS_TYPE(body, core->body_type)))
        bytes = http_body_read_all(r);
    else
        bytes = PyObject_CallMethod(body, "read", NULL);
    Py_XDECREF(body);
    if (bytes == NULL)
        return NULL;
    PyObject *value = PyObject_CallOneArg(http_hooks.load_json, bytes);
    Py_DECREF(bytes);
    return value;
}

/* Call a method of the object that decodes forms. */
static PyObject *
call_forms(http_request *r, const char *name, PyObject *kwargs)
{
    r = http_request_root(r);
    PyObject *forms = Py_XNewRef(http_lazy(&r->form)), *result = NULL, *method = NULL;
    if (forms == NULL)
        forms = keep(r, &r->form, PyObject_CallOneArg(http_hooks.make_forms, (PyObject *)r));
    if (forms != NULL && (method = PyObject_GetAttrString(forms, name)) != NULL)
        result = PyObject_VectorcallDict(method, NULL, 0, kwargs);
    Py_XDECREF(method);
    Py_XDECREF(forms);
    return result;
}

static PyObject *
no_args(PyObject *args, const char *name)
{
    if (PyTuple_GET_SIZE(args) == 0)
        return args;
    PyErr_Format(PyExc_TypeError, "%s() takes keyword arguments only", name);
    return NULL;
}

static PyObject *
request_form(http_request *r, PyObject *Py_UNUSED(ignored))
{
    return call_forms(r, "form", NULL);
}

static PyObject *
request_post_form(http_request *r, PyObject *Py_UNUSED(ignored))
{
    return call_forms(r, "post_form", NULL);
}

static PyObject *
request_multipart(http_request *r, PyObject *args, PyObject *kwargs)
{
    return no_args(args, "multipart") ? call_forms(r, "multipart", kwargs) : NULL;
}

static PyObject *
request_multipart_form(http_request *r, PyObject *args, PyObject *kwargs)
{
    return no_args(args, "multipart_form") ? call_forms(r, "multipart_form", kwargs) : NULL;
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
    copy->fields = copy->inline_fields;
    copy->conn = r->conn;
    http_count(&r->conn->refs, 1);
    copy->block = http_block_ref(r->block);
    copy->base = r->base;
    copy->origin = (http_request *)Py_NewRef((PyObject *)http_request_root(r));
    copy->context = Py_NewRef(context);
    RT_STORE(copy->made, true);
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
    py_acquire(&r->conn->lock);
    copy->head = r->head;
    copy->path_values = Py_XNewRef(r->path_values);
    copy->pattern = Py_XNewRef(r->pattern);
    copy->remote_addr = Py_XNewRef(r->remote_addr);
    copy->host = Py_XNewRef(r->host);
    copy->scheme = Py_XNewRef(r->scheme);
    RT_STORE(copy->host_set, RT_LOAD(r->host_set));
    copy->stripped = r->stripped;
    copy->route = (http_route *)Py_XNewRef((PyObject *)r->route);
    memcpy(copy->wild, r->wild, sizeof(copy->wild));
    py_release(&r->conn->lock);
    copy->head.fields = copy->fields;
    copy->tracked = true;
    PyObject_GC_Track(copy);
    return (PyObject *)copy;
}

static PyMethodDef methods[] = {
    {"path_value", (PyCFunction)request_path_value, METH_O,
     "path_value($self, name, /)\n--\n\n"
     "What the wildcard {name} of the matched pattern stood for; \"\" if there is none.\n\n"
     "A str, percent-decoded, or what the wildcard's converter made of it.\n"
     "Go: Request.PathValue."},
    {"set_path_value", (PyCFunction)(void (*)(void))request_set_path_value, METH_FASTCALL,
     "set_path_value($self, name, value, /)\n--\n\n"
     "Have path_value(name) return value from now on.  Go: Request.SetPathValue."},
    {"_strip", (PyCFunction)request_strip, METH_O, NULL},
    {"cookie", (PyCFunction)request_cookie, METH_O,
     "cookie($self, name, /)\n--\n\n"
     "The first cookie of that name, or None.  Go: Request.Cookie."},
    {"cookies_named", (PyCFunction)request_cookies_named, METH_O,
     "cookies_named($self, name, /)\n--\n\n"
     "All cookies of that name, in the order they were sent.  Go: Request.CookiesNamed."},
    {"basic_auth", (PyCFunction)request_basic_auth, METH_NOARGS,
     "basic_auth($self, /)\n--\n\n"
     "(user, password) of an Authorization field with the scheme Basic (RFC 7617), else None.\n\n"
     "Compare with hmac.compare_digest().  Go: Request.BasicAuth."},
    {"_values", (PyCFunction)request_values, METH_O, NULL},
    {"json", (PyCFunction)request_json, METH_NOARGS,
     "json($self, /)\n--\n\n"
     "Read the body and decode it as JSON.\n\n"
     "Raises BadRequestError where it is not JSON; uncaught, that is a 400."},
    {"form", (PyCFunction)request_form, METH_NOARGS,
     "form($self, /)\n--\n\n"
     "Read the body as a form and return its values, those of the query after them.\n\n"
     "The body may be application/x-www-form-urlencoded, of up to 10 MiB, or\n"
     "multipart/form-data, whose files are then in multipart_form(); of another type it is\n"
     "left alone.  Raises BadRequestError and BodyTooLargeError; uncaught, those are a 400 and\n"
     "a 413.  Go: Request.ParseMultipartForm and Request.Form."},
    {"post_form", (PyCFunction)request_post_form, METH_NOARGS,
     "post_form($self, /)\n--\n\n"
     "As form(), without the values of the query.  Go: Request.PostForm."},
    {"multipart_form", (PyCFunction)(void (*)(void))request_multipart_form,
     METH_VARARGS | METH_KEYWORDS,
     "multipart_form($self, /, *, max_memory=33554432, max_parts=1000,\n"
     "               max_value_bytes=10485760)\n--\n\n"
     "Read a multipart/form-data body: a MultipartForm with values and files.\n\n"
     "Files are kept in memory up to max_memory bytes in all; what goes beyond is on disk, in\n"
     "temporary files without a name.  All are closed when the handler returns.  Later calls\n"
     "return the same.  Needs the package multipart, of the extra gosched[multipart].\n\n"
     "    photo = r.multipart_form().file(\"photo\")\n\n"
     "Raises BadRequestError (400) for anything malformed, also for another type of body, and\n"
     "BodyTooLargeError (413) over a limit.  Go: Request.ParseMultipartForm."},
    {"multipart", (PyCFunction)(void (*)(void))request_multipart,
     METH_VARARGS | METH_KEYWORDS,
     "multipart($self, /, *, max_parts=1000)\n--\n\n"
     "Read a multipart/form-data body as it arrives: an iterator of its Parts.\n\n"
     "    for part in r.multipart():\n"
     "        for piece in part: ...\n\n"
     "Nothing is kept: going on to the next part skips what is left of the last.  Raises as\n"
     "multipart_form() does.  Go: Request.MultipartReader."},
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
    RO(stripped, "What strip_prefix() or ServeMux.mount() has taken off the front of raw_path."),
    RO(query, "The query as Values: a mapping of names to lists, with get() for the first."),
    RO(raw_query, "The query as it was sent, without \"?\"."),
    RO(target, "The whole request target as it was sent."),
    RO(headers, "The header fields."),
    RO(cookies, "The cookies that were sent, a tuple of Cookie.  Go: Request.Cookies."),
    RO(proto, "\"HTTP/1.1\" or \"HTTP/1.0\"."),
    RO(content_length, "Length of the body in bytes; -1 if not known before (chunked)."),
    RO(state, "A dict for what handlers around handlers tell each other of this request."),
    RO(tls, "What TLS has agreed upon, a net.tls.ConnectionState; None without TLS."),
    {"trailers", (getter)http_request_trailers, NULL,
     "The fields after a chunked body, once it was read to its end; empty before, and without\n"
     "any.  Those that must not come after a body (RFC 9110 section 6.5.1) are left out.\n\n"
     "Go: Request.Trailer.", NULL},
    RO(context, "The context of the request; made when it is asked for.\n\n"
       "It ends when the client closes the connection, or its sending side; when the\n"
       "handler returns; and when the server is closed.  What the client has sent beyond\n"
       "the request is no matter.\n\n"
       "Go: Request.Context."),
    {"remote_addr", (getter)get_remote_addr, (setter)set_remote_addr,
     "The client's \"ip:port\"; can be set where it is known better, as behind a proxy.", NULL},
    {"host", (getter)get_host, (setter)set_host,
     "The host asked for, with the port if one was given; can be set, as behind a proxy, and a\n"
     "mux goes by what was set.", NULL},
    {"scheme", (getter)get_scheme, (setter)set_scheme,
     "\"https\" with TLS, else \"http\"; can be set where a proxy has ended TLS.", NULL},
    {"body", (getter)get_body, (setter)set_body,
     "The body, to be read while the handler runs.  Another reader can be put in its place,\n"
     "with the methods read(n=-1) and read_into(buffer): json(), form() and multipart() use it.",
     NULL},
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
    static const char *const methods[] = {
        [RT_HM_GET] = "GET", [RT_HM_HEAD] = "HEAD", [RT_HM_POST] = "POST", [RT_HM_PUT] = "PUT",
        [RT_HM_DELETE] = "DELETE", [RT_HM_CONNECT] = "CONNECT", [RT_HM_OPTIONS] = "OPTIONS",
        [RT_HM_TRACE] = "TRACE", [RT_HM_PATCH] = "PATCH"};
    for (int i = RT_HM_OTHER + 1; i <= RT_HM_PATCH; i++)
        if ((core->http_methods[i] = PyUnicode_InternFromString(methods[i])) == NULL)
            return -1;
    return py_add_type(module, &spec, &core->request_type, true);
}
