/* shim.c - makes the n-th allocation, or the n-th call of a libc function, fail.
 *
 * Loaded twice, as one and the same object: by LD_PRELOAD, so that its functions come
 * before libc's, and by Python as the module _faults, which counts and arms.
 *
 * Allocations are what Python's three allocators, its arena allocator (the chunks of the
 * data stack) and, where the core calls them, libc's malloc family and mmap are asked for.
 * Three kinds never fail, because what asks for them is not the core and cannot report it:
 *  - what greenlet needs to switch (copies of C stacks, frame objects, a thread's state), and
 *    all but the first that makes up a greenlet: it ends the process, or crashes, without them;
 *  - what the functions of CPython ask for that are listed as frail below;
 *  - what libc takes for itself.
 *
 * Calls fail only where the core makes them, but for pthread_create and the like, which Python
 * makes on its behalf.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <unwind.h>

/* ---- which call is the one ---- */

enum {
    ALLOC, CORE_ALLOC, EPOLL_CREATE1, EPOLL_CTL, EPOLL_WAIT, EVENTFD, READ, WRITE, RECV, SEND, ACCEPT4,
    GETSOCKOPT, GETPEERNAME, FCNTL, SETSOCKOPT, SHUTDOWN, CLOSE, MUTEX_INIT, COND_INIT,
    PTHREAD_CREATE, SOCKET, CONNECT, BIND, LISTEN, SENDFILE, PREAD, OPENAT2, NCALLS
};
static const char *const names[NCALLS] = {
    "alloc", "core_alloc", "epoll_create1", "epoll_ctl", "epoll_wait", "eventfd", "read", "write", "recv",
    "send", "accept4", "getsockopt", "getpeername", "fcntl", "setsockopt", "shutdown", "close",
    "pthread_mutex_init", "pthread_cond_init", "pthread_create", "socket", "connect", "bind",
    "listen", "sendfile", "pread", "openat2"};

/* One plan at a time: calls first ... first + times - 1 of one kind fail. */
static struct {
    _Atomic int call;           /* which, or -1 */
    long first, last;
    int err;
    _Atomic long seen, failed;
} plan = {.call = -1};

/* Whose code it is: the core's or that of sanitizers, which call for it; greenlet's; functions
   of CPython that do not stand it when what they ask for fails. */
enum { CORE = 1, GREENLET = 2, FRAIL = 4 };
#define MAX_RANGES 32
static struct {
    uintptr_t from, to;
    int whose;
} ranges[MAX_RANGES];
static int nranges;

static const char *const frail[] = {
    "PyType_FromModuleAndSpec", /* goes on with half a type */
    "PyContext_CopyCurrent",    /* frees an empty context as if the collector had it */
#if PY_VERSION_HEX >= 0x030C0000
    /* Who asks for a function that cannot be made drops its code once too often. */
    "PyFunction_New", "PyFunction_NewWithQualName",
#endif
#ifdef Py_GIL_DISABLED
    "PyList_New",               /* frees a list whose fields are not set */
#endif
};

static int
note_object(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)size;
    (void)data;
    const char *name = info->dlpi_name;
    bool is_core = strstr(name, "/runtime/_core.") != NULL
                   || strstr(name, "/runtime/_netpoll.") != NULL
                   || strstr(name, "/libasan.so") != NULL;
    if (!is_core && strstr(name, "/greenlet/") == NULL)
        return 0;
    for (int i = 0; i < info->dlpi_phnum && nranges < MAX_RANGES; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X))
            continue;
        ranges[nranges].from = info->dlpi_addr + ph->p_vaddr;
        ranges[nranges].to = ranges[nranges].from + ph->p_memsz;
        ranges[nranges++].whose = is_core ? CORE : GREENLET;
    }
    return 0;
}

