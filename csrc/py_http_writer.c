/* py_http_writer.c - ResponseWriter, and the bodies of responses.
 *
 * A response that is complete when the handler returns leaves with Content-Length,
 * head and body in one send.  Its body is either the one object that was written,
 * kept by reference, or a buffer of up to MAX_BUFFER bytes.  A handler that writes
 * more, or flushes, streams: chunked for HTTP/1.1, until close for HTTP/1.0, or
 * plainly if it has declared a Content-Length.
 *
 * A method takes the connection's lock and does its whole work under it, so that what
 * several threads write is not mixed up.  While one of them is parked in a send, the
 * others get an error.  References are dropped after the lock.
 */
#include "py_http.h"


#define MAX_BUFFER (64 * 1024)          /* bytes of body held back */
#define COPY_MAX (16 * 1024)            /* larger bodies are sent from where they are */

static int
no_memory(void)
{
    PyErr_NoMemory();
    return -1;
}

/* ---- bodies ---- */

/* Body bytes, on their way. */
typedef struct {
    PyObject *object;           /* borrowed: the str or bytes they are in */
    const char *bytes;
    size_t n;
    bool text;                  /* was given as a str */
} piece;

/* The bytes of a str (as UTF-8) or bytes object. */
static const char *
object_bytes(PyObject *data, Py_ssize_t *n)
{
    if (PyBytes_Check(data)) {
        *n = PyBytes_GET_SIZE(data);
        return PyBytes_AS_STRING(data);
    }
    return PyUnicode_AsUTF8AndSize(data, n);
}

#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX < 0x030E0000
/* There, two threads that are the first to ask for a str's UTF-8 at the same time see
   it unfinished. */
#define UTF8_IS_SAFE(str) PyUnicode_IS_ASCII(str)
#else
#define UTF8_IS_SAFE(str) true
#endif

/* Make a piece of what a handler gives us.  *own: an object made for it (owned), or NULL.
   -1 with an exception set. */
static int
make_piece(piece *p, PyObject *data, PyObject **own)
{
    *own = NULL;
    p->text = PyUnicode_Check(data);
    if (RT_UNLIKELY(p->text ? !UTF8_IS_SAFE(data) : !PyBytes_Check(data))) {
        if (p->text)
            data = PyUnicode_AsUTF8String(data);
        else if (PyObject_CheckBuffer(data))
            data = PyBytes_FromObject(data);
        else {
            PyErr_Format(PyExc_TypeError, "write() needs str or bytes, not %.200s",
                         Py_TYPE(data)->tp_name);
            return -1;
        }
        if (data == NULL)
            return -1;
        *own = data;
    }
    Py_ssize_t n;
    p->object = data;
    p->bytes = object_bytes(data, &n);
    p->n = (size_t)n;
    if (p->bytes != NULL)
        return 0;
    Py_CLEAR(*own);
    return -1;
}

int
http_writer_count(http_writer *w, int64_t n)
{
    w->written += n;
    if (w->declared < 0 || w->written <= w->declared || w->no_body)
        return 0;
    w->conn->close_after = true;
    PyErr_Format(PyExc_ValueError, "more was written than the declared Content-Length of "
                 "%lld bytes", (long long)w->declared);
    return -1;
}

/* Hand body bytes to the connection, framed.  The head is written already. */
static int
stream(http_writer *w, const char *data, size_t n)
{
    http_conn *c = w->conn;
    if (n == 0 || w->no_body)
        return 0;
    if (http_writer_count(w, 0) < 0)
        return -1;
    if (w->chunked) {
        char size[20];
        int len = snprintf(size, sizeof(size), "%zx\r\n", n);
        if (http_out_reserve(&c->out, (size_t)len) < 0)
            return no_memory();
        http_out_add(&c->out, size, (size_t)len);
    }
    if (n <= COPY_MAX) {
        if (http_out_reserve(&c->out, n + 2) < 0)
            return no_memory();
        http_out_add(&c->out, data, n);
    }
    else if (http_send(c, data, n) < 0)
        return -1;
    if (w->chunked) {
        if (http_out_reserve(&c->out, 2) < 0)
            return no_memory();
        http_out_add(&c->out, "\r\n", 2);
    }
    return 0;
}

