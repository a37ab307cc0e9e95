/* py_inspect.c - looking at the scheduler from outside: counters, goroutines, stacks.
 *
 * A snapshot is taken while no other thread runs Python.  Threads stop only where they
 * attach, detach or look at the eval breaker, and no lock of the core is held there, so
 * everything can be read without one.  Where a goroutine is found:
 *
 *   started    in a seat, on the list of its M; which one runs, the M knows
 *   fresh      in a run queue, or promised to the worker that is being switched to
 *   foreign    in a seat on the core's list; it is of interest while it waits, and not when
 *              it is a service thread, for then it waits for work
 *
 * Stacks.  greenlet has the frame objects of a suspended greenlet ready, linked to each
 * other.  A goroutine that runs, or has parked on the stack on which its M now looks for
 * work (nothing was switched), is on the thread's own stack.  Frames are reduced to code
 * and position on the spot: the frame object of a goroutine that goes on must not be
 * looked at on a build without the GIL.
 */
#include "py_inspect.h"

#include "py_bubble.h"
#include "py_waits.h"

#include <signal.h>
#include <stdlib.h>

/* ---- counters ---- */

static PyObject *
p_stats(py_m *mp)
{
    rt_p *pp = &mp->p;
    const rt_p_counters *c = &pp->count;
    return Py_BuildValue(
        "{sI sI sI sI sI sI sK sI sO sK sK sK sK sK sK sK sK sK sK sK sK sK sK sL sL}",
        "id", pp->id, "runq", py_runq_len(pp), "runnext", RT_LOAD(pp->runnext) != NULL,
        "inbox", RT_LOAD(pp->inbox.top) != NULL,
        "timers", PY_PEEK(pp->timers.len) + PY_PEEK(pp->alarms.heap.len),
        "descriptors", RT_LOAD(pp->npd), "workers", RT_LOAD(mp->workers),
        "idle_workers", PY_PEEK(mp->nidle),
        "sleeping", atomic_load(&pp->sleeping) != RT_AWAKE ? Py_True : Py_False,
        "ticks", RT_LOAD(c->ticks), "runnext_hits", RT_LOAD(c->runnext),
        "switches", RT_LOAD(mp->switches), "steals", RT_LOAD(c->steals),
        "stolen", RT_LOAD(c->stolen), "global", RT_LOAD(c->global),
        "inbox_takes", RT_LOAD(c->inbox), "overflows", RT_LOAD(c->overflows),
        "preemptions", RT_LOAD(c->preemptions), "polls", RT_LOAD(c->polls),
        "blocking_polls", RT_LOAD(c->blocking_polls), "poll_events", RT_LOAD(c->poll_events),
        "wakeups", RT_LOAD(c->wakeups), "timers_fired", RT_LOAD(c->timers_fired),
        "idle_ns", (long long)rt_stopwatch_read(&pp->idle),
        "spinning_ns", (long long)rt_stopwatch_read(&pp->looking));
}

PyObject *
py_stats(void)
{
    PyObject *ps = PyList_New(0);
    if (ps == NULL)
        return NULL;
    uint64_t running = 0, runnable = RT_LOAD(core->sched.global.len);
    uint32_t nms = 0, sleeping = 0;
    py_m *mp;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++) {
        PyObject *p = p_stats(mp);
        if (p == NULL || PyList_Append(ps, p) < 0) {
            Py_XDECREF(p);
            Py_DECREF(ps);
            return NULL;
        }
        Py_DECREF(p);
        nms++;
        sleeping += atomic_load(&mp->p.sleeping) != RT_AWAKE;
        running += PY_PEEK(mp->curg) != NULL;
        runnable += py_runq_len(&mp->p);
    }
    uint64_t created, finished, now = py_num_goroutine(&created, &finished);
    /* They were not counted at one moment. */
    if (running > now)
        running = now;
    if (runnable > now - running)
        runnable = now - running;
    uint32_t spinning = (uint32_t)RT_LOAD(core->sched.nspinning);
    PyObject *http = py_http_stats();
    if (http == NULL) {
        Py_DECREF(ps);
        return NULL;
    }
    return Py_BuildValue(
        "{sI sK sK sK sI sI s{sK sK sK} sN s{sI sI sI} sN}",
        "gomaxprocs", RT_LOAD(core->sched.nprocs), "goroutines", now, "created", created,
        "finished", finished, "spinning", spinning, "global_runq",
        RT_LOAD(core->sched.global.len), "states", "running", running, "runnable", runnable,
        "waiting", now - running - runnable, "ps", ps, "ms", "count", nms, "idle", sleeping,
        "spinning", spinning, "http", http);
}

