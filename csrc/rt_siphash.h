/* rt_siphash.h - SipHash (Aumasson and Bernstein, 2012): a short hash of bytes whose values
 * nobody can foresee, nor find two inputs with the same one, without its key.
 */
#ifndef RT_SIPHASH_H
#define RT_SIPHASH_H

#include <string.h>

#include "rt_base.h"

static inline uint64_t
rt_sip_rotl(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static inline void
rt_sip_rounds(uint64_t v[4], int n)
{
    while (n-- > 0) {
        v[0] += v[1], v[2] += v[3];
        v[1] = rt_sip_rotl(v[1], 13) ^ v[0], v[3] = rt_sip_rotl(v[3], 16) ^ v[2];
        v[0] = rt_sip_rotl(v[0], 32);
        v[2] += v[1], v[0] += v[3];
        v[1] = rt_sip_rotl(v[1], 17) ^ v[2], v[3] = rt_sip_rotl(v[3], 21) ^ v[0];
        v[2] = rt_sip_rotl(v[2], 32);
    }
}

/* Up to 8 bytes as a little-endian number. */
static inline uint64_t
rt_sip_load(const unsigned char *p, size_t n)
{
    uint64_t x = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(&x, p, n);
#else
    for (size_t i = 0; i < n; i++)
        x |= (uint64_t)p[i] << 8 * i;
#endif
    return x;
}

/* SipHash-c-d.  Of CPython and others: 1-3; of the paper: 2-4. */
static inline uint64_t
rt_siphash(const uint64_t key[2], const void *data, size_t n, int c, int d)
{
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
                     key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
    const unsigned char *p = data;
    uint64_t last = (uint64_t)n << 56;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word = rt_sip_load(p, 8);
        v[3] ^= word;
        rt_sip_rounds(v, c);
        v[0] ^= word;
    }
    if (n > 0)
        last |= rt_sip_load(p, n);
    v[3] ^= last;
    rt_sip_rounds(v, c);
    v[0] ^= last;
    v[2] ^= 0xff;
    rt_sip_rounds(v, d);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
