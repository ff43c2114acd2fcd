/* Compiled into every file of the core, before anything else (-include): each atomic operation,
 * each lock, each wait and each allocation becomes a switch point, where the scheduler of
 * schedule.h may let another thread go on. The files of the core themselves are not changed.
 *
 * What stands behind each name is replaced, not the name: <stdatomic.h> defines macros, which
 * are defined anew here, and the calls into pthreads, clocks and malloc lead to schedule.c. A
 * plain read or assignment of an _Atomic variable, without a macro, is no switch point; the
 * core writes those only where one thread owns the variable. */
#ifndef THEUS_SIM_SWITCH_H
#define THEUS_SIM_SWITCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* before the first header: port_shm.c calls what only Linux has */
#endif

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "points.h"

#define SIM_TEXT_(number) #number
#define SIM_TEXT(number) SIM_TEXT_(number)
#define SIM_SITE __FILE__ ":" SIM_TEXT(__LINE__)
#define SIM_HERE sim_point(SIM_SITE)

/* ---- atomics: sequentially consistent whatever they ask for, since one thread runs at a time  */

#undef atomic_load
#undef atomic_load_explicit
#undef atomic_store
#undef atomic_store_explicit
#undef atomic_exchange
#undef atomic_exchange_explicit
#undef atomic_fetch_add
#undef atomic_fetch_add_explicit
#undef atomic_fetch_sub
#undef atomic_fetch_sub_explicit
#undef atomic_fetch_or
#undef atomic_fetch_or_explicit
#undef atomic_fetch_and
#undef atomic_fetch_and_explicit
#undef atomic_compare_exchange_strong
#undef atomic_compare_exchange_strong_explicit
#undef atomic_compare_exchange_weak
#undef atomic_compare_exchange_weak_explicit

#define atomic_load(p) (SIM_HERE, __atomic_load_n((p), __ATOMIC_SEQ_CST))
#define atomic_load_explicit(p, order) ((void)(order), atomic_load(p))
#define atomic_store(p, value) (SIM_HERE, __atomic_store_n((p), (value), __ATOMIC_SEQ_CST))
#define atomic_store_explicit(p, value, order) ((void)(order), atomic_store(p, value))
#define atomic_exchange(p, value) (SIM_HERE, __atomic_exchange_n((p), (value), __ATOMIC_SEQ_CST))
#define atomic_exchange_explicit(p, value, order) ((void)(order), atomic_exchange(p, value))
#define atomic_fetch_add(p, value) (SIM_HERE, __atomic_fetch_add((p), (value), __ATOMIC_SEQ_CST))
#define atomic_fetch_add_explicit(p, value, order) ((void)(order), atomic_fetch_add(p, value))
#define atomic_fetch_sub(p, value) (SIM_HERE, __atomic_fetch_sub((p), (value), __ATOMIC_SEQ_CST))
#define atomic_fetch_sub_explicit(p, value, order) ((void)(order), atomic_fetch_sub(p, value))
#define atomic_fetch_or(p, value) (SIM_HERE, __atomic_fetch_or((p), (value), __ATOMIC_SEQ_CST))
#define atomic_fetch_or_explicit(p, value, order) ((void)(order), atomic_fetch_or(p, value))
#define atomic_fetch_and(p, value) (SIM_HERE, __atomic_fetch_and((p), (value), __ATOMIC_SEQ_CST))
#define atomic_fetch_and_explicit(p, value, order) ((void)(order), atomic_fetch_and(p, value))
#define atomic_compare_exchange_strong(p, expected, value) \
    (SIM_HERE,                                             \
     __atomic_compare_exchange_n((p), (expected), (value), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
#define atomic_compare_exchange_strong_explicit(p, expected, value, order, failed) \
    ((void)(order), (void)(failed), atomic_compare_exchange_strong(p, expected, value))
#define atomic_compare_exchange_weak(p, expected, value) \
    atomic_compare_exchange_strong(p, expected, value)
#define atomic_compare_exchange_weak_explicit(p, expected, value, order, failed) \
    atomic_compare_exchange_strong_explicit(p, expected, value, order, failed)

/* ---- what port_posix.c calls --------------------------------------------------------------- */

#define malloc(size) (SIM_HERE, malloc(size))
#define realloc(memory, size) (SIM_HERE, realloc(memory, size))

#define pthread_mutex_init(mutex, attributes) ((void)(attributes), sim_mutex_init(mutex))
#define pthread_mutex_destroy(mutex) sim_mutex_fini(mutex)
#define pthread_mutex_lock(mutex) sim_mutex_lock(mutex, SIM_SITE)
/* Tried as often as it takes: looking before sleeping is no other order of events. */
#define pthread_mutex_trylock(mutex) sim_mutex_lock(mutex, SIM_SITE)
#define pthread_mutex_unlock(mutex) sim_mutex_unlock(mutex, SIM_SITE)
#define pthread_cond_init(cond, attributes) ((void)(attributes), (void)(cond), 0)
#define pthread_cond_destroy(cond) ((void)(cond), 0)
#define pthread_cond_wait(cond, mutex) sim_cond_wait(cond, mutex, NULL, SIM_SITE)
#define pthread_cond_timedwait(cond, mutex, until) sim_cond_wait(cond, mutex, until, SIM_SITE)
#define pthread_cond_signal(cond) sim_cond_signal(cond, false, SIM_SITE)
#define pthread_cond_broadcast(cond) sim_cond_signal(cond, true, SIM_SITE)
#define pthread_self() sim_self()
#define clock_gettime(clock, now) ((void)(clock), sim_clock(now))
#define nanosleep(wait, rest) ((void)(rest), sim_sleep(wait, SIM_SITE))
#define sched_yield() sim_sleep(NULL, SIM_SITE)
/* A loop that looks at the clock comes to its end. */
#define __builtin_ia32_pause() sim_pause()

#endif
