/* py_core.h - what the py_ files share: Goroutine, M, parking.
 *
 * Everything here runs attached to the interpreter, with the GIL held where there is
 * one; where a function detaches, its comment says so.  On free-threaded builds
 * what several threads may touch has a py_lock, is atomic, or belongs to one M.
 *
 * Traps that shape this code:
 *  - A parked goroutine's C stack is copied away, so no other goroutine may hold
 *    a pointer into it.  Waiters live on the heap, in seats.
 *  - Whatever a parked goroutine keeps on the C stack is memory per goroutine and
 *    time per switch: frames between the eval loop and the switch stay small.
 *  - Any call that may park may return much later; reload what may have changed.
 */
#ifndef PY_CORE_H
#define PY_CORE_H

#include "py_compat.h"

#include "greenlet_api.h"
#include "py_preempt.h"
#include "rt_park.h"
#include "rt_sched.h"

typedef struct Goroutine Goroutine;
typedef struct py_m py_m;
typedef struct py_bubble py_bubble;

/* A goroutine waiting in some object's queue; guarded by that object's lock. */
typedef struct py_waiter py_waiter;
typedef struct {
    py_waiter *head, *tail;
} py_waitq;
struct py_waiter {
    Goroutine *g;               /* borrowed: who waits */
    py_waiter *prev, *next;
    py_waitq *queue;            /* the queue it is in, or NULL */
    union {
        PyObject *value;        /* owned: to send, or received */
        int64_t n;              /* in queues of locks, what each needs; 0 outside */
    };
    uint8_t kind;               /* PY_WAITER_* */
    bool ticks;                 /* waits in an iteration over a Ticker */
};

enum {                          /* py_waiter.kind */
    PY_WAITER_PLAIN,
    PY_WAITER_CONTEXT           /* in the queue of a context's done channel */
};

enum {                          /* rt_g.reason; the texts are in py_g.c */
    PY_WAIT_NONE, PY_WAIT_SLEEP, PY_WAIT_CHAN_SEND, PY_WAIT_CHAN_RECV, PY_WAIT_MUTEX,
    PY_WAIT_GROUP, PY_WAIT_JOIN, PY_WAIT_IO, PY_WAIT_GOEXIT, PY_WAIT_SYSCALL,
    PY_WAIT_FUTURE, PY_WAIT_SELECT, PY_WAIT_SELECT_NONE, PY_WAIT_RWMUTEX_LOCK,
    PY_WAIT_RWMUTEX_RLOCK, PY_WAIT_ONCE, PY_WAIT_COND, PY_WAIT_SEMA, PY_WAIT_EVENT, PY_WAIT_BUBBLE,
    PY_WAIT_RUN_BUBBLE,
    PY_WAIT_REASONS
};
/* Added to the reason by who knows that a goroutine of a bubble, if it is one, may be woken
   from outside of it; see py_bubble.h. */
#define PY_WAIT_OUTSIDE 0x80

/* What a goroutine needs while it runs and parks.  It is taken from the worker that
   runs it, so that those that have not begun, and the dead, stay small. */
typedef struct py_seat py_seat;
struct py_seat {
    py_waiter waiter;           /* its place in a queue; waiter.g is NULL while nobody has
                                   the seat */
    rt_timer timer;             /* time-out of the current park */
    union {
        PyGreenlet *greenlet;   /* owned: where to switch to; NULL until it parks */
        uint64_t tstate_id;     /* foreign threads only: of its thread state */
    };
    rt_parker *parker;          /* owned; foreign threads only */
    uint32_t nlocked;           /* lock_os_thread() calls not undone */
    uint32_t nopreempt;         /* nopreempt() sections it is in */
    bool service;               /* a thread that wakes nobody while it is parked */
    py_bubble *bubble;          /* borrowed: of its goroutine, if that is g.bubbled */
    const void *waits_in;       /* borrowed: its selection or Cond, while it is parked in a
                                   select() or Cond.wait(); for who looks, see py_waits.c */
#if PY_HAS_UNCOUNTED_REFS
    void *frames;               /* of py_frames_here() while it is switched away from, or NULL */
#endif
    py_seat *prev, *next;       /* all seats of an M, or all of foreign threads */
};

