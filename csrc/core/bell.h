/* A bell: those who wait until something happens, and the way to call them all.
 *
 *     who waits                            who makes it happen
 *     add(bell, me)                        does it, under the lock L that guards it
 *     look, under L: has it happened?      unlocks L
 *     no: sleep until called               awaited(bell)? take(bell), call each
 *     remove(bell, me)
 *
 * Nobody sleeps through it, although awaited() is one relaxed load. L orders the two looks: if the waiter looked first, its
 * add() comes before its unlock of L, so the other one, who locks L later, sees it; if the waiter came second, it finds that it
 * has happened. A call says only: look again. It may come from one who rings late for something that was seen long ago.
 * Whoever gets by without L (`serial`) has a lock around both threads that does as much.
 *
 * A listener is called once: take() removes it. It is a word of whoever embeds us, who keeps it alive. Calls are made by
 * the one who took it, with no lock held. A listener of another process (add() before a fork) is taken but marked: there is nobody
 * to be called in the child. */
#ifndef THEUS_BELL_H
#define THEUS_BELL_H

#include "port.h"

typedef struct theus_listener {
    struct theus_listener *next;
    void *who;
    uint64_t epoch; /* theus_process_epoch() when it was added */
} theus_listener;

typedef struct {
    _Atomic(uint32_t) waiting; /* listeners in the list; changes under lock */
    theus_mutex lock;          /* rank BELL */
    /* guarded by lock: */
    theus_listener *first;     /* the newest */
} theus_bell;

THEUS_MUST_CHECK theus_status theus_bell_init(theus_bell *bell, bool serial);
void theus_bell_fini(theus_bell *bell); /* nobody may be waiting */

static inline bool
theus_bell_awaited(theus_bell *bell)
{
    return atomic_load_explicit(&bell->waiting, memory_order_relaxed) != 0;
}

THEUS_MUST_CHECK theus_status theus_bell_add(theus_bell *bell, void *who);

/* Removes the newest listener for which same(arg, who) holds, a comparison that runs no foreign code. Returns its word, or NULL:
 * it was taken, and will be called or has been. */
void *theus_bell_remove(theus_bell *bell, bool (*same)(void *arg, void *who), void *arg);

/* All listeners, oldest first, now the caller's: to call, and to free one by one with theus_free(). */
theus_listener *theus_bell_take(theus_bell *bell);

static inline bool
theus_listener_is_here(const theus_listener *listener)
{
    return listener->epoch == theus_process_epoch();
}

/* For a cycle collector. Takes no lock: see csrc/README.md. */
int theus_bell_visit(theus_bell *bell, int (*visit)(void *who, void *arg), void *arg);

#endif
