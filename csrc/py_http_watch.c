/* py_http_watch.c - telling a program of its connections: the option conn_state.
 *
 * Connections change in callbacks of the poller, which must not run Python.  So what happens is
 * put into a queue, and a goroutine, one at a time, calls the program: later than Go does, but in
 * the same order.  The queue has a bound: while the program is so far behind, new connections
 * are not told of at all, and of others only the end.
 */
#include "py_http.h"

#define MAX_EVENTS 65536u

typedef struct {
    uint64_t id;
    PyObject *addr;             /* owned: of a new connection, or NULL */
    int what;
} event;

typedef struct http_watch {
    PyObject *hook;             /* owned */
    py_lock lock;               /* guards what follows */
    event *ring;                /* owned */
    uint32_t cap, head, len;    /* cap: a power of two, or 0 */
    uint64_t last_id;
    bool running;               /* there is a goroutine that will look */
} http_watch;

static bool
grow_locked(http_watch *w)
{
    uint32_t cap = w->cap ? w->cap * 2 : 64;
    event *ring = PyMem_Malloc(cap * sizeof(*ring));
    if (ring == NULL)
        return false;
    for (uint32_t i = 0; i < w->len; i++)
        ring[i] = w->ring[(w->head + i) & (w->cap - 1)];
    PyMem_Free(w->ring);
    w->ring = ring;
    w->cap = cap;
    w->head = 0;
    return true;
}

static bool
take(http_watch *w, event *e)
{
    py_acquire(&w->lock);
    bool some = w->running = w->len != 0;
    if (some) {
        *e = w->ring[w->head];
        w->head = (w->head + 1) & (w->cap - 1);
        w->len--;
    }
    py_release(&w->lock);
    return some;
}

static void
call(http_watch *w, const event *e)
{
    PyObject *r = PyObject_CallFunction(w->hook, "KiO", (unsigned long long)e->id, e->what,
                                        e->addr ? e->addr : Py_None);
    if (r == NULL) {
        PyObject *exc = py_take_exception();
        r = PyObject_CallFunction(http_hooks.log_error, "sOO", "conn_state failed", Py_None, exc);
        if (r == NULL)
            PyErr_WriteUnraisable(w->hook);
        Py_DECREF(exc);
    }
    Py_XDECREF(r);
}

static void
tell(http_server *s)
{
    event e;
    while (take(s->watch, &e)) {
        call(s->watch, &e);
        Py_XDECREF(e.addr);
    }
}

static PyObject *
watch_main(Goroutine *gp)
{
    http_server *s = gp->call.c.arg;
    tell(s);
    Py_DECREF(s);
    Py_RETURN_NONE;
}

/* There is no memory to run it: the next event tries again. */
static void
give_up(http_server *s)
{
    py_acquire(&s->watch->lock);
    s->watch->running = false;
    py_release(&s->watch->lock);
    Py_DECREF(s);
}

static void
watch_cancel(Goroutine *gp)
{
    give_up(gp->call.c.arg);
}

/* ---- the same in a bubble, whose goroutines are those that go() starts ---- */

static PyObject *
tell_bubbled(PyObject *s, PyObject *Py_UNUSED(ignored))
{
    tell((http_server *)s);
    Py_RETURN_NONE;
}

static PyMethodDef tell_def = {"conn_state", tell_bubbled, METH_NOARGS, NULL};

/* s: a reference, stolen on success. */
static bool
spawn_bubbled(http_server *s)
{
    PyObject *fn = PyCFunction_New(&tell_def, (PyObject *)s);
    PyObject *gp = fn ? py_go(NULL, &fn, 1, NULL) : NULL;
    Py_XDECREF(fn);
    Py_XDECREF(gp);
    if (gp != NULL)
        Py_DECREF(s);
    return gp != NULL;
}

void
http_watch_note(http_conn *c, int what)
{
    http_server *s = c->server;
    http_watch *w = s->watch;
    PyObject *addr = NULL;
    if (what == HTTP_CONN_NEW && (addr = http_conn_addr(c)) == NULL)
        PyErr_Clear();
    py_acquire(&w->lock);
    if (what == HTTP_CONN_NEW)
        c->id = w->len < MAX_EVENTS ? ++w->last_id : 0;
    /* Still active: another request was there already. */
    if (c->id == 0 || (what != HTTP_CONN_NEW && c->told == what)) {
        py_release(&w->lock);
        Py_XDECREF(addr);
        return;
    }
    c->told = (uint8_t)what;
    bool minor = what == HTTP_CONN_ACTIVE || what == HTTP_CONN_IDLE;
    bool kept = !(minor && w->len >= MAX_EVENTS) && (w->len < w->cap || grow_locked(w));
    if (kept)
        w->ring[(w->head + w->len++) & (w->cap - 1)] = (event){c->id, addr, what};
    bool spawn = !w->running;
    w->running = true;
    py_release(&w->lock);
    if (!kept)
        Py_XDECREF(addr);
    if (!spawn)
        return;
    Py_INCREF(s);
    if (RT_UNLIKELY(s->bubbled)) {
        if (spawn_bubbled(s))
            return;
    }
    else if (py_g_spawn_c(c->shard->mp, watch_main, watch_cancel, s) == 0)
        return;
    PyErr_Clear();
    give_up(s);
}

PyObject *
http_server_set_watch(http_server *s, PyObject *hook)
{
    if (s->watch != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "set_watch(): there is one already");
        return NULL;
    }
    http_watch *w = PyMem_Calloc(1, sizeof(*w));
    if (w == NULL)
        return PyErr_NoMemory();
    w->hook = Py_NewRef(hook);
    s->watch = w;
    Py_RETURN_NONE;
}

int
http_watch_traverse(http_watch *w, visitproc visit, void *arg)
{
    if (w != NULL)
        Py_VISIT(w->hook);
    return 0;
}

void
http_watch_free(http_watch *w)
{
    if (w == NULL)
        return;
    Py_XDECREF(w->hook);
    for (uint32_t i = 0; i < w->len; i++)
        Py_XDECREF(w->ring[(w->head + i) & (w->cap - 1)].addr);
    PyMem_Free(w->ring);
    PyMem_Free(w);
}
