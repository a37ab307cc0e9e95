/* py_ratelimit.c - RateLimiter: whose request it is, and whether there is one left for it.
 *
 * All that a request costs is one call: from its client's address, or a key, to the value of the
 * field that tells the client how much is left (or for how long there is nothing).
 */
#include <arpa/inet.h>

#include "py_bubble.h"
#include "py_http.h"
#include "py_sync.h"
#include "rt_gcra.h"
#include "rt_siphash.h"

#define SECOND 1000000000ll
#define MAX_NAME 80

/* ---- whose request it is ---- */

typedef struct {
    size_t n;                   /* bytes: 4 of IPv4, 16 of IPv6, 0: it is no address */
    unsigned char ip[16];
} address;

/* Keep the first `bits` of an IPv6 address; one that stands for IPv4 becomes that. */
static void
address_set6(address *a, const unsigned char ip[16], int bits)
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};     /* RFC 4291 2.5.5.2 */
    if (memcmp(ip, mapped, sizeof(mapped)) == 0) {
        a->n = 4;
        memcpy(a->ip, ip + 12, 4);
        return;
    }
    a->n = 16;
    memcpy(a->ip, ip, 16);
    for (int i = bits / 8; i < 16; i++)
        a->ip[i] &= i == bits / 8 ? (unsigned char)(0xff00 >> bits % 8) : 0;
}

/* From "ip", "ip:port", "[ip%scope]:port" and the like. */
static void
address_parse(address *a, const char *text, size_t n, int bits)
{
    char host[INET6_ADDRSTRLEN];
    unsigned char ip[16];
    const char *first = memchr(text, ':', n), *end = text + n;
    a->n = 0;
    if (n > 0 && text[0] == '[') {
        text++;
        end = memchr(text, ']', n - 1);
    }
    else if (first != NULL && memchr(first + 1, ':', (size_t)(end - first - 1)) == NULL)
        end = first;
    if (end == NULL)
        return;
    const char *scope = memchr(text, '%', (size_t)(end - text));
    if (scope != NULL)
        end = scope;
    if ((size_t)(end - text) >= sizeof(host))
        return;
    memcpy(host, text, (size_t)(end - text));
    host[end - text] = 0;
    if (inet_pton(AF_INET, host, ip) == 1) {
        a->n = 4;
        memcpy(a->ip, ip, 4);
    }
    else if (inet_pton(AF_INET6, host, ip) == 1)
        address_set6(a, ip, bits);
}

/* The client of r, a Request or something like it.  *text: where it is no address, its
   remote_addr (a new reference), else NULL.  -1 with an exception set. */
static int
client_of(PyObject *r, int bits, address *a, PyObject **text)
{
    *text = NULL;
    if (RT_LIKELY(Py_IS_TYPE(r, core->request_type))) {
        http_request *req = (http_request *)r;
        http_conn *c = req->conn;
        py_acquire(&c->lock);
        bool plain = req->remote_addr == NULL && c->stream == NULL;
        py_release(&c->lock);
        if (plain && c->peer.family == AF_INET) {
            a->n = 4;
            memcpy(a->ip, c->peer.ip, 4);
            return 0;
        }
        if (plain && c->peer.family == AF_INET6) {
            address_set6(a, c->peer.ip, bits);
            return 0;
        }
    }
    PyObject *addr = PyObject_GetAttrString(r, "remote_addr");
    if (addr == NULL)
        return -1;
    Py_ssize_t n;
    const char *s = PyUnicode_AsUTF8AndSize(addr, &n);
    if (s == NULL) {
        Py_DECREF(addr);
        return -1;
    }
    address_parse(a, s, (size_t)n, bits);
    if (a->n == 0)
        *text = addr;
    else
        Py_DECREF(addr);
    return 0;
}

static int
check_bits(int bits)
{
    if (bits >= 1 && bits <= 128)
        return 0;
    PyErr_Format(PyExc_ValueError, "ipv6_prefix is 1 to 128 bits, not %d", bits);
    return -1;
}

