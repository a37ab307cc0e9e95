/* py_http.h - the HTTP/1 server: what its files share.
 *
 *   py_http_server.c   the server object, with py_http_listen.c (its listeners) and
 *                      py_http_shutdown.c
 *   py_http_shard.c    its parts, one a P: which gets a connection, time-outs
 *   py_http_conn.c     a connection's life: reading heads, running handlers, ending
 *   py_http_io.c       bytes: buffers, reading a body, sending with backpressure
 *   py_http_stream.c   connections over Python stream objects: TLS, pipes, and so on, with
 *                      py_http_stream_io.c and py_http_stream_watch.c
 *   py_http_writer.c   ResponseWriter and the bodies of responses
 *   py_http_head.c     heads of responses: status, fields, framing
 *   py_http_file.c     files as bodies of responses
 *   py_http_request.c  Request, with py_http_request_life.c, py_http_request_path.c and
 *                      py_http_request_body.c
 *   py_http_body.c     Body: the body of a request, for handlers
 *   py_http_headers.c  Headers
 *   py_http_trailers.c     trailers of requests and responses
 *   py_http_informational.c  1xx responses
 *   py_http_hijack.c   connections that handlers take over
 *   py_http_context.c  the contexts of requests
 *   py_http_pace.c     how long reading and sending may take: deadlines, data rates
 *   py_http_watch.c    telling a program of its connections: conn_state
 *   py_http_gate.c     how many requests run at once, and who waits
 *   py_http_stats.c    what is counted: requests by route, connections by state
 *   py_http_cookies.c  a request's cookies and basic_auth()
 *   py_ratelimit.c     how often each client may ask
 *   py_http_trace.c    ids of requests, for the middleware request_id
 *   py_http_log.c      lines of the access log
 *   py_http_mux.c      ServeMux: from a request to its handler, with py_http_mux_table.c
 *                      and py_http_route.c
 *
 * A connection is a C struct in the poller.  While it is idle, or a head is still
 * incomplete, that is all there is: no goroutine, no greenlet, no buffer.  Once a
 * head is complete a goroutine runs the handler and owns the connection until the
 * response is sent; it goes on with pipelined requests and then gives the
 * connection back to the poller.
 *
 * Shards.  A server has one shard for each P it uses.  A connection belongs to one
 * from when it is accepted: its events, time-outs, handlers and end all happen on
 * that P's M.  Listeners belong to the M that called listen(); it hands the connections
 * it accepts to the shards.
 *
 * What others may touch.  A handler may give its Request and ResponseWriter to
 * goroutines on other Ps and to plain threads.  Their methods run right there, never on
 * the shard's M, which may be busy or stuck for long, perhaps waiting for that very
 * thread.  So the connection's I/O state is guarded by its lock while a handler runs;
 * a method takes it, looks whether the handler still runs, and lets go of it only to
 * park.  With a GIL the lock is nothing.  Of the rules for locks two are bent: C code
 * may raise built-in exceptions under it, and the lock of a Headers is taken under it.
 */
#ifndef PY_HTTP_H
#define PY_HTTP_H

#include <sys/socket.h>

#include "py_core.h"
#include "rt_http1.h"

typedef struct http_server http_server;
typedef struct http_shard http_shard;
typedef struct http_conn http_conn;
typedef struct http_request http_request;
typedef struct http_writer http_writer;
typedef struct http_stream http_stream;
typedef struct http_route http_route;

/* Add n to a count that several Ms change; returns what it is then.  Sequentially
   consistent where there is no GIL. */
static inline uint32_t
http_count(_Atomic uint32_t *count, int n)
{
#ifdef Py_GIL_DISABLED
    return atomic_fetch_add(count, (uint32_t)n) + (uint32_t)n;
#else
    uint32_t now = RT_LOAD(*count) + (uint32_t)n;
    RT_STORE(*count, now);
    return now;
#endif
}

/* ---- input buffers ---- */

/* Bytes read from a connection.  A request keeps its head here, so blocks are
   counted; whoever adds bytes holds the connection's reference. */
typedef struct http_block {
    _Atomic uint32_t refs;
    uint32_t cap;
    struct http_block *next;    /* free list */
    char data[];
} http_block;

#define HTTP_BLOCK_SIZE (8192u - (uint32_t)sizeof(http_block))

http_block *http_block_new(uint32_t cap);   /* NULL: out of memory */
void http_block_unref(http_block *b);
static inline http_block *
http_block_ref(http_block *b)
{
    http_count(&b->refs, 1);
    return b;
}

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

/* ---- things to use again ---- */

#define HTTP_MAX_FREE_BLOCKS 256
#define HTTP_MAX_FREE_OUTS 64
#define HTTP_MAX_FREE_OBJECTS 64

