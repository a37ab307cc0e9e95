/* rt_http1_sniff.c - what kind of data a body is (Go's http.DetectContentType).
 *
 * The algorithm is that of the WHATWG MIME Sniffing Standard, in Go's order and with Go's
 * answers.  Most bodies are text that begins like no signature, so the first byte decides
 * which signatures are tried at all; the rest is a search for bytes no text has.
 */
#include "rt_http1_sniff.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "rt_base.h"

const char rt_http1_text[] = "text/plain; charset=utf-8";
static const char octets[] = "application/octet-stream";

static bool
is_space(unsigned char b)
{
    return b == ' ' || b == '\t' || b == '\n' || b == '\f' || b == '\r';
}

/* Data that begins with a tag: its name, in any case, and the byte that ends it. */
static bool
is_html(const char *data, size_t n)
{
    static const char *const tags[] = {
        "<!DOCTYPE HTML", "<HTML", "<HEAD", "<SCRIPT", "<IFRAME", "<H1",   "<DIV", "<FONT", "<TABLE",
        "<A",             "<STYLE", "<TITLE", "<B",    "<BODY",   "<BR",   "<P",   "<!--",
    };
    for (size_t t = 0; t < RT_ARRAY_LEN(tags); t++) {
        const char *tag = tags[t];
        size_t len = strlen(tag), i = 0;
        if (n < len + 1)
            continue;
        while (i < len && (data[i] >= 'a' && data[i] <= 'z' ? data[i] - 32 : data[i]) == tag[i])
            i++;
        if (i == len && (data[len] == ' ' || data[len] == '>'))
            return true;
    }
    return false;
}

/* What begins with `text`, except that '?' in it stands for any byte. */
typedef struct {
    const char *text;
    uint8_t len;
    const char *type;
} signature;

#define SIGNATURE(text, type) {text, sizeof(text) - 1, type}

/* One type's signatures never hide another's of a different first byte, so their order counts
   among those of one first byte only. */
static const signature signatures[] = {
    SIGNATURE("%PDF-", "application/pdf"),
    SIGNATURE("%!PS-Adobe-", "application/postscript"),
    SIGNATURE("\xfe\xff??", "text/plain; charset=utf-16be"),
    SIGNATURE("\xff\xfe??", "text/plain; charset=utf-16le"),
    SIGNATURE("\xef\xbb\xbf?", rt_http1_text),
    SIGNATURE("\x00\x00\x01\x00", "image/x-icon"),
    SIGNATURE("\x00\x00\x02\x00", "image/x-icon"),
    SIGNATURE("BM", "image/bmp"),
    SIGNATURE("GIF87a", "image/gif"),
    SIGNATURE("GIF89a", "image/gif"),
    SIGNATURE("RIFF????WEBPVP", "image/webp"),
    SIGNATURE("\x89PNG\x0d\x0a\x1a\x0a", "image/png"),
    SIGNATURE("\xff\xd8\xff", "image/jpeg"),
    SIGNATURE("FORM????AIFF", "audio/aiff"),
    SIGNATURE("ID3", "audio/mpeg"),
    SIGNATURE("OggS\x00", "application/ogg"),
    SIGNATURE("MThd\x00\x00\x00\x06", "audio/midi"),
    SIGNATURE("RIFF????AVI ", "video/avi"),
    SIGNATURE("RIFF????WAVE", "audio/wave"),
    SIGNATURE("\x1a\x45\xdf\xa3", "video/webm"),
};
static const signature late_signatures[] = {
    SIGNATURE("\x00\x01\x00\x00", "font/ttf"),
    SIGNATURE("OTTO", "font/otf"),
    SIGNATURE("ttcf", "font/collection"),
    SIGNATURE("wOFF", "font/woff"),
    SIGNATURE("wOF2", "font/woff2"),
    SIGNATURE("\x1f\x8b\x08", "application/x-gzip"),
    SIGNATURE("PK\x03\x04", "application/zip"),
    SIGNATURE("Rar!\x1a\x07\x00", "application/x-rar-compressed"),
    SIGNATURE("Rar!\x1a\x07\x01\x00", "application/x-rar-compressed"),
    SIGNATURE("\x00\x61\x73\x6d", "application/wasm"),
};

