/* py_http_server.h - what the files of the server object share.
 *
 *   py_http_server.c     the object
 *   py_http_listen.c     listeners: which connections get in
 *   py_http_shutdown.c   how a server ends
 *
 * What concerns listeners and shards as a whole happens on the listeners' M; where another
 * thread asks for it, a goroutine over there does it, and one on each shard's M does
 * that shard's part.
 */
#ifndef PY_HTTP_SERVER_H
#define PY_HTTP_SERVER_H

#include "py_http.h"
#include "py_wait.h"

/* The listeners' M, or NULL. */
static inline py_m *
http_server_home(http_server *s)
{
    return RT_LOAD(s->mp);
}

/* Is nothing open any more? */
static inline bool
http_server_all_closed(http_server *s)
{
    return atomic_load(&s->nconns) == 0 && atomic_load(&s->nlisteners) == 0;
}

/* Only the bubble of a server that was made in one can end a wait for it. */
static inline int
http_server_wait_reason(const http_server *s)
{
    return s->bubbled ? PY_WAIT_GROUP : PY_WAIT_IO;
}

/* Who waits in wait_closed(), listen() or admit() looks again. */
void http_server_wake_waiters(http_server *s);
/* Wait until *done, or until everything is closed where done is NULL; under s->lock, of
   which it lets go to park.  RT_WAKE_*. */
uint32_t http_server_wait_locked(http_server *s, Goroutine *gp, const bool *done, py_wait *wait);
/* Have entry run on mp; its arg is s or one of its shards, and a reference to s, which it
   must drop.  -1 with an exception set. */
int http_server_ask(http_server *s, py_m *mp, PyObject *(*entry)(Goroutine *), void *arg);

/* ---- py_http_listen.c ---- */

/* What has connected by now is still served, where that is wanted.  The caller has a
   reference to s. */
void http_server_close_listeners(http_server *s, bool serve_last);
PyObject *http_server_listen(http_server *s, PyObject *fd);
PyObject *http_server_attach(http_server *s, PyObject *ignored);
PyObject *http_server_spawn(http_server *s, PyObject *args);

/* ---- py_http_shutdown.c ---- */

/* An M is stuck in a handler while the server is aborted: it does its part when it is
   back. */
void http_server_give_up(rt_timer *t);
PyObject *http_server_begin_shutdown(http_server *s, PyObject *ignored);
PyObject *http_server_close_idle(http_server *s, PyObject *ignored);
PyObject *http_server_retire(http_server *s, PyObject *ignored);
PyObject *http_server_abort(http_server *s, PyObject *ignored);
PyObject *http_server_wait_closed(http_server *s, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames);

#endif