static PyObject *
client_address(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *r, *text;
    int bits = 64;
    address a;
    char ip[INET6_ADDRSTRLEN];
    if (!PyArg_ParseTuple(args, "O|i:client_address", &r, &bits) || check_bits(bits) < 0
        || client_of(r, bits, &a, &text) < 0)
        return NULL;
    if (text != NULL)
        return text;
    inet_ntop(a.n == 4 ? AF_INET : AF_INET6, a.ip, ip, sizeof(ip));
    if (a.n == 4 || bits == 128)
        return PyUnicode_FromString(ip);
    return PyUnicode_FromFormat("%s/%d", ip, bits);
}

/* ---- RateLimiter ---- */

typedef struct {
    PyObject_HEAD
    rt_gcra *table;             /* owned */
    rt_gcra_rate rate;
    uint64_t secret[2];
    int ipv6_prefix;
    _Atomic int64_t clock;      /* by which the table's times are: 0, or a bubble's id */
    size_t nname;
    char name[MAX_NAME];        /* how the field's value begins */
} RateLimiter;

/* The time for the table. */
static inline int64_t
limiter_now(RateLimiter *l)
{
    py_bubble *b = py_bubble_current();
    int64_t id = b ? b->id : 0;
    if (RT_UNLIKELY(RT_LOAD(l->clock) != id)) {
        rt_gcra_clear(l->table);        /* times of another clock mean nothing */
        RT_STORE(l->clock, id);
    }
    return b ? b->now : rt_nanotime();
}

static inline int64_t
whole_seconds(int64_t ns)
{
    return (ns + SECOND - 1) / SECOND;
}

static char *
put_number(char *p, int64_t n)
{
    char digits[20];
    int len = 0;
    do {
        digits[len++] = (char)('0' + n % 10);
        n /= 10;
    } while (n > 0);
    while (len > 0)
        *p++ = digits[--len];
    return p;
}

static PyObject *
take(RateLimiter *l, const void *key, size_t n)
{
    uint64_t hash = rt_siphash(l->secret, key, n, 1, 3);
    rt_gcra_answer a = rt_gcra_take(l->table, &l->rate, hash, limiter_now(l));
    if (!a.ok)
        return PyLong_FromLongLong(whole_seconds(a.wait));
    char tail[48], *p = tail;
    memcpy(p, ";r=", 3);
    p = put_number(p + 3, a.left);
    memcpy(p, ";t=", 3);
    p = put_number(p + 3, whole_seconds(a.left > 0 ? a.full : a.wait));
    size_t ntail = (size_t)(p - tail);
    PyObject *value = PyUnicode_New((Py_ssize_t)(l->nname + ntail), 127);
    if (value != NULL) {
        char *data = PyUnicode_DATA(value);
        memcpy(data, l->name, l->nname);
        memcpy(data + l->nname, tail, ntail);
    }
    return value;
}

static PyObject *
take_text(RateLimiter *l, PyObject *text)
{
    if (PyUnicode_READY(text) < 0)
        return NULL;
    /* One text has one representation. */
    return take(l, PyUnicode_DATA(text),
                (size_t)PyUnicode_GET_LENGTH(text) * PyUnicode_KIND(text));
}

static PyObject *
limiter_take(RateLimiter *l, PyObject *r)
{
    address a;
    PyObject *text;
    if (client_of(r, l->ipv6_prefix, &a, &text) < 0)
        return NULL;
    if (RT_LIKELY(text == NULL))
        return take(l, a.ip, a.n);
    PyObject *left = take_text(l, text);
    Py_DECREF(text);
    return left;
}

static PyObject *
limiter_take_key(RateLimiter *l, PyObject *key)
{
    if (PyUnicode_Check(key))
        return take_text(l, key);
    if (PyBytes_Check(key))
        return take(l, PyBytes_AS_STRING(key), (size_t)PyBytes_GET_SIZE(key));
    PyErr_Format(PyExc_TypeError, "a key to limit by is str or bytes (or None for no limit), "
                 "not %.200s", Py_TYPE(key)->tp_name);
    return NULL;
}

static PyObject *
limiter_capacity(RateLimiter *l, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(rt_gcra_capacity(l->table));
}

