/* rt_park.c - see rt_park.h.  A condition variable rather than a futex: it is the
 * slow path of threads that Python made, and it is portable.
 */
#include "rt_park.h"

#include <errno.h>

int
rt_parker_init(rt_parker *pk)
{
    pthread_condattr_t attr;
    pk->token = false;
    int err = pthread_mutex_init(&pk->lock, NULL);
    if (err)
        return -err;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    err = pthread_cond_init(&pk->cond, &attr);
    pthread_condattr_destroy(&attr);
    if (err)
        pthread_mutex_destroy(&pk->lock);
    return -err;
}

void
rt_parker_fini(rt_parker *pk)
{
    pthread_cond_destroy(&pk->cond);
    pthread_mutex_destroy(&pk->lock);
}

bool
rt_parker_park(rt_parker *pk, int64_t deadline)
{
    struct timespec ts = {deadline / 1000000000, deadline % 1000000000};
    pthread_mutex_lock(&pk->lock);
    while (!pk->token) {
        if (deadline == RT_FOREVER)
            pthread_cond_wait(&pk->cond, &pk->lock);
        else if (pthread_cond_timedwait(&pk->cond, &pk->lock, &ts) == ETIMEDOUT)
            break;
    }
    bool got = pk->token;
    pk->token = false;
    pthread_mutex_unlock(&pk->lock);
    return got;
}

void
rt_parker_unpark(rt_parker *pk)
{
    pthread_mutex_lock(&pk->lock);
    pk->token = true;
    pthread_cond_signal(&pk->cond);
    pthread_mutex_unlock(&pk->lock);
}
