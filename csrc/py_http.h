/* py_http.h - the HTTP/1 server: what its files share.
 *
 *   py_http_server.c   the server object: listeners, time-outs, shutdown
 *   py_http_conn.c     a connection's life: reading heads, running handlers, ending
 *   py_http_io.c       bytes: buffers, reading a body, sending with backpressure
 *   py_http_writer.c   ResponseWriter and the response's framing
 *   py_http_request.c  Request and Body
 *   py_http_headers.c  Headers
 *
 * A connection is a C struct in the poller.  While it is idle, or a head is still
 * incomplete, that is all there is: no goroutine, no greenlet, no buffer.  Once a
 * head is complete a goroutine runs the handler and owns the connection until the
 * response is sent; it goes on with pipelined requests and then gives the
 * connection back to the poller.
 *
 * Everything of one server happens on the P whose M called start(); a handler's
 * goroutine is pinned there once it runs, so connections need no locks.
 */
#ifndef PY_HTTP_H
#define PY_HTTP_H

#include <sys/socket.h>

#include "py_core.h"
#include "rt_http1.h"

typedef struct http_server http_server;
typedef struct http_conn http_conn;
typedef struct http_request http_request;
typedef struct http_writer http_writer;

/* ---- input buffers ---- */

/* Bytes read from a connection.  A request keeps its head here, so blocks are
   counted; whoever adds bytes holds the connection's reference. */
typedef struct http_block {
    uint32_t refs;
    uint32_t cap;
    struct http_block *next;    /* free list */
    char data[];
} http_block;

#define HTTP_BLOCK_SIZE (8192u - (uint32_t)sizeof(http_block))

http_block *http_block_new(uint32_t cap);   /* NULL: out of memory */
void http_block_unref(http_block *b);

/* ---- output buffers ---- */

typedef struct {
    char *data;
    uint32_t len, cap;
    uint32_t sent;              /* bytes of data the socket has taken */
} http_out;

#define HTTP_OUT_SIZE 16384u

/* Make room for n more bytes.  0, or -1 without an exception set (no memory). */
int http_out_reserve(http_out *out, size_t n);
void http_out_release(http_out *out);
static inline void
http_out_add(http_out *out, const char *data, size_t n)     /* after reserve */
{
    memcpy(out->data + out->len, data, n);
    out->len += (uint32_t)n;
}

/* ---- connections ---- */

enum {                          /* http_conn.state */
    HTTP_HEAD,                  /* waiting for (the rest of) a first or next head */
    HTTP_IDLE,                  /* keep-alive, nothing of a next request read yet */
    HTTP_ACTIVE,                /* a goroutine owns it */
    HTTP_DRAIN,                 /* discarding the rest of an unread body */
    HTTP_LINGER,                /* our side is shut down; discarding until EOF */
    HTTP_NSTATES
};

struct http_conn {
    rt_pd pd;                   /* first: see http_conn_of() */
    http_server *server;        /* owned reference */
    http_conn *prev, *next;     /* list of its state in the server */
    int64_t deadline;           /* of its state, coarse monotonic ns */
    uint8_t state;
    bool readable, writable;    /* an edge has come and was not used up */
    bool peer_closed;           /* the peer shut down its side, or reset */
    bool aborted;               /* fail all further I/O: the server was closed, or the
                                   handler has returned */
    bool reading, sending;      /* a goroutine is parked in it */
    bool broken;                /* a send has failed: nothing can follow what is missing */
    bool io_failed;             /* our I/O has raised in this request's handler */
    bool close_after;           /* no further request on this connection */
    bool continue_due;          /* the client waits for 100 Continue */
    bool chunked;               /* framing of the request body */
    bool body_done;             /* all of it was taken off the input */
    int64_t body_left;          /* of a body with Content-Length; else bytes still
                                   allowed by max_body_bytes */
    int64_t drain_left;
    rt_http1_chunked decoder;
    http_block *in;             /* owned reference, or NULL while nothing is read */
    uint32_t in_pos, in_len;    /* unread input: in->data[in_pos, in_len) */
    uint32_t in_seen;           /* of it, bytes the head parser has searched */
    http_out out;
    py_waitq readers, writers;  /* the goroutine parked in I/O */
    http_request *req;          /* owned, while ACTIVE */
    uint64_t served;            /* requests */
    struct {                    /* the peer: enough for any address we print */
        uint16_t family, port;
        uint32_t scope;
        unsigned char ip[16];
    } peer;
};

static inline http_conn *
http_conn_of(rt_pd *pd)
{
    return (http_conn *)pd;
}

/* ---- the server ---- */

typedef struct {
    rt_pd pd;
    http_server *server;        /* borrowed */
    rt_timer retry;             /* accept again after running out of descriptors */
    int64_t backoff;            /* ns */
} http_listener;

#define HTTP_MAX_LISTENERS 16

struct http_server {
    PyObject_HEAD
    py_m *mp;                   /* where it runs; NULL before start() */
    PyObject *handler;          /* owned */
    rt_http1_limits limits;
    rt_http1_field *scratch;    /* owned array for the parser, limits.max_fields */
    int64_t head_timeout, idle_timeout, read_timeout, write_timeout;    /* ns */
    int64_t max_body;           /* bytes; INT64_MAX: no limit */
    uint32_t max_conns;
    http_listener *listeners[HTTP_MAX_LISTENERS];
    int nlisteners;
    struct {
        http_conn *head, *tail;
    } list[HTTP_NSTATES];       /* each in order of deadline, ACTIVE in no order */
    uint32_t nconns;
    rt_timer sweep;             /* fires at the earliest deadline */
    bool closing;               /* no new requests */
    bool aborted;               /* nobody waits for handlers that still run */
    py_waitq waiters;           /* in wait_closed() */
    uint64_t accepted, requests;
};

