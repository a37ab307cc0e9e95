/* py_rwmutex.c - RWMutex.
 *
 * As in Go, a writer that waits keeps new readers out, and when a writer unlocks, the readers
 * that wait by then all come before the next writer: neither kind starves.  The lock is handed
 * over, to writers in order.
 *
 * Invariants, under lock: writers wait only while it is locked; readers wait only while a
 * writer holds it or waits.  (Those in the queues that have been woken by something else, and
 * have not taken themselves out yet, do not count.)
 */
#include "py_sync.h"
#include "py_waits.h"

#include <structmember.h>

#define WRITER (1u << 31)       /* in word */
#define READERS (PY_SLOW - 1)   /* how many hold it */

typedef struct {
    PyObject_HEAD
    py_word word;               /* WRITER, PY_SLOW, READERS */
    py_lock lock;               /* guards the queues */
    py_waitq writers, readers;
    py_holder holder;           /* the last to lock it for writing */
    PyObject *weakrefs;
} RWMutex;

/* Go's RLocker: the reading side as a lock of its own. */
typedef struct {
    PyObject_HEAD
    RWMutex *rw;                /* owned */
    PyObject *weakrefs;
} RLocker;

/* Called last by who owns the word. */
static void
settle_locked(RWMutex *rw)
{
    if (rw->writers.head == NULL && rw->readers.head == NULL)
        py_word_set(&rw->word, RT_LOAD(rw->word) & ~PY_SLOW);
}

/* Let all readers in that wait; how many there were. */
static uint32_t
admit_readers_locked(RWMutex *rw, py_waitq *out)
{
    py_waiter *w;
    uint32_t n = 0;
    for (; (w = py_waitq_claim(&rw->readers, RT_WAKE_READY)) != NULL; n++)
        py_waitq_push(out, w);
    py_word_set(&rw->word, RT_LOAD(rw->word) + n);
    return n;
}

/* Nobody holds it any more: hand it to a writer. */
static bool
admit_writer_locked(RWMutex *rw, py_waitq *out)
{
    py_waiter *w = py_waitq_claim(&rw->writers, RT_WAKE_READY);
    if (w == NULL)
        return false;
    py_waitq_push(out, w);
    RT_STORE(rw->holder, w->g->id);
    py_word_set(&rw->word, WRITER | PY_SLOW);
    return true;
}

PyObject *
py_rwmutex_of_queue(py_waitq *q, bool write)
{
    return write ? (PyObject *)RT_CONTAINER_OF(q, RWMutex, writers)
                 : (PyObject *)RT_CONTAINER_OF(q, RWMutex, readers);
}

int64_t
py_rwmutex_holder(PyObject *op)
{
    const RWMutex *rw = (RWMutex *)op;
    return RT_LOAD(rw->word) & WRITER ? RT_LOAD(rw->holder) : 0;
}

/* ---- writing ---- */

static bool
try_write_locked(RWMutex *rw)
{
    if (py_word_own(&rw->word) & (WRITER | READERS))
        return false;
    py_holder_set(&rw->holder);
    py_word_set(&rw->word, WRITER | PY_SLOW);
    return true;
}

static bool
try_read_locked(RWMutex *rw)
{
    uint32_t word = py_word_own(&rw->word);
    if (word & WRITER || rw->writers.head != NULL)
        return false;
    py_word_set(&rw->word, word + 1);
    return true;
}

static RT_NOINLINE bool
try_slow(RWMutex *rw, bool (*try_now)(RWMutex *))
{
    py_acquire(&rw->lock);
    bool got = try_now(rw);
    settle_locked(rw);
    py_release(&rw->lock);
    return got;
}

