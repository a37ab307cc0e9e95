/* py_points.c - the points where an explored goroutine may be preempted.
 *
 * A point lies before an instruction that may see what other goroutines do, or show them
 * something: loads and stores of attributes, items, globals and cells, calls, iteration,
 * operators.  Before those that touch nothing but the frame's own variables and stack
 * it makes no difference whether others run, so there is none: that leaves a third of the
 * instructions, and as many schedules less that are the same.  Or a point lies before each
 * line.  Only code of the program counts (see runtime/_explore_points.py): the standard library
 * and this package are left alone.
 *
 * 3.11: a C trace function in the thread state of the M that explores, while an explored
 * goroutine runs.  A trace function that was there before goes on to be called, by ours.
 * 3.12 and newer: events of a sys.monitoring tool, local to the code objects of the program,
 * which runtime/_explore_points.py turns on as they are first run.
 *
 * One thread at a time explores, so there is one state.
 */
#include "py_explore.h"

#if PY_VERSION_HEX < 0x030C0000
#define Py_BUILD_CORE 1
#undef _PyGC_FINALIZED
#include "internal/pycore_frame.h"
#undef Py_BUILD_CORE
#endif

#include <opcode.h>

typedef struct {
    PyCodeObject *code;         /* owned; NULL: free */
    unsigned char *bits;        /* owned: one for each code unit; NULL: it has no points */
} entry;

static struct {
    py_m *_Atomic mp;           /* who explores, or NULL; all else is its thread's, but for
                                   where there is none */
    int where;
    PyObject *is_program;       /* owned: runtime._explore_points.is_program(code) -> bool */
    PyObject *disable;          /* owned: sys.monitoring.DISABLE */
    unsigned char kinds[256];   /* OP_* of each opcode */
    entry *table;               /* of the code seen, by address; a power of two long */
    size_t cap, used;
#if PY_VERSION_HEX < 0x030C0000
    Py_tracefunc other;         /* the trace function that was there before, or NULL */
#endif
} points;

enum {                          /* kinds of opcodes; runtime/_explore_points.py has the lists */
    OP_SHARED,
    OP_LOCAL,                   /* touches nothing that is shared */
    OP_LOCAL_IF_CALL,           /* where its argument says that a call follows */
    OP_LOCAL_TEST,              /* the same, and yields a bool */
    OP_SHARED_TEST,             /* yields a bool */
    OP_AFTER_TEST               /* looks at the truth of the value on top */
};

/* ---- which instructions ---- */

static bool
loads_none(PyCodeObject *code, unsigned char opcode, unsigned char arg)
{
    return opcode == LOAD_CONST && arg < PyTuple_GET_SIZE(code->co_consts)
           && PyTuple_GET_ITEM(code->co_consts, arg) == Py_None;
}

static unsigned char *
find_points(PyCodeObject *code)
{
    PyObject *bytes = PyCode_GetCode(code);
    if (bytes == NULL)
        return NULL;
    const unsigned char *op = (const unsigned char *)PyBytes_AS_STRING(bytes);
    Py_ssize_t n = PyBytes_GET_SIZE(bytes) / 2;
    unsigned char *bits = PyMem_Calloc((size_t)n / 8 + 1, 1);
    if (bits == NULL)
        PyErr_NoMemory();
    bool tested = false;
    int nones = 0;              /* LOAD_CONST None in a row */
    Py_ssize_t first = -1;      /* of the EXTENDED_ARGs before */
    for (Py_ssize_t i = 0; bits != NULL && i < n; i++) {
        unsigned char kind = points.kinds[op[2 * i]];
        if (op[2 * i] == CACHE)
            continue;
        if (op[2 * i] == EXTENDED_ARG) {
            first = first < 0 ? i : first;
            continue;
        }
        /* At its end a `with` block still holds what it has entered, and does not show it. */
        bool exits = nones >= 3 && kind == OP_SHARED;
        bool local = exits || kind == OP_LOCAL || kind == OP_LOCAL_TEST
                     || (kind == OP_LOCAL_IF_CALL && op[2 * i + 1] & 1)
                     || (kind == OP_AFTER_TEST && tested);
        for (Py_ssize_t j = first < 0 ? i : first; j <= i && !local; j++)
            bits[j / 8] |= (unsigned char)(1 << j % 8);
        tested = kind == OP_LOCAL_TEST || kind == OP_SHARED_TEST;
        first = -1;
        if (loads_none(code, op[2 * i], op[2 * i + 1]))
            nones++;
#ifdef PRECALL
        else if (op[2 * i] != PRECALL)
#else
        else
#endif
            nones = 0;
    }
    Py_DECREF(bytes);
    return bits;
}