/* ---- histograms ---- */

void
py_hist_add(py_hist_sum *sum, const rt_hist *h)
{
    for (uint32_t k = 0; k < RT_HIST_BUCKETS; k++)
        sum->count[k] += RT_LOAD(h->count[k]);
    sum->sum += RT_LOAD(h->sum);
}

PyObject *
py_hist_render(const py_hist_sum *sum)
{
    PyObject *buckets = PyList_New(0);
    for (uint32_t k = 0; buckets != NULL && k < RT_HIST_BUCKETS; k++) {
        if (sum->count[k] == 0)
            continue;
        PyObject *bucket = Py_BuildValue("(LLK)", (long long)rt_hist_low(k),
                                         (long long)rt_hist_low(k + 1), sum->count[k]);
        if (bucket == NULL || PyList_Append(buckets, bucket) < 0)
            Py_CLEAR(buckets);
        Py_XDECREF(bucket);
    }
    return buckets ? Py_BuildValue("(KN)", sum->sum, buckets) : NULL;
}

/* Those of all Ps at this offset of rt_p together. */
static PyObject *
sum_histograms(size_t offset)
{
    py_hist_sum sum = {0};
    py_m *mp;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++)
        py_hist_add(&sum, (const rt_hist *)((const char *)&mp->p + offset));
    return py_hist_render(&sum);
}

static PyObject *
m_histograms(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    PyObject *latency = sum_histograms(offsetof(rt_p, latency));
    PyObject *run = latency ? sum_histograms(offsetof(rt_p, run)) : NULL;
    if (run == NULL) {
        Py_XDECREF(latency);
        return NULL;
    }
    return Py_BuildValue("(NN)", latency, run);
}

/* ---- the snapshot ---- */

typedef struct {
    PyObject *code, *globals;   /* owned */
    int lasti;
} frame_site;

typedef struct {
    py_g_info *gs;
    size_t n, cap;
    frame_site *frames;         /* of all stacks, innermost first */
    size_t nframes, frames_cap;
    py_edge *edges;             /* of all that wait */
    size_t nedges, edges_cap;
    bool stacks, waits;         /* collect stacks, edges, too */
    int64_t only;               /* id of the one that is wanted; 0: all */
    bool no_memory;
    PyFrameObject *here;        /* borrowed or NULL: where the caller's stack begins */
    uint32_t now;               /* ms */
} snapshot;

/* The getter of greenlet.gr_frame: no attribute is looked up while the world stands still. */
static getter greenlet_frame;

/* Make room for one more.  By malloc(), whose locks no stopped thread holds. */
static bool
grow(void *array, size_t n, size_t *cap, size_t size)
{
    if (RT_LIKELY(n < *cap))
        return true;
    size_t more = *cap ? *cap * 2 : 64;
    void *grown = realloc(*(void **)array, more * size);
    if (grown == NULL)
        return false;
    *(void **)array = grown;
    *cap = more;
    return true;
}

/* Add the stack of the goroutine added last; it begins at frame (reference stolen). */
static void
add_stack(snapshot *s, PyFrameObject *frame)
{
    py_g_info *info = &s->gs[s->n - 1];
    if (frame == NULL)
        info->fn = Py_XNewRef(info->g->fn);
    info->frame = s->nframes;
    while (frame != NULL) {
        s->no_memory = s->no_memory
                       || !grow(&s->frames, s->nframes, &s->frames_cap, sizeof(frame_site));
        if (!s->no_memory)
            s->frames[s->nframes++] = (frame_site){
                .code = (PyObject *)PyFrame_GetCode(frame),
                .globals = PyFrame_GetGlobals(frame),
                .lasti = PyFrame_GetLasti(frame),
            };
        PyFrameObject *back = s->no_memory ? NULL : PyFrame_GetBack(frame);
        Py_DECREF(frame);       /* not the last: it is being executed */
        frame = back;
    }
    info->nframes = s->nframes - info->frame;
}

