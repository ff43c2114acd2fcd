/* A value as the core sees it: one word, opaque but for its low three bits.
 *
 *     ...xxxx000   an atom: a pointer that only the value ops understand
 *     ...xxxx001   a map        \
 *     ...xxxx010   a list        > a theus_container of the same heap
 *     ...xxxx011   a set        /
 *     0            no value
 *
 * The core counts containers itself; atoms are counted through the ops, because
 * they belong to whoever embeds the core (in the binding: PyObject *). */
#ifndef THEUS_VALUE_H
#define THEUS_VALUE_H

#include <stdbool.h>
#include <stdint.h>

#include "status.h"

typedef uintptr_t theus_value;

typedef enum {
    THEUS_ATOM = 0,
    THEUS_MAP = 1,
    THEUS_LIST = 2,
    THEUS_SET = 3,
} theus_kind;

#define THEUS_NONE ((theus_value)0)
#define THEUS_TAG_MASK ((uintptr_t)7)

struct theus_container;

static inline theus_kind
theus_value_kind(theus_value value)
{
    return (theus_kind)(value & THEUS_TAG_MASK);
}

static inline theus_value
theus_value_of_atom(const void *atom)
{
    return (theus_value)atom;
}

static inline void *
theus_value_atom(theus_value value)
{
    return (void *)value;
}

static inline struct theus_container *
theus_value_container(theus_value value)
{
    return (struct theus_container *)(value & ~THEUS_TAG_MASK);
}

/* What the embedder lends the core. `ctx` is passed through from the call that
 * needs it. retain may run under a core lock; the others never do. */
typedef struct {
    void (*retain)(void *atom);
    void (*release)(void *atom); /* may run foreign code that calls us again */
    int (*equal)(void *ctx, void *a, void *b);           /* 1, 0, -1 = failed */
    int (*hash)(void *ctx, void *atom, uint64_t *hash);  /* 0, -1 = failed */
    bool serial; /* promised: one thread at a time is inside the core (a global interpreter lock is held) */
} theus_value_ops;

#endif
