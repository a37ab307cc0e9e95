/* py_http_route.c - routes of a mux, and the values of their wildcards.
 *
 * A Request whose route was found keeps the route and where the wildcards are in its head;
 * the values become Python objects only when they are asked for.
 */
#include "py_http_mux.h"

/* ---- routes ---- */

static int
route_traverse(http_route *t, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(t));
    Py_VISIT(t->route);
    Py_VISIT(t->target);
    return 0;
}

/* No tp_clear, here and in tables: who finds a route calls its target.  Cycles are cut in
   the Mux and the Request. */
static void
route_dealloc(http_route *t)
{
    PyTypeObject *type = Py_TYPE(t);
    PyObject_GC_UnTrack(t);
    Py_XDECREF(t->route);
    Py_XDECREF(t->pattern);
    Py_XDECREF(t->target);
    Py_XDECREF(t->names);
    PyObject_GC_Del(t);
    Py_DECREF(type);
}

static PyType_Slot route_slots[] = {
    {Py_tp_dealloc, route_dealloc},
    {Py_tp_traverse, route_traverse},
    {0, NULL},
};
static PyType_Spec route_spec = {
    "runtime._core.MuxRoute", sizeof(http_route), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION
        | Py_TPFLAGS_IMMUTABLETYPE,
    route_slots};

/* A number that pattern.py has kept within limits; -1 with an exception set. */
static long
small_number(PyObject *op, const char *name)
{
    PyObject *value = PyObject_GetAttrString(op, name);
    long n = value ? PyLong_AsLong(value) : -1;
    Py_XDECREF(value);
    if (n >= 0 && n <= UINT16_MAX)
        return n;
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "Route.%s: out of range", name);
    return -1;
}

static int
route_wilds(http_route *t, PyObject *wilds)
{
    if (!PyTuple_Check(wilds) || PyTuple_GET_SIZE(wilds) > HTTP_MAX_WILD) {
        PyErr_SetString(PyExc_ValueError, "Route.kinds: not a tuple, or too long");
        return -1;
    }
    t->nwild = (uint8_t)PyTuple_GET_SIZE(wilds);
    for (int i = 0; i < t->nwild; i++) {
        int seg, kind;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(wilds, i), "ii", &seg, &kind))
            return -1;
        t->wild[i].seg = (uint16_t)seg;
        t->wild[i].kind = (uint8_t)kind;
    }
    return 0;
}

/* The C side of a Route of pattern.py. */
http_route *
http_route_new(PyObject *route)
{
    http_route *t = PyObject_GC_New(http_route, core->mux_route_type);
    if (t == NULL)
        return NULL;
    memset((char *)t + sizeof(PyObject), 0, sizeof(*t) - sizeof(PyObject));
    py_share_object((PyObject *)t);
    PyObject_GC_Track(t);
    t->route = Py_NewRef(route);
    t->pattern = PyObject_GetAttrString(route, "pattern");
    t->target = t->pattern ? PyObject_GetAttrString(route, "target") : NULL;
    t->names = t->target ? PyObject_GetAttrString(route, "names") : NULL;
    PyObject *kinds = t->names ? PyObject_GetAttrString(route, "kinds") : NULL;
    PyObject *open = kinds ? PyObject_GetAttrString(route, "open_ended") : NULL;
    PyObject *converts = open ? PyObject_GetAttrString(route, "converts") : NULL;
    long strip = -1, nsegs = -1;
    if (converts != NULL && route_wilds(t, kinds) == 0)
        strip = small_number(route, "strip");
    if (strip >= 0)
        nsegs = small_number(route, "depth");
    if (nsegs >= 0 && !(PyTuple_Check(t->names) && PyTuple_GET_SIZE(t->names) == t->nwild
                        && PyUnicode_Check(t->pattern))) {
        PyErr_SetString(PyExc_TypeError, "Route: malformed");
        nsegs = -1;
    }
    if (nsegs >= 0) {
        t->strip = (uint16_t)strip;
        t->nsegs = (uint16_t)nsegs;
        t->open_ended = open == Py_True;
        t->converts = converts == Py_True;
    }
    Py_XDECREF(kinds);
    Py_XDECREF(open);
    Py_XDECREF(converts);
    if (nsegs < 0)
        Py_CLEAR(t);
    return t;
}

