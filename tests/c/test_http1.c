/* test_http1.c - the request head parser and the chunked decoder.
 *
 * The cases are tables; the comment above each group names its RFC section.  Every
 * case is fed whole, byte by byte and in two parts at every place, always with the
 * input ending at an unreadable page, so that reading past the end crashes.
 */
#include "rt_http1.h"
#include "rt_test.h"

#include <string.h>
#include <sys/mman.h>

enum { GUARDED = 1 << 17, MAX_FIELDS = 8 };

static const rt_http1_limits LIMITS = {
    .max_target = 200, .max_head = 1000, .max_fields = MAX_FIELDS};

static char *guard;             /* the first unreadable byte */

static void
guard_init(void)
{
    char *p = mmap(NULL, 2 * GUARDED, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED);
    CHECK(mprotect(p + GUARDED, GUARDED, PROT_NONE) == 0);
    guard = p + GUARDED;
}

/* A copy of the bytes that ends at the guard page. */
static const char *
guarded(const char *s, uint32_t n)
{
    CHECK(n <= GUARDED);
    return memcpy(guard - n, s, n);
}

static int
feed(const char *s, uint32_t len, uint32_t seen, const rt_http1_limits *limits,
     rt_http1_req *req)
{
    int rc = rt_http1_parse_head(guarded(s, len), len, seen, limits, req);

    if (rc < 0)
        CHECK(req->error != NULL);
    return rc;
}

/* What a request was read as: "GET(1) [target] path=[..] .." */
static void
describe(const char *in, const rt_http1_req *req, char *out, size_t size)
{
    int n;

#define S(f) (int)req->f.len, in + req->f.off
    n = snprintf(out, size, "%.*s %d [%.*s] 1.%d host=[%.*s]", S(method), req->method_id,
                 S(path), req->minor, S(host));
    if (req->has_query)
        n += snprintf(out + n, size - (size_t)n, " ?[%.*s]", S(query));
#undef S
    if (req->content_length >= 0)
        n += snprintf(out + n, size - (size_t)n, " cl=%lld",
                      (long long)req->content_length);
    snprintf(out + n, size - (size_t)n, "%s%s%s%s", req->chunked ? " chunked" : "",
             req->keep_alive ? " keep" : "", req->expect_continue ? " expect" : "",
             req->upgrade ? " upgrade" : "");
}

typedef struct {
    int line;                   /* of this file */
    const char *in;
    uint32_t len;
    int status;                 /* of the refusal, or 0 */
    const char *want;           /* else what describe() says */
} head_case;

#define OK(in, want) {__LINE__, in, sizeof(in) - 1, 0, want}
#define NO(status, in) {__LINE__, in, sizeof(in) - 1, status, NULL}
#define H "Host: a\r\n"
#define END "\r\n"

