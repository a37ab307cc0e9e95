/* py_compat.h - the differences between CPython 3.11 and 3.14, in one place. */
#ifndef PY_COMPAT_H
#define PY_COMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

#if PY_VERSION_HEX < 0x030B0000
#error "gosched needs Python 3.11 or newer"
#endif
#if PY_VERSION_HEX >= 0x030F0000
#error "gosched does not know the frames of this version of CPython"
#endif

/* A lock for what the GIL protects where there is one; there it is nothing at all.  It is
   held for moments: no Python runs, no reference is dropped and nothing parks
   meanwhile, and no second one is taken. */
#ifdef Py_GIL_DISABLED
typedef PyMutex py_lock;
#define py_acquire(l) PyMutex_Lock(l)
#define py_release(l) PyMutex_Unlock(l)
#else
typedef struct {
} py_lock;
#define py_acquire(l) ((void)(l))
#define py_release(l) ((void)(l))
#endif

/* A built-in on the C stack may hold the locks of objects, as list() does while it iterates
   over a channel.  Before a switch they are let go, as CPython does before a thread waits,
   and their list, which lives on the stack that is put aside, is taken off the thread. */
#ifdef Py_GIL_DISABLED
uintptr_t py_suspend_object_locks_slow(PyThreadState *ts);
void py_resume_object_locks_slow(PyThreadState *ts, uintptr_t locks);
static inline uintptr_t
py_suspend_object_locks(PyThreadState *ts)
{
    return ts->critical_section == 0 ? 0 : py_suspend_object_locks_slow(ts);
}
static inline void
py_resume_object_locks(PyThreadState *ts, uintptr_t locks)
{
    if (locks != 0)
        py_resume_object_locks_slow(ts, locks);
}
#else
static inline uintptr_t
py_suspend_object_locks(PyThreadState *Py_UNUSED(ts))
{
    return 0;
}
static inline void
py_resume_object_locks(PyThreadState *Py_UNUSED(ts), uintptr_t Py_UNUSED(locks))
{
}
#endif

/* Do frames hold references that are not counted?  The collector finds these in the frames
   of threads, and we must show it those of goroutines that have been switched away from. */
#if PY_VERSION_HEX >= 0x030E0000 && defined(Py_GIL_DISABLED)
#define PY_HAS_UNCOUNTED_REFS 1
#else
#define PY_HAS_UNCOUNTED_REFS 0
#endif

/* A new object (one reference) that any thread may release.  Without a GIL the last release
   elsewhere would be left to the thread that made it, which may be asleep. */
static inline void
py_share_object(PyObject *op)
{
#ifdef Py_GIL_DISABLED
    op->ob_tid = 0;
    op->ob_ref_local = 0;
    op->ob_ref_shared = 1 << _Py_REF_SHARED_SHIFT | _Py_REF_MERGED;
#else
    (void)op;
#endif
}

/* Have other threads left reference counts for ts to merge?  Its eval loop does that, and
   so does a thread that is asleep not. */
static inline bool
py_has_merges(PyThreadState *ts)
{
#ifdef Py_GIL_DISABLED
    return __atomic_load_n(&ts->eval_breaker, __ATOMIC_RELAXED) & 1u << 6;
#else
    (void)ts;
    return false;
#endif
}

/* A thread state for the calling thread, which has none and does not hold the GIL.  NULL: no
   memory, where PyGILState_Ensure() would end the process. */
static inline PyThreadState *
py_thread_state_new(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyThreadState_New(PyInterpreterState_Main());
#else
    /* In this version that one crashes without memory; this is what it does. */
    PyAPI_FUNC(void) _PyThreadState_SetCurrent(PyThreadState *ts);
    PyThreadState *ts = _PyThreadState_Prealloc(PyInterpreterState_Main());
    if (ts != NULL)
        _PyThreadState_SetCurrent(ts);
    return ts;
#endif
}

/* Is the calling thread attached, with the GIL where there is one? */
static inline bool
py_is_attached(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyThreadState_GetUnchecked() != NULL;
#elif PY_VERSION_HEX >= 0x030C0000
    return _PyThreadState_UncheckedGet() != NULL;
#else
    PyThreadState *ts = _PyThreadState_UncheckedGet();  /* whoever has the GIL */
    return ts != NULL && ts == PyGILState_GetThisThreadState();
#endif
}

