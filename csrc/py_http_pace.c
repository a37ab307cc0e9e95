/* py_http_pace.c - how long reading a body and sending a response may take.
 *
 * Two kinds of limits, both looked at only where a request has to wait anyway:
 *
 *   deadlines   the handler's own (ResponseController), in place of all that the server has
 *               set, or the server's body_timeout
 *   data rates  who sends or takes fewer bytes a second than that, over all the time that was
 *               waited for it, is given up.  Waits of up to rate_grace together are free, so
 *               a short lull is no reason; and the time a handler spends elsewhere is not the
 *               client's fault, and not counted.
 *
 * Sending.  The socket wakes us only when a good part of its buffer is free, which takes a slow
 * client long.  So what the client has taken is reckoned from what is left in the buffer.
 *
 * Streams.  Deadlines are set on the stream before each read and write (py_http_stream.c), and in
 * a bubble they are on its clock, as all time of what is in memory alone.
 */
#include "py_http.h"
#include "py_wait.h"

#include <sys/ioctl.h>
#ifdef __linux__
#include <linux/sockios.h>
#endif

/* Bytes given to the socket that the peer has not taken yet; 0 where nobody knows. */
static int64_t
queued_bytes(const http_conn *c)
{
    if (c->stream != NULL)
        return 0;
#if defined(SIOCOUTQ)
    int n;
    return ioctl(c->pd.fd, SIOCOUTQ, &n) == 0 ? n : 0;
#elif defined(SO_NWRITE)
    int n;
    socklen_t len = sizeof(n);
    return getsockopt(c->pd.fd, SOL_SOCKET, SO_NWRITE, &n, &len) == 0 ? n : 0;
#else
    (void)c;
    return 0;
#endif
}

/* ns that may be waited in all for so many bytes, at so many bytes a second. */
static int64_t
allowance(const http_server *s, int64_t bytes, int64_t rate)
{
    double ns = (double)bytes * 1e9 / (double)rate;
    return ns < (double)s->rate_grace ? s->rate_grace : ns < 4e18 ? (int64_t)ns : INT64_MAX / 2;
}

static int64_t
earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t
after(int64_t now, int64_t ns)
{
    return ns > RT_FOREVER - now ? RT_FOREVER : now + ns;
}

/* Bytes that have come, or gone, since that was first waited for. */
static int64_t
progress(http_conn *c, bool read)
{
    http_pace *p = &c->pace;
    return read ? p->body_left - c->body_left : p->sent + p->queued - queued_bytes(c);
}

/* The end of a wait by the server's limits, where `waited` ns were waited by now. */
static int64_t
limit(http_conn *c, bool read, int64_t timeout, int64_t now, int64_t waited)
{
    const http_server *s = c->server;
    int64_t deadline = after(now, timeout);
    int64_t rate = read ? s->min_read_rate : s->min_write_rate;
    if (rate != 0)
        deadline = earlier(deadline, after(now, allowance(s, progress(c, read), rate) - waited));
    if (read && c->pace.read_until != 0)
        deadline = earlier(deadline, c->pace.read_until);
    return deadline;
}

int64_t
http_pace_deadline(http_conn *c, bool read, int64_t timeout, int64_t now)
{
    http_pace *p = &c->pace;
    c->paced = true;
    if (read && !p->reads) {
        p->reads = true;
        p->body_left = c->body_left;
    }
    if (!read) {
        int64_t queued = queued_bytes(c);
        if (!p->writes) {
            p->writes = true;
            p->sent = 0;
            p->queued = queued;
        }
        p->last_queued = queued;
        p->moved_at = now;
    }
    int64_t own = read ? p->read_deadline : p->write_deadline;
    return own != 0 ? own : limit(c, read, timeout, now, read ? p->read_waited : p->write_waited);
}

int64_t
http_now(const http_conn *c)
{
    return c->stream != NULL && c->server->bubbled ? py_now() : rt_nanotime();
}

int64_t
http_pace_deadline_stream(http_conn *c, bool read, int64_t timeout, int64_t now, int64_t n)
{
    http_pace *p = &c->pace;
    if (!read && !p->writes) {
        p->writes = true;
        p->sent = p->queued = 0;
    }
    p->sent += n;
    if (read)
        return http_pace_deadline(c, true, timeout, now);
    c->paced = true;
    return p->write_deadline != 0 ? p->write_deadline
                                  : limit(c, false, timeout, now, p->write_waited);
}

bool
http_pace_goes_on(http_conn *c, bool read, int64_t timeout, int64_t began, int64_t *deadline)
{
    http_pace *p = &c->pace;
    /* What comes to be read wakes who waits. */
    if (read || p->write_deadline != 0)
        return false;
    int64_t now = rt_nanotime(), queued = queued_bytes(c);
    if (queued < p->last_queued)
        p->moved_at = now;      /* or a while ago */
    p->last_queued = queued;
    int64_t next = earlier(limit(c, false, INT64_MAX, now, p->write_waited + now - began),
                           after(p->moved_at, timeout));
    if (next <= now)
        return false;
    *deadline = next;
    return true;
}

void
http_pace_waited(http_conn *c, bool read, int64_t began)
{
    *(read ? &c->pace.read_waited : &c->pace.write_waited) += http_now(c) - began;
}

bool
http_pace_over(const http_conn *c, bool read)
{
    const http_pace *p = &c->pace;
    int64_t deadline = read ? p->read_deadline : p->write_deadline;
    if (deadline == 0 && read)
        deadline = p->read_until;
    return deadline != 0 && deadline != RT_FOREVER && deadline <= http_now(c);
}

/* ---- the handler's own deadlines ---- */

static PyObject *
set_deadline(http_writer *w, bool read, PyObject *arg)
{
    double s = 0;
    if (arg != Py_None) {
        s = PyFloat_AsDouble(arg);
        if (s == -1.0 && PyErr_Occurred())
            return NULL;
        if (s != s) {
            PyErr_SetString(PyExc_ValueError, "a deadline in seconds must be a number, not NaN");
            return NULL;
        }
    }
    http_conn *c = w->conn;
    py_waitq woken = {0};
    py_acquire(&c->lock);
    bool over = w->ended;
    if (!over) {
        int64_t deadline = RT_FOREVER;
        if (arg != Py_None && s < 9e9)
            deadline = http_now(c) + (s > 0 ? (int64_t)(s * 1e9) : 0);
        *(read ? &c->pace.read_deadline : &c->pace.write_deadline) = deadline;
        c->paced = true;
        /* Who waits now looks again. */
        py_waitq_claim_all(read ? &c->readers : &c->writers, RT_WAKE_READY, &woken);
        if (c->stream != NULL)
            http_stream_limit(c, read);
    }
    py_release(&c->lock);
    py_ready_all(&woken);
    if (!over)
        Py_RETURN_NONE;
    PyErr_SetString(PyExc_RuntimeError, "the handler has returned: the response is complete");
    return NULL;
}

PyObject *
http_writer_set_read_deadline(http_writer *w, PyObject *seconds)
{
    return set_deadline(w, true, seconds);
}

PyObject *
http_writer_set_write_deadline(http_writer *w, PyObject *seconds)
{
    return set_deadline(w, false, seconds);
}
