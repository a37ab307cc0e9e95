/* rt_http1.c - the request head: one strict left-to-right pass, no copies.
 *
 * The parser reads the input once, front to back, and stores offsets.  SSE2 looks
 * at 16 bytes at a time for the byte that ends a target, a field name or a value;
 * elsewhere (or with -DRT_HTTP1_PORTABLE) a 256-entry table does the same.
 * 32-byte AVX2 steps were measured and gained nothing: most runs are shorter than that.
 *
 * Invariants
 *  1. No byte at or after buf + len is read.  A vector load that would cross the end
 *     is moved back to end there, over bytes that are already known.
 *  2. Every refusal is decided by a byte that is there, never by where the input
 *     happens to stop.  So what is wrong with a prefix is wrong, with the same
 *     status, with everything that starts with it, and the final answer for some
 *     bytes does not depend on how they were split into reads.
 *  3. Once a head is complete, or a line feed without carriage return is there, or
 *     a limit is passed, the answer is not 0.
 *
 * Resuming.  An incremental state machine would pay for its state on every byte of
 * the usual request, which arrives in one piece.  Instead a resumed call only looks
 * for a reason to parse again from the start: the empty line that ends a head, a
 * line feed without its carriage return, a limit that was passed, or twice as many
 * bytes as there were (which bounds how long any other error stays unseen).  The
 * passes over a head thus add up to less than three times its length.
 *
 * Where RFC 9112 leaves a choice, this parser refuses what proxies are known to read
 * differently: bare LF (2.2), whitespace before the colon (5.1), obs-fold (5.2),
 * any repetition of Content-Length, even of the same number (6.3; llhttp refuses it
 * as well), Content-Length beside Transfer-Encoding (6.1), more than one coding.
 */
#include "rt_http1.h"

#include <string.h>

#if defined(__SSE2__) && !defined(RT_HTTP1_PORTABLE)
#define RT_HTTP1_SSE2 1
#include <emmintrin.h>
#endif

enum {
    MORE = 0,                   /* a step ran out of input */
    DONE = 1                    /* a step succeeded; < 0 is a refusal */
};

enum { METHOD_MAX = 32 };       /* the registry's longest has 17 letters */

typedef struct {
    const uint8_t *buf;         /* start of the input */
    const uint8_t *p;           /* next byte to look at */
    const uint8_t *end;         /* end of the input, or max_head if that is nearer */
    const rt_http1_limits *limits;
    rt_http1_req *req;
    bool absolute;              /* req->host comes from the target */
    bool host;                  /* seen: a Host line, */
    bool conn_close;            /* Connection: close, */
    bool conn_keep_alive;       /* Connection: keep-alive, */
    bool conn_upgrade;          /* Connection: upgrade, */
    bool upgrade;               /* a non-empty Upgrade line */
} parser;

/* Table of byte classes: one letter for each combination that occurs. */
#define O 0
#define V RT_HC_VALUE
#define Q (V | RT_HC_TARGET)                    /* '?' */
#define P (Q | RT_HC_PATH)                      /* VCHAR that is nothing else */
#define S (P | RT_HC_HOST)                      /* sub-delims that are not tchar */
#define T (P | RT_HC_TOKEN)                     /* tchar that is not in reg-name */
#define N (T | RT_HC_HOST)                      /* tchar and reg-name */
#define X (N | RT_HC_HEX)
#define F (V | RT_HC_TOKEN)                     /* '#': never in a target */
const uint8_t rt_http1_class[256] = {
    O, O, O, O, O, O, O, O, O, V, O, O, O, O, O, O,
    O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,
    V, N, P, F, N, T, N, N, S, S, N, N, S, N, N, P, /*  !"#$%&'()*+,-./ */
    X, X, X, X, X, X, X, X, X, X, P, S, P, S, P, Q, /* 0-9 :;<=>? */
    P, X, X, X, X, X, X, N, N, N, N, N, N, N, N, N, /* @ A-O */
    N, N, N, N, N, N, N, N, N, N, N, P, P, P, T, N, /* P-Z [\]^_ */
    T, X, X, X, X, X, X, N, N, N, N, N, N, N, N, N, /* ` a-o */
    N, N, N, N, N, N, N, N, N, N, N, P, T, P, N, O, /* p-z {|}~ DEL */
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
};
#undef O
#undef V
#undef Q
#undef P
#undef S
#undef T
#undef N
#undef X
#undef F

