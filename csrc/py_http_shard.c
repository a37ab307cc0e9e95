/* py_http_shard.c - a server's part on one P: which one gets a connection, time-outs.
 *
 * Choosing.  A new connection goes to the open P that has the fewest, on ties to that of
 * the listeners.  Ms are started as there are connections for them.  With one P there
 * is nothing to choose, and nothing is handed over.
 *
 * The main thread is no pure scheduler: its main goroutine is the program, which may do
 * anything for any time.  Connections go there only while that goroutine is parked, or if
 * the listeners are there; and never if a plain thread serves.
 *
 * Handing over.  The connection is queued at the shard, and a goroutine is sent to that
 * M to take all that is queued by then.  An M that does not take them for RECALL_AFTER is
 * stuck in a handler: its queue goes to others, and it gets no more until it is back.
 *
 * Time-outs.  Connections wait in one list a state.  A state's time-out is the same for all of
 * its connections, so each list is in order of deadline and one timer, set to the
 * earliest first entry, serves all of them: no timer heap per request.
 */
#include "py_http.h"

#define RECALL_AFTER 100000000          /* ns */

/* ---- time-outs ---- */

static inline http_conn *
conn_of(http_link *link)
{
    return RT_CONTAINER_OF(link, http_conn, link);
}

static void
sweep_fired(rt_timer *t)
{
    http_shard *sh = RT_CONTAINER_OF(t, http_shard, sweep);
    http_server *s = sh->server;
    /* Deadlines come from the coarse clock, which is late: by it none might be over. */
    int64_t now = rt_nanotime(), next = INT64_MAX;
    Py_INCREF(s);               /* the last connection may hold the last reference */
    for (int state = 0; state < HTTP_NSTATES; state++) {
        if (state == HTTP_ACTIVE)
            continue;
        http_link *ring = &sh->list[state].ring;
        while (ring->next != ring && conn_of(ring->next)->deadline <= now)
            http_conn_expired(conn_of(ring->next));
        if (ring->next != ring && conn_of(ring->next)->deadline < next)
            next = conn_of(ring->next)->deadline;
    }
    if (next != INT64_MAX && !rt_timer_started(t)) {
        t->when = next;
        rt_timers_start(&sh->mp->p.timers, t);
    }
    Py_DECREF(s);
}

static inline void
unlink_conn(http_shard *sh, const http_conn *c)
{
    c->link.prev->next = c->link.next;
    c->link.next->prev = c->link.prev;
    RT_COUNT(sh->list[c->state].len, -1);
}

static inline void
link_conn(http_shard *sh, http_conn *c, int state)
{
    http_list *list = &sh->list[state];
    http_link *last = list->ring.prev;
    c->state = (uint8_t)state;
    c->link.prev = last;
    c->link.next = &list->ring;
    last->next = list->ring.prev = &c->link;
    RT_COUNT(list->len, 1);
    int64_t timeout = c->server->timeouts[state];
    if (timeout == INT64_MAX) {
        c->deadline = INT64_MAX;
        return;
    }
    c->deadline = http_coarse_now() + timeout;
    /* Lists are in order of deadline, so only a first entry can be the earliest. */
    if (!rt_timer_started(&sh->sweep)) {
        sh->sweep.when = c->deadline;
        rt_timers_start(&sh->mp->p.timers, &sh->sweep);     /* no memory: no time-outs */
    }
    else if (last == &list->ring && c->deadline < sh->sweep.when)
        rt_timers_move(&sh->mp->p.timers, &sh->sweep, c->deadline);
}

void
http_conn_set_state(http_conn *c, int state)
{
    http_shard *sh = c->shard;
    unlink_conn(sh, c);
    link_conn(sh, c, state);
    if (RT_UNLIKELY(c->server->watch != NULL) && (state == HTTP_ACTIVE || state == HTTP_IDLE))
        http_watch_note(c, state == HTTP_ACTIVE ? HTTP_CONN_ACTIVE : HTTP_CONN_IDLE);
}

void
http_shard_add(http_conn *c)
{
    RT_COUNT(c->shard->nopen, 1);
    link_conn(c->shard, c, HTTP_HEAD);
    if (RT_UNLIKELY(c->server->watch != NULL))
        http_watch_note(c, HTTP_CONN_NEW);
}

void
http_shard_remove(http_conn *c)
{
    http_shard *sh = c->shard;
    unlink_conn(sh, c);
    http_shard_count(sh, -1);
}

