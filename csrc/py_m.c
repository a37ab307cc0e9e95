/* py_m.c - Ms: the threads that run goroutines, and how they come and go.
 *
 * The main thread's M is m0; its main goroutine is the program's own main greenlet.
 * The other Ms of GOMAXPROCS are started when there is work for them, and run on
 * threads of their own.  One more, of the spare P, runs the goroutines that threads
 * which are not Ms spawn while GOMAXPROCS is 1, and what Ps cannot run whose M is stuck
 * or locked: the main thread may be inside a call that never comes back to the
 * scheduler (Thread.join(), input()), and the goroutines must run all the same.
 *
 * A thread that is not an M is *foreign*.  It can do everything a goroutine can; where
 * it has to wait it sleeps on an OS primitive.  A Goroutine stands for it.
 *
 * Locking the OS thread.  A goroutine that has begun stays on its thread anyhow, so
 * lock_os_thread() only keeps others from beginning there: the P is closed, and
 * the spare one stands in for it.
 *
 * Exit.  A thread that is in the middle of something when the interpreter is taken down
 * can bring it down with it (it may hold the lock of sys.stdout), so Ms are stopped
 * where they run no Python: at once if they sleep, else when their goroutine parks
 * or ends, which a GoExit hastens.  A goroutine that stays in C code is not
 * waited for any longer than STOP_WAIT.
 */
#include "py_bubble.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define STOP_WAIT 250           /* ms */

/* Held while an M is started; its thread waits for it before it runs Python.  Under it, the
   thread says whether there was memory for its thread state. */
static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    rt_parker said;
    bool lives;
} newborn;

/* ---- starting ---- */

static py_m *
m_new(void)
{
    py_m *mp = aligned_alloc(64, (sizeof(py_m) + 63) / 64 * 64);
    if (mp == NULL)
        return NULL;
    memset(mp, 0, sizeof(*mp));
    mp->idle = PyMem_RawCalloc(PY_MAX_IDLE_WORKERS, sizeof(PyGreenlet *));
    if (mp->idle == NULL) {
        free(mp);
        return NULL;
    }
    return mp;
}

static void
m_free(py_m *mp)
{
    PyMem_RawFree(mp->idle);
    free(mp);
}

static void
raise_errno(int err)
{
    errno = err;
    PyErr_SetFromErrno(PyExc_OSError);
}

/* Make the main thread an M, with its main goroutine running. */
static int
start_m0(void)
{
    py_m *mp = m_new();
    int err = mp ? rt_p_init(&mp->p, &core->sched, 0, false) : -ENOMEM;
    if (err < 0) {
        if (mp != NULL)
            m_free(mp);
        raise_errno(-err);
        return -1;
    }
    mp->tstate = PyThreadState_Get();
    mp->is_main = true;
    PyGreenlet *root = PyGreenlet_GetCurrent();
    while (root != NULL && !PyGreenlet_MAIN(root)) {
        PyGreenlet *parent = PyGreenlet_GetParent(root);
        Py_SETREF(root, parent);
    }
    mp->g0 = root ? PyGreenlet_New(core->g0_fn, root) : NULL;
    Goroutine *gp = mp->g0 ? py_g_alloc() : NULL;
    if (gp == NULL) {
        Py_XDECREF(root);
        return -1;              /* at import, with an exception: the import fails */
    }
    gp->g.pp = &mp->p;
    gp->g.started = gp->g.pinned = 1;
    RT_STORE(gp->g.status, RT_G_RUNNING);
    gp->seat = &mp->seat;
    gp->seat->waiter.g = gp;
    gp->seat->greenlet = root;
    py_seat_link(&mp->seats, gp->seat);
    core->main_g = gp;
    mp->curg = gp;
    core->m0 = py_tls_m = mp;
    py_preempt_m_init(mp);
    return 0;
}

static void
thread_ended(PyObject *Py_UNUSED(capsule))
{
    if (py_tls_m != NULL && py_tls_m == core->m0)
        py_m_end_child(Py_NewRef(Py_None));
}

/* In a child that a foreign thread has forked that thread is the main one.  There is no
   main program for it to return to: the process ends with it, whatever other threads we
   have started there. */