#define PY_G_INLINE_ARGS 3

/* 192 bytes with the collector's header: a large batch of goroutines does not fit the
   processor's caches, so each line counts.  What comes after `cold` need not be
   looked at while that is false, but for the seat of a started goroutine. */
struct Goroutine {
    PyObject_HEAD
    rt_g g;
    PyObject *fn;               /* owned until it has run; NULL: call.entry */
    PyObject *code;             /* owned code object of the spawner, or NULL */
    int64_t id;
    int lasti;                  /* where in code */
    uint32_t nargs;             /* positional and keyword values in args */
    uint32_t nkw;
    bool heap_args;             /* args are in call.heap */
    bool failed;                /* outcome is an exception */
    bool asked;                 /* someone took the exception: no report */
    bool cold;                  /* any of the fields after `call` may be set */
    uint16_t number;            /* of one that is g.held: in its explorer */
    py_lock lock;               /* guards outcome and joiners */
    PyObject *weakrefs;
    union {
        struct {
            PyObject *slot;     /* free, for PY_VECTORCALL_ARGUMENTS_OFFSET */
            PyObject *args[PY_G_INLINE_ARGS];
        } inl;
        PyObject **heap;        /* owned: a free slot, then the arguments */
        struct {
            PyObject *(*entry)(Goroutine *);
            void (*cancel)(Goroutine *);    /* or NULL */
            void *arg;
        } c;
    } call;

    PyObject *kwnames;          /* owned tuple or NULL */
    PyObject *context;          /* owned contextvars context to run in, or NULL */
    PyObject *outcome;          /* owned, once done: result or exception; before: an
                                   exception to raise at its next blocking point */
    PyObject *name;             /* owned str or NULL: "goroutine-<id>" */
    py_waitq joiners;           /* empty whenever nobody holds a handle */
    union {
        py_seat *seat;          /* borrowed from the worker; foreign threads: owned */
        py_bubble *bubble;      /* borrowed: of one that is g.bubbled and has not begun */
    };
};

/* Has it ended?  Then its outcome is there. */
static inline bool
py_g_ended(const Goroutine *gp)
{
    return atomic_load_explicit(&gp->g.status, memory_order_acquire) == RT_G_DEAD;
}
/* Is an exception on its way to gp, the caller?  After rt_g_arm(), of the two, this and
   a poster's claim, at least one sees the other. */
static inline bool
py_g_has_pending(const Goroutine *gp)
{
#ifdef Py_GIL_DISABLED
    atomic_thread_fence(memory_order_seq_cst);
#endif
    return __atomic_load_n(&gp->outcome, __ATOMIC_RELAXED) != NULL;
}

static inline PyObject **
py_g_args(Goroutine *gp)
{
    return RT_UNLIKELY(gp->heap_args) ? gp->call.heap + 1 : gp->call.inl.args;
}

/* What HTTP servers do on an M; connections, requests, bytes. */
typedef struct {
    _Atomic uint64_t accepted, closed, requests, bytes_read, bytes_written;
} py_http_counters;

