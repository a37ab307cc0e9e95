/* py_wait.h - how long a blocking call waits: the arguments timeout and ctx.
 *
 *     py_limits limits;
 *     if (py_limits_parse(&limits, "lock(...)", 0, args, nargs, kwnames) < 0)
 *         return NULL;
 *     ...                                     nothing to wait for: done
 *     py_wait wait;
 *     if (py_wait_begin(&wait, &limits) < 0)  may run Python
 *         return NULL;
 *     rt_g_arm(&gp->g);
 *     ...                                     queue the caller, or py_stay()
 *     why = py_wait_park(gp, PY_WAIT_MUTEX, &wait);
 *     ...                                     out of the queue, take what has come
 *     py_wait_end(&wait);                     may run Python, and so wait for something else
 *
 * A context is an object whose done() is a channel, or None if it never ends, and whose
 * err() says why it has ended, as a new exception.  A call whose context has ended fails,
 * also if it would not have to wait.
 */
#ifndef PY_WAIT_H
#define PY_WAIT_H

#include "py_core.h"

#define PY_LIMITS_USAGE "timeout=None, *, ctx=None"

typedef struct {                /* borrowed from the arguments of the call */
    PyObject *timeout;          /* None, or seconds */
    PyObject *ctx;              /* a context, or NULL */
} py_limits;

#define PY_NO_LIMITS ((py_limits){Py_None, NULL})

typedef struct py_context_wait py_context_wait;
typedef struct {
    int64_t deadline;
    py_context_wait *context;   /* owned, or NULL */
} py_wait;

/* What comes after the npos own arguments of a call that is used like `usage`.  -1 with an
   exception set: TypeError, or that of a context that has ended.  May run Python. */
int py_limits_parse_slow(py_limits *limits, const char *usage, Py_ssize_t npos,
                         PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
static inline int
py_limits_parse(py_limits *limits, const char *usage, Py_ssize_t npos, PyObject *const *args,
                Py_ssize_t nargs, PyObject *kwnames)
{
    *limits = PY_NO_LIMITS;
    if (RT_LIKELY(nargs == npos && kwnames == NULL))
        return 0;
    return py_limits_parse_slow(limits, usage, npos, args, nargs, kwnames);
}
/* The end of that, for who parses its arguments itself: -1 if the context has ended. */
int py_limits_check(const py_limits *limits);

/* The time starts, if it is limited.  -1 with an exception set; may run Python. */
int py_wait_begin_slow(py_wait *wait, const py_limits *limits);
static inline int
py_wait_begin(py_wait *wait, const py_limits *limits)
{
    *wait = (py_wait){RT_FOREVER, NULL};
    if (RT_LIKELY(limits->timeout == Py_None && limits->ctx == NULL))
        return 0;
    return py_wait_begin_slow(wait, limits);
}
/* The same for I/O. */
int py_wait_begin_io(py_wait *wait, const py_limits *limits);
/* py_park() for as long.  For RT_WAKE_INTERRUPT the exception is set; for RT_WAKE_CONTEXT
   py_wait_end() sets it. */
uint32_t py_wait_park_context(Goroutine *gp, int reason, py_wait *wait);
static inline uint32_t
py_wait_park(Goroutine *gp, int reason, py_wait *wait)
{
    if (RT_LIKELY(wait->context == NULL))
        return py_park(gp, reason, wait->deadline);
    return py_wait_park_context(gp, reason, wait);
}
/* To be called after each py_wait_begin() that has succeeded, parked or not.  A context's
   methods and finalizers run here, and may wait: nothing of the wait may be left in the
   seat's waiter. */
void py_wait_end_slow(py_wait *wait);
static inline void
py_wait_end(py_wait *wait)
{
    if (RT_UNLIKELY(wait->context != NULL))
        py_wait_end_slow(wait);
}

/* The clock of the caller's deadlines, ns: in a bubble its own. */
int64_t py_now(void);
/* A timeout argument (None, or seconds) as a deadline; -1 with an exception set. */
int py_deadline(PyObject *timeout, int64_t *deadline);
/* The same for I/O, which waits in real time everywhere. */
int py_io_deadline(PyObject *timeout, int64_t *deadline);
PyObject *py_raise_timeout(const char *what);

#endif
