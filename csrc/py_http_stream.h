/* py_http_stream.h - what the files of streams share; see py_http_stream.c. */
#ifndef PY_HTTP_STREAM_H
#define PY_HTTP_STREAM_H

#include "py_http.h"

#define HTTP_STREAM_READ 16384          /* bytes read at a time; a TLS record's */

struct http_stream {
    PyObject *io;               /* owned: the stream object; NULL once it is over */
    PyObject *context;          /* owned: what handlers' contexts are copies of, or NULL */
    PyObject *remote_addr;      /* owned str, or NULL before it is served */
    PyObject *tls;              /* owned, or NULL */
    PyObject *server;           /* owned: of a Request without a connection, or NULL */
    http_conn *next_doomed, *next_aborted;  /* see http_streams_close() */
    _Atomic bool read_limited, write_limited;       /* a deadline may be set */
    /* Guarded by the connection's lock; see py_http_stream_watch.c: */
    bool watching;              /* a goroutine reads ahead, or is about to */
    bool recalled;              /* it shall end */
    /* Guarded by the server's lock: */
    int64_t quiet_since;        /* http_now() */
    bool quiet;                 /* nothing of a request has come */
    bool doomed;                /* it was quiet when the server closed such ones */
    bool aborted;
};

/* ---- py_http_stream_io.c: the stream object; each may run Python and park ---- */

typedef enum {
    HTTP_STREAM_CLOSE,
    HTTP_STREAM_CLOSE_WRITE
} http_stream_method;
/* Call a method without arguments.  -1 with an exception set. */
int http_stream_call(http_stream *st, http_stream_method method);
/* Let its reads, or writes, fail from now + ns on (INT64_MAX: no more).  -1 with an exception
   set. */
int http_stream_set_limit(http_stream *st, bool read, int64_t ns);
/* Wake who reads, or writes. */
void http_stream_wake(PyObject *io, bool read);
/* Close it, whatever is wrong with it. */
void http_stream_close_quietly(PyObject *io);
/* The same, in a goroutine of its own. */
void http_stream_close_elsewhere(PyObject *io);
/* The exception set, as an error: EPIPE and ETIMEDOUT clear it. */
int http_stream_error(void);
/* Without the lock.  Must no I/O begin? */
bool http_stream_must_go(http_conn *c);
/* Without the lock: read up to n bytes into dst, or HTTP_STREAM_READ into c->in where dst is NULL.
   > 0, 0: the stream has ended, or an error. */
Py_ssize_t http_stream_read(http_conn *c, char *dst, Py_ssize_t n);
/* With the lock: end to be in I/O; `busy` is c->reading or c->sending. */
void http_stream_leave_io(http_conn *c, bool *busy);
int http_stream_io_init(void);

#endif