static PyObject *
limiter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"interval", "burst", "max_keys", "name", "secret", "ipv6_prefix", NULL};
    long long interval, burst, max_keys;
    const char *name, *secret;
    Py_ssize_t nname, nsecret;
    int bits = 64;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "LLLs#y#|i:RateLimiter", names, &interval,
                                     &burst, &max_keys, &name, &nname, &secret, &nsecret, &bits)
        || check_bits(bits) < 0)
        return NULL;
    if (interval < 1 || burst < 1 || burst > RT_GCRA_SPAN / interval) {
        PyErr_SetString(PyExc_ValueError, "interval and burst are 1 or more, and together less "
                        "than 70 years");
        return NULL;
    }
    if (max_keys < 1 || max_keys > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "max_keys is 1 to 2**31 - 1, not %lld", max_keys);
        return NULL;
    }
    RateLimiter *l;
    if (nname > MAX_NAME || nsecret != sizeof(l->secret)) {
        PyErr_SetString(PyExc_ValueError, "name has 80 characters at most, secret has 16 bytes");
        return NULL;
    }
    l = (RateLimiter *)type->tp_alloc(type, 0);
    if (l == NULL)
        return NULL;
    l->rate = (rt_gcra_rate){interval, burst};
    l->ipv6_prefix = bits;
    l->nname = (size_t)nname;
    memcpy(l->name, name, l->nname);
    memcpy(l->secret, secret, sizeof(l->secret));
    l->table = rt_gcra_new((uint64_t)max_keys);
    if (l->table == NULL) {
        Py_DECREF(l);
        return PyErr_NoMemory();
    }
    return (PyObject *)l;
}

static void
limiter_dealloc(RateLimiter *l)
{
    PyTypeObject *type = Py_TYPE(l);
    rt_gcra_free(l->table);
    type->tp_free(l);
    Py_DECREF(type);
}

static PyMethodDef limiter_methods[] = {
    {"take", (PyCFunction)limiter_take, METH_O,
     "take($self, r, /)\n--\n\n"
     "Take one request of the client that has sent r.\n\n"
     "A str if there was one: the value of the field RateLimit.  Otherwise an int: in so many\n"
     "seconds there is one."},
    {"take_key", (PyCFunction)limiter_take_key, METH_O,
     "take_key($self, key, /)\n--\n\n"
     "The same by a key of your own, a str or bytes."},
    {0},
};
static PyGetSetDef limiter_getset[] = {
    {"capacity", (getter)limiter_capacity, NULL, "How many keys there is room for.", NULL},
    {0},
};
static PyType_Slot limiter_slots[] = {
    {Py_tp_new, limiter_new},
    {Py_tp_dealloc, limiter_dealloc},
    {Py_tp_methods, limiter_methods},
    {Py_tp_getset, limiter_getset},
    {Py_tp_doc,
     "RateLimiter(interval, burst, max_keys, name, secret, ipv6_prefix=64)\n--\n\n"
     "How often each client may ask: burst times at once, and again each interval ns.\n\n"
     "name: how the values of the field RateLimit begin; secret: 16 random bytes, which keys are\n"
     "hashed with."},
    {0, NULL},
};
static PyType_Spec limiter_spec = {"runtime._core.RateLimiter", sizeof(RateLimiter), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, limiter_slots};

static PyMethodDef functions[] = {
    {"client_address", client_address, METH_VARARGS,
     "client_address($module, r, ipv6_prefix=64, /)\n--\n\n"
     "Who has sent the request r, as a key: \"192.0.2.7\" or \"2001:db8::/64\".\n\n"
     "It is the address in r.remote_addr without the port; of IPv6 only the first ipv6_prefix\n"
     "bits, for whoever has one such address has all that begin with them.  Where remote_addr\n"
     "is no address, it is returned as it is (\"@\" for unix sockets)."},
    {0},
};

int
http_ratelimit_init(PyObject *module)
{
    if (PyModule_AddFunctions(module, functions) < 0)
        return -1;
    return py_add_type(module, &limiter_spec, &core->ratelimiter_type, true);
}
