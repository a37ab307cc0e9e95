/* py_http_stats.c - what HTTP servers count: requests by route, connections by state.
 *
 * How long requests took is counted by route, method and status: each of these *series*
 * has a histogram of 4 KB on each M that has served one of its requests.  An M counts in its
 * own ones, without a lock or an atomic step; who reads sums up those of all Ms.
 *
 * Bounds.  Patterns are a program's own, but it may make up as many as it likes, and statuses,
 * too.  So what is counted apart is limited: routes get a number, a *label*, as they are
 * matched for the first time, and once all are used the rest is counted as OTHER.  Likewise
 * there are only so many series; then requests go to that of OTHER with their method and
 * status, and in the end to a last one.  Both tables only grow, and are the whole
 * process's, so that all Ms agree.  Where there is no memory a request is not counted.
 *
 * Durations begin when the poller's batch in which the head was complete was begun with, or
 * when that was found in what was read before: they include the wait for a turn.  They end
 * when the response was given to the socket; or, if more has come in by then, when it is
 * complete, for it may leave with the next one.
 */
#include "py_http.h"
#include "py_inspect.h"

#define MAX_LABELS 1024         /* at most as many as LABEL_MASK can tell apart */
#define LABEL_MASK 0x7fffu
#define MAX_LABEL_BYTES 512
#define MAX_SERIES 4096
#define OTHERS_SERIES 128       /* more, of OTHER only */
#define KNOWN_SLOTS 8192        /* a power of two, more than all of them */
#define NO_ROUTE 0
#define OTHER 1                 /* routes that have got no label of their own */
#define USED 0x80000000u        /* in each key: none is 0 */
#define LAST (USED | OTHER << 16)           /* other routes, other methods, any status */

typedef struct http_series {
    struct http_series *next;   /* of the same bucket */
    uint32_t key;               /* USED | label << 16 | method << 12 | status */
    rt_hist hist;               /* ns */
} http_series;

#define BUCKETS 256

/* Of an M, which adds series; anybody reads them. */
struct http_series_table {
    _Atomic(http_series *) bucket[BUCKETS];
};

typedef struct {
    uint32_t len;
    char text[];                /* UTF-8 */
} label;

static struct {
    py_lock lock;               /* who adds holds it */
    _Atomic(label *) label[MAX_LABELS];     /* owned; NO_ROUTE and OTHER have none */
    _Atomic uint32_t nlabels;
    _Atomic uint32_t key[KNOWN_SLOTS];      /* of all series, a hash table; 0: free */
    uint32_t nkeys, nothers;
    http_server *servers;       /* borrowed: all there are */
} known = {.nlabels = OTHER + 1};

/* ---- labels ---- */

/* The label with this text among the first n, or OTHER. */
static uint32_t
find_label(const char *text, size_t len, uint32_t n)
{
    for (uint32_t i = OTHER + 1; i < n; i++) {
        const label *l = RT_LOAD(known.label[i]);
        if (l->len == len && memcmp(l->text, text, len) == 0)
            return i;
    }
    return OTHER;
}

static uint32_t
add_label(const char *text, size_t len)
{
    uint32_t n = RT_LOAD(known.nlabels), found = find_label(text, len, n);
    if (found != OTHER || n == MAX_LABELS)
        return found;
    label *l = PyMem_Malloc(sizeof(*l) + len);
    if (l == NULL)
        return OTHER;
    l->len = (uint32_t)len;
    memcpy(l->text, text, len);
    RT_STORE(known.label[n], l);
    atomic_store_explicit(&known.nlabels, n + 1, memory_order_release);
    return n;
}

uint16_t
http_stats_label(PyObject *pattern)
{
    Py_ssize_t len;
    const char *text = PyUnicode_AsUTF8AndSize(pattern, &len);
    if (text == NULL) {
        PyErr_Clear();
        return OTHER;
    }
    const char *blank = memchr(text, ' ', (size_t)len);
    if (blank != NULL && memchr(text, '/', (size_t)(blank - text)) == NULL) {
        /* "GET /": the method is counted by itself */
        while (*blank == ' ')
            blank++;
        len -= blank - text;
        text = blank;
    }
    if (len == 0)
        return NO_ROUTE;
    if (len > MAX_LABEL_BYTES)
        return OTHER;
    uint32_t found = find_label(text, (size_t)len, atomic_load_explicit(&known.nlabels,
                                                                        memory_order_acquire));
    if (found == OTHER) {
        py_acquire(&known.lock);
        found = add_label(text, (size_t)len);
        py_release(&known.lock);
    }
    return (uint16_t)found;
}

