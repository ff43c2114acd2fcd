/* The measure of contention, and the memory of who fights. */
#include "turn_queue.h"

#include <string.h>

enum {
    WINDOW = 64,       /* attempts after which the ratio is looked at */
    QUEUE_ABOVE = 128, /* of 256 */
    CALM_TURNS = 32,   /* after so many that nobody needed the queue ends */
    SURE = 8,          /* level of a body that has just fought */
};
static const uint64_t TICKS_NS = 10000000; /* the coarse clock may be so wrong */

theus_status
theus_turn_queue_init(theus_turn_queue *queue, bool serial)
{
    memset(queue, 0, sizeof(*queue));
    return theus_mutex_init(&queue->lock, THEUS_RANK_TURNS, serial);
}

void
theus_turn_queue_fini(theus_turn_queue *queue)
{
    theus_mutex_fini(&queue->lock);
}

/* ---- bodies ------------------------------------------------------------------------- */

/* NULL: nobody knows it, or not any more. (One with hash 0 may be there from the start, at level 0.) */
static theus_known_body *
find(theus_known_body *table, int size, uint64_t hash)
{
    for (int i = 0; i < size; i++) {
        if (table[i].hash == hash) {
            return &table[i];
        }
    }
    return NULL;
}

/* One that nobody knows begins at this level, in the place of the most peaceful. */
static theus_known_body *
take(theus_known_body *table, int size, uint64_t hash, uint32_t level)
{
    theus_known_body *known = find(table, size, hash);
    if (known == NULL) {
        known = table;
        for (int i = 1; i < size; i++) {
            known = table[i].level < known->level ? &table[i] : known;
        }
        *known = (theus_known_body){.hash = hash, .level = level};
    }
    return known;
}

static theus_known_body *
take_exact(theus_turn_queue *queue, const theus_body *body, uint32_t level)
{
    return take(queue->exact, THEUS_EXACT_KNOWN, body->exact, level);
}

static theus_known_body *
take_kind(theus_turn_queue *queue, const theus_body *body)
{
    return take(queue->kinds, THEUS_KINDS_KNOWN, body->kind, 0);
}

static void
set_level(theus_known_body *known, uint32_t level, const theus_footprint *footprint)
{
    if (known->level == 0) {
        known->footprint = *footprint;
    }
    else {
        theus_footprint_add(&known->footprint, footprint);
    }
    known->level = level;
}

static void
forget_all_locked(theus_turn_queue *queue)
{
    memset(queue->past, 0, sizeof(queue->past));
    memset(queue->exact, 0, sizeof(queue->exact));
    memset(queue->kinds, 0, sizeof(queue->kinds));
}

/* ---- the queue ---------------------------------------------------------------------- */

static void
begin_locked(theus_turn_queue *queue)
{
    queue->calm = 0;
    queue->last_turn_ns = theus_clock_tick_ns();
    atomic_store_explicit(&queue->is_on, true, memory_order_relaxed);
}

static void
end_locked(theus_turn_queue *queue)
{
    queue->ratio = 0;
    forget_all_locked(queue);
    atomic_store_explicit(&queue->is_on, false, memory_order_relaxed);
}

bool
theus_turn_queue_asks_for(theus_turn_queue *queue, const theus_body *body, bool empty, theus_footprint *footprint,
                     uint64_t *body_ns)
{
    theus_mutex_lock(&queue->lock);
    if (empty && theus_clock_tick_ns() - queue->last_turn_ns > CALM_TURNS * queue->body_ns + TICKS_NS) {
        end_locked(queue);
    }
    const theus_known_body *known = find(queue->exact, THEUS_EXACT_KNOWN, body->exact);
    if (known == NULL) {
        known = find(queue->kinds, THEUS_KINDS_KNOWN, body->kind);
    }
    bool asks = known != NULL && known->level > 0;
    if (asks) {
        *footprint = known->footprint;
        *body_ns = queue->body_ns;
    }
    theus_mutex_unlock(&queue->lock);
    return asks;
}

/* Of all attempts, how many fail? Commits of this engine are counted by its versions. */
static void
measure_locked(theus_turn_queue *queue, uint64_t version, uint64_t body_ns)
{
    queue->body_ns = queue->body_ns == 0 ? body_ns : (queue->body_ns * 7 + body_ns) / 8;
    queue->window_failures++;
    uint64_t commits = version > queue->window_version ? version - queue->window_version : 0;
    if (commits + queue->window_failures < WINDOW) {
        return;
    }
    uint64_t ratio = (uint64_t)queue->window_failures * 256 / (commits + queue->window_failures);
    queue->ratio = (queue->ratio + (uint32_t)ratio) / 2;
    if (queue->ratio > QUEUE_ABOVE && queue->body_ns >= THEUS_HAND_ON_NS) {
        begin_locked(queue);
    }
    else if (!theus_turn_queue_is_on(queue)) {
        forget_all_locked(queue); /* who fought in this window need not in the next */
    }
    queue->window_failures = 0;
    queue->window_version = version;
}

void
theus_turn_queue_note_failure(theus_turn_queue *queue, const theus_body *body, const theus_footprint *footprint,
                         uint64_t version, uint64_t body_ns)
{
    theus_mutex_lock(&queue->lock);
    measure_locked(queue, version, body_ns);
    set_level(take_exact(queue, body, 0), SURE, footprint);
    set_level(take_kind(queue, body), SURE, footprint);
    theus_mutex_unlock(&queue->lock);
}

typedef enum { ALONE, APART, MET } company;

static company
company_locked(const theus_turn_queue *queue, const theus_past_turn *turn)
{
    company result = ALONE;
    for (int i = 0; i < THEUS_TURNS_KEPT && result != MET; i++) {
        const theus_past_turn *other = &queue->past[i];
        if (other->youngest >= turn->ticket && turn->youngest >= other->ticket) {
            result = theus_footprints_meet(&other->done, &turn->done) ? MET : APART;
        }
    }
    return result;
}

static void
learn(theus_known_body *known, company company, const theus_footprint *done)
{
    if (company == APART || known->level == 0) {
        known->level = 0;
    }
    else {
        set_level(known, known->level - 1, done);
    }
    if (company == MET) {
        set_level(known, SURE, done);
    }
}

void
theus_turn_queue_note_turn(theus_turn_queue *queue, const theus_body *body, const theus_past_turn *turn)
{
    theus_mutex_lock(&queue->lock);
    company company = company_locked(queue, turn);
    theus_known_body *kind = take_kind(queue, body);
    theus_known_body *exact = take_exact(queue, body, kind->level); /* a new one took its turn because of its kind */
    learn(exact, company, &turn->done);
    learn(kind, company, &turn->done);
    queue->past[queue->turns++ % THEUS_TURNS_KEPT] = *turn;
    queue->last_turn_ns = theus_clock_tick_ns();
    queue->calm = company == MET ? 0 : queue->calm + 1;
    if (queue->calm >= CALM_TURNS && theus_turn_queue_is_on(queue)) {
        end_locked(queue);
    }
    theus_mutex_unlock(&queue->lock);
}
