/* rt_xxh64.h - XXH64, the hash of Yann Collet's xxHash (its specification, section "XXH64").
 *
 * Tells whether content has changed, fast; it withstands chance, not somebody who looks for
 * two contents with the same hash.
 */
#ifndef RT_XXH64_H
#define RT_XXH64_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define RT_XXH_1 0x9E3779B185EBCA87ull
#define RT_XXH_2 0xC2B2AE3D27D4EB4Full
#define RT_XXH_3 0x165667B19E3779F9ull
#define RT_XXH_4 0x85EBCA77C2B2AE63ull
#define RT_XXH_5 0x27D4EB2F165667C5ull

static inline uint64_t
rt_xxh_rotl(uint64_t x, int n)
{
    return (x << n) | (x >> (64 - n));
}

/* Little-endian, at any address. */
static inline uint64_t
rt_xxh_read(const unsigned char *p, int n)
{
    uint64_t x = 0;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(&x, p, (size_t)n);
#else
    for (int i = n - 1; i >= 0; i--)
        x = x << 8 | p[i];
#endif
    return x;
}

static inline uint64_t
rt_xxh_round(uint64_t acc, uint64_t lane)
{
    return rt_xxh_rotl(acc + lane * RT_XXH_2, 31) * RT_XXH_1;
}

static inline uint64_t
rt_xxh_merge(uint64_t h, uint64_t acc)
{
    return (h ^ rt_xxh_round(0, acc)) * RT_XXH_1 + RT_XXH_4;
}

/* With the seed 0. */
static inline uint64_t
rt_xxh64(const void *data, size_t n)
{
    const unsigned char *p = data, *end = p + n;
    uint64_t h = RT_XXH_5;
    if (n >= 32) {
        uint64_t a = RT_XXH_1 + RT_XXH_2, b = RT_XXH_2, c = 0, d = 0 - RT_XXH_1;
        for (; end - p >= 32; p += 32) {
            a = rt_xxh_round(a, rt_xxh_read(p, 8));
            b = rt_xxh_round(b, rt_xxh_read(p + 8, 8));
            c = rt_xxh_round(c, rt_xxh_read(p + 16, 8));
            d = rt_xxh_round(d, rt_xxh_read(p + 24, 8));
        }
        h = rt_xxh_rotl(a, 1) + rt_xxh_rotl(b, 7) + rt_xxh_rotl(c, 12) + rt_xxh_rotl(d, 18);
        h = rt_xxh_merge(rt_xxh_merge(rt_xxh_merge(rt_xxh_merge(h, a), b), c), d);
    }
    h += n;
    for (; end - p >= 8; p += 8)
        h = rt_xxh_rotl(h ^ rt_xxh_round(0, rt_xxh_read(p, 8)), 27) * RT_XXH_1 + RT_XXH_4;
    if (end - p >= 4) {
        h = rt_xxh_rotl(h ^ rt_xxh_read(p, 4) * RT_XXH_1, 23) * RT_XXH_2 + RT_XXH_3;
        p += 4;
    }
    for (; p < end; p++)
        h = rt_xxh_rotl(h ^ *p * RT_XXH_5, 11) * RT_XXH_1;
    h = (h ^ h >> 33) * RT_XXH_2;
    h = (h ^ h >> 29) * RT_XXH_3;
    return h ^ h >> 32;
}

#endif
