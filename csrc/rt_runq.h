/* rt_runq.h - the queues that goroutines wait in to run.
 *
 *   rt_glist   intrusive FIFO list, no locking; one owner
 *   rt_runq    bounded ring of *fresh* goroutines of one P: the owner puts at the
 *              tail and takes from the head, any other P may steal from the head
 *   rt_inbox   wake-ups for pinned goroutines from other threads: many producers,
 *              one consumer (the P's M)
 *   rt_globq   the global queue: a list under a lock
 *
 * A goroutine is in at most one of them, so lists link through g->schedlink and
 * nothing here allocates.  Each queue owns one reference of each goroutine in it;
 * put takes the caller's, get and steal hand it on.
 */
#ifndef RT_RUNQ_H
#define RT_RUNQ_H

#include <pthread.h>

#include "rt_base.h"

/* Tests shrink it, so that wrap-around and overflow happen.  A power of two. */
#ifndef RT_RUNQ_CAP
#define RT_RUNQ_CAP 256
#endif

typedef struct rt_g rt_g;

/* The part of a goroutine that queues touch: first member of every rt_g. */
typedef struct {
    rt_g *next;                 /* owned by the queue that holds the goroutine */
} rt_glink;

typedef struct {
    rt_g *head, *tail;
    _Atomic uint32_t len;       /* written by the owner; a hint for others */
} rt_glist;

void rt_glist_push(rt_glist *l, rt_g *gp);         /* at the tail */
rt_g *rt_glist_pop(rt_glist *l);                   /* from the head, or NULL */
void rt_glist_append(rt_glist *l, rt_glist *more); /* empties more */

typedef struct {
    _Atomic uint32_t head;      /* next to take; owner and thieves, by CAS */
    _Atomic uint32_t tail;      /* next free slot; written by the owner only */
    _Atomic(rt_g *) slots[RT_RUNQ_CAP];
} rt_runq;

/* Put gp at the tail; false if the ring is full.  Owner only. */
bool rt_runq_put(rt_runq *q, rt_g *gp);
/* Take from the head, or NULL.  Owner only. */
rt_g *rt_runq_get(rt_runq *q);
/* Move half of a full ring into *out (overflow).  Owner only.  Returns how many;
   0 when thieves made room meanwhile. */
uint32_t rt_runq_get_half(rt_runq *q, rt_glist *out);
/* Steal half of `from` into the thief's own ring `to`, which must be empty, and
   return one of them, the oldest; NULL if there was nothing.  Any thread. */
rt_g *rt_runq_steal(rt_runq *from, rt_runq *to);
uint32_t rt_runq_len(const rt_runq *q);

typedef struct {
    _Atomic(rt_g *) top;        /* newest first */
} rt_inbox;

/* Any thread.  True if the inbox was empty: the consumer may need a wake-up. */
bool rt_inbox_put(rt_inbox *in, rt_g *gp);
/* Append all to *out, oldest first; returns how many.  Consumer only. */
uint32_t rt_inbox_take(rt_inbox *in, rt_glist *out);
bool rt_inbox_empty(const rt_inbox *in);

typedef struct {
    pthread_mutex_t lock;
    rt_glist list;              /* guarded by lock */
    _Atomic uint32_t len;       /* copy of list.len; read without the lock as a hint */
} rt_globq;

void rt_globq_init(rt_globq *q);
void rt_globq_put(rt_globq *q, rt_glist *batch);   /* empties batch */
/* Take up to max into *out; returns how many. */
uint32_t rt_globq_get(rt_globq *q, rt_glist *out, uint32_t max);
/* Move up to max, and as many as there is room for, to the caller's own ring; returns how
   many.  Whoever finds the queue shorter finds them in the ring. */
uint32_t rt_globq_move(rt_globq *q, rt_runq *to, uint32_t max);

#endif
