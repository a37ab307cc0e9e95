/* fuzz_http1.c - libFuzzer target for the request head parser and the chunked decoder.
 *
 *   clang -g -O1 -std=gnu11 -fsanitize=fuzzer,address,undefined \
 *       -fno-sanitize-recover=all -Icsrc -o /tmp/fuzz_http1 tests/c/fuzz_http1.c \
 *       csrc/rt_*.c -pthread
 *   mkdir -p /tmp/corpus && /tmp/fuzz_http1 -max_len=1024 /tmp/corpus tests/corpus/http1
 *
 * The input is taken as a request head with what follows it, and again as a chunked
 * body.  Checked: answers and results do not depend on how the bytes are cut; what
 * is refused early is refused with the same status later; every slice lies inside
 * the input and holds only bytes of its class; nothing past the end is read (the
 * bytes not yet "received" are poisoned).
 */
#include "rt_http1.h"

#include <sanitizer/asan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(cond)                                                        \
    do {                                                                     \
        if (!(cond)) {                                                       \
            fprintf(stderr, "line %d: %s\n", __LINE__, #cond);               \
            abort();                                                         \
        }                                                                    \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FIELDS = 16, INPUT_MAX = 4096 };

/* One set that is never reached by small inputs, one that is reached often. */
static const rt_http1_limits LIMITS[] = {
    {.max_target = INPUT_MAX, .max_head = 2 * INPUT_MAX, .max_fields = FIELDS},
    {.max_target = 12, .max_head = 90, .max_fields = 3},
};

typedef struct {
    int rc;
    rt_http1_req req;
    rt_http1_field fields[FIELDS];
} answer;

static uint32_t seed;           /* of the places where the input is cut */

static uint32_t
next_random(uint32_t below)
{
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % below;
}

static void
parse(const char *buf, uint32_t total, uint32_t len, uint32_t seen,
      const rt_http1_limits *limits, answer *a)
{
    ASAN_POISON_MEMORY_REGION(buf + len, total - len);
    a->req.fields = a->fields;
    a->rc = rt_http1_parse_head(buf, len, seen, limits, &a->req);
    ASAN_UNPOISON_MEMORY_REGION(buf + len, total - len);
    REQUIRE(a->req.fields == a->fields);
}

static void
check_slice(const char *buf, uint32_t head, rt_slice s, int cls)
{
    REQUIRE(s.off <= head && s.len <= head - s.off);
    for (uint32_t i = 0; i < s.len; i++)
        REQUIRE(rt_http1_class[(uint8_t)buf[s.off + i]] & cls);
}

static bool
is_ows(char c)
{
    return c == ' ' || c == '\t';
}

/* What every accepted request satisfies. */
static void
check_accepted(const char *buf, uint32_t len, const rt_http1_limits *limits, const answer *a)
{
    const rt_http1_req *req = &a->req;
    const uint32_t head = (uint32_t)a->rc;

    REQUIRE(head <= len && head <= limits->max_head);
    REQUIRE(head >= 16 && memcmp(buf + head - 4, "\r\n\r\n", 4) == 0);
    check_slice(buf, head, req->method, RT_HC_TOKEN);
    check_slice(buf, head, req->target, RT_HC_TARGET);
    check_slice(buf, head, req->path, RT_HC_PATH);
    check_slice(buf, head, req->query, RT_HC_TARGET);
    check_slice(buf, head, req->host, RT_HC_TARGET);
    REQUIRE(req->method.len >= 1 && req->method.len <= 32);
    REQUIRE(req->target.len >= 1 && req->target.len <= limits->max_target);
    REQUIRE(req->minor <= 1 && req->content_length >= -1);
    REQUIRE(!(req->chunked && (req->content_length >= 0 || req->minor == 0)));
    REQUIRE(!(req->minor == 0 && (req->expect_continue || req->upgrade)));
    REQUIRE(req->has_query || req->query.len == 0);
    if (req->method_id == RT_HM_CONNECT)
        REQUIRE(!req->keep_alive && !req->chunked && req->content_length <= 0);
    REQUIRE(req->nfields <= limits->max_fields);

    int hosts = 0, framing = 0;
    for (uint32_t i = 0; i < req->nfields; i++) {
        const rt_http1_field *f = &req->fields[i];
        const char *v = buf + f->value.off;

        check_slice(buf, head, f->name, RT_HC_TOKEN);
        check_slice(buf, head, f->value, RT_HC_VALUE);
        REQUIRE(f->name.len > 0 && buf[f->name.off + f->name.len] == ':');
        if (f->value.len > 0)
            REQUIRE(!is_ows(v[0]) && !is_ows(v[f->value.len - 1]));
        hosts += f->id == RT_HF_HOST;
        framing += f->id == RT_HF_CONTENT_LENGTH || f->id == RT_HF_TRANSFER_ENCODING;
    }
    REQUIRE(hosts <= 1 && hosts >= req->minor);
    REQUIRE(framing == (req->chunked || req->content_length >= 0));
}

static void
check_same(const answer *a, const answer *b)
{
    REQUIRE(a->rc == b->rc);
    if (a->rc <= 0)
        return;

    /* The structs differ only in the address of their arrays and in padding. */
#define SAME(f) REQUIRE(memcmp(&a->req.f, &b->req.f, sizeof a->req.f) == 0)
    SAME(method);
    SAME(target);
    SAME(path);
    SAME(query);
    SAME(host);
    SAME(content_length);
    SAME(method_id);
    SAME(minor);
    SAME(has_query);
    SAME(chunked);
    SAME(keep_alive);
    SAME(expect_continue);
    SAME(upgrade);
    SAME(nfields);
#undef SAME
    REQUIRE(memcmp(a->fields, b->fields, a->req.nfields * sizeof a->fields[0]) == 0);
}

static bool
known_status(int status)
{
    return status == 400 || status == 414 || status == 417 || status == 431 ||
           status == 501 || status == 505;
}

/* buf ends with a LF that has no CR, so that the final answer is never "more". */
static void
check_head(const char *buf, uint32_t len, const rt_http1_limits *limits)
{
    answer whole, part;
    uint32_t n, seen;

    parse(buf, len, len, 0, limits, &whole);
    REQUIRE(whole.rc > 0 || known_status(-whole.rc));
    if (whole.rc > 0)
        check_accepted(buf, len, limits, &whole);
    else
        REQUIRE(whole.req.error != NULL);

    part.rc = 0;
    for (n = 1; n <= len && part.rc == 0; n++)
        parse(buf, len, n, n - 1, limits, &part);
    check_same(&whole, &part);
    if (part.rc > 0)
        REQUIRE((uint32_t)part.rc == n - 1);    /* not a byte later than needed */

    for (int round = 0; round < 3; round++) {
        n = seen = 0;
        do {
            n += 1 + next_random(round ? 40 : 4 * len);
            n = n < len ? n : len;
            parse(buf, len, n, seen, limits, &part);
            seen = n;
        } while (part.rc == 0 && n < len);
        check_same(&whole, &part);
    }
    for (int round = 0; round < 8; round++) {
        n = next_random(len + 1);
        parse(buf, len, n, 0, limits, &part);
        REQUIRE(part.rc == 0 || part.rc == whole.rc);
        if (whole.rc > 0)
            REQUIRE((part.rc == 0) == (n < (uint32_t)whole.rc));
    }
}

typedef struct {
    int rc;
    uint32_t used, nbody, ntrailer;
    char body[INPUT_MAX], trailer[INPUT_MAX];
} decoded;

/* The trailer section of a complete body, by itself so that ASan sees its end. */
static void
check_trailers(const decoded *d)
{
    rt_http1_field fields[RT_HTTP1_TRAILER_FIELDS];
    char *copy = malloc(d->ntrailer);

    REQUIRE(copy != NULL && d->ntrailer >= 2);
    REQUIRE(d->ntrailer <= RT_HTTP1_TRAILERS + 2);
    memcpy(copy, d->trailer, d->ntrailer);

    uint32_t n = rt_http1_split_trailers(copy, d->ntrailer, fields);

    for (uint32_t i = 0; i < n; i++) {
        const rt_slice v = fields[i].value;

        check_slice(copy, d->ntrailer, fields[i].name, RT_HC_TOKEN);
        check_slice(copy, d->ntrailer, v, RT_HC_VALUE);
        REQUIRE(fields[i].name.len > 0);
        REQUIRE(rt_http1_trailer_allowed(copy + fields[i].name.off, fields[i].name.len));
        if (v.len > 0)
            REQUIRE(!is_ows(copy[v.off]) && !is_ows(copy[v.off + v.len - 1]));
    }
    free(copy);
}

static void
decode(const char *buf, uint32_t len, uint32_t step, decoded *d)
{
    rt_http1_chunked cs;

    rt_http1_chunked_init(&cs);
    d->rc = 0;
    d->used = d->nbody = d->ntrailer = 0;
    for (uint32_t end = 0; d->rc == 0 && d->used < len;) {
        if (d->used == end)
            end += step ? step : 1 + next_random(30);
        end = end < len ? end : len;

        uint32_t used, n = end - d->used;
        rt_slice s;
        const char *p = buf + d->used;
        const bool trailer = cs.in_trailers;

        ASAN_POISON_MEMORY_REGION(buf + end, len - end);
        d->rc = rt_http1_chunked_feed(&cs, p, n, &used, &s);
        ASAN_UNPOISON_MEMORY_REGION(buf + end, len - end);
        REQUIRE(used > 0 && used <= n);
        REQUIRE(s.len == 0 || (s.len <= used && s.off == used - s.len));
        memcpy(d->body + d->nbody, p + s.off, s.len);
        d->nbody += s.len;
        d->used += used;
        if (trailer) {
            REQUIRE(s.len == 0);
            memcpy(d->trailer + d->ntrailer, p, used);
            d->ntrailer += used;
        }
    }
    REQUIRE(d->rc == 0 || d->rc == 1 || d->rc == -400 || d->rc == -431);
    REQUIRE((d->rc < 0) == (cs.error != NULL));
    if (d->rc == 1)
        check_trailers(d);
}

static void
check_chunked(const char *buf, uint32_t len)
{
    static decoded whole, part;

    decode(buf, len, len, &whole);
    for (uint32_t step = 0; step < 3; step++) {     /* 0: at random places */
        decode(buf, len, step, &part);
        REQUIRE(part.rc == whole.rc && part.used == whole.used);
        REQUIRE(part.nbody == whole.nbody);
        REQUIRE(memcmp(part.body, whole.body, whole.nbody) == 0);
        REQUIRE(part.ntrailer == whole.ntrailer);
        REQUIRE(memcmp(part.trailer, whole.trailer, whole.ntrailer) == 0);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_MAX - 2)
        return 0;

    const uint32_t n = (uint32_t)size;
    char *buf = malloc(n + 2);

    REQUIRE(buf != NULL);
    seed = n;
    for (uint32_t i = 0; i < n; i++)
        seed = seed * 31 + data[i];
    if (n > 0)
        memcpy(buf, data, n);
    memcpy(buf + n, "\n\n", 2);
    for (size_t i = 0; i < RT_ARRAY_LEN(LIMITS); i++)
        check_head(buf, n + 2, &LIMITS[i]);
    check_chunked(buf, n + 2);

    answer a;
    parse(buf, n + 2, n + 2, 0, &LIMITS[0], &a);
    if (a.rc > 0 && a.req.chunked && (uint32_t)a.rc < n + 2)
        check_chunked(buf + a.rc, n + 2 - (uint32_t)a.rc);
    free(buf);
    return 0;
}