/* ---- series ---- */

static inline uint32_t
hash(uint32_t key)
{
    return key * 0x9e3779b1u >> 16;
}

/* Where the key is in the table, or the free slot for it. */
static _Atomic uint32_t *
key_slot(uint32_t key)
{
    uint32_t at = hash(key), found;
    while ((found = RT_LOAD(known.key[at % KNOWN_SLOTS])) != key && found != 0)
        at++;
    return &known.key[at % KNOWN_SLOTS];
}

/* May there be a series with this key? */
static bool
admit(uint32_t key)
{
    if (RT_LOAD(*key_slot(key)) == key)
        return true;
    bool other = (key >> 16 & LABEL_MASK) == OTHER;
    py_acquire(&known.lock);
    _Atomic uint32_t *slot = key_slot(key);
    bool may = RT_LOAD(*slot) == key;
    if (!may && (key == LAST || (other ? known.nothers < OTHERS_SERIES
                                       : known.nkeys < MAX_SERIES))) {
        known.nothers += other;
        known.nkeys += !other;
        RT_STORE(*slot, key);
        may = true;
    }
    py_release(&known.lock);
    return may;
}

static inline http_series *
find_series(const struct http_series_table *t, uint32_t key)
{
    http_series *series = atomic_load_explicit(&t->bucket[hash(key) % BUCKETS],
                                               memory_order_acquire);
    while (series != NULL && series->key != key)
        series = series->next;
    return series;
}

/* By mp.  NULL: out of memory. */
static RT_NOINLINE http_series *
series_slow(py_m *mp, uint32_t key)
{
    struct http_series_table *t = RT_LOAD(mp->http_series);
    if (t == NULL) {
        t = PyMem_Calloc(1, sizeof(*t));
        if (t == NULL)
            return NULL;
        atomic_store_explicit(&mp->http_series, t, memory_order_release);
    }
    if (!admit(key)) {
        key = USED | OTHER << 16 | (key & 0xffff);
        if (!admit(key)) {
            key = LAST;
            admit(key);
        }
    }
    http_series *series = find_series(t, key);
    if (series != NULL)
        return series;
    series = PyMem_Calloc(1, sizeof(*series));
    if (series == NULL)
        return NULL;
    _Atomic(http_series *) *bucket = &t->bucket[hash(key) % BUCKETS];
    series->key = key;
    series->next = RT_LOAD(*bucket);
    atomic_store_explicit(bucket, series, memory_order_release);
    return series;
}

http_sample
http_stats_sample(const http_request *r, int status)
{
    uint32_t label = RT_LOAD(r->label);
    return (http_sample){r->began, USED | label << 16 | (uint32_t)r->head.method_id << 12
                                       | ((uint32_t)status & 0xfff)};
}

int64_t
http_stats_add(py_m *mp, const http_sample *sample)
{
    int64_t now = rt_nanotime();
    struct http_series_table *t = RT_LOAD(mp->http_series);
    http_series *series = RT_LIKELY(t != NULL) ? find_series(t, sample->key) : NULL;
    if (RT_UNLIKELY(series == NULL))
        series = series_slow(mp, sample->key);
    if (RT_LIKELY(series != NULL))
        rt_hist_add(&series->hist, now - sample->began);
    return now;
}

/* ---- reading ---- */

static PyObject *
label_text(uint32_t n)
{
    const label *l = RT_LOAD(known.label[n]);
    if (n <= OTHER)
        return PyUnicode_FromString(n == OTHER ? "other" : "");
    return PyUnicode_DecodeUTF8(l->text, l->len, NULL);
}

/* (route, method, status, sum, [(low, high, count), ...]) */
static PyObject *
series_row(uint32_t key)
{
    static const char *const methods[] = {
        [RT_HM_OTHER] = "OTHER", [RT_HM_GET] = "GET", [RT_HM_HEAD] = "HEAD",
        [RT_HM_POST] = "POST", [RT_HM_PUT] = "PUT", [RT_HM_DELETE] = "DELETE",
        [RT_HM_CONNECT] = "CONNECT", [RT_HM_OPTIONS] = "OPTIONS", [RT_HM_TRACE] = "TRACE",
        [RT_HM_PATCH] = "PATCH"};
    py_hist_sum sum = {0};
    py_m *mp;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++) {
        const struct http_series_table *t = atomic_load_explicit(&mp->http_series,
                                                                 memory_order_acquire);
        const http_series *series = t ? find_series(t, key) : NULL;
        if (series != NULL)
            py_hist_add(&sum, &series->hist);
    }
    PyObject *route = label_text(key >> 16 & LABEL_MASK);
    PyObject *hist = route ? py_hist_render(&sum) : NULL;
    if (hist == NULL) {
        Py_XDECREF(route);
        return NULL;
    }
    return Py_BuildValue("(NsIN)", route, methods[key >> 12 & 0xf], key & 0xfff, hist);
}