#define IS(c, cls) (rt_http1_class[(uint8_t)(c)] & (cls))

static RT_COLD int
refuse(rt_http1_req *req, int status, const char *why)
{
    req->error = why;
    return -status;
}

static inline rt_slice
slice(const parser *ps, const uint8_t *from, const uint8_t *to)
{
    return (rt_slice){(uint32_t)(from - ps->buf), (uint32_t)(to - from)};
}

static inline bool
is_digit(uint8_t c)
{
    return (uint8_t)(c - '0') < 10;
}

static inline bool
is_ows(uint8_t c)
{
    return c == ' ' || c == '\t';
}

/* ---- fixed words ------------------------------------------------------------- */

static inline uint64_t
load64(const void *p)
{
    uint64_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

static inline uint32_t
load32(const void *p)
{
    uint32_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

/* Does the input read lit (n of: lower-case letters, digits, "-:/"), in any case?
 * Setting bit 5 maps only upper case and control characters onto those; the caller
 * has made sure that there are none of the latter.  n is a constant, so this folds
 * to two or three comparisons of overlapping words. */
static inline __attribute__((always_inline)) bool
eq_fold(const uint8_t *s, const char *lit, size_t n)
{
    const uint64_t fold = 0x2020202020202020u;
    const uint32_t fold4 = 0x20202020u;

    if (n > 16)
        return (load64(s) | fold) == load64(lit) &&
               (load64(s + 8) | fold) == load64(lit + 8) &&
               (load64(s + n - 8) | fold) == load64(lit + n - 8);
    if (n >= 8)
        return (load64(s) | fold) == load64(lit) &&
               (load64(s + n - 8) | fold) == load64(lit + n - 8);
    return (load32(s) | fold4) == load32(lit) &&
           (load32(s + n - 4) | fold4) == load32(lit + n - 4);
}

/* Is the slice [s, e) the word lit?  lit has at least 4 and at most 24 letters. */
#define WORD(s, e, lit) \
    ((size_t)((e) - (s)) == sizeof(lit) - 1 && eq_fold((s), lit, sizeof(lit) - 1))

/* ---- runs of bytes ----------------------------------------------------------- */

#ifdef RT_HTTP1_SSE2
/* A bit for each of the 16 bytes that is outside cls.  For TOKEN only letters,
 * digits and '-' count as inside: the rest is left to the table. */
static inline __attribute__((always_inline)) unsigned
outside(__m128i v, int cls)
{
    const __m128i del = _mm_cmpeq_epi8(v, _mm_set1_epi8(0x7f));
    __m128i in, out;

    if (cls == RT_HC_TOKEN) {
        /* x <= n unsigned is min(x, n) == x. */
        __m128i a = _mm_sub_epi8(_mm_or_si128(v, _mm_set1_epi8(0x20)),
                                 _mm_set1_epi8('a'));
        __m128i d = _mm_sub_epi8(v, _mm_set1_epi8('0'));
        in = _mm_cmpeq_epi8(_mm_min_epu8(a, _mm_set1_epi8(25)), a);
        in = _mm_or_si128(in, _mm_cmpeq_epi8(_mm_min_epu8(d, _mm_set1_epi8(9)), d));
        in = _mm_or_si128(in, _mm_cmpeq_epi8(v, _mm_set1_epi8('-')));
        return (unsigned)_mm_movemask_epi8(in) ^ 0xffffu;
    }
    if (cls == RT_HC_VALUE) {
        out = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v);
        out = _mm_andnot_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('\t')), out);
        return (unsigned)_mm_movemask_epi8(_mm_or_si128(out, del));
    }
    /* Signed: bytes from 0x80 on are less than SP too. */
    in = _mm_cmpgt_epi8(v, _mm_set1_epi8(' '));
    out = _mm_or_si128(del, _mm_cmpeq_epi8(v, _mm_set1_epi8('#')));
    if (cls == RT_HC_PATH)
        out = _mm_or_si128(out, _mm_cmpeq_epi8(v, _mm_set1_epi8('?')));
    return (unsigned)_mm_movemask_epi8(_mm_andnot_si128(out, in)) ^ 0xffffu;
}
#endif

