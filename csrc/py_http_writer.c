/* py_http_writer.c - ResponseWriter, and the framing of responses.
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

#include <strings.h>

#include "rt_http1_sniff.h"

#define MAX_BUFFER (64 * 1024)          /* bytes of body held back */
#define COPY_MAX (16 * 1024)            /* larger bodies are sent from where they are */
/* ---- pieces of a head ---- */

const char *
http_status_text(int status)
{
    switch (status) {
    case 100: return "Continue";
    case 101: return "Switching Protocols";
    case 102: return "Processing";
    case 103: return "Early Hints";
    case 104: return "Upload Resumption Supported";
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 203: return "Non-Authoritative Information";
    case 204: return "No Content";
    case 205: return "Reset Content";
    case 206: return "Partial Content";
    case 207: return "Multi-Status";
    case 208: return "Already Reported";
    case 226: return "IM Used";
    case 300: return "Multiple Choices";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 304: return "Not Modified";
    case 305: return "Use Proxy";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 402: return "Payment Required";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 407: return "Proxy Authentication Required";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 410: return "Gone";
    case 411: return "Length Required";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 416: return "Range Not Satisfiable";
    case 417: return "Expectation Failed";
    case 418: return "I'm a teapot";
    case 421: return "Misdirected Request";
    case 422: return "Unprocessable Content";
    case 423: return "Locked";
    case 424: return "Failed Dependency";
    case 425: return "Too Early";
    case 426: return "Upgrade Required";
    case 428: return "Precondition Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 451: return "Unavailable For Legal Reasons";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    case 506: return "Variant Also Negotiates";
    case 507: return "Insufficient Storage";
    case 508: return "Loop Detected";
    case 510: return "Not Extended";
    case 511: return "Network Authentication Required";
    default: return "";
    }
}

#define ADD_LITERAL(out, text) http_out_add(out, text, sizeof(text) - 1)

static void
add_number(http_out *out, uint64_t n)
{
    char digits[20];
    int i = sizeof(digits);
    do
        digits[--i] = (char)('0' + n % 10);
    while ((n /= 10) != 0);
    http_out_add(out, digits + i, sizeof(digits) - (size_t)i);
}

#define DATE_LEN 37

