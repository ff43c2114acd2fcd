/* What the code under test calls instead of the system: switch.h puts the calls in, schedule.c answers them. */
#ifndef THEUS_SIM_POINTS_H
#define THEUS_SIM_POINTS_H

#include <pthread.h>
#include <stdbool.h>
#include <time.h>

void sim_point(const char *site); /* file:line: what the calling thread is about to do */
int sim_mutex_init(pthread_mutex_t *mutex);
int sim_mutex_fini(pthread_mutex_t *mutex);
int sim_mutex_lock(pthread_mutex_t *mutex, const char *site);
int sim_mutex_unlock(pthread_mutex_t *mutex, const char *site);
int sim_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until,
                  const char *site);
int sim_cond_signal(pthread_cond_t *cond, bool all, const char *site);
int sim_clock(struct timespec *now);
int sim_sleep(const struct timespec *wait, const char *site);
void sim_pause(void);
pthread_t sim_self(void);

#endif
