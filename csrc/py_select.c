/* py_select.c - select: wait for the first of several channel operations.
 *
 * First all cases are tried in random order, each under its channel's lock, and nobody can
 * tell that the caller waits: select_now().  If none can go on, the caller arms its park and
 * queues a waiter for each case: select_wait().  Whoever claims the park there has chosen
 * the case, and shows it by the waiter's value: a sender leaves one, a receiver takes it.
 *
 * Locks are taken one at a time, so a case that was tried may have become ready by when the
 * next one is queued: hence each is looked at again as it is queued.  If one is ready the
 * caller takes its park back, leaves all queues, and begins anew.  It never claims
 * another's park while its own may be claimed, so two selects that face each other
 * cannot both wait for, or both hand a value to, the other.  Go locks all channels, in the
 * order of their addresses; here no lock is held while another is taken.
 *
 * With default=True nobody waits, and nothing may be overlooked either: one who sends to one
 * channel, and only then takes from another, leaves no moment when both are empty.  So the
 * channels count when they may have become ready, and if one has meanwhile, all are tried
 * once more.  With a GIL nothing happens meanwhile.
 *
 * While its park is taken back others cannot claim it and drop its waiters from their
 * queues, as they do with those that are served elsewhere.  That is made up for by trying all
 * cases again.  Two selects may do this to each other in lockstep for a few rounds, and
 * fall out of step by waiting at random.
 */
#include "py_bubble.h"
#include "py_chan.h"
#include "py_explore.h"
#include "py_wait.h"
#include "py_waits.h"

#include <structmember.h>

/* ---- cases ---- */

typedef struct {
    PyObject_HEAD
    Chan *ch;                   /* owned; NULL: never ready */
    PyObject *value;            /* owned, to send; NULL: receive */
} Case;

/* Cases that were freed, for the next ones.  Without a GIL that would take a lock. */
static inline Case *
case_alloc(void)
{
#ifndef Py_GIL_DISABLED
    if (RT_LIKELY(core->nfree_cases > 0)) {
        PyObject *c = core->free_cases[--core->nfree_cases];
        return (Case *)PyObject_Init(c, core->case_type);
    }
#endif
    return PyObject_GC_New(Case, core->case_type);
}

static inline void
case_free(Case *c)
{
#ifndef Py_GIL_DISABLED
    if (RT_LIKELY(core->nfree_cases < RT_ARRAY_LEN(core->free_cases))) {
        core->free_cases[core->nfree_cases++] = (PyObject *)c;
        return;
    }
#endif
    PyObject_GC_Del(c);
}

static PyObject *
case_new(Chan *ch, PyObject *value)
{
    Case *c = case_alloc();
    if (RT_UNLIKELY(c == NULL))
        return NULL;
    c->ch = (Chan *)Py_XNewRef(ch);
    c->value = Py_XNewRef(value);
    PyObject_GC_Track(c);
    return (PyObject *)c;
}

static PyObject *
m_recv(PyObject *Py_UNUSED(module), PyObject *op)
{
    Chan *ch = py_chan_to_recv(op);
    if (RT_LIKELY(ch != NULL || op == Py_None))
        return case_new(ch, NULL);
    PyErr_Format(PyExc_TypeError, "recv(ch): ch must be a Chan, a Receiver or None, not %.200s",
                 Py_TYPE(op)->tp_name);
    return NULL;
}

static PyObject *
m_send(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (RT_UNLIKELY(nargs != 2)) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: send(ch, value)");
        return NULL;
    }
    Chan *ch = py_chan_to_send(args[0]);
    if (RT_LIKELY(ch != NULL || args[0] == Py_None))
        return case_new(ch, args[1]);
    PyErr_Format(PyExc_TypeError,
                 "send(ch, value): ch must be a Chan, a Sender or None, not %.200s",
                 Py_TYPE(args[0])->tp_name);
    return NULL;
}

