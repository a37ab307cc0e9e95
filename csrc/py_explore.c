/* py_explore.c - which goroutine of an exploring bubble runs, drawn by a seed.
 *
 * Each decision is one of two kinds: whom to run when the active goroutine stops, and
 * whether to preempt it at a point (py_points.c).  How they are made is the strategy:
 *
 *  - *random*: preempt with probability 2^-k, k drawn for the whole schedule; whom, uniformly.
 *  - *PCT* (Burckhardt et al., ASPLOS 2010): random priorities, the highest runs; at d-1
 *    points, drawn from all, the active goroutine's falls below all others.  A bug that needs
 *    d orderings is found with probability 1/(n k^(d-1)) at least, for n goroutines and k
 *    points.  Who yields, or runs on and on, falls likewise: it may wait for the others.
 *  - *replay* of a list of segments (goroutine, where it is preempted): a schedule that has
 *    run.  Where the list was made shorter, and the next in it cannot run yet, or it is at its
 *    end, whoever has waited longest runs, until it stops.
 *
 * What has run is kept as such a list.  Points are counted for each goroutine on its own, so
 * that a list with a segment less still means the same places.
 *
 * Draws of the program (select) come from a generator of each goroutine's own: they do not
 * depend on what is left out of a list.
 */
#include "py_explore.h"

#include <structmember.h>

#define FAIR_POINTS 2000        /* so many points of one in a row, while others wait */

enum { RANDOM, PCT, REPLAY };

typedef struct {
    Goroutine *g;               /* owned */
    uint32_t points;            /* it has been at */
    uint64_t ended;             /* when it did, in steps; 0: it has not */
    uint64_t told;              /* when it was last told to end, in steps; 0: never */
    int64_t priority;           /* PCT: the highest runs */
    uint64_t random;            /* its own generator */
} explored;

typedef struct {
    uint32_t who;
    uint32_t point;             /* preempted at its point of this number; 0: it stopped itself */
} segment;

struct py_explorer {
    PyObject_HEAD
    py_m *mp;
    explored *all;              /* in the order of their start */
    uint32_t *pool;             /* runnable ones, in the order of their becoming so; as long
                                   as all is */
    uint32_t n, cap, npool;
    int64_t active;             /* in all; -1: none */
    uint64_t seed, random;
    int strategy;
    uint64_t mask;              /* RANDOM: preempt where these bits of a draw are 0 */
    uint32_t depth;             /* PCT: change points left, and */
    uint64_t *changes;          /* owned: when, the latest first */
    int64_t lowest;             /* PCT: the lowest priority given */
    uint64_t choices;           /* points with others to run */
    uint64_t streak;            /* of them, since the last switch */
    uint64_t steps, max_steps;  /* points and switches */
    uint64_t limit;             /* of steps: afterwards who comes to a point is told to end */
    uint64_t switches, preemptions;
    bool too_long;              /* max_steps is exceeded: all are told to end */
    bool over;                  /* it has failed, or is to end: what happens now is not recorded */
    bool given_up;              /* none of them runs any more */
    bool io;                    /* somebody has waited for I/O, or for a call on another thread */
    bool outside;               /* somebody was woken by who is not held */
    bool crowded;               /* some are not held, for want of room */
    segment *plan;              /* owned: REPLAY */
    uint32_t nplan, at;
    segment *done;              /* owned: what has run */
    uint32_t ndone, done_cap;
    uint64_t fingerprint;       /* of all of it */
    PyObject *trace;            /* owned list of how each stopped, or NULL */
    PyObject *functions;        /* owned list of what each runs; where there is a trace */
};

/* ---- draws ---- */

static uint64_t
draw(uint64_t *state)           /* splitmix64 */
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static uint32_t
draw_below(uint64_t *state, uint32_t n)
{
    return (uint32_t)((draw(state) >> 32) * n >> 32);
}

static inline py_explorer *
explorer_of(Goroutine *gp)
{
    return py_bubble_of(gp)->explorer;
}

uint32_t
py_explore_random(Goroutine *gp, uint32_t n)
{
    return draw_below(&explorer_of(gp)->all[gp->number].random, n);
}

/* ---- whom to run ---- */

static void
pool_put(py_explorer *ex, Goroutine *gp)
{
    RT_STORE(gp->g.status, RT_G_RUNNABLE);
    ex->pool[ex->npool++] = gp->number;
}

static uint32_t
pool_take(py_explorer *ex, uint32_t i)
{
    uint32_t who = ex->pool[i];
    memmove(&ex->pool[i], &ex->pool[i + 1], (--ex->npool - i) * sizeof(*ex->pool));
    return who;
}