void
http_shard_count(http_shard *sh, int n)
{
    RT_COUNT(sh->nopen, n);
    if (RT_LOAD(sh->nopen) == 0)
        rt_timers_stop(&sh->mp->p.timers, &sh->sweep);
}

/* ---- life ---- */

http_shard *
http_shard_get(http_server *s, py_m *mp)
{
    _Atomic(http_shard *) *slot = &s->shards[mp->p.id];
    http_shard *sh = RT_LOAD(*slot);
    if (RT_LIKELY(sh != NULL))
        return sh;
    sh = PyMem_Calloc(1, sizeof(*sh));
    if (sh == NULL)
        return NULL;
    sh->scratch = PyMem_Malloc(s->limits.max_fields * sizeof(rt_http1_field));
    if (sh->scratch == NULL) {
        PyMem_Free(sh);
        return NULL;
    }
    sh->mp = mp;
    sh->server = s;
    sh->sweep.fire = sweep_fired;
    sh->last = &sh->first;
    for (int state = 0; state < HTTP_NSTATES; state++)
        sh->list[state].ring.next = sh->list[state].ring.prev = &sh->list[state].ring;
    /* Others only look at its counters.  The listeners' M and a stream on mp may come here
       at the same time. */
    http_shard *none = NULL;
    if (atomic_compare_exchange_strong(slot, &none, sh))
        return sh;
    http_shard_free(sh);
    return none;
}

void
http_shard_free(http_shard *sh)
{
    if (sh != NULL)
        PyMem_Free(sh->scratch);
    PyMem_Free(sh);
}

/* ---- ending ---- */

/* For a callback on each connection of a list, which may remove it. */
static void
each_conn(http_shard *sh, int state, void (*fn)(http_conn *))
{
    http_link *ring = &sh->list[state].ring, *next;
    for (http_link *link = ring->next; link != ring; link = next) {
        next = link->next;
        fn(conn_of(link));
    }
}

/* c waits for a request: close it, unless it waits for so short a time that one may be on its
   way, which closing would reset. */
static void
destroy_silent(http_conn *c)
{
    const http_server *s = c->server;
    int64_t timeout = s->timeouts[c->state];
    bool settled = timeout != INT64_MAX
                   && rt_nanotime() - (c->deadline - timeout) >= HTTP_SETTLED;
    if (c->in_pos == c->in_len && !c->readable && (settled || RT_LOAD(s->hasten)))
        http_conn_destroy(c);
}

void
http_shard_shutdown(http_shard *sh)
{
    each_conn(sh, HTTP_IDLE, destroy_silent);
    each_conn(sh, HTTP_HEAD, destroy_silent);       /* connected, but nothing was asked */
}

void
http_shard_abort(http_shard *sh)
{
    for (int state = 0; state < HTTP_NSTATES; state++)
        each_conn(sh, state, state == HTTP_ACTIVE ? http_conn_abort : http_conn_destroy);
}

/* ---- choosing ---- */

static uint32_t
load_of(const http_shard *sh)
{
    return RT_LOAD(sh->nopen) + RT_LOAD(sh->nqueued);
}

/* May mp get connections that it need not have? */
static bool
may_serve(const http_server *s, const py_m *mp)
{
    if (RT_LOAD(mp->p.mode) == RT_P_CLOSED || RT_LOAD(mp->p.lent))
        return false;
    return !mp->is_main || mp == RT_LOAD(s->mp)
           || RT_LOAD(core->main_g->g.status) == RT_G_WAITING;
}

/* Its goroutine is on the way for too long: the M is stuck. */
static bool
overdue(const http_shard *sh, int64_t now)
{
    int64_t asked = RT_LOAD(sh->asked_at);
    return asked != 0 && now - asked >= RECALL_AFTER;
}

static RT_NOINLINE http_shard *
choose_slow(http_server *s, http_shard *own, uint32_t nprocs)
{
    http_shard *best = NULL;
    uint32_t fewest = UINT32_MAX, ours = own->mp->p.id;
    if ((ours < nprocs || (ours == RT_SPARE_P && s->leave_main)) && may_serve(s, own->mp)) {
        best = own;
        fewest = load_of(own);
    }
    int64_t now = rt_nanotime();
    for (uint32_t i = 0; i < nprocs && fewest != 0; i++) {
        uint32_t id = i == 0 && s->leave_main ? RT_SPARE_P : i;
        http_shard *sh = id != ours ? RT_LOAD(s->shards[id]) : NULL;
        if (id == ours || (sh != NULL && (load_of(sh) >= fewest || overdue(sh, now))))
            continue;
        py_m *mp = sh ? sh->mp : py_m_get(id);
        if (mp == NULL || !may_serve(s, mp) || (sh = http_shard_get(s, mp)) == NULL)
            continue;
        best = sh;
        fewest = load_of(sh);
    }
    return best ? best : own;
}

