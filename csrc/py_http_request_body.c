/* py_http_request_body.c - the body of a Request, as it is and decoded: json(), form() and
 * their kin.  What decodes forms is Python, in http/forms.py.
 */
#include "py_http_request.h"

PyObject *
http_request_get_body(http_request *r, void *Py_UNUSED(closure))
{
    r = http_request_root(r);
    PyObject *body = http_request_load(r, &r->body);
    if (body != NULL)
        return body;
    body = http_body_new(r);
    return body ? http_request_fill(r, &r->body, body) : NULL;
}

/* Another reader takes the body's place: one with a limit, or one that decodes. */
int
http_request_set_body(http_request *r, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        PyErr_SetString(PyExc_TypeError, "the body of a request cannot be deleted");
        return -1;
    }
    r = http_request_root(r);
    http_request_store(r, &r->body, Py_NewRef(value));
    return 0;
}

PyObject *
http_request_method_json(http_request *r, PyObject *Py_UNUSED(ignored))
{
    r = http_request_root(r);
    PyObject *body = http_request_load(r, &r->body), *bytes;
    if (RT_LIKELY(body == NULL || Py_IS_TYPE(body, core->body_type)))
        bytes = http_body_read_all(r);
    else
        bytes = PyObject_CallMethod(body, "read", NULL);
    Py_XDECREF(body);
    if (bytes == NULL)
        return NULL;
    PyObject *value = PyObject_CallOneArg(http_hooks.load_json, bytes);
    Py_DECREF(bytes);
    return value;
}

/* Call a method of the object that decodes forms. */
static PyObject *
call_forms(http_request *r, const char *name, PyObject *kwargs)
{
    r = http_request_root(r);
    PyObject *forms = Py_XNewRef(http_lazy(&r->form)), *result = NULL, *method = NULL;
    if (forms == NULL)
        forms = http_request_keep(r, &r->form,
                                  PyObject_CallOneArg(http_hooks.make_forms, (PyObject *)r));
    if (forms != NULL && (method = PyObject_GetAttrString(forms, name)) != NULL)
        result = PyObject_VectorcallDict(method, NULL, 0, kwargs);
    Py_XDECREF(method);
    Py_XDECREF(forms);
    return result;
}

static PyObject *
no_args(PyObject *args, const char *name)
{
    if (PyTuple_GET_SIZE(args) == 0)
        return args;
    PyErr_Format(PyExc_TypeError, "%s() takes keyword arguments only", name);
    return NULL;
}

PyObject *
http_request_method_form(http_request *r, PyObject *Py_UNUSED(ignored))
{
    return call_forms(r, "form", NULL);
}

PyObject *
http_request_method_post_form(http_request *r, PyObject *Py_UNUSED(ignored))
{
    return call_forms(r, "post_form", NULL);
}

PyObject *
http_request_method_multipart(http_request *r, PyObject *args, PyObject *kwargs)
{
    return no_args(args, "multipart") ? call_forms(r, "multipart", kwargs) : NULL;
}

PyObject *
http_request_method_multipart_form(http_request *r, PyObject *args, PyObject *kwargs)
{
    return no_args(args, "multipart_form") ? call_forms(r, "multipart_form", kwargs) : NULL;
}