/* Add what the goroutine added last waits for. */
static void
add_edges(snapshot *s, py_g_info *info)
{
    PyObject *on[PY_MAX_WAITS_ON];
    uint32_t n = py_waits_on(info->g, on);
    info->edge = s->nedges;
    for (uint32_t i = 0; i < n; i++) {
        s->no_memory = s->no_memory
                       || !grow(&s->edges, s->nedges, &s->edges_cap, sizeof(py_edge));
        if (s->no_memory)
            return;
        s->edges[s->nedges++] = (py_edge){Py_NewRef(on[i]), py_waits_holder(on[i])};
        info->nedges++;
    }
}

static py_g_info *
add(snapshot *s, Goroutine *gp, uint8_t state)
{
    if (gp->g.service && state != RT_G_WAITING)
        return NULL;            /* waiting, it is in a finalizer of the program's */
    if (s->only != 0 && gp->id != s->only)
        return NULL;
    s->no_memory = s->no_memory || !grow(&s->gs, s->n, &s->cap, sizeof(py_g_info));
    if (s->no_memory)
        return NULL;
    py_g_info *info = &s->gs[s->n++];
    *info = (py_g_info){
        .g = (Goroutine *)Py_NewRef(gp), .id = gp->id, .state = state, .p = -1};
    if (state == RT_G_WAITING) {
        info->reason = gp->g.reason;
        info->timed = rt_timer_started(&gp->seat->timer);
        /* The clock of the scheduler is a little late, but may have been read after ours. */
        uint32_t ms = s->now - gp->g.since;
        info->wait_ms = ms > UINT32_MAX - 60000 ? 0 : ms;
        if (s->waits)
            add_edges(s, info);
    }
    return info;
}

/* The innermost frame of a goroutine that has begun, or NULL (owned); here: borrowed, the
   one of the calling thread to begin with. */
static PyFrameObject *
top_frame(py_m *mp, const Goroutine *gp, PyFrameObject *here)
{
    if (mp->curg != gp) {
        PyObject *frame = gp->seat->greenlet
                              ? greenlet_frame((PyObject *)gp->seat->greenlet, NULL)
                              : NULL;
        if (frame != NULL && frame != Py_None)
            return (PyFrameObject *)frame;
        Py_XDECREF(frame);
        if (mp->curg != NULL || mp->parking != gp)
            return NULL;
    }
    if (mp->is_main && core->hook_under != NULL && mp->curg == NULL)
        return (PyFrameObject *)Py_NewRef(core->hook_under);
    if (mp == py_tls_m)
        return (PyFrameObject *)Py_XNewRef(here);
    return PyThreadState_GetFrame(mp->tstate);
}

static void
add_started(snapshot *s, py_m *mp, const py_seat *seat)
{
    Goroutine *gp = seat->waiter.g;
    uint8_t state = RT_LOAD(gp->g.status);
    if (state == RT_G_DEAD)
        return;                 /* it may be half gone */
    py_g_info *info = add(s, gp, mp->curg == gp ? RT_G_RUNNING : state);
    if (info == NULL)
        return;
    info->p = (int32_t)mp->p.id;
    info->thread = mp->tstate->thread_id;
    info->locked = seat->nlocked != 0;
    info->bubble = gp->g.bubbled ? seat->bubble->id : 0;
    if (s->stacks)
        add_stack(s, top_frame(mp, gp, s->here));
}

static void
add_fresh(snapshot *s, const rt_p *pp, rt_g *g)
{
    if (g == NULL || g->started)
        return;
    py_g_info *info = add(s, py_g_of(g), RT_G_RUNNABLE);
    if (info == NULL)
        return;
    if (g->bubbled)
        info->bubble = py_g_of(g)->bubble->id;
    if (s->stacks)
        add_stack(s, NULL);
    if (pp == NULL)
        return;
    info->p = (int32_t)pp->id;
    const py_m *mp = py_m_of((rt_p *)pp);
    if (g->pinned && mp->tstate != NULL)
        info->thread = mp->tstate->thread_id;
}

