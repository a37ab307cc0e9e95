/* py_http_log.c - lines of the access log: what the middleware access_log makes of each
 * request in the formats that it knows.
 *
 * What clients have sent is escaped as in JSON, in all formats: a line is ASCII, has no line
 * end and no quote of its own.
 */
#include "py_http.h"

enum {                          /* as in http/middleware/accesslog.py */
    LOG_COMMON,
    LOG_COMBINED,
    LOG_JSON
};

/* ---- a text that grows ---- */

typedef struct {
    char *data;                 /* first, or PyMem */
    size_t len, cap;
    bool failed;                /* out of memory: what is added is lost */
    bool word;                  /* spaces are escaped, too */
    char first[1024];
} text;

static RT_NOINLINE bool
reserve_slow(text *t, size_t n)
{
    size_t cap = (t->len + n) * 2;
    char *data = t->failed ? NULL : PyMem_Malloc(cap);
    if (data == NULL) {
        t->failed = true;
        return false;
    }
    memcpy(data, t->data, t->len);
    if (t->data != t->first)
        PyMem_Free(t->data);
    t->data = data;
    t->cap = cap;
    return true;
}

static inline bool
reserve(text *t, size_t n)
{
    return RT_LIKELY(t->cap - t->len >= n) || reserve_slow(t, n);
}

static inline void
add(text *t, const char *s, size_t n)
{
    if (!reserve(t, n))
        return;
    memcpy(t->data + t->len, s, n);
    t->len += n;
}
#define ADD(t, literal) add(t, literal, sizeof(literal) - 1)

static void
add_number(text *t, long long n)
{
    char digits[24];
    int at = sizeof(digits);
    bool minus = n < 0;
    unsigned long long left = minus ? 0 - (unsigned long long)n : (unsigned long long)n;
    do
        digits[--at] = (char)('0' + left % 10);
    while ((left /= 10) != 0);
    if (minus)
        digits[--at] = '-';
    add(t, digits + at, sizeof(digits) - (size_t)at);
}

/* As "%.6f" has it. */
static void
add_micros(text *t, long long micros)
{
    char fraction[7] = ".000000";
    if (micros < 0) {
        ADD(t, "-");
        micros = -micros;
    }
    add_number(t, micros / 1000000);
    for (int i = 6, left = (int)(micros % 1000000); left != 0; left /= 10)
        fraction[i--] = (char)('0' + left % 10);
    add(t, fraction, sizeof(fraction));
}

static void
add_escape(text *t, unsigned unit)
{
    const char *in = "\b\t\n\f\r\"\\", *out = "btnfr\"\\";
    const char *found = unit < 128 && unit != 0 ? strchr(in, (int)unit) : NULL;
    char s[6] = {'\\', found ? out[found - in] : 'u'};
    for (int i = 0; i < 4; i++)
        s[2 + i] = "0123456789abcdef"[unit >> (12 - 4 * i) & 15];
    add(t, s, found ? 2 : 6);
}

static inline bool
is_plain(const text *t, unsigned char c)
{
    return c >= ' ' + t->word && c <= '~' && c != '"' && c != '\\';
}

/* Latin-1, as it came. */
static void
add_escaped(text *t, const char *s, size_t n)
{
    size_t begin = 0;
    for (size_t i = 0; i < n; i++)
        if (RT_UNLIKELY(!is_plain(t, (unsigned char)s[i]))) {
            add(t, s + begin, i - begin);
            add_escape(t, (unsigned char)s[i]);
            begin = i + 1;
        }
    add(t, s + begin, n - begin);
}

/* A str, without its last `less` characters. */
static void
add_escaped_str(text *t, PyObject *str, Py_ssize_t less)
{
    if (PyUnicode_READY(str) < 0)
        return;
    int kind = PyUnicode_KIND(str);
    const void *data = PyUnicode_DATA(str);
    Py_ssize_t n = PyUnicode_GET_LENGTH(str) - less;
    if (RT_LIKELY(kind == PyUnicode_1BYTE_KIND)) {
        add_escaped(t, data, (size_t)n);
        return;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_UCS4 c = PyUnicode_READ(kind, data, i);
        if (c < 128 && is_plain(t, (unsigned char)c))
            add(t, &(char){(char)c}, 1);
        else if (c < 0x10000)
            add_escape(t, c);
        else {
            add_escape(t, 0xd800 + ((c - 0x10000) >> 10));
            add_escape(t, 0xdc00 + (c & 0x3ff));
        }
    }
}