static void
note_frail(const char *name)
{
    void *fn = dlsym(RTLD_DEFAULT, name);
    Dl_info info;
    ElfW(Sym) *sym = NULL;
    if (fn == NULL || dladdr1(fn, &info, (void **)&sym, RTLD_DL_SYMENT) == 0 || sym == NULL
        || nranges == MAX_RANGES)
        abort();
    ranges[nranges].from = (uintptr_t)fn;
    ranges[nranges].to = (uintptr_t)fn + sym->st_size;
    ranges[nranges++].whose = FRAIL;
}

static int
whose(const void *caller)
{
    for (int i = 0; i < nranges; i++)
        if ((uintptr_t)caller >= ranges[i].from && (uintptr_t)caller < ranges[i].to)
            return ranges[i].whose;
    return 0;
}

static inline bool
armed(int call)
{
    return atomic_load_explicit(&plan.call, memory_order_relaxed) == call;
}

/* Is it this call's turn?  Counts it. */
static bool
turn(void)
{
    long k = atomic_fetch_add(&plan.seen, 1) + 1;
    return k >= plan.first && k <= plan.last;
}

static bool
fail_now(void)
{
    atomic_fetch_add(&plan.failed, 1);
    errno = plan.err;
    return true;
}

static bool
fails(int call)
{
    return armed(call) && turn() && fail_now();
}

static bool
fails_for_core(int call, const void *caller)
{
    return armed(call) && whose(caller) == CORE && turn() && fail_now();
}