/* An M: an OS thread bound to a P. */
struct py_m {
    rt_p p;                     /* first: see py_m_of() */
    Goroutine *curg;            /* borrowed; NULL: the scheduler itself runs */
    Goroutine *parking;         /* borrowed, may be stale: the last to park.  While the
                                   scheduler runs on a goroutine's stack, it is that one */
    Goroutine *next;            /* borrowed: what the greenlet switched to shall run;
                                   NULL at all other times */
    PyGreenlet *g0;             /* owned: starts workers */
    PyGreenlet *worker;         /* borrowed: the last to begin a goroutine; it still
                                   runs curg if that one has not parked yet */
    PyGreenlet **idle;          /* owned array of owned idle workers */
    uint32_t nidle;
    PyThreadState *tstate;      /* NULL until its thread runs */
    bool is_main;
    _Atomic bool stopping;      /* the process ends */
    _Atomic bool paused;        /* and this M will not touch Python any more */
    uint32_t seed;              /* of py_random() */
    py_preempt_m preempt;
    py_seat *seats;             /* of all its workers; and of the main goroutine: */
    py_seat seat;
    py_bubble *bubbles;         /* with goroutines that have begun on it; p.nbubbles of them */
    rt_g *free_g;               /* dead goroutines to use again, linked by g.link */
    uint32_t nfree_g;
    int64_t next_id, end_id;    /* goroutine ids it may give out */
    _Atomic uint64_t created, finished;     /* by it; goroutines */
    _Atomic uint64_t switches;
    _Atomic uint64_t workers;   /* worker greenlets ever started */
    py_http_counters http;
    _Atomic(struct http_series_table *) http_series;    /* owned; NULL until it is needed */
    void *http_cache;           /* owned: see py_http.h; NULL until it is needed */
    char *read_buffer;          /* owned: see read_bytes_now(); likewise */
    struct py_clock *dropped;   /* see py_clock.c */
    py_bubble *left_alarms;     /* owned: that have ended, linked by next; see py_bubble.c */
};

#define PY_MAX_IDLE_WORKERS 1024

/* Module state; one interpreter only. */
typedef struct {
    rt_sched sched;
    py_m *m0;                   /* the main thread's, NULL until it comes here */
    Goroutine *main_g;          /* owned */
    _Atomic bool interrupted;   /* what is on its way to main_g does not wait for a blocking
                                   point: a KeyboardInterrupt, say, but not Cancelled */
    unsigned long main_ident;
    uint32_t forks;             /* how many forks lie between this process and the first */
    bool forked_by_thread;      /* by one that was no M: m0 ends with it */
    py_seat *foreign;           /* seats of the threads that are not Ms; guarded by lock */
    py_lock lock;
    _Atomic(PyThreadState *) sysmon_tstate; /* owned; NULL until sysmon needs one */
    py_preempt_state preempt;
    PyObject *module;           /* borrowed */
    PyTypeObject *goroutine_type, *go_type, *chan_type, *chan_iter_type, *receiver_type,
        *sender_type, *case_type, *selected_type, *mutex_type,
        *rwmutex_type, *rlocker_type, *waitgroup_type, *waitgroup_task_type, *once_type,
        *cond_type, *semaphore_type, *event_type, *int64_type, *bool_type, *value_type,
        *map_type, *timer_type, *ticker_type, *bubble_type, *explorer_type, *netfd_type, *conn_type,
        *request_type, *writer_type, *headers_type, *body_type, *server_type,
        *stream_type, *mux_type, *mux_table_type, *mux_route_type, *ratelimiter_type, *shed_type;
    PyObject *foreign_key;      /* of a thread's Goroutine in its thread state's dict */
    struct {                    /* interned names that middleware of HTTP looks up */
        PyObject *headers, *trace, *trace_id, *user, *etag;
    } http_names;
    PyObject *exc_goexit, *exc_cancelled, *exc_closed, *exc_deadlock, *exc_net_closed,
        *exc_hijacked;
    PyObject *http_methods[10]; /* their names, by RT_HM_*, interned */
    PyObject *worker_fn, *g0_fn;            /* builtins the greenlets run */
    PyObject *report_failure;   /* runtime._errors.report_failure */
    PyObject *may_deadlock;     /* runtime._errors.may_deadlock */
    PyObject *report_deadlock;  /* runtime._inspect.report_deadlock */
    PyFrameObject *hook_under;  /* owned; while m0's scheduler calls one of the two: the frame of
                                   the goroutine on whose stack it does, or NULL */
    PyObject *end_child;        /* runtime._errors.end_child */
    PyObject *nothing;          /* runtime._errors.nothing */
#ifndef Py_GIL_DISABLED
    PyObject *free_cases[32];   /* freed objects that have no references: py_select.c */
    uint32_t nfree_cases;
#endif
    _Atomic uint32_t seed;      /* of py_random(), for threads that are not Ms */
    _Atomic uint64_t created;   /* goroutines, by threads that are not Ms */
    py_http_counters http;      /* the same */
    _Atomic int64_t next_id;
    _Atomic int64_t next_bubble_id;
} py_core;

