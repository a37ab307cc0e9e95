/* py_frames.c - may this stack be left now?
 *
 * Preemption can strike between any two instructions, and all goroutines of an M are
 * one thread to the rest of Python.  A goroutine that is left while it holds a lock of
 * that *thread* would make the next one that wants the lock wait for ever (the one
 * that could release it runs on the same thread), or let it in where the lock is
 * reentrant.  So a stack is not left while on it
 *
 *  - a frame belongs to code that holds such locks: the import system, threading,
 *    logging, queue and so on (the list is runtime/_preempt.py);
 *  - a frame is inside a `with` block of something that can be acquired and released, but
 *    for this module's own locks, which belong to goroutines: what was entered lies on the
 *    frame's value stack, and the table of exception handlers says where; or inside a try
 *    block of code that calls both by name;
 *  - a method of an io.RawIOBase runs, for the buffer over it holds its lock;
 *  - the garbage collector runs finalizers: its lists are on this C stack;
 *  - a signal handler of the program's runs: what it has interrupted is not known;
 *  - it is inside repr(), which keeps a list per thread of what it is at.
 *
 * Locks taken by C code that calls back into Python, and locks acquired in one function
 * and released in another, cannot be seen: runtime.nopreempt() is for these.
 *
 * The walk is done at each preemption, at most a hundred times a second, so it may
 * cost some microseconds.  It looks into CPython's frames because the frame objects
 * that the public API would make for each of them do not show the value stack.
 */
#include <Python.h>

#define Py_BUILD_CORE 1
#undef _PyGC_FINALIZED          /* the internal header has its own */
#include "internal/pycore_frame.h"
#include "internal/pycore_interp.h"
#if PY_VERSION_HEX >= 0x030E0000
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "internal/pycore_interpframe.h"
#pragma GCC diagnostic pop
#endif
#undef Py_BUILD_CORE

#include <opcode.h>

#include "py_frames.h"

int
py_zones_init(py_zones *z, PyObject *module, PyObject *files, PyObject *functions,
              PyObject *exempt, PyObject *thread_locks, PyObject *raw_io, PyObject *generator_cm,
              PyObject *exit_stack, const char *resumes, Py_ssize_t nresumes)
{
    if (!PyFrozenSet_CheckExact(files) || !PyFrozenSet_CheckExact(functions)
        || !PyDict_CheckExact(exempt) || !PyTuple_CheckExact(thread_locks)
        || !PyType_Check(raw_io) || !PyType_Check(generator_cm) || !PyType_Check(exit_stack)) {
        PyErr_SetString(PyExc_TypeError,
                        "expected two frozensets, a dict, a tuple of types and three types");
        return -1;
    }
    z->acquire = PyUnicode_InternFromString("acquire");
    z->release = PyUnicode_InternFromString("release");
    z->gen = PyUnicode_InternFromString("gen");
    z->py_repr = PyUnicode_InternFromString("Py_Repr");
    z->exit_callbacks = PyUnicode_InternFromString("_exit_callbacks");
    if (z->acquire == NULL || z->release == NULL || z->gen == NULL || z->py_repr == NULL
        || z->exit_callbacks == NULL)
        return -1;
    z->module = module;
    z->files = Py_NewRef(files);
    z->functions = Py_NewRef(functions);
    z->exempt = Py_NewRef(exempt);
    z->thread_locks = Py_NewRef(thread_locks);
    z->raw_io = (PyTypeObject *)Py_NewRef(raw_io);
    z->generator_cm = (PyTypeObject *)Py_NewRef(generator_cm);
    z->exit_stack = (PyTypeObject *)Py_NewRef(exit_stack);
    for (Py_ssize_t i = 0; i < nresumes; i++)
        z->resumes[(unsigned char)resumes[i]] = true;
    return 0;
}