static const char *
match(const signature *s, size_t ns, const char *data, size_t n)
{
    for (; ns != 0; s++, ns--) {
        size_t i = 0;
        if (n < s->len)
            continue;
        while (i < s->len && (s->text[i] == data[i] || s->text[i] == '?'))
            i++;
        if (i == s->len)
            return s->type;
    }
    return NULL;
}

static bool
is_mp4(const char *data, size_t n)
{
    const unsigned char *d = (const unsigned char *)data;
    if (n < 12 || memcmp(data + 4, "ftyp", 4) != 0)
        return false;
    size_t box = (size_t)d[0] << 24 | (size_t)d[1] << 16 | (size_t)d[2] << 8 | d[3];
    if (n < box || box % 4 != 0)
        return false;
    for (size_t brand = 8; brand + 3 <= box; brand += 4)
        if (brand != 12 && memcmp(data + brand, "mp4", 3) == 0)     /* 12: the version */
            return true;
    return false;
}

/* The first bytes of all signatures and of tags, 0 of an MP4's length, and space. */
static bool
may_begin(unsigned char first)
{
    switch (first) {
    case '<': case '%': case 0xfe: case 0xff: case 0xef: case 0: case 'B': case 'G': case 'R':
    case 0x89: case 'F': case 'I': case 'O': case 'M': case 0x1a: case 't': case 'w': case 0x1f:
    case 'P': case ' ': case '\t': case '\n': case '\f': case '\r':
        return true;
    default:
        return false;
    }
}

/* Is there a byte that no text has? */
static bool
has_binary(const unsigned char *d, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (d[i] < 0x20 && !is_space(d[i]) && d[i] != 0x1b)
            return true;
    return false;
}

static bool
is_binary(const char *data, size_t n)
{
    const unsigned char *d = (const unsigned char *)data;
    if (n < 8)
        return has_binary(d, n);
    for (size_t i = 0;; i += 8) {
        if (i + 8 > n)
            i = n - 8;          /* the last eight again */
        uint64_t x;
        memcpy(&x, d + i, 8);
        /* Most hold nothing below 32 (the top bit tells, of bytes below 128). */
        if (RT_UNLIKELY(((x - 0x2020202020202020u) & ~x & 0x8080808080808080u) != 0)
            && has_binary(d + i, 8))
            return true;
        if (i + 8 == n)
            return false;
    }
}

/* What has a signature, or else is text or not. */
static RT_NOINLINE const char *
sniff_slow(const char *data, size_t n)
{
    size_t space = 0;
    while (space < n && is_space((unsigned char)data[space]))
        space++;
    if (space == n)
        return rt_http1_text;
    /* Only tags and XML may come after space. */
    if (data[space] == '<') {
        if (is_html(data + space, n - space))
            return "text/html; charset=utf-8";
        if (n - space >= 5 && memcmp(data + space, "<?xml", 5) == 0)
            return "text/xml; charset=utf-8";
    }
    const char *type = match(signatures, RT_ARRAY_LEN(signatures), data, n);
    if (type != NULL)
        return type;
    if (is_mp4(data, n))
        return "video/mp4";
    if (n >= 36 && data[34] == 'L' && data[35] == 'P')
        return "application/vnd.ms-fontobject";
    type = match(late_signatures, RT_ARRAY_LEN(late_signatures), data, n);
    if (type != NULL)
        return type;
    return is_binary(data, n) ? octets : rt_http1_text;
}

const char *
rt_http1_sniff(const char *data, size_t n)
{
    if (n > RT_HTTP1_SNIFF_LEN)
        n = RT_HTTP1_SNIFF_LEN;
    if (n == 0)
        return rt_http1_text;
    if (RT_UNLIKELY(may_begin((unsigned char)data[0])
                    || (n >= 36 && data[34] == 'L' && data[35] == 'P')))
        return sniff_slow(data, n);
    return is_binary(data, n) ? octets : rt_http1_text;
}