static void
add_list(snapshot *s, const rt_p *pp, rt_g *g)
{
    for (; g != NULL; g = g->link.next)
        add_fresh(s, pp, g);
}

static void
add_queues(snapshot *s, rt_p *pp)
{
    add_fresh(s, pp, pp->runnext);
    add_fresh(s, pp, pp->found);
    for (uint32_t i = RT_LOAD(pp->fresh.head), end = RT_LOAD(pp->fresh.tail); i != end; i++)
        add_fresh(s, pp, RT_LOAD(pp->fresh.slots[i % RT_RUNQ_CAP]));
    add_list(s, pp, pp->spill.head);
    add_list(s, pp, pp->pinned.head);
    add_list(s, pp, RT_LOAD(pp->inbox.top));
}

/* The plain thread with this state, if it waits in an operation of the runtime. */
static void
add_foreign(snapshot *s, PyThreadState *ts)
{
    uint64_t id = PyThreadState_GetID(ts);
    const py_seat *seat = core->foreign;
    while (seat != NULL && seat->tstate_id != id)
        seat = seat->next;
    if (seat == NULL || seat->service || RT_LOAD(seat->waiter.g->g.status) != RT_G_WAITING)
        return;
    py_g_info *info = add(s, seat->waiter.g, RT_G_WAITING);
    if (info == NULL)
        return;
    info->thread = ts->thread_id;
    if (s->stacks)
        add_stack(s, PyThreadState_GetFrame(ts));
}

/* For py_stop_world().  Of objects it makes only frame objects, as sys._current_frames()
   does in the same situation. */
static void
collect(void *arg)
{
    snapshot *s = arg;
    s->now = (uint32_t)(rt_nanotime() / 1000000);
    py_m *mp;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++) {
        for (const py_seat *seat = mp->seats; seat != NULL; seat = seat->next)
            if (seat->waiter.g != NULL)
                add_started(s, mp, seat);
        if (mp->next != NULL)
            add_fresh(s, &mp->p, &mp->next->g);
        add_queues(s, &mp->p);
    }
    add_list(s, NULL, core->sched.global.list.head);
    if (core->foreign == NULL)
        return;
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    for (; ts != NULL; ts = PyThreadState_Next(ts))
        add_foreign(s, ts);
}

static void
release(snapshot *s)
{
    for (size_t i = 0; i < s->nframes; i++) {
        Py_DECREF(s->frames[i].code);
        Py_DECREF(s->frames[i].globals);
    }
    free(s->frames);
    py_snapshot_free(s->gs, s->n, s->edges);
}

static int
by_id(const void *a, const void *b)
{
    int64_t x = ((const py_g_info *)a)->id, y = ((const py_g_info *)b)->id;
    return (x > y) - (x < y);
}

/* Take the snapshot; s->stacks and s->here are set. */
static int
take(snapshot *s)
{
    size_t cap = py_num_goroutine(NULL, NULL) + 64;     /* a guess: others go on until then */
    s->gs = malloc(cap * sizeof(py_g_info));
    s->cap = s->gs ? cap : 0;
#if PY_VERSION_HEX < 0x030C0000
    int gc = PyGC_Disable();    /* it would run at once, in the middle */
#endif
    py_stop_world(collect, s);
#if PY_VERSION_HEX < 0x030C0000
    if (gc)
        PyGC_Enable();
#endif
    PyErr_Clear();              /* a frame object could not be made */
    if (s->no_memory) {
        release(s);
        PyErr_NoMemory();
        return -1;
    }
    if (s->n != 0)
        qsort(s->gs, s->n, sizeof(py_g_info), by_id);
    return 0;
}

int
py_snapshot(py_g_info **infos, size_t *n, py_edge **edges)
{
    snapshot s = {.waits = edges != NULL};
    if (take(&s) < 0)
        return -1;
    *infos = s.gs;
    *n = s.n;
    if (edges != NULL)
        *edges = s.edges;
    return 0;
}

void
py_snapshot_free(py_g_info *infos, size_t n, py_edge *edges)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < infos[i].nedges; k++)
            Py_DECREF(edges[infos[i].edge + k].on);
        Py_DECREF(infos[i].g);
        Py_XDECREF(infos[i].fn);
    }
    free(edges);
    free(infos);
}