/* -1: no memory. */
static int
at_resume(const py_zones *z, PyCodeObject *code, int lasti)
{
    PyObject *bytes = PyCode_GetCode(code);
    if (bytes == NULL) {
        PyErr_Clear();
        return -1;
    }
    bool at = lasti >= 0 && lasti < PyBytes_GET_SIZE(bytes)
              && z->resumes[(unsigned char)PyBytes_AS_STRING(bytes)[lasti]];
    Py_DECREF(bytes);
    return at;
}

int
py_between_instructions(const py_zones *z, PyThreadState *ts)
{
    int lasti;
    PyCodeObject *code = (PyCodeObject *)py_caller(ts, &lasti);
    int between = code != NULL ? at_resume(z, code, lasti) : 0;
    Py_XDECREF(code);
    return between;
}

enum zone {
    ZONE_NONE,
    ZONE_LOCKS,                 /* it may hold a lock anywhere */
    ZONE_BOTTOM                 /* it never returns, so what its callers hold is nobody's */
};

/* What is said of a function, by its file or by itself? */
static enum zone
zone_of(const py_zones *z, PyCodeObject *code)
{
    bool file = PySet_Contains(z->files, code->co_filename) == 1;
    if (!file && PySet_GET_SIZE(z->functions) == 0)
        return ZONE_NONE;
    PyObject *key = PyTuple_Pack(2, code->co_filename, code->co_qualname);
    if (key == NULL)
        return ZONE_LOCKS;
    enum zone zone = file ? ZONE_LOCKS : ZONE_NONE;
    PyObject *bottom = file ? PyDict_GetItemWithError(z->exempt, key) : NULL;
    if (bottom != NULL)
        zone = bottom == Py_True ? ZONE_BOTTOM : ZONE_NONE;
    else if (!file && PySet_Contains(z->functions, key) == 1)
        zone = ZONE_LOCKS;
    Py_DECREF(key);
    return zone;
}

/* Has o an attribute of this name?  Runs no Python: what its type does not have is looked
   for in the object itself (threading.Condition keeps its lock's methods there). */
static bool
has(PyObject *o, PyObject *name)
{
    PyTypeObject *type = Py_TYPE(o);
    if (_PyType_Lookup(type, name) != NULL)
        return true;
    if (type->tp_getattro != PyObject_GenericGetAttr)
        return false;
    PyObject *value = PyObject_GenericGetAttr(o, name);
    Py_XDECREF(value);
    PyErr_Clear();
    return value != NULL;
}

/* Which locks are looked for. */
typedef struct {
    const py_zones *z;
    bool known;                 /* just those of threading, in `with` blocks; then found is: */
    PyObject *found;            /* borrowed */
} lock_search;

/* Is it of a type of this module's, or derived from one? */
static bool
is_ours(const py_zones *z, PyObject *o)
{
    for (PyTypeObject *t = Py_TYPE(o); t != NULL; t = t->tp_base)
        if (t->tp_flags & Py_TPFLAGS_HEAPTYPE && ((PyHeapTypeObject *)t)->ht_module == z->module)
            return true;
    return false;
}

/* Something that is acquired and released. */
static bool
is_lock(lock_search *q, PyObject *o)
{
    if (!q->known)
        return has(o, q->z->acquire) && has(o, q->z->release) && !is_ours(q->z, o);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(q->z->thread_locks); i++)
        if (PyObject_TypeCheck(o, (PyTypeObject *)PyTuple_GET_ITEM(q->z->thread_locks, i))) {
            q->found = o;
            return true;
        }
    return false;
}

/* ---- the table of exception handlers (Objects/exception_handling_notes.txt) ---- */

static const unsigned char *
read_varint(const unsigned char *p, int *value)
{
    int v = p[0] & 63;
    while (p[0] & 64) {
        p++;
        v = v << 6 | (p[0] & 63);
    }
    *value = v;
    return p + 1;
}

/* The handler of the instruction at offset `at` (in code units): where it is, and how
   many values are left on the stack for it.  False: none. */
