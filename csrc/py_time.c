/* py_time.c - now(), after() and their kin; see py_time.h. */
#include "py_time.h"
#include "py_wait.h"

#include <math.h>

int
py_seconds_to_ns(PyObject *seconds, const char *usage, bool positive, int64_t *ns)
{
    double s = PyFloat_AsDouble(seconds);
    if (s == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "%s: seconds must be a number, not %.200s", usage,
                         Py_TYPE(seconds)->tp_name);
        return -1;
    }
    if (isnan(s) || (positive && s <= 0)) {
        PyErr_Format(PyExc_ValueError, "%s: seconds must be %s, not %R", usage,
                     positive ? "more than 0" : "a number", seconds);
        return -1;
    }
    *ns = s > 9e9 ? PY_LATEST : s > 0 ? (int64_t)(s * 1e9) : 0;        /* 285 years */
    if (positive && *ns == 0)
        *ns = 1;
    return 0;
}

static PyObject *
m_after(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    int64_t ns;
    PyObject *seconds = py_time_one_number(args, nargs, "after(seconds)");
    if (seconds == NULL || py_seconds_to_ns(seconds, "after(seconds)", false, &ns) < 0)
        return NULL;
    return py_clock_receiver(py_time_later(py_now(), ns), 0);
}

static PyObject *
m_tick(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    int64_t ns;
    PyObject *seconds = py_time_one_number(args, nargs, "tick(seconds)");
    if (seconds == NULL || py_seconds_to_ns(seconds, "tick(seconds)", true, &ns) < 0)
        return NULL;
    return py_clock_receiver(py_time_later(py_now(), ns), ns);
}

static PyObject *
m_now(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyFloat_FromDouble(py_ns_to_seconds(py_now()));
}

static PyObject *
m_since(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *t = py_time_one_number(args, nargs, "since(t)");
    double start = t ? PyFloat_AsDouble(t) : -1.0;
    if (start == -1.0 && PyErr_Occurred())
        return NULL;
    return PyFloat_FromDouble(py_ns_to_seconds(py_now()) - start);
}

#define FAST(fn) (PyCFunction)(void (*)(void))fn, METH_FASTCALL

static PyMethodDef functions[] = {
    {"after", FAST(m_after),
     "after(seconds, /)\n--\n\n"
     "A Receiver of the time, see now(), once, that long after now.\n\n"
     "It needs no stopping: one that nobody refers to is gone.\n\n"
     "    select(recv(replies), recv(after(1.5)))\n\n"
     "Go: time.After."},
    {"tick", FAST(m_tick),
     "tick(seconds, /)\n--\n\n"
     "The Receiver of a Ticker that is never stopped.\n\n"
     "ValueError unless seconds is more than 0.\n\n"
     "Go: time.Tick."},
    {"now", m_now, METH_NOARGS,
     "now()\n--\n\n"
     "The time in seconds on the clock of time-outs and timers, which is that of\n"
     "time.monotonic(): it never jumps, and its zero means nothing.\n\n"
     "Go: time.Now."},
    {"since", FAST(m_since),
     "since(t, /)\n--\n\n"
     "The seconds that have passed since t, which was now() or came from a timer.\n\n"
     "Go: time.Since."},
    {0},
};

int
py_time_init_types(PyObject *module)
{
    if (py_timer_init(module) < 0 || py_ticker_init(module) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