static RT_NOINLINE int
wait_for(RWMutex *rw, bool write, const py_limits *limits)
{
    const char *what = write ? "RWMutex.lock()" : "RWMutex.rlock()";
    py_wait wait;
    Goroutine *gp = py_current(what);
    if (gp == NULL || py_wait_begin(&wait, limits) < 0)
        return -1;
    py_waiter *w = &gp->seat->waiter;
    rt_g_arm(&gp->g);
    py_acquire(&rw->lock);
    bool got = write ? try_write_locked(rw) : try_read_locked(rw);
    if (RT_UNLIKELY(got))
        settle_locked(rw);
    else
        py_waitq_push(write ? &rw->writers : &rw->readers, w);
    py_release(&rw->lock);
    if (RT_UNLIKELY(got)) {
        py_stay(gp);
        py_wait_end(&wait);
        return 0;
    }
    uint32_t why = py_wait_park(gp, write ? PY_WAIT_RWMUTEX_LOCK : PY_WAIT_RWMUTEX_RLOCK, &wait);
    if (RT_UNLIKELY(why != RT_WAKE_READY)) {
        py_waitq out = {0};
        py_acquire(&rw->lock);
        uint32_t word = py_word_own(&rw->word);
        py_waitq_remove(w);
        if (rw->writers.head == NULL && !(word & WRITER))
            admit_readers_locked(rw, &out);
        settle_locked(rw);
        py_release(&rw->lock);
        py_ready_all(&out);
    }
    py_wait_end(&wait);
    if (RT_LIKELY(why == RT_WAKE_READY))
        return 0;
    if (why == RT_WAKE_TIMEOUT)
        py_raise_timeout(what);
    return -1;
}

static inline bool
rw_try_lock(RWMutex *rw)
{
    if (RT_LIKELY(py_word_flip(&rw->word, 0, WRITER))) {
        py_holder_set(&rw->holder);
        return true;
    }
    return !(RT_LOAD(rw->word) & (WRITER | READERS)) && try_slow(rw, try_write_locked);
}

static inline int
rw_lock(RWMutex *rw, const py_limits *limits)
{
    return RT_LIKELY(rw_try_lock(rw)) ? 0 : wait_for(rw, true, limits);
}

static RT_NOINLINE int
unlock_slow(RWMutex *rw)
{
    py_waitq out = {0};
    py_acquire(&rw->lock);
    uint32_t word = py_word_own(&rw->word);
    if (word & WRITER) {
        py_word_set(&rw->word, PY_SLOW);
        if (admit_readers_locked(rw, &out) == 0)
            admit_writer_locked(rw, &out);
    }
    settle_locked(rw);
    py_release(&rw->lock);
    py_ready_all(&out);
    if (RT_LIKELY(word & WRITER))
        return 0;
    PyErr_SetString(PyExc_RuntimeError, word & READERS
                    ? "unlock of an RWMutex that is locked for reading: use runlock()"
                    : "unlock of an RWMutex that is not locked");
    return -1;
}

static inline int
rw_unlock(RWMutex *rw)
{
    return RT_LIKELY(py_word_flip(&rw->word, WRITER, 0)) ? 0 : unlock_slow(rw);
}

/* ---- reading ---- */

static inline bool
rw_try_rlock(RWMutex *rw)
{
    for (uint32_t word; !((word = RT_LOAD(rw->word)) & (WRITER | PY_SLOW));)
        if (RT_LIKELY(py_word_flip(&rw->word, word, word + 1)))
            return true;
    return !(RT_LOAD(rw->word) & WRITER) && try_slow(rw, try_read_locked);
}

static inline int
rw_rlock(RWMutex *rw, const py_limits *limits)
{
    return RT_LIKELY(rw_try_rlock(rw)) ? 0 : wait_for(rw, false, limits);
}

static RT_NOINLINE int
runlock_slow(RWMutex *rw)
{
    py_waitq out = {0};
    py_acquire(&rw->lock);
    uint32_t word = py_word_own(&rw->word);
    if (word & READERS) {
        py_word_set(&rw->word, word - 1);
        if ((word & READERS) == 1 && !admit_writer_locked(rw, &out))
            admit_readers_locked(rw, &out);
    }
    settle_locked(rw);
    py_release(&rw->lock);
    py_ready_all(&out);
    if (RT_LIKELY(word & READERS))
        return 0;
    PyErr_SetString(PyExc_RuntimeError, word & WRITER
                    ? "runlock of an RWMutex that is locked for writing: use unlock()"
                    : "runlock of an RWMutex that is not locked for reading");
    return -1;
}

static inline int
rw_runlock(RWMutex *rw)
{
    for (uint32_t word; !((word = RT_LOAD(rw->word)) & PY_SLOW) && word & READERS;)
        if (RT_LIKELY(py_word_flip(&rw->word, word, word - 1)))
            return 0;
    return runlock_slow(rw);
}

/* ---- methods ---- */

