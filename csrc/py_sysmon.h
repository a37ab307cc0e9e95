/* py_sysmon.h - sysmon's Python side, and what it uses of preemption, stall reports and
 * scheduler traces.  Unless said otherwise, called by sysmon's thread. */
#ifndef PY_SYSMON_H
#define PY_SYSMON_H

#include "py_core.h"

/* ---- py_sysmon.c ---- */

#define PY_KEEPS_GIL (20 * 1000000)     /* ns of waiting for the GIL that tell that a call
                                           keeps it: it is handed over every 5 ms */
#define PY_OTHERS INT64_MIN
#define PY_NO_MEMORY (INT64_MIN + 1)

/* Have the right to touch Python; mp, which it is about, need not finish its 5 ms with
   the GIL (NULL: it may).  Returns the ns that took, PY_OTHERS where that was long and
   not mp had the GIL, or PY_NO_MEMORY: then nothing is done. */
int64_t py_sysmon_attach(py_m *mp);
void py_sysmon_detach(void);
/* Does mp run what sysmon's last look saw?  Called attached. */
bool py_sysmon_same_run(py_m *mp);
/* To stderr past sys.stderr, whose locks the goroutine may hold that this is about. */
void py_write_stderr(const char *text, size_t len);

/* ---- py_preempt.c ---- */

/* Ask mp in the way that needs no GIL.  False: there is none, or it was in vain. */
bool py_preempt_raise(py_m *mp);
/* Ask mp.  Called attached, as is py_preempt_withdraw(). */
void py_preempt_ask(py_m *mp);
/* Do others pay while mp is asked? */
bool py_preempt_must_withdraw(py_m *mp);
void py_preempt_withdraw(py_m *mp);
/* When there is no sysmon any more; by the main thread. */
void py_preempt_end(void);
void py_preempt_after_fork(void);

/* ---- py_stall.c ---- */

/* mp is asked: remember what is compared when it comes to a report. */
void py_stall_note_cpu_time(py_m *mp);
/* Report mp, which others have waited for ns for, waited of them while sysmon waited for
   the GIL.  Called attached; detaches, because writing may block. */
void py_stall_report(py_m *mp, int64_t ns, int64_t waited);
/* For rt_sysmon_host. */
bool py_stall_seen(rt_p *pp, int64_t ns);

/* ---- py_schedtrace.c ---- */

void py_schedtrace(void);

#endif
