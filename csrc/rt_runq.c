/* rt_runq.c - see rt_runq.h for what the queues are.
 *
 * The ring follows the classic bounded single-producer work-stealing queue:
 * head and tail are free-running 32-bit counters, the slot is counter modulo the
 * capacity, and tail - head is the length (at most the capacity, so the
 * counters may wrap).  A consumer reads slots first and then claims them by
 * moving head with a CAS; if the CAS fails, what it read is thrown away.  The
 * rejected alternative, a deque with LIFO owner access, starves old goroutines.
 */
#include "rt_runq.h"

#include <stdio.h>
#include <stdlib.h>

void
rt_throw(const char *msg)
{
    fprintf(stderr, "gosched: fatal error: %s\n", msg);
    fflush(stderr);
    abort();
}

static inline rt_glink *
link_of(rt_g *gp)
{
    return (rt_glink *)gp;
}

void
rt_glist_push(rt_glist *l, rt_g *gp)
{
    link_of(gp)->next = NULL;
    if (l->tail != NULL)
        link_of(l->tail)->next = gp;
    else
        l->head = gp;
    l->tail = gp;
    RT_COUNT(l->len, 1);
}

rt_g *
rt_glist_pop(rt_glist *l)
{
    rt_g *gp = l->head;
    if (gp != NULL) {
        l->head = link_of(gp)->next;
        if (l->head == NULL)
            l->tail = NULL;
        RT_STORE(l->len, RT_LOAD(l->len) - 1);
        link_of(gp)->next = NULL;
    }
    return gp;
}

void
rt_glist_append(rt_glist *l, rt_glist *more)
{
    if (more->head == NULL)
        return;
    if (l->tail != NULL)
        link_of(l->tail)->next = more->head;
    else
        l->head = more->head;
    l->tail = more->tail;
    RT_COUNT(l->len, RT_LOAD(more->len));
    more->head = more->tail = NULL;
    RT_STORE(more->len, 0);
}

static inline _Atomic(rt_g *) *
slot_of(rt_runq *q, uint32_t i)
{
    return &q->slots[i & (RT_RUNQ_CAP - 1)];
}

bool
rt_runq_put(rt_runq *q, rt_g *gp)
{
    /* Acquire pairs with the release of a consumer's CAS: the slot is free. */
    uint32_t h = atomic_load_explicit(&q->head, memory_order_acquire);
    uint32_t t = atomic_load_explicit(&q->tail, memory_order_relaxed);
    if (t - h >= RT_RUNQ_CAP)
        return false;
    atomic_store_explicit(slot_of(q, t), gp, memory_order_relaxed);
    /* Release publishes the slot (and *gp) to thieves' acquire of tail. */
    atomic_store_explicit(&q->tail, t + 1, memory_order_release);
    return true;
}

rt_g *
rt_runq_get(rt_runq *q)
{
    for (;;) {
        uint32_t h = atomic_load_explicit(&q->head, memory_order_acquire);
        uint32_t t = atomic_load_explicit(&q->tail, memory_order_relaxed);
        if (t == h)
            return NULL;
        rt_g *gp = atomic_load_explicit(slot_of(q, h), memory_order_relaxed);
        /* Release: our read of the slot comes before the owner reuses it. */
        if (atomic_compare_exchange_strong_explicit(
                &q->head, &h, h + 1, memory_order_acq_rel, memory_order_relaxed))
            return gp;
    }
}

uint32_t
rt_runq_get_half(rt_runq *q, rt_glist *out)
{
    rt_g *batch[RT_RUNQ_CAP / 2];
    uint32_t h = atomic_load_explicit(&q->head, memory_order_acquire);
    uint32_t t = atomic_load_explicit(&q->tail, memory_order_relaxed);
    uint32_t n = (t - h) / 2;
    if (n != RT_RUNQ_CAP / 2)
        return 0;
    for (uint32_t i = 0; i < n; i++)
        batch[i] = atomic_load_explicit(slot_of(q, h + i), memory_order_relaxed);
    if (!atomic_compare_exchange_strong_explicit(
            &q->head, &h, h + n, memory_order_acq_rel, memory_order_relaxed))
        return 0;
    for (uint32_t i = 0; i < n; i++)
        rt_glist_push(out, batch[i]);
    return n;
}

