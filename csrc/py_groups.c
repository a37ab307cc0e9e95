/* py_groups.c - all goroutines in a few lines: those alike together, and what is waited for.
 *
 * A page that shows 100,000 goroutines needs neither an object for each of them nor their
 * stacks.  They are counted here, and what comes out is bounded.
 */
#include "py_inspect.h"

#include <stdlib.h>

#define TOLD 8                  /* of each group that are told: the oldest ones */
#define MAX_CHAIN 1000          /* goroutines, each of which waits for the next, that are followed */

typedef struct {
    PyObject *what;             /* borrowed from the snapshot: a code object or NULL, or what is
                                   waited for */
    int lasti;
    uint8_t state, reason;
    uint32_t longest;           /* ms */
    size_t count;
    int64_t holder;             /* id, or 0 */
    const py_g_info *told[TOLD];
} group;

typedef struct {                /* the snapshot, in order of ids */
    py_g_info *infos;
    size_t n;
    py_edge *edges;
} population;

typedef struct {
    group *all;
    size_t n, cap;
    uint32_t *slots;            /* places in all + 1, or 0; 2 * cap of them */
} table;

static size_t
hash(const group *key)
{
    uint64_t h = (uintptr_t)key->what / 16 * 31 + (uint32_t)key->lasti;
    h = (h * 31 + key->state) * 31 + key->reason;
    h *= UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(h >> 32);
}

static void
enter(table *t, size_t i)
{
    size_t mask = 2 * t->cap - 1, at = hash(&t->all[i]) & mask;
    while (t->slots[at] != 0)
        at = (at + 1) & mask;
    t->slots[at] = (uint32_t)i + 1;
}

static bool
make_room(table *t)
{
    if (t->n < t->cap)
        return true;
    size_t cap = t->cap ? t->cap * 2 : 64;
    group *all = realloc(t->all, cap * sizeof(*all));
    if (all == NULL)
        return false;
    t->all = all;
    uint32_t *slots = calloc(2 * cap, sizeof(*slots));
    if (slots == NULL)
        return false;
    free(t->slots);
    t->slots = slots;
    t->cap = cap;
    for (size_t i = 0; i < t->n; i++)
        enter(t, i);
    return true;
}

/* The group of key, made if there is none; NULL: no memory. */
static group *
find(table *t, const group *key)
{
    if (!make_room(t))
        return NULL;
    size_t mask = 2 * t->cap - 1;
    for (size_t at = hash(key) & mask; t->slots[at] != 0; at = (at + 1) & mask) {
        group *g = &t->all[t->slots[at] - 1];
        if (g->what == key->what && g->lasti == key->lasti && g->state == key->state
            && g->reason == key->reason)
            return g;
    }
    t->all[t->n] = *key;
    enter(t, t->n);
    return &t->all[t->n++];
}

/* Count a goroutine in the group of key. */
static bool
count(table *t, const group *key, const py_g_info *info)
{
    group *g = find(t, key);
    if (g == NULL)
        return false;
    if (g->count < TOLD)
        g->told[g->count] = info;
    g->count++;
    g->longest = info->wait_ms > g->longest ? info->wait_ms : g->longest;
    return true;
}

static bool
count_all(const population *all, table *groups, table *objects)
{
    for (size_t i = 0; i < all->n; i++) {
        const py_g_info *info = &all->infos[i];
        group key = {.what = info->g->code, .lasti = info->g->code ? info->g->lasti : 0,
                     .state = info->state, .reason = info->reason};
        if (!count(groups, &key, info))
            return false;
        for (size_t k = 0; k < info->nedges; k++) {
            const py_edge *edge = &all->edges[info->edge + k];
            key = (group){.what = edge->on, .reason = info->reason, .holder = edge->holder};
            if (!count(objects, &key, info))
                return false;
        }
    }
    return true;
}

/* The largest first, then those where one waits longest, then those with the oldest goroutine. */
static int
by_count(const void *a, const void *b)
{
    const group *x = a, *y = b;
    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    if (x->longest != y->longest)
        return x->longest < y->longest ? 1 : -1;
    return (x->told[0] > y->told[0]) - (x->told[0] < y->told[0]);
}

/* Where it matters who holds it, that comes first. */
static int
by_holder(const void *a, const void *b)
{
    const group *x = a, *y = b;
    if ((x->holder != 0) != (y->holder != 0))
        return x->holder == 0 ? 1 : -1;
    return by_count(a, b);
}

static const char *const states[] = {
    [RT_G_RUNNABLE] = "runnable", [RT_G_RUNNING] = "running", [RT_G_WAITING] = "waiting"};

/* Why it waits, or NULL. */
static const char *
reason_of(uint8_t state, uint8_t reason)
{
    return state == RT_G_WAITING ? py_wait_reason(reason) : NULL;
}

