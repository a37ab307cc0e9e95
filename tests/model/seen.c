/* seen.c - the states found so far, the ways to them and the moves between them.
 *
 * A state is kept as its fingerprint, with the way that led there first; in full only
 * while it waits to be looked at.  They are looked at in the order they were found, so that way
 * is one of the shortest.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static struct {
    uint64_t *table;            /* fingerprints; 0: free */
    uint32_t *index;            /* their states */
    uint64_t size;              /* a power of two */
    uint32_t *from;
    uint8_t *move;
    uint8_t *is_end;
    uint32_t count, room;
    state *queue, *next;        /* the current wave; those one move further */
    uint32_t nqueue, at, nnext, next_room;
    uint32_t (*edges)[2];
    size_t nedges, edge_room;
} seen;

static uint64_t
fingerprint(const state *s)
{
    const uint8_t *p = (const uint8_t *)s;
    uint64_t h = UINT64_C(0x9e3779b97f4a7c15), word;
    for (size_t at = 0; at < sizeof(*s); at += sizeof(word)) {
        size_t n = sizeof(*s) - at < sizeof(word) ? sizeof(*s) - at : sizeof(word);
        word = 0;
        memcpy(&word, p + at, n);
        h = (h ^ word) * UINT64_C(0xff51afd7ed558ccd);
        h ^= h >> 29;
    }
    h *= UINT64_C(0xc4ceb9fe1a85ec53);
    h ^= h >> 32;
    return h != 0 ? h : 1;
}

static void *
grown(void *p, size_t n)
{
    p = realloc(p, n);
    if (p == NULL) {
        fprintf(stderr, "sched_model: out of memory\n");
        exit(2);
    }
    return p;
}

static void
table_grow(void)
{
    uint64_t old = seen.size, *table = seen.table;
    uint32_t *index = seen.index;
    seen.size = old ? old * 2 : 1 << 16;
    seen.table = calloc(seen.size, sizeof(*seen.table));
    seen.index = calloc(seen.size, sizeof(*seen.index));
    if (seen.table == NULL || seen.index == NULL)
        exit(2);
    for (uint64_t i = 0; i < old; i++) {
        if (table[i] == 0)
            continue;
        uint64_t at = table[i] & (seen.size - 1);
        while (seen.table[at] != 0)
            at = (at + 1) & (seen.size - 1);
        seen.table[at] = table[i];
        seen.index[at] = index[i];
    }
    free(table);
    free(index);
}

uint32_t
seen_add(const state *s, uint32_t from, uint8_t move)
{
    if (2 * (uint64_t)seen.count >= seen.size)
        table_grow();
    uint64_t h = fingerprint(s), at = h & (seen.size - 1);
    for (; seen.table[at] != 0; at = (at + 1) & (seen.size - 1))
        if (seen.table[at] == h)
            return seen.index[at];
    if (seen.count == seen.room) {
        seen.room = seen.room ? seen.room * 2 : 1 << 16;
        seen.from = grown(seen.from, seen.room * sizeof(*seen.from));
        seen.move = grown(seen.move, seen.room * sizeof(*seen.move));
        seen.is_end = grown(seen.is_end, seen.room * sizeof(*seen.is_end));
    }
    if (seen.nnext == seen.next_room) {
        seen.next_room = seen.next_room ? seen.next_room * 2 : 1 << 12;
        seen.next = grown(seen.next, seen.next_room * sizeof(*seen.next));
        seen.queue = grown(seen.queue, seen.next_room * sizeof(*seen.queue));
    }
    seen.table[at] = h;
    seen.index[at] = seen.count;
    seen.from[seen.count] = from;
    seen.move[seen.count] = move;
    seen.is_end[seen.count] = 0;
    seen.next[seen.nnext++] = *s;
    return seen.count++;
}

bool
seen_next(state *s)
{
    if (seen.at == seen.nqueue) {
        state *swap = seen.queue;
        seen.queue = seen.next;
        seen.next = swap;
        seen.nqueue = seen.nnext;
        seen.nnext = seen.at = 0;
        if (seen.nqueue == 0)
            return false;
    }
    *s = seen.queue[seen.at++];
    return true;
}

void
seen_add_edge(uint32_t from, uint32_t to)
{
    if (seen.nedges == seen.edge_room) {
        seen.edge_room = seen.edge_room ? seen.edge_room * 2 : 1 << 16;
        seen.edges = grown(seen.edges, seen.edge_room * sizeof(*seen.edges));
    }
    seen.edges[seen.nedges][0] = from;
    seen.edges[seen.nedges++][1] = to;
}

void
seen_set_end(uint32_t at)
{
    seen.is_end[at] = 1;
}

uint32_t
seen_count(void)
{
    return seen.count;
}

uint32_t
seen_way(uint32_t to, uint8_t *moves, uint32_t max)
{
    uint32_t n = 0;
    for (uint32_t at = to; at != 0 && n < max; at = seen.from[at])
        moves[n++] = seen.move[at];
    return n;
}

uint32_t
seen_trapped(void)
{
    uint32_t n = seen.count, top = 0;
    size_t *first = calloc((size_t)n + 2, sizeof(*first));
    uint32_t *preds = malloc((seen.nedges + 1) * sizeof(*preds));
    uint32_t *stack = malloc(((size_t)n + 1) * sizeof(*stack));
    uint8_t *good = calloc((size_t)n + 1, 1);
    if (first == NULL || preds == NULL || stack == NULL || good == NULL)
        exit(2);
    for (size_t e = 0; e < seen.nedges; e++)
        first[seen.edges[e][1] + 2]++;
    for (uint32_t i = 1; i <= n; i++)
        first[i + 1] += first[i];
    for (size_t e = 0; e < seen.nedges; e++)
        preds[first[seen.edges[e][1] + 1]++] = seen.edges[e][0];
    for (uint32_t i = 0; i < n; i++)
        if (seen.is_end[i])
            good[stack[top++] = i] = 1;
    while (top > 0) {
        uint32_t at = stack[--top];
        for (size_t e = first[at]; e < first[at + 1]; e++)
            if (!good[preds[e]])
                good[stack[top++] = preds[e]] = 1;
    }
    uint32_t bad = 0;
    while (bad < n && good[bad])
        bad++;
    free(first);
    free(preds);
    free(stack);
    free(good);
    return bad < n ? bad : 0;
}

void
seen_forget_all(void)
{
    free(seen.table);
    free(seen.index);
    free(seen.from);
    free(seen.move);
    free(seen.is_end);
    free(seen.queue);
    free(seen.next);
    free(seen.edges);
    memset(&seen, 0, sizeof(seen));
}
