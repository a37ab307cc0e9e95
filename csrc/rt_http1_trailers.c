/* rt_http1_trailers.c - the trailer section of a chunked body (RFC 9110 section 6.5).
 *
 * The decoder has checked its syntax; here it is split into fields, and those that must
 * not come so late are left out: whoever merges trailers into the header section, as
 * intermediaries do, must not be told of another length, host or user.
 */
#include "rt_http1.h"

#include <string.h>
#include <strings.h>

static const char *const FORBIDDEN[] = {
    "Authorization", "Cache-Control", "Connection", "Content-Encoding", "Content-Length",
    "Content-Range", "Content-Type", "Cookie", "Expect", "Host", "Keep-Alive",
    "Max-Forwards", "Pragma", "Proxy-Authenticate", "Proxy-Authorization",
    "Proxy-Connection", "Range", "Realm", "Set-Cookie", "TE", "Trailer",
    "Transfer-Encoding", "Upgrade", "WWW-Authenticate",
};

bool
rt_http1_trailer_allowed(const char *name, size_t n)
{
    if (n >= 3 && strncasecmp(name, "If-", 3) == 0)     /* conditional requests */
        return false;
    for (size_t i = 0; i < RT_ARRAY_LEN(FORBIDDEN); i++)
        if (strlen(FORBIDDEN[i]) == n && strncasecmp(name, FORBIDDEN[i], n) == 0)
            return false;
    return true;
}

static bool
is_ows(char c)
{
    return c == ' ' || c == '\t';
}

uint32_t
rt_http1_split_trailers(const char *buf, uint32_t len, rt_http1_field *fields)
{
    uint32_t n = 0;

    for (const char *p = buf, *end = buf + len; p < end && *p != '\r';) {
        const char *colon = memchr(p, ':', (size_t)(end - p));
        const char *cr = colon ? memchr(colon, '\r', (size_t)(end - colon)) : NULL;

        if (cr == NULL || n == RT_HTTP1_TRAILER_FIELDS)
            rt_throw("http1_trailers: not what the decoder has accepted");
        const char *v = colon + 1, *vend = cr;
        while (v < vend && is_ows(*v))
            v++;
        while (vend > v && is_ows(vend[-1]))
            vend--;
        if (rt_http1_trailer_allowed(p, (size_t)(colon - p)))
            fields[n++] = (rt_http1_field){
                {(uint32_t)(p - buf), (uint32_t)(colon - p)},
                {(uint32_t)(v - buf), (uint32_t)(vend - v)}, RT_HF_OTHER};
        p = cr + 2;
    }
    return n;
}
