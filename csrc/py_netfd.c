#include "py_core.h"
int py_netfd_init_types(PyObject *module) { (void)module; return 0; }
