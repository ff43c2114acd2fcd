/* The line of tickets, and those who wait for their turn in it. */
#include "turn.h"

#include <assert.h>
#include <string.h>

/* ---- the lock ---------------------------------------------------------------------- */

/* The tickets and waiters of a parent process belong to threads that are not in this one. The thread that forked may
 * still own some: number 0 tells it that a ticket has left the line, `epoch` that a waiter has. (Other waiters lie on the
 * stacks of threads that are gone, and are not even looked at.) */
static void
forget_parent_locked(theus_turns *turns)
{
    for (theus_ticket *it = turns->oldest; it != NULL; it = it->next) {
        it->number = 0;
    }
    turns->oldest = turns->youngest = NULL;
    turns->first = turns->last = NULL;
    turns->waiting = 0;
    turns->epoch = theus_process_epoch();
    atomic_store_explicit(&turns->held, 0, memory_order_relaxed);
}

static void
turns_lock(theus_turns *turns)
{
    theus_mutex_lock(&turns->lock);
    if (turns->epoch != theus_process_epoch()) {
        forget_parent_locked(turns);
    }
}

/* Wakes those that have been taken out of the list of waiters. */
static void
turns_unlock(theus_turns *turns, theus_waiter *woken)
{
    theus_mutex_unlock(&turns->lock);
    while (woken != NULL) {
        theus_waiter *next = woken->next; /* it may be gone the moment it is woken */
        woken->wake(woken);
        woken = next;
    }
}

theus_status
theus_turns_init(theus_turns *turns, bool serial)
{
    memset(turns, 0, sizeof(*turns));
    turns->epoch = theus_process_epoch();
    theus_status status = theus_turn_queue_init(&turns->queue, serial);
    if (status == THEUS_OK) {
        status = theus_mutex_init(&turns->lock, THEUS_RANK_TURNS, serial);
        if (status != THEUS_OK) {
            theus_turn_queue_fini(&turns->queue);
        }
    }
    return status;
}

void
theus_turns_fini(theus_turns *turns)
{
    theus_mutex_fini(&turns->lock);
    theus_turn_queue_fini(&turns->queue);
}

/* ---- the two lists ------------------------------------------------------------------ */

static void
line_add_locked(theus_turns *turns, theus_ticket *ticket)
{
    ticket->next = NULL;
    ticket->previous = turns->youngest;
    *(ticket->previous != NULL ? &ticket->previous->next : &turns->oldest) = ticket;
    turns->youngest = ticket;
    atomic_fetch_add_explicit(&turns->held, 1, memory_order_relaxed);
}

static void
line_remove_locked(theus_turns *turns, theus_ticket *ticket)
{
    *(ticket->previous != NULL ? &ticket->previous->next : &turns->oldest) = ticket->next;
    *(ticket->next != NULL ? &ticket->next->previous : &turns->youngest) = ticket->previous;
    ticket->youngest = turns->numbers;
    ticket->number = 0;
    atomic_fetch_sub_explicit(&turns->held, 1, memory_order_relaxed);
}

/* In order; those without a ticket (order UINT64_MAX) stand last, in the order they came. */
static void
waiters_add_locked(theus_turns *turns, theus_waiter *waiter)
{
    theus_waiter *before = turns->last;
    while (before != NULL && before->order > waiter->order) {
        before = before->previous;
    }
    waiter->previous = before;
    waiter->next = before != NULL ? before->next : turns->first;
    *(before != NULL ? &before->next : &turns->first) = waiter;
    *(waiter->next != NULL ? &waiter->next->previous : &turns->last) = waiter;
    waiter->state = THEUS_WAITER_IN;
    waiter->epoch = turns->epoch;
    turns->waiting++;
}

static void
waiters_remove_locked(theus_turns *turns, theus_waiter *waiter)
{
    *(waiter->previous != NULL ? &waiter->previous->next : &turns->first) = waiter->next;
    *(waiter->next != NULL ? &waiter->next->previous : &turns->last) = waiter->previous;
    waiter->state = THEUS_WAITER_OUT;
    turns->waiting--;
}

static uint32_t
count_come_locked(const theus_turns *turns)
{
    uint32_t come = 0;
    for (const theus_ticket *it = turns->oldest; it != NULL; it = it->next) {
        come += it->expires_ns != 0;
    }
    return come;
}

