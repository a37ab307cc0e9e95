/* py_compat.c - what needs a look behind CPython's API (see also py_frames.c).
 *
 * PyThreadState_GetFrame() would do to find the caller, but makes a frame object for
 * each function that spawns (about 100 ns), and go() is a hot path.
 */
#include <Python.h>

#define Py_BUILD_CORE 1
#undef _PyGC_FINALIZED          /* the internal header has its own */
#include "internal/pycore_ceval.h"
#include "internal/pycore_frame.h"
#include "internal/pycore_interp.h"
#include "internal/pycore_runtime.h"
#undef Py_BUILD_CORE

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
/* The low bits of a link in the list of critical sections. */
#define CS_INACTIVE 1
#define CS_TWO 2
#define CS_SECTION(link) ((PyCriticalSection *)((link) & ~(uintptr_t)3))

uintptr_t
py_suspend_object_locks_slow(PyThreadState *ts)
{
    /* Those below an inactive one were let go with it. */
    for (uintptr_t *link = &ts->critical_section; *link != 0 && !(*link & CS_INACTIVE);) {
        PyCriticalSection *cs = CS_SECTION(*link);
        if (cs->_cs_mutex != NULL)
            PyMutex_Unlock(cs->_cs_mutex);
        if (*link & CS_TWO && ((PyCriticalSection2 *)cs)->_cs_mutex2 != NULL)
            PyMutex_Unlock(((PyCriticalSection2 *)cs)->_cs_mutex2);
        *link |= CS_INACTIVE;
        link = &cs->_cs_prev;
    }
    uintptr_t locks = ts->critical_section;
    ts->critical_section = 0;
    return locks;
}

void
py_resume_object_locks_slow(PyThreadState *ts, uintptr_t locks)
{
    /* The innermost is locked again; the end of each locks the next.  Taking a lock may
       detach the thread, which must not see the section as active yet. */
    PyCriticalSection *cs = CS_SECTION(locks);
    if (cs->_cs_mutex != NULL)
        PyMutex_Lock(cs->_cs_mutex);
    if (locks & CS_TWO && ((PyCriticalSection2 *)cs)->_cs_mutex2 != NULL)
        PyMutex_Lock(((PyCriticalSection2 *)cs)->_cs_mutex2);
    ts->critical_section = locks & ~(uintptr_t)CS_INACTIVE;
}

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

void
py_world_after_fork(void)
{
    /* Who was about to stop the world has the lock and waits, for fork() has stopped it. */
    memset(&PyInterpreterState_Get()->stoptheworld.mutex, 0, sizeof(PyMutex));
}
#else
void
py_world_after_fork(void)
{
}

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

void
py_demand_gil(PyThreadState *holder)
{
    /* What a thread does that has waited for the GIL for sys.getswitchinterval(). */
#if PY_VERSION_HEX < 0x030D0000
    struct _ceval_state *ceval = &holder->interp->ceval;
    _Py_atomic_store_relaxed(&ceval->gil_drop_request, 1);
    _Py_atomic_store_relaxed(&ceval->eval_breaker, 1);
#elif !defined(Py_GIL_DISABLED)
    _Py_atomic_or_uintptr(&holder->eval_breaker, _PY_GIL_DROP_REQUEST_BIT);
#else
    (void)holder;
#endif
}

bool
py_gil_is_elsewhere(const PyThreadState *ts)
{
#if PY_VERSION_HEX < 0x030C0000
    struct _gil_runtime_state *gil = &_PyRuntime.ceval.gil;
    const void *holder = (const void *)_Py_atomic_load_relaxed(&gil->last_holder);
    return _Py_atomic_load_relaxed(&gil->locked) && holder != ts;
#elif PY_VERSION_HEX < 0x030D0000
    struct _gil_runtime_state *gil = ts->interp->ceval.gil;
    const void *holder = (const void *)_Py_atomic_load_relaxed(&gil->last_holder);
    return _Py_atomic_load_relaxed(&gil->locked) && holder != ts;
#elif !defined(Py_GIL_DISABLED)
    struct _gil_runtime_state *gil = ts->interp->ceval.gil;
    const void *holder = _Py_atomic_load_ptr_relaxed(&gil->last_holder);
    return _Py_atomic_load_int_relaxed(&gil->locked) && holder != ts;
#else
    (void)ts;
    return false;
#endif
}