/* ((id, name), ...) */
static PyObject *
render_told(const group *g)
{
    Py_ssize_t n = g->count < TOLD ? (Py_ssize_t)g->count : TOLD;
    PyObject *told = PyTuple_New(n);
    for (Py_ssize_t i = 0; told != NULL && i < n; i++) {
        PyObject *one = Py_BuildValue("(LN)", (long long)g->told[i]->id, py_g_name(g->told[i]->g));
        if (one == NULL)
            Py_CLEAR(told);
        else
            PyTuple_SET_ITEM(told, i, one);
    }
    return told;
}

/* (site, state, reason, count, longest, told) */
static PyObject *
render_group(const group *g, const population *Py_UNUSED(all))
{
    PyObject *site = Py_NewRef(Py_None);
    if (g->what != NULL) {
        PyCodeObject *code = (PyCodeObject *)g->what;
        int line = PyCode_Addr2Line(code, g->lasti);
        Py_SETREF(site, Py_BuildValue("(OiO)", code->co_filename,
                                      line > 0 ? line : code->co_firstlineno, code->co_qualname));
    }
    return Py_BuildValue("(NszndN)", site, states[g->state], reason_of(g->state, g->reason),
                         (Py_ssize_t)g->count, g->longest / 1e3, render_told(g));
}

static int
by_id(const void *key, const void *info)
{
    int64_t x = *(const int64_t *)key, y = ((const py_g_info *)info)->id;
    return (x > y) - (x < y);
}

/* The goroutine with this id, or NULL. */
static const py_g_info *
find_info(int64_t id, const population *all)
{
    return id != 0 ? bsearch(&id, all->infos, all->n, sizeof(py_g_info), by_id) : NULL;
}

/* Does its holder wait, by way of others or not, for itself? */
static bool
is_deadlock(const group *g, const population *all)
{
    int64_t at = g->holder;
    for (int i = 0; i < MAX_CHAIN; i++) {
        const py_g_info *info = find_info(at, all);
        if (info == NULL || info->nedges != 1 || info->timed)
            return false;
        at = all->edges[info->edge].holder;
        if (at == g->holder)
            return true;
    }
    return false;
}

/* (id, name, state, reason), or None. */
static PyObject *
render_holder(int64_t id, const population *all)
{
    const py_g_info *info = find_info(id, all);
    if (info == NULL)
        return Py_NewRef(Py_None);
    return Py_BuildValue("(LNsz)", (long long)id, py_g_name(info->g), states[info->state],
                         reason_of(info->state, info->reason));
}

/* (object, reason, count, longest, told, holder, deadlock) */
static PyObject *
render_object(const group *g, const population *all)
{
    return Py_BuildValue("(OsndNNN)", g->what, py_wait_reason(g->reason), (Py_ssize_t)g->count,
                         g->longest / 1e3, render_told(g), render_holder(g->holder, all),
                         PyBool_FromLong(is_deadlock(g, all)));
}

static PyObject *
render_first(const table *t, Py_ssize_t most, const population *all,
             PyObject *(*render)(const group *, const population *))
{
    Py_ssize_t n = (Py_ssize_t)t->n < most ? (Py_ssize_t)t->n : most;
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
        PyObject *item = render(&t->all[i], all);
        if (item == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, item);
    }
    return list;
}

/* _goroutine_groups(most): how many goroutines there are; how many groups of them with the same
   go(), state and wait reason, and the largest; how many objects they wait for, and the most
   wanted, those with a holder first. */
static PyObject *
m_goroutine_groups(PyObject *Py_UNUSED(module), PyObject *arg)
{
    Py_ssize_t most = PyLong_AsSsize_t(arg);
    if (most == -1 && PyErr_Occurred())
        return NULL;
    if (most < 0) {
        PyErr_SetString(PyExc_ValueError, "_goroutine_groups(): most must not be negative");
        return NULL;
    }
    table groups = {0}, objects = {0};
    population all;
    PyObject *first = NULL, *wanted = NULL;
    if (py_snapshot(&all.infos, &all.n, &all.edges) < 0)
        return NULL;
    if (!count_all(&all, &groups, &objects))
        PyErr_NoMemory();
    else {
        if (groups.n != 0)
            qsort(groups.all, groups.n, sizeof(group), by_count);
        if (objects.n != 0)
            qsort(objects.all, objects.n, sizeof(group), by_holder);
        first = render_first(&groups, most, &all, render_group);
        wanted = first ? render_first(&objects, most, &all, render_object) : NULL;
    }
    Py_ssize_t ngroups = (Py_ssize_t)groups.n, nobjects = (Py_ssize_t)objects.n;
    free(groups.all);
    free(groups.slots);
    free(objects.all);
    free(objects.slots);
    Py_ssize_t total = (Py_ssize_t)all.n;
    py_snapshot_free(all.infos, all.n, all.edges);
    if (wanted == NULL) {
        Py_XDECREF(first);
        return NULL;
    }
    return Py_BuildValue("(nnNnN)", total, ngroups, first, nobjects, wanted);
}

static PyMethodDef functions[] = {
    {"_goroutine_groups", m_goroutine_groups, METH_O, NULL},
    {0},
};

int
py_groups_init(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