/* Each turn that can come comes, and its lease begins: nothing older is in its way, and few others have come. */
static void
let_come_locked(theus_turns *turns, uint64_t now_ns)
{
    theus_footprint older = {0};
    uint32_t come = count_come_locked(turns);
    for (theus_ticket *it = turns->oldest; it != NULL; it = it->next) {
        if (it->expires_ns == 0 && come < THEUS_TURNS_AT_ONCE && !theus_footprints_meet(&older, &it->footprint)) {
            it->expires_ns = now_ns + it->lease_ns;
            come++;
        }
        theus_footprint_add(&older, &it->footprint);
    }
}

/* Takes the waiters out whose way is free: *woken. `gone`: what has just stopped being reserved, or NULL; those at the
 * gate without a ticket look again when it had held them up, though another one may hold them up next: that is how they
 * come to count it. */
static void
settle_locked(theus_turns *turns, uint64_t now_ns, const theus_footprint *gone, theus_waiter **woken)
{
    theus_footprint begun = {0}; /* tickets older than the waiter */
    theus_ticket *ticket = turns->oldest;
    let_come_locked(turns, now_ns);
    for (theus_waiter *waiter = turns->first, *next; waiter != NULL; waiter = next) {
        next = waiter->next;
        for (; ticket != NULL && ticket->number < waiter->order; ticket = ticket->next) {
            if (ticket->begun) {
                theus_footprint_add(&begun, &ticket->footprint);
            }
        }
        bool is_free;
        if (waiter->gate) {
            is_free = !theus_footprints_meet(&begun, &waiter->footprint)
                      || (gone != NULL && waiter->order == UINT64_MAX
                          && theus_footprints_meet(gone, &waiter->footprint));
        }
        else {
            is_free = ticket != NULL && ticket->number == waiter->order && ticket->expires_ns != 0;
        }
        if (is_free) {
            waiters_remove_locked(turns, waiter);
            waiter->state = THEUS_WAITER_WOKEN;
            while (*woken != NULL) { /* they are few, and the first to come should be the first to go */
                woken = &(*woken)->next;
            }
            waiter->next = NULL;
            *woken = waiter;
        }
    }
}

static theus_ticket *
find_locked(theus_turns *turns, uint64_t number)
{
    theus_ticket *ticket = turns->youngest;
    while (ticket != NULL && ticket->number > number) {
        ticket = ticket->previous;
    }
    return ticket != NULL && ticket->number == number ? ticket : NULL;
}

/* Is no older attempt with a ticket under way that relies on what is to be changed? */
static bool
passes_locked(const theus_turns *turns, uint64_t order, const theus_footprint *footprint)
{
    for (const theus_ticket *it = turns->oldest; it != NULL && it->number < order; it = it->next) {
        if (it->begun && theus_footprints_meet(&it->footprint, footprint)) {
            return false;
        }
    }
    return true;
}

/* Takes the tickets below `order` out whose lease is over; one that is not in the way itself may be in the way of one
 * that is. */
static void
evict_locked(theus_turns *turns, uint64_t order, uint64_t now_ns, theus_waiter **woken)
{
    for (theus_ticket *it = turns->oldest, *next; it != NULL && it->number < order; it = next) {
        next = it->next;
        if (it->expires_ns != 0 && it->expires_ns < now_ns) {
            line_remove_locked(turns, it); /* its owner frees it */
            atomic_fetch_add_explicit(&turns->leases_expired, 1, memory_order_relaxed);
            settle_locked(turns, now_ns, &it->footprint, woken);
        }
    }
}

/* Leases that are over are looked for only by those whom they hold up. */
static bool
gate_opens_locked(theus_turns *turns, uint64_t order, const theus_footprint *footprint, uint64_t now_ns,
                  theus_waiter **woken)
{
    if (passes_locked(turns, order, footprint)) {
        return true;
    }
    evict_locked(turns, order, now_ns, woken);
    return passes_locked(turns, order, footprint);
}

static bool
turn_comes_locked(theus_turns *turns, const theus_ticket *own, uint64_t now_ns, theus_waiter **woken)
{
    if (own->expires_ns == 0) {
        evict_locked(turns, UINT64_MAX, now_ns, woken);
    }
    return own->expires_ns != 0;
}

