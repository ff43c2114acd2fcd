/* The one commit gate: validate, rebase, publish.
 *
 *     newest = current version
 *     newest is the pinned one?    fold the cells: their root is the candidate
 *     else                         every log still true on newest?  no: conflict
 *                                  replay the writes on newest: that is the candidate
 *     publish(newest -> candidate) lost?  somebody committed meanwhile: again
 *
 * Why this is strictly serializable. Commit order is version order. When T becomes version v, publish has just seen that
 * v - 1 is current, and every log of T is true of v - 1: each value it read is the same word there (a
 * word that T's pin keeps alive, so equal words are the same immutable value), each key it missed is missing, each
 * shape it relied on has the same token. So T run alone on v - 1 would read the same and write the same. A transaction
 * that wrote nothing stands right after the version it pinned. Both points lie between begin and end, so real time is
 * respected. Under SNAPSHOT only written places are compared: first committer wins, write skew is possible.
 *
 * Progress: publish is lost only to another commit, so somebody always gets through.
 *
 * Validation (validate.c) and building (candidate.c) run without a lock; key equality and hashing may run
 * foreign code, which is why publish compares again. */
#include "commit_run.h"
#include "ring.h"

#include <assert.h>
#include <string.h>

/* ---- the record -------------------------------------------------------------------------------- */

typedef struct {
    uint32_t sets, deletes, paths, segments;
    uint16_t depth[THEUS_RECORD_PATHS];
    theus_segment kept[THEUS_RECORD_PATHS * THEUS_PATH_ROOM];
} op_summary;

static int
summarise(void *arg, theus_op_kind kind, const theus_segment *path, uint32_t length)
{
    op_summary *summary = arg;
    if (kind == THEUS_OP_DELETE) {
        summary->deletes++;
    }
    else {
        summary->sets++;
    }
    if (summary->paths < THEUS_RECORD_PATHS) {
        theus_segment *kept = &summary->kept[summary->segments];
        for (uint32_t i = 0; i < length; i++) {
            kept[i] = path[i]; /* few: calling memcpy() takes longer, here and below */
        }
        summary->segments += length;
        summary->depth[summary->paths++] = (uint16_t)length;
    }
    return 0;
}

/* `summary` is large: the caller keeps it, uninitialised but for its counts. */
static theus_status
record_new(theus_txn *txn, op_summary *summary, theus_record **out)
{
    summary->sets = summary->deletes = summary->paths = summary->segments = 0;
    int stopped = theus_txn_operations(txn, summarise, summary);
    assert(stopped == 0); /* summarise never stops it */
    (void)stopped;
    void *keys[THEUS_RECORD_PATHS * THEUS_PATH_ROOM + 1];
    uint32_t count = 0;
    if (txn->process != NULL) {
        keys[count++] = txn->process;
    }
    for (uint32_t i = 0; i < summary->segments; i++) {
        if (summary->kept[i].key != NULL) {
            keys[count++] = summary->kept[i].key;
        }
    }
    theus_record *record;
    theus_status status
        = theus_record_new(txn->store, keys, count, summary->segments, &record);
    if (status != THEUS_OK) {
        return status;
    }
    record->thread = theus_thread_id();
    record->process = txn->process;
    record->sets = summary->sets;
    record->deletes = summary->deletes;
    for (theus_cell *cell = txn->root; cell != NULL; cell = cell->next) {
        theus_numbers_sort(&cell->reads); /* each once */
        record->reads += cell->reads.count;
    }
    record->path_count = summary->paths;
    record->segment_count = summary->segments;
    for (uint32_t i = 0; i < summary->paths; i++) {
        record->depth[i] = summary->depth[i];
    }
    for (uint32_t i = 0; i < summary->segments; i++) {
        record->segments[i] = summary->kept[i];
    }
    theus_attach_all(txn->attached, record->attached);
    *out = record;
    return THEUS_OK;
}

/* ---- the gate ------------------------------------------------------------------------------------ */