/* ---- what there is to say of a request ---- */

static inline void
add_slice(text *t, http_request *r, rt_slice s)
{
    add_escaped(t, r->base + s.off, s.len);
}

static void
add_field(text *t, http_request *r, const char *name)
{
    http_value value;
    if (!http_request_value(r, name, strlen(name), &value))
        return;
    add_escaped(t, value.s, value.n);
    Py_XDECREF(value.owner);
}

static void
add_proto(text *t, http_request *r)
{
    add(t, r->head.minor ? "HTTP/1.1" : "HTTP/1.0", 8);
}

/* The client's address without the port, in buf; or a new reference to a str whose first *n
   characters it is, where it is one already. */
static PyObject *
find_client(http_request *r, char buf[static HTTP_MAX_ADDR], size_t *n)
{
    PyObject *addr = http_request_known_addr(r);
    if (addr == NULL && r->conn->stream != NULL)
        addr = Py_NewRef(http_stream_remote_addr(r->conn));
    if (addr == NULL)
        http_conn_addr_text(r->conn, buf, n);
    else {
        Py_ssize_t all = PyUnicode_GetLength(addr);
        Py_ssize_t colon = PyUnicode_FindChar(addr, ':', 0, all, -1);
        *n = (size_t)(colon > 0 ? colon : all);
    }
    return addr;
}

static void
add_client(text *t, http_request *r)
{
    char buf[HTTP_MAX_ADDR];
    size_t n;
    PyObject *addr = find_client(r, buf, &n);
    if (addr == NULL)
        add(t, buf, n);
    else
        add_escaped_str(t, addr, PyUnicode_GET_LENGTH(addr) - (Py_ssize_t)n);
    Py_XDECREF(addr);
}

/* r.state.get(name), a new reference, or NULL. */
static PyObject *
get_state(http_request *r, PyObject *name)
{
    PyObject *state = http_lazy(&http_request_root(r)->state), *value = NULL;
    if (state != NULL && !PyErr_Occurred())
        (void)py_dict_get(state, name, &value);
    return value;
}

static void
add_user(text *t, http_request *r)
{
    PyObject *user = get_state(r, core->http_names.user);
    if (user != NULL && PyUnicode_Check(user))
        add_escaped_str(t, user, 0);
    Py_XDECREF(user);
}

static void
add_trace(text *t, http_request *r)
{
    PyObject *trace = get_state(r, core->http_names.trace), *id = NULL;
    if (trace != NULL && trace != Py_None)
        id = PyObject_GetAttr(trace, core->http_names.trace_id);
    if (id != NULL && PyUnicode_Check(id))
        add_escaped_str(t, id, 0);
    else if (id != NULL)
        PyErr_Format(PyExc_TypeError, "access log: the trace_id of a request is a str, not %.200s",
                     Py_TYPE(id)->tp_name);
    Py_XDECREF(id);
    Py_XDECREF(trace);
}

static void
add_route(text *t, http_request *r)
{
    PyObject *pattern = http_request_pattern(r);
    if (pattern != NULL)
        add_escaped_str(t, pattern, 0);
    Py_XDECREF(pattern);
}

/* ---- formats ---- */

/* Nothing since `begin`: a dash says so. */
static void
mark_absence(text *t, size_t begin)
{
    if (t->len == begin)
        ADD(t, "-");
}

/* The time in brackets; made once a second. */
static void
add_clock(text *t, time_t now)
{
    static _Thread_local struct {
        time_t at;
        int len;                /* 0: not made yet */
        char text[48];
    } made;
    if (made.len == 0 || made.at != now) {
        static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
        struct tm tm;
        if (localtime_r(&now, &tm) == NULL)
            memset(&tm, 0, sizeof(tm));
        long minutes = tm.tm_gmtoff / 60, off = minutes < 0 ? -minutes : minutes;
        made.len = snprintf(made.text, sizeof(made.text),
                            "[%02d/%.3s/%d:%02d:%02d:%02d %c%02ld%02ld]", tm.tm_mday,
                            months + 3 * tm.tm_mon, tm.tm_year + 1900, tm.tm_hour, tm.tm_min,
                            tm.tm_sec, minutes < 0 ? '-' : '+', off / 60, off % 60);
        made.at = now;
    }
    add(t, made.text, (size_t)made.len);
}

