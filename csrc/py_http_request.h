/* py_http_request.h - Request: what its files share.
 *
 *   py_http_request.c          the type, and its attributes
 *   py_http_request_life.c     how one begins and ends; copies with another context
 *   py_http_request_path.c     its path, and what a mux has found for it
 *   py_http_request_body.c     its body, as it is and decoded
 *
 * A Request is slices of the head until somebody asks: each attribute becomes a
 * Python object on first use and is kept.  Head and slices stay valid as long as
 * the Request lives, also after the handler has returned; the body does not.
 */
#ifndef PY_HTTP_REQUEST_H
#define PY_HTTP_REQUEST_H

#include "py_http_mux.h"

/* A new str of a part of the head. */
static inline PyObject *
http_request_slice(http_request *r, rt_slice s)
{
    return PyUnicode_DecodeLatin1(r->base + s.off, s.len, NULL);
}

/* http_lazy_set() for one of r's slots. */
static inline PyObject *
http_request_keep(http_request *r, PyObject **slot, PyObject *value)
{
    RT_STORE(r->made, true);
    return http_lazy_set(slot, value);
}

/* Of the attributes that can be set again: the object there (a new reference), or NULL. */
static inline PyObject *
http_request_load(http_request *r, PyObject **slot)
{
    py_acquire(&r->conn->lock);
    PyObject *value = Py_XNewRef(*slot);
    py_release(&r->conn->lock);
    return value;
}

/* Set it to value (stolen). */
static inline void
http_request_store(http_request *r, PyObject **slot, PyObject *value)
{
    py_acquire(&r->conn->lock);
    PyObject *old = *slot;
    *slot = value;
    RT_STORE(r->made, true);
    py_release(&r->conn->lock);
    Py_XDECREF(old);
}

/* Fill it with value (stolen) unless it is filled now; a new reference to what is there. */
static inline PyObject *
http_request_fill(http_request *r, PyObject **slot, PyObject *value)
{
    PyObject *drop = value;
    py_acquire(&r->conn->lock);
    if (*slot == NULL) {
        *slot = value;
        RT_STORE(r->made, true);
        drop = NULL;
    }
    value = Py_XNewRef(*slot);
    py_release(&r->conn->lock);
    Py_XDECREF(drop);
    return value;
}

/* ---- py_http_request_life.c ---- */

int http_request_clear(http_request *r);
int http_request_traverse(http_request *r, visitproc visit, void *arg);
void http_request_dealloc(http_request *r);
PyObject *http_request_method_with_context(http_request *r, PyObject *context);

/* ---- py_http_request_path.c ---- */

PyObject *http_request_get_path(http_request *r, void *closure);
PyObject *http_request_get_raw_path(http_request *r, void *closure);
PyObject *http_request_get_stripped(http_request *r, void *closure);
PyObject *http_request_get_pattern(http_request *r, void *closure);
int http_request_set_pattern(http_request *r, PyObject *value, void *closure);
PyObject *http_request_get_path_values(http_request *r, void *closure);
int http_request_set_path_values(http_request *r, PyObject *value, void *closure);
PyObject *http_request_method_path_value(http_request *r, PyObject *name);
PyObject *http_request_method_set_path_value(http_request *r, PyObject *const *args,
                                             Py_ssize_t nargs);
/* _strip(n): see http_request_strip(). */
PyObject *http_request_method_strip(http_request *r, PyObject *arg);

/* ---- py_http_request_body.c ---- */

PyObject *http_request_get_body(http_request *r, void *closure);
int http_request_set_body(http_request *r, PyObject *value, void *closure);
PyObject *http_request_method_json(http_request *r, PyObject *ignored);
PyObject *http_request_method_form(http_request *r, PyObject *ignored);
PyObject *http_request_method_post_form(http_request *r, PyObject *ignored);
PyObject *http_request_method_multipart(http_request *r, PyObject *args, PyObject *kwargs);
PyObject *http_request_method_multipart_form(http_request *r, PyObject *args, PyObject *kwargs);

#endif