/* Put c at the end of the list of `state`, with that state's time-out. */
void http_conn_set_state(http_conn *c, int state);
/* Deregister, close and free. */
void http_conn_destroy(http_conn *c);
/* Take ownership of a connected, non-blocking socket.  0 or -errno; on failure the
   socket is closed. */
int http_conn_start(http_server *s, int fd, const struct sockaddr *peer);
/* After deadline: c's state has lasted too long. */
void http_conn_expired(http_conn *c);
/* Fail whatever c's goroutine does next with it. */
void http_conn_abort(http_conn *c);
/* Below max_conns again. */
void http_server_accept_again(http_server *s);

/* ---- I/O of the goroutine that owns c; these may park and raise ---- */

/* Send all of c->out and then `extra`.  -1 with an exception set: the connection is
   useless. */
int http_send(http_conn *c, const char *extra, size_t nextra);
/* Read 1 to n bytes of the request body into dst.  0 at its end, -1 with an
   exception set. */
Py_ssize_t http_body_read(http_conn *c, char *dst, Py_ssize_t n);
/* Discard what is left of the body without parking.  1 done, 0 more must come,
   -1 broken. */
int http_body_discard(http_conn *c);
/* recv() into the free part of c->in, without parking: > 0 bytes, 0 EOF, -EAGAIN
   or another -errno. */
Py_ssize_t http_fill(http_conn *c, uint32_t want);

/* ---- requests and responses ---- */

struct http_request {
    PyObject_HEAD
    http_conn *conn;            /* borrowed; NULL once the handler has returned */
    http_block *block;          /* owned: holds the head */
    const char *base;           /* of all slices; inside block */
    rt_http1_req head;          /* head.fields is `fields` */
    rt_http1_field *fields;     /* inline_fields or an owned array */
    rt_http1_field inline_fields[16];
    PyObject *method, *path, *raw_path, *raw_query, *query, *host, *headers, *remote_addr,
        *body, *path_values, *pattern, *form;     /* owned, made when asked for */
    http_request *next_free;
};

struct http_writer {
    PyObject_HEAD
    http_conn *conn;            /* borrowed; NULL once the handler has returned */
    PyObject *headers;          /* owned Headers or NULL: none set */
    PyObject *first;            /* owned str or bytes: the only write so far */
    char *buf;                  /* owned: body bytes of several small writes */
    uint32_t buf_len, buf_cap;
    int status;                 /* 0: not chosen yet */
    int64_t declared;           /* Content-Length the handler set, or -1 */
    int64_t written;            /* body bytes handed over */
    bool wrote;                 /* write() or write_header() was called */
    bool head_sent;             /* the head is in c->out or on the wire */
    bool chunked;
    bool no_body;               /* HEAD, 204, 304 */
    bool is_text;               /* the first write was a str */
    bool is_json;
    http_writer *next_free;
};

http_request *http_request_new(http_conn *c, const rt_http1_req *head);
/* The handler is done: cut r off from the connection and drop the reference. */
void http_request_end(http_request *r);
http_writer *http_writer_new(http_conn *c);
void http_writer_end(http_writer *w);
/* Use what the handler returned (borrowed).  -1 with an exception set. */
int http_writer_returned(http_writer *w, PyObject *value);
/* Complete the response in c->out (large bodies may be sent).  -1: exception set. */
int http_writer_finish(http_writer *w);
/* A whole response without a handler, appended to c->out; says Connection: close
   where c->close_after is set.  0, or -1 without an exception (no memory). */
int http_simple_response(http_conn *c, int status, const char *text);
const char *http_status_text(int status);

/* Headers of a request: a view of r's fields. */
PyObject *http_headers_of_request(http_request *r);
PyObject *http_headers_new(void);
/* Callback per field, in order, for building the head.  Stops when it returns
   non-zero. */
typedef int (*http_field_fn)(void *arg, const char *name, Py_ssize_t nname,
                             const char *value, Py_ssize_t nvalue);
int http_headers_each(PyObject *headers, http_field_fn fn, void *arg);

/* Python functions of the package, set once by _set_http_hooks(). */
typedef struct {
    PyObject *parse_query;      /* (raw_query) -> query */
    PyObject *parse_form;       /* (request) -> form */
    PyObject *load_json;        /* (bytes) -> object */
    PyObject *dump_json;        /* (object) -> str */
    PyObject *log_error;        /* (message, exception or None) */
    PyObject *http_error;       /* exception type with a status */
    PyObject *body_too_large;   /* its subtype, 413 */
} http_hooks_t;
extern http_hooks_t http_hooks;

void http_log_error(http_conn *c, const char *message, PyObject *exc);

int http_headers_init(PyObject *module);
int http_request_init(PyObject *module);
int http_writer_init(PyObject *module);
int http_server_init(PyObject *module);

static inline int64_t
http_coarse_now(void)
{
    struct timespec ts;
#ifdef CLOCK_MONOTONIC_COARSE
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
#else
    clock_gettime(CLOCK_MONOTONIC, &ts);
#endif
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

#endif