/* Where in the pool, which is not empty, is the one with the highest priority? */
static uint32_t
highest(const py_explorer *ex)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < ex->npool; i++)
        if (ex->all[ex->pool[i]].priority > ex->all[ex->pool[best]].priority)
            best = i;
    return best;
}

/* Where in the pool is the next of the plan?  Those that have ended are skipped.  0, who has
   waited longest, while it cannot run, or when the plan is at its end. */
static uint32_t
planned(py_explorer *ex)
{
    while (ex->at < ex->nplan && ex->plan[ex->at].who < ex->n
           && ex->all[ex->plan[ex->at].who].ended != 0)
        ex->at++;
    for (uint32_t i = 0; ex->at < ex->nplan && i < ex->npool; i++)
        if (ex->pool[i] == ex->plan[ex->at].who)
            return i;
    return 0;
}

static void
run_next(py_explorer *ex)
{
    uint32_t i;
    ex->active = -1;
    if (ex->npool == 0)
        return;
    if (ex->strategy == REPLAY)
        i = planned(ex);
    else if (ex->strategy == PCT)
        i = highest(ex);
    else
        i = ex->npool > 1 ? draw_below(&ex->random, ex->npool) : 0;
    ex->active = pool_take(ex, i);
    ex->streak = 0;
    rt_p_put_pinned(&ex->mp->p, &ex->mp->p, &ex->all[ex->active].g->g);
}

static bool
wants_switch_pct(py_explorer *ex, explored *me, bool unfair)
{
    if (unfair || (ex->depth > 0 && ex->choices >= ex->changes[ex->depth - 1])) {
        ex->depth -= !unfair;
        ex->streak = 0;
        me->priority = --ex->lowest;
    }
    return ex->all[ex->pool[highest(ex)]].priority > me->priority;
}

static bool
wants_switch_planned(py_explorer *ex, explored *me, bool unfair)
{
    while (ex->at < ex->nplan && ex->plan[ex->at].who == me->g->number) {
        const segment *s = &ex->plan[ex->at];
        if (s->point == 0 || me->points < s->point)
            return false;
        if (ex->at + 1 == ex->nplan || s[1].who != s->who)
            return true;
        ex->at++;               /* what came between was left out */
    }
    return unfair;
}

/* Is the active goroutine, which could go on, to make way for one of the pool? */
static inline bool
wants_switch(py_explorer *ex, explored *me)
{
    ex->choices++;
    bool unfair = ++ex->streak > FAIR_POINTS;
    if (ex->strategy == RANDOM)
        return (draw(&ex->random) & ex->mask) == 0;
    return ex->strategy == PCT ? wants_switch_pct(ex, me, unfair)
                               : wants_switch_planned(ex, me, unfair);
}

/* ---- the record ---- */

static const char *const stops[] = {
    [PY_STOP_WAITS] = "waits", [PY_STOP_YIELDS] = "yields", [PY_STOP_PREEMPTED] = "preempted",
    [PY_STOP_ENDS] = "ends"};

/* Where there is no memory the trace has gaps. */
static RT_NOINLINE void
trace_stop(py_explorer *ex, Goroutine *gp, int how)
{
    PyObject *saved = py_take_exception(), *frames = NULL, *item = NULL;
    py_stack stack = {0};
    if (how != PY_STOP_ENDS)
        py_stack_take(&stack, ex->mp->tstate);
    frames = py_stack_list(&stack);
    py_stack_drop(&stack);
    if (frames != NULL)
        item = Py_BuildValue("(IssO)", (unsigned)gp->number, stops[how],
                             how == PY_STOP_WAITS ? py_wait_reason(gp->g.reason) : "", frames);
    if (item == NULL || PyList_Append(ex->trace, item) < 0)
        PyErr_Clear();
    Py_XDECREF(item);
    Py_XDECREF(frames);
    if (saved != NULL)
        py_raise(saved);
}

static void
record_stop(py_explorer *ex, explored *me, int how)
{
    uint32_t point = how == PY_STOP_PREEMPTED ? me->points : 0;
    uint64_t mix = ex->fingerprint ^ ((uint64_t)me->g->number << 32 | point);
    ex->fingerprint = draw(&mix);
    if (ex->ndone == ex->done_cap) {
        uint32_t cap = ex->done_cap ? 2 * ex->done_cap : 64;
        segment *done = PyMem_Realloc(ex->done, cap * sizeof(*done));
        if (done == NULL)
            return;             /* then it cannot be made shorter */
        ex->done = done;
        ex->done_cap = cap;
    }
    ex->done[ex->ndone++] = (segment){me->g->number, point};
}

