/* py_http_head.c - heads of responses.
 *
 * What the server adds to the fields of a handler is decided here: how the body is framed,
 * whether the connection goes on, the type of the content.
 */
#include "py_http.h"

#include <strings.h>

#include "rt_http1_sniff.h"

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
    if (http_out_reserve(&c->out, HEAD_ROOM + f.bytes + extra) < 0) {
        PyErr_NoMemory();
        return -1;
    }
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

int
http_head_add(http_writer *w, int64_t length, size_t extra, const char *body, size_t nbody)
{
    int r = add_own_head(w, length, extra, body, nbody);
    if (RT_UNLIKELY(http_lazy(&w->trailers) != NULL) && r == 0 && w->chunked)
        r = http_trailers_announce(w);
    return r;
}

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
http_head_init(PyObject *module)
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
    return PyModule_AddFunctions(module, functions);
}