#define NEXT(fn)                                                                           \
    static __typeof__(&fn) next;                                                           \
    if (next == NULL)                                                                      \
        next = (__typeof__(&fn))dlsym(RTLD_NEXT, #fn)
#define CALLER __builtin_return_address(0)
#define PUBLIC __attribute__((visibility("default")))

/* ---- Python's allocators ---- */

static PyMemAllocatorEx python[3];      /* the ones beneath, by domain */
static PyObjectArenaAllocator arena;
static _Thread_local int depth;         /* inside Python's allocators: counted already */
static _Thread_local int in_new;        /* 1 + allocations so far in PyGreenlet_New(), or 0 */
static _Atomic long live;               /* blocks allocated less blocks freed */

/* Whom the innermost frame that tells belongs to.  No frame beyond it is looked at: a
   greenlet's stack has no sound end. */
typedef struct {
    int depth;                  /* frames before it, those of this file included */
    int whose;
} walk;

static _Unwind_Reason_Code
look_at_frame(struct _Unwind_Context *context, void *arg)
{
    walk *w = arg;
    w->whose = whose((const char *)_Unwind_GetIP(context) - 1);     /* in the call */
    return w->whose || ++w->depth == 16 ? _URC_END_OF_STACK : _URC_NO_REASON;
}

static walk
who_asks(void)
{
    walk w = {0};
    depth++;
    _Unwind_Backtrace(look_at_frame, &w);
    depth--;
    return w;
}

static bool
alloc_fails(void)
{
    if (depth != 0)
        return false;
    if (armed(ALLOC)) {
        int k = in_new == 0 ? 0 : in_new++;
        if (!turn())
            return false;
        int asks = who_asks().whose;
        return asks != FRAIL && (k == 1 || asks != GREENLET) && fail_now();
    }
    if (armed(CORE_ALLOC)) {
        /* Between are this file's functions and those of PyMem_New(), PyObject_New(). */
        walk w = who_asks();
        return w.whose == CORE && w.depth <= 5 && turn() && fail_now();
    }
    return false;
}

static __attribute__((noinline)) void *
py_malloc(void *ctx, size_t n)
{
    if (alloc_fails())
        return NULL;
    depth++;
    PyMemAllocatorEx *a = ctx;
    void *p = a->malloc(a->ctx, n);
    depth--;
    live += p != NULL;
    return p;
}

static __attribute__((noinline)) void *
py_calloc(void *ctx, size_t m, size_t n)
{
    if (alloc_fails())
        return NULL;
    depth++;
    PyMemAllocatorEx *a = ctx;
    void *p = a->calloc(a->ctx, m, n);
    depth--;
    live += p != NULL;
    return p;
}

static __attribute__((noinline)) void *
py_realloc(void *ctx, void *old, size_t n)
{
    if (alloc_fails())
        return NULL;
    depth++;
    PyMemAllocatorEx *a = ctx;
    void *p = a->realloc(a->ctx, old, n);
    depth--;
    live += old == NULL && p != NULL;
    return p;
}

static void
py_free(void *ctx, void *p)
{
    PyMemAllocatorEx *a = ctx;
    live -= p != NULL;
    depth++;
    a->free(a->ctx, p);
    depth--;
}

static void *
arena_alloc(void *ctx, size_t n)
{
    (void)ctx;
    if (alloc_fails())
        return NULL;
    return arena.alloc(arena.ctx, n);
}

static void
arena_free(void *ctx, void *p, size_t n)
{
    (void)ctx;
    arena.free(arena.ctx, p, n);
}

/* Put into greenlet's C API. */
static void *(*greenlet_new)(void *, void *);

static void *
noting_greenlet_new(void *run, void *parent)
{
    in_new = 1;
    void *g = greenlet_new(run, parent);
    in_new = 0;
    return g;
}

/* ---- libc's ---- */

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static bool
libc_alloc_fails(const void *caller)
{
    return (armed(ALLOC) || armed(CORE_ALLOC)) && depth == 0 && whose(caller) == CORE && turn()
           && fail_now();
}

PUBLIC void *
malloc(size_t n)
{
    return libc_alloc_fails(CALLER) ? NULL : __libc_malloc(n);
}

PUBLIC void *
calloc(size_t m, size_t n)
{
    return libc_alloc_fails(CALLER) ? NULL : __libc_calloc(m, n);
}

PUBLIC void *
realloc(void *p, size_t n)
{
    return libc_alloc_fails(CALLER) ? NULL : __libc_realloc(p, n);
}

PUBLIC void *
aligned_alloc(size_t align, size_t n)
{
    return libc_alloc_fails(CALLER) ? NULL : __libc_memalign(align, n);
}

PUBLIC int
posix_memalign(void **out, size_t align, size_t n)
{
    void *p = libc_alloc_fails(CALLER) ? NULL : __libc_memalign(align, n);
    if (p == NULL)
        return ENOMEM;
    *out = p;
    return 0;
}

PUBLIC void *
mmap(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
    NEXT(mmap);
    return libc_alloc_fails(CALLER) ? MAP_FAILED : next(at, n, prot, flags, fd, off);
}

PUBLIC int
mprotect(void *at, size_t n, int prot)
{
    NEXT(mprotect);
    return libc_alloc_fails(CALLER) ? -1 : next(at, n, prot);
}

/* ---- system calls, and what libc makes of them ---- */

#define WRAP(ret, call, fn, params, args)                                                  \
    PUBLIC ret fn params                                                                   \
    {                                                                                      \
        NEXT(fn);                                                                          \
        return fails_for_core(call, CALLER) ? -1 : next args;                              \
    }
#define WRAP_ANY(ret, call, fn, params, args)                                              \
    PUBLIC ret fn params                                                                   \
    {                                                                                      \
        NEXT(fn);                                                                          \
        return fails(call) ? -1 : next args;                                               \
    }

WRAP(int, EPOLL_CREATE1, epoll_create1, (int flags), (flags))
WRAP(int, EPOLL_CTL, epoll_ctl, (int ep, int op, int fd, struct epoll_event *ev),
     (ep, op, fd, ev))
WRAP(int, EPOLL_WAIT, epoll_wait, (int ep, struct epoll_event *evs, int max, int ms),
     (ep, evs, max, ms))
WRAP(int, EPOLL_WAIT, epoll_pwait,
     (int ep, struct epoll_event *evs, int max, int ms, const sigset_t *mask),
     (ep, evs, max, ms, mask))
WRAP(int, EVENTFD, eventfd, (unsigned int count, int flags), (count, flags))
WRAP(ssize_t, READ, read, (int fd, void *buf, size_t n), (fd, buf, n))
WRAP(ssize_t, WRITE, write, (int fd, const void *buf, size_t n), (fd, buf, n))
WRAP(ssize_t, WRITE, writev, (int fd, const struct iovec *iov, int n), (fd, iov, n))
WRAP(ssize_t, SENDFILE, sendfile, (int out, int in, off_t *offset, size_t n), (out, in, offset, n))
WRAP(ssize_t, PREAD, pread, (int fd, void *buf, size_t n, off_t at), (fd, buf, n, at))
WRAP(ssize_t, RECV, recv, (int fd, void *buf, size_t n, int flags), (fd, buf, n, flags))
WRAP(ssize_t, SEND, send, (int fd, const void *buf, size_t n, int flags), (fd, buf, n, flags))
WRAP(ssize_t, RECV, recvfrom,
     (int fd, void *buf, size_t n, int flags, struct sockaddr *sa, socklen_t *len),
     (fd, buf, n, flags, sa, len))
WRAP(ssize_t, RECV, recvmsg, (int fd, struct msghdr *msg, int flags), (fd, msg, flags))
WRAP(ssize_t, SEND, sendto,
     (int fd, const void *buf, size_t n, int flags, const struct sockaddr *sa, socklen_t len),
     (fd, buf, n, flags, sa, len))
WRAP(ssize_t, SEND, sendmsg, (int fd, const struct msghdr *msg, int flags), (fd, msg, flags))
WRAP(int, ACCEPT4, accept4, (int fd, struct sockaddr *sa, socklen_t *len, int flags),
     (fd, sa, len, flags))
WRAP(int, GETSOCKOPT, getsockopt, (int fd, int level, int opt, void *value, socklen_t *len),
     (fd, level, opt, value, len))
WRAP(int, GETPEERNAME, getpeername, (int fd, struct sockaddr *sa, socklen_t *len), (fd, sa, len))
WRAP(int, SETSOCKOPT, setsockopt, (int fd, int level, int opt, const void *value, socklen_t len),
     (fd, level, opt, value, len))
WRAP(int, SHUTDOWN, shutdown, (int fd, int how), (fd, how))
WRAP_ANY(int, SOCKET, socket, (int domain, int type, int protocol), (domain, type, protocol))
WRAP_ANY(int, CONNECT, connect, (int fd, const struct sockaddr *sa, socklen_t len),
         (fd, sa, len))
WRAP_ANY(int, BIND, bind, (int fd, const struct sockaddr *sa, socklen_t len), (fd, sa, len))
WRAP_ANY(int, LISTEN, listen, (int fd, int backlog), (fd, backlog))

/* The descriptor is closed even so: that is what Linux does. */
PUBLIC int
close(int fd)
{
    NEXT(close);
    int r = next(fd);
    return fails_for_core(CLOSE, CALLER) ? -1 : r;
}

static int
fcntl_arg(const char *name, const void *caller, int fd, int cmd, void *arg)
{
    int (*next)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, name);
    return fails_for_core(FCNTL, caller) ? -1 : next(fd, cmd, arg);
}

