/* py_preempt.h - the state of sysmon's Python side, and what others use of it: see
 * py_sysmon.c (its thread), py_preempt.c, py_stall.c and py_schedtrace.c. */
#ifndef PY_PREEMPT_H
#define PY_PREEMPT_H

#include "py_frames.h"
#include "rt_base.h"

typedef struct py_m py_m;

#define PY_STALL_SITES 64

/* In py_core.  Set at start-up, and under the GIL, unless said otherwise. */
typedef struct {
    py_zones zones;
    bool off;                   /* GOSCHED_PREEMPT=0 */
    bool check_waits;           /* GOSCHED_CHECK_WAITS=1 */
    bool leaving;               /* the process ends: there will be no sysmon any more */
    bool trace_detail;          /* GOSCHED_TRACE=scheddetail=1 */
    int64_t started;            /* when the module was loaded */
    PyObject *report;           /* owned: runtime._preempt.stall_report */
    PyObject *guard;            /* owned: what nopreempt() returns */
    PyTypeObject *token_type;   /* owned; free-threaded builds */
    /* sys.monitoring, 3.12 and newer. */
    int tool;                   /* our tool id, or -1 */
    bool tool_ready;            /* and all is set up for it */
    PyObject *set_events;       /* owned */
    PyObject *disable;          /* owned: sys.monitoring.DISABLE */
    PyObject *args_on, *args_off;           /* owned: set_events' arguments */
    _Atomic int armed;          /* Ms with asked_by_event */
    struct {                    /* sysmon's: where stalls were reported, and when */
        Py_hash_t site;
        int64_t when;
    } sites[PY_STALL_SITES];
} py_preempt_state;

/* In py_m. */
typedef struct {
    _Atomic bool by_signal;     /* SIGURG was raised for it and has not been handled */
    _Atomic bool by_event;      /* the next event of its thread makes it yield */
#if PY_VERSION_HEX < 0x030C0000
    const void *traced;         /* frame of the line event before, to compare; or NULL */
    int traced_lasti;           /* where in its code that was */
#endif
    _Atomic uint32_t tick;      /* of the P when it was asked last: whom it concerns */
#ifdef Py_GIL_DISABLED
    PyObject *_Atomic token;    /* owned: the next one to drop, or NULL */
    _Atomic bool by_token;      /* one was dropped and has not come back */
    int64_t cpu;                /* ns of processor time it had used when first asked */
    uint32_t cpu_tick;          /* in the tick of the P before this one, so that 0 is none;
                                   both are sysmon's */
#endif
    int64_t reported;           /* when its last stall was reported; sysmon's */
} py_preempt_m;

void py_sysmon_init(void);
int py_preempt_init(PyObject *module);
/* On its own thread, before it runs anything. */
void py_preempt_m_init(py_m *mp);
/* In a trace function or monitoring callback: why the goroutine that runs on mp, the caller's
   M, must not be left now; NULL: it may be. */
const char *py_preempt_pinned(py_m *mp);
/* mp runs Python code: sysmon need not think that it is stuck. */
void py_preempt_beat(py_m *mp);
/* A goroutine was made: start sysmon, or wake it. */
void py_sysmon_kick(void);
/* At exit.  Releases the GIL. */
void py_sysmon_stop(void);
void py_sysmon_after_fork(void);

#endif
