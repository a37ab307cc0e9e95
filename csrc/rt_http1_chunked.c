/* rt_http1_chunked.c - the chunked transfer coding (RFC 9112 section 7.1), decoded
 * in place.
 *
 * A byte-wise state machine over the framing; body bytes are never looked at, only
 * counted, and handed back as slices of the input.  All state is in the struct, so
 * the input may be cut anywhere.
 *
 *   size [";" extension] CRLF data CRLF ... 0 [";" extension] CRLF *(trailer CRLF) CRLF
 *
 * Each line of framing is a place where two readers may disagree about where a
 * message ends, so there is one spelling of it: CRLF only, no whitespace around the
 * size (7.1.1 calls it bad whitespace; llhttp refuses it too), no control character
 * in an extension, trailers of field syntax and without fields that would frame the
 * message anew (RFC 9110 6.5.1).
 */
#include "rt_http1.h"

#include <string.h>

enum {
    SIZE_MAX_DIGITS = 16,       /* as many as uint64_t holds */
    EXT_MAX = 256,              /* bytes of extension in one line */
    EXCESS_MAX = 16 * 1024
};

enum {
    SIZE = 0,                   /* in the digits of a chunk size */
    EXT,                        /* after ';', up to CR */
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    LINE,                       /* at the start of a trailer line */
    NAME,
    VALUE,
    LINE_LF,
    LAST_LF,
    COMPLETE,
    FAILED_400,
    FAILED_431
};

void
rt_http1_chunked_init(rt_http1_chunked *cs)
{
    *cs = (rt_http1_chunked){.state = SIZE};
}

static RT_COLD int
refuse(rt_http1_chunked *cs, int status, const char *why)
{
    cs->state = status == 400 ? FAILED_400 : FAILED_431;
    cs->error = why;
    return -status;
}

static inline unsigned
hex_value(uint8_t c)
{
    return (c & 15u) + 9u * (c >> 6);
}

/* A size line has ended.  RFC 9112 7.1.1 asks for a limit on extensions in all; a
 * peer that sends a byte a chunk is as costly.  As in Go, each chunk may spend 16
 * bytes, and as many as it has data, twice, on framing; what is more adds up. */
static int
size_line_end(rt_http1_chunked *cs)
{
    const uint64_t spent = (uint64_t)cs->excess + cs->digits + cs->line + 4;
    const uint64_t allowed =
        cs->left > EXCESS_MAX ? UINT64_MAX : 16 + 2 * cs->left;

    cs->excess = spent > allowed ? (uint32_t)(spent - allowed) : 0;
    if (cs->excess > EXCESS_MAX)
        return refuse(cs, 431, "chunked body with too little data for its framing");
    cs->digits = 0;
    cs->line = 0;
    if (cs->left > 0) {
        cs->state = DATA;
    }
    else {
        cs->excess = 0;
        cs->state = LINE;
        cs->in_trailers = true;
    }
    return 0;
}

/* The names that frame a message, matched as they come: `digits` counts the bytes of the
 * current name, `line` has a bit for each that still fits. */
static const char *const FRAMING[] = {"content-length", "transfer-encoding"};

static void
match_name(rt_http1_chunked *cs, uint8_t c)
{
    uint32_t fits = cs->digits == 0 ? 3 : cs->line;

    for (uint32_t i = 0; i < RT_ARRAY_LEN(FRAMING); i++)
        if (cs->digits >= strlen(FRAMING[i]) || (c | 0x20) != FRAMING[i][cs->digits])
            fits &= ~(1u << i);
    cs->line = fits;
    cs->digits += cs->digits < UINT8_MAX;
}

static bool
name_frames(const rt_http1_chunked *cs)
{
    for (uint32_t i = 0; i < RT_ARRAY_LEN(FRAMING); i++)
        if ((cs->line & 1u << i) && cs->digits == strlen(FRAMING[i]))
            return true;
    return false;
}

