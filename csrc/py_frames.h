/* py_frames.h - what a thread's Python frames tell about leaving them for a while. */
#ifndef PY_FRAMES_H
#define PY_FRAMES_H

#include <stdbool.h>

#include "py_compat.h"

/* Which frames must not be left; set once, by way of py_frames_init(). */
typedef struct {
    PyObject *files;            /* owned frozenset: their code objects' co_filename */
    PyObject *functions;        /* owned frozenset of (co_filename, co_qualname) */
    PyTypeObject *raw_io;       /* owned: io.RawIOBase, as C code sees it */
    PyTypeObject *generator_cm; /* owned: contextlib._GeneratorContextManager */
    PyTypeObject *exit_stack;   /* owned: contextlib.ExitStack */
    PyObject *acquire, *release, *gen, *py_repr, *exit_callbacks;   /* owned strings */
    bool resumes[256];          /* opcodes after which the eval loop looks for signals */
} py_zones;

/* -1 with an exception set. */
int py_zones_init(py_zones *z, PyObject *files, PyObject *functions, PyObject *raw_io,
                  PyObject *generator_cm, PyObject *exit_stack, const char *resumes,
                  Py_ssize_t nresumes);

/* Does the eval loop itself run signal handlers now, between two instructions?  It
   does so also after calls, but there it cannot be told from C code that looks for
   signals half-way, say while it holds the lock of a file's buffer.  Of the calling
   thread; leaves no exception. */
bool py_between_instructions(const py_zones *z, PyThreadState *ts);

/* Why the calling thread's stack must not be left for another one of the same thread,
   as a constant text; NULL: it may be.  Runs no Python, leaves no exception. */
const char *py_frames_pinned(const py_zones *z, PyThreadState *ts);

/* The stack of a thread that does not run: a new list of (file name, line, function),
   outermost first, at most max of the innermost; NULL with an exception set.  *in_call:
   the innermost frame is inside a call. */
PyObject *py_frames_list(const py_zones *z, PyThreadState *ts, int max, bool *in_call);

#endif