static void
add_common(text *t, http_request *r, long status, long long size, const struct timespec *now)
{
    size_t begin = t->len;
    t->word = true;
    add_client(t, r);
    mark_absence(t, begin);
    ADD(t, " - ");
    begin = t->len;
    add_user(t, r);
    mark_absence(t, begin);
    t->word = false;
    ADD(t, " ");
    add_clock(t, now->tv_sec);
    ADD(t, " \"");
    add_slice(t, r, r->head.method);
    ADD(t, " ");
    begin = t->len;
    add_slice(t, r, r->head.target);
    mark_absence(t, begin);
    ADD(t, " ");
    add_proto(t, r);
    ADD(t, "\" ");
    add_number(t, status);
    ADD(t, " ");
    if (size != 0)
        add_number(t, size);
    else
        ADD(t, "-");
}

static void
add_quoted_field(text *t, http_request *r, const char *name)
{
    ADD(t, " \"");
    size_t begin = t->len;
    add_field(t, r, name);
    mark_absence(t, begin);
    ADD(t, "\"");
}

static void
add_json(text *t, http_request *r, long status, long long size, double seconds,
         const struct timespec *now)
{
    ADD(t, "{\"time\":");
    add_micros(t, (long long)now->tv_sec * 1000000 + now->tv_nsec / 1000);
    ADD(t, ",\"client\":\"");
    add_client(t, r);
    ADD(t, "\",\"user\":\"");
    add_user(t, r);
    ADD(t, "\",\"method\":\"");
    add_slice(t, r, r->head.method);
    ADD(t, "\",\"target\":\"");
    add_slice(t, r, r->head.target);
    ADD(t, "\",\"route\":\"");
    add_route(t, r);
    ADD(t, "\",\"proto\":\"");
    add_proto(t, r);
    ADD(t, "\",\"status\":");
    add_number(t, status);
    ADD(t, ",\"size\":");
    add_number(t, size);
    ADD(t, ",\"duration\":");
    add_micros(t, (long long)(seconds * 1e6 + 0.5));
    ADD(t, ",\"referer\":\"");
    add_field(t, r, "Referer");
    ADD(t, "\",\"agent\":\"");
    add_field(t, r, "User-Agent");
    ADD(t, "\",\"trace\":\"");
    add_trace(t, r);
    ADD(t, "\"}");
}

/* _access_line(format, r, status, size, seconds): a line without its end. */
static PyObject *
m_access_line(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 5) {
        PyErr_SetString(PyExc_TypeError,
                        "wrong arguments: _access_line(format, r, status, size, seconds)");
        return NULL;
    }
    if (http_request_check(args[1], "access_log()") < 0)
        return NULL;
    long format = PyLong_AsLong(args[0]), status = PyLong_AsLong(args[2]);
    long long size = PyLong_AsLongLong(args[3]);
    double seconds = PyFloat_AsDouble(args[4]);
    if (PyErr_Occurred())
        return NULL;
    http_request *r = (http_request *)args[1];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    text t;
    t.data = t.first;
    t.len = 0;
    t.cap = sizeof(t.first);
    t.failed = t.word = false;
    if (format == LOG_JSON)
        add_json(&t, r, status, size, seconds, &now);
    else
        add_common(&t, r, status, size, &now);
    if (format == LOG_COMBINED) {
        add_quoted_field(&t, r, "Referer");
        add_quoted_field(&t, r, "User-Agent");
    }
    PyObject *line = NULL;
    if (t.failed)
        PyErr_NoMemory();
    else if (!PyErr_Occurred() && (line = PyUnicode_New((Py_ssize_t)t.len, 127)) != NULL)
        memcpy(PyUnicode_1BYTE_DATA(line), t.data, t.len);
    if (t.data != t.first)
        PyMem_Free(t.data);
    return line;
}

