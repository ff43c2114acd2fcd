/* See shm_loans.h. */
#include "shm_loans.h"

#include "shm_zone_parts.h"

#include <assert.h>

/* ---- by the owner ------------------------------------------------------------------------- */

/* What a record says of the loan that the book has there. */
static theus_loan_state
look_locked(theus_arena *arena, uint32_t number, uint32_t *taker)
{
    theus_loan_record *record = &arena->loans[number];
    uint64_t word = atomic_load(&record->word);
    *taker = theus_lending_taker_of(word);
    if (theus_lending_generation_of(word) != arena->lent[number].generation) {
        return THEUS_LOAN_NONE;
    }
    if (theus_lending_state_of(word) != THEUS_LOAN_TAKEN || *taker == THEUS_SHM_OWNER) {
        return theus_lending_state_of(word);
    }
    if (*taker >= THEUS_PARTICIPANTS) { /* somebody has written to the table */
        theus_lending_break(record, word);
    }
    else if (!theus_byte_is_locked(arena->control_fd, *taker)) {
        theus_lending_break(record, word); /* `word` was read before, so it is the dead one's */
        theus_arena_bury_locked(arena, *taker);
    }
    return theus_lending_state_of(atomic_load(&record->word));
}

static bool
is_out(theus_loan_state state)
{
    return state == THEUS_LOAN_OFFERED || state == THEUS_LOAN_TAKEN;
}

static bool
is_of(const theus_lent *lent, uint32_t slot, uint32_t tenant)
{
    return lent->range.slot == slot && lent->range.tenant == tenant && lent->generation > 0;
}

static theus_loan_facts
facts_locked(theus_arena *arena, uint32_t number)
{
    const theus_lent *lent = &arena->lent[number];
    uint32_t taker;
    theus_loan_facts facts = {.state = look_locked(arena, number, &taker), .from = lent->range.from, .size = lent->range.size};
    if (facts.state == THEUS_LOAN_TAKEN) {
        facts.pid = atomic_load(&theus_arena_participant(arena, taker)->pid);
    }
    return facts;
}

static bool
lends_locked(const theus_block *block)
{
    const theus_arena *arena = block->arena;
    const theus_slot *slot = theus_block_record(block);
    return theus_arena_is_owned(arena) && arena->loan_count > 0 && atomic_load(&slot->published) == 0
           && theus_slot_state_of(atomic_load(&slot->word)) == THEUS_SLOT_LIVE;
}

/* A record for one more loan; or the loan of the block that overlaps, in *other. */
static theus_lending
find_record_locked(const theus_block *block, uint64_t from, uint64_t size, uint32_t *found, theus_loan_facts *other)
{
    theus_arena *arena = block->arena;
    uint32_t taker;
    *found = arena->loan_count;
    for (uint32_t i = 0; i < arena->loan_count; i++) {
        const theus_lent *lent = &arena->lent[i];
        bool overlaps = is_of(lent, block->slot, block->generation) && lent->range.from < from + size && from < lent->range.from + lent->range.size;
        if (overlaps && is_out(look_locked(arena, i, &taker))) {
            *other = facts_locked(arena, i);
            return THEUS_LENDS_OVERLAP;
        }
        if (*found == arena->loan_count && !lent->watched && lent->generation < UINT32_MAX
            && !is_out(look_locked(arena, i, &taker))) {
            *found = i;
        }
    }
    return *found < arena->loan_count ? THEUS_LENDS : THEUS_LENDS_FULL;
}

theus_lending
theus_loan_offer(const theus_block *block, uint64_t from, uint64_t size, theus_loan_name *loan, theus_loan_facts *other)
{
    assert(size > 0 && from <= block->size && size <= block->size - from);
    theus_arena *arena = block->arena;
    uint32_t number;
    theus_shm_lock();
    theus_lending answer = lends_locked(block) ? find_record_locked(block, from, size, &number, other) : THEUS_LENDS_NOT;
    if (answer == THEUS_LENDS) {
        theus_lent *lent = &arena->lent[number];
        *lent = (theus_lent){{from, size, block->slot, block->generation}, lent->generation + 1, true};
        theus_lending_offer(&arena->loans[number], &lent->range, lent->generation);
        *loan = (theus_loan_name){number, lent->generation};
    }
    theus_shm_unlock();
    return answer;
}

