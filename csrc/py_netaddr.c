/* py_netaddr.c - addresses and options of a NetFD's socket. */
#include "py_netfd.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/un.h>

/* ---- addresses as the socket module shows them ---- */

PyObject *
netfd_address(const struct sockaddr_storage *ss, socklen_t len)
{
    char host[INET6_ADDRSTRLEN];
    if (ss->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)ss;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        return Py_BuildValue("(si)", host, (int)ntohs(in->sin_port));
    }
    if (ss->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        return Py_BuildValue("(siII)", host, (int)ntohs(in6->sin6_port),
                             (unsigned)ntohl(in6->sin6_flowinfo), (unsigned)in6->sin6_scope_id);
    }
    if (ss->ss_family == AF_UNIX) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)ss;
        size_t n = len > offsetof(struct sockaddr_un, sun_path)
                       ? len - offsetof(struct sockaddr_un, sun_path) : 0;
        if (n > 0 && un->sun_path[0] == '\0')   /* Linux's abstract names: not C strings */
            return PyBytes_FromStringAndSize(un->sun_path, (Py_ssize_t)n);
        return PyUnicode_DecodeFSDefaultAndSize(un->sun_path,
                                                (Py_ssize_t)strnlen(un->sun_path, n));
    }
    Py_RETURN_NONE;
}

/* ---- addresses to send to ---- */

/* A zone of IPv6 as the number of its interface. */
static bool
parse_zone(const char *zone, uint32_t *scope)
{
    char *end;
    unsigned long n = strtoul(zone, &end, 10);
    if (*zone == '\0')
        return false;
    *scope = *end == '\0' ? (uint32_t)n : if_nametoindex(zone);
    return *scope != 0;
}

static bool
parse_ip(int family, const char *text, struct sockaddr_storage *ss, unsigned port, uint32_t flow,
         uint32_t scope)
{
    struct sockaddr_in *in = (struct sockaddr_in *)ss;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;
    if (family == AF_INET) {
        in->sin_family = AF_INET;
        in->sin_port = htons((uint16_t)port);
        return inet_pton(AF_INET, text, &in->sin_addr) == 1;
    }
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons((uint16_t)port);
    in6->sin6_flowinfo = htonl(flow);
    in6->sin6_scope_id = scope;
    char host[INET6_ADDRSTRLEN];
    const char *zone = strchr(text, '%');
    size_t len = zone ? (size_t)(zone - text) : strlen(text);
    if (len >= sizeof(host) || (zone != NULL && !parse_zone(zone + 1, &in6->sin6_scope_id)))
        return false;
    memcpy(host, text, len);
    host[len] = '\0';
    if (inet_pton(AF_INET6, host, &in6->sin6_addr) == 1)
        return true;
    /* An IPv4 address for a socket that has both. */
    uint8_t *bytes = in6->sin6_addr.s6_addr;
    memset(bytes, 0, 10);
    memset(bytes + 10, 0xff, 2);
    return zone == NULL && inet_pton(AF_INET, host, bytes + 12) == 1;
}

static bool
parse_unix(PyObject *address, struct sockaddr_storage *ss, socklen_t *len)
{
    struct sockaddr_un *un = (struct sockaddr_un *)ss;
    PyObject *path = NULL;
    if (!PyUnicode_FSConverter(address, &path)) {
        /* An embedded NUL is for Linux's abstract names, which are bytes. */
        PyErr_Clear();
        if (!PyBytes_Check(address))
            return false;
        path = Py_NewRef(address);
    }
    size_t n = (size_t)PyBytes_GET_SIZE(path);
    bool fits = n > 0 && n < sizeof(un->sun_path);
    if (fits) {
        un->sun_family = AF_UNIX;
        memcpy(un->sun_path, PyBytes_AS_STRING(path), n);
        *len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n
                           + (un->sun_path[0] != '\0'));
    }
    Py_DECREF(path);
    return fits;
}

int
netfd_parse_address(int family, PyObject *address, struct sockaddr_storage *ss, socklen_t *len)
{
    bool ok = false;
    memset(ss, 0, sizeof(*ss));
    if (family == AF_UNIX)
        ok = parse_unix(address, ss, len);
    else if (PyTuple_Check(address) && (family == AF_INET || family == AF_INET6)) {
        const char *host;
        int port;
        unsigned flow = 0, scope = 0;
        ok = PyArg_ParseTuple(address, "si|II", &host, &port, &flow, &scope)
             && port >= 0 && port <= 65535
             && parse_ip(family, host, ss, (unsigned)port, flow, scope);
        *len = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    }
    if (ok)
        return 0;
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_MemoryError))
        return -1;
    PyErr_Clear();
    PyErr_Format(PyExc_ValueError, "%R is no address that this socket can send to", address);
    return -1;
}