extern py_core *core;           /* NULL before the module is loaded */
/* Read on every park.  glibc keeps room for a few such words of libraries that are
   loaded late, and then no call is needed to find them. */
#ifdef __GLIBC__
#define PY_TLS_MODEL __attribute__((tls_model("initial-exec")))
#else
#define PY_TLS_MODEL
#endif
extern _Thread_local py_m *py_tls_m PY_TLS_MODEL;

static inline py_m *
py_m_of(rt_p *pp)
{
    return (py_m *)pp;
}
static inline Goroutine *
py_g_of(rt_g *gp)
{
    return RT_CONTAINER_OF(gp, Goroutine, g);
}

/* py_g.c */
Goroutine *py_g_alloc(void);                    /* new reference, fresh */
/* A goroutine that runs entry(gp) on mp and nowhere else, put at the tail of its queue.
   Where there is no memory to start it cancel(gp) is called instead, by the scheduler: it
   cannot wait.  No new reference is returned.  -1 with MemoryError set. */
int py_g_spawn_c(py_m *mp, PyObject *(*entry)(Goroutine *), void (*cancel)(Goroutine *),
                 void *arg);
/* A cancel() that calls entry(), for one that never waits. */
void py_g_run_at_once(Goroutine *gp);
/* The same for mp's thread's own sake, without a cancel(): no program sees the goroutine,
   unless it waits. */
int py_g_spawn_service(py_m *mp, PyObject *(*entry)(Goroutine *));
/* Run a fresh goroutine to its end on the calling worker, in that worker's seat. */
void py_g_run(py_m *mp, Goroutine *gp, py_seat *seat);
/* End gp: result (stolen) or the exception set. */
void py_g_finish(Goroutine *gp, PyObject *result);
#if PY_HAS_UNCOUNTED_REFS
/* The module's tp_traverse: what only frames of waiting goroutines refer to. */
int py_g_traverse_waiting(PyObject *module, visitproc visit, void *arg);
#endif
/* At exit: failures that nobody has asked for, where finalizers would come too late. */
void py_g_report_failures(void);
const char *py_wait_reason(int reason);

/* py_g_methods.c */
int py_g_init_types(PyObject *module);
/* Its name, or what would be its name; new reference. */
PyObject *py_g_name(Goroutine *gp);

/* py_go.c */
int py_go_init(PyObject *module);
/* What go() would start, not queued yet, with the context ts->context or a copy of the
   caller's; fn and its arguments as for a vectorcall.  New reference, or NULL. */
Goroutine *py_g_new(PyObject *const *args, size_t nargsf, PyObject *kwnames);
/* runtime.go(): start args[0] with the arguments that follow, as a vectorcall would; name is
   a str (borrowed) or NULL.  A new reference. */
PyObject *py_go(PyObject *name, PyObject *const *args, size_t nargsf, PyObject *kwnames);

/* py_m.c */
int py_m_init(PyObject *module);
/* The M of this thread, or NULL on a foreign thread. */
py_m *py_this_m(void);
/* The M of the spare P, started on first use; NULL with an exception set. */
py_m *py_spare(void);
/* Start the M of the P with this id: host.start of the scheduler. */
int py_m_start(rt_sched *sched, uint32_t id);
/* The M of the P with this id, started if need be; NULL without an exception: there is
   none, or none yet. */