/* Is it still in the book? Not in a child, which has none. */
static bool
knows_locked(const theus_arena *arena, theus_loan_name loan)
{
    return theus_arena_is_owned(arena) && loan.number < arena->loan_count
           && arena->lent[loan.number].generation == loan.generation;
}

theus_loan_facts
theus_loan_look(const theus_block *block, theus_loan_name loan)
{
    theus_loan_facts facts = {.state = THEUS_LOAN_NONE};
    theus_shm_lock();
    if (knows_locked(block->arena, loan)) {
        facts = facts_locked(block->arena, loan.number);
    }
    theus_shm_unlock();
    return facts;
}

static bool
recall_locked(theus_arena *arena, theus_loan_name loan)
{
    return theus_lending_recall(&arena->loans[loan.number], loan.generation);
}

bool
theus_loan_recall(const theus_block *block, theus_loan_name loan)
{
    theus_shm_lock();
    bool done = knows_locked(block->arena, loan) && recall_locked(block->arena, loan);
    theus_shm_unlock();
    return done;
}

uint32_t
theus_loans_recall(const theus_block *block)
{
    uint32_t count = 0;
    theus_arena *arena = block->arena;
    theus_shm_lock();
    for (uint32_t i = 0; theus_arena_is_owned(arena) && i < arena->loan_count; i++) {
        const theus_lent *lent = &arena->lent[i];
        count += is_of(lent, block->slot, block->generation) && recall_locked(arena, (theus_loan_name){i, lent->generation});
    }
    theus_shm_unlock();
    return count;
}

void
theus_loan_forget(const theus_block *block, theus_loan_name loan)
{
    theus_shm_lock();
    if (knows_locked(block->arena, loan)) {
        block->arena->lent[loan.number].watched = false;
    }
    theus_shm_unlock();
}

uint32_t
theus_loans_list(const theus_block *block, theus_loan_facts *list, uint32_t places)
{
    uint32_t count = 0;
    theus_arena *arena = block->arena;
    theus_shm_lock();
    for (uint32_t i = 0; theus_arena_is_owned(arena) && i < arena->loan_count; i++) {
        if (!is_of(&arena->lent[i], block->slot, block->generation)) {
            continue;
        }
        theus_loan_facts facts = facts_locked(arena, i);
        if (is_out(facts.state) && count++ < places) {
            list[count - 1] = facts;
        }
    }
    theus_shm_unlock();
    return count;
}

uint32_t
theus_loans_out_locked(theus_arena *arena, uint32_t slot, uint32_t tenant)
{
    uint32_t count = 0, taker;
    for (uint32_t i = 0; i < arena->loan_count; i++) {
        count += is_of(&arena->lent[i], slot, tenant) && is_out(look_locked(arena, i, &taker));
    }
    return count;
}

/* ---- by a worker ------------------------------------------------------------------------------ */

/* The range that the record of the loan gives, if it lies in our block. */
static theus_status
read_range(theus_loan *loan)
{
    const theus_arena *arena = loan->block.arena;
    theus_range range;
    if (loan->name.number >= arena->loan_count) {
        return THEUS_BAD_TOKEN;
    }
    theus_status status = theus_lending_read(&arena->loans[loan->name.number], loan->name.generation, &range);
    if (status != THEUS_OK) {
        return status;
    }
    loan->from = range.from;
    loan->size = range.size;
    bool fits = range.slot == loan->block.slot && range.tenant == loan->block.generation && range.size > 0
                && range.from <= loan->block.size && range.size <= loan->block.size - range.from;
    return fits ? THEUS_OK : THEUS_BAD_TOKEN;
}

/* Its pages, writable. The owner's descriptor can write; a borrower's cannot, and must not for longer than this takes. */
static theus_status
map_range(theus_loan *loan)
{
    const theus_arena *arena = loan->block.arena;
    uint64_t begin = loan->block.offset + loan->from, before = begin % theus_page_size();
    int own = -1;
    theus_status status = theus_arena_is_owned(arena) ? THEUS_OK : theus_files_gain_write(arena->data_fd, &own);
    if (status == THEUS_OK) {
        loan->at = begin - before;
        loan->mapped = before + loan->size;
        status = theus_shm_map(own >= 0 ? own : arena->data_fd, loan->at, loan->mapped, THEUS_MAP_WRITE, &loan->base);
    }
    theus_shm_close(own);
    loan->data = loan->base == NULL ? NULL : (char *)loan->base + before;
    return status;
}