static void
make_date(char line[40], time_t when)
{
    static const char days[] = "SunMonTueWedThuFriSat";
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    struct tm tm;
    gmtime_r(&when, &tm);
    snprintf(line, 40, "Date: %.3s, %02d %.3s %04d %02d:%02d:%02d GMT\r\n",
             days + 3 * tm.tm_wday, tm.tm_mday, months + 3 * tm.tm_mon,
             (tm.tm_year + 1900) % 10000, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

/* "Date: ...\r\n", made once a second (RFC 9110 section 6.6.1). */
static void
add_date(http_out *out)
{
    http_cache *cache = http_cache_here();
    struct timespec now;
#ifdef CLOCK_REALTIME_COARSE
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
#else
    clock_gettime(CLOCK_REALTIME, &now);
#endif
    if (RT_UNLIKELY(cache == NULL)) {
        char line[40];
        make_date(line, now.tv_sec);
        http_out_add(out, line, DATE_LEN);
        return;
    }
    if (RT_UNLIKELY(now.tv_sec != cache->date_made)) {
        make_date(cache->date, now.tv_sec);
        cache->date_made = now.tv_sec;
    }
    http_out_add(out, cache->date, DATE_LEN);
}

void
http_add_status_line(http_out *out, int status)
{
    if (RT_LIKELY(status == 200)) {
        ADD_LITERAL(out, "HTTP/1.1 200 OK\r\n");
        return;
    }
    const char *text = http_status_text(status);
    ADD_LITERAL(out, "HTTP/1.1 ");
    add_number(out, (uint64_t)status);
    ADD_LITERAL(out, " ");
    http_out_add(out, text, strlen(text));
    ADD_LITERAL(out, "\r\n");
}

/* More than the fixed fields of any head take. */
#define HEAD_ROOM 320

/* ---- heads of handlers' responses ---- */

/* What the handler's own header fields say. */
typedef struct {
    size_t bytes;               /* room they need */
    int64_t length;             /* Content-Length, -1 none, -2 not a number, or two */
    bool type, date, close;
    bool coding;                /* Transfer-Encoding */
    bool bad_coding;            /* one that we do not send */
    bool encoded;               /* Content-Encoding: the body's bytes tell nothing */
} head_facts;

static bool
name_is(const char *name, Py_ssize_t n, const char *want)
{
    return (size_t)n == strlen(want) && strncasecmp(name, want, (size_t)n) == 0;
}

static bool
has_token(const char *v, Py_ssize_t n, const char *token)
{
    size_t nt = strlen(token);
    for (Py_ssize_t i = 0; i + (Py_ssize_t)nt <= n; i++)
        if (strncasecmp(v + i, token, nt) == 0
            && (i == 0 || v[i - 1] == ',' || v[i - 1] == ' ')
            && (i + (Py_ssize_t)nt == n || v[i + nt] == ',' || v[i + nt] == ' '))
            return true;
    return false;
}

/* Fields that frame the message: the writer sends its own. */
static bool
is_framing(const char *name, Py_ssize_t n)
{
    return name_is(name, n, "content-length") || name_is(name, n, "transfer-encoding")
           || name_is(name, n, "connection");
}

static int
collect(void *arg, const char *name, Py_ssize_t n, const char *value, Py_ssize_t nv)
{
    head_facts *f = arg;
    f->bytes += (size_t)(n + nv) + 4;
    if (name_is(name, n, "content-type"))
        f->type = true;
    else if (name_is(name, n, "content-encoding"))
        f->encoded = f->encoded || nv != 0;
    else if (name_is(name, n, "date"))
        f->date = true;
    else if (name_is(name, n, "connection")) {
        f->close = f->close || has_token(value, nv, "close");
    }
    else if (name_is(name, n, "transfer-encoding")) {
        f->bad_coding = f->coding || !name_is(value, nv, "chunked");
        f->coding = true;
    }
    else if (name_is(name, n, "content-length")) {
        int64_t length = f->length == -1 ? 0 : -2;
        for (Py_ssize_t i = 0; i < nv && length >= 0; i++)
            length = value[i] < '0' || value[i] > '9' || i > 17 ? -2
                                                                : length * 10 + (value[i] - '0');
        f->length = nv ? length : -2;
    }
    return 0;
}

static int
add_field(void *arg, const char *name, Py_ssize_t n, const char *value, Py_ssize_t nv)
{
    http_out *out = arg;
    /* Connection: what is not about this connection's end goes with the field it names. */
    if (is_framing(name, n)
        && (!name_is(name, n, "connection") || has_token(value, nv, "close")
            || has_token(value, nv, "keep-alive")))
        return 0;
    /* An empty Content-Type is how a handler asks for none. */
    if (nv == 0 && name_is(name, n, "content-type"))
        return 0;
    http_out_add(out, name, (size_t)n);
    ADD_LITERAL(out, ": ");
    http_out_add(out, value, (size_t)nv);
    ADD_LITERAL(out, "\r\n");
    return 0;
}

/* Fields that describe content, and go where other content takes its place. */
static const char *const content_fields[] = {
    "Content-Type", "Content-Length", "Content-Encoding", "Content-Language", "Content-Location",
    "Content-Disposition", "Content-Range", "Content-Digest", "Content-MD5", "Repr-Digest",
    "Digest", "Accept-Ranges", "Cache-Control", "ETag", "Expires", "Last-Modified",
    "Transfer-Encoding",
};
#define NCONTENT_FIELDS (sizeof(content_fields) / sizeof(*content_fields))

static int
add_lasting_field(void *arg, const char *name, Py_ssize_t n, const char *value, Py_ssize_t nv)
{
    for (size_t i = 0; i < NCONTENT_FIELDS; i++)
        if (name_is(name, n, content_fields[i]))
            return 0;
    if (name_is(name, n, "date"))
        return 0;
    return add_field(arg, name, n, value, nv);
}

/* headers: those of a handler, held, or NULL. */
static int
add_simple(http_conn *c, int status, const char *text, const char *fields, PyObject *headers)
{
    head_facts f = {.length = -1};
    if (headers != NULL)
        http_headers_each(headers, collect, &f);
    if (f.close)
        c->close_after = true;
    const char *reason = http_status_text(status);
    bool head_only = c->req != NULL && c->req->head.method_id == RT_HM_HEAD;
    size_t n = strlen(reason) + 1 + (text ? strlen(text) + 2 : 0);
    http_out *out = &c->out;
    if (http_out_reserve(out, HEAD_ROOM + f.bytes + n) < 0)
        return -1;
    http_add_status_line(out, status);
    add_date(out);
    ADD_LITERAL(out, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: ");
    add_number(out, n);
    ADD_LITERAL(out, "\r\n");
    http_out_add(out, fields, strlen(fields));
    if (headers != NULL)
        http_headers_each(headers, add_lasting_field, out);
    if (c->close_after)
        ADD_LITERAL(out, "Connection: close\r\n");
    ADD_LITERAL(out, "\r\n");
    if (head_only)
        return 0;
    http_out_add(out, reason, strlen(reason));
    if (text != NULL) {
        ADD_LITERAL(out, ": ");
        http_out_add(out, text, strlen(text));
    }
    ADD_LITERAL(out, "\n");
    return 0;
}

int
http_simple_response(http_conn *c, int status, const char *text, const char *fields)
{
    return add_simple(c, status, text, fields, NULL);
}

int
http_error_response(http_writer *w, int status)
{
    PyObject *headers = http_lazy(&w->headers);
    if (headers == NULL)
        return add_simple(w->conn, status, NULL, "", NULL);
    http_headers_acquire(headers);
    int r = add_simple(w->conn, status, NULL, "", headers);
    http_headers_release(headers);
    return r;
}

static int
no_memory(void)
{
    PyErr_NoMemory();
    return -1;
}

/* The handler's fields would frame the message in a way that is not ours. */
static RT_COLD int
refuse_framing(const head_facts *f)
{
    if (f->length == -2)
        PyErr_SetString(PyExc_ValueError, "Content-Length must be a number of bytes, once");
    else if (f->length >= 0)
        PyErr_SetString(PyExc_ValueError, "Content-Length and Transfer-Encoding exclude each "
                        "other (RFC 9112 6.2)");
    else if (f->bad_coding)
        PyErr_SetString(PyExc_ValueError, "Transfer-Encoding is the server's affair: a handler "
                        "may only set it to \"chunked\"");
    else
        return 0;
    return -1;
}

static void
add_type(http_out *out, const char *type)
{
    if (RT_LIKELY(type == rt_http1_text)) {
        ADD_LITERAL(out, "Content-Type: text/plain; charset=utf-8\r\n");
        return;
    }
    ADD_LITERAL(out, "Content-Type: ");
    http_out_add(out, type, strlen(type));
    ADD_LITERAL(out, "\r\n");
}

static inline int
add_head_locked(http_writer *w, PyObject *headers, int64_t length, size_t extra,
                const char *body, size_t nbody)
{
    http_conn *c = w->conn;
    const rt_http1_req *req = &c->req->head;
    head_facts f = {.length = -1};
    if (headers != NULL)
        http_headers_each(headers, collect, &f);
    if (RT_UNLIKELY(f.length == -2 || f.coding) && refuse_framing(&f) < 0)
        return -1;
    if (w->status == 0)
        w->status = 200;
    bool bodyless = w->status == 204 || w->status == 304 || w->status == 101;
    w->no_body = bodyless || req->method_id == RT_HM_HEAD || w->status == 205;
    bool tunnel = RT_UNLIKELY(req->method_id == RT_HM_CONNECT) && w->status < 300;
    if (RT_UNLIKELY(w->status == 205))
        f.length = 0;           /* RFC 9110 15.3.6: no content, and the length says so */
    if (RT_UNLIKELY(tunnel))
        f.length = -1;          /* RFC 9110 9.3.6: no framing; the connection's end ends it */
    w->declared = f.length;
    if (length >= 0 && f.length >= 0 && f.length != length && !w->no_body) {
        PyErr_Format(PyExc_ValueError,
                     "the handler declared Content-Length %lld and wrote %lld bytes",
                     (long long)f.length, (long long)length);
        return -1;
    }
    if (f.close || RT_LOAD(c->server->retiring))
        c->close_after = true;
    if (RT_UNLIKELY(c->continue_due)) {
        /* Too late to ask for the body; it may come or not (RFC 9110 section 10.1.1). */
        c->continue_due = false;
        c->close_after = true;
    }
    /* A request body too large to skip would delay the next request. */
    if (!c->body_done && !c->chunked && c->body_left > 256 * 1024)
        c->close_after = true;
    if (length < 0 && f.length < 0 && !w->no_body && !tunnel) {
        if (req->minor >= 1)
            w->chunked = true;
        else
            c->close_after = true;      /* the end of the stream ends the body */
    }
    if (http_out_reserve(&c->out, HEAD_ROOM + f.bytes + extra) < 0)
        return no_memory();
    http_out *out = &c->out;
    http_add_status_line(out, w->status);
    if (!f.date)
        add_date(out);
    if (!f.type && !f.encoded && !bodyless && !tunnel) {
        if (w->is_json)
            ADD_LITERAL(out, "Content-Type: application/json\r\n");
        else if (nbody != 0 || w->is_text)
            add_type(out, rt_http1_sniff(body, nbody));
    }
    if (headers != NULL)
        http_headers_each(headers, add_field, out);
    int64_t announced = f.length >= 0 ? f.length : length;
    if (req->method_id == RT_HM_HEAD && f.length < 0 && w->written == 0)
        announced = -1;         /* the length a GET would have is not known */
    if (w->chunked)
        ADD_LITERAL(out, "Transfer-Encoding: chunked\r\n");
    else if (announced >= 0 && !bodyless && !tunnel) {
        ADD_LITERAL(out, "Content-Length: ");
        add_number(out, (uint64_t)announced);
        ADD_LITERAL(out, "\r\n");
    }
    if (RT_UNLIKELY(c->close_after)) {
        if (!w->hijack)         /* what comes of it is the handler's affair */
            ADD_LITERAL(out, "Connection: close\r\n");
    }
    else if (RT_UNLIKELY(req->minor == 0))
        ADD_LITERAL(out, "Connection: keep-alive\r\n");
    ADD_LITERAL(out, "\r\n");
    w->head_sent = true;
    return 0;
}

/* Write the head into c->out.  length: of the whole body, or -1: it will be
   streamed.  extra: bytes of body the caller will add.  body: how it begins, as far as
   that is known. */
static int
add_own_head(http_writer *w, int64_t length, size_t extra, const char *body, size_t nbody)
{
    PyObject *headers = http_lazy(&w->headers);
    if (RT_LIKELY(headers == NULL))
        return add_head_locked(w, NULL, length, extra, body, nbody);
    http_headers_acquire(headers);
    int r = add_head_locked(w, headers, length, extra, body, nbody);
    http_headers_release(headers);
    return r;
}

static int
add_head(http_writer *w, int64_t length, size_t extra, const char *body, size_t nbody)
{
    int r = add_own_head(w, length, extra, body, nbody);
    if (RT_UNLIKELY(http_lazy(&w->trailers) != NULL) && r == 0 && w->chunked)
        r = http_trailers_announce(w);
    return r;
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
        ADD_LITERAL(&c->out, "\r\n");
    }
    return 0;
}

/* http_writer_begin() where it has not been done. */
static int
start(http_writer *w, const char *next, size_t nnext, PyObject **drop)
{
    Py_ssize_t nheld = w->buf_len;
    const char *held = w->first ? object_bytes(w->first, &nheld) : w->buf;
    if (add_head(w, -1, 0, nheld ? held : next, nheld ? (size_t)nheld : nnext) < 0)
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
    if (add_head(w, n, copy ? (size_t)n : 0, data, (size_t)n) < 0)
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

static PyObject *
m_status_text(PyObject *Py_UNUSED(module), PyObject *arg)
{
    long status = PyLong_AsLong(arg);
    if (status == -1 && PyErr_Occurred())
        return NULL;
    return PyUnicode_FromString(http_status_text((int)status));
}

static PyMethodDef functions[] = {
    {"_status_text", m_status_text, METH_O, NULL},
    {0},
};

int
http_writer_init(PyObject *module)
{
    PyObject *names = PyTuple_New(NCONTENT_FIELDS);
    for (size_t i = 0; names != NULL && i < NCONTENT_FIELDS; i++) {
        PyObject *name = PyUnicode_FromString(content_fields[i]);
        if (name == NULL)
            Py_CLEAR(names);
        else
            PyTuple_SET_ITEM(names, (Py_ssize_t)i, name);
    }
    int r = names ? PyModule_AddObjectRef(module, "_CONTENT_FIELDS", names) : -1;
    Py_XDECREF(names);
    if (r < 0)
        return -1;
    if (PyModule_AddFunctions(module, functions) < 0)
        return -1;
    return py_add_type(module, &spec, &core->writer_type, true);
}
