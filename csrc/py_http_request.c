/* py_http_request.c - Request: the type, and its attributes; see py_http_request.h. */
#include "py_http_request.h"

static PyObject *
get_method(http_request *r, void *Py_UNUSED(closure))
{
    if (RT_LIKELY(r->head.method_id != RT_HM_OTHER))
        return Py_NewRef(core->http_methods[r->head.method_id]);
    PyObject *method = http_lazy(&r->method);
    if (method != NULL)
        return Py_NewRef(method);
    method = http_request_slice(r, r->head.method);
    if (method != NULL)
        PyUnicode_InternInPlace(&method);
    return http_request_keep(r, &r->method, method);
}

static PyObject *
get_raw_query(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *query = http_lazy(&r->raw_query);
    return query ? Py_NewRef(query)
                 : http_request_keep(r, &r->raw_query, http_request_slice(r, r->head.query));
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
    return http_request_keep(r, &r->query, query);
}

static PyObject *
get_target(http_request *r, void *Py_UNUSED(closure))
{
    return http_request_slice(r, r->head.target);
}

static PyObject *
get_headers(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *headers = http_lazy(&r->headers);
    return headers ? Py_NewRef(headers)
                   : http_request_keep(r, &r->headers, http_headers_of_request(r));
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

PyObject *
http_request_known_addr(http_request *r)
{
    return http_request_load(r, &r->remote_addr);
}

PyObject *
http_request_remote_addr(http_request *r)
{
    PyObject *addr = http_request_load(r, &r->remote_addr);
    if (addr == NULL && (addr = http_conn_addr(r->conn)) != NULL)
        addr = http_request_fill(r, &r->remote_addr, addr);
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
    http_request_store(r, &r->remote_addr, Py_NewRef(value));
    return 0;
}

PyObject *
http_request_host(http_request *r)
{
    PyObject *host = http_request_load(r, &r->host);
    if (host == NULL && (host = http_request_slice(r, r->head.host)) != NULL)
        host = http_request_fill(r, &r->host, host);
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
    http_request_store(r, &r->host, Py_NewRef(value));
    return 0;
}

static PyObject *
get_scheme(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *scheme = http_request_load(r, &r->scheme);
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
    http_request_store(r, &r->scheme, Py_NewRef(value));
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
    return state ? Py_NewRef(state) : http_request_keep(r, &r->state, PyDict_New());
}

static PyObject *
get_state(http_request *r, void *Py_UNUSED(closure))
{
    return http_request_state(r);
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

static PyObject *
get_context(http_request *r, void *Py_UNUSED(closure))
{
    return http_request_context(r);
}

static PyMethodDef methods[] = {
    {"path_value", (PyCFunction)http_request_method_path_value, METH_O,
     "path_value($self, name, /)\n--\n\n"
     "What the wildcard {name} of the matched pattern stood for; \"\" if there is none.\n\n"
     "A str, percent-decoded, or what the wildcard's converter made of it.\n"
     "Go: Request.PathValue."},
    {"set_path_value", (PyCFunction)(void (*)(void))http_request_method_set_path_value,
     METH_FASTCALL,
     "set_path_value($self, name, value, /)\n--\n\n"
     "Have path_value(name) return value from now on.  Go: Request.SetPathValue."},
    {"_strip", (PyCFunction)http_request_method_strip, METH_O, NULL},
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
    {"json", (PyCFunction)http_request_method_json, METH_NOARGS,
     "json($self, /)\n--\n\n"
     "Read the body and decode it as JSON.\n\n"
     "Raises BadRequestError where it is not JSON; uncaught, that is a 400."},
    {"form", (PyCFunction)http_request_method_form, METH_NOARGS,
     "form($self, /)\n--\n\n"
     "Read the body as a form and return its values, those of the query after them.\n\n"
     "The body may be application/x-www-form-urlencoded, of up to 10 MiB, or\n"
     "multipart/form-data, whose files are then in multipart_form(); of another type it is\n"
     "left alone.  Raises BadRequestError and BodyTooLargeError; uncaught, those are a 400 and\n"
     "a 413.  Go: Request.ParseMultipartForm and Request.Form."},
    {"post_form", (PyCFunction)http_request_method_post_form, METH_NOARGS,
     "post_form($self, /)\n--\n\n"
     "As form(), without the values of the query.  Go: Request.PostForm."},
    {"multipart_form", (PyCFunction)(void (*)(void))http_request_method_multipart_form,
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
    {"multipart", (PyCFunction)(void (*)(void))http_request_method_multipart,
     METH_VARARGS | METH_KEYWORDS,
     "multipart($self, /, *, max_parts=1000)\n--\n\n"
     "Read a multipart/form-data body as it arrives: an iterator of its Parts.\n\n"
     "    for part in r.multipart():\n"
     "        for piece in part: ...\n\n"
     "Nothing is kept: going on to the next part skips what is left of the last.  Raises as\n"
     "multipart_form() does.  Go: Request.MultipartReader."},
    {"with_context", (PyCFunction)http_request_method_with_context, METH_O,
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
    {"path", (getter)http_request_get_path, NULL, "The path, percent-decoded.", NULL},
    {"raw_path", (getter)http_request_get_raw_path, NULL, "The path as it was sent.", NULL},
    {"stripped", (getter)http_request_get_stripped, NULL,
     "What strip_prefix() or ServeMux.mount() has taken off the front of raw_path.", NULL},
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
    {"body", (getter)http_request_get_body, (setter)http_request_set_body,
     "The body, to be read while the handler runs.  Another reader can be put in its place,\n"
     "with the methods read(n=-1) and read_into(buffer): json(), form() and multipart() use it.",
     NULL},
    {"pattern", (getter)http_request_get_pattern, (setter)http_request_set_pattern,
     "The pattern that the mux matched; \"\" without one.", NULL},
    {"path_values", (getter)http_request_get_path_values, (setter)http_request_set_path_values,
     "What the wildcards of the pattern stood for.", NULL},
    {0},
};
static PyType_Slot slots[] = {
    {Py_tp_dealloc, http_request_dealloc},
    {Py_tp_traverse, http_request_traverse},
    {Py_tp_clear, http_request_clear},
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