static PyObject *
none_or_null(int r)
{
    return r < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
rwmutex_lock(RWMutex *rw, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_limits limits;
    if (py_limits_parse(&limits, "lock(" PY_LIMITS_USAGE ")", 0, args, nargs, kwnames) < 0)
        return NULL;
    return none_or_null(rw_lock(rw, &limits));
}

static PyObject *
rwmutex_rlock(RWMutex *rw, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_limits limits;
    if (py_limits_parse(&limits, "rlock(" PY_LIMITS_USAGE ")", 0, args, nargs, kwnames) < 0)
        return NULL;
    return none_or_null(rw_rlock(rw, &limits));
}

static PyObject *
rwmutex_try_lock(RWMutex *rw, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(rw_try_lock(rw));
}

static PyObject *
rwmutex_try_rlock(RWMutex *rw, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(rw_try_rlock(rw));
}

static PyObject *
rwmutex_unlock(RWMutex *rw, PyObject *Py_UNUSED(ignored))
{
    return none_or_null(rw_unlock(rw));
}

static PyObject *
rwmutex_runlock(RWMutex *rw, PyObject *Py_UNUSED(ignored))
{
    return none_or_null(rw_runlock(rw));
}

static PyObject *
rwmutex_enter(RWMutex *rw, PyObject *Py_UNUSED(ignored))
{
    return rw_lock(rw, &PY_NO_LIMITS) < 0 ? NULL : Py_NewRef((PyObject *)rw);
}

static PyObject *
rwmutex_exit(RWMutex *rw, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return rw_unlock(rw) < 0 ? NULL : Py_NewRef(Py_False);
}

static PyObject *
rwmutex_reader(RWMutex *rw, PyObject *Py_UNUSED(ignored))
{
    RLocker *rl = (RLocker *)core->rlocker_type->tp_alloc(core->rlocker_type, 0);
    if (rl != NULL)
        rl->rw = (RWMutex *)Py_NewRef((PyObject *)rw);
    return (PyObject *)rl;
}

static PyObject *
rwmutex_get_locked(RWMutex *rw, void *Py_UNUSED(closure))
{
    return PyBool_FromLong((RT_LOAD(rw->word) & WRITER) != 0);
}

static PyObject *
rwmutex_get_readers(RWMutex *rw, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(RT_LOAD(rw->word) & READERS);
}

static PyObject *
rwmutex_repr(RWMutex *rw)
{
    uint32_t word = RT_LOAD(rw->word);
    if (word & READERS)
        return PyUnicode_FromFormat("<RWMutex locked for reading by %u at %p>",
                                    (unsigned)(word & READERS), (void *)rw);
    return PyUnicode_FromFormat("<RWMutex %s at %p>", word & WRITER ? "locked" : "unlocked",
                                (void *)rw);
}

static PyMethodDef rwmutex_methods[] = {
    {"lock", PY_FASTKW(rwmutex_lock),
     "lock($self, timeout=None, *, ctx=None)\n--\n\n"
     "Lock for writing, waiting while anybody else holds it.  New readers wait meanwhile.\n\n"
     "Raises TimeoutError after timeout seconds, or ctx.err() when the context ctx ends.\n\n"
     "Go: sync.RWMutex.Lock."},
    {"rlock", PY_FASTKW(rwmutex_rlock),
     "rlock($self, timeout=None, *, ctx=None)\n--\n\n"
     "Lock for reading, waiting while a writer holds it or waits for it.\n\n"
     "Not recursive: a writer may have come in between.\n\n"
     "Raises TimeoutError after timeout seconds, or ctx.err() when the context ctx ends.\n\n"
     "Go: sync.RWMutex.RLock."},
    {"try_lock", (PyCFunction)rwmutex_try_lock, METH_NOARGS,
     "try_lock($self)\n--\n\n"
     "Lock for writing if that needs no waiting; True if it was locked.\n\n"
     "Go: sync.RWMutex.TryLock."},
    {"try_rlock", (PyCFunction)rwmutex_try_rlock, METH_NOARGS,
     "try_rlock($self)\n--\n\n"
     "Lock for reading if that needs no waiting; True if it was locked.\n\n"
     "Go: sync.RWMutex.TryRLock."},
    {"unlock", (PyCFunction)rwmutex_unlock, METH_NOARGS,
     "unlock($self)\n--\n\n"
     "Undo lock(); any goroutine or thread may.  RuntimeError if it is not locked for\n"
     "writing.\n\n"
     "Go: sync.RWMutex.Unlock."},
    {"runlock", (PyCFunction)rwmutex_runlock, METH_NOARGS,
     "runlock($self)\n--\n\n"
     "Undo one rlock().  RuntimeError if it is not locked for reading.\n\n"
     "Go: sync.RWMutex.RUnlock."},
    {"reader", (PyCFunction)rwmutex_reader, METH_NOARGS,
     "reader($self)\n--\n\n"
     "The reading side as a lock of its own: its lock() is rlock(), its unlock() runlock().\n\n"
     "    with rw.reader():\n"
     "        return table[key]\n\n"
     "Go: sync.RWMutex.RLocker."},
    {"__enter__", (PyCFunction)rwmutex_enter, METH_NOARGS, NULL},
    {"__exit__", PY_FAST(rwmutex_exit), NULL},
    {0},
};
static PyGetSetDef rwmutex_getset[] = {
    {"locked", (getter)rwmutex_get_locked, NULL, "True while it is locked for writing.", NULL},
    {"readers", (getter)rwmutex_get_readers, NULL, "How many hold it for reading.", NULL},
    {0},
};
static PyMemberDef rwmutex_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(RWMutex, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot rwmutex_slots[] = {
    {Py_tp_dealloc, py_sync_dealloc},
    {Py_tp_methods, rwmutex_methods},
    {Py_tp_getset, rwmutex_getset},
    {Py_tp_members, rwmutex_members},
    {Py_tp_repr, rwmutex_repr},
    {Py_tp_doc,
     "RWMutex()\n--\n\n"
     "A lock that any number of readers can hold at a time, or one writer.\n\n"
     "    with rw:                # writing\n"
     "        table[key] = value\n"
     "    with rw.reader():\n"
     "        return table[key]\n\n"
     "A writer that waits keeps new readers out; the readers that wait when a writer\n"
     "unlocks come before the next writer.\n\n"
     "Go: sync.RWMutex."},
    {0, NULL},
};
static PyType_Spec rwmutex_spec = {"runtime.sync.RWMutex", sizeof(RWMutex), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, rwmutex_slots};

/* ---- RLocker ---- */

static PyObject *
rlocker_lock(RLocker *rl, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return rwmutex_rlock(rl->rw, args, nargs, kwnames);
}

static PyObject *
rlocker_try_lock(RLocker *rl, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(rw_try_rlock(rl->rw));
}

static PyObject *
rlocker_unlock(RLocker *rl, PyObject *Py_UNUSED(ignored))
{
    return none_or_null(rw_runlock(rl->rw));
}

static PyObject *
rlocker_enter(RLocker *rl, PyObject *Py_UNUSED(ignored))
{
    return rw_rlock(rl->rw, &PY_NO_LIMITS) < 0 ? NULL : Py_NewRef((PyObject *)rl);
}

static PyObject *
rlocker_exit(RLocker *rl, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return rw_runlock(rl->rw) < 0 ? NULL : Py_NewRef(Py_False);
}

static void
rlocker_dealloc(RLocker *rl)
{
    Py_CLEAR(rl->rw);
    py_sync_dealloc((PyObject *)rl);
}

static PyMethodDef rlocker_methods[] = {
    {"lock", PY_FASTKW(rlocker_lock),
     "lock($self, timeout=None, *, ctx=None)\n--\n\nrlock() of the RWMutex."},
    {"try_lock", (PyCFunction)rlocker_try_lock, METH_NOARGS,
     "try_lock($self)\n--\n\ntry_rlock() of the RWMutex."},
    {"unlock", (PyCFunction)rlocker_unlock, METH_NOARGS,
     "unlock($self)\n--\n\nrunlock() of the RWMutex."},
    {"__enter__", (PyCFunction)rlocker_enter, METH_NOARGS, NULL},
    {"__exit__", PY_FAST(rlocker_exit), NULL},
    {0},
};
static PyMemberDef rlocker_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(RLocker, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot rlocker_slots[] = {
    {Py_tp_dealloc, rlocker_dealloc},
    {Py_tp_methods, rlocker_methods},
    {Py_tp_members, rlocker_members},
    {Py_tp_doc, "The reading side of an RWMutex, as returned by its reader()."},
    {0, NULL},
};
static PyType_Spec rlocker_spec = {
    "runtime.sync.RLocker", sizeof(RLocker), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    rlocker_slots};

int
py_rwmutex_init_types(PyObject *module)
{
    if (py_add_type(module, &rlocker_spec, &core->rlocker_type, true) < 0)
        return -1;
    return py_add_type(module, &rwmutex_spec, &core->rwmutex_type, true);
}