static entry *
find_entry(entry *table, size_t cap, PyCodeObject *code)
{
    size_t i = ((uintptr_t)code >> 4) * 0x9E3779B1u & (cap - 1);
    while (table[i].code != NULL && table[i].code != code)
        i = (i + 1) & (cap - 1);
    return &table[i];
}

static int
grow_table(void)
{
    size_t cap = points.cap ? 2 * points.cap : 64;
    entry *table = PyMem_Calloc(cap, sizeof(*table));
    if (table == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < points.cap; i++)
        if (points.table[i].code != NULL)
            *find_entry(table, cap, points.table[i].code) = points.table[i];
    PyMem_Free(points.table);
    points.table = table;
    points.cap = cap;
    return 0;
}

/* New code: has it points?  Runs Python. */
static RT_NOINLINE int
add_entry(PyCodeObject *code)
{
    PyObject *r = PyObject_CallOneArg(points.is_program, (PyObject *)code);
    if (r == NULL)
        return -1;
    bool yes = r == Py_True;
    Py_DECREF(r);
    if (2 * points.used >= points.cap && grow_table() < 0)
        return -1;
    entry *e = find_entry(points.table, points.cap, code);
    if (e->code != NULL)
        return 0;
    unsigned char *bits = yes ? find_points(code) : NULL;
    if (yes && bits == NULL)
        return -1;
    points.used++;
    e->code = (PyCodeObject *)Py_NewRef(code);
    e->bits = bits;
    return 0;
}

/* The points of code, or NULL: it has none, or, with an exception set, no memory. */
static inline const unsigned char *
points_of(PyCodeObject *code)
{
    entry *e = points.cap ? find_entry(points.table, points.cap, code) : NULL;
    if (RT_UNLIKELY(e == NULL || e->code == NULL)) {
        if (add_entry(code) < 0)
            return NULL;
        e = find_entry(points.table, points.cap, code);
    }
    return e->bits;
}

static void
drop_table(void)
{
    entry *table = points.table;
    size_t cap = points.cap;
    points.table = NULL;
    points.cap = points.used = 0;
    for (size_t i = 0; i < cap; i++) {
        Py_XDECREF(table[i].code);
        PyMem_Free(table[i].bits);
    }
    PyMem_Free(table);
}

static inline bool
is_point(const unsigned char *bits, int offset)
{
    return bits[offset / 16] >> offset / 2 % 8 & 1;
}

/* Does an explored goroutine run on this thread? */
static inline py_m *
exploring(void)
{
    py_m *mp = py_tls_m;
    return mp != NULL && mp == RT_LOAD(points.mp) && mp->curg != NULL && mp->curg->g.held ? mp : NULL;
}

/* ---- being called there ---- */

#if PY_VERSION_HEX < 0x030C0000

static int
on_call(PyFrameObject *frame)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    bool has_points = points_of(code) != NULL;
    Py_DECREF(code);
    if (PyErr_Occurred())
        return -1;
    frame->f_trace_opcodes = has_points && points.where == PY_POINTS_OPCODE;
    if (points.other == NULL)
        frame->f_trace_lines = has_points && points.where == PY_POINTS_LINE;
    return 0;
}

