/* py_explore.h - goroutines that run one at a time, in an order drawn by a seed.
 *
 * The goroutines of a bubble that explores are *held*: when one becomes runnable it goes
 * into the explorer's pool instead of its P's queues.  At most one at a time, the *active*
 * one, runs or is in those queues.  When it stops, or at a point where it may be made to,
 * the explorer draws the next from the pool.  So what happens depends on nothing but the
 * seed and the program, whatever else runs on the same M.
 */
#ifndef PY_EXPLORE_H
#define PY_EXPLORE_H

#include "py_bubble.h"

enum {                          /* why the active goroutine stops */
    PY_STOP_WAITS, PY_STOP_YIELDS, PY_STOP_PREEMPTED, PY_STOP_ENDS
};

enum {                          /* where a goroutine may be preempted */
    PY_POINTS_NONE, PY_POINTS_LINE, PY_POINTS_OPCODE
};

/* ---- py_points.c: where it may be preempted ---- */

int py_points_init(PyObject *module);
/* A held goroutine of mp, the caller's M, begins to run or goes on, or stops: in between it calls
   py_explore_point(). */
void py_points_enter(py_m *mp);
void py_points_leave(py_m *mp);
/* No held goroutine of mp runs any more. */
void py_points_over(py_m *mp);

/* ---- py_explore.c: which goroutine runs ---- */

int py_explore_init_types(PyObject *module);
/* gp (borrowed) begins its life in ex's bubble: it is held, and numbered, unless there is no
   room for more. */
void py_explore_add(py_explorer *ex, Goroutine *gp);
/* The goroutines that were added, in that order. */
uint32_t py_explore_count(const py_explorer *ex);
Goroutine *py_explore_goroutine(const py_explorer *ex, uint32_t i);
/* ex's goroutines are to run on mp. */
void py_explore_begin(py_explorer *ex, py_m *mp);
/* gp, which is held, is runnable; on its M. */
void py_explore_ready(Goroutine *gp);
/* host.hold of the scheduler: the same, of one that was woken. */
void py_explore_hold(rt_g *gp, bool inbox);
/* What timers have made runnable may go on. */
void py_explore_go_on(py_explorer *ex);
/* gp, the active goroutine and the caller, stops.  Unless it ends it calls py_explore_resume()
   when it goes on. */
void py_explore_stop(py_m *mp, Goroutine *gp, int how);
static inline void
py_explore_resume(py_m *mp)
{
    py_points_enter(mp);
}
/* The active goroutine is at a point: it may be made to wait for its turn.  -1 with an
   exception set: it shall end. */
int py_explore_point(py_m *mp);
/* For gp's own choices, as those of select: below n. */
uint32_t py_explore_random(Goroutine *gp, uint32_t n);

#endif