/* ---- as Python objects ---- */

#define CACHE 256               /* a power of two */

typedef struct {
    snapshot s;
    PyTypeObject *info_type;    /* borrowed: GoroutineInfo */
    PyObject *frame_type;       /* borrowed: StackFrame */
    PyObject *entry;            /* borrowed: makes one of a function to be called */
    PyObject *dunder_name;      /* owned */
    PyObject *states[RT_G_DEAD], *reasons[PY_WAIT_REASONS];     /* owned, made when needed */
    struct {                    /* the last places seen: most goroutines wait at a few */
        frame_site site;        /* borrowed */
        PyObject *frame;        /* owned */
    } cache[CACHE];
} renderer;

static PyObject *
text(PyObject **slot, const char *s)
{
    if (*slot == NULL)
        *slot = PyUnicode_InternFromString(s);
    return Py_XNewRef(*slot);
}

/* "module.function", or as much of it as is known.  globals may be NULL. */
static PyObject *
qualified_name(renderer *r, const PyCodeObject *code, PyObject *globals)
{
    PyObject *module = NULL;
    if (globals != NULL && PyDict_Check(globals)) {
        module = PyObject_GetItem(globals, r->dunder_name);
        if (module == NULL)
            PyErr_Clear();
    }
    PyObject *name = module && PyUnicode_Check(module)
                         ? PyUnicode_FromFormat("%U.%U", module, code->co_qualname)
                         : Py_NewRef(code->co_qualname);
    Py_XDECREF(module);
    return name;
}

/* (file, line, function) of a site whose globals may be NULL; new reference. */
static PyObject *
render_site(renderer *r, const frame_site *site)
{
    uintptr_t hash = (uintptr_t)site->code / 16 ^ (uintptr_t)site->globals / 64
                     ^ (uintptr_t)site->lasti;
    frame_site *cached = &r->cache[hash % CACHE].site;
    PyObject **frame = &r->cache[hash % CACHE].frame;
    if (*frame != NULL && cached->code == site->code && cached->globals == site->globals
        && cached->lasti == site->lasti)
        return Py_NewRef(*frame);
    PyCodeObject *code = (PyCodeObject *)site->code;
    int line = PyCode_Addr2Line(code, site->lasti);
    PyObject *name = qualified_name(r, code, site->globals);
    PyObject *made = name ? PyObject_CallFunction(r->frame_type, "OiO", code->co_filename,
                                                  line > 0 ? line : code->co_firstlineno, name)
                          : NULL;
    Py_XDECREF(name);
    if (made != NULL) {
        *cached = *site;
        Py_XSETREF(*frame, Py_NewRef(made));
    }
    return made;
}

static PyObject *
render_stack(renderer *r, const py_g_info *info)
{
    if (!r->s.stacks)
        return Py_NewRef(Py_None);
    if (info->fn != NULL) {
        PyObject *frame = PyObject_CallOneArg(r->entry, info->fn);
        PyObject *only = frame ? PyTuple_Pack(1, frame) : NULL;
        Py_XDECREF(frame);
        return only;
    }
    PyObject *stack = PyTuple_New((Py_ssize_t)info->nframes);
    for (size_t i = 0; stack != NULL && i < info->nframes; i++) {
        PyObject *frame = render_site(r, &r->s.frames[info->frame + i]);
        if (frame == NULL)
            Py_CLEAR(stack);
        else
            PyTuple_SET_ITEM(stack, (Py_ssize_t)i, frame);
    }
    return stack;
}

/* The objects it waits for, or the ids of those who can end that, each once. */
static PyObject *
render_waits(renderer *r, const py_g_info *info, bool holders)
{
    Py_ssize_t n = 0;
    const py_edge *edges = r->s.edges + info->edge;
    for (size_t i = 0; i < info->nedges; i++)
        n += !holders || edges[i].holder != 0;
    PyObject *all = PyTuple_New(n);
    for (size_t i = info->nedges; all != NULL && i-- > 0;) {
        if (holders && edges[i].holder == 0)
            continue;
        PyObject *item = holders ? PyLong_FromLongLong(edges[i].holder) : Py_NewRef(edges[i].on);
        if (item == NULL)
            Py_CLEAR(all);
        else
            PyTuple_SET_ITEM(all, --n, item);
    }
    return all;
}