static PyObject *
case_repr(Case *c)
{
    PyObject *ch = c->ch != NULL ? (PyObject *)c->ch : Py_None;
    if (c->value == NULL)
        return PyUnicode_FromFormat("recv(%R)", ch);
    return PyUnicode_FromFormat("send(%R, %R)", ch, c->value);
}

static int
case_traverse(Case *c, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(c));
    Py_VISIT(c->ch);
    Py_VISIT(c->value);
    return 0;
}

/* No tp_clear: a case never changes, and what makes a cycle with it can be cleared. */
static void
case_dealloc(Case *c)
{
    PyTypeObject *type = Py_TYPE(c);
    PyObject_GC_UnTrack(c);
    Py_TRASHCAN_BEGIN(c, case_dealloc)
    Py_XDECREF(c->ch);
    Py_XDECREF(c->value);
    case_free(c);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyMethodDef case_methods[] = {
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, "Case[T], for type checkers."},
    {0},
};
static PyType_Slot case_slots[] = {
    {Py_tp_dealloc, case_dealloc},
    {Py_tp_traverse, case_traverse},
    {Py_tp_methods, case_methods},
    {Py_tp_repr, case_repr},
    {Py_tp_doc, "A case of select(), made by recv() or send().  It may be used again."},
    {0, NULL},
};
static PyType_Spec case_spec = {
    "runtime.Case", sizeof(Case), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
        | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    case_slots};

/* ---- results ---- */

/* (-1, None, False).  Made before anything is received: without memory no value is lost.  Not a structseq: those look up their length in a dict whenever one is
   made or freed. */
static PyObject *
new_result(void)
{
    PyTupleObject *t = PyObject_GC_NewVar(PyTupleObject, core->selected_type, 3);
    if (RT_UNLIKELY(t == NULL))
        return NULL;
#if PY_VERSION_HEX >= 0x030E0000
    t->ob_hash = -1;
#endif
    t->ob_item[0] = PyLong_FromLong(-1);        /* a small one, which exists */
    t->ob_item[1] = Py_NewRef(Py_None);
    t->ob_item[2] = Py_NewRef(Py_False);
    PyObject_GC_Track(t);
    return (PyObject *)t;
}

/* index is stolen. */
static inline void
set_index(PyObject *result, PyObject *index)
{
    PyObject *old = PyTuple_GET_ITEM(result, 0);
    PyTuple_SET_ITEM(result, 0, index);
    Py_DECREF(old);
}

/* value (stolen) was received, or NULL: sent. */
static inline void
set_done(PyObject *result, PyObject *value)
{
    if (value != NULL) {
        PyTuple_SET_ITEM(result, 1, value);
        Py_DECREF(Py_None);
    }
    PyTuple_SET_ITEM(result, 2, Py_NewRef(Py_True));
    Py_DECREF(Py_False);
}

static PyObject *
selected_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *t = PyTuple_Type.tp_new(type, args, kwargs);
    if (t != NULL && PyTuple_GET_SIZE(t) != 3) {
        PyErr_Format(PyExc_ValueError, "Selected(): three items make one, not %zd",
                     PyTuple_GET_SIZE(t));
        Py_CLEAR(t);
    }
    return t;
}

static PyObject *
selected_repr(PyObject *t)
{
    return PyUnicode_FromFormat("Selected(index=%R, value=%R, ok=%R)", PyTuple_GET_ITEM(t, 0),
                                PyTuple_GET_ITEM(t, 1), PyTuple_GET_ITEM(t, 2));
}

static int
selected_traverse(PyObject *t, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(t));
    return PyTuple_Type.tp_traverse(t, visit, arg);
}