PUBLIC int
fcntl(int fd, int cmd, ...)
{
    va_list ap;
    va_start(ap, cmd);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    return fcntl_arg("fcntl", CALLER, fd, cmd, arg);
}

PUBLIC int
fcntl64(int fd, int cmd, ...)
{
    va_list ap;
    va_start(ap, cmd);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    return fcntl_arg("fcntl64", CALLER, fd, cmd, arg);
}

/* epoll_pwait2 has no function in older libcs. */
PUBLIC long
syscall(long number, ...)
{
    NEXT(syscall);
    long a[6];
    va_list ap;
    va_start(ap, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(ap, long);
    va_end(ap);
    if (number == 441 && fails_for_core(EPOLL_WAIT, CALLER))
        return -1;
    if (number == 437 && fails_for_core(OPENAT2, CALLER))
        return -1;
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* These return the error. */
PUBLIC int
pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
    NEXT(pthread_create);
    return fails(PTHREAD_CREATE) ? plan.err : next(t, attr, fn, arg);
}

PUBLIC int
pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *attr)
{
    NEXT(pthread_mutex_init);
    return fails_for_core(MUTEX_INIT, CALLER) ? plan.err : next(m, attr);
}

PUBLIC int
pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *attr)
{
    NEXT(pthread_cond_init);
    return fails_for_core(COND_INIT, CALLER) ? plan.err : next(c, attr);
}

