/* py_module.c - the extension module runtime._core: start-up and what is shared.
 *
 * The scheduler is one per process, so the module can be loaded by one interpreter
 * only; a second one is refused with ImportError.
 */
#include "py_explore.h"
#include "py_inspect.h"

int
py_add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **slot, bool publish)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();   /* CPython 3.12 forgets it where it copies the name */
        return -1;
    }
    *slot = (PyTypeObject *)type;
    return publish ? PyModule_AddType(module, *slot) : 0;
}

static int
add_exception(PyObject *module, const char *name, const char *doc, PyObject *base,
              PyObject **slot)
{
    *slot = PyErr_NewExceptionWithDoc(name, doc, base, NULL);
    if (*slot == NULL)
        return -1;
    return PyModule_AddObjectRef(module, strrchr(name, '.') + 1, *slot);
}

/* ---- the module ---- */

static PyObject *
m_stats(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return py_stats();
}

/* Called once by the package: Python functions the core calls on rare occasions. */
static PyObject *
m_set_hooks(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *report, *may_deadlock, *end_child, *nothing;
    if (!PyArg_ParseTuple(args, "OOOO:_set_hooks", &report, &may_deadlock, &end_child, &nothing))
        return NULL;
    Py_XSETREF(core->report_failure, Py_NewRef(report));
    Py_XSETREF(core->may_deadlock, Py_NewRef(may_deadlock));
    Py_XSETREF(core->end_child, Py_NewRef(end_child));
    Py_XSETREF(core->nothing, Py_NewRef(nothing));
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"stats", m_stats, METH_NOARGS,
     "stats()\n--\n\n"
     "A snapshot of the scheduler's counters, as a dict of numbers and lists of dicts."},
    {"_set_hooks", m_set_hooks, METH_VARARGS, NULL},
    {0},
};

/* The netpoller's table comes from its cffi module, as an address. */
static const rt_netpoll_ops *
netpoll_table(void)
{
    PyObject *mod = PyImport_ImportModule("runtime._netpoll");
    PyObject *ffi = mod ? PyObject_GetAttrString(mod, "ffi") : NULL;
    PyObject *lib = ffi ? PyObject_GetAttrString(mod, "lib") : NULL;
    PyObject *ptr = lib ? PyObject_CallMethod(lib, "rt_netpoll_default", NULL) : NULL;
    PyObject *cast = ptr ? PyObject_CallMethod(ffi, "cast", "sO", "uintptr_t", ptr) : NULL;
    PyObject *addr = cast ? PyNumber_Long(cast) : NULL;
    const rt_netpoll_ops *ops = addr ? PyLong_AsVoidPtr(addr) : NULL;
    Py_XDECREF(addr);
    Py_XDECREF(cast);
    Py_XDECREF(ptr);
    Py_XDECREF(lib);
    Py_XDECREF(ffi);
    Py_XDECREF(mod);
    return ops;
}

static unsigned long
main_thread_ident(void)
{
    unsigned long ident = 0;
    PyObject *threading = PyImport_ImportModule("threading");
    PyObject *thread = threading ? PyObject_CallMethod(threading, "main_thread", NULL) : NULL;
    PyObject *value = thread ? PyObject_GetAttrString(thread, "ident") : NULL;
    if (value != NULL)
        ident = PyLong_AsUnsignedLong(value);
    Py_XDECREF(value);
    Py_XDECREF(thread);
    Py_XDECREF(threading);
    return ident;
}

/* When a thread has ended greenlet guesses from reference counts whether its main greenlet
   has leaked.  Without a GIL they may be late, and it frees what is in use. */
static int
stop_greenlet_guessing(void)
{
#ifdef Py_GIL_DISABLED
    PyObject *mod = PyImport_ImportModule("greenlet._greenlet");
    PyObject *r = mod ? PyObject_CallMethod(mod, "enable_optional_cleanup", "O", Py_False) : NULL;
    Py_XDECREF(mod);
    if (r == NULL)
        return -1;
    Py_DECREF(r);
#endif
    return 0;
}

/* CPython allocates the state, but aligns it for its own needs only. */
static py_core *
align_state(void *state)
{
    uintptr_t align = _Alignof(py_core);
    return (py_core *)(((uintptr_t)state + align - 1) & ~(align - 1));
}

static int
module_exec(PyObject *module)
{
    if (core != NULL) {
        PyErr_SetString(PyExc_ImportError,
                        "runtime is loaded by another interpreter of this process already");
        return -1;
    }
    PyGreenlet_Import();
    if (_PyGreenlet_API == NULL || stop_greenlet_guessing() < 0)
        return -1;
    const rt_netpoll_ops *ops = netpoll_table();
    if (ops == NULL)
        return -1;
    core = align_state(PyModule_GetState(module));
    core->module = module;
    core->main_ident = main_thread_ident();
    if (PyErr_Occurred())
        goto fail;
    py_stack_install();
    if (add_exception(module, "runtime.GoExit",
                      "Ends a goroutine; raised by goexit(), not to be caught.",
                      PyExc_BaseException, &core->exc_goexit) < 0
        || add_exception(module, "runtime.Cancelled",
                         "The goroutine was cancelled; let it pass after cleaning up.",
                         PyExc_BaseException, &core->exc_cancelled) < 0
        || add_exception(module, "runtime.ChanClosed",
                         "The channel is closed: nothing can be sent, or nothing is left.",
                         PyExc_Exception, &core->exc_closed) < 0
        || add_exception(module, "runtime.DeadlockError",
                         "All goroutines wait, and nothing is left that could wake one.",
                         PyExc_RuntimeError, &core->exc_deadlock) < 0
        || PyModule_AddFunctions(module, functions) < 0 || py_g_init_types(module) < 0
        || py_go_init(module) < 0 || py_chan_init_types(module) < 0
        || py_sync_init_types(module) < 0 || py_chan_view_init_types(module) < 0
        || py_select_init(module) < 0
        || py_time_init_types(module) < 0
        || py_netfd_init_types(module) < 0 || py_http_init_types(module) < 0
        || py_sched_init(module, ops) < 0 || py_m_init(module) < 0
        || py_preempt_init(module) < 0 || py_bubble_init(module) < 0
        || py_explore_init_types(module) < 0 || py_points_init(module) < 0
        || py_inspect_init(module) < 0 || py_groups_init(module) < 0
        || py_orphan_init(module) < 0)
        goto fail;
    py_sysmon_init();
    return 0;

fail:
    core = NULL;
    return -1;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};
static PyModuleDef def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "runtime._core",
    .m_doc = "The C core of the runtime.  Use the package runtime instead.",
    .m_size = sizeof(py_core) + _Alignof(py_core) - 1,
    .m_slots = slots,
#if PY_HAS_UNCOUNTED_REFS
    .m_traverse = py_g_traverse_waiting,
#endif
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&def);
}