/* http_writer_begin() where it has not been done. */
static int
start(http_writer *w, const char *next, size_t nnext, PyObject **drop)
{
    Py_ssize_t nheld = w->buf_len;
    const char *held = w->first ? object_bytes(w->first, &nheld) : w->buf;
    if (http_head_add(w, -1, 0, nheld ? held : next, nheld ? (size_t)nheld : nnext) < 0)
        return -1;
    *drop = w->first;
    w->first = NULL;
    int r = stream(w, held, (size_t)nheld);
    PyMem_Free(w->buf);
    w->buf = NULL;
    w->buf_len = w->buf_cap = 0;
    return r;
}

int
http_writer_begin(http_writer *w, const char *next, size_t nnext, PyObject **drop)
{
    return w->head_sent ? 0 : start(w, next, nnext, drop);
}

static int
buffer_add(http_writer *w, const char *data, size_t n)
{
    if (w->buf_cap - w->buf_len < n) {
        size_t cap = (w->buf_len + n) * 2;
        char *buf = PyMem_Realloc(w->buf, cap);
        if (buf == NULL)
            return no_memory();
        w->buf = buf;
        w->buf_cap = (uint32_t)cap;
    }
    memcpy(w->buf + w->buf_len, data, n);
    w->buf_len += (uint32_t)n;
    return 0;
}

/* Take body bytes; a single object is kept by reference.  drop: see http_writer_begin(). */
static int
write_piece(http_writer *w, const piece *p, PyObject **drop)
{
    size_t n = p->n;
    if (!w->wrote || w->written == 0)
        w->is_text = p->text;
    w->wrote = true;
    w->written += (int64_t)n;
    if (n == 0)
        return 0;
    if (w->head_sent) {
        if (stream(w, p->bytes, n) < 0)
            return -1;
        return w->conn->out.len >= MAX_BUFFER ? http_send(w->conn, NULL, 0) : 0;
    }
    if (w->written > MAX_BUFFER) {
        if (start(w, p->bytes, n, drop) < 0)
            return -1;
        return stream(w, p->bytes, n);
    }
    if (w->written == (int64_t)n) {
        w->first = Py_NewRef(p->object);
        return 0;
    }
    if (w->first != NULL) {
        Py_ssize_t m;
        const char *held = object_bytes(w->first, &m);
        if (buffer_add(w, held, (size_t)m) < 0)
            return -1;
        *drop = w->first;
        w->first = NULL;
    }
    return buffer_add(w, p->bytes, n);
}

/* ---- what the connection calls ---- */

http_writer *
http_writer_new(http_conn *c)
{
    http_cache *cache = http_cache_here();
    http_writer *w;
    if (RT_LIKELY(cache != NULL && (w = cache->writers) != NULL)) {
        cache->writers = w->next_free;
        cache->nwriters--;
        _Py_NewReference((PyObject *)w);
    }
    else {
        w = PyObject_New(http_writer, core->writer_type);
        if (w == NULL)
            return NULL;
    }
    memset((char *)w + sizeof(PyObject), 0, sizeof(*w) - sizeof(PyObject));
    w->conn = c;
    http_count(&c->refs, 1);
    w->declared = -1;
    return w;
}

static void
writer_dealloc(http_writer *w)
{
    PyTypeObject *type = Py_TYPE(w);
    Py_CLEAR(w->headers);
    Py_CLEAR(w->trailers);
    Py_CLEAR(w->first);
    PyMem_Free(w->buf);
    http_conn_unref(w->conn);
    http_cache *cache = http_cache_here();
    if (RT_LIKELY(cache != NULL && cache->nwriters < HTTP_MAX_FREE_OBJECTS)) {
        w->next_free = cache->writers;      /* and it keeps its reference to the type */
        cache->writers = w;
        cache->nwriters++;
        return;
    }
    PyObject_Free(w);
    Py_DECREF(type);
}

bool
http_writer_cut(http_writer *w)
{
    py_acquire(&w->conn->lock);
    w->ended = true;
    bool head_sent = w->head_sent;
    py_release(&w->conn->lock);
    return head_sent;
}