/* ---- too long ---- */

/* There were too many steps: have all but gp end. */
static RT_NOINLINE void
end_others(py_explorer *ex, Goroutine *gp)
{
    ex->too_long = ex->over = true;
    ex->limit = 0;
    for (uint32_t i = 0; i < ex->n; i++) {
        PyObject *exc = ex->all[i].g != gp ? PyObject_CallNoArgs(core->exc_goexit) : NULL;
        if (exc != NULL)
            py_cancel(ex->all[i].g, exc);
        Py_XDECREF(exc);
    }
    PyErr_Clear();
}

/* gp, the caller, is to end, and is told so again if it does not. */
static RT_NOINLINE int
end_caller(py_explorer *ex, Goroutine *gp)
{
    if (!ex->over)
        end_others(ex, gp);
    explored *me = &ex->all[gp->number];
    if (me->told != 0 && ex->steps < me->told + ex->max_steps / 16 + 1000)
        return 0;
    me->told = ex->steps;
    PyErr_SetNone(core->exc_goexit);
    return -1;
}

/* ---- what happens ---- */

static bool
grow(py_explorer *ex)
{
    uint32_t cap = ex->cap ? 2 * ex->cap : 16;
    explored *all = PyMem_Realloc(ex->all, cap * sizeof(*all));
    if (all != NULL)
        ex->all = all;
    uint32_t *pool = all ? PyMem_Realloc(ex->pool, cap * sizeof(*pool)) : NULL;
    if (pool == NULL)
        return false;
    ex->pool = pool;
    ex->cap = cap;
    return true;
}

void
py_explore_add(py_explorer *ex, Goroutine *gp)
{
    if (ex->n > UINT16_MAX || (ex->n == ex->cap && !grow(ex))) {
        ex->crowded = true;
        return;
    }
    if (ex->functions != NULL && PyList_Append(ex->functions, gp->fn ? gp->fn : Py_None) < 0)
        PyErr_Clear();
    explored *me = &ex->all[ex->n];
    uint64_t own = ex->seed ^ (uint64_t)(ex->n + 1) << 32;
    *me = (explored){.g = (Goroutine *)Py_NewRef(gp), .random = draw(&own)};
    if (ex->strategy == PCT)
        me->priority = (int64_t)(draw(&ex->random) >> 2);
    gp->number = (uint16_t)ex->n++;
    gp->g.held = gp->g.pinned = 1;
    gp->g.pp = &ex->mp->p;
    gp->cold = true;
}

uint32_t
py_explore_count(const py_explorer *ex)
{
    return ex->n;
}

Goroutine *
py_explore_goroutine(const py_explorer *ex, uint32_t i)
{
    return ex->all[i].g;
}

void
py_explore_begin(py_explorer *ex, py_m *mp)
{
    ex->mp = mp;
}

void
py_explore_ready(Goroutine *gp)
{
    py_bubble *b = py_bubble_of(gp);
    py_explorer *ex = b->explorer;
    if (ex->given_up)
        return;                 /* it never runs again */
    pool_put(ex, gp);
    if (ex->active < 0 && !b->firing)
        run_next(ex);
}

void
py_explore_hold(rt_g *g, bool inbox)
{
    Goroutine *gp = py_g_of(g);
    py_explorer *ex = explorer_of(gp);
    Goroutine *waker = ex->mp->curg;
    ex->outside |= (inbox && gp->g.started) || (waker != NULL && !waker->g.held);
    py_explore_ready(gp);
}

void
py_explore_go_on(py_explorer *ex)
{
    if (ex->active < 0)
        run_next(ex);
}

void
py_explore_stop(py_m *mp, Goroutine *gp, int how)
{
    py_explorer *ex = explorer_of(gp);
    py_points_leave(mp);
    explored *me = &ex->all[gp->number];
    ex->steps++;
    ex->switches++;
    ex->preemptions += how == PY_STOP_PREEMPTED;
    if (how == PY_STOP_WAITS)
        ex->io |= gp->g.reason == PY_WAIT_IO || gp->g.reason == PY_WAIT_SYSCALL
                  || gp->g.reason == PY_WAIT_FUTURE;
    if (RT_LIKELY(!ex->over)) {
        record_stop(ex, me, how);
        if (RT_UNLIKELY(ex->trace != NULL))
            trace_stop(ex, gp, how);
    }
    if (RT_UNLIKELY(ex->steps > ex->limit) && !ex->over)
        end_others(ex, NULL);
    if (how == PY_STOP_YIELDS)
        me->priority = --ex->lowest;
    if (how == PY_STOP_ENDS)
        me->ended = ex->steps;
    if (ex->strategy == REPLAY && ex->at < ex->nplan && ex->plan[ex->at].who == gp->number)
        ex->at++;
    bool goes_on = how == PY_STOP_YIELDS || how == PY_STOP_PREEMPTED;
    if (goes_on && ex->npool == 0) {
        pool_put(ex, gp);
        goes_on = false;
    }
    run_next(ex);
    if (goes_on)
        pool_put(ex, gp);
}