/* The first byte of [p, end) outside cls (a constant), or end.  lo <= p bounds how
 * far back a load may start. */
static inline __attribute__((always_inline)) const uint8_t *
span(const uint8_t *lo, const uint8_t *p, const uint8_t *end, int cls)
{
#ifdef RT_HTTP1_SSE2
    unsigned m = 0;

    while (end - p >= 16) {
        m = outside(_mm_loadu_si128((const __m128i *)p), cls);
        if (m != 0)
            break;
        p += 16;
    }
    if (m == 0 && p < end && end - lo >= 16) {
        m = outside(_mm_loadu_si128((const __m128i *)(end - 16)), cls);
        m >>= 16 - (end - p);
        if (m == 0 && cls != RT_HC_TOKEN)
            return end;
    }
    if (m != 0) {
        p += __builtin_ctz(m);
        if (cls != RT_HC_TOKEN || *p == ':')
            return p;
    }
#else
    (void)lo;
#endif
    while (p < end && IS(*p, cls))
        p++;
    return p;
}

/* ---- request line ------------------------------------------------------------ */

static int
parse_method(parser *ps)
{
    const uint8_t *s = ps->p, *e = s, *end = ps->end;
    rt_http1_req *req = ps->req;
    int id = RT_HM_OTHER;

    if (RT_LIKELY(end - s >= 4 && load32(s) == load32("GET "))) {
        e = s + 3;
        id = RT_HM_GET;
        goto done;
    }
    while (e < end && IS(*e, RT_HC_TOKEN)) {
        /* RFC 9112 3: longer than any implemented one: 501. */
        if (e++ - s >= METHOD_MAX)
            return refuse(req, 501, "method too long");
    }
    if (e == end)
        return MORE;
    if (*e != ' ' || e == s)
        return refuse(req, 400, "malformed method");

    switch (e - s) {
    case 3:
        if (memcmp(s, "PUT", 3) == 0)
            id = RT_HM_PUT;
        break;
    case 4:
        if (memcmp(s, "POST", 4) == 0)
            id = RT_HM_POST;
        else if (memcmp(s, "HEAD", 4) == 0)
            id = RT_HM_HEAD;
        break;
    case 5:
        if (memcmp(s, "PATCH", 5) == 0)
            id = RT_HM_PATCH;
        else if (memcmp(s, "TRACE", 5) == 0)
            id = RT_HM_TRACE;
        break;
    case 6:
        if (memcmp(s, "DELETE", 6) == 0)
            id = RT_HM_DELETE;
        break;
    case 7:
        if (memcmp(s, "OPTIONS", 7) == 0)
            id = RT_HM_OPTIONS;
        else if (memcmp(s, "CONNECT", 7) == 0)
            id = RT_HM_CONNECT;
        break;
    }
done:
    req->method = slice(ps, s, e);
    req->method_id = (uint8_t)id;
    ps->p = e + 1;
    return DONE;
}

/* uri-host [ ":" port ] (RFC 9110 7.2, RFC 3986 3.2.2).  An IP-literal may hold hex
 * digits, ':' and '.'; IPvFuture and zones are of no use to a server.  On success
 * *hend is the end of the host, and the port, if any, follows after one byte. */
static bool
host_valid(const uint8_t *p, const uint8_t *e, const uint8_t **hend)
{
    if (p < e && *p == '[') {
        const uint8_t *s = ++p;

        while (p < e && (IS(*p, RT_HC_HEX) || *p == ':' || *p == '.'))
            p++;
        if (p == e || *p != ']' || p - s < 2)
            return false;
        p++;
    }
    else {
        while (p < e) {
            if (IS(*p, RT_HC_HOST))
                p++;
            else if (*p == '%' && e - p >= 3 && IS(p[1], RT_HC_HEX) &&
                     IS(p[2], RT_HC_HEX))
                p += 3;
            else
                break;
        }
    }
    *hend = p;
    if (p < e) {
        if (*p++ != ':')
            return false;
        while (p < e && is_digit(*p))
            p++;
    }
    return p == e;
}