static inline int
finish_locked(http_writer *w)
{
    http_conn *c = w->conn;
    if (RT_UNLIKELY(c->sending)) {
        PyErr_SetString(PyExc_RuntimeError, "the handler returned while a goroutine was writing "
                        "its response");
        return -1;
    }
    if (RT_UNLIKELY(w->hijack))
        return -1;
    if (RT_UNLIKELY(w->status == 101)) {
        PyErr_SetString(PyExc_RuntimeError, "the handler chose status 101 (Switching Protocols) "
                        "and did not hijack() the connection");
        return -1;
    }
    if (RT_UNLIKELY(http_lazy(&w->trailers) != NULL) && !w->head_sent
        && http_trailers_wanted(w)) {
        PyObject *held = NULL;
        int r = start(w, NULL, 0, &held);
        w->first = held;        /* dropped with the writer */
        if (r < 0)
            return -1;
    }
    if (w->head_sent) {
        if (w->declared >= 0 && w->written != w->declared && !w->no_body) {
            c->close_after = true;
            PyErr_Format(PyExc_ValueError,
                         "the handler declared Content-Length %lld and wrote %lld bytes",
                         (long long)w->declared, (long long)w->written);
            return -1;
        }
        return w->chunked ? http_trailers_end(w) : 0;
    }
    Py_ssize_t n = w->buf_len;
    const char *data = w->buf;
    if (w->first != NULL) {
        data = object_bytes(w->first, &n);
        if (data == NULL)
            return -1;
    }
    bool copy = n <= COPY_MAX;
    if (http_head_add(w, n, copy ? (size_t)n : 0, data, (size_t)n) < 0)
        return -1;
    if (n == 0 || w->no_body)
        return 0;
    if (copy) {
        http_out_add(&c->out, data, (size_t)n);
        return 0;
    }
    return http_send(c, data, (size_t)n);
}

int
http_writer_finish(http_writer *w)
{
    py_acquire(&w->conn->lock);
    w->ended = true;
    int r = finish_locked(w);
    py_release(&w->conn->lock);
    return r;
}

/* A returned body is whole: whatever its size, it gets a Content-Length.  A status alone
   may go before: write_header(201), then return {...}.  data: a str or bytes, or NULL: no
   body; status: 0: as it is. */
static int
set_whole(http_writer *w, PyObject *value, PyObject *data, bool is_json, int status)
{
    PyObject *own = NULL;
    piece p = {0};
    if (data != NULL && make_piece(&p, data, &own) < 0)
        return -1;
    py_acquire(&w->conn->lock);
    bool refused = w->ended || w->head_sent || w->written != 0 || (w->status != 0 && status != 0);
    if (!refused) {
        if (status != 0)
            w->status = status;
        if (data != NULL) {
            w->is_text = p.text;
            w->is_json = is_json;
            w->wrote = true;
            w->written = (int64_t)p.n;
            w->first = Py_NewRef(p.object);
        }
    }
    py_release(&w->conn->lock);
    Py_XDECREF(own);
    if (!refused)
        return 0;
    PyErr_Format(w->hijack ? core->exc_hijacked : PyExc_TypeError,
                 "a handler must either %s or return the response; this one did and returned "
                 "a %.200s", w->hijack ? "hijack() the connection" : "write",
                 Py_TYPE(value)->tp_name);
    return -1;
}

int
http_writer_returned(http_writer *w, PyObject *value)
{
    if (PyUnicode_Check(value) || PyBytes_Check(value))
        return set_whole(w, value, value, false, 0);
    if (PyDict_Check(value) || PyList_Check(value)) {
        PyObject *text = PyObject_CallOneArg(http_hooks.dump_json, value);
        int r = text ? set_whole(w, value, text, true, 0) : -1;
        Py_XDECREF(text);
        return r;
    }
    if (PyLong_Check(value) && !PyBool_Check(value)) {
        long status = PyLong_AsLong(value);
        if (status < 200 || status > 599) {
            PyErr_Format(PyExc_ValueError, "a handler returned %R, which is no status code",
                         value);
            return -1;
        }
        const char *text = http_status_text((int)status);
        if (status < 400 || *text == 0)
            return set_whole(w, value, NULL, false, (int)status);
        PyObject *body = PyUnicode_FromFormat("%s\n", text);
        int r = body ? set_whole(w, value, body, false, (int)status) : -1;
        Py_XDECREF(body);
        return r;
    }
    PyErr_Format(PyExc_TypeError, "a handler returned a %.200s; it may return None, str, bytes, "
                 "dict, list or a status code", Py_TYPE(value)->tp_name);
    return -1;
}

/* ---- methods ---- */

http_conn *
http_writer_enter(http_writer *w)
{
    http_conn *c = w->conn;
    py_acquire(&c->lock);
    if (RT_LIKELY(!w->ended && !c->sending))
        return c;
    bool hijacked = w->hijack == HTTP_TAKEN;
    const char *why = hijacked   ? "the connection was hijacked: there is no response"
                      : w->ended ? "the handler has returned: the response is complete"
                                 : "two goroutines write to one response at the same time";
    py_release(&c->lock);
    PyErr_SetString(hijacked ? core->exc_hijacked : PyExc_RuntimeError, why);
    return NULL;
}

