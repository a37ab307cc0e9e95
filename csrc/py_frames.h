/* py_frames.h - what a thread's Python frames tell about leaving them for a while. */
#ifndef PY_FRAMES_H
#define PY_FRAMES_H

#include <stdbool.h>

#include "py_compat.h"

/* Which frames must not be left; set once, by way of py_frames_init(). */
typedef struct {
    PyObject *module;           /* borrowed: the core's; its locks are those of goroutines */
    PyObject *files;            /* owned frozenset: their code objects' co_filename */
    PyObject *functions;        /* owned frozenset of (co_filename, co_qualname) */
    PyObject *exempt;           /* owned dict: functions in these files that hold nothing while
                                   they call others; True: nor matters who has called them */
    PyObject *thread_locks;     /* owned tuple of types: threading's locks */
    PyTypeObject *raw_io;       /* owned: io.RawIOBase, as C code sees it */
    PyTypeObject *generator_cm; /* owned: contextlib._GeneratorContextManager */
    PyTypeObject *exit_stack;   /* owned: contextlib.ExitStack */
    PyObject *acquire, *release, *gen, *py_repr, *exit_callbacks;   /* owned strings */
    bool resumes[256];          /* opcodes after which the eval loop looks for signals */
} py_zones;

/* -1 with an exception set. */
int py_zones_init(py_zones *z, PyObject *module, PyObject *files, PyObject *functions,
                  PyObject *exempt, PyObject *thread_locks, PyObject *raw_io,
                  PyObject *generator_cm, PyObject *exit_stack, const char *resumes,
                  Py_ssize_t nresumes);

/* Does the eval loop itself run signal handlers now, between two instructions?  It
   does so also after calls, but there it cannot be told from C code that looks for
   signals half-way, say while it holds the lock of a file's buffer.  Of the calling
   thread; -1: no memory to see that.  Leaves no exception. */
int py_between_instructions(const py_zones *z, PyThreadState *ts);

/* Why the calling thread's stack must not be left for another one of the same thread,
   as a constant text; NULL: it may be.  anywhere: it may be before any instruction, and not
   just where a function begins or a loop turns.  Runs no Python, leaves no exception. */
const char *py_frames_pinned(const py_zones *z, PyThreadState *ts, bool anywhere);

/* May the calling goroutine wait?  -1 with RuntimeError set: not in a `with` block of one of
   threading's locks, and not in a signal handler.  `what` it does, for the message. */
int py_frames_check_wait(const py_zones *z, PyThreadState *ts, const char *what);

/* A copy of the innermost frames of a thread. */
#define PY_MAX_FRAMES 64
typedef struct {
    int n;
    PyCodeObject *code[PY_MAX_FRAMES];      /* owned; innermost first */
    int lasti[PY_MAX_FRAMES];               /* byte offset of the instruction in it */
} py_stack;

/* Of a thread that cannot run meanwhile.  Allocates nothing. */
void py_stack_take(py_stack *s, PyThreadState *ts);
/* Is the innermost frame inside a call, and not just between two instructions? */
bool py_stack_in_call(const py_zones *z, const py_stack *s);
/* A new list of (file name, line, function), outermost first. */
PyObject *py_stack_list(const py_stack *s);
void py_stack_drop(py_stack *s);

#if PY_HAS_UNCOUNTED_REFS
/* The frames of the calling thread, for py_frames_visit(). */
void *py_frames_here(PyThreadState *ts);
/* For the collector: visit what frames refer to without being counted.  They are in a
   greenlet that has been switched away from; frames may be NULL. */
int py_frames_visit(void *frames, visitproc visit, void *arg);
#endif

#endif
