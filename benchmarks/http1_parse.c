/* http1_parse.c - what parsing a request head costs, in nanoseconds.
 *
 *   cc -O2 -Icsrc -o /tmp/http1_parse benchmarks/http1_parse.c csrc/rt_http1.c
 *   /tmp/http1_parse
 *
 * Prints the best of several rounds for each request, whole and byte by byte.  Add
 * -DRT_HTTP1_PORTABLE to see what the vector code is worth.
 */
#include "rt_http1.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *head;
} REQUESTS[] = {
    {"wrk, 1 field", "GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"},
    {"curl, 3 fields", "GET /items/42?full=1 HTTP/1.1\r\nHost: localhost:8080\r\n"
                       "User-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n"},
    {"API POST, 6 fields",
     "POST /api/v1/orders HTTP/1.1\r\nHost: api.example.com\r\n"
     "Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
     "Content-Type: application/json\r\nContent-Length: 348\r\n"
     "Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n\r\n"},
    {"browser, 8 fields",
     "GET /static/app.js?v=12345 HTTP/1.1\r\nHost: www.example.com\r\n"
     "Connection: keep-alive\r\n"
     "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 "
     "(KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n"
     "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,"
     "image/webp,*/*;q=0.8\r\n"
     "Referer: https://www.example.com/index.html\r\n"
     "Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.8\r\n"
     "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; lang=en\r\n\r\n"},
};

static const rt_http1_limits LIMITS = {
    .max_target = 8192, .max_head = 65536, .max_fields = 100};

static double
best(const char *head, uint32_t len, uint32_t step)
{
    enum { ROUNDS = 15 };
    const int n = step >= len ? 200000 : 5000;
    rt_http1_field fields[100];
    rt_http1_req req = {.fields = fields};
    double least = 1e9;

    for (int r = 0; r < ROUNDS; r++) {
        int64_t t0 = rt_nanotime();

        for (int i = 0; i < n; i++) {
            uint32_t seen = 0, have = step < len ? step : len;
            int rc;

            while ((rc = rt_http1_parse_head(head, have, seen, &LIMITS, &req)) == 0) {
                seen = have;
                have += step;
            }
            if (rc != (int)len) {
                printf("refused: %d %s\n", rc, rc < 0 ? req.error : "");
                return 0;
            }
            /* The result is used: nothing of the loop may be hoisted. */
            __asm__ volatile("" : : "r"(&req), "r"(fields) : "memory");
        }
        double ns = (double)(rt_nanotime() - t0) / n;
        if (ns < least)
            least = ns;
    }
    return least;
}

int
main(void)
{
    printf("%-20s %6s %10s %14s\n", "request", "bytes", "whole, ns", "byte-wise, ns");
    for (size_t i = 0; i < RT_ARRAY_LEN(REQUESTS); i++) {
        const char *head = REQUESTS[i].head;
        const uint32_t len = (uint32_t)strlen(head);

        printf("%-20s %6u %10.1f %14.1f\n", REQUESTS[i].name, len, best(head, len, len),
               best(head, len, 1));
    }
    return 0;
}