/* No tp_clear, as tuples have none. */
static void
selected_dealloc(PyTupleObject *t)
{
    PyTypeObject *type = Py_TYPE(t);
    PyObject_GC_UnTrack(t);
    Py_TRASHCAN_BEGIN(t, selected_dealloc)
    for (Py_ssize_t i = 0; i < Py_SIZE(t); i++)
        Py_XDECREF(t->ob_item[i]);
    PyObject_GC_Del(t);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

#define ITEM(i) T_OBJECT_EX, offsetof(PyTupleObject, ob_item) + (i) * sizeof(PyObject *), READONLY
static PyMemberDef selected_members[] = {
    {"index", ITEM(0), "Which case it was, from 0; -1: none, with default=True."},
    {"value", ITEM(1), "What was received; else None."},
    {"ok", ITEM(2), "False if the channel is closed and drained, or no case was ready."},
    {0},
};
static PyType_Slot selected_slots[] = {
    {Py_tp_base, &PyTuple_Type},
    {Py_tp_traverse, selected_traverse},
    {Py_tp_new, selected_new},
    {Py_tp_dealloc, selected_dealloc},
    {Py_tp_members, selected_members},
    {Py_tp_repr, selected_repr},
    {Py_tp_doc,
     "Selected(iterable=(), /)\n--\n\n"
     "What select() did: (index, value, ok).\n\n"
     "    match select(recv(a), send(b, 1)):\n"
     "        case (0, value, True): ...\n"
     "        case (1, _, _): ..."},
    {0, NULL},
};
static PyType_Spec selected_spec = {
    "runtime.Selected", 0, 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, selected_slots};

/* ---- trying ---- */

uint32_t
py_random(uint32_t n)
{
    py_m *mp = py_tls_m;
    if (RT_UNLIKELY(mp != NULL && mp->p.nbubbles != 0 && mp->curg != NULL && mp->curg->g.held))
        return py_explore_random(mp->curg, n);
    uint32_t x = mp != NULL ? mp->seed : RT_LOAD(core->seed);
    if (RT_UNLIKELY(x == 0))
        x = (uint32_t)rt_nanotime() | 1;
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    if (RT_LIKELY(mp != NULL))
        mp->seed = x;
    else
        RT_STORE(core->seed, x);
    return (uint32_t)((uint64_t)x * n >> 32);
}

/* Do the case, if that needs no waiting: 1 done, 0 it would block, -1 closed for sending, -2
   no memory (no exception set).  Receiving None because it is closed is done, too. */
static inline int
try_case(const Case *c, PyObject *result)
{
    Chan *ch = c->ch;
    if (ch == NULL)
        return 0;
    PyObject *value = NULL;
    py_waiter *served;
    py_acquire(&ch->lock);
    int r = c->value != NULL ? py_chan_send_now(ch, c->value, &served)
                             : py_chan_recv_now(ch, &value, &served);
    bool direct = c->value != NULL || ch->capacity == 0;
    py_release(&ch->lock);
    if (served != NULL)
        py_ready(served->g, direct);
    if (r > 0)
        set_done(result, value);
    return r == -1 && c->value == NULL ? 1 : r;
}

#define ORDER_INLINE 64

/* Do one of the cases that need no waiting, each as likely as the others: 1; 0 there is none;
   -1 with an exception set. */
static RT_NOINLINE int
select_now(PyObject *const *cases, uint32_t n, PyObject *result)
{
    uint32_t inlined[ORDER_INLINE], *order = inlined;
    if (n > ORDER_INLINE && (order = PyMem_Malloc(n * sizeof(*order))) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    int r = 0;
    for (uint32_t left = n; left > 0 && r == 0; left--) {
        uint32_t k = left > 1 ? py_random(left) : 0, i = order[k];
        order[k] = order[left - 1];
        PyObject *index = PyLong_FromSsize_t(i);
        if (RT_UNLIKELY(index == NULL)) {
            r = -1;
            break;
        }
        r = try_case((Case *)cases[i], result);
        if (r > 0)
            set_index(result, index);
        else {
            Py_DECREF(index);
            if (r == -1)
                PyErr_Format(core->exc_closed, "select(): send on a closed channel (case %u)", i);
            else if (r == -2)
                PyErr_NoMemory();
        }
    }
    if (order != inlined)
        PyMem_Free(order);
    return r;
}

#ifdef Py_GIL_DISABLED
/* Grows whenever one of the channels may have become ready. */
static uint64_t
count_changes(PyObject *const *cases, uint32_t n)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        Chan *ch = ((Case *)cases[i])->ch;
        if (ch != NULL)
            sum += RT_LOAD(ch->changes);
    }
    return sum;
}

