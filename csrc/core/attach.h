/* What a commit carries beside its writes: signals, messages, notes.
 *
 *     txn->attached[kind]      name, value, name, value, ...    a list; the body adds a pair at a time
 *          | commit: sealed, and counted by
 *     record->attached[kind]                                    immutable from here on
 *          | publish: a record that has messages is put in
 *     the store's queue        record of 5 --> record of 9 --> record of 12
 *
 * The core only keeps them, and knows three things: signals and messages make a version even if nothing was
 * written; the last value of each signal is the topic's in version->signals; messages must not be lost, so their
 * record is counted by the queue until whoever takes it says that he has it.
 *
 * What is attached shares the fate of the writes. A savepoint that is rolled back takes its own along; an attempt that
 * fails or conflicts leaves none, because only theus_store_publish() puts a record in the queue, under store.lock and
 * after the swap. So the queue is in version order, and each message is in it once.
 *
 * In a forked child the queue is empty: what was waiting is the parent's to hand over. */
#ifndef THEUS_ATTACH_H
#define THEUS_ATTACH_H

#include "container.h"

typedef enum {
    THEUS_SIGNALS,
    THEUS_MESSAGES,
    THEUS_NOTES,
    THEUS_ATTACHMENTS /* how many kinds there are */
} theus_attachment;

typedef struct theus_record theus_record;

void theus_attached_share(theus_container *const from[], theus_container *to[]);
void theus_attached_drop(theus_container *attached[]);

/* Is anything attached? Mostly not, so all that follows is asked only then. */
static inline bool
theus_is_attached(theus_container *const attached[])
{
    uintptr_t any = 0;
    for (int kind = 0; kind < THEUS_ATTACHMENTS; kind++) {
        any |= (uintptr_t)attached[kind];
    }
    return any != 0;
}

/* Seals what stands in `from` and counts it once more in `to`, which is empty. */
static inline void
theus_attach_all(theus_container *const from[], theus_container *to[])
{
    if (theus_is_attached(from)) {
        theus_attached_share(from, to);
    }
}

/* Lets all of it go. May run foreign code. */
static inline void
theus_detach(theus_container *attached[])
{
    if (theus_is_attached(attached)) {
        theus_attached_drop(attached);
    }
}

/* Guarded by store.lock. */
typedef struct {
    theus_record *first, *last; /* counted; linked by next_queued, versions rising */
    uint64_t epoch;             /* theus_process_epoch() of those who put them in */
} theus_queue;

/* What a parent process has left, taken out: for theus_queue_free() after the unlock. NULL: nothing. Before any other
 * operation. */
theus_record *theus_queue_disown_locked(theus_queue *queue);
/* Takes a count of `record`, which nobody else has seen yet. */
void theus_queue_push_locked(theus_queue *queue, theus_record *record);
/* Takes out those up to a version: a chain for theus_queue_free(). */
theus_record *theus_queue_pop_locked(theus_queue *queue, uint64_t upto);
void theus_queue_free(theus_record *chain); /* NULL allowed; may run foreign code */

#endif
