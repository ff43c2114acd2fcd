/* A thread that waits for its turn, asleep. In a header, because the schedules compile it with switch points. */
#ifndef THEUS_TESTS_NAP_H
#define THEUS_TESTS_NAP_H

#include "turn.h"

#include <pthread.h>

typedef struct {
    theus_waiter waiter;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool woken;
} nap;

static inline void
wake_nap(theus_waiter *waiter)
{
    nap *sleeper = (nap *)waiter;
    pthread_mutex_lock(&sleeper->lock);
    sleeper->woken = true;
    pthread_cond_signal(&sleeper->changed);
    pthread_mutex_unlock(&sleeper->lock);
}

#endif
