/* py_compat.c - what needs a look behind CPython's API (see also py_frames.c).
 *
 * PyThreadState_GetFrame() would do to find the caller, but makes a frame object for
 * each function that spawns (about 100 ns), and go() is a hot path.
 */
#include <Python.h>

#if PY_VERSION_HEX < 0x030D0000
#define Py_BUILD_CORE 1
#undef _PyGC_FINALIZED          /* the internal header has its own */
#include "internal/pycore_frame.h"
#include "internal/pycore_interp.h"
#undef Py_BUILD_CORE
#endif

#include "py_compat.h"

PyObject *
py_caller(PyThreadState *ts, int *lasti)
{
#if PY_VERSION_HEX >= 0x030D0000
    struct _PyInterpreterFrame *frame = ts->current_frame;
#else
    struct _PyInterpreterFrame *frame = ts->cframe->current_frame;
#endif
    *lasti = -1;
    if (frame == NULL)
        return NULL;
#if PY_VERSION_HEX >= 0x030C0000
    *lasti = PyUnstable_InterpreterFrame_GetLasti(frame);
    return PyUnstable_InterpreterFrame_GetCode(frame);
#else
    *lasti = _PyInterpreterFrame_LASTI(frame) * (int)sizeof(_Py_CODEUNIT);
    return Py_NewRef(frame->f_code);
#endif
}

#ifdef Py_GIL_DISABLED
typedef struct {
    void (*fn)(void *);
    void *arg;
} world_call;

static int
call_once(PyObject *Py_UNUSED(first), void *arg)
{
    world_call *call = arg;
    call->fn(call->arg);
    return 0;
}

void
py_stop_world(void (*fn)(void *), void *arg)
{
    /* The one public function that stops the world; there always is a first object. */
    world_call call = {fn, arg};
    PyUnstable_GC_VisitObjects(call_once, &call);
}
#else
void
py_stop_world(void (*fn)(void *), void *arg)
{
    fn(arg);                    /* the GIL is held */
}
#endif

void
py_raise_signal(PyThreadState *main_ts, int signum)
{
    PyErr_SetInterruptEx(signum);
#if PY_VERSION_HEX < 0x030D0000
    /* Up to 3.12 the flag that makes the eval loop look is set only by the main thread,
       which looks for signals of its own accord when it takes the GIL. */
    _Py_atomic_store_relaxed(&main_ts->interp->ceval.eval_breaker, 1);
#else
    (void)main_ts;
#endif
}