/* ---- values of wildcards ---- */

static int
hex_digit(char ch)
{
    return ch >= '0' && ch <= '9'   ? ch - '0'
           : ch >= 'a' && ch <= 'f' ? ch - 'a' + 10
           : ch >= 'A' && ch <= 'F' ? ch - 'A' + 10
                                    : -1;
}

size_t
http_unescape(char *buf, const char *s, size_t n, bool all)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        int hi, lo;
        if (s[i] != '%')
            buf[len++] = s[i];
        else if (i + 2 < n && (hi = hex_digit(s[i + 1])) >= 0 && (lo = hex_digit(s[i + 2])) >= 0) {
            buf[len++] = (char)(hi << 4 | lo);
            i += 2;
        }
        else if (all)
            buf[len++] = '%';
        else {
            memcpy(buf, s, n);
            return n;
        }
    }
    return len;
}

/* The text of n bytes of a path, decoded segment by segment. */
static PyObject *
wild_text(const char *s, size_t n)
{
    if (memchr(s, '%', n) == NULL)
        return PyUnicode_FromStringAndSize(s, (Py_ssize_t)n);     /* the lookup saw only ASCII */
    char *buf = PyMem_Malloc(n);
    if (buf == NULL)
        return PyErr_NoMemory();
    size_t len = 0;
    for (size_t at = 0;;) {
        const char *slash = memchr(s + at, '/', n - at);
        size_t end = slash ? (size_t)(slash - s) : n;
        len += http_unescape(buf + len, s + at, end - at, false);
        if (slash == NULL)
            break;
        buf[len++] = '/';
        at = end + 1;
    }
    PyObject *text = PyUnicode_DecodeUTF8(buf, (Py_ssize_t)len, "replace");
    PyMem_Free(buf);
    return text;
}

static bool
parse_int(const char *s, size_t n, long long *value)
{
    bool minus = n != 0 && s[0] == '-';
    size_t i = minus;
    if (n == i || n - i > 18)
        return false;
    long long v = 0;
    for (; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        v = v * 10 + (s[i] - '0');
    }
    *value = minus ? -v : v;
    return true;
}

bool
http_wild_is_int(const char *s, size_t n)
{
    long long value;
    return parse_int(s, n, &value);
}

static PyObject *
wild_value(int kind, const char *s, size_t n)
{
    long long value;
    if (kind == HTTP_WILD_INT && parse_int(s, n, &value))
        return PyLong_FromLongLong(value);
    return wild_text(s, n);
}

PyObject *
http_wild_values(const http_route *route, const rt_slice *wild, const char *base)
{
    PyObject *values = PyDict_New();
    for (int i = 0; values != NULL && i < route->nwild; i++) {
        PyObject *value = wild_value(route->wild[i].kind, base + wild[i].off, wild[i].len);
        if (value == NULL
            || PyDict_SetItem(values, PyTuple_GET_ITEM(route->names, i), value) < 0)
            Py_CLEAR(values);
        Py_XDECREF(value);
    }
    return values;
}

/* Which wildcard has that name, or -1. */
static int
wild_index(const http_route *route, PyObject *name)
{
    for (int i = 0; i < route->nwild; i++)
        if (PyTuple_GET_ITEM(route->names, i) == name)
            return i;
    for (int i = 0; i < route->nwild; i++)
        if (PyUnicode_Compare(PyTuple_GET_ITEM(route->names, i), name) == 0)
            return i;
    return -1;
}

PyObject *
http_wild_value(const http_route *route, const rt_slice *wild, const char *base, PyObject *name)
{
    int i = wild_index(route, name);
    if (i < 0)
        return NULL;
    return wild_value(route->wild[i].kind, base + wild[i].off, wild[i].len);
}

int
http_route_init(PyObject *module)
{
    return py_add_type(module, &route_spec, &core->mux_route_type, false);
}