static int
end_with_thread(void)
{
    PyObject *dict = PyThreadState_GetDict();
    PyObject *capsule = dict ? PyCapsule_New(core, NULL, thread_ended) : NULL;
    int r = capsule ? PyDict_SetItem(dict, core->foreign_key, capsule) : -1;
    Py_XDECREF(capsule);
    return r;
}

py_m *
py_this_m(void)
{
    if (RT_LIKELY(py_tls_m != NULL))
        return py_tls_m;
    if (core->m0 == NULL && PyThread_get_thread_ident() == core->main_ident
        && (start_m0() < 0 || (core->forked_by_thread && end_with_thread() < 0)))
        PyErr_Clear();
    return py_tls_m;
}

/* The thread of an M but m0: its own main greenlet is g0. */
static void
m_main(void *arg)
{
    py_m *mp = arg;
    PyThreadState *ts = py_thread_state_new();
    newborn.lives = ts != NULL;
    rt_parker_unpark(&newborn.said);
    if (ts == NULL)
        return;                 /* mp is the starter's */
    pthread_mutex_lock(&start_lock);
    bool started = mp->p.sched != NULL;
    pthread_mutex_unlock(&start_lock);
    if (!started) {
        PyEval_RestoreThread(ts);
        PyThreadState_Clear(ts);
        PyThreadState_DeleteCurrent();
        m_free(mp);
        return;
    }
#ifdef __linux__
    pthread_setname_np(pthread_self(), "gosched-m");    /* it may have sysmon's name */
#endif
    PyEval_RestoreThread(ts);   /* kept for good: the thread ends with the process */
    mp->tstate = ts;
    py_tls_m = mp;
    mp->g0 = PyGreenlet_GetCurrent();
    if (mp->g0 == NULL)
        rt_throw("m_main: no greenlet for the thread of an M");
    py_preempt_m_init(mp);
    mp->next = py_find(mp);
    py_g0_run(mp);
}

static bool
newborn_is_alive(void)
{
    rt_parker_park(&newborn.said, RT_FOREVER);
    return newborn.lives;
}

int
py_m_start(rt_sched *sched, uint32_t id)
{
    py_m *mp = NULL;
    int err = 0;
    PyThreadState *ts = py_detach_for_newborn();
    pthread_mutex_lock(&start_lock);
    if (rt_p_by_id(sched, id) == NULL) {
        mp = m_new();
        if (mp == NULL)
            err = -ENOMEM;
        else if (PyThread_start_new_thread(m_main, mp) == PYTHREAD_INVALID_THREAD_ID) {
            m_free(mp);
            err = -EAGAIN;
        }
        else if (!newborn_is_alive()) {
            m_free(mp);
            err = -ENOMEM;
        }
        else {
            err = rt_p_init(&mp->p, sched, id, id != RT_SPARE_P);
            if (err < 0)
                mp->p.sched = NULL;
        }
    }
    pthread_mutex_unlock(&start_lock);
    if (ts != NULL)
        PyEval_RestoreThread(ts);
    return err;
}

py_m *
py_m_get(uint32_t id)
{
    rt_sched *sched = &core->sched;
    rt_p *pp = rt_p_by_id(sched, id);
    if (pp == NULL) {
        if (id == RT_SPARE_P)
            py_m_start(sched, id);
        else
            rt_sched_start(sched, id);
        pp = rt_p_by_id(sched, id);
    }
    return pp ? py_m_of(pp) : NULL;
}

py_m *
py_spare(void)
{
    rt_p *pp = rt_p_by_id(&core->sched, RT_SPARE_P);
    if (RT_LIKELY(pp != NULL))
        return py_m_of(pp);
    int err = py_m_start(&core->sched, RT_SPARE_P);
    if (err < 0) {
        PyErr_Format(PyExc_RuntimeError, "cannot start a thread for goroutines: %s",
                     strerror(-err));
        return NULL;
    }
    return py_m_of(rt_p_by_id(&core->sched, RT_SPARE_P));
}

