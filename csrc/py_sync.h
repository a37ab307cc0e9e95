/* py_sync.h - what the files of runtime.sync share.
 *
 * A lock whose uncontended path must be quick is one word: who it is held by, and the bit
 * PY_SLOW, which is set while anybody waits.  Without that bit the word is changed with one
 * compare-and-swap and nothing else.  Who has to look further takes the object's py_lock, sets
 * the bit, and from then on owns the word until it lets go of the py_lock; it clears the bit
 * again when nobody waits any more.
 */
#ifndef PY_SYNC_H
#define PY_SYNC_H

#include "py_wait.h"

typedef _Atomic uint32_t py_word;
#define PY_SLOW (1u << 30)

/* Lock or unlock without looking at anything else.  Pairs with itself in other threads. */
static inline bool
py_word_flip(py_word *word, uint32_t from, uint32_t to)
{
#ifdef Py_GIL_DISABLED
    return atomic_compare_exchange_strong_explicit(word, &from, to, memory_order_acq_rel,
                                                   memory_order_relaxed);
#else
    if (RT_LOAD(*word) != from)
        return false;
    RT_STORE(*word, to);
    return true;
#endif
}

/* Own the word, the py_lock being held; returns it with PY_SLOW. */
static inline uint32_t
py_word_own(py_word *word)
{
#ifdef Py_GIL_DISABLED
    return atomic_fetch_or_explicit(word, PY_SLOW, memory_order_acq_rel) | PY_SLOW;
#else
    RT_STORE(*word, RT_LOAD(*word) | PY_SLOW);
    return RT_LOAD(*word);
#endif
}

/* By who owns it. */
static inline void
py_word_set(py_word *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

#define PY_FAST(fn) (PyCFunction)(void (*)(void))fn, METH_FASTCALL
#define PY_FASTKW(fn) (PyCFunction)(void (*)(void))fn, METH_FASTCALL | METH_KEYWORDS

/* tp_dealloc of objects that refer to no others and can be referred to weakly. */
void py_sync_dealloc(PyObject *self);
/* tp_dealloc of those the collector knows, which have a tp_clear. */
void py_sync_dealloc_gc(PyObject *self);

/* The limits of a call whose own argument n=1 may come first; -1 with an exception set. */
int py_amount_parse(int64_t *n, py_limits *limits, const char *usage, PyObject *const *args,
                    Py_ssize_t nargs, PyObject *kwnames);

/* py_mutex.c: op is one. */
int py_mutex_lock(PyObject *op, const py_limits *limits);
int py_mutex_unlock(PyObject *op);

int py_mutex_init_types(PyObject *module);
int py_rwmutex_init_types(PyObject *module);
int py_waitgroup_init_types(PyObject *module);
int py_once_init_types(PyObject *module);
int py_cond_init_types(PyObject *module);
int py_sema_init_types(PyObject *module);
int py_event_init_types(PyObject *module);
int py_atomic_init_types(PyObject *module);
int py_map_init_types(PyObject *module);
int py_shed_init_types(PyObject *module);

#endif
