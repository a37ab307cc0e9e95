/* rt_perf.h - for the perf_*.c programs: time a loop, print ns per operation.
 *
 * The best of several rounds is printed: on a shared machine it is the figure
 * that can be compared between runs.
 */
#ifndef RT_PERF_H
#define RT_PERF_H

#include <stdio.h>

#include "rt_base.h"

enum { RT_PERF_ROUNDS = 7 };

/* Print the least time of `body`, which does `ops` operations. */
#define PERF(name, ops, body)                                              \
    do {                                                                   \
        int64_t best_ = INT64_MAX;                                         \
        for (int round_ = 0; round_ < RT_PERF_ROUNDS; round_++) {          \
            int64_t start_ = rt_nanotime();                                \
            body;                                                          \
            int64_t took_ = rt_nanotime() - start_;                        \
            if (took_ < best_)                                             \
                best_ = took_;                                             \
        }                                                                  \
        printf("%-52s %9.1f ns\n", (name), (double)best_ / (double)(ops)); \
        fflush(stdout);                                                    \
    } while (0)

#endif