/* As select_now(), and 0 means that there was a moment when no case could go on. */
static int
select_at_once(PyObject *const *cases, uint32_t n, PyObject *result)
{
    int r;
    uint64_t changes;
    do {
        changes = count_changes(cases, n);
        r = select_now(cases, n, result);
    } while (r == 0 && n > 1 && count_changes(cases, n) != changes);
    return r;
}
#else
#define select_at_once select_now
#endif

/* ---- waiting ---- */

typedef struct {
    py_waiter waiter;           /* its value: to send and not taken yet, or received */
    PyObject *index;            /* owned int, made before anything could be lost by that */
} queued_case;

typedef struct {                /* on the heap: others look at it while the caller is parked */
    uint32_t n;                 /* entries whose waiters may be in queues */
    queued_case cases[];
} selection;

uint32_t
py_select_channels(const void *waits_in, PyObject **channels, uint32_t max)
{
    const selection *s = waits_in;
    uint32_t found = 0;
    for (uint32_t i = 0; i < s->n && found < max; i++) {
        const py_waiter *w = &s->cases[i].waiter;
        if (w->queue != NULL)
            channels[found++] = w->value != NULL
                                    ? (PyObject *)RT_CONTAINER_OF(w->queue, Chan, sendq)
                                    : (PyObject *)RT_CONTAINER_OF(w->queue, Chan, recvq);
    }
    return found;
}

/* Does somebody else wait in q, who could be served? */
static bool
has_peer(const py_waitq *q, const Goroutine *gp)
{
    for (py_waiter *w = q->head; w != NULL; w = w->next) {
        if (w->g != gp && RT_LOAD(w->g->g.wake) == RT_WAKE_NONE)
            return true;
    }
    return false;
}

/* Queue w, which waits for c, unless c can go on now: then false. */
static bool
queue_case(const Case *c, py_waiter *w)
{
    Chan *ch = c->ch;
    if (ch == NULL)
        return true;
    py_acquire(&ch->lock);
    bool ready = ch->closed;
    if (c->value != NULL)
        ready = ready || ch->len < ch->capacity || has_peer(&ch->recvq, w->g);
    else
        ready = ready || ch->len > 0 || has_peer(&ch->sendq, w->g);
    if (!ready)
        py_chan_queue(ch, c->value != NULL ? &ch->sendq : &ch->recvq, w);
    py_release(&ch->lock);
    return !ready;
}

/* Make the waiters of the caller, which is armed, and queue them.  False: a case is ready. */
static bool
queue_all(Goroutine *gp, PyObject *const *cases, uint32_t n, selection *s)
{
    for (s->n = 0; s->n < n;) {
        const Case *c = (Case *)cases[s->n];
        py_waiter *w = &s->cases[s->n++].waiter;
        *w = (py_waiter){.g = gp, .value = Py_XNewRef(c->value)};
        if (!queue_case(c, w))
            return false;
    }
    return true;
}

static void
leave_queues(PyObject *const *cases, selection *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        Chan *ch = ((Case *)cases[i])->ch;
        if (ch == NULL)
            continue;
        /* Whoever else takes it out may look at it still, and has the lock then. */
        py_acquire(&ch->lock);
        py_chan_leave(ch, &s->cases[i].waiter);
        py_release(&ch->lock);
    }
}

