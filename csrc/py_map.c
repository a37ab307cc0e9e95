/* py_map.c - Map: a dictionary with compound operations that are atomic.
 *
 * A dict will not do: with keys that compare by Python code its operations are atomic neither
 * with a GIL nor without.  This is a hash table with chains.  Comparing keys or values may run
 * anything, so it is done without the lock, and what was found is good only if the table's
 * version is still the same; else the search begins again.  So whatever happens within one
 * hold of the lock is one step to everybody else.
 */
#include "py_sync.h"

#include <structmember.h>

typedef struct entry entry;
struct entry {
    entry *next;
    Py_hash_t hash;
    PyObject *key, *value;      /* owned */
};

typedef struct {
    PyObject_HEAD
    py_lock lock;               /* guards all of the following but weakrefs */
    entry **buckets;            /* 1 << bits of them, or NULL while it is empty */
    uint8_t bits;
    Py_ssize_t len;
    uint64_t version;           /* changes with every entry that comes or goes */
    PyObject *weakrefs;
} Map;

#define MIN_BITS 3

/* ---- the table; all with the lock held ---- */

static inline size_t
bucket_of(uint8_t bits, Py_hash_t hash)
{
    return (size_t)((uint64_t)hash * UINT64_C(11400714819323198485) >> (64 - bits));
}

/* -1: no memory (no exception set); nothing has changed. */
static int
resize(Map *m, uint8_t bits)
{
    entry **buckets = PyMem_Calloc((size_t)1 << bits, sizeof(*buckets));
    if (buckets == NULL)
        return -1;
    for (size_t i = 0; m->buckets != NULL && i < (size_t)1 << m->bits; i++)
        for (entry *e = m->buckets[i], *next; e != NULL; e = next) {
            size_t to = bucket_of(bits, e->hash);
            next = e->next;
            e->next = buckets[to];
            buckets[to] = e;
        }
    PyMem_Free(m->buckets);
    m->buckets = buckets;
    m->bits = bits;
    m->version++;
    return 0;
}

/* Add a key that is not there.  -1: no memory (no exception set). */
static int
insert(Map *m, PyObject *key, Py_hash_t hash, PyObject *value)
{
    if ((m->buckets == NULL || m->len >> m->bits != 0)
        && resize(m, m->buckets ? m->bits + 1 : MIN_BITS) < 0)
        return -1;
    entry *e = PyMem_New(entry, 1);
    if (e == NULL)
        return -1;
    size_t i = bucket_of(m->bits, hash);
    *e = (entry){m->buckets[i], hash, Py_NewRef(key), Py_NewRef(value)};
    m->buckets[i] = e;
    m->len++;
    m->version++;
    return 0;
}

/* Take e out; it is the caller's then. */
static void
take_out(Map *m, entry *e)
{
    entry **at = &m->buckets[bucket_of(m->bits, e->hash)];
    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    m->len--;
    m->version++;
    if (m->bits > MIN_BITS && m->len < (Py_ssize_t)1 << (m->bits - 3))
        resize(m, m->bits - 1);     /* if it can be done */
}

static bool
is_plain(PyObject *op)
{
    return PyUnicode_CheckExact(op) || PyLong_CheckExact(op) || PyBytes_CheckExact(op);
}

/* Find key: 1 and *out, 0, or -1 with an exception set.  The lock is let go where comparing
   may run Python. */
static int
find(Map *m, PyObject *key, Py_hash_t hash, entry **out)
{
again:
    if (m->buckets == NULL)
        return 0;
    for (entry *e = m->buckets[bucket_of(m->bits, hash)]; e != NULL; e = e->next) {
        int same = e->key == key;
        if (e->hash != hash)
            continue;
        if (!same && is_plain(key) && is_plain(e->key))
            same = Py_TYPE(key) == Py_TYPE(e->key) && PyObject_RichCompareBool(e->key, key, Py_EQ);
        else if (!same) {
            PyObject *other = Py_NewRef(e->key);
            uint64_t version = m->version;
            py_release(&m->lock);
            same = PyObject_RichCompareBool(other, key, Py_EQ);
            Py_DECREF(other);
            py_acquire(&m->lock);
            if (same < 0)
                return -1;
            if (m->version != version)
                goto again;
        }
        if (same) {
            *out = e;
            return 1;
        }
    }
    return 0;
}

/* Find key with a value that equals old: 1 and *out, 0, or -1 with an exception set.  *drop
   (owned, or NULL) is for the caller to drop once it has let go of the lock. */