int
py_submit(Goroutine *gp)
{
    py_m *mp = py_this_m();
    if (RT_UNLIKELY(RT_LOAD(core->sched.sysmon.state) != RT_SYSMON_AWAKE))
        py_sysmon_kick();
    if (RT_LIKELY(mp != NULL)) {
        RT_COUNT(mp->created, 1);
        rt_p_put_fresh(&mp->p, &gp->g);
        return 0;
    }
    if (RT_LOAD(core->sched.nprocs) > 1) {
        atomic_fetch_add(&core->created, 1);
        rt_sched_put(&core->sched, &gp->g);
        return 0;
    }
    mp = py_spare();
    if (mp == NULL)
        return -1;
    atomic_fetch_add(&core->created, 1);
    RT_STORE(gp->g.status, RT_G_RUNNABLE);
    if (RT_UNLIKELY(RT_LOAD(mp->p.mode) == RT_P_CLOSED))
        rt_sched_put(&core->sched, &gp->g);     /* its thread is locked */
    else
        rt_p_submit(&mp->p, &gp->g);
    return 0;
}

uint64_t
py_num_goroutine(uint64_t *created, uint64_t *finished)
{
    uint64_t done = 0;
    py_m *mp;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++)
        done += RT_LOAD(mp->finished);
    uint64_t made = RT_LOAD(core->created);     /* after: none is counted ended only */
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++)
        made += RT_LOAD(mp->created);
    if (created != NULL) {
        *created = made;
        *finished = done;
    }
    return made - done + 1;
}

/* ---- foreign threads ---- */

/* The Goroutine of a thread that is not an M (borrowed), made on first use.  Only the
   thread state's dict knows it: it dies with the thread, while finalizers of the
   thread's other data may still come here. */
static Goroutine *
foreign_g(void)
{
    PyObject *dict = PyThreadState_GetDict();
    if (dict == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    Goroutine *gp = (Goroutine *)PyDict_GetItemWithError(dict, core->foreign_key);
    if (gp != NULL || PyErr_Occurred())
        return gp;
    /* Any P will do to reach the host; when the main thread has not come here yet
       there may be none. */
    py_m *mp = core->m0 ? core->m0 : py_spare();
    gp = mp ? py_g_alloc() : NULL;
    if (gp == NULL)
        return NULL;
    py_seat *seat = PyMem_Calloc(1, sizeof(*seat));
    rt_parker *parker = PyMem_New(rt_parker, 1);
    if (seat == NULL || parker == NULL || rt_parker_init(parker) < 0) {
        PyMem_Free(parker);
        PyMem_Free(seat);
        Py_DECREF(gp);
        PyErr_NoMemory();
        return NULL;
    }
    seat->waiter.g = gp;
    seat->parker = parker;
    seat->tstate_id = PyThreadState_GetID(PyThreadState_Get());
    gp->seat = seat;
    gp->cold = true;
    gp->g.foreign = 1;
    RT_STORE(gp->g.status, RT_G_RUNNING);
    gp->g.pp = &mp->p;
    py_acquire(&core->lock);
    py_seat_link(&core->foreign, seat);
    py_release(&core->lock);
    gp->name = PyUnicode_FromFormat("thread-%lu", PyThread_get_thread_ident());
    if (gp->name == NULL || PyDict_SetItem(dict, core->foreign_key, (PyObject *)gp) < 0) {
        Py_DECREF(gp);
        return NULL;
    }
    Py_DECREF(gp);
    return gp;
}

Goroutine *
py_current(const char *what)
{
    py_m *mp = py_this_m();
    if (RT_UNLIKELY(mp == NULL))
        return foreign_g();
    if (RT_UNLIKELY(mp->curg == NULL))
        PyErr_Format(PyExc_RuntimeError,
                     "%s cannot be used here: the scheduler itself runs this code (a signal "
                     "handler or finalizer while all goroutines wait); start a goroutine "
                     "with runtime.go() instead", what);
    return mp->curg;
}

/* For threads of the runtime's own that only serve goroutines: while they are parked
   nobody needs to expect anything of them. */
static PyObject *
m_service_thread(PyObject *Py_UNUSED(module), PyObject *flag)
{
    int on = PyObject_IsTrue(flag);
    Goroutine *gp = on < 0 ? NULL : py_current("_service_thread()");
    if (gp == NULL)
        return NULL;
    gp->seat->service = on;
    Py_RETURN_NONE;
}

/* ---- GOMAXPROCS and locked threads ---- */

static PyObject *
m_gomaxprocs(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    if (nargs + nkw > 1
        || (nkw == 1
            && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "n"))) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: gomaxprocs(n=None)");
        return NULL;
    }
    if (nargs + nkw == 0 || args[0] == Py_None)
        return PyLong_FromUnsignedLong(RT_LOAD(core->sched.nprocs));
    long n = PyLong_AsLong(args[0]);
    if (n == -1 && PyErr_Occurred())
        return NULL;
    if (n < 1 || n > RT_MAX_P) {
        PyErr_Format(PyExc_ValueError, "gomaxprocs(n): n must be 1 to %d, not %ld; call it "
                     "without n to see the setting", RT_MAX_P, n);
        return NULL;
    }
    py_this_m();
    return PyLong_FromUnsignedLong(rt_sched_set_procs(&core->sched, (uint32_t)n));
}