static bool
find_handler(PyCodeObject *code, int at, int *target, int *depth)
{
    const unsigned char *p = (const unsigned char *)PyBytes_AS_STRING(code->co_exceptiontable);
    const unsigned char *end = p + PyBytes_GET_SIZE(code->co_exceptiontable);
    while (p < end) {
        int start, size, depth_and_lasti;
        p = read_varint(p, &start);
        p = read_varint(p, &size);
        p = read_varint(p, target);
        p = read_varint(p, &depth_and_lasti);
        if (start > at)
            return false;
        if (at < start + size) {
            *depth = depth_and_lasti >> 1;
            return true;
        }
    }
    return false;
}

static bool
names_a_lock(const py_zones *z, PyCodeObject *code)
{
    bool acquires = false, releases = false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(code->co_names); i++) {
        PyObject *name = PyTuple_GET_ITEM(code->co_names, i);
        acquires = acquires || name == z->acquire;
        releases = releases || name == z->release;
    }
    return acquires && releases;
}

typedef struct _PyInterpreterFrame iframe;

static inline iframe *
top_frame(PyThreadState *ts)
{
#if PY_VERSION_HEX >= 0x030D0000
    return ts->current_frame;
#else
    return ts->cframe->current_frame;
#endif
}

static inline PyCodeObject *
frame_code(iframe *f)
{
#if PY_VERSION_HEX >= 0x030E0000
    return _PyFrame_GetCode(f);
#elif PY_VERSION_HEX >= 0x030D0000
    return (PyCodeObject *)f->f_executable;
#else
    return f->f_code;
#endif
}

/* f, or the next outer frame that is one of Python code; NULL at the end. */
static inline iframe *
python_frame(iframe *f)
{
#if PY_VERSION_HEX >= 0x030E0000
    while (f != NULL && f->owner >= FRAME_OWNED_BY_INTERPRETER)
        f = f->previous;
#elif PY_VERSION_HEX >= 0x030C0000
    while (f != NULL && f->owner == FRAME_OWNED_BY_CSTACK)
        f = f->previous;
#endif
    return f;
}

static inline int
frame_lasti(iframe *f)
{
#if PY_VERSION_HEX >= 0x030E0000
    return _PyInterpreterFrame_LASTI(f);        /* without a GIL each thread has its copy */
#elif PY_VERSION_HEX >= 0x030D0000
    return (int)(f->instr_ptr - (_Py_CODEUNIT *)frame_code(f)->co_code_adaptive);
#else
    return (int)(f->prev_instr - (_Py_CODEUNIT *)frame_code(f)->co_code_adaptive);
#endif
}

/* The i-th local variable, or what is on the value stack above them: borrowed, or NULL. */
static inline PyObject *
frame_slot(iframe *f, int i)
{
#if PY_VERSION_HEX >= 0x030E0000
    _PyStackRef ref = f->localsplus[i];
    return PyStackRef_IsNullOrInt(ref) ? NULL : PyStackRef_AsPyObjectBorrow(ref);
#else
    return f->localsplus[i];
#endif
}

static inline iframe *
gen_frame(PyGenObject *g)
{
#if PY_VERSION_HEX >= 0x030E0000
    return &g->gi_iframe;
#else
    return (iframe *)g->gi_iframe;
#endif
}

#define MAX_LEVELS 4             /* of context managers made of others */
#define MAX_BLOCKS 128          /* handlers of handlers; the compiler allows 20 nested blocks */

static bool in_lock_block(lock_search *q, iframe *f, int level);
static bool exits_lock(lock_search *q, PyObject *exit, int level);

static bool owns_lock(lock_search *q, PyObject *self, int level);

