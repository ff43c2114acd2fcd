/* Versions, the history that keeps them, and the swap that publishes one. */
#include "store.h"

#include <assert.h>
#include <string.h>

#include "ring.h"

struct theus_store {
    theus_heap *heap;       /* constant; outlives the store */
    theus_ring ring;        /* has its own lock */
    _Atomic(theus_version *) spare; /* memory for the next version, or NULL */
    theus_turns turns;      /* has its own lock */
    theus_queue queue;      /* guarded by lock */
    theus_mutex lock;       /* rank STORE */
    /* guarded by lock: */
    _Atomic(theus_version *) current; /* == history[newest]; read without the lock by theus_store_is_current() */
    theus_version **history;  /* ring of `room` slots: newest, newest - 1, ... */
    uint32_t room;            /* power of two, >= limits.history_count */
    uint32_t newest;
    uint32_t kept;
    theus_store_limits limits;
    uint64_t wall_offset_ns;  /* wall clock minus monotonic clock, as of */
    uint64_t offset_tick_ns;  /* this tick */
    /* Not guarded, but here: whoever counts a commit has just published it, so these lines are his. In front they
     * would take the constants, which all read, from everybody's cache. */
    theus_counters counters;
};

/* ---- versions ------------------------------------------------------------ */

/* Like records (ring.c): in the steady state the memory goes round, and the allocator has no part in it. */
static theus_version *
spare_take(theus_store *store)
{
    return atomic_exchange_explicit(&store->spare, NULL, memory_order_acquire);
}

static void
spare_put(theus_store *store, theus_version *version)
{
    theus_free(atomic_exchange_explicit(&store->spare, version, memory_order_acq_rel));
}

theus_status
theus_version_new(theus_store *store, uint64_t number, theus_container *root,
                  theus_container *signals, theus_record *record, theus_version **out)
{
    theus_version *version = store == NULL ? NULL : spare_take(store);
    if (version == NULL) {
        version = theus_alloc(sizeof(*version));
    }
    if (version == NULL) {
        return THEUS_NOMEM;
    }
    atomic_init(&version->refs, 1);
    version->number = number;
    version->tick_ns = theus_clock_tick_ns();
    theus_container_retain(root);
    version->root = root;
    theus_container_retain(signals);
    version->signals = signals;
    if (record != NULL) {
        theus_record_retain_private(record);
    }
    version->record = record;
    *out = version;
    return THEUS_OK;
}

void
theus_version_retain(theus_version *version)
{
    atomic_fetch_add_explicit(&version->refs, 1, memory_order_relaxed);
}