static int
find_pair(Map *m, PyObject *key, Py_hash_t hash, PyObject *old, entry **out, PyObject **drop)
{
    PyObject *equal = NULL;     /* owned: is known to equal old */
    int r;
    while ((r = find(m, key, hash, out)) == 1) {
        PyObject *value = (*out)->value;
        if (value == old || value == equal)
            break;
        Py_INCREF(value);
        py_release(&m->lock);
        Py_XDECREF(equal);
        equal = value;
        r = PyObject_RichCompareBool(value, old, Py_EQ);
        py_acquire(&m->lock);
        if (r <= 0)
            break;
    }
    *drop = equal;
    return r;
}

static void
free_entry(entry *e)
{
    Py_DECREF(e->key);
    Py_XDECREF(e->value);
    PyMem_Free(e);
}

/* ---- operations ---- */

static PyObject *
pair(PyObject *value, bool ok)
{
    /* value is stolen; NULL: None */
    PyObject *r = PyTuple_Pack(2, value ? value : Py_None, ok ? Py_True : Py_False);
    Py_XDECREF(value);
    return r;
}

/* The arguments of a method, checked, and the hash of the key.  -1 with an exception set. */
static int
begin(const char *usage, Py_ssize_t wanted, PyObject *const *args, Py_ssize_t nargs,
      Py_hash_t *hash)
{
    if (RT_UNLIKELY(nargs != wanted)) {
        PyErr_Format(PyExc_TypeError, "wrong arguments: %s", usage);
        return -1;
    }
    *hash = PyObject_Hash(args[0]);
    return *hash == -1 ? -1 : 0;
}

static PyObject *
map_load(Map *m, PyObject *key)
{
    Py_hash_t hash;
    entry *e;
    if (begin("load(key)", 1, &key, 1, &hash) < 0)
        return NULL;
    py_acquire(&m->lock);
    int r = find(m, key, hash, &e);
    PyObject *value = r == 1 ? Py_NewRef(e->value) : NULL;
    py_release(&m->lock);
    return r < 0 ? NULL : pair(value, r);
}

/* Set a value: 1 and *old is the one before (owned), 0 there was none, -1 with an exception
   set.  keep: where there is a value already it stays, and *old is a reference to it. */
static int
put(Map *m, PyObject *key, Py_hash_t hash, PyObject *value, bool keep, PyObject **old)
{
    entry *e;
    *old = NULL;
    py_acquire(&m->lock);
    int r = find(m, key, hash, &e);
    bool memory = true;
    if (r == 1 && keep)
        *old = Py_NewRef(e->value);
    else if (r == 1) {
        *old = e->value;
        e->value = Py_NewRef(value);
    }
    else if (r == 0)
        memory = insert(m, key, hash, value) == 0;
    py_release(&m->lock);
    if (memory)
        return r;
    PyErr_NoMemory();
    return -1;
}