/* Called, attached or not, by who waits while another thread makes itself a thread state.
   That may stop the world, and where memory is traced it takes the GIL.  What to restore
   afterwards, or NULL. */
static inline PyThreadState *
py_detach_for_newborn(void)
{
    return py_is_attached() ? PyEval_SaveThread() : NULL;
}

/* CPython counts how deep a thread is in trace functions and monitoring callbacks, and calls
   none meanwhile.  The goroutines that run while one is parked there are not in it. */
typedef struct {
    int depth, what;
} py_tracing;
static inline py_tracing
py_leave_tracing(PyThreadState *ts)
{
    py_tracing t = {ts->tracing, 0};
    if (__builtin_expect(t.depth != 0, 0)) {
#if PY_VERSION_HEX >= 0x030C0000
        t.what = ts->what_event;
        ts->what_event = -1;
#else
        t.what = ts->tracing_what;
#endif
        while (ts->tracing != 0)
            PyThreadState_LeaveTracing(ts);
    }
    return t;
}
static inline void
py_enter_tracing(PyThreadState *ts, py_tracing t)
{
    if (__builtin_expect(t.depth == 0, 1))
        return;
    while (ts->tracing < t.depth)
        PyThreadState_EnterTracing(ts);
#if PY_VERSION_HEX >= 0x030C0000
    ts->what_event = t.what;
#else
    ts->tracing_what = t.what;
#endif
}

/* A goroutine starts with the whole recursion limit, whoever's stack starts it. */
static inline void
py_reset_recursion(PyThreadState *ts)
{
#if PY_VERSION_HEX >= 0x030C0000
    ts->py_recursion_remaining = ts->py_recursion_limit;
#else
    ts->recursion_remaining = ts->recursion_limit;
#endif
}

/* Look up key: 1 and *value a new reference, 0 and NULL, or -1 with an exception set. */
static inline int
py_dict_get(PyObject *dict, PyObject *key, PyObject **value)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyDict_GetItemRef(dict, key, value);
#else
    *value = Py_XNewRef(PyDict_GetItemWithError(dict, key));
    return *value ? 1 : PyErr_Occurred() ? -1 : 0;
#endif
}

/* Make ctx (reference stolen, may be NULL: an empty context) the thread's
   context and return the old one (owned).  The goroutine owns its context alone,
   so the checks of PyContext_Enter() are not needed. */
static inline PyObject *
py_swap_context(PyThreadState *ts, PyObject *ctx)
{
    PyObject *old = ts->context;
    ts->context = ctx;
    ts->context_ver++;
    return old;
}

/* The exception set in this thread as one normalized object (owned), cleared. */
static inline PyObject *
py_take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *tb;
    PyErr_Fetch(&type, &value, &tb);
    if (type == NULL)
        return NULL;
    PyErr_NormalizeException(&type, &value, &tb);
    if (tb != NULL)
        PyException_SetTraceback(value, tb);
    Py_XDECREF(tb);
    Py_DECREF(type);
    return value;
#endif
}

/* Raise exc (reference stolen) with the traceback it has. */
static inline void
py_raise(PyObject *exc)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(exc);
#else
    PyErr_Restore(Py_NewRef(Py_TYPE(exc)), exc, PyException_GetTraceback(exc));
#endif
}

/* Is the interpreter being taken down?  Finalizers may still call us. */
static inline bool
py_is_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

/* Call fn(arg) while no other thread runs Python.  It must not run Python, nor allocate or
   release objects. */
void py_stop_world(void (*fn)(void *), void *arg);
/* In the child of a fork: the world can be stopped there, too. */
void py_world_after_fork(void);

/* The Python code that calls into us: its code object (owned, or NULL when there
   is none) and the offset of the instruction, for PyCode_Addr2Line(). */
PyObject *py_caller(PyThreadState *ts, int *lasti);

/* Have the thread let go of the GIL at once, not after the usual 5 ms, if it has it and
   runs Python.  The caller must attach next, for the thread waits until somebody has
   taken the GIL. */
void py_demand_gil(PyThreadState *holder);
/* Does another thread have the GIL now?  False where that is not known. */
bool py_gil_is_elsewhere(const PyThreadState *ts);

/* Have Python's handler of signum called soon on the main thread, whose state is given,
   without sending a signal that could interrupt a system call.  Any thread, with or
   without the GIL. */
void py_raise_signal(PyThreadState *main_ts, int signum);

#endif
