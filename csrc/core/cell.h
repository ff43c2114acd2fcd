/* What cell*.c, deferral.c, savepoint.c and the commit (commit.c, validate.c, candidate.c) share and nobody else needs. */
#ifndef THEUS_CELL_H
#define THEUS_CELL_H

#include <assert.h>

#include "txn.h"

struct theus_absence {
    theus_absence *next;
    uint64_t hash;
    void *key; /* retained */
};

struct theus_deferral {
    theus_deferral *next;  /* older one of the same cell, or next in txn->retired */
    theus_deferred_kind kind;
    uint64_t hash;
    void *key;             /* retained; NULL: list position `index` */
    uint32_t index;
    theus_value operand;   /* counted */
    void *resolver;        /* retained; may be NULL */
};

void theus_numbers_init(theus_numbers *numbers);
void theus_numbers_fini(theus_numbers *numbers);
void theus_numbers_sort(theus_numbers *numbers); /* ascending, each once */
THEUS_MUST_CHECK theus_status theus_numbers_copy(theus_numbers *to, const theus_numbers *from);
THEUS_MUST_CHECK theus_status theus_numbers_make_room(theus_numbers *numbers); /* in a full array */

/* Is it one of the last few? Loops read and write the same few places by turns. */
static inline bool
theus_numbers_repeats(const theus_numbers *numbers, uint32_t number)
{
    enum { LOOK_BACK = 4 };
    uint32_t i = numbers->count, end = i > LOOK_BACK ? i - LOOK_BACK : 0;
    while (i > end) {
        if (numbers->items[--i] == number) {
            return true;
        }
    }
    return false;
}

/* Room for one more, */
THEUS_MUST_CHECK static inline theus_status
theus_numbers_reserve(theus_numbers *numbers)
{
    return numbers->count < numbers->room ? THEUS_OK : theus_numbers_make_room(numbers);
}

/* which then cannot fail. */
static inline void
theus_numbers_add(theus_numbers *numbers, uint32_t number)
{
    assert(numbers->count < numbers->room);
    if (!theus_numbers_repeats(numbers, number)) {
        numbers->items[numbers->count++] = number;
    }
}

THEUS_MUST_CHECK static inline theus_status
theus_numbers_push(theus_numbers *numbers, uint32_t number)
{
    if (theus_numbers_repeats(numbers, number)) {
        return THEUS_OK;
    }
    theus_status status = theus_numbers_reserve(numbers);
    if (status == THEUS_OK) {
        numbers->items[numbers->count++] = number;
    }
    return status;
}

/* A new cell at the end of the transaction's list. now is counted here; base (which is now, or NULL) need not be: the
 * pinned version holds it. */
THEUS_MUST_CHECK theus_status theus_cell_new(theus_txn *txn, theus_container *base, theus_container *now,
                                             theus_cell **out);
void theus_cell_fini(theus_cell *cell); /* may run foreign code */

/* Children: by position in parent->now. */
THEUS_MUST_CHECK theus_status theus_cell_adopt(theus_cell *parent, uint32_t pos, theus_cell *child);
void theus_cell_forget_children(theus_cell *cell);

/* ---- steps that cell.c, cell_read.c and cell_write.c share ---- */