py_m *py_m_get(uint32_t id);
/* The i-th M, in order of creation; NULL: there are no more. */
static inline py_m *
py_each_m(uint32_t i)
{
    return i < RT_LOAD(core->sched.nallp) ? (py_m *)RT_LOAD(core->sched.allp[i]) : NULL;
}
/* The process ends: never touch Python again.  Called detached. */
_Noreturn void py_m_pause(py_m *mp);
/* The main goroutine of a forked child has returned result (stolen), or raised: the
   process ends, as it does when the main program returns. */
_Noreturn void py_m_end_child(PyObject *result);
/* Undo what is left of lock_os_thread() of a goroutine that ends. */
void py_m_unlock_all(py_m *mp, py_seat *seat);
/* Sum up: how many goroutines exist, the main one included. */
uint64_t py_num_goroutine(uint64_t *created, uint64_t *finished);
/* Give a new goroutine (reference stolen) to a run queue. */
int py_submit(Goroutine *gp);
/* The goroutine that calls (borrowed), for an operation that may block; NULL with
   RuntimeError set where the scheduler itself does.  `what` names the operation. */
Goroutine *py_current(const char *what);
static inline void
py_seat_link(py_seat **list, py_seat *seat)
{
    seat->prev = NULL;
    seat->next = *list;
    if (*list != NULL)
        (*list)->prev = seat;
    *list = seat;
}
static inline void
py_seat_unlink(py_seat **list, py_seat *seat)
{
    *(seat->prev ? &seat->prev->next : list) = seat->next;
    if (seat->next != NULL)
        seat->next->prev = seat->prev;
}

/* py_idle.c */
/* Sleep until there is work: host.block of the scheduler.  Detaches. */
void py_idle_block(rt_p *pp, int64_t timeout);

/* py_sched.c */
int py_sched_init(PyObject *module, const rt_netpoll_ops *ops);
/* On g0, for good: run what is found. */
_Noreturn void py_g0_run(py_m *mp);
/* A goroutine to run on mp.  Detaches while there is none. */
Goroutine *py_find(py_m *mp);
/* Park gp, the caller, which is armed (rt_g_arm) and has been put where a waker
   will find it.  Returns RT_WAKE_*; for RT_WAKE_INTERRUPT the exception is set.
   Runs other goroutines. */
uint32_t py_park(Goroutine *gp, int reason, int64_t deadline);
/* gp, the caller, is armed and need not park after all.  If somebody has woken it
   meanwhile, to raise an exception in it, that is used up: it runs others until it is
   taken from the queue it was put into. */
void py_stay(Goroutine *gp);
/* Wake a goroutine if its park can be claimed.  True if this call woke it. */
bool py_wake(Goroutine *gp, uint8_t why, bool next);
/* Let others run.  -1 with an exception set if one is pending for gp. */
int py_yield(Goroutine *gp);
/* The goroutine that runs on mp, the caller's, lets all others run that wait for this
   P.  Raises nothing. */
void py_give_way(py_m *mp);
/* Raise exc (stolen) in the main goroutine as soon as it runs. */
void py_interrupt_main(PyObject *exc);
/* What a goroutine gets that waits when the interpreter is being taken down (owned). */
PyObject *py_finalizing_error(void);
/* Raise exc (borrowed) in gp at its next blocking point, at once if it waits; if it
   has not begun, it ends with exc.  False: it has ended, or another exception is on
   its way already. */
bool py_cancel(Goroutine *gp, PyObject *exc);
/* Raise what is on its way to gp, the caller.  -1, or 0 if there is nothing. */
int py_take_pending(Goroutine *gp);
PyObject *py_stats(void);

/* Queues of waiters.  All but py_ready_all() is called with the lock held that guards the
   queue; py_ready() and py_ready_all() are called without. */