/* UNCHANGED: everything that the transaction depends on still holds in run->newest. */
static theus_outcome
confirm(commit_run *run, theus_record *record, theus_status *status)
{
    theus_txn *txn = run->txn;
    if (run->newest == txn->pinned) {
        return THEUS_UNCHANGED;
    }
    if (txn->strict) {
        theus_commit_broken(run, txn->root, "strict", NULL);
        return THEUS_CONFLICTED;
    }
    switch (theus_commit_validate(run)) {
    case BROKEN:
        return THEUS_CONFLICTED;
    case FAILED:
        *status = THEUS_FOREIGN;
        return THEUS_COMMIT_FAILED;
    default:
        record->rebased = true;
        return THEUS_UNCHANGED;
    }
}

static theus_status
measure(commit_run *run)
{
    theus_conflict *why = run->why;
    theus_status status
        = why->measured ? THEUS_OK : theus_txn_footprint(run->txn, run->ctx, &why->footprint);
    why->measured = status == THEUS_OK;
    return status;
}

/* Tickets are out: is one in the way? Who has been held up too often stands in line from now on. */
static theus_outcome
ask_at_gate(commit_run *run, theus_turns *turns, theus_status *status)
{
    theus_txn *txn = run->txn;
    *status = measure(run);
    if (*status != THEUS_OK) {
        return THEUS_COMMIT_FAILED;
    }
    bool in_line;
    if (theus_turns_pass(turns, txn->turn, &run->why->footprint.changes, &in_line)) {
        return THEUS_UNCHANGED;
    }
    txn->held_up++;
    if (!in_line && txn->ticket == NULL && txn->held_up >= THEUS_TURN_FAILURES) {
        *status = theus_ticket_new(turns, &run->why->footprint, THEUS_LEASE_NS,
                                   txn->by_task ? theus_thread_id() : 0, &txn->ticket);
        if (*status != THEUS_OK) {
            return THEUS_COMMIT_FAILED;
        }
        txn->turn = txn->ticket->number;
        theus_turns_begin(turns, txn->turn);
    }
    return THEUS_HELD_UP;
}

/* Every commit path (transaction, run, CAS, process) comes through here, once per round. UNCHANGED: not yet, again. */
static theus_outcome
try_commit(commit_run *run, theus_record *record, theus_version **made, theus_status *status)
{
    theus_txn *txn = run->txn;
    theus_turns *turns = theus_store_turns(txn->store);
    uint64_t grants;
    theus_outcome outcome
        = theus_turns_are_out(turns, &grants) ? ask_at_gate(run, turns, status) : THEUS_UNCHANGED;
    if (outcome == THEUS_UNCHANGED) {
        outcome = confirm(run, record, status);
    }
    if (outcome != THEUS_UNCHANGED) {
        return outcome;
    }
    theus_container *root;
    *status = theus_commit_build(run, txn->root, run->newest->root, &root);
    if (*status != THEUS_OK) {
        return THEUS_COMMIT_FAILED;
    }
    theus_container *signals = NULL;
    theus_version *next = NULL;
    *status = theus_commit_build_signals(run, &signals);
    if (*status == THEUS_OK) {
        *status = theus_version_new(txn->store, 0, root, signals, record, &next);
    }
    theus_container_release(root);
    theus_container_release(signals);
    if (*status == THEUS_OK && txn->deadline_ns != 0 && next->tick_ns > txn->deadline_ns) {
        theus_version_release(next); /* slow, or somebody was faster each time: a resolver that commits by itself, for one */
        *status = THEUS_LATE;
    }
    else if (*status == THEUS_OK && atomic_load_explicit(&txn->abandoned, memory_order_relaxed)) {
        theus_version_release(next); /* while it waited for its turn or for a place, or a resolver ran */
        *status = THEUS_ENDED;
    }
    if (*status != THEUS_OK) {
        return THEUS_COMMIT_FAILED;
    }
    if (theus_store_publish(txn->store, run->newest, next, grants) == THEUS_SWAP_LOST) {
        theus_version_release(next);
        return THEUS_UNCHANGED; /* somebody was faster, or has just been given a ticket */
    }
    txn->reserved = false; /* filled */
    *made = next;
    return THEUS_COMMITTED;
}

