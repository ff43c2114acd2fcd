/* See shm_process.h. */
#include "shm_process.h"

#include "shm_loans.h"

#include <assert.h>

static struct {
    theus_mutex files;            /* rank FILES: held while an arena's files are opened or closed, and across fork() */
    theus_mutex lock;             /* rank SHM */
    theus_arena *first;           /* guarded by lock; changes only while `files` is held, too */
    theus_process_totals totals;  /* guarded by lock */
    _Atomic(bool) watches;        /* forks, and the exit; set under lock */
} process = {.files = THEUS_MUTEX_OF_PROCESS(THEUS_RANK_FILES), .lock = THEUS_MUTEX_OF_PROCESS(THEUS_RANK_SHM)};

void
theus_shm_lock(void)
{
    theus_mutex_lock(&process.lock);
}

void
theus_shm_unlock(void)
{
    theus_mutex_unlock(&process.lock);
}

theus_arena *
theus_arenas_first_locked(void)
{
    return process.first;
}

theus_process_totals *
theus_process_totals_locked(void)
{
    assert(theus_mutex_is_mine(&process.lock));
    return &process.totals;
}

/* ---- the list ------------------------------------------------------------------------------------------ */

void
theus_arena_enlist(theus_arena *arena)
{
    theus_shm_lock();
    theus_arena **last = &process.first;
    while (*last != NULL) {
        last = &(*last)->next;
    }
    arena->next = NULL;
    *last = arena;
    theus_shm_unlock();
}

void
theus_arena_delist(theus_arena *arena)
{
    theus_shm_lock();
    theus_arena **link = &process.first;
    while (*link != arena) {
        link = &(*link)->next;
    }
    *link = arena->next;
    if (theus_arena_is_owned(arena)) {
        uint64_t bytes = arena->data_size - arena->runs->free_bytes;
        process.totals.deaths += arena->blocks;
        process.totals.bytes_dead += bytes;
        process.totals.used -= bytes;
    }
    theus_shm_unlock();
}

uint64_t
theus_arenas_held(void)
{
    uint64_t held = 0;
    theus_shm_lock();
    for (theus_arena *it = process.first; it != NULL; it = it->next) {
        held += it->held_slots;
    }
    theus_shm_unlock();
    return held;
}

void
theus_arenas_hide(void)
{
    theus_mutex_lock(&process.files);
    for (theus_arena *it = process.first; it != NULL; it = it->next) {
        if (theus_arena_is_owned(it)) {
            (void)theus_files_hide(&it->name);
        }
    }
    theus_mutex_unlock(&process.files);
}

/* ---- forks -------------------------------------------------------------------------------------------- */

/* Gives the coming child a number and our leases. Without (no descriptor left, 63 others): it sees what the parent
 * may recycle. It cannot crash from that. */
static void
prepare_child(theus_arena *arena)
{
    arena->child = THEUS_SHM_NOBODY;
    arena->child_fd = -1;
    if (arena->held_slots == 0 || theus_files_share(arena->control_fd, &arena->child_fd) != THEUS_OK) {
        return;
    }
    arena->child = theus_arena_join(arena, arena->child_fd);
    uint32_t left = arena->child == THEUS_SHM_NOBODY ? 0 : arena->held_slots;
    for (uint32_t i = 0; i < arena->slots.capacity && left > 0; i++) {
        if (arena->held[i] > 0) {
            /* Ours stands, so the slot keeps its tenant: nothing to look at afterwards. */
            atomic_fetch_or(&arena->slots.slots[i].leases, (uint64_t)1 << arena->child);
            left--;
        }
    }
    THEUS_SHM_STEP("leases for a child");
}

static void
fork_begins(void)
{
    theus_mutex_lock(&process.files);
    theus_shm_lock();
    for (theus_arena *it = process.first; it != NULL; it = it->next) {
        prepare_child(it);
    }
}

static void
fork_in_parent(void)
{
    for (theus_arena *it = process.first; it != NULL; it = it->next) {
        theus_shm_close(it->child_fd); /* the child has it; if there is none, the number is free again */
        it->child_fd = -1;
    }
    theus_shm_unlock();
    theus_mutex_unlock(&process.files);
}

/* In the child: nothing that it keeps comes from a description of the parent's, with its locks and its right to write. Mappings
 * hold descriptions, too. (A child that got no description of its own, or no new mapping, keeps the parent's, and the
 * parent looks alive as long as it lives. It cannot write to the data all the same.) */
static void
leave_descriptions(theus_arena *arena)
{
    if (arena->child_fd >= 0) {
        theus_shm_remap(arena->child_fd, 0, arena->header, arena->control_size, THEUS_MAP_WRITE);
    }
    theus_shm_close(arena->control_fd);
    arena->control_fd = arena->child_fd;
    arena->child_fd = -1;
    theus_files_lose_write(theus_arena_files(arena), &arena->data_fd);
    theus_shm_remap(arena->data_fd, 0, arena->data, arena->data_size, THEUS_MAP_READ);
    char *shown = atomic_load(&arena->shown);
    if (shown != NULL) {
        theus_shm_remap(arena->data_fd, 0, shown, arena->data_size, THEUS_MAP_READ);
    }
}

/* In the child: an arena that it looks at. */
static void
become_borrower(theus_arena *arena)
{
    leave_descriptions(arena);
    theus_loans_in_child(arena);
    arena->self = arena->child;
    if (arena->self != THEUS_SHM_NOBODY) {
        atomic_store(&theus_arena_participant(arena, arena->self)->pid, theus_process_id());
    }
    THEUS_SHM_STEP("child looks");
    arena->refs = arena->held_slots + 1; /* the slots' and the list's; other threads, which had some, are not here */
    theus_runs_free(arena->runs);
    arena->runs = NULL;
    arena->zone = NULL;
}

static void
fork_in_child(void)
{
    theus_arena *it = process.first, *next;
    process.first = NULL;
    process.totals = (theus_process_totals){
        .soft = process.totals.soft, .hard = process.totals.hard, .limited = process.totals.limited};
    for (; it != NULL; it = next) {
        next = it->next;
        if (it->held_slots > 0) {
            become_borrower(it);
            it->next = process.first;
            process.first = it;
            continue;
        }
        theus_shm_close(it->child_fd);
        theus_shm_unmap(it->header, it->control_size);
        it->header = NULL; /* the parent's arena is not closed, and its number not ours */
        theus_arena_close(it);
    }
    theus_shm_unlock();
    theus_mutex_unlock(&process.files);
}

/* ---- what a process does once ----------------------------------------------------------------------------- */

theus_status
theus_shm_watch(void)
{
    if (atomic_load(&process.watches)) {
        return THEUS_OK;
    }
    theus_shm_lock();
    theus_status status = THEUS_OK;
    if (!atomic_load(&process.watches)) {
        status = theus_at_exit(theus_arenas_hide); /* first: twice would do no harm */
        if (status == THEUS_OK) {
            status = theus_at_fork(fork_begins, fork_in_parent, fork_in_child);
        }
        atomic_store(&process.watches, status == THEUS_OK);
    }
    theus_shm_unlock();
    return status;
}

void
theus_hold_forks(void)
{
    theus_status unseen = theus_shm_watch();
    (void)unseen; /* without memory for that, a child inherits what it can do nothing with */
    theus_mutex_lock(&process.files);
}

void
theus_let_forks(void)
{
    theus_mutex_unlock(&process.files);
}
