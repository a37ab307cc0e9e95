/* py_http_trailers.c - fields after a chunked body (RFC 9110 section 6.5), both ways.
 *
 * Of a request they are kept as bytes while the body is read, and become a Headers when
 * somebody asks.  They are never merged into the headers: what a proxy has checked there
 * would no longer hold.
 */
#include "py_http.h"

/* ---- requests ---- */

int
http_trailers_keep(http_conn *c, const char *data, uint32_t n, bool last)
{
    http_request *r = c->req;
    if (last && n == 2 && r->trailer == NULL)
        return 0;               /* there are none */
    if (r->trailer == NULL) {
        r->trailer = http_block_new(RT_HTTP1_TRAILERS + 2);
        if (r->trailer == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        RT_STORE(r->made, true);
    }
    memcpy(r->trailer->data + r->trailer_len, data, n);
    r->trailer_len += n;
    r->trailer_whole = last;
    return 0;
}

PyObject *
http_request_trailers(http_request *r, void *Py_UNUSED(closure))
{
    r = http_request_root(r);
    PyObject *trailers = http_lazy(&r->trailers);
    if (trailers != NULL)
        return Py_NewRef(trailers);
    py_acquire(&r->conn->lock);
    http_block *b = r->trailer_whole ? http_block_ref(r->trailer) : NULL;
    uint32_t len = r->trailer_len;
    py_release(&r->conn->lock);
    if (b == NULL)
        return http_headers_new();
    rt_http1_field fields[RT_HTTP1_TRAILER_FIELDS];
    uint32_t n = rt_http1_split_trailers(b->data, len, fields);
    trailers = http_headers_of_block(b, b->data, fields, n);
    http_block_unref(b);
    return http_lazy_set(&r->trailers, trailers);
}

/* ---- responses ---- */

PyObject *
http_writer_trailers(http_writer *w, void *Py_UNUSED(closure))
{
    PyObject *trailers = http_lazy(&w->trailers);
    return trailers ? Py_NewRef(trailers)
                    : http_lazy_set(&w->trailers, http_headers_new_trailers());
}

bool
http_trailers_wanted(http_writer *w)
{
    return w->conn->req->head.minor >= 1 && http_headers_count(w->trailers) != 0;
}

typedef struct {
    http_out *out;
    size_t bytes;               /* room that is needed */
    bool any;
} sink;

static int
measure(void *arg, const char *name, Py_ssize_t n, const char *value, Py_ssize_t nv)
{
    (void)name, (void)value;
    ((sink *)arg)->bytes += (size_t)(n + nv) + 4;
    return 0;
}

static int
add_name(void *arg, const char *name, Py_ssize_t n, const char *value, Py_ssize_t nv)
{
    sink *s = arg;
    (void)value, (void)nv;
    http_out_add(s->out, s->any ? ", " : "Trailer: ", s->any ? 2 : 9);
    http_out_add(s->out, name, (size_t)n);
    s->any = true;
    return 0;
}

static int
add_field(void *arg, const char *name, Py_ssize_t n, const char *value, Py_ssize_t nv)
{
    sink *s = arg;
    http_out_add(s->out, name, (size_t)n);
    http_out_add(s->out, ": ", 2);
    http_out_add(s->out, value, (size_t)nv);
    http_out_add(s->out, "\r\n", 2);
    return 0;
}

/* Make room for the trailers of w, and `extra` bytes, then call fn for each. */
static int
add_each(http_writer *w, sink *s, size_t extra, http_field_fn fn)
{
    http_headers_acquire(w->trailers);
    http_headers_each(w->trailers, measure, s);
    int r = http_out_reserve(s->out, s->bytes + extra);
    if (r == 0)
        http_headers_each(w->trailers, fn, s);
    http_headers_release(w->trailers);
    if (r < 0)
        PyErr_NoMemory();
    return r;
}

int
http_trailers_announce(http_writer *w)
{
    sink s = {.out = &w->conn->out};
    s.out->len -= 2;            /* the line that ends the head; there is room for it */
    int r = add_each(w, &s, 13, add_name);
    if (s.any)
        http_out_add(s.out, "\r\n", 2);
    http_out_add(s.out, "\r\n", 2);
    return r;
}

int
http_trailers_end(http_writer *w)
{
    sink s = {.out = &w->conn->out};
    if (http_out_reserve(s.out, 5) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    http_out_add(s.out, "0\r\n", 3);
    if (http_lazy(&w->trailers) != NULL && add_each(w, &s, 2, add_field) < 0)
        return -1;
    http_out_add(s.out, "\r\n", 2);
    return 0;
}