static const head_case HEADS[] = {
    /* RFC 9112 3: request line. */
    OK("GET / HTTP/1.1\r\n" H END, "GET 1 [/] 1.1 host=[a] keep"),
    OK("HEAD /x HTTP/1.1\r\n" H END, "HEAD 2 [/x] 1.1 host=[a] keep"),
    OK("POST / HTTP/1.1\r\n" H END, "POST 3 [/] 1.1 host=[a] keep"),
    OK("PUT / HTTP/1.1\r\n" H END, "PUT 4 [/] 1.1 host=[a] keep"),
    OK("DELETE / HTTP/1.1\r\n" H END, "DELETE 5 [/] 1.1 host=[a] keep"),
    OK("OPTIONS / HTTP/1.1\r\n" H END, "OPTIONS 7 [/] 1.1 host=[a] keep"),
    OK("TRACE / HTTP/1.1\r\n" H END, "TRACE 8 [/] 1.1 host=[a] keep"),
    OK("PATCH / HTTP/1.1\r\n" H END, "PATCH 9 [/] 1.1 host=[a] keep"),
    OK("PROPFIND / HTTP/1.1\r\n" H END, "PROPFIND 0 [/] 1.1 host=[a] keep"),
    OK("get / HTTP/1.1\r\n" H END, "get 0 [/] 1.1 host=[a] keep"),
    OK("GETS / HTTP/1.1\r\n" H END, "GETS 0 [/] 1.1 host=[a] keep"),
    OK("!#$%&'*+-.^_`|~09 / HTTP/1.1\r\n" H END,
       "!#$%&'*+-.^_`|~09 0 [/] 1.1 host=[a] keep"),
    OK("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF / HTTP/1.1\r\n" H END,
       "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF 0 [/] 1.1 host=[a] keep"),
    NO(501, "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\n" H END),
    NO(400, " GET / HTTP/1.1\r\n" H END),
    NO(400, "GET  / HTTP/1.1\r\n" H END),
    NO(400, "GET /  HTTP/1.1\r\n" H END),
    NO(400, "GET\t/ HTTP/1.1\r\n" H END),
    NO(400, "GET /\tHTTP/1.1\r\n" H END),
    NO(400, "GET / HTTP/1.1 \r\n" H END),
    NO(400, "GET /\r\n" H END),
    NO(400, "GET\r\n" H END),
    NO(400, "G@T / HTTP/1.1\r\n" H END),
    NO(400, "G\x80T / HTTP/1.1\r\n" H END),
    NO(400, "G\0T / HTTP/1.1\r\n" H END),
    NO(400, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    /* RFC 9112 2.2: lines end with CRLF, one empty line before is skipped. */
    OK("\r\nGET / HTTP/1.1\r\n" H END, "GET 1 [/] 1.1 host=[a] keep"),
    NO(400, "\r\n\r\nGET / HTTP/1.1\r\n" H END),
    NO(400, "\nGET / HTTP/1.1\r\n" H END),
    NO(400, "\rGET / HTTP/1.1\r\n" H END),
    NO(400, "GET / HTTP/1.1\n" H END),
    NO(400, "GET / HTTP/1.1\nHost: a\n\n"),
    NO(400, "GET / HTTP/1.1\r\nHost: a\n\n"),
    NO(400, "GET / HTTP/1.1\r\nHost: a\n"),
    NO(400, "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
    NO(400, "GET / HTTP/1.1\rHost: a\r\n\r\n"),
    NO(400, "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n"),
    NO(400, "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
    NO(400, "GET / HTTP/1.1\r\r\n" H END),
    NO(400, "GET / HTTP/1.1\r\n" H "\n"),
    NO(400, "GET / HTTP/1.1\r\n" H "\r\r"),
    NO(400, "GET / HTTP/1.1\r\n" H "\rX: y\r\n\r\n"),
    /* RFC 9112 2.3, RFC 9110 2.5: versions. */
    OK("GET / HTTP/1.0\r\n\r\n", "GET 1 [/] 1.0 host=[]"),
    OK("GET / HTTP/1.0\r\n" H END, "GET 1 [/] 1.0 host=[a]"),
    OK("GET / HTTP/1.2\r\n" H END, "GET 1 [/] 1.1 host=[a] keep"),
    OK("GET / HTTP/1.9\r\n" H END, "GET 1 [/] 1.1 host=[a] keep"),
    NO(505, "GET / HTTP/2.0\r\n" H END),
    NO(505, "GET / HTTP/0.9\r\n" H END),
    NO(505, "GET / HTTP/3.0\r\n" H END),
    NO(400, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    NO(400, "GET / HTTP/1.10\r\n" H END),
    NO(400, "GET / HTTP/11.1\r\n" H END),
    NO(400, "GET / HTTP/1\r\n" H END),
    NO(400, "GET / HTTP/1.\r\n" H END),
    NO(400, "GET / HTTP/1,1\r\n" H END),
    NO(400, "GET / http/1.1\r\n" H END),
    NO(400, "GET / HTTPS/1.1\r\n" H END),
    NO(400, "GET / HTTP /1.1\r\n" H END),
    NO(400, "GET / XTTP/2.0\r\n" H END),
    NO(400, "GET / HTTP/2.0x\r\n" H END),
    /* RFC 9112 3.2.1: origin-form. */
    OK("GET /a/b%20c?d=e?f&g HTTP/1.1\r\n" H END,
       "GET 1 [/a/b%20c] 1.1 host=[a] ?[d=e?f&g] keep"),
    OK("GET /? HTTP/1.1\r\n" H END, "GET 1 [/] 1.1 host=[a] ?[] keep"),
    OK("GET //a//b HTTP/1.1\r\n" H END, "GET 1 [//a//b] 1.1 host=[a] keep"),
    OK("GET /\"<>[]\\^`{|}~ HTTP/1.1\r\n" H END,
       "GET 1 [/\"<>[]\\^`{|}~] 1.1 host=[a] keep"),
    OK("GET /a-path-that-is-longer-than-sixteen-bytes?and=a&long=query-behind-it "
       "HTTP/1.1\r\n" H END,
       "GET 1 [/a-path-that-is-longer-than-sixteen-bytes] 1.1 host=[a] "
       "?[and=a&long=query-behind-it] keep"),
    NO(400, "GET /a#b HTTP/1.1\r\n" H END),
    NO(400, "GET /a?b#c HTTP/1.1\r\n" H END),
    NO(400, "GET /\x80 HTTP/1.1\r\n" H END),
    NO(400, "GET /\xff HTTP/1.1\r\n" H END),
    NO(400, "GET /\x7f HTTP/1.1\r\n" H END),
    NO(400, "GET /\x01 HTTP/1.1\r\n" H END),
    NO(400, "GET /\0 HTTP/1.1\r\n" H END),
    NO(400, "GET /a-path-that-is-longer-than\x80-sixteen-bytes HTTP/1.1\r\n" H END),
    NO(400, "GET a HTTP/1.1\r\n" H END),
    NO(400, "GET ?a HTTP/1.1\r\n" H END),
    NO(400, "GET \\a HTTP/1.1\r\n" H END),
    NO(400, "GET a:80 HTTP/1.1\r\n" H END),
    /* RFC 9112 3.2.2: absolute-form, whose authority replaces Host. */
    OK("GET http://b/c?d HTTP/1.1\r\n" H END, "GET 1 [/c] 1.1 host=[b] ?[d] keep"),
    OK("GET http://b HTTP/1.1\r\n" H END, "GET 1 [] 1.1 host=[b] keep"),
    OK("GET http://b?/d HTTP/1.1\r\n" H END, "GET 1 [] 1.1 host=[b] ?[/d] keep"),
    OK("GET HTTPS://b:443/ HTTP/1.1\r\n" H END, "GET 1 [/] 1.1 host=[b:443] keep"),
    OK("GET hTTp://[::1]:80/ HTTP/1.0\r\n\r\n", "GET 1 [/] 1.0 host=[[::1]:80]"),
    OK("OPTIONS http://b HTTP/1.1\r\n" H END, "OPTIONS 7 [] 1.1 host=[b] keep"),
    NO(400, "GET http://b/ HTTP/1.1\r\n\r\n"),
    NO(400, "GET http:///c HTTP/1.1\r\n" H END),
    NO(400, "GET http://:80/c HTTP/1.1\r\n" H END),
    NO(400, "GET http:// HTTP/1.1\r\n" H END),
    NO(400, "GET http://u@b/ HTTP/1.1\r\n" H END),
    NO(400, "GET http://u:p@b/ HTTP/1.1\r\n" H END),
    NO(400, "GET http:/b/ HTTP/1.1\r\n" H END),
    NO(400, "GET http:b HTTP/1.1\r\n" H END),
    NO(400, "GET httpx://b/ HTTP/1.1\r\n" H END),
    NO(400, "GET ftp://b/ HTTP/1.1\r\n" H END),
    NO(400, "GET http://b/#c HTTP/1.1\r\n" H END),
    /* RFC 9112 3.2.3, RFC 9110 9.3.6: authority-form, with CONNECT and only there. */
    OK("CONNECT b:443 HTTP/1.1\r\n" H END, "CONNECT 6 [] 1.1 host=[b:443]"),
    OK("CONNECT [::1]:443 HTTP/1.1\r\n" H END, "CONNECT 6 [] 1.1 host=[[::1]:443]"),
    OK("CONNECT b:443 HTTP/1.1\r\n" H "Content-Length: 0\r\n" END,
       "CONNECT 6 [] 1.1 host=[b:443] cl=0"),
    NO(400, "CONNECT b:443 HTTP/1.1\r\n" H "Content-Length: 1\r\n" END),
    NO(400, "CONNECT b:443 HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n" END),
    NO(400, "CONNECT b HTTP/1.1\r\n" H END),
    NO(400, "CONNECT b: HTTP/1.1\r\n" H END),
    NO(400, "CONNECT b:0 HTTP/1.1\r\n" H END),
    NO(400, "CONNECT b:65536 HTTP/1.1\r\n" H END),
    NO(400, "CONNECT b:18446744073709551696 HTTP/1.1\r\n" H END),
    NO(400, "CONNECT :80 HTTP/1.1\r\n" H END),
    NO(400, "CONNECT / HTTP/1.1\r\n" H END),
    NO(400, "CONNECT * HTTP/1.1\r\n" H END),
    NO(400, "CONNECT http://b:80 HTTP/1.1\r\n" H END),
    NO(400, "CONNECT b:80?x HTTP/1.1\r\n" H END),
    /* RFC 9112 3.2.4: asterisk-form, with OPTIONS and only there. */
    OK("OPTIONS * HTTP/1.1\r\n" H END, "OPTIONS 7 [*] 1.1 host=[a] keep"),
    NO(400, "GET * HTTP/1.1\r\n" H END),
    NO(400, "OPTIONS *a HTTP/1.1\r\n" H END),
    NO(400, "OPTIONS *?a HTTP/1.1\r\n" H END),
    /* RFC 9112 5: field lines. */
    OK("GET / HTTP/1.1\r\nhOsT:a\r\n" END, "GET 1 [/] 1.1 host=[a] keep"),
    OK("GET / HTTP/1.1\r\nHost: \t a \t \r\n" END, "GET 1 [/] 1.1 host=[a] keep"),
    OK("GET / HTTP/1.1\r\n" H "X:\r\nY: \r\nZ:\t\r\n" END, "GET 1 [/] 1.1 host=[a] keep"),
    OK("GET / HTTP/1.1\r\n" H "X: a\tb \x80\xff \"\\#\r\n" END,
       "GET 1 [/] 1.1 host=[a] keep"),
    OK("GET / HTTP/1.1\r\n" H "!#$%&'*+-.^_`|~09azAZ: a\r\n" END,
       "GET 1 [/] 1.1 host=[a] keep"),
    OK("GET / HTTP/1.1\r\n" H "A-name-that-is-longer-than_sixteen_bytes: a\r\n" END,
       "GET 1 [/] 1.1 host=[a] keep"),
    NO(400, "GET / HTTP/1.1\r\n" H "X : a\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost : a\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H "X\t: a\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H ": a\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H "X\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H "X y: a\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H "X(: a\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H "X\x80: a\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H "X\0: a\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H "A-name-that-is-longer-than{sixteen_bytes: a\r\n" END),
    /* RFC 9112 5.2: obs-fold. */
    NO(400, "GET / HTTP/1.1\r\n" H "X: a\r\n b\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H "X: a\r\n\tb\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n X: a\r\n" H END),
    /* RFC 9110 5.5: control characters in values. */
    NO(400, "GET / HTTP/1.1\r\n" H "X: a\0b\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H "X: a\x01\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H "X: a\x0b\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H "X: a\x1f\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H "X: a\x7f\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H "X: a value that is longer than \x7f 16 bytes\r\n" END),
    /* RFC 9112 3.2, RFC 9110 7.2: Host. */
    OK("GET / HTTP/1.1\r\nHost:\r\n" END, "GET 1 [/] 1.1 host=[] keep"),
    OK("GET / HTTP/1.1\r\nHost: a.b-c_d~e:8080\r\n" END,
       "GET 1 [/] 1.1 host=[a.b-c_d~e:8080] keep"),
    OK("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" END, "GET 1 [/] 1.1 host=[127.0.0.1] keep"),
    OK("GET / HTTP/1.1\r\nHost: [::ffff:1.2.3.4]:1\r\n" END,
       "GET 1 [/] 1.1 host=[[::ffff:1.2.3.4]:1] keep"),
    OK("GET / HTTP/1.1\r\nHost: !$&'()*+,;=%4a\r\n" END,
       "GET 1 [/] 1.1 host=[!$&'()*+,;=%4a] keep"),
    OK("GET / HTTP/1.1\r\nHost: a:\r\n" END, "GET 1 [/] 1.1 host=[a:] keep"),
    NO(400, "GET / HTTP/1.1\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nX: a\r\n" END),
    NO(400, "GET / HTTP/1.1\r\n" H H END),
    NO(400, "GET / HTTP/1.1\r\nHost:\r\n" H END),
    NO(400, "GET / HTTP/1.0\r\n" H H END),
    NO(400, "GET http://b/ HTTP/1.1\r\n" H H END),
    NO(400, "GET / HTTP/1.1\r\nHost: a b\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a/b\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a?b\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a#b\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: u@b\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a\\b\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: <a>\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a\x80\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a:b\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a:80:80\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a:-1\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: ::1\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: [::1\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: []\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: [::g]\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: [::1]a\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a[::1]\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a%4\r\n" END),
    NO(400, "GET / HTTP/1.1\r\nHost: a%4g\r\n" END),
    /* RFC 9112 6.2, 6.3, RFC 9110 8.6: Content-Length. */
    OK("POST / HTTP/1.1\r\n" H "Content-Length: 0\r\n" END,
       "POST 3 [/] 1.1 host=[a] cl=0 keep"),
    OK("POST / HTTP/1.1\r\n" H "content-length:\t0012 \r\n" END,
       "POST 3 [/] 1.1 host=[a] cl=12 keep"),
    OK("POST / HTTP/1.1\r\n" H "CONTENT-LENGTH: 9223372036854775807\r\n" END,
       "POST 3 [/] 1.1 host=[a] cl=9223372036854775807 keep"),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length: 9223372036854775808\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length: 18446744073709551621\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length:\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length: +5\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length: -5\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length: 0x5\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length: 5 5\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length: 5,5\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length: 5;a\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length: 5.0\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length: 1_0\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length: \xb2\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length: 5\r\nContent-Length: 6\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length: 5\r\nContent-Length: 5\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Content-Length: 5\r\ncOnTeNt-LeNgTh: 5\r\n" END),
    /* RFC 9112 6.1, 7: Transfer-Encoding. */
    OK("POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n" END,
       "POST 3 [/] 1.1 host=[a] chunked keep"),
    OK("POST / HTTP/1.1\r\n" H "transfer-ENCODING:ChunKED \t\r\n" END,
       "POST 3 [/] 1.1 host=[a] chunked keep"),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding:\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: ,\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: ,chunked\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked,\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked, chunked\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked, gzip\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked, identity\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked;a=b\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: \"chunked\"\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\x80\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: \x0b" "chunked\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: xchunked\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunke\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: identity\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: gzip\r\n" END),
    NO(501, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked\r\n" END),
    NO(501, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: gzip ;q=1, chunked\r\n" END),
    NO(501, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: xchunked, chunked\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" END),
    NO(400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding : chunked\r\n" END),
    NO(400, "POST / HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n" END),
    /* RFC 9110 7.6.1, RFC 9112 9.3: Connection. */
    OK("GET / HTTP/1.1\r\n" H "Connection: close\r\n" END, "GET 1 [/] 1.1 host=[a]"),
    OK("GET / HTTP/1.1\r\n" H "Connection: CLOSE\r\n" END, "GET 1 [/] 1.1 host=[a]"),
    OK("GET / HTTP/1.1\r\n" H "Connection: a ,close, b\r\n" END, "GET 1 [/] 1.1 host=[a]"),
    OK("GET / HTTP/1.1\r\n" H "Connection: a\r\nConnection: ,,close\r\n" END,
       "GET 1 [/] 1.1 host=[a]"),
    OK("GET / HTTP/1.1\r\n" H "Connection: close, keep-alive\r\n" END,
       "GET 1 [/] 1.1 host=[a]"),
    OK("GET / HTTP/1.1\r\n" H "Connection: closed\r\n" END, "GET 1 [/] 1.1 host=[a] keep"),
    OK("GET / HTTP/1.1\r\n" H "Connection:\r\n" END, "GET 1 [/] 1.1 host=[a] keep"),
    OK("GET / HTTP/1.0\r\n" H "Connection: Keep-Alive\r\n" END,
       "GET 1 [/] 1.0 host=[a] keep"),
    OK("GET / HTTP/1.0\r\n" H "Connection: keep-alive, close\r\n" END,
       "GET 1 [/] 1.0 host=[a]"),
    /* RFC 9110 7.8: Upgrade. */
    OK("GET / HTTP/1.1\r\n" H "Connection: Upgrade\r\nUpgrade: websocket\r\n" END,
       "GET 1 [/] 1.1 host=[a] keep upgrade"),
    OK("GET / HTTP/1.1\r\n" H "Upgrade: h2c\r\nConnection: keep-alive, upgrade\r\n" END,
       "GET 1 [/] 1.1 host=[a] keep upgrade"),
    OK("GET / HTTP/1.1\r\n" H "Connection: upgrade\r\n" END, "GET 1 [/] 1.1 host=[a] keep"),
    OK("GET / HTTP/1.1\r\n" H "Upgrade: h2c\r\n" END, "GET 1 [/] 1.1 host=[a] keep"),
    OK("GET / HTTP/1.1\r\n" H "Upgrade:\r\nConnection: upgrade\r\n" END,
       "GET 1 [/] 1.1 host=[a] keep"),
    OK("GET / HTTP/1.0\r\n" H "Upgrade: h2c\r\nConnection: upgrade\r\n" END,
       "GET 1 [/] 1.0 host=[a]"),
    /* RFC 9110 10.1.1: Expect. */
    OK("PUT / HTTP/1.1\r\n" H "Content-Length: 5\r\nExpect: 100-continue\r\n" END,
       "PUT 4 [/] 1.1 host=[a] cl=5 keep expect"),
    OK("PUT / HTTP/1.1\r\n" H "Expect: 100-CONTINUE\r\n" END,
       "PUT 4 [/] 1.1 host=[a] keep expect"),
    OK("PUT / HTTP/1.1\r\n" H "Expect:\r\n" END, "PUT 4 [/] 1.1 host=[a] keep"),
    OK("PUT / HTTP/1.0\r\n" H "Expect: 100-continue\r\n" END, "PUT 4 [/] 1.0 host=[a]"),
    NO(417, "PUT / HTTP/1.1\r\n" H "Expect: 200-ok\r\n" END),
    NO(417, "PUT / HTTP/1.1\r\n" H "Expect: 100-continue, x\r\n" END),
    NO(417, "PUT / HTTP/1.1\r\n" H "Expect: 100-continue;q=1\r\n" END),
};

/* The refusal or the description must be the same however the bytes arrive.  Bytes
 * after the head belong to the body or to the next request and change nothing. */
static void
check_head(const head_case *c)
{
    static const char *const TAILS[] = {"", "x", "\r\n\r\n", "\n\0\x80 0123456789abcdef"};
    rt_http1_field fields[MAX_FIELDS];
    rt_http1_req req = {.fields = fields};
    char buf[2048], got[512];
    int rc;

    for (size_t t = 0; t < RT_ARRAY_LEN(TAILS); t++) {
        const uint32_t n = (uint32_t)strlen(TAILS[t]);

        memcpy(buf, c->in, c->len);
        memcpy(buf + c->len, TAILS[t], n);
        for (uint32_t first = 0; first <= c->len; first++) {
            /* first 0: whole; else in two parts. */
            rc = first ? feed(buf, first, 0, &LIMITS, &req) : 0;
            if (first && first < c->len && c->status == 0 && rc != 0) {
                fprintf(stderr, "line %d: %d after %u bytes\n", c->line, rc, first);
                CHECK(rc == 0);
            }
            if (rc == 0)
                rc = feed(buf, c->len + n, first, &LIMITS, &req);
            if (rc == 0 && first) {     /* a resumed call may notice later */
                memcpy(buf + c->len + n, "\n\n", 2);
                rc = feed(buf, c->len + n + 2, c->len + n, &LIMITS, &req);
            }
            got[0] = 0;
            if (rc > 0)
                describe(buf, &req, got, sizeof got);
            if (rc != (c->status ? -c->status : (int)c->len) ||
                (rc > 0 && strcmp(got, c->want) != 0)) {
                fprintf(stderr, "line %d, first part %u: %d %s\n", c->line, first, rc,
                        rc < 0 ? req.error : got);
                CHECK(!"wrong answer");
            }
        }
    }

    rc = 0;
    for (uint32_t n = 1; n <= c->len && rc == 0; n++)
        rc = feed(c->in, n, n - 1, &LIMITS, &req);
    if (rc == 0) {
        memcpy(buf, c->in, c->len);
        memcpy(buf + c->len, "\n\n", 2);
        rc = feed(buf, c->len + 2, c->len, &LIMITS, &req);
    }
    if (rc != (c->status ? -c->status : (int)c->len)) {
        fprintf(stderr, "line %d, byte by byte: %d\n", c->line, rc);
        CHECK(!"wrong answer");
    }
    if (rc > 0) {
        describe(c->in, &req, got, sizeof got);
        CHECK(strcmp(got, c->want) == 0);
    }
}

static void
test_head_table(void)
{
    for (size_t i = 0; i < RT_ARRAY_LEN(HEADS); i++)
        check_head(&HEADS[i]);
}

static void
test_head_fields_are_slices_of_the_input(void)
{
    static const char in[] = "\r\nPOST /x?y HTTP/1.1\r\nHost: a\r\nContent-Type:text/plain\r\n"
                             "Cookie: \t a=b; c \r\nX-Empty:  \r\nExpect: 100-continue\r\n"
                             "connection: x\r\nUPGRADE: y\r\n\r\n";
    static const struct {
        const char *name, *value;
        uint32_t id;
    } want[] = {
        {"Host", "a", RT_HF_HOST},
        {"Content-Type", "text/plain", RT_HF_CONTENT_TYPE},
        {"Cookie", "a=b; c", RT_HF_COOKIE},
        {"X-Empty", "", RT_HF_OTHER},
        {"Expect", "100-continue", RT_HF_EXPECT},
        {"connection", "x", RT_HF_CONNECTION},
        {"UPGRADE", "y", RT_HF_UPGRADE},
    };
    rt_http1_field fields[MAX_FIELDS];
    rt_http1_req req = {.fields = fields};

    CHECK_EQ(feed(in, sizeof in - 1, 0, &LIMITS, &req), sizeof in - 1);
    CHECK(req.fields == fields);
    CHECK_EQ(req.nfields, RT_ARRAY_LEN(want));
    for (uint32_t i = 0; i < req.nfields; i++) {
        CHECK_EQ(fields[i].id, want[i].id);
        CHECK_EQ(fields[i].name.len, strlen(want[i].name));
        CHECK(memcmp(in + fields[i].name.off, want[i].name, fields[i].name.len) == 0);
        CHECK_EQ(fields[i].value.len, strlen(want[i].value));
        CHECK(memcmp(in + fields[i].value.off, want[i].value, fields[i].value.len) == 0);
    }
    CHECK_EQ(req.target.len, 4);
    CHECK(memcmp(in + req.target.off, "/x?y", 4) == 0);
}

/* The table against the grammar of RFC 9110 5.6.2, 5.5 and RFC 3986 2.2, 2.3. */
static void
test_class_table(void)
{
    for (int c = 0; c < 256; c++) {
        const char *digit = "0123456789", *hex = "abcdefABCDEF";
        const char *alpha = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        const bool alnum = c && (strchr(digit, c) || strchr(alpha, c));
        const bool vchar = c > 0x20 && c < 0x7f;
        int want = 0;

        if (alnum || (c && strchr("!#$%&'*+-.^_`|~", c)))
            want |= RT_HC_TOKEN;
        if (vchar || c == ' ' || c == '\t' || c >= 0x80)
            want |= RT_HC_VALUE;
        if (vchar && c != '#')
            want |= RT_HC_TARGET;
        if (vchar && c != '#' && c != '?')
            want |= RT_HC_PATH;
        if (alnum || (c && strchr("-._~" "!$&'()*+,;=", c)))
            want |= RT_HC_HOST;
        if (c && (strchr(digit, c) || strchr(hex, c)))
            want |= RT_HC_HEX;
        CHECK_EQ(rt_http1_class[c], want);
    }
}

/* Every byte value at every place of a name, a value, a target and a method, at all
 * offsets from the vector steps, is judged by the class table alone. */
static void
test_head_byte_classes(void)
{
    static const struct {
        const char *before, *after;
        int cls;
        const char *also;       /* bytes that mean something else at this place */
    } places[] = {
        {"", " / HTTP/1.1\r\n" H END, RT_HC_TOKEN, ""},
        {"GET /", " HTTP/1.1\r\n" H END, RT_HC_TARGET, " "},
        {"GET /?", " HTTP/1.1\r\n" H END, RT_HC_TARGET, " "},
        {"GET / HTTP/1.1\r\n" H "X", ": a\r\n\r\n", RT_HC_TOKEN, ":"},
        {"GET / HTTP/1.1\r\n" H "X:a", "b\r\n\r\n", RT_HC_VALUE, ""},
        {"GET / HTTP/1.1\r\nHost: a", "b\r\n\r\n", RT_HC_HOST, ":%"},
    };
    rt_http1_field fields[MAX_FIELDS];
    rt_http1_req req = {.fields = fields};
    char buf[256];

    for (size_t p = 0; p < RT_ARRAY_LEN(places); p++) {
        for (uint32_t pad = 1; pad <= 24; pad++) {
            for (int c = 0; c < 256; c++) {
                const uint32_t nb = (uint32_t)strlen(places[p].before);
                const uint32_t na = (uint32_t)strlen(places[p].after);
                const uint32_t len = nb + pad + 1 + na;
                int rc;

                if (c != 0 && strchr(places[p].also, c))
                    continue;
                memcpy(buf, places[p].before, nb);
                memset(buf + nb, 'z', pad);
                buf[nb + pad] = (char)c;
                memcpy(buf + nb + pad + 1, places[p].after, na);
                rc = feed(buf, len, 0, &LIMITS, &req);
                CHECK_EQ(rc, rt_http1_class[c] & places[p].cls ? (int)len : -400);
                if (rc < 0)     /* already without what follows */
                    CHECK_EQ(feed(buf, nb + pad + 4, 0, &LIMITS, &req), -400);
            }
        }
    }
}

/* RFC 9112 3: 414.  RFC 6585 5: 431. */
static void
test_head_limits(void)
{
    const rt_http1_limits limits = {.max_target = 20, .max_head = 100, .max_fields = 3};
    rt_http1_field fields[3];
    rt_http1_req req = {.fields = fields};
    char buf[200];
    int rc;

    for (uint32_t n = 15; n < 30; n++) {
        uint32_t len = (uint32_t)snprintf(buf, sizeof buf, "GET /%.*s HTTP/1.1\r\n" H END,
                                          (int)n - 1, "xxxxxxxxxxx?xxxxxxxxxxxxxxxxxxxxxxxx");

        CHECK_EQ(feed(buf, len, 0, &limits, &req), n <= 20 ? (int)len : -414);
        CHECK_EQ(feed(buf, 4 + n, 0, &limits, &req), n <= 20 ? 0 : -414);
        rc = 0;
        for (uint32_t i = 1; i <= len && rc == 0; i++)
            rc = feed(buf, i, i - 1, &limits, &req);
        CHECK_EQ(rc, n <= 20 ? (int)len : -414);
    }
    /* An endless target is refused without its line end, nor at a power of two only. */
    const rt_http1_limits wide = {.max_target = 70, .max_head = 1000, .max_fields = 3};

    memset(buf, 'x', sizeof buf);
    memcpy(buf, "GET /", 5);
    rc = 0;
    for (uint32_t i = 1; i <= 110 && rc == 0; i++)
        rc = feed(buf, i, i - 1, &wide, &req);
    CHECK_EQ(rc, -414);

    for (uint32_t n = 1; n < 120; n++) {
        uint32_t len = (uint32_t)snprintf(buf, sizeof buf,
                                          "GET / HTTP/1.1\r\n" H "X: %0*d\r\n" END, (int)n, 7);

        CHECK_EQ(feed(buf, len, 0, &limits, &req), len <= 100 ? (int)len : -431);
        CHECK_EQ(feed(buf, len - 4, 0, &limits, &req), len - 4 < 100 ? 0 : -431);
        rc = 0;
        for (uint32_t i = 1; i <= len && rc == 0; i++)
            rc = feed(buf, i, i - 1, &limits, &req);
        CHECK_EQ(rc, len <= 100 ? (int)len : -431);
    }

    for (uint32_t n = 1; n < 6; n++) {
        uint32_t len = (uint32_t)sprintf(buf, "GET / HTTP/1.0\r\n");

        for (uint32_t i = 0; i < n; i++)
            len += (uint32_t)sprintf(buf + len, "A: b\r\n");
        memcpy(buf + len, END, 2);
        CHECK_EQ(feed(buf, len + 2, 0, &limits, &req), n <= 3 ? (int)len + 2 : -431);
        CHECK_EQ(feed(buf, len, 0, &limits, &req), n <= 3 ? 0 : -431);
        rc = 0;
        for (uint32_t i = 1; i <= len + 2 && rc == 0; i++)
            rc = feed(buf, i, i - 1, &limits, &req);
        CHECK_EQ(rc, n <= 3 ? (int)len + 2 : -431);
    }

    /* Of several faults the first in the input decides, however it arrives. */
    memset(buf, 'x', sizeof buf);
    memcpy(buf, "GET / HTTP/2.0\r\n", 16);
    rc = 0;
    for (uint32_t i = 1; i <= sizeof buf && rc == 0; i++)
        rc = feed(buf, i, i - 1, &limits, &req);
    CHECK_EQ(rc, -505);
    CHECK_EQ(feed(buf, sizeof buf, 0, &limits, &req), -505);
}

/* A fault that no line end announces is seen at the latest when the input doubles. */
static void
test_head_fault_seen_before_the_end(void)
{
    rt_http1_field fields[MAX_FIELDS];
    rt_http1_req req = {.fields = fields};
    char buf[128] = "GET / HTTP/1.1\r\nX y: ";
    int rc = 0;
    uint32_t i;

    memset(buf + 21, 'x', sizeof buf - 21);
    for (i = 1; i <= sizeof buf && rc == 0; i++)
        rc = feed(buf, i, i - 1, &LIMITS, &req);
    CHECK_EQ(rc, -400);
    CHECK(i <= 36);
}

static void
test_head_no_new_bytes_asks_for_more(void)
{
    const rt_http1_limits huge = {UINT32_MAX, UINT32_MAX, 0};
    rt_http1_req req = {.fields = NULL};

    CHECK_EQ(feed("GET /", 5, 0, &LIMITS, &req), 0);
    CHECK_EQ(feed("GET /", 5, 5, &LIMITS, &req), 0);
    CHECK_EQ(feed("", 0, 0, &LIMITS, &req), 0);
    CHECK_EQ(feed("GET / HTTP/1.0\r\n\r\n", 18, 0, &huge, &req), 18);
    CHECK_EQ(feed("GET / HTTP/1.0\r\nX", 17, 0, &huge, &req), -431);
}

/* ---- chunked ------------------------------------------------------------------ */

typedef struct {
    int line;
    const char *in;
    uint32_t len;
    int status;
    const char *body;
} chunk_case;

static const chunk_case CHUNKS[] = {
    /* RFC 9112 7.1 */
    OK("0\r\n\r\n", ""),
    OK("5\r\nhello\r\n0\r\n\r\n", "hello"),
    OK("5\r\nhello\r\n1\r\n \r\n00a\r\n0123456789\r\n000\r\n\r\n", "hello 0123456789"),
    OK("A\r\n0123456789\r\na\r\nabcdefghij\r\n0\r\n\r\n", "0123456789abcdefghij"),
    OK("4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n"),
    OK("0000000000000001\r\nx\r\n0000000000000000\r\n\r\n", "x"),
    NO(400, "00000000000000001\r\nx\r\n0\r\n\r\n"),
    NO(400, "fffffffffffffffff\r\n"),
    NO(400, "10000000000000000\r\n"),
    NO(400, "\r\n"),
    NO(400, "\r\nhello"),
    NO(400, ";a\r\n"),
    NO(400, "g\r\n"),
    NO(400, "5g\r\nhello\r\n0\r\n\r\n"),
    NO(400, "0x5\r\nhello\r\n0\r\n\r\n"),
    NO(400, "+5\r\nhello\r\n0\r\n\r\n"),
    NO(400, "-1\r\n"),
    NO(400, " 5\r\nhello\r\n0\r\n\r\n"),
    NO(400, "5 \r\nhello\r\n0\r\n\r\n"),
    NO(400, "5\t;a\r\nhello\r\n0\r\n\r\n"),
    NO(400, "5_0\r\n"),
    NO(400, "5\nhello\r\n0\r\n\r\n"),
    NO(400, "5\r\r\nhello\r\n0\r\n\r\n"),
    NO(400, "5\rXhello\r\n0\r\n\r\n"),
    NO(400, "5\r\nhello0\r\n\r\n"),
    NO(400, "5\r\nhello\n0\r\n\r\n"),
    NO(400, "5\r\nhello\r0\r\n\r\n"),
    NO(400, "5\r\nhelloo\r\n0\r\n\r\n"),
    NO(400, "5\r\nhell\r\n0\r\n\r\n"),
    NO(400, "5\r\nhello\r\n\r\n0\r\n\r\n"),
    NO(400, "0\r\n\rX"),
    NO(400, "0\r\n\n"),
    /* RFC 9112 7.1.1: extensions. */
    OK("5;a\r\nhello\r\n0;b=c;d=\"e f\"\r\n\r\n", "hello"),
    OK("5; a = b\t\r\nhello\r\n0;\x80\r\n\r\n", "hello"),
    NO(400, "5;a\nhello\r\n0\r\n\r\n"),
    NO(400, "5;a\rb\r\nhello\r\n0\r\n\r\n"),
    NO(400, "5;a\0b\r\nhello\r\n0\r\n\r\n"),
    NO(400, "5;\x7f\r\nhello\r\n0\r\n\r\n"),
    NO(400, "2;\nxx\r\n4c\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"),
    /* RFC 9112 7.1.2: trailers. */
    OK("0\r\nA: b\r\n\r\n", ""),
    OK("1\r\nx\r\n0\r\nA:\r\nB-c:\t\x80 d\r\n\r\n", "x"),
    NO(400, "0\r\n: b\r\n\r\n"),
    NO(400, "0\r\nA\r\n\r\n"),
    NO(400, "0\r\nA : b\r\n\r\n"),
    NO(400, "0\r\n A: b\r\n\r\n"),
    NO(400, "0\r\nA: b\r\n c\r\n\r\n"),
    NO(400, "0\r\nA: b\n\r\n"),
    NO(400, "0\r\nA: b\rc\r\n\r\n"),
    NO(400, "0\r\nA: \0\r\n\r\n"),
    NO(400, "0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    /* RFC 9110 6.5.1: nothing that would frame the message anew. */
    NO(400, "0\r\nContent-Length: 5\r\n\r\n"),
    NO(400, "0\r\nA: b\r\ncontent-LENGTH: 5\r\n\r\n"),
    NO(400, "0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    OK("0\r\nContent-Lengt: 5\r\nContent-Lengthh: 5\r\nTransfer-Encodin: x\r\n\r\n", ""),
    OK("0\r\nTransfer-Length: 5\r\nXContent-Length: 5\r\nC: x\r\n\r\n", ""),
};

/* Decode input that comes in pieces of at most step bytes, the first of which has
 * first bytes.  Returns the status, or the bytes used when complete. */
static int
decode(const char *in, uint32_t len, uint32_t first, uint32_t step, char *body,
       uint32_t *nbody)
{
    rt_http1_chunked cs;
    uint32_t at = 0, used;
    rt_slice data;

    rt_http1_chunked_init(&cs);
    *nbody = 0;
    for (uint32_t end = first; at < len; end += step) {
        if (end > len)
            end = len;
        while (at < end) {
            const char *p = guarded(in + at, end - at);
            int rc = rt_http1_chunked_feed(&cs, p, end - at, &used, &data);

            CHECK(used <= end - at && data.len <= used);
            CHECK(data.len == 0 || data.off + data.len == used);
            CHECK(used > 0);
            memcpy(body + *nbody, p + data.off, data.len);
            *nbody += data.len;
            at += used;
            if (rc != 0) {
                CHECK(rc > 0 || cs.error != NULL);
                /* The answer stays. */
                CHECK_EQ(rt_http1_chunked_feed(&cs, "x", 1, &used, &data), rc);
                CHECK(used == 0 && data.len == 0);
                return rc == 1 ? (int)at : rc;
            }
        }
    }
    return 0;
}

static void
test_chunked_table(void)
{
    char buf[512], body[512];
    uint32_t nbody;

    for (size_t i = 0; i < RT_ARRAY_LEN(CHUNKS); i++) {
        const chunk_case *c = &CHUNKS[i];
        const uint32_t len = c->len + 6;

        /* What follows belongs to the next request. */
        memcpy(buf, c->in, c->len);
        memcpy(buf + c->len, "0\r\n\r\nG", 6);
        for (uint32_t first = 0; first <= c->len; first++) {
            int rc = first == 0 ? decode(buf, len, 1, 1, body, &nbody)
                                : decode(buf, len, first, len, body, &nbody);
            int want = c->status ? -c->status : (int)c->len;

            if (rc != want) {
                fprintf(stderr, "line %d, first part %u: %d\n", c->line, first, rc);
                CHECK(rc == want);
            }
            if (rc > 0) {
                CHECK_EQ(nbody, strlen(c->body));
                CHECK(memcmp(body, c->body, nbody) == 0);
            }
        }
    }
}

static void
test_chunked_largest_size_is_counted_down(void)
{
    static const char in[] = "ffffffffffffffff\r\nabc";
    rt_http1_chunked cs;
    rt_slice data;
    uint32_t used;

    rt_http1_chunked_init(&cs);
    CHECK_EQ(rt_http1_chunked_feed(&cs, in, sizeof in - 1, &used, &data), 0);
    CHECK_EQ(used, sizeof in - 1);
    CHECK(data.off == 18 && data.len == 3);
    CHECK(cs.left == UINT64_MAX - 3);
}

static void
test_chunked_empty_input_changes_nothing(void)
{
    rt_http1_chunked cs;
    rt_slice data;
    uint32_t used;

    rt_http1_chunked_init(&cs);
    CHECK_EQ(rt_http1_chunked_feed(&cs, NULL, 0, &used, &data), 0);
    CHECK(used == 0 && data.len == 0);
    CHECK_EQ(rt_http1_chunked_feed(&cs, "0\r\n\r\n", 5, &used, &data), 0);
    CHECK(used == 3 && cs.in_trailers);
    CHECK_EQ(rt_http1_chunked_feed(&cs, "\r\n", 2, &used, &data), 1);
    CHECK_EQ(used, 2);
}

/* RFC 9112 7.1.1, 7.1.2: limits on what is not data. */
static void
test_chunked_limits(void)
{
    static char in[GUARDED], body[GUARDED];
    uint32_t nbody, n;

    for (uint32_t ext = 254; ext < 260; ext++) {
        n = (uint32_t)sprintf(in, "1;%0*d\r\nx\r\n0\r\n\r\n", (int)ext - 1, 7);
        CHECK_EQ(decode(in, n, n, 1, body, &nbody), ext <= 256 ? (int)n : -431);
        CHECK_EQ(decode(in, n, 1, 1, body, &nbody), ext <= 256 ? (int)n : -431);
    }
    for (uint32_t size = 8188; size < 8197; size++) {
        n = (uint32_t)sprintf(in, "0\r\nA: %0*d\r\n\r\n", (int)size - 5, 7);
        CHECK_EQ(decode(in, n, n, 1, body, &nbody), size <= 8192 ? (int)n : -431);
        CHECK_EQ(decode(in, n, 1, 1, body, &nbody), size <= 8192 ? (int)n : -431);
    }
    /* Single bytes with little around them are fine for ever ... */
    n = 0;
    for (int i = 0; i < 10000; i++)
        n += (uint32_t)sprintf(in + n, "1;a\r\nx\r\n");
    n += (uint32_t)sprintf(in + n, "0\r\n\r\n");
    CHECK_EQ(decode(in, n, n, 1, body, &nbody), n);
    CHECK_EQ(nbody, 10000);
    /* ... with long extensions they are not. */
    n = 0;
    for (int i = 0; i < 200; i++)
        n += (uint32_t)sprintf(in + n, "1;%0200d\r\nx\r\n", 7);
    n += (uint32_t)sprintf(in + n, "0\r\n\r\n");
    CHECK_EQ(decode(in, n, n, 1, body, &nbody), -431);
    CHECK(nbody < 100);
    CHECK_EQ(decode(in, n, 1, 1, body, &n), -431);
    CHECK_EQ(n, nbody);
    /* The trailers have their own allowance. */
    n = 0;
    for (int i = 0; i < 60; i++)
        n += (uint32_t)sprintf(in + n, "1;%0200d\r\nx\r\n", 7);
    n += (uint32_t)sprintf(in + n, "0\r\nA: %08000d\r\n\r\n", 7);
    CHECK_EQ(decode(in, n, n, 1, body, &nbody), n);
}

/* RFC 9110 6.5.1: the fields of a trailer section, but for those that must not come late. */
static void
test_trailers_are_split(void)
{
    static const char in[] = "0\r\nA: b\r\nX-Sum:\t 1 2 \r\nContent-Type: 5\r\nhost: x\r\n"
                             "IF-MATCH: x\r\ncookie: a\r\nEmpty:\r\n\r\n";
    rt_http1_field fields[RT_HTTP1_TRAILER_FIELDS];
    static const char *const want[][2] = {{"A", "b"}, {"X-Sum", "1 2"}, {"Empty", ""}};
    rt_http1_chunked cs;
    uint32_t used;
    rt_slice data;

    rt_http1_chunked_init(&cs);
    CHECK_EQ(rt_http1_chunked_feed(&cs, in, sizeof in - 1, &used, &data), 0);
    CHECK(used == 3 && cs.in_trailers);
    const char *p = guarded(in + 3, sizeof in - 4);
    CHECK_EQ(rt_http1_chunked_feed(&cs, p, sizeof in - 4, &used, &data), 1);
    CHECK_EQ(used, sizeof in - 4);
    CHECK_EQ(rt_http1_split_trailers(p, used, fields), RT_ARRAY_LEN(want));
    for (size_t i = 0; i < RT_ARRAY_LEN(want); i++) {
        CHECK(fields[i].name.len == strlen(want[i][0]) &&
              memcmp(p + fields[i].name.off, want[i][0], fields[i].name.len) == 0);
        CHECK(fields[i].value.len == strlen(want[i][1]) &&
              memcmp(p + fields[i].value.off, want[i][1], fields[i].value.len) == 0);
    }
    CHECK_EQ(rt_http1_split_trailers("\r\n", 2, fields), 0);
}

static void
test_trailers_limit_of_fields(void)
{
    static char in[GUARDED], body[GUARDED];
    uint32_t nbody;

    for (int lines = 127; lines < 131; lines++) {
        uint32_t n = (uint32_t)sprintf(in, "0\r\n");
        for (int i = 0; i < lines; i++)
            n += (uint32_t)sprintf(in + n, "A:%d\r\n", i);
        n += (uint32_t)sprintf(in + n, "\r\n");
        CHECK_EQ(decode(in, n, n, 1, body, &nbody), lines <= 128 ? (int)n : -431);
    }
}

int
main(void)
{
    guard_init();
    RUN(test_head_table);
    RUN(test_head_fields_are_slices_of_the_input);
    RUN(test_class_table);
    RUN(test_head_byte_classes);
    RUN(test_head_limits);
    RUN(test_head_fault_seen_before_the_end);
    RUN(test_head_no_new_bytes_asks_for_more);
    RUN(test_chunked_table);
    RUN(test_chunked_largest_size_is_counted_down);
    RUN(test_chunked_empty_input_changes_nothing);
    RUN(test_chunked_limits);
    RUN(test_trailers_are_split);
    RUN(test_trailers_limit_of_fields);
    return 0;
}