static PyObject *
m_lock_os_thread(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    Goroutine *gp = py_current("lock_os_thread()");
    if (gp == NULL)
        return NULL;
    if (gp->seat->nlocked++ == 0 && !gp->g.foreign)
        rt_p_lock(gp->g.pp, 1);
    Py_RETURN_NONE;
}

static PyObject *
m_unlock_os_thread(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    Goroutine *gp = py_current("unlock_os_thread()");
    if (gp == NULL)
        return NULL;
    if (gp->seat->nlocked == 0) {
        PyErr_SetString(PyExc_RuntimeError, "unlock_os_thread() without lock_os_thread() in "
                        "this goroutine");
        return NULL;
    }
    if (--gp->seat->nlocked == 0 && !gp->g.foreign)
        rt_p_lock(gp->g.pp, -1);
    Py_RETURN_NONE;
}

void
py_m_unlock_all(py_m *mp, py_seat *seat)
{
    seat->nlocked = 0;
    rt_p_lock(&mp->p, -1);
}

/* ---- the end of the process, and its copies ---- */

void
py_m_pause(py_m *mp)
{
    atomic_store(&mp->paused, true);
    for (;;)
        pause();
}

/* Called at exit: see "Exit". */
static PyObject *
m_stop(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    py_m *mp;
    py_sysmon_stop();
    rt_sched_set_procs(&core->sched, 1);    /* what handlers still start runs on m0 */
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++) {
        if (mp == py_tls_m || mp->is_main)
            continue;
        atomic_store(&mp->stopping, true);
        core->sched.netpoll->wake(mp->p.np);
        if (mp->curg != NULL && mp->tstate != NULL)
            PyThreadState_SetAsyncExc(mp->tstate->thread_id, core->exc_goexit);
    }
    for (int ms = 0; ms < STOP_WAIT; ms++) {
        bool paused = true;
        for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++)
            paused = paused && (!atomic_load(&mp->stopping) || atomic_load(&mp->paused));
        if (paused)
            break;
        struct timespec one = {0, 1000000};
        Py_BEGIN_ALLOW_THREADS
        nanosleep(&one, NULL);
        Py_END_ALLOW_THREADS
    }
    py_g_report_failures();
    Py_RETURN_NONE;
}

/* Nobody shall ever wake it. */
static void
forget_seats(const py_seat *seat, const Goroutine *but)
{
    for (; seat != NULL; seat = seat->next)
        if (seat->waiter.g != NULL && seat->waiter.g != but)
            RT_STORE(seat->waiter.g->g.wake, RT_WAKE_READY);
}

/* In the child of a fork.  The thread that has forked is the main thread now, its
   goroutine the main one.  The others did not come along: what is left of them is never
   run, nor freed.  The poller's descriptor is shared with the parent, whose connections
   would notice what the child does there, so it gets a new one. */