rt_g *
rt_runq_steal(rt_runq *from, rt_runq *to)
{
    uint32_t t2 = atomic_load_explicit(&to->tail, memory_order_relaxed);
    for (;;) {
        uint32_t h = atomic_load_explicit(&from->head, memory_order_acquire);
        /* Acquire pairs with the owner's release in put: slots are visible. */
        uint32_t t = atomic_load_explicit(&from->tail, memory_order_acquire);
        uint32_t n = t - h;
        n -= n / 2;
        if (n == 0)
            return NULL;
        if (n > RT_RUNQ_CAP / 2)    /* head and tail were read at different times */
            continue;
        rt_g *first = atomic_load_explicit(slot_of(from, h), memory_order_relaxed);
        for (uint32_t i = 1; i < n; i++) {
            rt_g *gp = atomic_load_explicit(slot_of(from, h + i), memory_order_relaxed);
            atomic_store_explicit(slot_of(to, t2 + i - 1), gp, memory_order_relaxed);
        }
        if (atomic_compare_exchange_strong_explicit(
                &from->head, &h, h + n, memory_order_acq_rel, memory_order_relaxed)) {
            RT_YIELD_POINT();
            if (n > 1)
                atomic_store_explicit(&to->tail, t2 + n - 1, memory_order_release);
            return first;
        }
    }
}

uint32_t
rt_runq_len(const rt_runq *q)
{
    uint32_t h = atomic_load_explicit(&q->head, memory_order_acquire);
    uint32_t t = atomic_load_explicit(&q->tail, memory_order_acquire);
    uint32_t n = t - h;
    return n <= RT_RUNQ_CAP ? n : 0;
}

bool
rt_inbox_put(rt_inbox *in, rt_g *gp)
{
    rt_g *top = atomic_load_explicit(&in->top, memory_order_relaxed);
    do {
        link_of(gp)->next = top;
        /* seq_cst: ordered against the consumer's "I sleep" flag, which the
           caller reads next (see rt_sched.h). */
    } while (!atomic_compare_exchange_weak_explicit(
        &in->top, &top, gp, memory_order_seq_cst, memory_order_relaxed));
    return top == NULL;
}

uint32_t
rt_inbox_take(rt_inbox *in, rt_glist *out)
{
    /* Acquire pairs with the producers' CAS. */
    rt_g *gp = atomic_exchange_explicit(&in->top, NULL, memory_order_acquire);
    rt_g *head = NULL, *tail = gp;
    uint32_t n = 0;
    while (gp != NULL) {
        rt_g *next = link_of(gp)->next;
        link_of(gp)->next = head;
        head = gp;
        gp = next;
        n++;
    }
    if (n != 0) {
        rt_glist batch = {head, tail, n};
        rt_glist_append(out, &batch);
    }
    return n;
}

bool
rt_inbox_empty(const rt_inbox *in)
{
    return atomic_load_explicit(&in->top, memory_order_seq_cst) == NULL;
}

void
rt_globq_init(rt_globq *q)
{
    pthread_mutex_init(&q->lock, NULL);
    q->list = (rt_glist){0};
    atomic_init(&q->len, 0);
}

void
rt_globq_put(rt_globq *q, rt_glist *batch)
{
    pthread_mutex_lock(&q->lock);
    rt_glist_append(&q->list, batch);
    atomic_store_explicit(&q->len, RT_LOAD(q->list.len), memory_order_seq_cst);
    pthread_mutex_unlock(&q->lock);
}

uint32_t
rt_globq_get(rt_globq *q, rt_glist *out, uint32_t max)
{
    if (atomic_load_explicit(&q->len, memory_order_relaxed) == 0)
        return 0;
    uint32_t n = 0;
    pthread_mutex_lock(&q->lock);
    for (; n < max && q->list.head != NULL; n++)
        rt_glist_push(out, rt_glist_pop(&q->list));
    atomic_store_explicit(&q->len, RT_LOAD(q->list.len), memory_order_relaxed);
    pthread_mutex_unlock(&q->lock);
    return n;
}

uint32_t
rt_globq_move(rt_globq *q, rt_runq *to, uint32_t max)
{
    if (atomic_load_explicit(&q->len, memory_order_relaxed) == 0)
        return 0;
    uint32_t n = 0, room = RT_RUNQ_CAP - rt_runq_len(to);
    if (max > room)
        max = room;
    pthread_mutex_lock(&q->lock);
    for (; n < max && q->list.head != NULL; n++)
        rt_runq_put(to, rt_glist_pop(&q->list));
    RT_YIELD_POINT();
    /* Release: an M about to sleep looks here first, then at the rings. */
    atomic_store_explicit(&q->len, RT_LOAD(q->list.len), memory_order_release);
    pthread_mutex_unlock(&q->lock);
    return n;
}
