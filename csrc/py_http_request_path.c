/* py_http_request_path.c - the path of a Request, and what a mux has found for it: the pattern,
 * and what its wildcards stand for.
 */
#include "py_http_request.h"

PyObject *
http_request_get_stripped(http_request *r, void *Py_UNUSED(closure))
{
    py_acquire(&r->conn->lock);
    rt_slice s = {r->head.path.off - r->stripped, r->stripped};
    py_release(&r->conn->lock);
    return http_request_slice(r, s);
}

rt_slice
http_request_path(http_request *r)
{
    py_acquire(&r->conn->lock);
    rt_slice path = r->head.path;
    py_release(&r->conn->lock);
    return path;
}

PyObject *
http_request_get_raw_path(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *path = http_request_load(r, &r->raw_path);
    if (path != NULL)
        return path;
    rt_slice s = http_request_path(r);
    bool root = s.len == 0 && r->head.method_id != RT_HM_CONNECT;
    path = root ? PyUnicode_FromString("/") : http_request_slice(r, s);
    return path ? http_request_fill(r, &r->raw_path, path) : NULL;
}

/* Percent-decode; what is no valid escape stays, what is no UTF-8 becomes U+FFFD. */
static PyObject *
unescape(const char *s, uint32_t n)
{
    char *buf = PyMem_Malloc(n);
    if (buf == NULL)
        return PyErr_NoMemory();
    size_t len = http_unescape(buf, s, n, true);
    PyObject *text = PyUnicode_DecodeUTF8(buf, (Py_ssize_t)len, "replace");
    PyMem_Free(buf);
    return text;
}

PyObject *
http_request_get_path(http_request *r, void *closure)
{
    PyObject *path = http_request_load(r, &r->path);
    if (path != NULL)
        return path;
    rt_slice s = http_request_path(r);
    bool plain = memchr(r->base + s.off, '%', s.len) == NULL;
    path = plain ? http_request_get_raw_path(r, closure) : unescape(r->base + s.off, s.len);
    return path ? http_request_fill(r, &r->path, path) : NULL;
}

void
http_request_strip(http_request *r, int32_t n)
{
    py_acquire(&r->conn->lock);
    r->head.path.off += (uint32_t)n;
    r->head.path.len -= (uint32_t)n;
    r->stripped += (uint32_t)n;
    PyObject *path = r->path, *raw_path = r->raw_path;
    r->path = r->raw_path = NULL;
    py_release(&r->conn->lock);
    Py_XDECREF(path);
    Py_XDECREF(raw_path);
}

void
http_request_matched(http_request *r, http_route *route, uint32_t path, const rt_slice *wild)
{
    uint16_t label = RT_LOAD(route->label);
    if (RT_UNLIKELY(label == 0)) {
        label = http_stats_label(route->pattern);
        RT_STORE(route->label, label);
    }
    RT_STORE(http_request_root(r)->label, label);
    Py_INCREF((PyObject *)route);
    py_acquire(&r->conn->lock);
    http_route *old = r->route;
    PyObject *pattern = r->pattern, *values = r->path_values;
    r->route = route;
    r->pattern = r->path_values = NULL;
    for (int i = 0; i < route->nwild; i++)
        r->wild[i] = (rt_slice){path + wild[i].off, wild[i].len};
    RT_STORE(r->made, true);
    py_release(&r->conn->lock);
    if (RT_UNLIKELY(old != NULL || pattern != NULL || values != NULL)) {
        Py_XDECREF((PyObject *)old);
        Py_XDECREF(pattern);
        Py_XDECREF(values);
    }
}

/* The matched route (a new reference) and where its wildcards are, or NULL. */
static http_route *
load_route(http_request *r, rt_slice *wild)
{
    py_acquire(&r->conn->lock);
    http_route *route = (http_route *)Py_XNewRef((PyObject *)r->route);
    if (route != NULL)
        memcpy(wild, r->wild, route->nwild * sizeof(*wild));
    py_release(&r->conn->lock);
    return route;
}

PyObject *
http_request_pattern(http_request *r)
{
    py_acquire(&r->conn->lock);
    PyObject *pattern = Py_XNewRef(r->pattern ? r->pattern : r->route ? r->route->pattern : NULL);
    py_release(&r->conn->lock);
    return pattern;
}

PyObject *
http_request_get_pattern(http_request *r, void *Py_UNUSED(closure))
{
    PyObject *pattern = http_request_pattern(r);
    return pattern ? pattern : PyUnicode_FromString("");
}

int
http_request_set_pattern(http_request *r, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || !PyUnicode_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "pattern must be a str");
        return -1;
    }
    RT_STORE(http_request_root(r)->label, http_stats_label(value));
    http_request_store(r, &r->pattern, Py_NewRef(value));
    return 0;
}

PyObject *
http_request_path_values(http_request *r)
{
    PyObject *values = http_request_load(r, &r->path_values);
    if (values != NULL)
        return values;
    rt_slice wild[HTTP_MAX_WILD];
    http_route *route = load_route(r, wild);
    values = route ? http_wild_values(route, wild, r->base) : PyDict_New();
    Py_XDECREF((PyObject *)route);
    return values ? http_request_fill(r, &r->path_values, values) : NULL;
}

PyObject *
http_request_get_path_values(http_request *r, void *Py_UNUSED(closure))
{
    return http_request_path_values(r);
}

int
http_request_set_path_values(http_request *r, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || !PyDict_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "path_values must be a dict");
        return -1;
    }
    http_request_store(r, &r->path_values, Py_NewRef(value));
    return 0;
}

PyObject *
http_request_method_path_value(http_request *r, PyObject *name)
{
    if (!PyUnicode_Check(name)) {
        PyErr_Format(PyExc_TypeError, "the name of a path value must be str, not %.200s",
                     Py_TYPE(name)->tp_name);
        return NULL;
    }
    PyObject *values = http_request_load(r, &r->path_values), *value = NULL;
    if (values != NULL)
        (void)py_dict_get(values, name, &value);
    else {
        rt_slice wild[HTTP_MAX_WILD];
        http_route *route = load_route(r, wild);
        if (route != NULL)
            value = http_wild_value(route, wild, r->base, name);
        Py_XDECREF((PyObject *)route);
    }
    Py_XDECREF(values);
    if (value == NULL && !PyErr_Occurred())
        value = PyUnicode_FromString("");
    return value;
}

PyObject *
http_request_method_set_path_value(http_request *r, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !PyUnicode_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: set_path_value(name, value)");
        return NULL;
    }
    PyObject *values = http_request_path_values(r);
    int err = values ? PyDict_SetItem(values, args[0], args[1]) : -1;
    Py_XDECREF(values);
    if (err < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
http_request_method_strip(http_request *r, PyObject *arg)
{
    long n = PyLong_AsLong(arg);
    if (n == -1 && PyErr_Occurred())
        return NULL;
    py_acquire(&r->conn->lock);
    bool ok = n >= 0 ? n <= (long)r->head.path.len : -n <= (long)r->stripped;
    py_release(&r->conn->lock);
    if (!ok) {
        PyErr_SetString(PyExc_ValueError, "_strip(): there is no such prefix");
        return NULL;
    }
    http_request_strip(r, (int32_t)n);
    Py_RETURN_NONE;
}