/* The caller was handed something by way of one of its waiters, or has handed it over. */
static void
take_served(PyObject *const *cases, selection *s, PyObject *result)
{
    for (uint32_t i = 0; i < s->n; i++) {
        const Case *c = (Case *)cases[i];
        py_waiter *w = &s->cases[i].waiter;
        if (c->ch == NULL || (c->value != NULL) == (w->value != NULL))
            continue;
        set_index(result, Py_NewRef(s->cases[i].index));
        set_done(result, w->value);
        w->value = NULL;
        return;
    }
    rt_throw("select: woken by no case");
}

static inline int
wait_reason(const Goroutine *gp, PyObject *const *cases, uint32_t n)
{
    int reason = n > 0 ? PY_WAIT_SELECT : PY_WAIT_SELECT_NONE;
    for (uint32_t i = 0; RT_UNLIKELY(gp->g.bubbled) && i < n; i++) {
        const Chan *ch = ((Case *)cases[i])->ch;
        if (ch != NULL && !ch->bubbled)
            reason |= PY_WAIT_OUTSIDE;
    }
    return reason;
}

/* Wait until a case is done, or might be: 1 done, 0 try all again, -1 with an exception set. */
static int
select_wait(Goroutine *gp, PyObject *const *cases, uint32_t n, selection *s, py_wait *wait,
            PyObject *result)
{
    uint32_t why = RT_WAKE_NONE;
    for (uint32_t i = 0; RT_UNLIKELY(gp->g.foreign) && i < n; i++)
        if (((Case *)cases[i])->ch != NULL)
            py_clock_prepare(((Case *)cases[i])->ch);
    rt_g_arm(&gp->g);
    if (queue_all(gp, cases, n, s) || !py_disarm(gp)) {
        gp->seat->waits_in = s;
        why = py_wait_park(gp, wait_reason(gp, cases, n), wait);
        gp->seat->waits_in = NULL;
    }
    leave_queues(cases, s);
    if (why == RT_WAKE_READY)
        take_served(cases, s, result);
    for (uint32_t i = 0; i < s->n; i++)
        Py_XDECREF(s->cases[i].waiter.value);   /* its case has it, too: nothing is freed */
    if (why == RT_WAKE_READY)
        return 1;
    if (why == RT_WAKE_NONE || why == RT_WAKE_CLOSED)
        return 0;
    if (why == RT_WAKE_TIMEOUT)
        py_raise_timeout("select()");
    return -1;
}

/* Fall out of step with a select that does the same. */
static void
stand_back(uint32_t round)
{
    for (uint32_t i = py_random(1u << (round < 12 ? round : 12)); i > 0; i--)
        rt_cpu_relax();
}

static void
selection_free(selection *s, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        Py_XDECREF(s->cases[i].index);
    PyMem_Free(s);
}

static selection *
selection_new(uint32_t n)
{
    selection *s = PyMem_Calloc(1, sizeof(*s) + n * sizeof(s->cases[0]));
    if (s == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++) {
        if ((s->cases[i].index = PyLong_FromSsize_t(i)) == NULL) {
            selection_free(s, n);
            return NULL;
        }
    }
    return s;
}

/* As select_now(), but waits. */
static int
select_slow(PyObject *const *cases, uint32_t n, const py_limits *limits, PyObject *result)
{
    py_wait wait;
    Goroutine *gp = py_current("select()");
    if (gp == NULL || py_wait_begin(&wait, limits) < 0)
        return -1;
    int r = -1;
    selection *s = selection_new(n);
    if (s != NULL) {
        for (uint32_t round = 0; (r = select_wait(gp, cases, n, s, &wait, result)) == 0; round++) {
            if ((r = select_now(cases, n, result)) != 0)
                break;
            stand_back(round);
        }
        selection_free(s, n);
    }
    py_wait_end(&wait);
    return r;
}

/* ---- select ---- */

#define USAGE "select(*cases, default=False, timeout=None, ctx=None)"

