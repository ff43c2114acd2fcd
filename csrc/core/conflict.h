/* What to do after a conflict: numbers in, a decision out. No lock, no state. */
#ifndef THEUS_CONFLICT_H
#define THEUS_CONFLICT_H

#include <stdint.h>

/* How long to wait before try number failures + 1. Full jitter, U(0, min(cap, body * 2^failures)), because equal
 * waits keep colliding threads in step; scaled to the time that a body takes, because waits of milliseconds between
 * bodies of microseconds starve one of two threads. `random` is any 64 random bits. */
uint64_t theus_backoff_ns(uint64_t body_ns, uint32_t failures, uint64_t random);

#endif