static void
count(theus_txn *txn, theus_outcome outcome, bool rebased)
{
    theus_counters *counters = theus_store_counters(txn->store);
    switch (outcome) {
    case THEUS_COMMITTED:
        atomic_fetch_add_explicit(&counters->commits, 1, memory_order_relaxed);
        if (rebased) {
            atomic_fetch_add_explicit(&counters->rebases, 1, memory_order_relaxed);
        }
        break;
    case THEUS_UNCHANGED:
        atomic_fetch_add_explicit(&counters->noops, 1, memory_order_relaxed);
        break;
    case THEUS_CONFLICTED:
        atomic_fetch_add_explicit(&counters->conflicts, 1, memory_order_relaxed);
        break;
    case THEUS_COMMIT_FAILED:
    case THEUS_HELD_UP:
        break;
    }
}

theus_outcome
theus_txn_commit(theus_txn *txn, void *ctx, theus_version **made, theus_conflict *why,
                 theus_status *status)
{
    theus_outcome outcome = THEUS_COMMIT_FAILED;
    theus_record *record = NULL;
    op_summary summary;
    commit_run run = {.txn = txn, .ctx = ctx, .why = why};

    *status = THEUS_OK;
    *made = NULL;
    why->cells = NULL;
    why->measured = false;
    txn->committing = true; /* the logs are read from here on: whatever foreign code runs may not add to them */
    if (!txn->root->touched && !txn->root->touched_below && !theus_txn_sends(txn)) {
        bool looked = txn->read_only || txn->root->next != NULL || txn->root->read_shape
                      || txn->root->read_all || txn->root->reads.count != 0 || txn->root->absent != NULL;
        theus_counters *counters = theus_store_counters(txn->store);
        atomic_fetch_add_explicit(looked ? &counters->reads : &counters->noops, 1, memory_order_relaxed);
        theus_txn_finish(txn, THEUS_TXN_COMMITTED);
        return THEUS_UNCHANGED;
    }
    *status = record_new(txn, &summary, &record);
    if (*status == THEUS_OK) {
        bool nothing = record->sets + record->deletes == 0 && !theus_txn_sends(txn);
        bool again = !nothing || txn->pledged;
        outcome = THEUS_UNCHANGED;
        if (!nothing && theus_ring_reserves(theus_store_ring(txn->store))) {
            *status = theus_txn_reserve(txn);
            if (*status != THEUS_OK) {
                outcome = THEUS_COMMIT_FAILED;
                again = false;
            }
        }
        while (again) {
            /* The usual case needs no count beside that of the transaction. */
            bool same = theus_store_is_current(txn->store, txn->pinned);
            run.newest = same ? txn->pinned : theus_store_pin(txn->store);
            outcome = nothing ? confirm(&run, record, status) : try_commit(&run, record, made, status);
            if (!same) {
                theus_version_release(run.newest);
            }
            again = outcome == THEUS_UNCHANGED && !nothing;
        }
        if (outcome == THEUS_CONFLICTED && measure(&run) != THEUS_OK) {
            theus_conflict_fini(why);
            outcome = THEUS_COMMIT_FAILED;
            *status = THEUS_FOREIGN;
        }
        count(txn, outcome, record->rebased);
    }
    theus_record_release(record);
    if (outcome == THEUS_HELD_UP) {
        theus_txn_unreserve(txn); /* who is in the way may need the place */
        txn->committing = false;
        return outcome;
    }
    theus_txn_finish(txn, outcome == THEUS_COMMITTED || outcome == THEUS_UNCHANGED
                              ? THEUS_TXN_COMMITTED
                              : THEUS_TXN_ABORTED);
    return outcome;
}