/* The shard for a new connection; there is one for the listeners' M. */
static inline http_shard *
choose(http_server *s)
{
    py_m *mp = RT_LOAD(s->mp);
    http_shard *own = RT_LOAD(s->shards[mp->p.id]);
    uint32_t nprocs = RT_LOAD(core->sched.nprocs);
    if (RT_LIKELY(nprocs == 1) && (mp->is_main || s->leave_main))
        return own;
    return choose_slow(s, own, nprocs);
}

http_shard *
http_shard_choose(http_server *s)
{
    return choose(s);
}

/* ---- handing over ---- */

static http_conn *
take_queue(http_shard *sh)
{
    py_acquire(&sh->lock);
    http_conn *c = sh->first;
    sh->first = NULL;
    sh->last = &sh->first;
    RT_STORE(sh->nqueued, 0);
    py_release(&sh->lock);
    return c;
}

void
http_shard_forget(http_shard *sh)
{
    for (http_conn *c = take_queue(sh), *next; c != NULL; c = next) {
        next = c->next;
        http_conn_discard(c);
    }
}

/* Runs on the shard's M; arg: the shard, with a reference to its server. */
static PyObject *
take_main(Goroutine *gp)
{
    http_shard *sh = gp->call.c.arg;
    http_server *s = sh->server;
    RT_STORE(sh->asked_at, 0);      /* what comes from now on needs another goroutine */
    for (http_conn *c = take_queue(sh), *next; c != NULL; c = next) {
        next = c->next;
        if (RT_LOAD(s->hasten))
            http_conn_discard(c);   /* nothing was asked yet */
        else
            http_conn_open(c);
    }
    Py_DECREF(s);
    Py_RETURN_NONE;
}

static void
hand_over(http_shard *sh, http_conn *c)
{
    http_server *s = sh->server;
    c->next = NULL;
    py_acquire(&sh->lock);
    *sh->last = c;
    sh->last = &c->next;
    RT_COUNT(sh->nqueued, 1);
    bool ask = RT_LOAD(sh->asked_at) == 0;
    if (ask)
        RT_STORE(sh->asked_at, rt_nanotime());
    py_release(&sh->lock);
    if (ask) {
        Py_INCREF(s);
        if (py_g_spawn_c(sh->mp, take_main, py_g_run_at_once, sh) < 0) {
            PyErr_Clear();
            Py_DECREF(s);
            RT_STORE(sh->asked_at, 0);
            http_shard_forget(sh);
            return;
        }
    }
    if (!rt_timer_started(&s->recall)) {
        py_m *mp = RT_LOAD(s->mp);
        s->recall.when = rt_nanotime() + RECALL_AFTER;
        if (rt_timers_start(&mp->p.timers, &s->recall) == 0)
            Py_INCREF(s);
    }
}

void
http_shard_place(http_conn *c)
{
    http_server *s = c->server;
    http_shard *sh = choose(s);
    c->shard = sh;
    if (RT_LIKELY(sh->mp == RT_LOAD(s->mp)))
        http_conn_open(c);
    else
        hand_over(sh, c);
}

void
http_shard_recall(rt_timer *t)
{
    http_server *s = RT_CONTAINER_OF(t, http_server, recall);
    int64_t now = rt_nanotime();
    bool waiting = false;
    http_conn *found = NULL, **last = &found;
    for (uint32_t id = 0; id <= RT_SPARE_P; id++) {
        http_shard *sh = RT_LOAD(s->shards[id]);
        if (sh == NULL || RT_LOAD(sh->nqueued) == 0)
            continue;
        if (overdue(sh, now))
            for (*last = take_queue(sh); *last != NULL; last = &(*last)->next)
                ;
        else
            waiting = true;
    }
    for (http_conn *c = found, *next; c != NULL; c = next) {
        next = c->next;
        http_shard_place(c);
        waiting = true;
    }
    if (waiting && !rt_timer_started(t)) {
        t->when = now + RECALL_AFTER;
        if (rt_timers_start(&RT_LOAD(s->mp)->p.timers, t) == 0)
            return;             /* it keeps its reference */
    }
    Py_DECREF(s);
}