/* -1 with an exception set. */
static int
parse_keywords(PyObject *const *values, PyObject *names, int *has_default, py_limits *limits)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        if (PyUnicode_CompareWithASCIIString(name, "default") == 0) {
            if ((*has_default = PyObject_IsTrue(values[i])) < 0)
                return -1;
        }
        else if (PyUnicode_CompareWithASCIIString(name, "timeout") == 0)
            limits->timeout = values[i];
        else if (PyUnicode_CompareWithASCIIString(name, "ctx") == 0)
            limits->ctx = values[i] != Py_None ? values[i] : NULL;
        else {
            PyErr_SetString(PyExc_TypeError, "wrong arguments: " USAGE);
            return -1;
        }
    }
    return py_limits_check(limits);
}

static PyObject *
m_select(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int has_default = 0;
    py_limits limits = PY_NO_LIMITS;
    for (Py_ssize_t i = 0; i < nargs; i++) {
        if (RT_UNLIKELY(!Py_IS_TYPE(args[i], core->case_type))) {
            PyErr_Format(PyExc_TypeError, "select(): case %zd must be made by recv(ch) or "
                         "send(ch, value), not %.200s", i, Py_TYPE(args[i])->tp_name);
            return NULL;
        }
        Chan *ch = ((Case *)args[i])->ch;
        if (RT_LIKELY(ch != NULL) && py_chan_is_elsewhere(ch))
            return py_chan_raise_elsewhere();
    }
    if (kwnames != NULL && parse_keywords(args + nargs, kwnames, &has_default, &limits) < 0)
        return NULL;
    PyObject *result = new_result();
    if (result == NULL)
        return NULL;
    uint32_t n = (uint32_t)nargs;
    int r = has_default ? select_at_once(args, n, result) : select_now(args, n, result);
    if (r == 0 && !has_default)
        r = select_slow(args, n, &limits, result);
    if (r < 0)
        Py_CLEAR(result);
    return result;
}

static PyMethodDef functions[] = {
    {"recv", m_recv, METH_O,
     "recv(ch, /)\n--\n\n"
     "A case of select(): receive from ch, a Chan, a Receiver or None, which is never ready.\n\n"
     "Go: case value, ok := <-ch."},
    {"send", (PyCFunction)(void (*)(void))m_send, METH_FASTCALL,
     "send(ch, value, /)\n--\n\n"
     "A case of select(): send value to ch, a Chan, a Sender or None, which is never ready.\n\n"
     "Go: case ch <- value."},
    {"select", (PyCFunction)(void (*)(void))m_select, METH_FASTCALL | METH_KEYWORDS,
     "select(*cases, default=False, timeout=None, ctx=None)\n--\n\n"
     "Wait until one of the cases, recv(ch) or send(ch, value), can go on, and do it.\n\n"
     "If several can, one of them is chosen at random, each as likely as the others.\n"
     "Returns Selected(index, value, ok): which case, from 0, what it received, and whether\n"
     "that was sent: from a channel that is closed and drained comes (None, False).  With\n"
     "default=True it never waits; (-1, None, False) means that no case could go on.\n"
     "Without a case it waits for ever.\n\n"
     "    match select(recv(jobs), send(results, 42), timeout=1.5):\n"
     "        case (0, job, True): ...\n"
     "        case (0, _, False): ...     # closed\n"
     "        case (1, _, _): ...         # sent\n\n"
     "Raises ChanClosed if it chooses to send to a closed channel, TimeoutError after\n"
     "timeout seconds, or ctx.err() when the context ctx ends; then nothing was sent or\n"
     "received.\n\n"
     "Go: select."},
    {0},
};

int
py_select_init(PyObject *module)
{
    if (py_add_type(module, &case_spec, &core->case_type, true) < 0
        || PyModule_AddFunctions(module, functions) < 0)
        return -1;
    PyObject *names = Py_BuildValue("(sss)", "index", "value", "ok");
    int r = -1;
    if (names != NULL && py_add_type(module, &selected_spec, &core->selected_type, true) == 0)
        r = PyObject_SetAttrString((PyObject *)core->selected_type, "__match_args__", names);
    Py_XDECREF(names);
    return r;
}