static PyObject *
map_store(Map *m, PyObject *const *args, Py_ssize_t nargs)
{
    Py_hash_t hash;
    PyObject *old;
    if (begin("store(key, value)", 2, args, nargs, &hash) < 0
        || put(m, args[0], hash, args[1], false, &old) < 0)
        return NULL;
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *
map_swap(Map *m, PyObject *const *args, Py_ssize_t nargs)
{
    Py_hash_t hash;
    PyObject *old;
    if (begin("swap(key, value)", 2, args, nargs, &hash) < 0)
        return NULL;
    int r = put(m, args[0], hash, args[1], false, &old);
    return r < 0 ? NULL : pair(old, r);
}

static PyObject *
map_load_or_store(Map *m, PyObject *const *args, Py_ssize_t nargs)
{
    Py_hash_t hash;
    PyObject *old;
    if (begin("load_or_store(key, value)", 2, args, nargs, &hash) < 0)
        return NULL;
    int r = put(m, args[0], hash, args[1], true, &old);
    return r < 0 ? NULL : pair(old ? old : Py_NewRef(args[1]), r);
}

/* Take key out: 1 and *value (owned), 0, or -1 with an exception set. */
static int
take(Map *m, PyObject *key, Py_hash_t hash, PyObject *old, PyObject **value)
{
    entry *e;
    PyObject *drop = NULL;
    *value = NULL;
    py_acquire(&m->lock);
    int r = old ? find_pair(m, key, hash, old, &e, &drop) : find(m, key, hash, &e);
    if (r == 1)
        take_out(m, e);
    py_release(&m->lock);
    Py_XDECREF(drop);
    if (r == 1) {
        *value = e->value;
        e->value = NULL;
        free_entry(e);
    }
    return r;
}

static PyObject *
map_load_and_delete(Map *m, PyObject *key)
{
    Py_hash_t hash;
    PyObject *value;
    if (begin("load_and_delete(key)", 1, &key, 1, &hash) < 0)
        return NULL;
    int r = take(m, key, hash, NULL, &value);
    return r < 0 ? NULL : pair(value, r);
}

static PyObject *
map_delete(Map *m, PyObject *key)
{
    Py_hash_t hash;
    PyObject *value;
    if (begin("delete(key)", 1, &key, 1, &hash) < 0 || take(m, key, hash, NULL, &value) < 0)
        return NULL;
    Py_XDECREF(value);
    Py_RETURN_NONE;
}

static PyObject *
map_compare_and_delete(Map *m, PyObject *const *args, Py_ssize_t nargs)
{
    Py_hash_t hash;
    PyObject *value;
    if (begin("compare_and_delete(key, old)", 2, args, nargs, &hash) < 0)
        return NULL;
    int r = take(m, args[0], hash, args[1], &value);
    Py_XDECREF(value);
    return r < 0 ? NULL : PyBool_FromLong(r);
}

static PyObject *
map_compare_and_swap(Map *m, PyObject *const *args, Py_ssize_t nargs)
{
    Py_hash_t hash;
    entry *e;
    PyObject *value = NULL, *drop;
    if (begin("compare_and_swap(key, old, new)", 3, args, nargs, &hash) < 0)
        return NULL;
    py_acquire(&m->lock);
    int r = find_pair(m, args[0], hash, args[1], &e, &drop);
    if (r == 1) {
        value = e->value;
        e->value = Py_NewRef(args[2]);
    }
    py_release(&m->lock);
    Py_XDECREF(drop);
    Py_XDECREF(value);
    return r < 0 ? NULL : PyBool_FromLong(r);
}

static int
map_contains(Map *m, PyObject *key)
{
    entry *e;
    Py_hash_t hash = PyObject_Hash(key);
    if (hash == -1)
        return -1;
    py_acquire(&m->lock);
    int r = find(m, key, hash, &e);
    py_release(&m->lock);
    return r;
}

static Py_ssize_t
map_len(Map *m)
{
    py_acquire(&m->lock);
    Py_ssize_t len = m->len;
    py_release(&m->lock);
    return len;
}

static int
map_clear_all(Map *m)
{
    py_acquire(&m->lock);
    entry **buckets = m->buckets;
    size_t n = buckets ? (size_t)1 << m->bits : 0;
    m->buckets = NULL;
    m->len = 0;
    m->version++;
    py_release(&m->lock);
    for (size_t i = 0; i < n; i++)
        for (entry *e = buckets[i], *next; e != NULL; e = next) {
            next = e->next;
            free_entry(e);
        }
    PyMem_Free(buckets);
    return 0;
}

static PyObject *
map_clear(Map *m, PyObject *Py_UNUSED(ignored))
{
    map_clear_all(m);
    Py_RETURN_NONE;
}

/* All pairs there are at one moment. */
static PyObject *
map_items(Map *m, PyObject *Py_UNUSED(ignored))
{
    PyObject **found = NULL;    /* owned array of owned keys and values */
    Py_ssize_t room = 0, n = 0;
    for (;;) {
        py_acquire(&m->lock);
        Py_ssize_t len = m->len;
        if (len <= room)
            break;
        py_release(&m->lock);
        room = len;
        PyMem_Free(found);
        found = PyMem_New(PyObject *, 2 * (size_t)room);
        if (found == NULL)
            return PyErr_NoMemory();
    }
    for (size_t i = 0; m->buckets != NULL && i < (size_t)1 << m->bits; i++)
        for (entry *e = m->buckets[i]; e != NULL; e = e->next) {
            found[n++] = Py_NewRef(e->key);
            found[n++] = Py_NewRef(e->value);
        }
    py_release(&m->lock);
    PyObject *list = PyList_New(n / 2);
    for (Py_ssize_t i = 0; i < n; i += 2) {
        PyObject *item = list ? PyTuple_Pack(2, found[i], found[i + 1]) : NULL;
        if (item != NULL)
            PyList_SET_ITEM(list, i / 2, item);
        else
            Py_CLEAR(list);
        Py_DECREF(found[i]);
        Py_DECREF(found[i + 1]);
    }
    PyMem_Free(found);
    return list;
}

static PyObject *
map_range(Map *m, PyObject *fn)
{
    if (!PyCallable_Check(fn)) {
        PyErr_Format(PyExc_TypeError, "Map.range() needs a callable, got %.200s",
                     Py_TYPE(fn)->tp_name);
        return NULL;
    }
    PyObject *items = map_items(m, NULL);
    if (items == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); i++) {
        PyObject *r = PyObject_Call(fn, PyList_GET_ITEM(items, i), NULL);
        bool stop = r == Py_False;
        if (r == NULL) {
            Py_DECREF(items);
            return NULL;
        }
        Py_DECREF(r);
        if (stop)
            break;
    }
    Py_DECREF(items);
    Py_RETURN_NONE;
}