/* CONNECT: the port may not be missing, empty or invalid (RFC 9110 9.3.6). */
static bool
connect_port_valid(const uint8_t *p, const uint8_t *e)
{
    uint32_t port = 0;

    while (p < e && port <= 65535)
        port = port * 10 + (*p++ - '0');
    return port >= 1 && port <= 65535;
}

/* The four forms of RFC 9112 3.2.  [s, e) is the target, [s, pe) what comes before
 * its '?'. */
static RT_NOINLINE int
target_form_slow(parser *ps, const uint8_t *s, const uint8_t *pe, const uint8_t *e)
{
    rt_http1_req *req = ps->req;
    const uint8_t *a, *ae, *hend;

    if (req->method_id == RT_HM_CONNECT) {
        if (!host_valid(s, e, &hend) || hend == s || hend == e ||
            !connect_port_valid(hend + 1, e))
            return refuse(req, 400, "CONNECT needs host:port as its target");
        req->host = req->target;
        req->path = slice(ps, s, s);
        ps->absolute = true;
        return DONE;
    }
    if (e - s == 1 && *s == '*') {
        if (req->method_id != RT_HM_OPTIONS)
            return refuse(req, 400, "target * is for OPTIONS only");
        return DONE;
    }
    if (pe - s >= 7 && eq_fold(s, "http://", 7))
        a = s + 7;
    else if (pe - s >= 8 && eq_fold(s, "https://", 8))
        a = s + 8;
    else
        return refuse(req, 400, "malformed request target");
    ae = memchr(a, '/', (size_t)(pe - a));
    if (ae == NULL)
        ae = pe;
    /* RFC 9110 4.2.1: no empty host; 4.2.4: no userinfo. */
    if (!host_valid(a, ae, &hend) || hend == a)
        return refuse(req, 400, "invalid host in the request target");
    req->host = slice(ps, a, ae);
    req->path = slice(ps, ae, pe);
    ps->absolute = true;
    return DONE;
}

static int
parse_target(parser *ps)
{
    const uint8_t *s = ps->p, *end = ps->end, *pe, *e;
    rt_http1_req *req = ps->req;
    const size_t max = ps->limits->max_target;

    if ((size_t)(end - s) > max)
        end = s + max + 1;
    e = pe = span(ps->buf, s, end, RT_HC_PATH);
    req->has_query = pe < end && *pe == '?';
    if (req->has_query)
        e = span(ps->buf, pe + 1, end, RT_HC_TARGET);
    if (e == end) {
        if ((size_t)(e - s) > max)
            return refuse(req, 414, "request target too long");
        return MORE;
    }
    if (*e != ' ' || e == s)
        return refuse(req, 400, "malformed request target");

    req->target = slice(ps, s, e);
    req->path = slice(ps, s, pe);
    req->query = req->has_query ? slice(ps, pe + 1, e) : slice(ps, e, e);
    ps->p = e + 1;
    if (RT_LIKELY(*s == '/' && req->method_id != RT_HM_CONNECT))
        return DONE;
    return target_form_slow(ps, s, pe, e);
}

/* HTTP-version CRLF (RFC 9112 2.3), when it is not 1.1 or not whole. */
static RT_NOINLINE int
parse_version_slow(parser *ps)
{
    static const char form[] = "HTTP/d.d\r\n";
    const uint8_t *s = ps->p;

    for (int i = 0; i < 10; i++) {
        if (s + i == ps->end)
            return MORE;
        if (form[i] == 'd' ? !is_digit(s[i]) : s[i] != form[i])
            return refuse(ps->req, 400, "malformed HTTP version");
    }
    if (s[5] != '1')
        return refuse(ps->req, 505, "HTTP version not supported");
    /* RFC 9110 2.5: a higher minor version is read as the highest known. */
    ps->req->minor = s[7] != '0';
    ps->p = s + 10;
    return DONE;
}

