/* py_waitgroup.c - WaitGroup.
 *
 * Whoever brings the counter to zero takes all waiters out of the queue at once, so none is
 * there while it is zero.  What Go reports as misuse, counting up again while waiters are
 * still on their way out of wait(), is therefore no danger here: they have been let go.
 */
#include "py_sync.h"
#include "py_waits.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    py_lock lock;               /* guards waiters and count */
    py_waitq waiters;
    int64_t count;
    PyObject *weakrefs;
} WaitGroup;

PyObject *
py_waitgroup_of_queue(py_waitq *q)
{
    return (PyObject *)RT_CONTAINER_OF(q, WaitGroup, waiters);
}

static int
waitgroup_add_n(WaitGroup *wg, int64_t n)
{
    py_waitq woken = {0};
    py_acquire(&wg->lock);
    int64_t count = wg->count + n;
    if (RT_LIKELY(count >= 0))
        wg->count = count;
    if (count == 0)
        py_waitq_claim_all(&wg->waiters, RT_WAKE_READY, &woken);
    py_release(&wg->lock);
    py_ready_all(&woken);
    if (RT_LIKELY(count >= 0))
        return 0;
    PyErr_SetString(PyExc_ValueError, "negative WaitGroup counter: more done() than add()");
    return -1;
}

static PyObject *
waitgroup_add(WaitGroup *wg, PyObject *const *args, Py_ssize_t nargs)
{
    long long n = 1;
    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: add(n=1)");
        return NULL;
    }
    if (nargs == 1 && (n = PyLong_AsLongLong(args[0])) == -1 && PyErr_Occurred())
        return NULL;
    if (n > INT32_MAX || n < INT32_MIN) {
        PyErr_SetString(PyExc_OverflowError, "add(n): n must fit 32 bits");
        return NULL;
    }
    if (waitgroup_add_n(wg, n) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
waitgroup_done(WaitGroup *wg, PyObject *Py_UNUSED(ignored))
{
    if (waitgroup_add_n(wg, -1) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
waitgroup_wait(WaitGroup *wg, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_limits limits;
    py_wait wait;
    if (py_limits_parse(&limits, "wait(" PY_LIMITS_USAGE ")", 0, args, nargs, kwnames) < 0)
        return NULL;
    Goroutine *gp = py_current("WaitGroup.wait()");
    if (gp == NULL || py_wait_begin(&wait, &limits) < 0)
        return NULL;
    rt_g_arm(&gp->g);
    py_acquire(&wg->lock);
    bool zero = wg->count == 0;
    if (!zero)
        py_waitq_push(&wg->waiters, &gp->seat->waiter);
    py_release(&wg->lock);
    if (zero) {
        py_stay(gp);
        py_wait_end(&wait);
        Py_RETURN_NONE;
    }
    uint32_t why = py_wait_park(gp, PY_WAIT_GROUP, &wait);
    if (RT_UNLIKELY(why != RT_WAKE_READY)) {
        py_acquire(&wg->lock);
        py_waitq_remove(&gp->seat->waiter);
        py_release(&wg->lock);
    }
    py_wait_end(&wait);
    if (RT_LIKELY(why == RT_WAKE_READY))
        Py_RETURN_NONE;
    if (why == RT_WAKE_TIMEOUT)
        py_raise_timeout("WaitGroup.wait()");
    return NULL;
}

/* ---- go() ---- */

/* What a goroutine of go() calls in place of fn.  If it is dropped without having been called,
   since the goroutine was cancelled before it began, it says done() all the same. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    WaitGroup *wg;              /* owned; NULL once done() was said */
    PyObject *fn;               /* owned */
} Task;

/* Say done().  -1 with an exception set, for which the one that is set becomes the context. */
static int
task_done(Task *task)
{
    WaitGroup *wg = task->wg;
    if (wg == NULL)
        return 0;
    task->wg = NULL;
    PyObject *earlier = py_take_exception();
    int r = waitgroup_add_n(wg, -1);
    Py_DECREF(wg);
    if (earlier != NULL && r < 0) {
        PyObject *exc = py_take_exception();
        PyException_SetContext(exc, earlier);
        py_raise(exc);
    }
    else if (earlier != NULL)
        py_raise(earlier);
    return r;
}

static PyObject *
task_vectorcall(Task *task, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    PyObject *result = PyObject_Vectorcall(task->fn, args, nargsf, kwnames);
    if (task_done(task) < 0)
        Py_CLEAR(result);
    return result;
}

static int
task_traverse(Task *task, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(task));
    Py_VISIT(task->wg);
    Py_VISIT(task->fn);
    return 0;
}

static int
task_clear(Task *task)
{
    if (task->wg != NULL && !py_is_finalizing() && task_done(task) < 0)
        PyErr_WriteUnraisable(NULL);
    Py_CLEAR(task->wg);
    Py_CLEAR(task->fn);
    return 0;
}

static void
task_dealloc(Task *task)
{
    PyTypeObject *type = Py_TYPE(task);
    PyObject_GC_UnTrack(task);
    Py_TRASHCAN_BEGIN(task, task_dealloc)
    task_clear(task);
    type->tp_free(task);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

/* functools.wraps() and inspect.unwrap() call it so. */
static PyObject *
task_get_wrapped(Task *task, void *Py_UNUSED(closure))
{
    return Py_XNewRef(task->fn);
}

static PyGetSetDef task_getset[] = {
    {"__wrapped__", (getter)task_get_wrapped, NULL, "What the goroutine runs.", NULL},
    {0},
};
static PyMemberDef task_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Task, vectorcall), READONLY, NULL},
    {0},
};
static PyType_Slot task_slots[] = {
    {Py_tp_dealloc, task_dealloc},
    {Py_tp_traverse, task_traverse},
    {Py_tp_clear, task_clear},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_getset, task_getset},
    {Py_tp_members, task_members},
    {0, NULL},
};
static PyType_Spec task_spec = {
    "runtime._core._WaitGroupTask", sizeof(Task), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL
        | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    task_slots};

