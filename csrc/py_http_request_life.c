/* py_http_request_life.c - how a Request begins and ends; copies with another context. */
#include "py_http_request.h"

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

int
http_request_clear(http_request *r)
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

int
http_request_traverse(http_request *r, visitproc visit, void *arg)
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

void
http_request_dealloc(http_request *r)
{
    PyTypeObject *type = Py_TYPE(r);
    if (RT_UNLIKELY(r->tracked)) {
        PyObject_GC_UnTrack(r);
        r->tracked = false;
    }
    http_request_clear(r);
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

/* A copy shares what is on the way with the connection's own. */
PyObject *
http_request_method_with_context(http_request *r, PyObject *context)
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
