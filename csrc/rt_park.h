/* rt_park.h - a one-token parker for an OS thread that is not an M.
 *
 * unpark() leaves a token, park() waits for one and takes it; several unpark()
 * calls before a park() count as one.
 */
#ifndef RT_PARK_H
#define RT_PARK_H

#include <pthread.h>

#include "rt_base.h"

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;        /* on the monotonic clock */
    bool token;                 /* guarded by lock */
} rt_parker;

int rt_parker_init(rt_parker *pk);
void rt_parker_fini(rt_parker *pk);
/* Wait until a token is there or the deadline (rt_nanotime clock, RT_FOREVER:
   none) has passed.  True if a token was taken.  Only one thread may wait. */
bool rt_parker_park(rt_parker *pk, int64_t deadline);
void rt_parker_unpark(rt_parker *pk);

#endif
