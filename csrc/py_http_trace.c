/* py_http_trace.c - ids of requests, as W3C Trace Context has them: what the middleware
 * request_id does for each request.
 *
 * Ids must be unique, not secret.  A system call for each would cost more than all the rest,
 * so they come from xoshiro256** (Blackman and Vigna), one generator a thread: no lock, and
 * with 256 bits of seed from the kernel no two threads or machines meet.
 */
#include "py_http.h"

#include <sys/random.h>

#define TRACE_DIGITS 32
#define PARENT_DIGITS 16
#define TRACEPARENT_LEN 55      /* of version 00; a later one may have more after it */

/* ---- random numbers ---- */

static _Thread_local struct {
    uint64_t s[4];
    uint32_t forks;             /* core->forks when it was seeded: a child must not go on with
                                   its parent's */
    bool seeded;
} generator;

static inline uint64_t
rotl(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

static uint64_t
next_random(void)
{
    uint64_t *s = generator.s, result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

static RT_COLD int
seed_slow(void)
{
    do {
        if (getentropy(generator.s, sizeof(generator.s)) < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
    } while ((generator.s[0] | generator.s[1] | generator.s[2] | generator.s[3]) == 0);
    generator.forks = core->forks;
    generator.seeded = true;
    return 0;
}

/* 16 random digits, which are not all 0. */
static void
add_random(char *digits)
{
    uint64_t n;
    do
        n = next_random();
    while (RT_UNLIKELY(n == 0));
    for (int i = PARENT_DIGITS - 1; i >= 0; i--, n >>= 4)
        digits[i] = "0123456789abcdef"[n & 15];
}

/* ---- traceparent ---- */

/* -1: not a digit; upper case is not valid. */
static inline int
hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Are these n characters digits?  With `some`, not all of them 0. */
static bool
are_digits(const char *s, size_t n, bool some)
{
    int bits = 0;
    for (size_t i = 0; i < n; i++)
        bits |= hex_digit(s[i]);    /* negative once any is */
    return some ? bits > 0 : bits >= 0;
}

/* Is it valid (section 3.2)? */
static bool
traceparent_ok(const char *s, size_t n)
{
    return n >= TRACEPARENT_LEN && s[2] == '-' && s[35] == '-' && s[52] == '-'
           && are_digits(s, 2, false) && are_digits(s + 3, TRACE_DIGITS, true)
           && are_digits(s + 36, PARENT_DIGITS, true) && are_digits(s + 53, 2, false)
           && memcmp(s, "ff", 2) != 0
           && (n == TRACEPARENT_LEN || (memcmp(s, "00", 2) != 0 && s[TRACEPARENT_LEN] == '-'));
}

static PyObject *
digits_str(const char *digits, size_t n)
{
    PyObject *text = PyUnicode_New((Py_ssize_t)n, 127);
    if (text != NULL)
        memcpy(PyUnicode_1BYTE_DATA(text), digits, n);
    return text;
}

/* A TraceParent: of r's trace, or of a new one.  A new reference, or NULL with an exception
   set. */
static PyObject *
make_trace(PyTypeObject *type, http_request *r, bool trust)
{
    char trace[TRACE_DIGITS], parent[PARENT_DIGITS];
    bool sampled = false;
    http_value sent;
    if (RT_UNLIKELY(!generator.seeded || generator.forks != core->forks) && seed_slow() < 0)
        return NULL;
    bool came = trust && http_request_value(r, "traceparent", strlen("traceparent"), &sent);
    bool ok = came && traceparent_ok(sent.s, sent.n);
    if (ok) {
        memcpy(trace, sent.s + 3, sizeof(trace));
        sampled = hex_digit(sent.s[54]) & 1;
    }
    else {
        add_random(trace);
        add_random(trace + TRACE_DIGITS / 2);
    }
    if (came)
        Py_XDECREF(sent.owner);
    add_random(parent);
    PyObject *id = digits_str(trace, sizeof(trace)), *own = digits_str(parent, sizeof(parent));
    PyObject *plain = id && own ? PyTuple_Pack(3, id, own, sampled ? Py_True : Py_False) : NULL;
    PyObject *args = plain ? PyTuple_Pack(1, plain) : NULL;
    /* Its own __new__() is Python. */
    PyObject *made = args ? PyTuple_Type.tp_new(type, args, NULL) : NULL;
    Py_XDECREF(args);
    Py_XDECREF(plain);
    Py_XDECREF(own);
    Py_XDECREF(id);
    return made;
}

/* ---- the middleware ---- */

/* w.headers.set(name, value) */
static int
tell(PyObject *w, PyObject *name, PyObject *value)
{
    PyObject *headers = PyObject_GetAttr(w, core->http_names.headers);
    if (headers == NULL)
        return -1;
    int err;
    if (RT_LIKELY(Py_IS_TYPE(headers, core->headers_type)))
        err = http_headers_set(headers, name, value);
    else {
        PyObject *done = PyObject_CallMethod(headers, "set", "OO", name, value);
        err = done ? 0 : -1;
        Py_XDECREF(done);
    }
    Py_DECREF(headers);
    return err;
}

/* _trace(type, w, r, header, trust): r.state["trace"], and where header is not None that field
   of w. */
static PyObject *
m_trace(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 5 || !PyType_Check(args[0])
        || !PyType_IsSubtype((PyTypeObject *)args[0], &PyTuple_Type)) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: _trace(type, w, r, header, trust)");
        return NULL;
    }
    if (http_request_check(args[2], "request_id()") < 0)
        return NULL;
    http_request *r = (http_request *)args[2];
    PyObject *state = http_request_state(r);
    PyObject *trace = state ? make_trace((PyTypeObject *)args[0], r, args[4] == Py_True) : NULL;
    int err = trace ? PyDict_SetItem(state, core->http_names.trace, trace) : -1;
    if (err == 0 && args[3] != Py_None)
        err = tell(args[1], args[3], PyTuple_GET_ITEM(trace, 0));
    Py_XDECREF(trace);
    Py_XDECREF(state);
    if (err < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"_trace", (PyCFunction)(void (*)(void))m_trace, METH_FASTCALL, NULL},
    {0},
};

int
http_trace_init(PyObject *module)
{
    core->http_names.headers = PyUnicode_InternFromString("headers");
    core->http_names.trace = PyUnicode_InternFromString("trace");
    if (core->http_names.headers == NULL || core->http_names.trace == NULL)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