#define FEW_ARGS 8

static PyObject *
waitgroup_go(WaitGroup *wg, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    Py_ssize_t n = nargs + (kwnames ? PyTuple_GET_SIZE(kwnames) : 0);
    if (nargs < 1 || !PyCallable_Check(args[0])) {
        PyErr_Format(PyExc_TypeError, "WaitGroup.go() needs a callable%s%.200s; write "
                     "wg.go(f, x), not wg.go(f(x))", nargs < 1 ? "" : ", got ",
                     nargs < 1 ? "" : Py_TYPE(args[0])->tp_name);
        return NULL;
    }
    PyObject *few[FEW_ARGS], **call = n <= FEW_ARGS ? few : PyMem_New(PyObject *, n);
    PyObject *result = NULL;
    Task *task = call ? PyObject_GC_New(Task, core->waitgroup_task_type) : NULL;
    if (task == NULL) {
        PyErr_NoMemory();
        goto end;
    }
    task->vectorcall = (vectorcallfunc)task_vectorcall;
    task->wg = NULL;
    task->fn = Py_NewRef(args[0]);
    PyObject_GC_Track(task);
    call[0] = (PyObject *)task;
    for (Py_ssize_t i = 1; i < n; i++)
        call[i] = args[i];
    waitgroup_add_n(wg, 1);
    task->wg = (WaitGroup *)Py_NewRef((PyObject *)wg);
    result = py_go(NULL, call, (size_t)nargs, kwnames);
    Py_DECREF(task);
end:
    if (call != few)
        PyMem_Free(call);
    return result;
}

/* ---- methods ---- */

static PyObject *
waitgroup_repr(WaitGroup *wg)
{
    return PyUnicode_FromFormat("<WaitGroup %lld at %p>", (long long)wg->count, (void *)wg);
}

static PyMethodDef waitgroup_methods[] = {
    {"add", PY_FAST(waitgroup_add),
     "add($self, n=1, /)\n--\n\n"
     "Add n, which may be negative, to the counter.\n\n"
     "ValueError if it would become negative.  Add before what is to be waited for starts,\n"
     "not in it: wait() might see zero before.\n\n"
     "Go: sync.WaitGroup.Add."},
    {"done", (PyCFunction)waitgroup_done, METH_NOARGS,
     "done($self)\n--\n\nSubtract one from the counter.  Go: sync.WaitGroup.Done."},
    {"wait", PY_FASTKW(waitgroup_wait),
     "wait($self, timeout=None, *, ctx=None)\n--\n\n"
     "Wait until the counter is zero.\n\n"
     "Raises TimeoutError after timeout seconds, or ctx.err() when the context ctx ends.\n\n"
     "Go: sync.WaitGroup.Wait."},
    {"go", PY_FASTKW(waitgroup_go),
     "go($self, fn, /, *args, **kwargs)\n--\n\n"
     "Start fn(*args, **kwargs) as a goroutine that the group waits for; returns it.\n\n"
     "The counter goes up now and down when fn returns or raises, or when the goroutine is\n"
     "cancelled before it has begun.\n\n"
     "Go: sync.WaitGroup.Go."},
    {0},
};
static PyMemberDef waitgroup_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(WaitGroup, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot waitgroup_slots[] = {
    {Py_tp_dealloc, py_sync_dealloc},
    {Py_tp_methods, waitgroup_methods},
    {Py_tp_members, waitgroup_members},
    {Py_tp_repr, waitgroup_repr},
    {Py_tp_doc,
     "WaitGroup()\n--\n\n"
     "Waits for a number of goroutines to finish.\n\n"
     "    wg = WaitGroup()\n"
     "    for url in urls:\n"
     "        wg.go(fetch, url)   # or wg.add(), and wg.done() in the goroutine\n"
     "    wg.wait()\n\n"
     "Go: sync.WaitGroup."},
    {0, NULL},
};
static PyType_Spec waitgroup_spec = {
    "runtime.WaitGroup", sizeof(WaitGroup), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, waitgroup_slots};

int
py_waitgroup_init_types(PyObject *module)
{
    if (py_add_type(module, &task_spec, &core->waitgroup_task_type, true) < 0)
        return -1;
    return py_add_type(module, &waitgroup_spec, &core->waitgroup_type, true);
}