int
py_explore_point(py_m *mp)
{
    Goroutine *gp = mp->curg;
    py_explorer *ex = explorer_of(gp);
    explored *me = &ex->all[gp->number];
    if ((++me->points & 1023) == 0)
        py_preempt_beat(mp);
    if (RT_UNLIKELY(++ex->steps > ex->limit))
        return end_caller(ex, gp);
    if (ex->npool != 0 && wants_switch(ex, me) && py_preempt_pinned(mp) == NULL)
        py_give_way(mp);
    return 0;
}

/* ---- the type ---- */

static uint64_t *
draw_changes(py_explorer *ex, uint32_t n, uint64_t points)
{
    uint64_t *changes = PyMem_Calloc(n + 1, sizeof(*changes));
    if (changes == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t when = draw(&ex->random) % (points ? points : 1) + 1;
        uint32_t j = i;
        for (; j > 0 && changes[j - 1] < when; j--)
            changes[j] = changes[j - 1];
        changes[j] = when;
    }
    return changes;
}

static int
read_plan(py_explorer *ex, PyObject *list)
{
    ex->strategy = REPLAY;
    ex->plan = PyMem_Calloc((size_t)PyList_GET_SIZE(list) + 1, sizeof(*ex->plan));
    if (ex->plan == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        unsigned who, point;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(list, i), "II", &who, &point))
            return -1;
        ex->plan[ex->nplan++] = (segment){who, point};
    }
    return 0;
}

static PyObject *
explorer_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    unsigned long long seed, points, max_steps;
    int shift, depth, trace;
    PyObject *plan;
    if (!PyArg_ParseTuple(args, "KiiKKOp:_Explorer", &seed, &shift, &depth, &points, &max_steps,
                          &plan, &trace))
        return NULL;
    py_explorer *ex = (py_explorer *)type->tp_alloc(type, 0);
    if (ex == NULL)
        return NULL;
    ex->active = -1;
    ex->seed = ex->random = seed;
    ex->max_steps = ex->limit = max_steps;
    ex->strategy = depth > 0 ? PCT : RANDOM;
    ex->mask = (UINT64_C(1) << shift) - 1;
    ex->depth = ex->strategy == PCT ? (uint32_t)depth - 1 : 0;
    ex->changes = draw_changes(ex, ex->depth, points);
    if (ex->changes == NULL || (plan != Py_None && read_plan(ex, plan) < 0))
        goto fail;
    if (trace && ((ex->trace = PyList_New(0)) == NULL || (ex->functions = PyList_New(0)) == NULL))
        goto fail;
    return (PyObject *)ex;

fail:
    Py_DECREF(ex);
    return NULL;
}

static int
explorer_traverse(py_explorer *ex, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(ex));
    for (uint32_t i = 0; i < ex->n; i++)
        Py_VISIT(ex->all[i].g);
    Py_VISIT(ex->trace);
    Py_VISIT(ex->functions);
    return 0;
}

static int
explorer_clear(py_explorer *ex)
{
    uint32_t n = ex->n;
    ex->n = 0;
    for (uint32_t i = 0; i < n; i++)
        Py_DECREF(ex->all[i].g);
    Py_CLEAR(ex->trace);
    Py_CLEAR(ex->functions);
    return 0;
}

static void
explorer_dealloc(py_explorer *ex)
{
    PyTypeObject *type = Py_TYPE(ex);
    PyObject_GC_UnTrack(ex);
    explorer_clear(ex);
    PyMem_Free(ex->all);
    PyMem_Free(ex->pool);
    PyMem_Free(ex->changes);
    PyMem_Free(ex->plan);
    PyMem_Free(ex->done);
    type->tp_free(ex);
    Py_DECREF(type);
}

static PyObject *
explorer_goroutines(py_explorer *ex, void *Py_UNUSED(closure))
{
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < ex->n; i++)
        if (PyList_Append(list, (PyObject *)ex->all[i].g) < 0)
            Py_CLEAR(list);
    return list;
}