PyObject *
http_writer_write(http_writer *w, PyObject *data)
{
    piece p;
    PyObject *own, *drop = NULL;
    if (make_piece(&p, data, &own) < 0)
        return NULL;
    http_conn *c = http_writer_enter(w);
    int r = -1;
    if (RT_LIKELY(c != NULL)) {
        r = write_piece(w, &p, &drop);
        py_release(&c->lock);
    }
    Py_XDECREF(own);
    Py_XDECREF(drop);
    if (r < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
writer_write_header(http_writer *w, PyObject *arg)
{
    long status = PyLong_AsLong(arg);
    if (status == -1 && PyErr_Occurred())
        return NULL;
    http_conn *c = http_writer_enter(w);
    if (c == NULL)
        return NULL;
    bool known = (status >= 200 && status <= 999) || status == 101, begun = w->status != 0 || w->written != 0;
    int before = w->status ? w->status : 200;
    if (known && !begun) {
        w->status = (int)status;
        w->wrote = true;
    }
    py_release(&c->lock);
    if (!known)
        PyErr_Format(PyExc_ValueError, "write_header(%ld): a final status is 200 to 999, or 101 "
                     "before hijack(); write_informational() sends others", status);
    else if (begun)
        PyErr_Format(PyExc_RuntimeError, "write_header(%ld): the response has begun already, "
                     "with status %d", status, before);
    else
        Py_RETURN_NONE;
    return NULL;
}

static PyObject *
writer_respond(http_writer *w, PyObject *value)
{
    http_conn *c = http_writer_enter(w);
    if (c == NULL)
        return NULL;
    py_release(&c->lock);
    if (value != Py_None && http_writer_returned(w, value) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
writer_forget(http_writer *w, PyObject *Py_UNUSED(ignored))
{
    http_conn *c = w->conn;
    PyObject *drop = NULL;
    py_acquire(&c->lock);
    bool possible = !w->ended && !w->head_sent && !w->hijack && !c->sending && !c->io_failed;
    if (possible) {
        drop = w->first;
        w->first = NULL;
        w->buf_len = 0;
        w->status = 0;
        w->written = 0;
        w->wrote = w->is_text = w->is_json = false;
    }
    py_release(&c->lock);
    Py_XDECREF(drop);
    return PyBool_FromLong(possible);
}

static PyObject *
writer_flush(http_writer *w, PyObject *Py_UNUSED(ignored))
{
    http_conn *c = http_writer_enter(w);
    if (c == NULL)
        return NULL;
    PyObject *drop = NULL;
    w->wrote = true;
    int r = http_writer_begin(w, NULL, 0, &drop);
    if (r == 0)
        r = http_send(c, NULL, 0);
    py_release(&c->lock);
    Py_XDECREF(drop);
    if (r < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
writer_get_headers(http_writer *w, void *Py_UNUSED(closure))
{
    PyObject *headers = http_lazy(&w->headers);
    return headers ? Py_NewRef(headers) : http_lazy_set(&w->headers, http_headers_new());
}

int
http_writer_status(http_writer *w)
{
    py_acquire(&w->conn->lock);
    int status = w->status;
    py_release(&w->conn->lock);
    return status;
}

static PyObject *
writer_get_status(http_writer *w, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(http_writer_status(w));
}

static PyObject *
writer_get_bytes_written(http_writer *w, void *Py_UNUSED(closure))
{
    py_acquire(&w->conn->lock);
    int64_t n = w->written;
    py_release(&w->conn->lock);
    return PyLong_FromLongLong(n);
}

static PyMethodDef methods[] = {
    {"write", (PyCFunction)http_writer_write, METH_O,
     "write($self, data, /)\n--\n\n"
     "Add str (as UTF-8) or bytes to the body; waits while the client reads slowly.\n\n"
     "Go: ResponseWriter.Write."},
    {"write_header", (PyCFunction)writer_write_header, METH_O,
     "write_header($self, status, /)\n--\n\n"
     "Choose the status, once, before the body; without it the status is 200.\n\n"
     "200 to 999, or 101 where hijack() follows.  Go: ResponseWriter.WriteHeader."},
    {"respond", (PyCFunction)writer_respond, METH_O,
     "respond($self, value, /)\n--\n\n"
     "Respond as if the handler had returned value; None adds nothing.\n\n"
     "For who calls a handler and wants to know its response:\n\n"
     "    w.respond(handler(w, r))\n"
     "    print(w.status, w.bytes_written)"},
    {"_forget", (PyCFunction)writer_forget, METH_NOARGS,
     "_forget($self, /)\n--\n\n"
     "Take back the status and the body so far.  False where they are on their way, or reading\n"
     "or sending has failed: then the server knows best what to do."},
    {"flush", (PyCFunction)writer_flush, METH_NOARGS,
     "flush($self, /)\n--\n\n"
     "Send what was written so far; from now on the body is streamed.\n\n"
     "Go: http.Flusher."},
    {"write_informational",
     (PyCFunction)(void (*)(void))http_writer_informational, METH_VARARGS | METH_KEYWORDS,
     "write_informational($self, status, headers=None)\n--\n\n"
     "Send an informational response (100, or 102 to 199) at once, before the final one.\n\n"
     "headers is a Headers, a mapping or pairs.  Nothing is sent to an HTTP/1.0 client, which\n"
     "could not understand it.  RuntimeError once the response has begun.\n\n"
     "    w.write_informational(103, {\"Link\": \"</style.css>; rel=preload\"})\n\n"
     "Go: ResponseWriter.WriteHeader with 1xx."},
    {"hijack", (PyCFunction)http_writer_hijack, METH_NOARGS,
     "hijack($self, /)\n--\n\n"
     "Take the connection over: (conn, reader), a net.Conn and a net.bufio.Reader around it.\n\n"
     "What the client has sent beyond the head is read first.  A response that was begun is\n"
     "sent: write_header(101) before an upgrade, 200 for CONNECT.  From then on the server\n"
     "has forgotten the connection, which the handler or who else has it must close; w and\n"
     "r.body raise HijackedError.\n\n"
     "Go: http.Hijacker."},
    {"set_read_deadline", (PyCFunction)http_writer_set_read_deadline, METH_O,
     "set_read_deadline($self, seconds, /)\n--\n\n"
     "Let reading the body fail with TimeoutError from so many seconds from now on.\n\n"
     "None: never.  In place of the server's read_timeout, body_timeout and\n"
     "min_read_rate, for this request.  By way of http.ResponseController."},
    {"set_write_deadline", (PyCFunction)http_writer_set_write_deadline, METH_O,
     "set_write_deadline($self, seconds, /)\n--\n\n"
     "Let sending the response fail with TimeoutError from so many seconds from now on.\n\n"
     "None: never.  In place of the server's write_timeout and min_write_rate, for\n"
     "this request.  By way of http.ResponseController."},
    {"send_file", (PyCFunction)(void (*)(void))http_writer_send_file,
     METH_VARARGS | METH_KEYWORDS,
     "send_file($self, file, offset=0, count=None)\n--\n\n"
     "Add count bytes of a regular file to the body, from offset; without count all that\n"
     "follow.  file is a descriptor or has fileno(); its position is neither used nor moved.\n\n"
     "The system sends them without a copy where it can; the goroutine waits while the client\n"
     "does not keep up.  Raises ValueError where the file has not that many, and OSError where\n"
     "it turns out shorter in the middle, which ends the connection.  Go: the ReadFrom() of\n"
     "ResponseWriter."},
    {0},
};
static PyGetSetDef getset[] = {
    {"headers", (getter)writer_get_headers, NULL,
     "The response's Headers; later changes than the first flush have no effect.", NULL},
    {"status", (getter)writer_get_status, NULL, "The status chosen, 0 before.", NULL},
    {"bytes_written", (getter)writer_get_bytes_written, NULL,
     "Bytes of the body so far, whether they are sent or not.", NULL},
    {"trailers", (getter)http_writer_trailers, NULL,
     "Fields to send after the body: a response that has some is chunked.  What is set before\n"
     "the head is sent is announced there, in a field Trailer.  Nothing is sent where there\n"
     "are no chunks: to HTTP/1.0 clients, with a Content-Length, without a body.\n"
     "ValueError for fields that cannot be trailers.  Go: http.TrailerPrefix.", NULL},
    {0},
};
static PyType_Slot slots[] = {
    {Py_tp_dealloc, writer_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {Py_tp_doc, "Builds the response to one request.  Go: http.ResponseWriter."},
    {0, NULL},
};
static PyType_Spec spec = {
    "runtime.http.ResponseWriter", sizeof(http_writer), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE, slots};

int
http_writer_init(PyObject *module)
{
    return py_add_type(module, &spec, &core->writer_type, true);
}