static inline int
parse_version(parser *ps)
{
    const uint8_t *s = ps->p;

    if (RT_LIKELY(ps->end - s >= 10 && load64(s) == load64("HTTP/1.1") &&
                  s[8] == '\r' && s[9] == '\n')) {
        ps->req->minor = 1;
        ps->p = s + 10;
        return DONE;
    }
    return parse_version_slow(ps);
}

/* ---- fields the server itself depends on -------------------------------------- */

/* The next member of a comma-separated list, or false at its end.  Empty members
 * are skipped, as RFC 9110 5.6.1.2 asks. */
static bool
next_member(const uint8_t **pp, const uint8_t *e, const uint8_t **ms, const uint8_t **me)
{
    const uint8_t *p = *pp, *q;

    while (p < e && (is_ows(*p) || *p == ','))
        p++;
    if (p == e)
        return false;
    for (q = p; q < e && *q != ','; q++)
        ;
    *pp = q;
    while (is_ows(q[-1]))       /* ends at p, which is not OWS */
        q--;
    *ms = p;
    *me = q;
    return true;
}

static int
on_host(parser *ps, const uint8_t *s, const uint8_t *e)
{
    const uint8_t *hend;

    /* RFC 9112 3.2: exactly one line, of valid form; it may be empty. */
    if (ps->host)
        return refuse(ps->req, 400, "more than one Host");
    if (!host_valid(s, e, &hend))
        return refuse(ps->req, 400, "invalid Host");
    ps->host = true;
    if (!ps->absolute)
        ps->req->host = slice(ps, s, e);
    return DONE;
}

static int
on_content_length(parser *ps, const uint8_t *s, const uint8_t *e)
{
    rt_http1_req *req = ps->req;
    int64_t n = 0;

    if (req->content_length >= 0)
        return refuse(req, 400, "more than one Content-Length");
    if (req->chunked)
        return refuse(req, 400, "Content-Length beside Transfer-Encoding");
    if (s == e)
        return refuse(req, 400, "invalid Content-Length");
    for (; s < e; s++) {
        if (!is_digit(*s))
            return refuse(req, 400, "invalid Content-Length");
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *s - '0', &n))
            return refuse(req, 400, "Content-Length too large");
    }
    req->content_length = n;
    return DONE;
}

/* RFC 9112 6.1: only "chunked", once.  Other codings before it are a thing not
 * implemented; without it at the end the length is not known (6.3): a framing error. */
static int
on_transfer_encoding(parser *ps, const uint8_t *s, const uint8_t *e)
{
    rt_http1_req *req = ps->req;
    const uint8_t *ms, *me, *q;
    bool chunked = false, other = false;

    if (req->minor == 0)
        return refuse(req, 400, "Transfer-Encoding in HTTP/1.0");
    if (req->chunked)
        return refuse(req, 400, "more than one Transfer-Encoding");
    if (req->content_length >= 0)
        return refuse(req, 400, "Content-Length beside Transfer-Encoding");
    if (WORD(s, e, "chunked")) {
        req->chunked = true;
        return DONE;
    }
    while (next_member(&s, e, &ms, &me)) {
        for (q = ms; q < me && IS(*q, RT_HC_TOKEN); q++)
            ;
        /* A parameter may follow any coding but chunked (RFC 9112 7, 7.1). */
        if (chunked || q == ms || (q < me && *q != ';' && !is_ows(*q)))
            return refuse(req, 400, "invalid Transfer-Encoding");
        if (WORD(ms, q, "chunked")) {
            if (q != me)
                return refuse(req, 400, "invalid Transfer-Encoding");
            chunked = true;
        }
        else
            other = true;
    }
    if (!other)
        return refuse(req, 400, "invalid Transfer-Encoding");
    if (!chunked)
        return refuse(req, 400, "the last transfer coding is not chunked (RFC 9112 6.3)");
    return refuse(req, 501, "transfer coding not implemented");
}