/* Of the process where there is a GIL, else of each M. */
typedef struct {
    http_block *blocks;
    http_request *requests;
    http_writer *writers;
    struct Body *bodies;
    uint32_t nblocks, nrequests, nwriters, nbodies, nouts;
    char *outs[HTTP_MAX_FREE_OUTS];
    time_t date_made;           /* when `date` was made */
    char date[40];              /* "Date: ...\r\n" */
} http_cache;

#ifdef Py_GIL_DISABLED
http_cache *http_cache_slow(py_m *mp);
/* NULL on a thread that is no M, or without memory: nothing is kept. */
static inline http_cache *
http_cache_here(void)
{
    py_m *mp = py_tls_m;
    return RT_LIKELY(mp != NULL && mp->http_cache != NULL) ? mp->http_cache
                                                           : http_cache_slow(mp);
}
#else
extern http_cache http_the_cache;
static inline http_cache *
http_cache_here(void)
{
    return &http_the_cache;
}
#endif

/* ---- connections ---- */

enum {                          /* http_conn.state */
    HTTP_HEAD,                  /* waiting for (the rest of) a first or next head */
    HTTP_IDLE,                  /* keep-alive, nothing of a next request read yet */
    HTTP_ACTIVE,                /* a goroutine owns it */
    HTTP_DRAIN,                 /* discarding the rest of an unread body */
    HTTP_LINGER,                /* our side is shut down; discarding until EOF */
    HTTP_NSTATES
};

/* A place in a ring whose head is another one. */
typedef struct http_link {
    struct http_link *next, *prev;
} http_link;

/* How the I/O of one request goes on; all 0 while nothing has been waited for or set. */
typedef struct {
    int64_t read_deadline, write_deadline;      /* the handler's own, rt_nanotime(); 0: it has
                                   set none, RT_FOREVER: no limit at all */
    int64_t read_until;         /* of body_timeout, or 0 */
    int64_t read_waited, write_waited;          /* ns spent parked */
    int64_t body_left;          /* c->body_left when reading was first waited for */
    int64_t sent;               /* bytes given to the socket since sending first had to wait, */
    int64_t queued;             /* and bytes that were in it then, */
    int64_t last_queued;        /* and when one has last looked, */
    int64_t moved_at;           /* and when that was last seen to be less than before */
    bool reads, writes;         /* the last two count */
} http_pace;

/* Owned by its shard's M.  While c->req is set, what is marked L is guarded by lock. */
struct http_conn {
    rt_pd pd;                   /* first: see http_conn_of() */
    http_server *server;        /* owned reference until it is destroyed */
    http_shard *shard;          /* whose it is */
    union {
        http_link link;         /* in the list of its state in the shard, or the server's of
                                   streams */
        http_conn *next;        /* before it is opened: in the shard's queue */
    };
    http_stream *stream;        /* owned: where its bytes come from and go to; NULL: the
                                   socket pd.fd */
    int64_t deadline;           /* of its state, coarse monotonic ns */
    _Atomic uint32_t refs;      /* the connection's own, and one each of its Requests and
                                   ResponseWriters */
    py_lock lock;
    uint8_t state;
    bool readable, writable;    /* L: an edge has come and was not used up */
    bool peer_closed;           /* L: the peer shut down its side, or reset */
    bool aborted;               /* L: fail all further I/O: the server was closed */
    bool leaving;               /* L: the handler has returned: who waits in I/O must go */
    bool reading, sending;      /* L: a goroutine is parked in it */
    bool broken;                /* L: a send has failed: nothing can follow what is missing */
    bool io_failed;             /* L: our I/O has raised in this request's handler */
    uint8_t hijacked;           /* L: a handler has taken the socket over: HTTP_TAKEN */
    bool close_after;           /* L: no further request on this connection */
    bool continue_due;          /* L: the client waits for 100 Continue */
    bool paced;                 /* L: something in pace is not 0 */
    bool chunked;               /* framing of the request body */
    bool body_done;             /* L: all of it was taken off the input */
    int64_t body_left;          /* L: of a body with Content-Length; else bytes still
                                   allowed by max_body_bytes */
    int64_t drain_left;
    rt_http1_chunked decoder;   /* L */
    http_block *in;             /* L: owned reference, or NULL while nothing is read */
    uint32_t in_pos, in_len;    /* L: unread input: in->data[in_pos, in_len) */
    uint32_t in_seen;           /* of it, bytes the head parser has searched */
    http_out out;               /* L */
    py_waitq readers, writers;  /* L: the goroutine parked in I/O; readers: also the
                                   connection's own, while it waits for the others to go */
    http_request *req;          /* owned, while a handler runs; changes under lock */
    uint64_t id;                /* where somebody watches, else 0 */
    uint8_t told;               /* HTTP_CONN_*: what they were told last; by the watch's lock */
    uint32_t served;            /* requests begun, counted where there is a limit */
    http_pace pace;             /* L */
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

void http_stream_free(http_stream *st);

/* Drop a reference to c's memory; any thread. */
static inline void
http_conn_unref(http_conn *c)
{
    if (http_count(&c->refs, -1) != 0)
        return;
    if (RT_UNLIKELY(c->stream != NULL))
        http_stream_free(c->stream);
    PyMem_Free(c);
}

/* ---- the server ---- */

typedef struct {
    rt_pd pd;
    http_server *server;        /* owned reference */
    rt_timer retry;             /* accept again after running out of descriptors */
    int64_t backoff;            /* ns */
    bool delays;                /* some of its connections may lack TCP_NODELAY */
} http_listener;

#define HTTP_MAX_LISTENERS 16

typedef struct {
    http_link ring;
    _Atomic uint32_t len;
} http_list;

/* The part of a server on one P.  Touched only by that P's M, but for what is marked
   atomic and the queue. */
struct http_shard {
    py_m *mp;
    http_server *server;        /* borrowed: the server owns its shards */
    rt_http1_field *scratch;    /* owned array for the parser, limits.max_fields */
    http_list list[HTTP_NSTATES];           /* each in order of deadline, ACTIVE in none */
    _Atomic uint32_t nopen;     /* connections in all of them */
    rt_timer sweep;             /* fires at the earliest deadline; only while there are
                                   connections, whose references keep the server alive */
    _Atomic uint64_t requests;

