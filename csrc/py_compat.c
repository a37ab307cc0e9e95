/* py_compat.c - the one file that looks into CPython's frames.
 *
 * PyThreadState_GetFrame() would do, but makes a frame object for each function
 * that spawns (about 100 ns), and go() is a hot path.
 */
#include <Python.h>

#if PY_VERSION_HEX < 0x030C0000
#define Py_BUILD_CORE 1
#include "internal/pycore_frame.h"
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