static PyObject *
m_http_routes(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    PyObject *rows = PyList_New(0);
    for (uint32_t i = 0; rows != NULL && i < KNOWN_SLOTS; i++) {
        uint32_t key = RT_LOAD(known.key[i]);
        if (key == 0)
            continue;
        PyObject *row = series_row(key);
        if (row == NULL || PyList_Append(rows, row) < 0)
            Py_CLEAR(rows);
        Py_XDECREF(row);
    }
    return rows;
}

/* ---- connections ---- */

void
http_stats_enter(http_server *s)
{
    py_acquire(&known.lock);
    s->next_server = known.servers;
    if (known.servers != NULL)
        known.servers->prev_server = s;
    known.servers = s;
    py_release(&known.lock);
}

void
http_stats_leave(http_server *s)
{
    py_acquire(&known.lock);
    *(s->prev_server ? &s->prev_server->next_server : &known.servers) = s->next_server;
    if (s->next_server != NULL)
        s->next_server->prev_server = s->prev_server;
    py_release(&known.lock);
}

void
http_stats_count_states(const http_server *s, uint32_t count[HTTP_NSTATES])
{
    for (uint32_t id = 0; id <= RT_SPARE_P; id++) {
        http_shard *sh = atomic_load_explicit(&s->shards[id], memory_order_acquire);
        for (int state = 0; sh != NULL && state < HTTP_NSTATES; state++)
            count[state] += RT_LOAD(sh->list[state].len);
    }
    for (int state = 0; state < HTTP_NSTATES; state++)
        count[state] += RT_LOAD(s->nstreams[state]);
}

static void
add_counters(py_http_counters *to, const py_http_counters *from)
{
    RT_COUNT(to->closed, RT_LOAD(from->closed));
    RT_COUNT(to->requests, RT_LOAD(from->requests));
    RT_COUNT(to->bytes_read, RT_LOAD(from->bytes_read));
    RT_COUNT(to->bytes_written, RT_LOAD(from->bytes_written));
}

PyObject *
py_http_stats(void)
{
    uint32_t state[HTTP_NSTATES] = {0};
    unsigned waiting = 0;
    py_http_counters sum = {0};
    py_m *mp;
    add_counters(&sum, &core->http);
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++)
        add_counters(&sum, &mp->http);
    uint64_t accepted = RT_LOAD(core->http.accepted);   /* after: none is counted closed only */
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++)
        accepted += RT_LOAD(mp->http.accepted);
    py_acquire(&known.lock);
    for (http_server *s = known.servers; s != NULL; s = s->next_server) {
        if (http_server_is_parents(s))
            continue;
        http_stats_count_states(s, state);
        waiting += RT_LOAD(s->gate.waiting);
    }
    py_release(&known.lock);
    uint64_t closed = RT_LOAD(sum.closed);
    return Py_BuildValue(
        "{sK sI sI sI sI sI sK sK sK sK}", "connections",
        accepted > closed ? accepted - closed : 0, "reading", state[HTTP_HEAD], "idle",
        state[HTTP_IDLE], "active", state[HTTP_ACTIVE], "closing",
        state[HTTP_DRAIN] + state[HTTP_LINGER], "waiting", waiting, "accepted", accepted,
        "requests", RT_LOAD(sum.requests), "bytes_read", RT_LOAD(sum.bytes_read),
        "bytes_written", RT_LOAD(sum.bytes_written));
}

/* ---- forks ---- */

void
py_http_after_fork(py_m *me)
{
    memset(&known.lock, 0, sizeof(known.lock));
    memset((void *)&core->http, 0, sizeof(core->http));
    if (me == NULL)
        return;
    memset((void *)&me->http, 0, sizeof(me->http));
    struct http_series_table *t = RT_LOAD(me->http_series);
    RT_STORE(me->http_series, NULL);
    for (uint32_t i = 0; t != NULL && i < BUCKETS; i++)
        for (http_series *series = RT_LOAD(t->bucket[i]), *next; series != NULL; series = next) {
            next = series->next;
            PyMem_Free(series);
        }
    PyMem_Free(t);
}

static PyMethodDef functions[] = {
    {"_http_routes", m_http_routes, METH_NOARGS, NULL},
    {0},
};

int
http_stats_init(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
