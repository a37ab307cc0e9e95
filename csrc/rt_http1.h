/* rt_http1.h - the HTTP/1 request parser (RFC 9112), zero-copy and sans-I/O.
 *
 * The head parser takes the bytes read so far and returns slices into them.
 * The chunked decoder is incremental.  Neither allocates, neither keeps
 * pointers into the input, neither reads past its end.
 *
 * Strict where leniency enables request smuggling: no bare CR or LF, no
 * whitespace before the colon, no obs-fold, one Host for HTTP/1.1, no
 * Transfer-Encoding together with Content-Length, no unknown or repeated codings.
 */
#ifndef RT_HTTP1_H
#define RT_HTTP1_H

#include "rt_base.h"

/* What each byte may be part of (RFC 9110 section 5, RFC 3986): a bit set for each
 * of the 256 values.  The response writer checks its fields with the same table. */
enum {
    RT_HC_TOKEN = 1,            /* method, field name, list member */
    RT_HC_VALUE = 2,            /* field value: HTAB, SP, VCHAR, obs-text */
    RT_HC_TARGET = 4,           /* request target: VCHAR but '#' */
    RT_HC_PATH = 8,             /* the same without '?' */
    RT_HC_HOST = 16,            /* reg-name but '%': unreserved, sub-delims */
    RT_HC_HEX = 32
};
extern const uint8_t rt_http1_class[256];

/* A run of bytes in the input: offset from its start, and length. */
typedef struct {
    uint32_t off, len;
} rt_slice;

/* Fields the parser itself understands; all others are RT_HF_OTHER. */
typedef enum {
    RT_HF_OTHER = 0,
    RT_HF_HOST,
    RT_HF_CONTENT_LENGTH,
    RT_HF_TRANSFER_ENCODING,
    RT_HF_CONNECTION,
    RT_HF_EXPECT,
    RT_HF_UPGRADE,
    RT_HF_CONTENT_TYPE,
    RT_HF_COOKIE
} rt_http1_field_id;

typedef struct {
    rt_slice name;      /* as sent; case-insensitive */
    rt_slice value;     /* without surrounding whitespace */
    uint32_t id;        /* rt_http1_field_id */
} rt_http1_field;

typedef enum {
    RT_HM_OTHER = 0, RT_HM_GET, RT_HM_HEAD, RT_HM_POST, RT_HM_PUT, RT_HM_DELETE,
    RT_HM_CONNECT, RT_HM_OPTIONS, RT_HM_TRACE, RT_HM_PATCH
} rt_http1_method;

typedef struct {
    uint32_t max_target;        /* bytes of the request target; over it: 414 */
    uint32_t max_head;          /* bytes of the whole head; over it: 431 */
    uint32_t max_fields;        /* field lines; over it: 431 */
} rt_http1_limits;

typedef struct {
    rt_slice method;
    rt_slice target;            /* the request target as sent */
    rt_slice path;              /* its path, not decoded; "*" for asterisk-form.
                                   Empty: read it as "/" (absolute-form without a
                                   path), or as none where the method is CONNECT */
    rt_slice query;             /* after '?', without it */
    rt_slice host;              /* host[:port]: the target's own in absolute- and
                                   authority-form (RFC 9112 3.2.2), else Host's */
    int64_t content_length;     /* -1: none given */
    uint8_t method_id;          /* rt_http1_method */
    uint8_t minor;              /* HTTP/1.minor: 0 or 1 */
    bool has_query;
    bool chunked;               /* the body is chunked */
    bool keep_alive;            /* by version and Connection */
    bool expect_continue;       /* Expect: 100-continue; never for HTTP/1.0 */
    bool upgrade;               /* Connection: upgrade and Upgrade; never for 1.0 */
    uint32_t nfields;
    rt_http1_field *fields;     /* the caller's array, limits->max_fields long */
    const char *error;          /* on failure: a static sentence, what is wrong */
} rt_http1_req;

/* Parse a request head.
 *   > 0: complete; the head is that many bytes long and *req is filled
 *   = 0: more bytes are needed; *req is unspecified, req->fields excepted
 *   < 0: -(HTTP status) to refuse with: 400, 414, 417, 431, 501, 505; req->error
 *        says why.  The rest of the head is unread: close after the response.
 * seen is how many of the len bytes an earlier call already got (0 at first): only
 * the new ones are searched for the end of the head, so feeding byte by byte costs
 * O(n) in all; what is wrong within a line may then be noticed later, at the end of
 * the head or when the input has doubled, but the answer is the same.  Set req->fields before each call.  One empty line before the
 * request line is skipped and counted (RFC 9112 2.2).  A buffer of max_head bytes
 * is always enough: once it is full the answer is not 0. */
int rt_http1_parse_head(const char *buf, uint32_t len, uint32_t seen,
                        const rt_http1_limits *limits, rt_http1_req *req);

/* Incremental decoder of a chunked body (RFC 9112 section 7.1). */
typedef struct {
    uint64_t left;              /* bytes left in the current chunk */
    uint32_t line;              /* bytes of the current chunk extension; see match_name() */
    uint32_t excess;            /* before the last chunk: framing beyond what honest
                                   chunks need; after it: bytes of trailer section */
    uint8_t state;              /* where in the grammar, see rt_http1_chunked.c */
    uint8_t digits;             /* hex digits of the current chunk size */
    bool in_trailers;           /* what follows is trailer section, up to the end */
    uint8_t ntrailers;          /* its field lines so far */
    const char *error;          /* after a failure: a static sentence */
} rt_http1_chunked;

void rt_http1_chunked_init(rt_http1_chunked *cs);
/* Consume input up to the end of the next run of body bytes.
 *   *used: how much of the input is consumed, the run included
 *   *data: the run inside the input (len 0: none in this input)
 * Returns 1 when the body is complete (bytes after *used belong to the next
 * request), 0 when not (call again with the rest of the input, or with more),
 * -400 on a framing error, -431 when extensions or the trailer section are too long
 * (256 bytes a line, 16 KiB more framing than data, 8 KiB and 128 lines of trailers).
 * The last two stay: later calls return the same.  Trailer fields are checked, not
 * kept: no call consumes both bytes of the trailer section and bytes before it, so
 * that the caller can keep those used by calls that began with in_trailers. */
int rt_http1_chunked_feed(rt_http1_chunked *cs, const char *in, uint32_t len,
                          uint32_t *used, rt_slice *data);

enum {
    RT_HTTP1_TRAILERS = 8 * 1024,       /* bytes of field lines, at most */
    RT_HTTP1_TRAILER_FIELDS = 128
};

/* May a field of that name be a trailer (RFC 9110 6.5.1)?  Not if it frames, routes or
 * authenticates the message, modifies the request, or describes the content. */
bool rt_http1_trailer_allowed(const char *name, size_t n);
/* Split a whole trailer section that the decoder has accepted into fields
 * (RT_HTTP1_TRAILER_FIELDS of them have room); returns how many are allowed. */
uint32_t rt_http1_split_trailers(const char *buf, uint32_t len, rt_http1_field *fields);

#endif