/* One byte of framing: 0, or a refusal. */
static int
framing_byte(rt_http1_chunked *cs, uint8_t c)
{
    const uint8_t cls = rt_http1_class[c];

    switch (cs->state) {
    case SIZE:
        if (cls & RT_HC_HEX) {
            if (cs->digits == SIZE_MAX_DIGITS)
                return refuse(cs, 400, "chunk size too large");
            cs->digits++;
            cs->left = cs->left << 4 | hex_value(c);
            return 0;
        }
        if (cs->digits == 0 || (c != '\r' && c != ';'))
            return refuse(cs, 400, "malformed chunk size");
        cs->line = c == ';';
        cs->state = c == ';' ? EXT : SIZE_LF;
        return 0;
    case EXT:
        if (c == '\r') {
            cs->state = SIZE_LF;
            return 0;
        }
        if (!(cls & RT_HC_VALUE))
            return refuse(cs, 400, "control character in a chunk extension");
        if (cs->line++ >= EXT_MAX)
            return refuse(cs, 431, "chunk extension too long");
        return 0;
    case SIZE_LF:
        if (c != '\n')
            return refuse(cs, 400, "bare CR in a chunk size line");
        return size_line_end(cs);
    case DATA_CR:
        if (c != '\r')
            return refuse(cs, 400, "chunk data longer than its size");
        cs->state = DATA_LF;
        return 0;
    case DATA_LF:
        if (c != '\n')
            return refuse(cs, 400, "bare CR after chunk data");
        cs->state = SIZE;
        return 0;
    case LAST_LF:
        if (c != '\n')
            return refuse(cs, 400, "bare CR in the trailer section");
        cs->state = COMPLETE;
        return 0;
    default:
        break;
    }

    /* Trailer lines (RFC 9112 7.1.2), of the same syntax as header lines. */
    if (cs->state == LINE && c == '\r') {
        cs->state = LAST_LF;
        return 0;
    }
    if (cs->excess++ >= RT_HTTP1_TRAILERS)
        return refuse(cs, 431, "trailer section too long");
    switch (cs->state) {
    case LINE:
        if (!(cls & RT_HC_TOKEN))
            return refuse(cs, 400, "malformed trailer field name");
        if (cs->ntrailers++ >= RT_HTTP1_TRAILER_FIELDS)
            return refuse(cs, 431, "too many trailer fields");
        cs->state = NAME;
        cs->digits = 0;
        match_name(cs, c);
        return 0;
    case NAME:
        if (c != ':') {
            if (!(cls & RT_HC_TOKEN))
                return refuse(cs, 400, "malformed trailer field name");
            match_name(cs, c);
            return 0;
        }
        if (name_frames(cs))
            return refuse(cs, 400, "framing field in the trailer section");
        cs->state = VALUE;
        return 0;
    case VALUE:
        if (c == '\r')
            cs->state = LINE_LF;
        else if (!(cls & RT_HC_VALUE))
            return refuse(cs, 400, "control character in a trailer field");
        return 0;
    case LINE_LF:
        if (c != '\n')
            return refuse(cs, 400, "bare CR in the trailer section");
        cs->state = LINE;
        return 0;
    default:
        rt_throw("http1_chunked: bad state");
    }
}

int
rt_http1_chunked_feed(rt_http1_chunked *cs, const char *in, uint32_t len,
                      uint32_t *used, rt_slice *data)
{
    const bool in_trailers = cs->in_trailers;
    uint32_t i = 0;
    int rc = 0;

    *data = (rt_slice){0, 0};
    while (rc == 0 && i < len && cs->state < COMPLETE && cs->in_trailers == in_trailers) {
        if (cs->state == DATA) {
            const uint32_t n = len - i < cs->left ? len - i : (uint32_t)cs->left;

            *data = (rt_slice){i, n};
            i += n;
            cs->left -= n;
            if (cs->left == 0)
                cs->state = DATA_CR;
            break;
        }
        rc = framing_byte(cs, (uint8_t)in[i++]);
    }
    *used = i;
    switch (cs->state) {
    case COMPLETE:
        return 1;
    case FAILED_400:
        return -400;
    case FAILED_431:
        return -431;
    default:
        return 0;
    }
}