/* ---- tickets -------------------------------------------------------------------------- */

theus_status
theus_ticket_new(theus_turns *turns, const theus_footprint *footprint, uint64_t lease_ns, uint64_t task_thread,
                 theus_ticket **out)
{
    theus_ticket *ticket = theus_alloc(sizeof(*ticket));
    if (ticket == NULL) {
        return THEUS_NOMEM;
    }
    theus_waiter *woken = NULL;
    *ticket = (theus_ticket){.lease_ns = lease_ns, .task_thread = task_thread, .footprint = *footprint};
    turns_lock(turns);
    ticket->number = ticket->taken = ++turns->numbers;
    line_add_locked(turns, ticket);
    settle_locked(turns, theus_clock_tick_ns(), NULL, &woken);
    turns_unlock(turns, woken);
    *out = ticket;
    return THEUS_OK;
}

void
theus_turns_begin(theus_turns *turns, uint64_t number)
{
    turns_lock(turns);
    theus_ticket *ticket = find_locked(turns, number);
    if (ticket != NULL && !ticket->begun) {
        ticket->begun = true;
        atomic_fetch_add_explicit(&turns->grants, 1, memory_order_release);
    }
    turns_unlock(turns, NULL);
}

bool
theus_turns_has(theus_turns *turns, uint64_t number)
{
    turns_lock(turns);
    bool there = find_locked(turns, number) != NULL;
    turns_unlock(turns, NULL);
    return there;
}

static void
line_leave_locked(theus_turns *turns, theus_ticket *ticket, theus_waiter **woken)
{
    line_remove_locked(turns, ticket);
    settle_locked(turns, theus_clock_tick_ns(), &ticket->footprint, woken);
}

void
theus_turns_drop(theus_turns *turns, uint64_t number)
{
    theus_waiter *woken = NULL;
    turns_lock(turns);
    theus_ticket *ticket = find_locked(turns, number);
    if (ticket != NULL) {
        line_leave_locked(turns, ticket, &woken);
    }
    turns_unlock(turns, woken);
}

void
theus_ticket_free(theus_turns *turns, theus_ticket *ticket)
{
    if (ticket == NULL) {
        return;
    }
    theus_waiter *woken = NULL;
    turns_lock(turns);
    if (ticket->number != 0) {
        line_leave_locked(turns, ticket, &woken);
    }
    turns_unlock(turns, woken);
    theus_free(ticket);
}

void
theus_ticket_fill(theus_turns *turns, theus_ticket *ticket)
{
    theus_waiter *woken = NULL;
    turns_lock(turns);
    if (ticket->number != 0) {
        theus_footprint_fill(&ticket->footprint);
        ticket->expires_ns = 0;
        ticket->begun = false;
        settle_locked(turns, theus_clock_tick_ns(), NULL, &woken);
    }
    turns_unlock(turns, woken);
}

/* ---- the gate ----------------------------------------------------------------------------- */

bool
theus_turns_pass(theus_turns *turns, uint64_t number, const theus_stripes *changes, bool *in_line)
{
    theus_footprint footprint = {.changes = *changes};
    theus_waiter *woken = NULL;
    turns_lock(turns);
    *in_line = find_locked(turns, number) != NULL;
    bool passes = gate_opens_locked(turns, *in_line ? number : UINT64_MAX, &footprint, theus_clock_tick_ns(), &woken);
    turns_unlock(turns, woken);
    return passes;
}

/* ---- waiting -------------------------------------------------------------------------------- */

/* Is one of those it would wait for, or that they wait for, a task of this thread? One walk back through the line is
 * enough: at the gate everybody waits for older attempts that have begun; for a turn, also for the turns that have come. */
static bool
waits_for_own_task_locked(theus_turns *turns, const theus_waiter *waiter, uint64_t thread)
{
    bool full = !waiter->gate && count_come_locked(turns) >= THEUS_TURNS_AT_ONCE;
    theus_footprint way = waiter->footprint;
    for (theus_ticket *it = turns->youngest; it != NULL; it = it->previous) {
        bool meets = it->number < waiter->order && theus_footprints_meet(&it->footprint, &way);
        if (waiter->gate ? meets && it->begun : meets || (full && it->expires_ns != 0)) {
            if (it->task_thread == thread) {
                return true;
            }
            theus_footprint_add(&way, &it->footprint);
        }
    }
    return false;
}