/* ---- life ---- */

static int
map_traverse(Map *m, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(m));
    for (size_t i = 0; m->buckets != NULL && i < (size_t)1 << m->bits; i++)
        for (entry *e = m->buckets[i]; e != NULL; e = e->next) {
            Py_VISIT(e->key);
            Py_VISIT(e->value);
        }
    return 0;
}

static PyObject *
map_repr(Map *m)
{
    return PyUnicode_FromFormat("<Map of %zd at %p>", map_len(m), (void *)m);
}

static PyMethodDef map_methods[] = {
    {"load", (PyCFunction)map_load, METH_O,
     "load($self, key, /)\n--\n\n"
     "(value, True), or (None, False) if there is none.  Go: sync.Map.Load."},
    {"store", PY_FAST(map_store),
     "store($self, key, value, /)\n--\n\nSet the value of a key.  Go: sync.Map.Store."},
    {"swap", PY_FAST(map_swap),
     "swap($self, key, value, /)\n--\n\n"
     "Set the value; (previous, True), or (None, False) if there was none.\n\n"
     "Go: sync.Map.Swap."},
    {"load_or_store", PY_FAST(map_load_or_store),
     "load_or_store($self, key, value, /)\n--\n\n"
     "(the value there is, True), or store value and return (value, False).\n\n"
     "Go: sync.Map.LoadOrStore."},
    {"load_and_delete", (PyCFunction)map_load_and_delete, METH_O,
     "load_and_delete($self, key, /)\n--\n\n"
     "Delete the key; (its value, True), or (None, False) if there was none.\n\n"
     "Go: sync.Map.LoadAndDelete."},
    {"delete", (PyCFunction)map_delete, METH_O,
     "delete($self, key, /)\n--\n\nDelete the key if it is there.  Go: sync.Map.Delete."},
    {"compare_and_swap", PY_FAST(map_compare_and_swap),
     "compare_and_swap($self, key, old, new, /)\n--\n\n"
     "Set the value to new if it equals old; whether it did.  Go: sync.Map.CompareAndSwap."},
    {"compare_and_delete", PY_FAST(map_compare_and_delete),
     "compare_and_delete($self, key, old, /)\n--\n\n"
     "Delete the key if its value equals old; whether it did.\n\n"
     "Go: sync.Map.CompareAndDelete."},
    {"range", (PyCFunction)map_range, METH_O,
     "range($self, fn, /)\n--\n\n"
     "Call fn(key, value) for what is in the map now, until it returns False.\n\n"
     "fn may change the map.  Go: sync.Map.Range."},
    {"items", (PyCFunction)map_items, METH_NOARGS,
     "items($self)\n--\n\nA list of (key, value): what is in the map now, in no order."},
    {"clear", (PyCFunction)map_clear, METH_NOARGS,
     "clear($self)\n--\n\nDelete all keys.  Go: sync.Map.Clear."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, "Map[K, V], for type checkers."},
    {0},
};
static PyMemberDef map_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Map, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot map_slots[] = {
    {Py_tp_dealloc, py_sync_dealloc_gc},
    {Py_tp_traverse, map_traverse},
    {Py_tp_clear, map_clear_all},
    {Py_sq_length, map_len},
    {Py_sq_contains, map_contains},
    {Py_tp_methods, map_methods},
    {Py_tp_members, map_members},
    {Py_tp_repr, map_repr},
    {Py_tp_doc,
     "Map()\n--\n\n"
     "A dictionary for several goroutines and threads; each method is one atomic step.\n\n"
     "    session, loaded = sessions.load_or_store(name, Session())\n\n"
     "With keys of any hashable type.  No order is promised.\n\n"
     "Go: sync.Map."},
    {0, NULL},
};
static PyType_Spec map_spec = {
    "runtime.sync.Map", sizeof(Map), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, map_slots};

int
py_map_init_types(PyObject *module)
{
    return py_add_type(module, &map_spec, &core->map_type, true);
}