/* Those whose exceptions nobody has asked for, and now need not: (when, number, exception). */
static PyObject *
explorer_failures(py_explorer *ex, PyObject *Py_UNUSED(ignored))
{
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < ex->n; i++) {
        Goroutine *gp = ex->all[i].g;
        if (!py_g_ended(gp) || !gp->failed || gp->asked)
            continue;
        gp->asked = true;
        PyObject *item = Py_BuildValue("(KIO)", (unsigned long long)ex->all[i].ended, (unsigned)i,
                                       gp->outcome);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *
explorer_schedule(py_explorer *ex, void *Py_UNUSED(closure))
{
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < ex->ndone; i++) {
        PyObject *item = Py_BuildValue("(II)", ex->done[i].who, ex->done[i].point);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

/* By whoever has run the bubble. */
static PyObject *
explorer_end(py_explorer *ex, PyObject *Py_UNUSED(ignored))
{
    ex->over = true;
    ex->limit = 0;
    /* Those that wait are cancelled: what they do then is to tidy up. */
    for (uint32_t i = 0; i < ex->n; i++)
        if (RT_LOAD(ex->all[i].g->g.status) == RT_G_WAITING && ex->all[i].told == 0)
            ex->all[i].told = ex->steps + 1;
    Py_RETURN_NONE;
}

/* By whoever has run the bubble, on any thread, while all its goroutines wait. */
static PyObject *
explorer_give_up(py_explorer *ex, PyObject *Py_UNUSED(ignored))
{
    ex->given_up = true;
    py_points_over(ex->mp);
    Py_RETURN_NONE;
}

static PyMethodDef explorer_methods[] = {
    {"give_up", (PyCFunction)explorer_give_up, METH_NOARGS,
     "give_up($self)\n--\n\nThe goroutines that are left never run again."},
    {"failures", (PyCFunction)explorer_failures, METH_NOARGS,
     "failures($self)\n--\n\n"
     "(when, number, exception) of those that have failed and nobody has asked."},
    {"end", (PyCFunction)explorer_end, METH_NOARGS,
     "end($self)\n--\n\n"
     "What happens from now on is no part of the schedule; who computes is to end."},
    {0},
};
static PyGetSetDef explorer_getset[] = {
    {"goroutines", (getter)explorer_goroutines, NULL, NULL, NULL},
    {"schedule", (getter)explorer_schedule, NULL, NULL, NULL},
    {0},
};
static PyMemberDef explorer_members[] = {
    {"started", T_UINT, offsetof(py_explorer, n), READONLY, NULL},
    {"steps", T_ULONGLONG, offsetof(py_explorer, steps), READONLY, NULL},
    {"choices", T_ULONGLONG, offsetof(py_explorer, choices), READONLY, NULL},
    {"switches", T_ULONGLONG, offsetof(py_explorer, switches), READONLY, NULL},
    {"preemptions", T_ULONGLONG, offsetof(py_explorer, preemptions), READONLY, NULL},
    {"too_long", T_BOOL, offsetof(py_explorer, too_long), READONLY, NULL},
    {"io", T_BOOL, offsetof(py_explorer, io), READONLY, NULL},
    {"outside", T_BOOL, offsetof(py_explorer, outside), READONLY, NULL},
    {"fingerprint", T_ULONGLONG, offsetof(py_explorer, fingerprint), READONLY, NULL},
    {"crowded", T_BOOL, offsetof(py_explorer, crowded), READONLY, NULL},
    {"trace", T_OBJECT, offsetof(py_explorer, trace), READONLY, NULL},
    {"functions", T_OBJECT, offsetof(py_explorer, functions), READONLY, NULL},
    {0},
};
static PyType_Slot explorer_slots[] = {
    {Py_tp_new, explorer_new},
    {Py_tp_dealloc, explorer_dealloc},
    {Py_tp_traverse, explorer_traverse},
    {Py_tp_clear, explorer_clear},
    {Py_tp_methods, explorer_methods},
    {Py_tp_getset, explorer_getset},
    {Py_tp_members, explorer_members},
    {Py_tp_doc,
     "_Explorer(seed, shift, depth, points, max_steps, plan, trace, /)\n--\n\n"
     "Decides about one schedule, and keeps what has run.  depth 0: preempt with\n"
     "probability 2**-shift; else PCT, among so many points.  plan: a schedule, or None."},
    {0, NULL},
};
static PyType_Spec explorer_spec = {
    "runtime._Explorer", sizeof(py_explorer), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, explorer_slots};

int
py_explore_init_types(PyObject *module)
{
    return py_add_type(module, &explorer_spec, &core->explorer_type, true);
}