/* Field i of a GoroutineInfo. */
static PyObject *
render_field(renderer *r, const py_g_info *info, Py_ssize_t i)
{
    static const char *const states[] = {
        [RT_G_RUNNABLE] = "runnable", [RT_G_RUNNING] = "running", [RT_G_WAITING] = "waiting"};
    Goroutine *gp = info->g;
    bool waits = info->state == RT_G_WAITING;
    switch (i) {
    case 0:
        return PyLong_FromLongLong(info->id);
    case 1:
        return py_g_name(gp);
    case 2:
        return text(&r->states[info->state], states[info->state]);
    case 3:
        return waits ? text(&r->reasons[info->reason], py_wait_reason(info->reason))
                     : Py_NewRef(Py_None);
    case 4:
        return waits ? PyFloat_FromDouble(info->wait_ms / 1e3) : Py_NewRef(Py_None);
    case 5:
        return gp->code ? render_site(r, &(frame_site){gp->code, NULL, gp->lasti})
                        : Py_NewRef(Py_None);
    case 6:
        return info->p >= 0 ? PyLong_FromLong(info->p) : Py_NewRef(Py_None);
    case 7:
        return info->thread != 0 ? PyLong_FromUnsignedLong(info->thread) : Py_NewRef(Py_None);
    case 8:
        return PyBool_FromLong(info->locked);
    case 9:
        return Py_NewRef((PyObject *)gp);
    case 10:
        return render_stack(r, info);
    case 11:
        return info->bubble != 0 ? PyLong_FromLongLong(info->bubble) : Py_NewRef(Py_None);
    case 12:
        return render_waits(r, info, false);
    default:
        return render_waits(r, info, true);
    }
}

#define INFO_FIELDS 14

/* A GoroutineInfo. */
static PyObject *
render(renderer *r, const py_g_info *info)
{
    PyObject *fields[INFO_FIELDS];
    Py_ssize_t n = 0;
    while (n < INFO_FIELDS && (fields[n] = render_field(r, info, n)) != NULL)
        n++;
    PyObject *made = n == INFO_FIELDS ? r->info_type->tp_alloc(r->info_type, n) : NULL;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (made != NULL)
            PyTuple_SET_ITEM(made, i, fields[i]);
        else
            Py_DECREF(fields[i]);
    }
    return made;
}

static void
renderer_free(renderer *r)
{
    Py_XDECREF(r->dunder_name);
    for (size_t i = 0; i < RT_ARRAY_LEN(r->states); i++)
        Py_XDECREF(r->states[i]);
    for (size_t i = 0; i < RT_ARRAY_LEN(r->reasons); i++)
        Py_XDECREF(r->reasons[i]);
    for (size_t i = 0; i < CACHE; i++)
        Py_XDECREF(r->cache[i].frame);
    PyMem_Free(r);
}

/* The list of all, the caller first. */
static PyObject *
render_all(renderer *r, const Goroutine *me)
{
    const snapshot *s = &r->s;
    size_t first = 0;
    while (first < s->n && s->gs[first].g != me)
        first++;
    PyObject *list = PyList_New((Py_ssize_t)s->n);
    for (size_t i = 0; list != NULL && i < s->n; i++) {
        size_t from = first == s->n || i > first ? i : i == 0 ? first : i - 1;
        PyObject *info = render(r, &s->gs[from]);
        if (info == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, info);
    }
    return list;
}

/* The caller, which is a plain thread. */
static void
add_caller(snapshot *s, Goroutine *me)
{
    py_g_info *info = add(s, me, RT_G_RUNNING);
    if (info == NULL)
        return;
    info->thread = PyThread_get_thread_ident();
    info->locked = me->seat->nlocked != 0;
    if (s->stacks)
        add_stack(s, (PyFrameObject *)Py_XNewRef(s->here));
}

/* _goroutines(all, thread, stacks, here, info_type, frame_type, entry, only=0): a list of
   GoroutineInfos.  all: of all goroutines, or of the one with the id `only`, else of the caller
   alone.  thread: a plain thread
   counts as a goroutine if it is the caller.  here: the frame the caller's stack begins
   with, or None. */
