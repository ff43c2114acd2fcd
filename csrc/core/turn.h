/* Whose turn it is: tickets, for those whom optimism has failed, and the gate that honours them.
 *
 *     the line of one engine      7: relies on a.x      9: relies on b       12: everything
 *     (oldest first)              holds, its body runs  holds, beside 7      waits for 7 and 9
 *
 * A *chain* is one logical run across its attempts. Until it fails it costs nothing. A chain that has failed often enough
 * takes a *ticket*: a number, and the footprint that its attempts have shown so far (footprint.h). Before each further
 * attempt the holder waits until its turn comes: until no older ticket meets its own. From the moment its attempt begins, a
 * commit that would change what the ticket relies on waits at the gate, unless it is led by an older ticket. Whoever does
 * not meet a ticket does not notice it.
 *
 * Two things keep a few slow holders from stopping everybody else. A ticket holds nobody up before its attempt begins, since
 * a thread that has been woken may be long in coming. And only THEUS_TURNS_AT_ONCE turns may have come at a time: forty
 * tasks that think with a ticket in hand would hold up all that is ever written, and then each of those held up
 * takes a ticket as well. Two rather than one, because one slow holder would hold up all other lines: beside three threads with
 * bodies of 20 ms on one key, four with 1 ms on another got 78 runs a second where they get 800. (The soak does not tell the
 * two apart.)
 *
 * A ticket only schedules. Every holder validates like everybody else, so one that is lost costs a retry and never a wrong
 * version.
 *
 * How many attempts. Let k = THEUS_TURN_FAILURES. "Others" are all commits but those of runs that the holder's own body
 * starts, which pass on its ticket. While T holds a ticket and its lease lasts:
 *
 *   (1) A commit that comes after T has pinned, and changes what the ticket relies on, belongs to an older ticket.
 *       Its author looked at `grants` before it looked at the line, and theus_store_publish() compares `grants` again under
 *       store.lock. T's attempt began, which raised `grants`, before T pinned under the same lock. So either the commit
 *       stood before T pinned, and T has seen it, or it met the ticket at the gate.
 *   (2) If the footprint of T does not change, and those of the older tickets do not: T waited for each older one that it
 *       meets, so by (1) nothing can make it fail. At most k + 1 attempts.
 *   (3) Otherwise a failure with the ticket in hand makes T's ticket stand for everything. It then waits until it is
 *       the oldest of all, and by (1) the next attempt succeeds. At most k + 2 attempts, whatever anybody does.
 *
 * Nobody waits for ever. At the gate one waits for older tickets only, and a turn waits for older ones and for those that
 * have come, whose holders wait nowhere but at the gate: so no two wait for one another. Each ticket ends after at most
 * two attempts or with its lease. A ticketless one at the gate, who might see younger tickets pass for ever, takes a
 * ticket itself when it has been held up THEUS_TURN_FAILURES times. All of this supposes that bodies end within the lease:
 * THEUS_LEASE_NS, or a hundred times what the chain has measured if that is more. It begins when nothing older is in the way,
 * so also for a holder that does not come to take its turn. Who is held up by a ticket that has expired removes it.
 *
 * Whom a holder runs. Transactions that begin inside its transaction pass on its ticket. Code of the user that runs in its
 * thread when the transaction has ended (on_commit, the rest of a body that called commit() or rollback()) would meet the
 * ticket and wait for itself: so the ticket leaves the line before that (theus_turns_drop).
 *
 * The queue (turn_queue.h). When trying first is waste, those who are known to fight take a ticket before their first attempt, and
 * everybody takes one at the first failure. That moves the ticket to an earlier attempt and changes nothing in the proof: what
 * the ticket stands for at first is a guess, which (2) does not need to be right in and (3) does not use. So while the
 * queue lasts, who lines up needs at most 2 attempts, and who tries first at most 3.
 *
 * Locks: turns.lock (rank TURNS) guards the line. `grants` and `held` are read without it. wake() is called
 * after the unlock and may run foreign code. In a forked child the line is empty. */
#ifndef THEUS_TURN_H
#define THEUS_TURN_H

#include "turn_queue.h"

enum {
    THEUS_TURN_FAILURES = 5, /* k: failures, or times held up, after which a ticket is taken */
    THEUS_TURN_PASSED = 64,  /* or so many commits that came first: this body is long beside the others */
    THEUS_TURN_TRIES = 16,   /* buckets of the histogram; the last one holds all longer runs */
    THEUS_TURNS_AT_ONCE = 2, /* turns that may have come and not be over */
};
#define THEUS_LEASE_NS ((uint64_t)1000000000)

typedef struct theus_waiter theus_waiter;

typedef struct theus_ticket {
    struct theus_ticket *next;     /* younger */
    struct theus_ticket *previous;
    _Atomic(uint64_t) number; /* never used twice; 0 when it has left the line. Written under turns.lock */
    uint64_t taken;        /* its number, also afterwards */
    uint64_t youngest;     /* the youngest number when it left */
    uint64_t task_thread;  /* thread of the task that holds it; 0: held by a thread, which runs or waits by itself */
    uint64_t lease_ns;
    uint64_t expires_ns;   /* 0: its turn has not come */
    bool begun;            /* so has the attempt that it is for: from here on it counts at the gate */
    theus_footprint footprint;
} theus_ticket;