    py_lock lock;               /* guards the queue: accepted connections for this M */
    http_conn *first, **last;
    _Atomic uint32_t nqueued;
    _Atomic int64_t asked_at;   /* when a goroutine was sent to take them, rt_nanotime();
                                   0: none is on its way */
};

/* How many requests run.  Guarded by its lock, but for what is set before the server serves. */
typedef struct {
    uint32_t limit;             /* set before; 0: no limit, and nothing else is used */
    uint32_t max_waiting;       /* set before */
    int64_t patience;           /* set before: ns to wait */
    py_lock lock;
    uint32_t running;
    _Atomic uint32_t waiting;
    py_waitq waiters;
} http_gate;

struct http_server {
    PyObject_HEAD
    uint32_t forks;             /* core->forks at listen() */
    _Atomic(py_m *) mp;         /* the listeners' M; NULL before listen(), then for good */
    PyObject *handler;          /* owned */
    PyObject *contexts;         /* owned or NULL, set before it serves: what the contexts of
                                   requests are made of */
    rt_http1_limits limits;
    int64_t timeouts[HTTP_NSTATES];         /* ns a connection may be in each state */
    int64_t read_timeout, write_timeout;    /* ns */
    int64_t max_body;           /* bytes; INT64_MAX: no limit */
    uint32_t max_conns;
    uint32_t max_served;        /* requests a connection; 0: no limit */
    int64_t body_timeout;       /* ns, INT64_MAX: none */
    int64_t min_read_rate, min_write_rate;      /* bytes a second, 0: none; once what was waited
                                   exceeds */
    int64_t rate_grace;         /* ns */
    http_gate gate;
    struct http_watch *watch;   /* owned or NULL, set before it serves */
    bool leave_main;            /* a plain thread serves: the spare P stands in for the
                                   main thread's, which may do something else */
    /* By the listeners' M: */
    http_listener *listeners[HTTP_MAX_LISTENERS];
    _Atomic int nlisteners;
    _Atomic(http_shard *) shards[RT_MAX_P + 1];     /* by the P's id */
    rt_timer recall;            /* look for connections that wait too long to be taken */
    rt_timer give_up;           /* an abort takes too long; both timers own a reference to
                                   the server while they are started */
    _Atomic uint64_t accepted;
    /* By anybody: */
    _Atomic uint32_t nconns;    /* of all shards, with those not taken yet */
    _Atomic bool full;          /* accepting ended at max_conns */
    _Atomic bool retiring;      /* responses from now on are the last of their connections */
    _Atomic bool closing;       /* the same, and nothing is accepted any more */
    _Atomic bool hasten;        /* the same, and no connection waits for a request */
    _Atomic bool cut;           /* no request gets a response any more */
    _Atomic bool aborted;       /* nobody waits for handlers that still run */
    _Atomic uint32_t aborting;  /* shards that have still to do it */
    bool bubbled;               /* made in a bubble, in whose hands it is */
    _Atomic bool streamed;      /* there ever was a stream */
    py_lock lock;               /* guards: */
    py_waitq waiters;           /* in wait_closed(), listen() and admit() */
    http_link streams;          /* connections over streams, */
    _Atomic uint32_t nstreams[HTTP_NSTATES];    /* and how many are in each state */
    http_server *next_server, *prev_server; /* see http_stats_enter() */
};

/* Put c at the end of the list of `state`, with that state's time-out. */
void http_conn_set_state(http_conn *c, int state);
/* A connection for an accepted socket, in no shard yet; NULL: out of memory, and the
   socket is closed. */
http_conn *http_conn_new(http_server *s, int fd, const struct sockaddr *peer);
/* Begin to serve it on c->shard, by its M.  On failure it is gone. */
void http_conn_open(http_conn *c);
/* Deregister, close and free. */
void http_conn_destroy(http_conn *c);
/* The same for one that was never opened; any thread. */
void http_conn_discard(http_conn *c);
/* After deadline: c's state has lasted too long. */
void http_conn_expired(http_conn *c);
/* Fail whatever c's goroutine does next with it. */
void http_conn_abort(http_conn *c);

/* Is this a forked child, and s the parent's?  Its connections are not for us to touch. */
static inline bool
http_server_is_parents(const http_server *s)
{
    return s->forks != core->forks && (RT_LOAD(s->mp) != NULL || RT_LOAD(s->streamed));
}
/* Is c to send no more?  The server says so before each connection knows: what ends a handler then,
   such as its context, must not lead to a response.  c is locked. */
static inline bool
http_is_cut(http_conn *c)
{
    if (RT_UNLIKELY(RT_LOAD(c->server->cut)))
        c->aborted = true;
    return c->aborted;
}
/* The shard of mp, made at need; NULL: out of memory. */
http_shard *http_shard_get(http_server *s, py_m *mp);
void http_shard_free(http_shard *sh);
/* The one for a new connection, by the listeners' M. */
http_shard *http_shard_choose(http_server *s);
/* A stream on the shard begins or ends (n is 1 or -1); by its M. */
void http_shard_count(http_shard *sh, int n);
/* Give c to a shard and count it, by the listeners' M. */
void http_shard_place(http_conn *c);
/* Discard what waits to be taken.  By the listeners' M. */
void http_shard_forget(http_shard *sh);
/* Connections that have waited so long (ns) for a request are closed at once by a shutdown;
   the others get that much time. */
#define HTTP_SETTLED 500000000
/* Close what is idle; without s->hasten, what has been for HTTP_SETTLED. */
void http_shard_shutdown(http_shard *sh);
/* Close everything, fail handlers' I/O. */
void http_shard_abort(http_shard *sh);
/* A connection of the shard begins, or ends. */
void http_shard_add(http_conn *c);
void http_shard_remove(http_conn *c);
/* Fires where connections have waited too long to be taken. */
void http_shard_recall(rt_timer *t);

/* One connection less, of which there are `left` now.  Any thread. */
void http_server_closed_one(http_server *s, uint32_t left);
/* Wait until there may be one connection more, and count it.  1; 0: the server is closing;
   -1 with an exception set. */
int http_server_admit(http_server *s);

/* ---- statistics ---- */

/* Add n to a counter of the calling thread's M, or, where that is none, to one of them all. */
#define HTTP_COUNT(counter, n)                                                                    \
    do {                                                                                          \
        py_m *here = py_tls_m;                                                                    \
        if (RT_LIKELY(here != NULL))                                                              \
            RT_COUNT(here->http.counter, n);                                                      \
        else                                                                                      \
            atomic_fetch_add_explicit(&core->http.counter, n, memory_order_relaxed);              \
    } while (0)

/* A request that is to be counted; its time goes on. */
typedef struct {
    int64_t began;
    uint32_t key;
} http_sample;

/* Of a request and the status it got; 0: none was sent. */
http_sample http_stats_sample(const http_request *r, int status);
/* Its time is over; returns what time that is, rt_nanotime().  By mp. */
int64_t http_stats_add(py_m *mp, const http_sample *sample);
/* The label of a route by its pattern, a str. */
uint16_t http_stats_label(PyObject *pattern);
/* A server begins to exist, or ends. */
void http_stats_enter(http_server *s);
void http_stats_leave(http_server *s);
/* Add how many of its connections are in each state. */
void http_stats_count_states(const http_server *s, uint32_t count[HTTP_NSTATES]);
int http_stats_init(PyObject *module);

/* ---- I/O.  Called with c->lock held, which is let go of while they park; they may
   raise. ---- */

/* Send all of c->out and then `extra`.  -1 with an exception set: the connection is
   useless. */
int http_send(http_conn *c, const char *extra, size_t nextra);
/* Wait until c->writable, which is off after the socket took no more.  -1 with an exception
   set. */
int http_wait_writable(http_conn *c);
/* Raise why there is no I/O any more; -1. */
int http_raise_gone(http_conn *c);
/* Let who is parked in c's I/O fail, and wait until they are gone; gp: the connection's
   own goroutine.  -1: the response is not whole. */
int http_expel(http_conn *c, Goroutine *gp);

/* ---- pace.  With c->lock held ---- */

/* When to give up waiting that begins at `now`; timeout: the server's for a wait. */
int64_t http_pace_deadline(http_conn *c, bool read, int64_t timeout, int64_t now);
/* The same for a stream, which is about to read, or to write n bytes: nobody can tell how many of
   them have gone before all have, so these may take as long as so many may take. */
int64_t http_pace_deadline_stream(http_conn *c, bool read, int64_t timeout, int64_t now,
                                  int64_t n);
/* The clock of c's deadlines. */
int64_t http_now(const http_conn *c);
/* That time has come.  True: there was progress after all, and *deadline is a later one;
   began: when the wait did. */
bool http_pace_goes_on(http_conn *c, bool read, int64_t timeout, int64_t began,
                       int64_t *deadline);
/* The wait is over; began: by http_now(). */
void http_pace_waited(http_conn *c, bool read, int64_t began);
/* Is the time for it up, whether it would have to wait or not? */
bool http_pace_over(const http_conn *c, bool read);
PyObject *http_writer_set_read_deadline(http_writer *w, PyObject *seconds);
PyObject *http_writer_set_write_deadline(http_writer *w, PyObject *seconds);

/* ---- conn_state ---- */

enum {                          /* in the order of ConnState in http/connstate.py */
    HTTP_CONN_NEW,
    HTTP_CONN_ACTIVE,
    HTTP_CONN_IDLE,
    HTTP_CONN_HIJACKED,
    HTTP_CONN_CLOSED
};
/* Tell of c, where c->server->watch is set; by the shard's M, or by who hijacks it. */
void http_watch_note(http_conn *c, int what);
PyObject *http_server_set_watch(http_server *s, PyObject *hook);
int http_watch_traverse(struct http_watch *w, visitproc visit, void *arg);
void http_watch_free(struct http_watch *w);
/* "ip:port" of the peer. */
PyObject *http_conn_addr(const http_conn *c);
#define HTTP_MAX_ADDR 80
/* The same as bytes, of a connection that is no stream: how many there are, and of them *nhost
   before the port. */
size_t http_conn_addr_text(const http_conn *c, char buf[HTTP_MAX_ADDR], size_t *nhost);

/* ---- the gate, where it has a limit ---- */

/* A place to run, waited for by gp; false: there is none. */
bool http_gate_enter(http_server *s, Goroutine *gp);
void http_gate_leave(http_server *s);
/* Nobody waits any more. */
void http_gate_close(http_server *s);
/* Answer that there is no place.  0, or -1. */
int http_gate_refuse(http_conn *c);
PyObject *http_server_set_limits(http_server *s, PyObject *args, PyObject *kwargs);
/* Seconds, None for ever, NULL: leave it.  -1 with an exception set. */
int http_seconds(PyObject *value, const char *name, int64_t *ns);

/* Bytes of the request body that are still to come, -1 if that is not known. */
static inline int64_t
http_body_left(const http_conn *c)
{
    return c->body_done ? 0 : c->chunked ? -1 : c->body_left;
}

#define HTTP_REQUEST_OVER \
    "the handler of this request has returned: its connection is gone"

/* Of a stream: send as http_send() does.  0 or an error, an HTTP_STREAM_RAISED or -errno:
   EPIPE it broke, ECANCELED the handler must go, ETIMEDOUT. */
#define HTTP_STREAM_RAISED (-100000)
int http_stream_send(http_conn *c, const char *extra, size_t nextra);
/* Read up to n bytes of the body into dst, or some into c->in where dst is NULL.  > 0, 0: the
   stream has ended, or an error. */
Py_ssize_t http_stream_recv(http_conn *c, char *dst, Py_ssize_t n);
/* Who reads or writes shall fail: c->leaving is set. */
void http_stream_expel(http_conn *c);
/* A deadline of c->pace was changed: who reads, or writes, heeds it. */
void http_stream_limit(http_conn *c, bool read);
/* The context was asked for, or the body is read: from now on notice that the client goes.
   Without the lock; cheap if there is no need to. */
void http_stream_watch(http_conn *c);
/* No more: c->reading is off when this returns.  The lock is let go of meanwhile.  -1 with the
   exception set that was, or that has interrupted it. */
int http_stream_recall(http_conn *c, Goroutine *gp);
/* Take c off its server: the stream object, which is the caller's from now on. */
PyObject *http_stream_take(http_conn *c);

/* ---- the same without the lock ---- */

/* Read 1 to n bytes of the body of r into dst.  0 at its end, -1 with an exception
   set.  *left: bytes that are still to come, -1 if that is not known. */
Py_ssize_t http_body_read(http_request *r, char *dst, Py_ssize_t n, int64_t *left);
/* Everything that is left, as bytes. */
PyObject *http_body_read_all(http_request *r);
/* A Body that reads the body of r. */
PyObject *http_body_new(http_request *r);

/* ---- the connection's goroutine or callback alone, without parking ---- */

/* Discard what is left of the body without parking.  1 done, 0 more must come,
   -1 broken. */
int http_body_discard(http_conn *c);
/* recv() into the free part of c->in, without parking: > 0 bytes, 0 EOF, -EAGAIN
   or another -errno. */
Py_ssize_t http_fill(http_conn *c, uint32_t want);
/* Put n bytes at the end of c->in.  0 or -ENOMEM. */
int http_input_add(http_conn *c, const char *data, uint32_t n);
/* Set up c->req if there is a whole head in c->in.  False: it was refused; of a stream the
   response is in c->out, or c->broken is set. */
bool http_conn_parse(http_conn *c);
/* Run the handler of c->req and those of requests pipelined behind it, and send the
   responses.  0, -1: the connection is broken, HTTP_FORKED: leave it alone.  *fatal: an
   exception (owned) that is not the handlers' own affair. */
#define HTTP_FORKED (-2)
int http_conn_serve(http_conn *c, Goroutine *gp, PyObject **fatal);

/* ---- streams ---- */

/* Close those that have been silent for HTTP_SETTLED, with s->hasten all that are silent, or all
   (abort).  Any thread; runs Python. */
void http_streams_close(http_server *s, bool abort);
/* The next request of a stream begins: what one handler has left in its context is not for
   the next. */
void http_stream_context(http_stream *st);
/* Of a stream's Requests; borrowed. */
PyObject *http_stream_remote_addr(const http_conn *c);
PyObject *http_stream_tls(const http_conn *c);
/* Start a goroutine that calls args[0] with the others, on mp; NULL: as go() does, in the
   caller's bubble.  -1 with an exception set. */
int http_spawn(py_m *mp, PyObject *args);
PyObject *http_server_admit_stream(http_server *s, PyObject *io);
PyObject *http_server_parse_request(http_server *s, PyObject *args);

/* ---- requests and responses ---- */

/* Wildcards of a pattern, at most. */
#define HTTP_MAX_WILD 16

struct http_request {
    PyObject_HEAD
    http_conn *conn;            /* owned reference to its memory; the handler runs while
                                   conn->req is this */
    http_block *block;          /* owned: holds the head */
    const char *base;           /* of all slices; inside block */
    rt_http1_req head;          /* head.fields is `fields` */
    rt_http1_field *fields;     /* inline_fields or an owned array */
    bool tracked;               /* by the collector: somebody has kept it */
    _Atomic bool made;          /* any of the following was ever set */
    bool trailer_whole;         /* all of the trailer section is in `trailer` */
    _Atomic bool host_set;      /* `host` is not the one that was sent */
    uint32_t trailer_len;
    rt_http1_field inline_fields[16];
    http_block *trailer;        /* owned: the trailer section, as far as it has come, or NULL;
                                   this and the two before are guarded by conn->lock */
    /* Owned, made when asked for, and then there until the end: */
    PyObject *method, *raw_query, *query, *headers, *trailers, *cookies, *state;
    PyObject *form;             /* the same: what decodes forms, and has them */
    /* The same, but guarded by conn->lock, as head.path and what follows is: */
    PyObject *body, *path, *raw_path, *path_values, *pattern, *remote_addr, *host, *scheme;
    PyObject *context;          /* see py_http_context.c */
    uint32_t stripped;          /* bytes in front of head.path that were part of it */
    int64_t began;              /* when its head was complete, rt_nanotime() */
    _Atomic uint16_t label;     /* of the route that was matched last, by it or a copy: see
                                   py_http_stats.c */
    http_route *route;          /* owned: what a mux has matched, or NULL.  Its pattern and
                                   values are the request's unless those are set. */
    rt_slice wild[HTTP_MAX_WILD];           /* of base: what its wildcards stand for */
    http_request *origin;       /* owned, of a copy with another context: the connection's own,
                                   which is never a copy */
    http_request *next_free;
};

/* All but headers is guarded by conn->lock. */
struct http_writer {
    PyObject_HEAD
    http_conn *conn;            /* owned reference to its memory */
    PyObject *headers;          /* owned Headers, made when asked for */
    PyObject *trailers;         /* the same, sent after the body */
    PyObject *first;            /* owned str or bytes: the only write so far */
    char *buf;                  /* owned: body bytes of several small writes */
    uint32_t buf_len, buf_cap;
    int status;                 /* 0: not chosen yet */
    int64_t declared;           /* Content-Length the handler set, or -1 */
    int64_t written;            /* body bytes handed over */
    bool ended;                 /* the handler has returned, or hijacked the connection */
    uint8_t hijack;             /* HTTP_TAKING: hijack() is under way, HTTP_TAKEN: it is done */
    bool wrote;                 /* write() or write_header() was called */
    bool head_sent;             /* the head is in c->out or on the wire */
    bool chunked;
    bool no_body;               /* HEAD, 101, 204, 205, 304 */
    bool is_text;               /* the first write was a str */
    bool is_json;
    http_writer *next_free;
};

http_request *http_request_new(http_conn *c, const rt_http1_req *head);
/* The one that the connection knows. */
static inline http_request *
http_request_root(http_request *r)
{
    return RT_LIKELY(r->origin == NULL) ? r : r->origin;
}
/* The handler is done: take c->req off the connection and drop the reference.  True if
   others are parked in c's I/O: http_expel() must follow. */
bool http_request_end(http_conn *c);
/* r.cookies; those of that name, or with `first` the first or None; r.basic_auth().  New
   references, or NULL with an exception set. */
PyObject *http_request_cookies(http_request *r);
PyObject *http_request_cookies_named(http_request *r, PyObject *name, bool first);
PyObject *http_request_basic_auth(http_request *r);
/* Raises TypeError (-1) where r is no Request; what: who needs one. */
int http_request_check(PyObject *r, const char *what);
/* r.state; a new reference, or NULL with an exception set. */
PyObject *http_request_state(http_request *r);
/* r.remote_addr if that is an object already, r.pattern if there is one: new references, or NULL
   without an exception. */
PyObject *http_request_known_addr(http_request *r);
PyObject *http_request_pattern(http_request *r);
/* r.host, r.remote_addr: new references, or NULL with an exception set. */
PyObject *http_request_host(http_request *r);
PyObject *http_request_remote_addr(http_request *r);
http_writer *http_writer_new(http_conn *c);
/* What w.status is. */
int http_writer_status(http_writer *w);
/* Use what the handler returned (borrowed).  -1 with an exception set. */
int http_writer_returned(http_writer *w, PyObject *value);
/* End the response, completing it in c->out (large bodies may be sent).  -1: exception
   set. */
int http_writer_finish(http_writer *w);
/* End it as it is.  True if its head has been sent. */
bool http_writer_cut(http_writer *w);
/* Begin an operation of a handler: take the connection's lock and return it.  NULL with an
   exception set where the response takes no more. */
http_conn *http_writer_enter(http_writer *w);
/* With the lock held: put the head, and what was held back, into c->out (large bodies may be
   sent) unless that was done.  next: how what comes then begins; *drop: a reference to drop
   after the lock.  -1 with an exception set. */
int http_writer_begin(http_writer *w, const char *next, size_t nnext, PyObject **drop);
/* Count n bytes of body.  -1 with an exception set: more than was declared. */
int http_writer_count(http_writer *w, int64_t n);
PyObject *http_writer_write(http_writer *w, PyObject *data);
PyObject *http_writer_send_file(http_writer *w, PyObject *args, PyObject *kwargs);
/* Write the head into c->out.  length: of the whole body, or -1: it will be
   streamed.  extra: bytes of body the caller will add.  body: how it begins, as far as
   that is known.  -1 with an exception set. */
int http_head_add(http_writer *w, int64_t length, size_t extra, const char *body, size_t nbody);
/* A whole response without a handler, appended to c->out; says Connection: close
   where c->close_after is set.  fields: further ones, complete lines.  0, or -1 without an
   exception (no memory). */
int http_simple_response(http_conn *c, int status, const char *text, const char *fields);
/* The same in place of what w's handler had begun and not sent: with its header fields, but for
   those that describe content. */
int http_error_response(http_writer *w, int status);
const char *http_status_text(int status);
void http_add_status_line(http_out *out, int status);       /* after reserve, 64 bytes */

/* ---- trailers ---- */

/* Keep n bytes of the trailer section of c->req, with the lock held; last: they are its
   end.  -1 with MemoryError set. */
int http_trailers_keep(http_conn *c, const char *data, uint32_t n, bool last);
PyObject *http_request_trailers(http_request *r, void *closure);
PyObject *http_writer_trailers(http_writer *w, void *closure);
/* With the lock held.  Will a response of w that is not framed yet end with trailers? */
bool http_trailers_wanted(http_writer *w);
/* The head in c->out is complete: add a field Trailer that names them.  -1: exception set. */
int http_trailers_announce(http_writer *w);
/* Add the last chunk, with the trailers if there are any.  -1: exception set. */
int http_trailers_end(http_writer *w);

/* ---- informational responses ---- */

PyObject *http_writer_informational(http_writer *w, PyObject *args, PyObject *kwargs);

/* ---- hijacking ---- */

enum {                          /* http_conn.hijacked, http_writer.hijack; 0: no */
    HTTP_TAKING = 1,
    HTTP_TAKEN,                 /* its socket and registration are gone */
    HTTP_COPIED                 /* the handler has a duplicate: the connection's own are
                                   closed by its M, once the handler has returned */
};

PyObject *http_writer_hijack(http_writer *w, PyObject *ignored);
/* The handler has returned: http_conn_destroy() for a connection that was hijacked. */
void http_hijack_end(http_conn *c);

/* The context of r, a new reference.  May run Python. */
PyObject *http_request_context(http_request *r);
/* Raises TypeError (-1) where ctx is no context. */
int http_context_check(PyObject *ctx);
/* r is over: end its context.  Runs Python; raises nothing. */
void http_context_end(PyObject *context);
/* The client has gone: end the context (stolen), in a goroutine.  By the shard's M. */
void http_context_gone(http_conn *c, PyObject *context);
/* The same for a stream, by who has found that out, without c->lock.  Runs Python. */
void http_context_lost(http_conn *c);

/* Headers of a request: a view of r's fields. */
PyObject *http_headers_of_request(http_request *r);
/* Of fields that are slices of b. */
PyObject *http_headers_of_block(http_block *b, const char *base, const rt_http1_field *fields,
                                uint32_t n);
PyObject *http_headers_new(void);
/* Its set(name, value).  -1 with an exception set. */
int http_headers_set(PyObject *headers, PyObject *name, PyObject *value);
typedef struct {
    const char *s;
    size_t n;
    PyObject *owner;            /* owned: keeps the bytes, or NULL: they are in the request's
                                   block */
} http_value;
/* The first value of that name in r.headers, which are not made for that.  False: none. */
bool http_request_value(http_request *r, const char *name, size_t n, http_value *value);
/* All of them as a str, joined by commas (a new reference); None without any, or NULL with an
   exception set. */
PyObject *http_request_values(http_request *r, PyObject *name);
/* Headers that refuse fields which must not be trailers. */
PyObject *http_headers_new_trailers(void);
/* A new one with the fields of a Headers, a mapping or pairs. */
PyObject *http_headers_copy(PyObject *fields);
uint32_t http_headers_count(PyObject *headers);
bool http_headers_has(PyObject *headers, const char *name, size_t n);
/* The first value of a field, or `otherwise`; a new reference. */
PyObject *http_headers_first(PyObject *headers, PyObject *name, PyObject *otherwise);
/* Callback per field, in order, for building the head.  Stops when it returns
   non-zero. */
typedef int (*http_field_fn)(void *arg, const char *name, Py_ssize_t nname,
                             const char *value, Py_ssize_t nvalue);
/* Between these two calls the fields stay as they are. */
void http_headers_acquire(PyObject *headers);
void http_headers_release(PyObject *headers);
int http_headers_each(PyObject *headers, http_field_fn fn, void *arg);

/* Python functions of the package, set once by _set_http_hooks(). */
typedef struct {
    PyObject *parse_query;      /* (raw_query) -> query */
    PyObject *make_forms;       /* (request) -> forms, the object behind form() and its kin */
    PyObject *load_json;        /* (bytes) -> object */
    PyObject *dump_json;        /* (object) -> str */
    PyObject *log_error;        /* (message, exception or None) */
    PyObject *http_error;       /* exception type with a status */
    PyObject *body_too_large;   /* its subtype, 413 */
    PyObject *parse_cookies;    /* (list of str) -> tuple of Cookie */
    PyObject *parse_basic;      /* (str) -> (user, password) or None */
} http_hooks_t;
extern http_hooks_t http_hooks;

void http_log_error(http_conn *c, const char *message, PyObject *exc);

int http_headers_init(PyObject *module);
int http_request_init(PyObject *module);
int http_body_init(PyObject *module);
int http_writer_init(PyObject *module);
int http_head_init(PyObject *module);
int http_mux_init(PyObject *module);
int http_file_init(PyObject *module);
int http_ratelimit_init(PyObject *module);
int http_server_init(PyObject *module);
int http_hijack_init(PyObject *module);
int http_context_init(PyObject *module);
int http_stream_init(PyObject *module);
int http_trace_init(PyObject *module);
int http_log_init(PyObject *module);
int http_etag_init(PyObject *module);
int http_forwarded_init(PyObject *module);

/* The object in a slot that is filled once, on first use (borrowed), or NULL. */
static inline PyObject *
http_lazy(PyObject **slot)
{
    return __atomic_load_n(slot, __ATOMIC_ACQUIRE);
}
/* Fill the slot with value (stolen, may be NULL); of several threads that do so at once
   the first wins.  A new reference to what is there, or NULL. */
static inline PyObject *
http_lazy_set(PyObject **slot, PyObject *value)
{
#ifdef Py_GIL_DISABLED
    PyObject *none = NULL;
    if (value == NULL
        || __atomic_compare_exchange_n(slot, &none, value, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE))
        return Py_XNewRef(value);
    Py_DECREF(value);
    return Py_NewRef(none);
#else
    if (RT_LIKELY(*slot == NULL))
        return Py_XNewRef(*slot = value);
    Py_XDECREF(value);          /* another goroutine was quicker while ours was away */
    return Py_NewRef(*slot);
#endif
}

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