static PyObject *
m_goroutines(PyObject *Py_UNUSED(module), PyObject *args)
{
    int all, thread, stacks;
    long long only = 0;
    PyObject *here, *info_type, *frame_type, *entry, *list = NULL;
    if (!PyArg_ParseTuple(args, "pppOO!OO|L:_goroutines", &all, &thread, &stacks, &here,
                          &PyType_Type, &info_type, &frame_type, &entry, &only))
        return NULL;
    if (!PyType_IsSubtype((PyTypeObject *)info_type, &PyTuple_Type)) {
        PyErr_SetString(PyExc_TypeError, "_goroutines(): info_type must be a tuple type");
        return NULL;
    }
    py_m *mp = py_this_m();
    Goroutine *me = mp ? mp->curg : NULL;
    if (mp == NULL && thread && (me = py_current("goroutines()")) == NULL)
        return NULL;
    renderer *r = PyMem_Calloc(1, sizeof(*r));
    if (r == NULL)
        return PyErr_NoMemory();
    snapshot *s = &r->s;
    s->stacks = stacks;
    s->waits = true;
    s->only = only;
    s->here = PyFrame_Check(here) ? (PyFrameObject *)here : NULL;
    r->info_type = (PyTypeObject *)info_type;
    r->frame_type = frame_type;
    r->entry = entry;
    if (all && take(s) < 0)
        goto done;
    if (mp == NULL && thread)
        add_caller(s, me);
    else if (!all && me != NULL)
        add_started(s, mp, me->seat);
    if (s->no_memory)
        PyErr_NoMemory();
    else if ((r->dunder_name = PyUnicode_InternFromString("__name__")) != NULL)
        list = render_all(r, me);
    release(s);
done:
    renderer_free(r);
    return list;
}

/* _frame(goroutine): its innermost frame, or None. */
static PyObject *
m_frame(PyObject *Py_UNUSED(module), PyObject *arg)
{
    if (!PyObject_TypeCheck(arg, core->goroutine_type)) {
        PyErr_SetString(PyExc_TypeError, "_frame() needs a Goroutine");
        return NULL;
    }
    Goroutine *gp = (Goroutine *)arg;
    PyFrameObject *frame = NULL;
    py_m *mp = py_this_m();
    if (mp != NULL && mp->curg == gp)
        frame = PyThreadState_GetFrame(mp->tstate);
#ifndef Py_GIL_DISABLED
    rt_p *pp = gp->g.pp;        /* of another process, if it forked us */
    if (frame == NULL && gp->g.started && !py_g_ended(gp)
        && RT_LOAD(core->sched.by_id[pp->id]) == pp)
        frame = top_frame(py_m_of(pp), gp, NULL);
#endif
    return frame ? (PyObject *)frame : Py_NewRef(Py_None);
}

/* Called once by the package. */
static PyObject *
m_on_deadlock(PyObject *Py_UNUSED(module), PyObject *report)
{
    Py_XSETREF(core->report_deadlock, Py_NewRef(report));
    Py_RETURN_NONE;
}

/* Has nobody in the process said what is to be done when the signal comes?  The module
   signal only knows of its own handlers. */
static PyObject *
m_signal_is_default(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int signum = (int)PyLong_AsLong(arg);
    struct sigaction now;
    if (signum == -1 && PyErr_Occurred())
        return NULL;
    if (sigaction(signum, NULL, &now) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyBool_FromLong(!(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL);
}

static PyMethodDef functions[] = {
    {"_histograms", m_histograms, METH_NOARGS, NULL},
    {"_signal_is_default", m_signal_is_default, METH_O, NULL},
    {"_on_deadlock", m_on_deadlock, METH_O, NULL},
    {"_goroutines", m_goroutines, METH_VARARGS, NULL},
    {"_frame", m_frame, METH_O, NULL},
    {0},
};

int
py_inspect_init(PyObject *module)
{
    PyObject *descr = PyObject_GetAttrString((PyObject *)&PyGreenlet_Type, "gr_frame");
    if (descr == NULL)
        return -1;
    greenlet_frame = ((PyGetSetDescrObject *)descr)->d_getset->get;
    Py_DECREF(descr);
    return PyModule_AddFunctions(module, functions);
}