static inline void
py_waitq_push(py_waitq *q, py_waiter *w)
{
    w->queue = q;
    w->next = NULL;
    w->prev = q->tail;
    if (q->tail != NULL)
        q->tail->next = w;
    else
        q->head = w;
    q->tail = w;
}
static inline void
py_waitq_remove(py_waiter *w)
{
    py_waitq *q = w->queue;
    if (q == NULL)
        return;
    *(w->prev ? &w->prev->next : &q->head) = w->next;
    *(w->next ? &w->next->prev : &q->tail) = w->prev;
    w->queue = NULL;
}
/* The first waiter whose park could be claimed for `why`, taken out; or NULL.
   The caller must rt_ready() it, by way of py_ready(). */
static inline py_waiter *
py_waitq_claim(py_waitq *q, uint32_t why)
{
    py_waiter *w;
    while ((w = q->head) != NULL) {
        py_waitq_remove(w);
        if (rt_g_claim(&w->g->g, RT_LIKELY(w->kind == PY_WAITER_PLAIN) ? why : RT_WAKE_CONTEXT))
            return w;
    }
    return NULL;
}
/* Take back rt_g_arm() of gp, the caller.  False: somebody has claimed the park already
   (whoever has its handle may cancel it), so it must be gone through: py_park(). */
static inline bool
py_disarm(Goroutine *gp)
{
    return rt_g_disarm(&gp->g);
}
static inline void
py_ready(Goroutine *gp, bool next)
{
    py_m *mp = py_tls_m;
    rt_ready(mp ? &mp->p : NULL, &gp->g, next);
}
/* Move all waiters whose parks could be claimed to `out`, for py_ready_all(). */
static inline void
py_waitq_claim_all(py_waitq *q, uint32_t why, py_waitq *out)
{
    for (py_waiter *w; (w = py_waitq_claim(q, why)) != NULL;)
        py_waitq_push(out, w);
}
static inline void
py_ready_all(py_waitq *claimed)
{
    for (py_waiter *w = claimed->head, *next; w != NULL; w = next) {
        next = w->next;
        w->queue = NULL;
        py_ready(w->g, false);
    }
}

/* Wake all waiters of a queue that only one M touches. */
static inline void
py_waitq_wake_all(py_waitq *q, uint32_t why)
{
    py_waitq out = {0};
    py_waitq_claim_all(q, why, &out);
    py_ready_all(&out);
}

/* py_select.c */
/* A number below n, which is not 0: what select() leaves to chance. */
uint32_t py_random(uint32_t n);

/* py_stack.c */
/* From now on data-stack chunks come from rt_arena, and copies of C stacks from rt_slab. */
void py_stack_install(void);
/* One of our switches is under way: what greenlet allocates meanwhile is such a copy, most
   likely.  Only a hint, for builds with a GIL. */
extern bool py_stack_copying;
static inline void
py_stack_hint(bool copying)
{
#ifdef Py_GIL_DISABLED
    (void)copying;
#else
    py_stack_copying = copying;
#endif
}
/* Give the calling worker, which has run no Python yet, a small first chunk. */
void py_stack_seed(PyThreadState *ts);

/* The other py_ files. */
int py_chan_init_types(PyObject *module);
int py_chan_view_init_types(PyObject *module);
int py_select_init(PyObject *module);
int py_sync_init_types(PyObject *module);
int py_time_init_types(PyObject *module);
int py_netfd_init_types(PyObject *module);
void py_netfd_after_fork(void);
int py_http_init_types(PyObject *module);
void py_http_after_fork(py_m *me);
PyObject *py_http_stats(void);                  /* a new dict */
/* Create a heap type from its spec, keep it in *slot, publish it as a member of
   the module where publish is set. */
int py_add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **slot, bool publish);

/* ---- py_orphan.c ---- */

int py_orphan_init(PyObject *module);

#endif
