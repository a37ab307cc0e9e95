/* py_http_mux.h - routes, their tables, and what a Request keeps of the one it matched. */
#ifndef PY_HTTP_MUX_H
#define PY_HTTP_MUX_H

#include "py_http.h"

enum {                          /* what a wildcard's text becomes */
    HTTP_WILD_TEXT,
    HTTP_WILD_REST,             /* the segments from there on, joined by slashes */
    HTTP_WILD_INT
};

/* A route of a table.  Never changed once it is made, but for its label. */
struct http_route {
    PyObject_HEAD
    PyObject *route;            /* owned: the Route of http/pattern.py */
    PyObject *pattern;          /* owned: str */
    PyObject *target;           /* owned: what is called */
    PyObject *names;            /* owned: a tuple of str, the wildcards in order */
    uint16_t strip;             /* segments in front that the handler does not see */
    uint16_t nsegs;             /* of the pattern */
    bool open_ended;            /* matches a whole subtree */
    bool converts;              /* its values must be given to route.convert() */
    _Atomic uint16_t label;     /* see py_http_stats.c; 0: not known yet */
    uint8_t nwild;
    struct {
        uint16_t seg;           /* which segment, from 0 */
        uint8_t kind;           /* HTTP_WILD_* */
    } wild[HTTP_MAX_WILD];
};

http_route *http_route_new(PyObject *route);    /* NULL with an exception set */

/* ---- tables ---- */

typedef struct http_mux_table http_mux_table;
typedef struct {
    const char *s;
    uint32_t len;
} http_bytes;

/* The route of a request that simply matches (a new reference), and where its wildcards
   are in the path; *strip: bytes of the path that its handler does not see.  NULL: it is
   one for the full rules. */
http_route *http_mux_lookup(const http_mux_table *t, http_bytes method, http_bytes host,
                            http_bytes path, rt_slice *wild, uint32_t *strip);

/* ---- values ---- */

/* Is it a number that wildcards of the kind HTTP_WILD_INT hold?  Up to 18 digits, perhaps
   after a minus; longer ones are left to the converter in pattern.py. */
bool http_wild_is_int(const char *s, size_t n);
/* Percent-decode n bytes into buf, which is as large; the length of the result.  Without
   `all` a text with a malformed escape stays as it is, with it only that escape does. */
size_t http_unescape(char *buf, const char *s, size_t n, bool all);

/* The values of route's wildcards at base, a new dict, or NULL with an exception set. */
PyObject *http_wild_values(const http_route *route, const rt_slice *wild, const char *base);
/* The value of one; NULL, without an exception where there is none of that name. */
PyObject *http_wild_value(const http_route *route, const rt_slice *wild, const char *base,
                          PyObject *name);

/* ---- requests ---- */

/* Where the path of r is now, in r->base. */
rt_slice http_request_path(http_request *r);
/* A mux has matched: keep route (borrowed) and where its wildcards are in the path, which
   begins at `path` in r->base.  Pattern and path values of before are gone. */
void http_request_matched(http_request *r, http_route *route, uint32_t path,
                          const rt_slice *wild);
/* r.path_values, a new reference, or NULL with an exception set. */
PyObject *http_request_path_values(http_request *r);
/* Take n more bytes off the front of r's path, or give them back (n < 0). */
void http_request_strip(http_request *r, int32_t n);

int http_route_init(PyObject *module);
int http_mux_table_init(PyObject *module);

#endif