/* ---- the socket's own ---- */

static PyObject *
address_of(NetFD *self, int (*get)(int, struct sockaddr *, socklen_t *), const char *what)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    int fd = netfd_begin(self->pd, NULL), err = 0;
    if (fd < 0) {
        netfd_raise_closed(what);
        return NULL;
    }
    if (get(fd, (struct sockaddr *)&ss, &len) < 0)
        err = errno;
    netfd_end(self->pd, NULL, false);
    if (err == 0)
        return netfd_address(&ss, len);
    netfd_raise_errno(err, what);
    return NULL;
}

PyObject *
netfd_getsockname(NetFD *self, PyObject *Py_UNUSED(ignored))
{
    return address_of(self, getsockname, "getsockname");
}

PyObject *
netfd_getpeername(NetFD *self, PyObject *Py_UNUSED(ignored))
{
    return address_of(self, getpeername, "getpeername");
}

/* ---- options ---- */

/* What to do with the descriptor, for call_fd(): 0 or -errno. */
typedef struct {
    int level, option;
    void *value;
    socklen_t len;
} option_args;

static int
sys_setsockopt(int fd, option_args *a)
{
    return setsockopt(fd, a->level, a->option, a->value, a->len) < 0 ? -errno : 0;
}

static int
sys_getsockopt(int fd, option_args *a)
{
    return getsockopt(fd, a->level, a->option, a->value, &a->len) < 0 ? -errno : 0;
}

static int
sys_shutdown(int fd, option_args *a)
{
    return shutdown(fd, a->option) < 0 ? -errno : 0;
}

static int
sys_dup(int fd, option_args *a)
{
    a->option = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return a->option < 0 ? -errno : 0;
}

/* -1 with an exception set. */
static int
call_fd(NetFD *self, int (*call)(int, option_args *), option_args *a, const char *what)
{
    int fd = netfd_begin(self->pd, NULL);
    if (fd < 0)
        return netfd_raise_closed(what);
    int r = call(fd, a);
    netfd_end(self->pd, NULL, false);
    return r < 0 ? netfd_raise_errno(-r, what) : 0;
}

PyObject *
netfd_setsockopt(NetFD *self, PyObject *args)
{
    option_args a;
    PyObject *value;
    Py_buffer view = {0};
    if (!PyArg_ParseTuple(args, "iiO:setsockopt", &a.level, &a.option, &value))
        return NULL;
    int number = 0;
    if (PyObject_CheckBuffer(value)) {
        if (PyObject_GetBuffer(value, &view, PyBUF_SIMPLE) < 0)
            return NULL;
        a.value = view.buf;
        a.len = (socklen_t)view.len;
    }
    else {
        if (!PyArg_ParseTuple(args, "iii:setsockopt", &a.level, &a.option, &number))
            return NULL;
        a.value = &number;
        a.len = sizeof(number);
    }
    int r = call_fd(self, sys_setsockopt, &a, "setsockopt");
    PyBuffer_Release(&view);
    if (r < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
netfd_getsockopt(NetFD *self, PyObject *args)
{
    option_args a;
    int size = 0, number = 0;
    if (!PyArg_ParseTuple(args, "ii|i:getsockopt", &a.level, &a.option, &size))
        return NULL;
    if (size < 0 || size > 1024) {
        PyErr_SetString(PyExc_ValueError, "getsockopt(): the size must be 0 to 1024");
        return NULL;
    }
    PyObject *bytes = size ? PyBytes_FromStringAndSize(NULL, size) : NULL;
    if (size && bytes == NULL)
        return NULL;
    a.value = size ? (void *)PyBytes_AS_STRING(bytes) : &number;
    a.len = size ? (socklen_t)size : sizeof(number);
    if (call_fd(self, sys_getsockopt, &a, "getsockopt") < 0)
        Py_CLEAR(bytes);
    else if (size)
        _PyBytes_Resize(&bytes, (Py_ssize_t)a.len);
    return size || PyErr_Occurred() ? bytes : PyLong_FromLong(number);
}

PyObject *
netfd_shutdown(NetFD *self, PyObject *arg)
{
    long how = PyLong_AsLong(arg);
    if (how == -1 && PyErr_Occurred())
        return NULL;
    option_args a = {.option = (int)how};
    if (call_fd(self, sys_shutdown, &a, "shutdown") < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
netfd_dup(NetFD *self, PyObject *Py_UNUSED(ignored))
{
    option_args a = {0};
    return call_fd(self, sys_dup, &a, "dup") < 0 ? NULL : PyLong_FromLong(a.option);
}
