/* py_http_informational.c - 1xx responses (RFC 9110 section 15.2).
 *
 * They leave at once, between what earlier requests on the connection were answered and
 * the final response.  101 is not among them: it is the last thing HTTP has to say, so it
 * is the final status of a response that is hijacked.
 */
#include "py_http.h"

#include <strings.h>

static int
measure(void *arg, const char *name, Py_ssize_t n, const char *value, Py_ssize_t nv)
{
    static const char *const framing[] = {"content-length", "transfer-encoding"};
    (void)value;
    for (size_t i = 0; i < RT_ARRAY_LEN(framing); i++)
        if ((size_t)n == strlen(framing[i]) && strncasecmp(name, framing[i], (size_t)n) == 0)
            return -1;
    *(size_t *)arg += (size_t)(n + nv) + 4;
    return 0;
}

static int
add_field(void *arg, const char *name, Py_ssize_t n, const char *value, Py_ssize_t nv)
{
    http_out *out = arg;
    http_out_add(out, name, (size_t)n);
    http_out_add(out, ": ", 2);
    http_out_add(out, value, (size_t)nv);
    http_out_add(out, "\r\n", 2);
    return 0;
}

/* headers: ours alone, or NULL. */
static int
send_locked(http_writer *w, http_conn *c, long status, PyObject *headers)
{
    size_t room = 64 + 4;
    if (w->head_sent) {
        PyErr_Format(PyExc_RuntimeError, "write_informational(%ld): the response has begun "
                     "already, with status %d", status, w->status);
        return -1;
    }
    if (headers != NULL && http_headers_each(headers, measure, &room) < 0) {
        PyErr_Format(PyExc_ValueError, "write_informational(%ld): it has no body, so neither "
                     "Content-Length nor Transfer-Encoding (RFC 9110 8.6, RFC 9112 6.1)", status);
        return -1;
    }
    if (c->req->head.minor == 0)
        return 0;
    if (http_out_reserve(&c->out, room) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    if (status == 100)
        c->continue_due = false;
    http_add_status_line(&c->out, (int)status);
    if (headers != NULL)
        http_headers_each(headers, add_field, &c->out);
    http_out_add(&c->out, "\r\n", 2);
    return http_send(c, NULL, 0);
}

PyObject *
http_writer_informational(http_writer *w, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"status", "headers", NULL};
    long status;
    PyObject *fields = Py_None, *headers = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "l|O:write_informational", names, &status,
                                     &fields))
        return NULL;
    if (status < 100 || status > 199 || status == 101) {
        PyErr_Format(PyExc_ValueError, "write_informational(%ld): want 100, or 102 to 199",
                     status);
        return NULL;
    }
    if (fields != Py_None && (headers = http_headers_copy(fields)) == NULL)
        return NULL;
    http_conn *c = http_writer_enter(w);
    int r = -1;
    if (c != NULL) {
        r = send_locked(w, c, status, headers);
        py_release(&c->lock);
    }
    Py_XDECREF(headers);
    if (r < 0)
        return NULL;
    Py_RETURN_NONE;
}
