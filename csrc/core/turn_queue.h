/* The queue: when trying first is waste, and for whom.
 *
 * While more attempts of an engine fail than succeed, and bodies cost more than handing a turn on, there is a queue: a run
 * takes a ticket before its first attempt (chain.h), so bodies run one after the other, in the order of arrival, each in its
 * own thread or task. But only those run so that fight. What nobody fights for is not to wait for what others fight for, and
 * what a run will touch is not known before its body has run. So the queue guesses, from what runs of the same *body* did.
 *
 *     body     who is asked                              lines up with
 *     exact    the function with these arguments         the footprint that its fights have shown
 *     kind     the function with any (if exact is new)   the footprint that the fights of all of its kind have shown
 *     (new)    nobody: it tries first
 *
 * Of a body the queue keeps a *level*, and runs of it line up while that is above 0:
 *
 *     an attempt failed, or a turn met another one that was in line at the same time    SURE
 *     a turn had others beside it, and met none of them                                 0
 *     a turn was alone: perhaps the others are late                                     one less
 *
 * A guess only decides who takes a ticket and for what, and a ticket only schedules. Who should have lined up and has not
 * loses one attempt, and has a ticket for the next (theus_chain_failed). Who lined up in vain waited once, and tries first
 * from then on. A ticket for less than its body touches is made one for everything when its attempt fails. The tables are
 * small, and forget the most peaceful first.
 *
 * The queue ends when CALM_TURNS in a row met nobody, or when nobody has taken a turn for as long as so many would have
 * lasted. Then it forgets all bodies.
 *
 * Locks: queue.lock (rank TURNS, never together with turns.lock) guards all but `is_on`. */
#ifndef THEUS_TURN_QUEUE_H
#define THEUS_TURN_QUEUE_H

#include "footprint.h"
#include "port.h"

enum {
    THEUS_EXACT_KNOWN = 32, /* bodies that are remembered */
    THEUS_KINDS_KNOWN = 8,
    THEUS_TURNS_KEPT = 16,  /* with so many that were before it a turn is compared */
};
#define THEUS_HAND_ON_NS ((uint64_t)50000) /* what waking the next one costs, with a global interpreter lock */

/* What a run runs, as two hashes that its caller makes of it. Two bodies may share one. */
typedef struct {
    uint64_t kind;
    uint64_t exact;
} theus_body;

typedef struct {
    uint64_t hash;
    uint32_t level;
    theus_footprint footprint; /* if level is above 0 */
} theus_known_body;

/* One turn: the ticket that it was taken with, and the youngest when it left the line. Turns were in line together if
 * the younger one's ticket had been taken when the older one left. */
typedef struct {
    uint64_t ticket;
    uint64_t youngest;
    theus_footprint done;
} theus_past_turn;

typedef struct {
    _Atomic(bool) is_on;
    theus_mutex lock; /* rank TURNS */
    /* guarded by lock: */
    uint64_t body_ns; /* smoothed over failed attempts */
    uint64_t window_version;
    uint32_t window_failures;
    uint32_t ratio;   /* failed of all attempts, of 256, smoothed */
    uint32_t calm;    /* turns that nobody needed, without a break */
    uint32_t turns;   /* turns seen: the next one is kept at [turns % THEUS_TURNS_KEPT] */
    uint64_t last_turn_ns;
    theus_past_turn past[THEUS_TURNS_KEPT];
    theus_known_body exact[THEUS_EXACT_KNOWN], kinds[THEUS_KINDS_KNOWN];
} theus_turn_queue;

THEUS_MUST_CHECK theus_status theus_turn_queue_init(theus_turn_queue *queue, bool serial);
void theus_turn_queue_fini(theus_turn_queue *queue);

static inline bool
theus_turn_queue_is_on(theus_turn_queue *queue)
{
    return atomic_load_explicit(&queue->is_on, memory_order_relaxed);
}

/* While the queue is on: should a run of this body line up, and with which footprint? Then *body_ns is what bodies take. `empty`: nobody is in
 * line now. */
bool theus_turn_queue_asks_for(theus_turn_queue *queue, const theus_body *body, bool empty, theus_footprint *footprint,
                          uint64_t *body_ns);
/* An attempt failed, on a newest version of this number, after so much time. */
void theus_turn_queue_note_failure(theus_turn_queue *queue, const theus_body *body, const theus_footprint *footprint,
                              uint64_t version, uint64_t body_ns);
/* A turn that was taken while the queue is on is over, and committed this. */
void theus_turn_queue_note_turn(theus_turn_queue *queue, const theus_body *body, const theus_past_turn *turn);

#endif