static int
on_connection(parser *ps, const uint8_t *s, const uint8_t *e)
{
    const uint8_t *ms, *me;

    /* RFC 9110 7.6.1; options that are not known are of no interest here. */
    while (next_member(&s, e, &ms, &me)) {
        if (WORD(ms, me, "close"))
            ps->conn_close = true;
        else if (WORD(ms, me, "keep-alive"))
            ps->conn_keep_alive = true;
        else if (WORD(ms, me, "upgrade"))
            ps->conn_upgrade = true;
    }
    return DONE;
}

static int
on_expect(parser *ps, const uint8_t *s, const uint8_t *e)
{
    const uint8_t *ms, *me;

    /* RFC 9110 10.1.1: 100-continue is all there is; HTTP/1.0 cannot mean it. */
    while (next_member(&s, e, &ms, &me)) {
        if (!WORD(ms, me, "100-continue"))
            return refuse(ps->req, 417, "unknown expectation");
        ps->req->expect_continue = ps->req->minor > 0;
    }
    return DONE;
}

/* ---- field lines -------------------------------------------------------------- */

static inline rt_http1_field_id
field_id(const uint8_t *s, size_t n)
{
    switch (n) {
    case 4:
        return eq_fold(s, "host", 4) ? RT_HF_HOST : RT_HF_OTHER;
    case 6:
        return eq_fold(s, "cookie", 6)   ? RT_HF_COOKIE
               : eq_fold(s, "expect", 6) ? RT_HF_EXPECT
                                         : RT_HF_OTHER;
    case 7:
        return eq_fold(s, "upgrade", 7) ? RT_HF_UPGRADE : RT_HF_OTHER;
    case 10:
        return eq_fold(s, "connection", 10) ? RT_HF_CONNECTION : RT_HF_OTHER;
    case 12:
        return eq_fold(s, "content-type", 12) ? RT_HF_CONTENT_TYPE : RT_HF_OTHER;
    case 14:
        return eq_fold(s, "content-length", 14) ? RT_HF_CONTENT_LENGTH : RT_HF_OTHER;
    case 17:
        return eq_fold(s, "transfer-encoding", 17) ? RT_HF_TRANSFER_ENCODING
                                                   : RT_HF_OTHER;
    default:
        return RT_HF_OTHER;
    }
}

static int
on_field(parser *ps, rt_http1_field_id id, const uint8_t *s, const uint8_t *e)
{
    switch (id) {
    case RT_HF_HOST:
        return on_host(ps, s, e);
    case RT_HF_CONTENT_LENGTH:
        return on_content_length(ps, s, e);
    case RT_HF_TRANSFER_ENCODING:
        return on_transfer_encoding(ps, s, e);
    case RT_HF_CONNECTION:
        return on_connection(ps, s, e);
    case RT_HF_EXPECT:
        return on_expect(ps, s, e);
    case RT_HF_UPGRADE:
        ps->upgrade |= s < e;
        return DONE;
    case RT_HF_OTHER:
    case RT_HF_CONTENT_TYPE:
    case RT_HF_COOKIE:
        break;
    }
    return DONE;
}

static RT_COLD int
refuse_name(parser *ps, const uint8_t *name, const uint8_t *e)
{
    if (is_ows(*e))
        return refuse(ps->req, 400,
                      e == name ? "folded field line (RFC 9112 5.2)"
                                : "whitespace before the colon (RFC 9112 5.1)");
    if (*e == ':')
        return refuse(ps->req, 400, "empty field name");
    return refuse(ps->req, 400, *e == '\n' ? "bare LF" : "malformed field name");
}