/* ---- the module ---- */

static PyObject *
m_hook(PyObject *self, PyObject *ignored)
{
    (void)self;
    (void)ignored;
    static const PyMemAllocatorDomain domains[] = {PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM,
                                                   PYMEM_DOMAIN_OBJ};
    who_asks();                 /* the unwinder prepares itself the first time */
    nranges = 0;
    dl_iterate_phdr(note_object, NULL);
    for (size_t i = 0; i < sizeof(frail) / sizeof(*frail); i++)
        note_frail(frail[i]);
    if (python[0].malloc == NULL)
        for (int i = 0; i < 3; i++) {
            PyMem_GetAllocator(domains[i], &python[i]);
            PyMemAllocatorEx ours = {&python[i], py_malloc, py_calloc, py_realloc, py_free};
            PyMem_SetAllocator(domains[i], &ours);
        }
    void **api = PyCapsule_Import("greenlet._C_API", 0);
    if (api == NULL)
        return NULL;
    if (greenlet_new == NULL) {
        greenlet_new = (void *(*)(void *, void *))api[3];
        api[3] = (void *)noting_greenlet_new;
    }
    PyObjectArenaAllocator now;
    PyObject_GetArenaAllocator(&now);
    if (now.alloc != arena_alloc) {
        arena = now;
        now = (PyObjectArenaAllocator){NULL, arena_alloc, arena_free};
        PyObject_SetArenaAllocator(&now);
    }
    return PyLong_FromLong(0);
}

static PyObject *
m_arm(PyObject *self, PyObject *args)
{
    (void)self;
    const char *name;
    long first, times;
    int err;
    if (!PyArg_ParseTuple(args, "slli", &name, &first, &times, &err))
        return NULL;
    for (int i = 0; i < NCALLS; i++)
        if (strcmp(names[i], name) == 0) {
            plan.first = first;
            plan.last = times < 0 ? LONG_MAX : first + times - 1;
            plan.err = err;
            plan.seen = plan.failed = 0;
            atomic_store(&plan.call, i);
            return PyLong_FromLong(0);
        }
    PyErr_BadArgument();
    return NULL;
}

/* Allocates nothing. */
static PyObject *
m_disarm(PyObject *self, PyObject *ignored)
{
    (void)self;
    (void)ignored;
    atomic_store(&plan.call, -1);
    return PyLong_FromLong(0);
}

static PyObject *
m_seen(PyObject *self, PyObject *ignored)
{
    (void)self;
    (void)ignored;
    return PyLong_FromLong(plan.seen);
}

static PyObject *
m_failed(PyObject *self, PyObject *ignored)
{
    (void)self;
    (void)ignored;
    return PyLong_FromLong(plan.failed);
}

static PyObject *
m_live(PyObject *self, PyObject *ignored)
{
    (void)self;
    (void)ignored;
    return PyLong_FromLong(live);
}

static PyMethodDef functions[] = {
    {"hook", m_hook, METH_NOARGS, "Get between Python and its allocators, and find the core."},
    {"arm", m_arm, METH_VARARGS,
     "arm(name, first, times, errno): calls first ... first + times - 1 fail; -1: and all after."},
    {"disarm", m_disarm, METH_NOARGS, "No more failures; this itself cannot fail."},
    {"seen", m_seen, METH_NOARGS, "How many calls of the armed kind there were."},
    {"failed", m_failed, METH_NOARGS, "How many of them failed."},
    {"live", m_live, METH_NOARGS, "Blocks that Python has allocated and not freed, since hook()."},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef_Slot slots[] = {
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};
static PyModuleDef def = {
    PyModuleDef_HEAD_INIT, .m_name = "_faults", .m_methods = functions, .m_slots = slots};

PyMODINIT_FUNC
PyInit__faults(void)
{
    return PyModuleDef_Init(&def);
}