/* When the first lease ends: it may stand in the way, directly or not. */
static uint64_t
next_lease_locked(const theus_turns *turns)
{
    uint64_t first = UINT64_MAX;
    for (const theus_ticket *it = turns->oldest; it != NULL; it = it->next) {
        if (it->expires_ns != 0 && it->expires_ns < first) {
            first = it->expires_ns;
        }
    }
    return first;
}

theus_turn
theus_turns_wait(theus_turns *turns, theus_waiter *waiter, uint64_t number, bool gate,
                 const theus_footprint *footprint, uint64_t thread, uint64_t *until_ns)
{
    theus_turn turn = THEUS_TURN_AWAITED;
    theus_waiter *woken = NULL;
    uint64_t now_ns = theus_clock_tick_ns();
    waiter->state = THEUS_WAITER_OUT;
    waiter->next = waiter->previous = NULL;
    waiter->footprint = *footprint;
    if (gate) {
        memset(&waiter->footprint.relies, 0, sizeof(waiter->footprint.relies));
    }
    turns_lock(turns);
    theus_ticket *own = find_locked(turns, number);
    waiter->order = own != NULL ? number : UINT64_MAX;
    waiter->gate = gate;
    if (own != NULL && !gate) {
        waiter->footprint = own->footprint;
    }
    /* A holder whose lease has run out begins its attempt like anybody else. */
    if (gate         ? gate_opens_locked(turns, waiter->order, &waiter->footprint, now_ns, &woken)
        : own != NULL ? turn_comes_locked(turns, own, now_ns, &woken)
                      : true) {
        turn = THEUS_TURN_CAME;
    }
    else if (turns->closed) {
        turn = THEUS_TURN_CLOSED;
    }
    else if (thread != 0 && waits_for_own_task_locked(turns, waiter, thread)) {
        turn = THEUS_TURN_BLOCKED;
    }
    else {
        waiters_add_locked(turns, waiter);
        *until_ns = next_lease_locked(turns) + 1;
        atomic_fetch_add_explicit(&turns->waits, 1, memory_order_relaxed);
    }
    turns_unlock(turns, woken);
    return turn;
}

bool
theus_turns_has_come(theus_turns *turns, uint64_t number)
{
    turns_lock(turns);
    const theus_ticket *own = find_locked(turns, number);
    bool came = own == NULL || own->expires_ns != 0;
    turns_unlock(turns, NULL);
    return came;
}

bool
theus_turns_leave(theus_turns *turns, theus_waiter *waiter)
{
    turns_lock(turns);
    bool woken = waiter->state == THEUS_WAITER_WOKEN;
    if (waiter->state == THEUS_WAITER_IN && waiter->epoch == turns->epoch) {
        waiters_remove_locked(turns, waiter);
    }
    turns_unlock(turns, NULL);
    return !woken;
}

void
theus_turns_close(theus_turns *turns)
{
    turns_lock(turns);
    turns->closed = true;
    theus_waiter *woken = turns->first;
    for (theus_waiter *it = woken; it != NULL; it = it->next) {
        it->state = THEUS_WAITER_WOKEN;
    }
    turns->first = turns->last = NULL;
    turns->waiting = 0;
    turns_unlock(turns, woken);
}

/* ---- figures --------------------------------------------------------------------------------------- */

void
theus_turns_read_facts(theus_turns *turns, theus_turn_facts *out)
{
    turns_lock(turns);
    out->queue_depth = turns->waiting;
    out->tickets = turns->numbers;
    turns_unlock(turns, NULL);
    out->tickets_held = atomic_load_explicit(&turns->held, memory_order_relaxed);
    out->waits = atomic_load_explicit(&turns->waits, memory_order_relaxed);
    out->leases_expired = atomic_load_explicit(&turns->leases_expired, memory_order_relaxed);
    out->tries_max = atomic_load_explicit(&turns->tries_max, memory_order_relaxed);
    out->queueing = theus_turn_queue_is_on(&turns->queue);
    for (int i = 0; i < THEUS_TURN_TRIES; i++) {
        out->tries[i] = atomic_load_explicit(&turns->tries[i], memory_order_relaxed);
    }
}