static PyObject *
m_after_fork(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    py_m *mp, *me = py_tls_m;
    Goroutine *gp = me ? me->curg : NULL;
    py_world_after_fork();
    py_sysmon_after_fork();
    pthread_mutex_init(&start_lock, NULL);
    rt_parker_init(&newborn.said);
    memset(&core->lock, 0, sizeof(core->lock));
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++)
        forget_seats(mp->seats, gp);
    forget_seats(core->foreign, NULL);
    py_netfd_after_fork();
    core->main_ident = PyThread_get_thread_ident();
    core->forks++;
    core->m0 = me;
    RT_STORE(core->created, 0);
    py_http_after_fork(me);
    py_bubble_after_fork(gp);
    int err = rt_sched_after_fork(&core->sched, me ? &me->p : NULL);
    if (me == NULL) {
        core->main_g = NULL;
        core->forked_by_thread = true;
        PyObject *dict = PyThreadState_GetDict();
        if (dict != NULL && PyDict_GetItemWithError(dict, core->foreign_key) != NULL
            && PyDict_DelItem(dict, core->foreign_key) < 0)
            return NULL;
        Py_RETURN_NONE;
    }
    for (py_seat *seat = me->seats, *next; seat != NULL; seat = next) {
        next = seat->next;
        if (seat->waiter.g != NULL && seat->waiter.g != gp)
            py_seat_unlink(&me->seats, seat);
    }
    me->is_main = true;
    RT_STORE(me->created, 0);
    RT_STORE(me->finished, 0);
    RT_STORE(me->switches, 0);
    if (gp != NULL && gp != core->main_g) {
        core->main_g = (Goroutine *)Py_NewRef(gp);
        gp->cold = true;        /* so that its end is seen to be the process's */
    }
    if (err < 0) {
        raise_errno(-err);
        return NULL;
    }
    Py_RETURN_NONE;
}

void
py_m_end_child(PyObject *result)
{
    PyObject *exc = Py_NewRef(Py_None);
    if (result == NULL && PyErr_ExceptionMatches(core->exc_goexit))
        PyErr_Clear();
    else if (result == NULL)
        Py_SETREF(exc, py_take_exception());
    PyObject *r = PyObject_CallOneArg(core->end_child, exc);
    if (r == NULL)
        PyErr_Print();
    _exit(1);                   /* it does not return */
}

static PyMethodDef functions[] = {
    {"gomaxprocs", (PyCFunction)(void (*)(void))m_gomaxprocs, METH_FASTCALL | METH_KEYWORDS,
     "gomaxprocs(n=None)\n--\n\n"
     "Set how many Ps may run goroutines at the same time; returns the previous setting.\n\n"
     "Without n, only tell.  The default is $GOMAXPROCS if set, else 1 where Python has\n"
     "a GIL and the number of usable CPUs where it has none.  ValueError unless n is 1 to\n"
     "256.  When the number shrinks, goroutines that have begun finish where they are.\n\n"
     "Go: runtime.GOMAXPROCS."},
    {"lock_os_thread", m_lock_os_thread, METH_NOARGS,
     "lock_os_thread()\n--\n\n"
     "Let no other goroutine begin on the calling goroutine's thread.\n\n"
     "A goroutine always stays on one thread; after this call the thread is its own, but\n"
     "for goroutines that have begun there before.  Undone by as many calls of\n"
     "unlock_os_thread(), or by the goroutine's end.\n\n"
     "Go: runtime.LockOSThread."},
    {"unlock_os_thread", m_unlock_os_thread, METH_NOARGS,
     "unlock_os_thread()\n--\n\n"
     "Undo one lock_os_thread() of the calling goroutine.\n\n"
     "RuntimeError if there was none.  Go: runtime.UnlockOSThread."},
    {"_service_thread", m_service_thread, METH_O, NULL},
    {"_stop", m_stop, METH_NOARGS, NULL},
    {"_after_fork", m_after_fork, METH_NOARGS, NULL},
    {0},
};

int
py_m_init(PyObject *module)
{
    int err = rt_parker_init(&newborn.said);
    if (err < 0) {
        raise_errno(-err);
        return -1;
    }
    core->foreign_key = PyUnicode_InternFromString("gosched.goroutine");
    if (core->foreign_key == NULL || PyModule_AddFunctions(module, functions) < 0)
        return -1;
    return PyThread_get_thread_ident() == core->main_ident ? start_m0() : 0;
}
