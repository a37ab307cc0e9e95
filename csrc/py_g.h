/* py_g.h - slots of the type Goroutine, which py_g_methods.c makes, that are in py_g.c. */
#ifndef PY_G_H
#define PY_G_H

#include "py_core.h"

int py_g_traverse(Goroutine *gp, visitproc visit, void *arg);
int py_g_clear(Goroutine *gp);
void py_g_finalize(PyObject *self);
void py_g_dealloc(Goroutine *gp);

#endif