static int
on_trace(PyObject *obj, PyFrameObject *frame, int what, PyObject *arg)
{
    int r = 0;
    if (what == PyTrace_OPCODE) {
        py_m *mp = exploring();
        if (mp == NULL)
            return 0;
        _PyInterpreterFrame *f = frame->f_frame;
        const unsigned char *bits = points_of(f->f_code);
        if (bits != NULL && is_point(bits, _PyInterpreterFrame_LASTI(f) * 2))
            return py_explore_point(mp);
        return PyErr_Occurred() ? -1 : 0;
    }
    if (points.other != NULL && (r = points.other(obj, frame, what, arg)) < 0)
        return r;
    if (what == PyTrace_CALL && exploring() != NULL)
        return on_call(frame);
    if (what == PyTrace_LINE && points.where == PY_POINTS_LINE) {
        py_m *mp = exploring();
        if (mp != NULL && points_of(frame->f_frame->f_code) != NULL)
            return py_explore_point(mp);
        return PyErr_Occurred() ? -1 : 0;
    }
    return r;
}

/* Fields are set here as _PyEval_SetTrace() would; that one raises an audit event, and
   nobody has called sys.settrace(). */
static inline void
set_trace(PyThreadState *ts, Py_tracefunc fn)
{
    ts->c_tracefunc = fn;
    bool traced = ts->tracing == 0 && (fn != NULL || ts->c_profilefunc != NULL);
    ts->cframe->use_tracing = traced ? 255 : 0;
}

/* A greenlet goes on with the use_tracing of the one that has switched to it. */
void
py_points_enter(py_m *mp)
{
    PyThreadState *ts = mp->tstate;
    RT_STORE(points.mp, mp);
    if (points.where == PY_POINTS_NONE)
        return;
    if (ts->c_tracefunc != on_trace)
        points.other = ts->c_tracefunc;
    set_trace(ts, on_trace);
}

void
py_points_leave(py_m *mp)
{
    PyThreadState *ts = mp->tstate;
    if (ts->c_tracefunc == on_trace)
        set_trace(ts, points.other);
}

#else

void
py_points_enter(py_m *mp)
{
    RT_STORE(points.mp, mp);
}

void
py_points_leave(py_m *Py_UNUSED(mp))
{
}

#endif

void
py_points_over(py_m *mp)
{
    if (RT_LOAD(points.mp) == mp)
        RT_STORE(points.mp, NULL);
}

/* The callback of sys.monitoring: (code, offset or line). */
static PyObject *
m_on_point(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    py_m *mp = exploring();
    if (mp == NULL || nargs != 2 || !PyCode_Check(args[0]))
        Py_RETURN_NONE;
    const unsigned char *bits = points_of((PyCodeObject *)args[0]);
    if (bits == NULL && PyErr_Occurred())
        return NULL;
    if (bits == NULL || (points.where == PY_POINTS_OPCODE
                         && !is_point(bits, (int)PyLong_AsLong(args[1]))))
        return Py_NewRef(points.disable);
    if (py_explore_point(mp) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Called once by the package. */
static PyObject *
m_set_points(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *is_program, *disable;
    const char *kinds;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "Oy#O:_set_points", &is_program, &kinds, &n, &disable))
        return NULL;
    if (n != (Py_ssize_t)sizeof(points.kinds)) {
        PyErr_SetString(PyExc_ValueError, "expected the kinds of 256 opcodes");
        return NULL;
    }
    memcpy(points.kinds, kinds, sizeof(points.kinds));
    Py_XSETREF(points.is_program, Py_NewRef(is_program));
    Py_XSETREF(points.disable, Py_NewRef(disable));
    Py_RETURN_NONE;
}

static PyObject *
m_in_bubble(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(py_bubble_current() != NULL);
}

static PyObject *
m_points_begin(PyObject *Py_UNUSED(module), PyObject *where)
{
    int n = (int)PyLong_AsLong(where);
    if (n == -1 && PyErr_Occurred())
        return NULL;
    points.where = n;
    Py_RETURN_NONE;
}

static PyObject *
m_points_end(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    points.where = PY_POINTS_NONE;
    if (RT_LOAD(points.mp) == NULL)         /* or else some run on, whom nobody waits for */
        drop_table();
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"_in_bubble", m_in_bubble, METH_NOARGS, NULL},
    {"_points_begin", m_points_begin, METH_O, NULL},
    {"_points_end", m_points_end, METH_NOARGS, NULL},
    {"_on_point", (PyCFunction)(void (*)(void))m_on_point, METH_FASTCALL, NULL},
    {"_set_points", m_set_points, METH_VARARGS, NULL},
    {0},
};

int
py_points_init(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