/* ---- fields, for a record of logging ---- */

#define NFIELDS 13              /* _FIELDS of http/middleware/accesslog.py */

static PyObject *
latin1(http_request *r, rt_slice s)
{
    return PyUnicode_DecodeLatin1(r->base + s.off, s.len, NULL);
}

static PyObject *
field_str(http_request *r, const char *name)
{
    http_value value;
    if (!http_request_value(r, name, strlen(name), &value))
        return PyUnicode_New(0, 0);
    PyObject *str = value.owner ? Py_NewRef(value.owner)
                                : PyUnicode_DecodeLatin1(value.s, (Py_ssize_t)value.n, NULL);
    Py_XDECREF(value.owner);
    return str;
}

static PyObject *
client_str(http_request *r)
{
    char buf[HTTP_MAX_ADDR];
    size_t n;
    PyObject *addr = find_client(r, buf, &n);
    if (addr == NULL)
        return PyUnicode_DecodeLatin1(buf, (Py_ssize_t)n, NULL);
    Py_SETREF(addr, PyUnicode_Substring(addr, 0, (Py_ssize_t)n));
    return addr;
}

/* r.state's user, if that is a str, or the id of its trace; or "". */
static PyObject *
state_str(http_request *r, PyObject *name)
{
    PyObject *value = get_state(r, name);
    if (value != NULL && name == core->http_names.trace && value != Py_None)
        Py_SETREF(value, PyObject_GetAttr(value, core->http_names.trace_id));
    if (value == NULL && PyErr_Occurred())
        return NULL;
    if (value != NULL && PyUnicode_Check(value))
        return value;
    Py_XDECREF(value);
    return PyUnicode_New(0, 0);
}

/* Takes the value over, which may be NULL.  False: an exception is set. */
static inline bool
put(PyObject *fields, Py_ssize_t i, PyObject *value)
{
    PyTuple_SET_ITEM(fields, i, value);
    return value != NULL;
}

/* _access_fields(r, status, size, seconds): a tuple of what an AccessEntry has. */
static PyObject *
m_access_fields(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4) {
        PyErr_SetString(PyExc_TypeError,
                        "wrong arguments: _access_fields(r, status, size, seconds)");
        return NULL;
    }
    if (http_request_check(args[0], "access_log()") < 0)
        return NULL;
    http_request *r = (http_request *)args[0];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    PyObject *fields = PyTuple_New(NFIELDS), *pattern = http_request_pattern(r);
    Py_ssize_t i = 0;
    bool ok = fields != NULL
              && put(fields, i++, PyFloat_FromDouble((double)now.tv_sec
                                                     + (double)now.tv_nsec * 1e-9))
              && put(fields, i++, client_str(r))
              && put(fields, i++, latin1(r, r->head.method))
              && put(fields, i++, latin1(r, r->head.target))
              && put(fields, i++, PyUnicode_FromString(r->head.minor ? "HTTP/1.1" : "HTTP/1.0"))
              && put(fields, i++, pattern ? Py_NewRef(pattern) : PyUnicode_New(0, 0))
              && put(fields, i++, Py_NewRef(args[1])) && put(fields, i++, Py_NewRef(args[2]))
              && put(fields, i++, Py_NewRef(args[3]))
              && put(fields, i++, state_str(r, core->http_names.user))
              && put(fields, i++, state_str(r, core->http_names.trace))
              && put(fields, i++, field_str(r, "Referer"))
              && put(fields, i++, field_str(r, "User-Agent"));
    Py_XDECREF(pattern);
    if (!ok)
        Py_CLEAR(fields);
    return fields;
}

static PyMethodDef functions[] = {
    {"_access_fields", (PyCFunction)(void (*)(void))m_access_fields, METH_FASTCALL, NULL},
    {"_access_line", (PyCFunction)(void (*)(void))m_access_line, METH_FASTCALL, NULL},
    {0},
};

int
http_log_init(PyObject *module)
{
    core->http_names.user = PyUnicode_InternFromString("user");
    core->http_names.trace_id = PyUnicode_InternFromString("trace_id");
    if (core->http_names.user == NULL || core->http_names.trace_id == NULL)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
