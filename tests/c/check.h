/* The whole test framework: CHECK() and an exit code.
 *
 * A test is one program. CHECK(condition) reports and goes on; a test that cannot go on uses
 * REQUIRE(), which ends it. main() ends with `return check_result();`: 0 passed, 1 failed. */
#ifndef THEUS_CHECK_H
#define THEUS_CHECK_H

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern _Atomic(int) check_failures; /* of the whole program, in fakes.c: the shared files check, too */

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            if (atomic_fetch_add(&check_failures, 1) >= 20) {                       \
                fprintf(stderr, "too many failures\n");                             \
                exit(1);                                                            \
            }                                                                       \
        }                                                                           \
    } while (0)

#define REQUIRE(condition)                                                            \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: required: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

/* For the walkers that answer NULL or what is broken. */
#define CHECK_SOUND(complaint)                                                          \
    do {                                                                                \
        const char *broken = (complaint);                                               \
        if (broken != NULL) {                                                           \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #complaint, broken); \
            exit(1);                                                                    \
        }                                                                               \
    } while (0)

static inline int
check_result(void)
{
    return atomic_load(&check_failures) == 0 ? 0 : 1;
}

/* A small generator, so that a failing run can be run again. */
static inline unsigned
check_random(unsigned long long *state, unsigned below)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (unsigned)((*state >> 33) % below);
}

#endif