/* Gives up a count; the memory goes to `store`, or back if that is NULL. */
static void
version_drop(theus_version *version, theus_store *store)
{
    if (version == NULL
        || atomic_fetch_sub_explicit(&version->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    theus_container *root = version->root;
    theus_container *signals = version->signals;
    theus_record *record = version->record;
    if (store != NULL) {
        spare_put(store, version);
    }
    else {
        theus_free(version);
    }
    theus_container_release(root);
    theus_container_release(signals);
    theus_record_release(record);
}

void
theus_version_release(theus_version *version)
{
    version_drop(version, NULL);
}

theus_find
theus_path_find(theus_container *root, void *ctx, const theus_segment *path, uint32_t length,
                theus_value *value)
{
    theus_value here = theus_value_of_container(root);
    for (uint32_t i = 0; i < length; i++) {
        if (theus_value_kind(here) == THEUS_ATOM) {
            return THEUS_ABSENT;
        }
        theus_container *container = theus_value_container(here);
        if (path[i].key == NULL) {
            if (container->kind != THEUS_LIST || path[i].index >= container->count) {
                return THEUS_ABSENT;
            }
            here = theus_container_value_at(container, path[i].index);
            continue;
        }
        if (container->kind == THEUS_LIST) {
            return THEUS_ABSENT;
        }
        uint64_t hash;
        if (theus_heap_ops(container->heap)->hash(ctx, path[i].key, &hash) < 0) {
            return THEUS_FIND_FAILED;
        }
        uint32_t pos;
        theus_find found = theus_container_find(container, ctx, hash, path[i].key, &pos, &here);
        if (found != THEUS_FOUND) {
            return found;
        }
    }
    *value = here;
    return THEUS_FOUND;
}

/* ---- life ------------------------------------------------------------------ */

static uint32_t
power_of_two(uint32_t wanted)
{
    uint32_t room = 1;
    while (room < wanted && room < (1u << 30)) {
        room <<= 1;
    }
    return room;
}

static theus_status
store_init_locks(theus_store *store, const theus_store_limits *limits)
{
    bool serial = theus_heap_ops(store->heap)->serial;
    theus_status status = theus_mutex_init(&store->lock, THEUS_RANK_STORE, serial);
    if (status != THEUS_OK) {
        return status;
    }
    status = theus_turns_init(&store->turns, serial);
    if (status == THEUS_OK) {
        status = theus_ring_init(&store->ring, power_of_two(limits->ring_capacity), limits->ring_mode, serial);
        if (status == THEUS_OK) {
            return THEUS_OK;
        }
        theus_turns_fini(&store->turns);
    }
    theus_mutex_fini(&store->lock);
    return status;
}

theus_status
theus_store_new(theus_heap *heap, theus_version *first, const theus_store_limits *limits,
                theus_store **out)
{
    theus_store *store = theus_alloc(sizeof(*store));
    if (store == NULL) {
        return THEUS_NOMEM;
    }
    memset(store, 0, sizeof(*store));
    store->heap = heap;
    store->limits = *limits;
    if (store->limits.history_count == 0) {
        store->limits.history_count = 1;
    }
    store->room = power_of_two(store->limits.history_count);
    store->history = theus_alloc(store->room * sizeof(*store->history));
    if (store->history == NULL || store_init_locks(store, limits) != THEUS_OK) {
        theus_free(store->history);
        theus_free(store);
        return THEUS_NOMEM;
    }
    theus_version_retain(first);
    atomic_init(&store->current, first);
    store->history[0] = first;
    store->kept = 1;
    store->queue.epoch = theus_process_epoch();
    store->offset_tick_ns = theus_clock_tick_ns();
    store->wall_offset_ns = theus_clock_wall_ns() - store->offset_tick_ns;
    *out = store;
    return THEUS_OK;
}

void
theus_store_free(theus_store *store)
{
    for (uint32_t i = 0; i < store->kept; i++) {
        theus_version_release(store->history[(store->newest - i) & (store->room - 1)]);
    }
    theus_queue_free(store->queue.first);
    theus_ring_fini(&store->ring);
    theus_free(spare_take(store));
    theus_turns_fini(&store->turns);
    theus_mutex_fini(&store->lock);
    theus_free(store->history);
    theus_free(store);
}

theus_heap *
theus_store_heap(theus_store *store)
{
    return store->heap;
}

theus_ring *
theus_store_ring(theus_store *store)
{
    return &store->ring;
}

theus_turns *
theus_store_turns(theus_store *store)
{
    return &store->turns;
}

theus_counters *
theus_store_counters(theus_store *store)
{
    return &store->counters;
}

/* ---- history ------------------------------------------------------------------ */

bool
theus_store_is_current(theus_store *store, const theus_version *version)
{
    return atomic_load_explicit(&store->current, memory_order_acquire) == version;
}

theus_version *
theus_store_pin(theus_store *store)
{
    theus_mutex_lock(&store->lock);
    theus_version *version = store->current;
    theus_version_retain(version);
    theus_mutex_unlock(&store->lock);
    return version;
}

static theus_version *
history_at_locked(theus_store *store, uint32_t age)
{
    assert(theus_mutex_is_mine(&store->lock) && age < store->kept);
    return store->history[(store->newest - age) & (store->room - 1)];
}

theus_status
theus_store_at(theus_store *store, uint64_t number, theus_version **out)
{
    theus_status status = THEUS_OK;
    theus_mutex_lock(&store->lock);
    uint64_t newest = store->current->number;
    if (number > newest) {
        status = THEUS_FUTURE;
    }
    else if (newest - number >= store->kept) {
        status = THEUS_GONE;
    }
    else {
        *out = history_at_locked(store, (uint32_t)(newest - number));
        theus_version_retain(*out);
    }
    theus_mutex_unlock(&store->lock);
    return status;
}

/* Does the oldest version break a limit once another one stands before it? */
static bool
oldest_is_over_locked(theus_store *store, uint64_t now_ns)
{
    if (store->kept <= 1) {
        return false;
    }
    if (store->kept > store->limits.history_count) {
        return true;
    }
    if (store->limits.history_age_ns != 0) {
        /* A version is superseded when its successor appears: it is that age that counts. */
        theus_version *successor = history_at_locked(store, store->kept - 2);
        return now_ns - successor->tick_ns > store->limits.history_age_ns;
    }
    return false;
}

/* Takes the oldest version out of the history; the caller releases it after the unlock. */
static theus_version *
history_pop_locked(theus_store *store)
{
    theus_version *oldest = history_at_locked(store, store->kept - 1);
    store->kept--;
    return oldest;
}

/* Byte limits need the heap's figures, which move only as versions are released: so this one
 * releases between looks. At least one version, the current, always stays. */
static void
prune(theus_store *store)
{
    for (;;) {
        theus_version *fallen = NULL;
        theus_heap_stats figures = {0};
        if (store->limits.history_bytes != 0) {
            theus_heap_read_stats(store->heap, &figures);
        }
        theus_mutex_lock(&store->lock);
        bool over = oldest_is_over_locked(store, theus_clock_tick_ns())
                    || (store->kept > 1 && store->limits.history_bytes != 0
                        && figures.bytes > store->limits.history_bytes);
        if (over) {
            fallen = history_pop_locked(store);
        }
        theus_mutex_unlock(&store->lock);
        if (fallen == NULL) {
            return;
        }
        theus_version_release(fallen);
    }
}

theus_status
theus_store_limit_history(theus_store *store, const theus_store_limits *limits)
{
    uint32_t count = limits->history_count == 0 ? 1 : limits->history_count;
    uint32_t room = power_of_two(count);
    theus_version **grown = theus_alloc(room * sizeof(*grown));
    if (grown == NULL) {
        return THEUS_NOMEM;
    }
    theus_mutex_lock(&store->lock);
    theus_version **old = grown;
    if (room > store->room) { /* never shrinks: then nothing can fall out here */
        for (uint32_t i = 0; i < store->kept; i++) {
            grown[(room - 1 - i)] = history_at_locked(store, i);
        }
        old = store->history;
        store->history = grown;
        store->room = room;
        store->newest = room - 1;
    }
    store->limits.history_count = count;
    store->limits.history_bytes = limits->history_bytes;
    store->limits.history_age_ns = limits->history_age_ns;
    theus_mutex_unlock(&store->lock);
    theus_free(old);
    prune(store);
    return THEUS_OK;
}

theus_status
theus_store_blame(theus_store *store, void *ctx, const theus_segment *path, uint32_t length,
                  uint64_t after, uint64_t upto, theus_version **out)
{
    theus_version *newer = NULL;
    theus_status status = THEUS_OK;
    *out = NULL;
    for (uint64_t number = upto;; number--) {
        theus_version *version;
        status = theus_store_at(store, number, &version);
        if (status != THEUS_OK) {
            status = status == THEUS_GONE ? THEUS_OK : status;
            break;
        }
        if (newer != NULL) {
            theus_value now = THEUS_NONE, before = THEUS_NONE;
            theus_find a = theus_path_find(newer->root, ctx, path, length, &now);
            theus_find b = a == THEUS_FIND_FAILED
                               ? a
                               : theus_path_find(version->root, ctx, path, length, &before);
            if (b == THEUS_FIND_FAILED) {
                theus_version_release(version);
                status = THEUS_FOREIGN;
                break;
            }
            if (a != b || now != before) {
                theus_version_release(version);
                *out = newer;
                return THEUS_OK;
            }
        }
        theus_version_release(newer);
        newer = version;
        if (number == 0 || number <= after) {
            break;
        }
    }
    theus_version_release(newer);
    return status;
}

/* ---- records ---------------------------------------------------------------------- */

/* Not memset: gcc makes a `rep stos` of it, whose start alone takes as long as the rest of theus_record_new(). */
static void
record_blank(theus_record *record)
{
    atomic_init(&record->refs, 1);
    record->rebased = false;
    record->version = record->sequence = record->time_ns = record->thread = 0;
    record->process = NULL;
    record->sets = record->deletes = record->reads = 0;
    record->path_count = record->segment_count = 0;
    record->next_queued = NULL;
    for (int i = 0; i < THEUS_ATTACHMENTS; i++) {
        record->attached[i] = NULL;
    }
    for (int i = 0; i < THEUS_RECORD_PATHS; i++) {
        record->depth[i] = 0;
    }
}

theus_status
theus_record_new(theus_store *store, void *const *atoms, uint32_t count, uint32_t segments,
                 theus_record **out)
{
    size_t size = sizeof(theus_record) + segments * sizeof(theus_segment);
    theus_record *spare = theus_ring_take_spare(&store->ring);
    theus_atoms *cells = spare == NULL ? NULL : spare->cells;
    if (cells != NULL && !theus_atoms_fit(cells, count, size)) {
        theus_atoms_free(store->heap, cells);
        cells = NULL;
    }
    if (cells == NULL && theus_atoms_alloc(store->heap, count, size, &cells) != THEUS_OK) {
        return THEUS_NOMEM;
    }
    theus_atoms_fill(store->heap, cells, atoms, count);
    theus_record *record = theus_atoms_extra(cells, count);
    record_blank(record);
    record->heap = store->heap;
    record->cells = cells;
    *out = record;
    return THEUS_OK;
}

/* ---- publishing ----------------------------------------------------------------- */

/* The wall clock at a tick of the monotonic one that a version has been given anyway: reading a clock costs more than all
 * else about a record. Looks again once a second, since people and daemons set the wall clock. */
static uint64_t
wall_at_locked(theus_store *store, uint64_t tick_ns)
{
    enum { SECOND_NS = 1000000000 };
    if (tick_ns - store->offset_tick_ns > SECOND_NS) { /* or the ticks of two threads crossed: as good a reason */
        store->offset_tick_ns = tick_ns;
        store->wall_offset_ns = theus_clock_wall_ns() - tick_ns;
    }
    return tick_ns + store->wall_offset_ns;
}

theus_swap
theus_store_publish(theus_store *store, theus_version *expected, theus_version *next, uint64_t grants)
{
    theus_version *fallen = NULL;
    theus_record *overwritten = NULL, *inherited = NULL;
    theus_swap result = THEUS_SWAP_LOST;

    theus_mutex_lock(&store->lock);
    if (store->current == expected
        && atomic_load_explicit(&store->turns.grants, memory_order_relaxed) == grants) {
        next->number = expected->number + 1;
        if (store->kept == store->room
            || (store->kept >= store->limits.history_count && store->kept > 0)) {
            fallen = history_pop_locked(store);
        }
        store->newest = (store->newest + 1) & (store->room - 1);
        store->history[store->newest] = next;
        store->kept++;
        theus_version_retain(next);
        atomic_store_explicit(&store->current, next, memory_order_release);
        if (next->record != NULL) {
            next->record->version = next->number;
            next->record->time_ns = wall_at_locked(store, next->tick_ns);
            if (next->record->attached[THEUS_MESSAGES] != NULL) { /* before others can have counts of it */
                inherited = theus_queue_disown_locked(&store->queue);
                theus_queue_push_locked(&store->queue, next->record);
            }
            overwritten = theus_ring_push(&store->ring, next->record);
        }
        result = THEUS_SWAPPED;
    }
    bool bounded = store->limits.history_age_ns != 0 || store->limits.history_bytes != 0;
    theus_mutex_unlock(&store->lock);

    version_drop(fallen, store);
    theus_ring_retire(&store->ring, overwritten);
    theus_queue_free(inherited);
    if (bounded && result == THEUS_SWAPPED) {
        prune(store);
    }
    return result;
}

theus_record *
theus_store_queued(theus_store *store)
{
    theus_mutex_lock(&store->lock);
    theus_record *inherited = theus_queue_disown_locked(&store->queue);
    theus_record *first = store->queue.first;
    if (first != NULL) {
        theus_record_retain(first);
    }
    theus_mutex_unlock(&store->lock);
    theus_queue_free(inherited);
    return first;
}

void
theus_store_unqueue(theus_store *store, uint64_t upto)
{
    theus_mutex_lock(&store->lock);
    theus_record *inherited = theus_queue_disown_locked(&store->queue);
    theus_record *taken = theus_queue_pop_locked(&store->queue, upto);
    theus_mutex_unlock(&store->lock);
    theus_queue_free(inherited);
    theus_queue_free(taken);
}

void
theus_store_read_facts(theus_store *store, theus_store_facts *out)
{
    theus_mutex_lock(&store->lock);
    out->version = store->current->number;
    out->oldest = store->current->number - (store->kept - 1);
    out->history_count = store->kept;
    theus_mutex_unlock(&store->lock);
}

theus_record *
theus_store_next_record(theus_store *store, uint64_t *sequence, uint64_t *lost)
{
    return theus_ring_next(&store->ring, sequence, lost);
}