static bool
take_locked(theus_loan *loan)
{
    theus_arena *arena = loan->block.arena;
    if (!theus_lending_take(&arena->loans[loan->name.number], loan->name.generation, arena->self)) {
        return false;
    }
    loan->mine = true;
    loan->next = arena->taken;
    arena->taken = loan;
    return true;
}

/* From its name to its range, mapped and ours; else it is as it was. */
static theus_status
enter(theus_loan *loan)
{
    theus_hold_forks(); /* a child is to find the mapping in the list, or not at all */
    theus_status status = read_range(loan);
    if (status == THEUS_OK && (status = map_range(loan)) == THEUS_OK) {
        THEUS_SHM_STEP("loan mapped");
        theus_shm_lock();
        status = take_locked(loan) ? THEUS_OK : THEUS_OVER;
        theus_shm_unlock();
    }
    if (status != THEUS_OK && loan->base != NULL) { /* another one's rows, writable: no child may find them */
        theus_shm_unmap(loan->base, loan->mapped);
        loan->base = NULL;
    }
    theus_let_forks();
    return status;
}

theus_status
theus_loan_take(const theus_arena_name *arena, uint32_t slot, uint32_t tenant, theus_loan_name name, theus_loan **out,
                theus_refusal *refusal)
{
    theus_block block;
    theus_status status = theus_block_lease(arena, slot, tenant, &block, refusal);
    if (status != THEUS_OK) {
        return status;
    }
    if (block.arena->self == THEUS_SHM_NOBODY) { /* a child that got no number: nobody would see it die with the loan */
        theus_block_release(&block);
        return THEUS_CROWDED;
    }
    theus_loan *loan = theus_alloc(sizeof(theus_loan));
    if (loan == NULL) {
        theus_block_release(&block);
        return THEUS_NOMEM;
    }
    *loan = (theus_loan){.block = block, .name = name};
    do {
        status = enter(loan);
    } while (status == THEUS_NO_ROOM && zone_tidy_process());
    if (status == THEUS_NO_ROOM) {
        zone_refuse_mapping(block.arena->backend, THEUS_MEMORY_SHARED, loan->mapped, refusal);
    }
    if (status != THEUS_OK) {
        theus_loan_free(loan);
        return status;
    }
    *out = loan;
    return THEUS_OK;
}

void
theus_loan_end(theus_loan *loan, bool finished)
{
    theus_arena *arena = loan->block.arena;
    theus_shm_lock();
    bool mine = loan->mine;
    theus_shm_unlock();
    if (!mine) {
        return;
    }
    theus_shm_remap(arena->data_fd, loan->at, loan->base, loan->mapped, THEUS_MAP_READ);
    THEUS_SHM_STEP("loan read-only");
    theus_shm_lock();
    if (loan->mine) {
        loan->mine = false;
        theus_lending_end(&arena->loans[loan->name.number], loan->name.generation, arena->self, finished);
    }
    theus_shm_unlock();
}

void
theus_loan_free(theus_loan *loan)
{
    theus_loan_end(loan, false);
    theus_hold_forks();
    theus_shm_lock();
    for (theus_loan **link = &loan->block.arena->taken; *link != NULL; link = &(*link)->next) {
        if (*link == loan) {
            *link = loan->next;
            break;
        }
    }
    theus_shm_unlock();
    if (loan->base != NULL) {
        theus_shm_unmap(loan->base, loan->mapped);
    }
    theus_let_forks();
    theus_block_release(&loan->block);
    theus_free(loan);
}

/* ---- for the arena ---------------------------------------------------------------------------- */

void
theus_loans_in_child(theus_arena *arena)
{
    for (theus_loan *loan = arena->taken; loan != NULL; loan = loan->next) {
        theus_shm_remap(arena->data_fd, loan->at, loan->base, loan->mapped, THEUS_MAP_READ);
        loan->mine = false;
    }
    theus_free(arena->lent);
    arena->lent = NULL;
}