/* Has a contextlib.ExitStack entered a lock? */
static bool
stack_holds_lock(lock_search *q, PyObject *self, int level)
{
    PyObject *callbacks = PyObject_GenericGetAttr(self, q->z->exit_callbacks);
    Py_ssize_t n = callbacks ? PyObject_Size(callbacks) : 0;
    bool held = false;
    for (Py_ssize_t i = 0; i < n && !held; i++) {
        PyObject *item = PySequence_GetItem(callbacks, i);      /* (is_sync, callback) */
        if (item != NULL && PyTuple_CheckExact(item) && PyTuple_GET_SIZE(item) == 2)
            held = exits_lock(q, PyTuple_GET_ITEM(item, 1), level - 1);
        Py_XDECREF(item);
    }
    Py_XDECREF(callbacks);
    PyErr_Clear();
    return held;
}

/* Is what was entered, whose bound __exit__ is given, a lock, or made of one? */
static bool
exits_lock(lock_search *q, PyObject *exit, int level)
{
    PyObject *self = exit == NULL               ? NULL
                     : PyMethod_Check(exit)    ? PyMethod_GET_SELF(exit)
                     : PyCFunction_Check(exit) ? PyCFunction_GET_SELF(exit)
                                               : NULL;
    return self != NULL && owns_lock(q, self, level);
}

/* Is self, which was entered, a lock, or made of one by contextlib? */
static bool
owns_lock(lock_search *q, PyObject *self, int level)
{
    if (is_lock(q, self))
        return true;
    if (level == 0)
        return false;
    if (Py_IS_TYPE(self, q->z->exit_stack))
        return stack_holds_lock(q, self, level);
    if (!Py_IS_TYPE(self, q->z->generator_cm))
        return false;
    PyObject *gen = PyObject_GenericGetAttr(self, q->z->gen);
    bool held = false;
    if (gen != NULL && PyGen_CheckExact(gen)) {
        PyGenObject *g = (PyGenObject *)gen;
        /* Created, suspended: the frame is complete, and not that of the caller. */
        if (g->gi_frame_state < 0)
            held = in_lock_block(q, gen_frame(g), level - 1);
    }
    Py_XDECREF(gen);
    PyErr_Clear();
    return held;
}

/* Of a `with` block whose handler finds `depth` (> 0) values on f's stack: does it hold a
   lock?  The topmost is the bound __exit__; from 3.14 on that is in two parts, a function
   and its self, which is NULL where it was bound already. */
static bool
block_holds_lock(lock_search *q, iframe *f, int depth, int level)
{
    int top = frame_code(f)->co_nlocalsplus + depth - 1;
    PyObject *o = frame_slot(f, top);
#if PY_VERSION_HEX >= 0x030E0000
    if (o != NULL)
        return owns_lock(q, o, level);
    o = depth > 1 ? frame_slot(f, top - 1) : NULL;
#endif
    return exits_lock(q, o, level);
}

/* Is f, whose code is op[0 ... 2 * n], inside a block that holds a lock when it is at `at`? */
static bool
in_lock_block_at(lock_search *q, iframe *f, const unsigned char *op, int n, int at, int level)
{
    PyCodeObject *code = frame_code(f);
    int target, depth;
    if (!find_handler(code, at, &target, &depth))
        return false;
    if (!q->known && names_a_lock(q->z, code))
        return true;
    bool held = false;
    /* From the innermost block outwards: the handler of a block is itself covered by
       that of the block around it. */
    for (int blocks = 0; !held && blocks < MAX_BLOCKS; blocks++) {
        at = target;
        if (at + 1 < n && op[2 * at] == PUSH_EXC_INFO && op[2 * at + 2] == WITH_EXCEPT_START
            && depth > 0)
            held = block_holds_lock(q, f, depth, level);
        if (!find_handler(code, at, &target, &depth))
            break;
    }
    return held;
}