typedef struct {
    _Atomic(uint64_t) grants;  /* raised whenever an attempt with a ticket begins */
    _Atomic(uint32_t) held;    /* tickets in the line */
    theus_turn_queue queue;         /* with a lock of its own */
    bool closed;
    theus_mutex lock;          /* rank TURNS */
    /* guarded by lock: */
    theus_ticket *oldest, *youngest;
    theus_waiter *first, *last; /* by order */
    uint64_t numbers;          /* tickets given so far */
    uint64_t epoch;
    uint32_t waiting;
    /* figures */
    _Atomic(uint64_t) waits;
    _Atomic(uint64_t) leases_expired;
    _Atomic(uint64_t) tries[THEUS_TURN_TRIES]; /* [n]: runs that ended in attempt n + 1; [0] is not counted */
    _Atomic(uint32_t) tries_max;
} theus_turns;

/* Zeroes it. */
THEUS_MUST_CHECK theus_status theus_turns_init(theus_turns *turns, bool serial);
void theus_turns_fini(theus_turns *turns);
/* Wakes everybody; from now on nobody waits. */
void theus_turns_close(theus_turns *turns);

/* ---- the gate -------------------------------------------------------------------- */

/* Reads `grants`. False: no ticket is out, and who publishes with this number in hand passes. */
static inline bool
theus_turns_are_out(theus_turns *turns, uint64_t *grants)
{
    *grants = atomic_load_explicit(&turns->grants, memory_order_acquire);
    return atomic_load_explicit(&turns->held, memory_order_relaxed) != 0;
}

/* May a transaction that is led by ticket `number` (0: by none) make these changes now? *in_line: is that ticket, if there
 * was one, still in the line? */
bool theus_turns_pass(theus_turns *turns, uint64_t number, const theus_stripes *changes, bool *in_line);

/* ---- tickets --------------------------------------------------------------------- */

/* A ticket at the end of the line, which holds nobody up yet. */
THEUS_MUST_CHECK theus_status theus_ticket_new(theus_turns *turns, const theus_footprint *footprint, uint64_t lease_ns,
                                               uint64_t task_thread, theus_ticket **out);
/* Ticket `number` leaves the line, if it is still there: what its holder has left to do needs no turn. Wakes those who can
 * go on, so it may run foreign code. Its owner frees it later. */
void theus_turns_drop(theus_turns *turns, uint64_t number);
/* The attempt for which ticket `number` was taken begins: before it pins, or when it waits to commit already. */
void theus_turns_begin(theus_turns *turns, uint64_t number);
/* After a failure with the ticket in hand: it stands for everything from now on, and may have to wait again. May run foreign
 * code. */
void theus_ticket_fill(theus_turns *turns, theus_ticket *ticket);
/* Is ticket `number` in the line? */
bool theus_turns_has(theus_turns *turns, uint64_t number);
/* Leaves the line, wakes those who can go on, and frees it. NULL allowed. May run foreign code. */
void theus_ticket_free(theus_turns *turns, theus_ticket *ticket);

/* ---- waiting ----------------------------------------------------------------------- */

/* One who waits, in memory of its own, which must stay until it has been woken or has left. */
struct theus_waiter {
    void (*wake)(theus_waiter *waiter); /* called once, with no lock held; the last look at the waiter */
    theus_waiter *next, *previous;
    uint64_t epoch;            /* process in which it was put into the list */
    uint64_t order;            /* waits for tickets below this number */
    bool gate;                 /* waits to commit; else for its turn */
    theus_footprint footprint; /* of a commit at the gate: only the changes */
    enum { THEUS_WAITER_OUT, THEUS_WAITER_IN, THEUS_WAITER_WOKEN } state;
};

typedef enum {
    THEUS_TURN_CAME,   /* nothing is in the way */
    THEUS_TURN_AWAITED, /* wake() will be called; look again at *until_ns (theus_clock_tick_ns) in any case: a lease ends */
    THEUS_TURN_BLOCKED, /* the thread would wait for a task that only it can run */
    THEUS_TURN_CLOSED,
} theus_turn;

/* Waits for the turn of ticket `number`, or (gate) for a place to commit `footprint.changes`. `thread`: the calling thread
 * if it blocks, 0 if it is a task that waits. Sets *waiter up, wake excepted. */
THEUS_MUST_CHECK theus_turn theus_turns_wait(theus_turns *turns, theus_waiter *waiter, uint64_t number, bool gate,
                                             const theus_footprint *footprint, uint64_t thread, uint64_t *until_ns);
/* Would it find THEUS_TURN_CAME for its own turn? */
bool theus_turns_has_come(theus_turns *turns, uint64_t number);
/* Waits no longer. False: it has been woken, and wake() has run or is about to, in another thread. */
bool theus_turns_leave(theus_turns *turns, theus_waiter *waiter);

/* ---- figures ---------------------------------------------------------------------------- */

typedef struct {
    uint32_t queue_depth;    /* waiting now: for their turn, or at the gate */
    uint32_t tickets_held;
    uint64_t tickets;        /* given so far */
    uint64_t waits;
    uint64_t leases_expired;
    uint32_t tries_max;
    bool queueing;
    uint64_t tries[THEUS_TURN_TRIES];
} theus_turn_facts;

void theus_turns_read_facts(theus_turns *turns, theus_turn_facts *out);

#endif