/* Into a table of `room` slots go the children that still have this parent; the old table is freed. */
void theus_cell_move_children(theus_cell *cell, theus_cell **table, uint32_t room);
/* The child at pos, if there is one, lives on by itself. */
void theus_cell_detach_child(theus_cell *cell, uint32_t pos);
/* The cell has writes; mark_changed: and a new content, which its parent does not hold yet. */
void theus_cell_mark_touched(theus_cell *cell);
void theus_cell_mark_changed(theus_cell *cell);
/* Something was written in the cell, or below it. */
static inline void
theus_cell_note_mark(theus_cell *cell)
{
    cell->txn->asks |= (cell->now->mark & THEUS_MARK_ADMIT) != 0;
}
/* Makes now an edit. READ_ONLY in a read-only transaction. */
THEUS_MUST_CHECK theus_status theus_cell_make_writable(theus_cell *cell);
/* Drops the key that the last search remembered. May run foreign code. */
void theus_cell_forget_last(theus_cell *cell);
/* Does a read of base need to be logged? */
bool theus_cell_logs_reads(theus_cell *cell);
/* Is this the value that base has at pos? */
bool theus_cell_base_holds(const theus_cell *cell, uint32_t pos, theus_value value);
/* Logs that a key is not there. */
THEUS_MUST_CHECK theus_status theus_cell_log_absence(theus_cell *cell, uint64_t hash, void *key);
/* Applies what is deferred here, if anything is. */
THEUS_MUST_CHECK theus_status theus_cell_settled(theus_cell *cell, void *ctx);

/* Ends an edit without the compaction of theus_edit_seal(): positions stay what they are. What is sealed already may be
 * in other threads' hands, and is not even written to. */
static inline void
theus_seal_in_place(theus_container *container)
{
    if (container->edit != 0) {
        container->edit = 0;
    }
}

/* Makes now hold everything that cells below have changed, and seals it in place: positions stay. */
THEUS_MUST_CHECK theus_status theus_cell_fold(theus_cell *cell);
/* The same, retained for others: a compacted copy where the body has removed much. */
THEUS_MUST_CHECK theus_status theus_cell_content(theus_cell *cell, theus_container **out);

/* Where the container of a cell with a base was found, in the pinned version; at most `room` segments are stored, the length
 * is returned. */
uint32_t theus_cell_home_path(const theus_cell *cell, theus_segment *path, uint32_t room);
/* The step from a container of the pinned version to its entry at `pos`. */
theus_segment theus_base_segment(const theus_container *base, uint32_t pos);

/* Takes the deferred operations of a cell that are newer than `last` (NULL: all) out of force; they are freed with
 * the transaction. */
void theus_cell_retire_deferred(theus_cell *cell, const theus_deferral *last);
/* Applies one of them to what stands there: theus_apply_fn. */
int theus_deferral_apply(theus_cell *cell, const theus_deferral *deferral, theus_value old, theus_value *made);
/* Cells list them newest first; they apply oldest first. */
theus_deferral *theus_deferrals_reversed(theus_deferral *list);
/* All of a list. May run foreign code. */
void theus_deferrals_free(theus_heap *heap, theus_deferral *list);
/* Tells `visit` the atoms that a list holds: theus_txn_visit(). */
int theus_deferrals_visit(const theus_deferral *list, int (*visit)(void *atom, void *arg), void *arg);

/* Had the cell that is the `number`th of the transaction been written at `pos` when the innermost savepoint, if there is one,
 * began? */
bool theus_savepoint_knows(const theus_savepoint *savepoint, uint32_t number, uint32_t pos);

/* Gives back a place in the ring that the transaction has reserved and not filled. */
void theus_txn_unreserve(theus_txn *txn);

/* Ends the transaction with this state and frees what it holds. May run foreign code. */
void theus_txn_finish(theus_txn *txn, theus_txn_state state);

static inline bool
theus_cell_is_attached(const theus_cell *cell)
{
    while (cell->parent != NULL) {
        cell = cell->parent;
    }
    return cell == cell->txn->root && !cell->dead;
}

/* Are the writes of this cell told one by one? Not if it is no longer attached, and not if they are part of one write
 * higher up: of a reshaped ancestor, or of a container that the body made and stored. */
static inline bool
theus_cell_is_told(const theus_cell *cell)
{
    const theus_cell *top = cell;
    bool covered = cell->base == NULL;
    while (top->parent != NULL) {
        top = top->parent;
        covered |= top->base == NULL || top->reshaped;
    }
    return !covered && top == cell->txn->root && !top->dead;
}

#endif
