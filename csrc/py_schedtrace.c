/* py_schedtrace.c - GOSCHED_TRACE=schedtrace=MS,scheddetail=1: lines about the scheduler's state.
 *
 * One line is written without the GIL, from numbers that may be a little old.  The
 * details need it for the list of goroutines.
 */
#include "py_inspect.h"
#include "py_sysmon.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define PRE (&core->preempt)

typedef struct {
    char *text;                 /* by malloc() */
    size_t len, cap;
} trace_buf;

static void __attribute__((format(printf, 2, 3)))
put(trace_buf *b, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1;
    if (b->len + len > b->cap) {
        size_t cap = (b->len + len) * 2 + 4096;
        char *text = realloc(b->text, cap);
        if (text == NULL)
            return;
        b->text = text;
        b->cap = cap;
    }
    memcpy(b->text + b->len, line, len);
    b->len += len;
}

static void
put_summary(trace_buf *b)
{
    uint32_t idle = 0, sleeping = 0, threads = 1;
    py_m *mp;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++) {
        threads++;
        if (atomic_load(&mp->p.sleeping) == RT_AWAKE)
            continue;
        sleeping++;
        idle += RT_LOAD(mp->p.mode) == RT_P_OPEN;
    }
    put(b, "SCHED %lldms: gomaxprocs=%u idleprocs=%u threads=%u spinningthreads=%d "
        "idlethreads=%u runqueue=%u [", (long long)(rt_nanotime() - PRE->started) / 1000000,
        RT_LOAD(core->sched.nprocs), idle, threads, RT_LOAD(core->sched.nspinning), sleeping,
        RT_LOAD(core->sched.global.len));
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++)
        put(b, i == 0 ? "%u" : " %u", py_runq_len(&mp->p));
    put(b, "]\n");
}

/* As in Go: 1 runnable, 2 running, 4 waiting. */
static void
put_g(trace_buf *b, const py_g_info *info, int m)
{
    const char *reason = info->state == RT_G_WAITING ? py_wait_reason(info->reason) : "";
    put(b, "  G%lld: status=%d(%s) m=", (long long)info->id,
        info->state == RT_G_WAITING ? 4 : info->state == RT_G_RUNNING ? 2 : 1, reason);
    if (m < 0)
        put(b, "nil lockedm=nil\n");
    else if (info->locked)
        put(b, "%d lockedm=%d\n", m, m);
    else
        put(b, "%d lockedm=nil\n", m);
}

static void
put_details(trace_buf *b, const py_g_info *gs, size_t n)
{
    py_m *mp;
    for (int m = 0; (mp = py_each_m((uint32_t)m)) != NULL; m++) {
        rt_p *pp = &mp->p;
        put(b, "  P%u: status=%d schedtick=%llu m=%d runqsize=%u timerslen=%u descriptors=%u "
            "polls=%llu preemptions=%llu\n", pp->id, atomic_load(&pp->sleeping) == RT_AWAKE,
            (unsigned long long)RT_LOAD(pp->count.ticks), m, py_runq_len(pp),
            PY_PEEK(pp->timers.len) + PY_PEEK(pp->alarms.heap.len), PY_PEEK(pp->npd), (unsigned long long)RT_LOAD(pp->count.polls),
            (unsigned long long)RT_LOAD(pp->count.preemptions));
    }
    for (int m = 0; (mp = py_each_m((uint32_t)m)) != NULL; m++) {
        long long curg = 0;
        for (size_t i = 0; i < n && curg == 0; i++)
            if (gs[i].state == RT_G_RUNNING && gs[i].p == (int32_t)mp->p.id)
                curg = gs[i].id;
        put(b, "  M%d: p=%u curg=", m, mp->p.id);
        if (curg != 0)
            put(b, "%lld", curg);
        else
            put(b, "nil");
        put(b, " spinning=%s blocked=%s idleworkers=%u\n", PY_PEEK(mp->p.spinning) ? "true" : "false",
            atomic_load(&mp->p.sleeping) == RT_SLEEPING ? "true" : "false", PY_PEEK(mp->nidle));
    }
    for (size_t i = 0; i < n; i++) {
        int m = -1;
        for (int at = 0; gs[i].p >= 0 && (mp = py_each_m((uint32_t)at)) != NULL; at++)
            if (gs[i].p == (int32_t)mp->p.id)
                m = at;
        put_g(b, &gs[i], m);
    }
}

void
py_schedtrace(void)
{
    trace_buf b = {0};
    put_summary(&b);
    if (PRE->trace_detail && py_sysmon_attach(NULL) != PY_NO_MEMORY) {
        py_g_info *gs = NULL;
        size_t n = 0;
        if (py_snapshot(&gs, &n) < 0)
            PyErr_Clear();
        put_details(&b, gs, n);
        py_snapshot_free(gs, n);
        py_sysmon_detach();
    }
    py_write_stderr(b.text, b.len);
    free(b.text);
}