/* Is f inside a block that holds a lock? */
static bool
in_lock_block(lock_search *q, iframe *f, int level)
{
    PyCodeObject *code = frame_code(f);
    int at = frame_lasti(f);
    if (at < 0 || PyBytes_GET_SIZE(code->co_exceptiontable) == 0)
        return false;
    PyObject *bytes = PyCode_GetCode(code);
    if (bytes == NULL) {
        PyErr_Clear();
        return !q->known;       /* no memory: the careful answer */
    }
    const unsigned char *op = (const unsigned char *)PyBytes_AS_STRING(bytes);
    int n = (int)(PyBytes_GET_SIZE(bytes) / 2);
    bool held = in_lock_block_at(q, f, op, n, at, level);
    /* A call that has taken the lock is over when the eval loop looks for signals, finalizers
       and the like, which may have called us; the block begins only with what follows. */
    for (at++; at < n && !held; at++) {
        held = in_lock_block_at(q, f, op, n, at, level);
        if (op[2 * at] != CACHE && op[2 * at] != POP_TOP && op[2 * at] != NOP)
            break;
    }
    Py_DECREF(bytes);
    return held;
}

/* The i-th argument of f (borrowed), or NULL. */
static PyObject *
frame_arg(iframe *f, int i)
{
    PyObject *o = frame_slot(f, i);
    return o != NULL && PyCell_Check(o) ? PyCell_GET(o) : o;
}

/* Has f been called by the signal machinery?  That passes the signal's number and the
   interrupted frame. */
static bool
is_signal_handler(iframe *f, iframe *outer)
{
    PyObject *frame = outer ? (PyObject *)outer->frame_obj : NULL;
    if (frame == NULL)
        return false;
    PyCodeObject *code = frame_code(f);
    int n = code->co_argcount + code->co_kwonlyargcount + ((code->co_flags & CO_VARARGS) != 0);
    bool number = false;
    for (int i = 0; i < n; i++) {
        PyObject *arg = frame_arg(f, i);
        if (arg == frame)
            return number;
        Py_ssize_t rest = arg != NULL && PyTuple_CheckExact(arg) ? PyTuple_GET_SIZE(arg) : 0;
        for (Py_ssize_t j = 0; j < rest && j < 3; j++) {
            if (PyTuple_GET_ITEM(arg, j) == frame)
                return number;
            number = PyLong_Check(PyTuple_GET_ITEM(arg, j));
        }
        if (rest == 0)
            number = arg != NULL && PyLong_Check(arg);
    }
    return false;
}

static const char *
frames_pinned(const py_zones *z, PyThreadState *ts, bool anywhere)
{
    lock_search any = {.z = z};
    for (iframe *f = python_frame(top_frame(ts)), *outer; f != NULL; f = outer) {
        outer = python_frame(f->previous);
        PyCodeObject *code = frame_code(f);
        enum zone zone = zone_of(z, code);
        if (zone == ZONE_LOCKS)
            return "code that holds locks of its thread";
        if (zone == ZONE_BOTTOM)
            return NULL;
        /* Just before the release of a `finally` the block that shows it is over. */
        if (in_lock_block(&any, f, MAX_LEVELS) || (anywhere && names_a_lock(z, code)))
            return "a lock of its thread";
        PyObject *self = code->co_argcount > 0 ? frame_arg(f, 0) : NULL;
        if (self != NULL && PyObject_TypeCheck(self, z->raw_io))
            return "a raw file";
        if (is_signal_handler(f, outer))
            return "a signal handler";
    }
    return NULL;
}

int
py_frames_check_wait(const py_zones *z, PyThreadState *ts, const char *what)
{
    if (z->thread_locks == NULL)
        return 0;
    lock_search known = {.z = z, .known = true};
    for (iframe *f = python_frame(top_frame(ts)), *outer; f != NULL; f = outer) {
        outer = python_frame(f->previous);
        PyCodeObject *code = frame_code(f);
        if (zone_of(z, code) == ZONE_BOTTOM)
            return 0;
        bool held = in_lock_block(&known, f, MAX_LEVELS);
        PyErr_Clear();
        if (!held && !is_signal_handler(f, outer))
            continue;
        int line = PyCode_Addr2Line(code, frame_lasti(f) * (int)sizeof(_Py_CODEUNIT));
        if (held)
            PyErr_Format(PyExc_RuntimeError,
                         "%s in a block that holds a %s (\"%U\", line %d, in %U): a lock of the "
                         "thread does not keep out its other goroutines, or stops them all; "
                         "use runtime.Mutex, or leave the block first", what,
                         Py_TYPE(known.found)->tp_name, code->co_filename, line,
                         code->co_qualname);
        else
            PyErr_Format(PyExc_RuntimeError,
                         "%s in a signal handler (\"%U\", line %d, in %U): what it has interrupted "
                         "may hold a lock; start a goroutine, or use Chan.try_send()", what,
                         code->co_filename, line, code->co_qualname);
        return -1;
    }
    return 0;
}