/* All field lines and the empty line after them (RFC 9112 5). */
static int
parse_fields(parser *ps)
{
    const uint8_t *p = ps->p, *end = ps->end, *name, *colon, *val, *vend;
    rt_http1_req *req = ps->req;
    const uint32_t max_fields = ps->limits->max_fields;

    for (;;) {
        if (p == end)
            return MORE;
        if (*p == '\r') {
            if (end - p < 2)
                return MORE;
            if (p[1] != '\n')
                return refuse(req, 400, "bare CR");
            ps->p = p + 2;
            return DONE;
        }
        if (req->nfields >= max_fields)
            return refuse(req, 431, "too many header fields");

        name = p;
        colon = span(ps->buf, p, end, RT_HC_TOKEN);
        if (colon == end)
            return MORE;
        if (*colon != ':' || colon == name)
            return refuse_name(ps, name, colon);
        val = colon + 1;
        while (val < end && is_ows(*val))
            val++;
        p = span(ps->buf, val, end, RT_HC_VALUE);
        if (p == end)
            return MORE;
        if (*p != '\r')
            return refuse(req, 400,
                          *p == '\n' ? "bare LF" : "control character in a field value");
        if (end - p < 2)
            return MORE;
        if (p[1] != '\n')
            return refuse(req, 400, "bare CR");
        for (vend = p; vend > val && is_ows(vend[-1]);)
            vend--;
        p += 2;

        rt_http1_field_id id = field_id(name, (size_t)(colon - name));
        req->fields[req->nfields++] = (rt_http1_field){
            slice(ps, name, colon), slice(ps, val, vend), (uint32_t)id};
        if (id != RT_HF_OTHER) {
            int rc = on_field(ps, id, val, vend);
            if (rc < 0)
                return rc;
        }
    }
}

/* ---- the whole ---------------------------------------------------------------- */

static int
parse(parser *ps)
{
    rt_http1_req *req = ps->req;
    int rc;

    if (ps->p < ps->end && *ps->p == '\r') {
        if (ps->end - ps->p < 2)
            return MORE;
        if (ps->p[1] != '\n')
            return refuse(req, 400, "bare CR");
        ps->p += 2;
    }
    if ((rc = parse_method(ps)) != DONE || (rc = parse_target(ps)) != DONE ||
        (rc = parse_version(ps)) != DONE || (rc = parse_fields(ps)) != DONE)
        return rc;

    if (!ps->host && req->minor > 0)
        return refuse(req, 400, "no Host (RFC 9112 3.2)");
    /* RFC 9112 9.3 */
    req->keep_alive = !ps->conn_close && (req->minor > 0 || ps->conn_keep_alive);
    if (RT_UNLIKELY(req->method_id == RT_HM_CONNECT)) {
        /* RFC 9110 9.3.6: no content.  What follows may be meant for the tunnel, even
         * where there will be none: it is never read as another request. */
        if (req->chunked || req->content_length > 0)
            return refuse(req, 400, "CONNECT with a body");
        req->keep_alive = false;
    }
    /* RFC 9110 7.8: a server ignores Upgrade in HTTP/1.0. */
    req->upgrade = ps->upgrade && ps->conn_upgrade && req->minor > 0;
    return (int)(ps->p - ps->buf);
}

/* Can the bytes from seen on have changed an answer of 0?  See the head of the file. */
static bool
worth_parsing(const char *buf, uint32_t len, uint32_t seen, const rt_http1_limits *limits)
{
    /* A request line whose target is over the limit ends here at the latest. */
    const uint64_t line = (uint64_t)limits->max_target + METHOD_MAX + sizeof "\r\n ";
    const char *p = buf + seen, *end = buf + len;

    if (seen >= len)
        return false;
    if ((seen ^ len) > (seen & len))    /* the highest bits differ: doubled */
        return true;
    if (len >= limits->max_head || (seen < line && line <= len))
        return true;
    while (p < end && (p = memchr(p, '\n', (size_t)(end - p))) != NULL) {
        if (p == buf || p[-1] != '\r')
            return true;
        if (p - buf >= 2 && p[-2] == '\n')
            return true;
        p++;
    }
    return false;
}

int
rt_http1_parse_head(const char *buf, uint32_t len, uint32_t seen,
                    const rt_http1_limits *limits, rt_http1_req *req)
{
    const uint32_t max = limits->max_head < INT32_MAX ? limits->max_head : INT32_MAX;
    parser ps = {.limits = limits, .req = req};
    int rc;

    if (seen > 0 && !worth_parsing(buf, len, seen, limits))
        return 0;
    ps.buf = ps.p = (const uint8_t *)buf;
    ps.end = ps.buf + (len < max ? len : max);
    *req = (rt_http1_req){.content_length = -1, .fields = req->fields};
    rc = parse(&ps);
    if (rc == MORE && len >= max)
        return refuse(req, 431, "request head too long");
    return rc;
}