static bool
collecting(PyThreadState *ts)
{
    return ts->interp->gc.collecting != 0;
}

void
py_stack_take(py_stack *s, PyThreadState *ts)
{
    iframe *f = python_frame(top_frame(ts));
    for (s->n = 0; f != NULL && s->n < PY_MAX_FRAMES; f = python_frame(f->previous), s->n++) {
        s->code[s->n] = (PyCodeObject *)Py_NewRef(frame_code(f));
        s->lasti[s->n] = frame_lasti(f) * (int)sizeof(_Py_CODEUNIT);
    }
}

#if PY_HAS_UNCOUNTED_REFS

void *
py_frames_here(PyThreadState *ts)
{
    iframe *f = top_frame(ts);
    /* greenlet takes those out of the chain that are on the C stack, or have not begun. */
    while (f != NULL && _PyFrame_IsIncomplete(f))
        f = f->previous;
    return f;
}

static int
visit_uncounted(_PyStackRef ref, visitproc visit, void *arg)
{
    if (PyStackRef_IsDeferred(ref) && !PyStackRef_IsNullOrInt(ref))
        Py_VISIT(PyStackRef_AsPyObjectBorrow(ref));
    return 0;
}

int
py_frames_visit(void *frames, visitproc visit, void *arg)
{
    /* The visitors that subtract what they see from the references that are counted get
       no argument; all others mark objects as in use, or look for one. */
    if (arg == NULL)
        return 0;
    for (iframe *f = frames; f != NULL; f = f->previous) {
        if (f->owner >= FRAME_OWNED_BY_INTERPRETER)
            continue;
        int r = visit_uncounted(f->f_executable, visit, arg);
        if (r == 0)
            r = visit_uncounted(f->f_funcobj, visit, arg);
        /* In a finalizer that the frame has called it may not say how far its stack goes. */
        _PyStackRef *end = f->stackpointer ? f->stackpointer : _PyFrame_Stackbase(f);
        for (_PyStackRef *ref = f->localsplus; r == 0 && ref < end; ref++)
            r = visit_uncounted(*ref, visit, arg);
        if (r != 0)
            return r;
    }
    return 0;
}

#endif

bool
py_stack_in_call(const py_zones *z, const py_stack *s)
{
    return s->n != 0 && at_resume(z, s->code[0], s->lasti[0]) <= 0;
}

PyObject *
py_stack_list(const py_stack *s)
{
    PyObject *list = PyList_New(0);
    for (int i = s->n - 1; list != NULL && i >= 0; i--) {
        PyCodeObject *code = s->code[i];
        PyObject *item = Py_BuildValue("(OiO)", code->co_filename,
                                       PyCode_Addr2Line(code, s->lasti[i]), code->co_qualname);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

void
py_stack_drop(py_stack *s)
{
    while (s->n > 0)
        Py_DECREF(s->code[--s->n]);
}

const char *
py_frames_pinned(const py_zones *z, PyThreadState *ts, bool anywhere)
{
    if (collecting(ts))
        return "the garbage collector";
    PyObject *repr = ts->dict ? PyDict_GetItemWithError(ts->dict, z->py_repr) : NULL;
    if (repr != NULL && PyList_CheckExact(repr) && PyList_GET_SIZE(repr) != 0)
        return "repr()";
    const char *why = frames_pinned(z, ts, anywhere);
    PyErr_Clear();
    return why;
}
