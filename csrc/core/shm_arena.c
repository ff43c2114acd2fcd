/* See shm_arena.h. */
#include "shm_loans.h"

#include <assert.h>
#include <string.h>

/* ---- participants ----------------------------------------------------------------------- */

/* For how long whoever joins waits for others behind doors. They need microseconds there; one who needs longer was stopped. */
#define PATIENCE_NS UINT64_C(5000000000)
#define PAUSE_NS UINT64_C(200000)

static uint32_t
door_of(uint32_t number)
{
    return THEUS_PARTICIPANTS + number;
}

/* Behind its door: what the dead participant left. How many leases. */
static uint32_t
clear_up(theus_arena *arena, uint32_t number)
{
    uint32_t leases = theus_slots_reap(&arena->slots, number);
    theus_lendings_reap(arena->loans, arena->loan_count, number);
    THEUS_SHM_STEP("dead reaped");
    atomic_store(&theus_arena_participant(arena, number)->pid, 0);
    return leases;
}

typedef enum {
    GOT,
    TAKEN, /* its participant lives */
    BUSY,  /* somebody is behind its door */
} attempt;

static attempt
try_number(theus_arena *arena, int fd, uint32_t number)
{
    if (theus_byte_is_locked(fd, number)) {
        return TAKEN;
    }
    if (!theus_byte_try_lock(fd, door_of(number))) {
        return BUSY;
    }
    attempt result = TAKEN;
    if (!theus_byte_is_locked(fd, number)) {
        if (atomic_load(&theus_arena_participant(arena, number)->pid) != 0) { /* it left something */
            (void)clear_up(arena, number);
        }
        result = theus_byte_try_lock(fd, number) ? GOT : TAKEN;
        THEUS_SHM_STEP("behind the door");
    }
    theus_byte_unlock(fd, door_of(number));
    return result;
}

/* GOT, with the number; TAKEN: all are; BUSY: all that are not, and somebody may come out without having taken his. */
static attempt
try_all(theus_arena *arena, int fd, uint32_t *number)
{
    attempt result = TAKEN;
    for (*number = THEUS_SHM_OWNER + 1; *number < THEUS_PARTICIPANTS; (*number)++) {
        attempt one = try_number(arena, fd, *number);
        if (one == GOT) {
            return GOT;
        }
        result = one == BUSY ? BUSY : result;
    }
    return result;
}

uint32_t
theus_arena_join(theus_arena *arena, int fd)
{
    uint32_t number;
    attempt result = try_all(arena, fd, &number);
    uint64_t end = result == BUSY ? theus_clock_fine_ns() + PATIENCE_NS : 0;
    while (result == BUSY && theus_clock_fine_ns() < end) {
        THEUS_SHM_STEP("waits at a door");
        theus_sleep_ns(PAUSE_NS);
        result = try_all(arena, fd, &number);
    }
    if (result != GOT) {
        return THEUS_SHM_NOBODY;
    }
    atomic_store(&theus_arena_participant(arena, number)->pid, theus_process_id());
    THEUS_SHM_STEP("joined");
    return number;
}

uint32_t
theus_arena_bury_locked(theus_arena *arena, uint32_t number)
{
    assert(number != THEUS_SHM_OWNER && number < THEUS_PARTICIPANTS);
    if (theus_byte_is_locked(arena->control_fd, number) || !theus_byte_try_lock(arena->control_fd, door_of(number))) {
        return 0;
    }
    uint32_t leases = theus_byte_is_locked(arena->control_fd, number) ? 0 : clear_up(arena, number);
    theus_byte_unlock(arena->control_fd, door_of(number));
    return leases;
}

void
theus_arena_reap_locked(theus_arena *arena)
{
    uint64_t holders = theus_lendings_takers(arena->loans, arena->loan_count);
    for (uint32_t i = 0; i < arena->lingering_count; i++) {
        holders |= atomic_load(&arena->slots.slots[arena->lingering[i]].leases);
    }
    for (uint32_t number = THEUS_SHM_OWNER + 1; number < THEUS_PARTICIPANTS; number++) {
        if ((holders >> number & 1) != 0) {
            (void)theus_arena_bury_locked(arena, number);
        }
    }
}

uint32_t
theus_arena_reap_all_locked(theus_arena *arena)
{
    uint32_t leases = 0;
    for (uint32_t number = THEUS_SHM_OWNER + 1; number < THEUS_PARTICIPANTS; number++) {
        if (atomic_load(&theus_arena_participant(arena, number)->pid) != 0) {
            leases += theus_arena_bury_locked(arena, number);
        }
    }
    return leases;
}

/* ---- life ----------------------------------------------------------------------------------- */

void
theus_arena_close(theus_arena *arena)
{
    if (arena->header != NULL) {
        if (arena->self == THEUS_SHM_OWNER) {
            atomic_store(&arena->header->closed, 1);
            THEUS_SHM_STEP("closed");
            (void)theus_files_hide(&arena->name);
        }
        else if (arena->self != THEUS_SHM_NOBODY) {
            atomic_store(&theus_arena_participant(arena, arena->self)->pid, 0); /* no lease of ours is left */
        }
        theus_shm_unmap(arena->header, arena->control_size);
    }
    if (arena->data != NULL) {
        theus_shm_unmap(arena->data, arena->data_size);
    }
    char *shown = atomic_load(&arena->shown);
    if (shown != NULL) {
        theus_shm_unmap(shown, arena->data_size);
    }
    theus_shm_close(arena->control_fd);
    theus_shm_close(arena->data_fd);
    theus_runs_free(arena->runs);
    theus_free(arena->tenants);
    theus_free(arena->lent);
    theus_free(arena->held);
    theus_free(arena->lingering);
    theus_free(arena);
}

void
theus_arena_destroy(theus_arena *arena)
{
    if (arena == NULL) {
        return;
    }
    theus_hold_forks();
    theus_arena_delist(arena);
    theus_arena_close(arena);
    theus_let_forks();
}

static theus_arena *
arena_blank(void)
{
    theus_arena *arena = theus_alloc(sizeof(theus_arena));
    if (arena != NULL) {
        *arena = (theus_arena){.control_fd = -1, .data_fd = -1, .child_fd = -1, .refs = 1, .self = THEUS_SHM_NOBODY};
    }
    return arena;
}

static theus_status
make_held(theus_arena *arena, uint32_t capacity)
{
    arena->held = theus_alloc(capacity * sizeof(uint32_t));
    if (arena->held == NULL) {
        return THEUS_NOMEM;
    }
    memset(arena->held, 0, capacity * sizeof(uint32_t));
    return THEUS_OK;
}

/* What only an owner has. */
static theus_status
make_books(theus_arena *arena, uint32_t capacity)
{
    arena->lingering = theus_alloc(capacity * sizeof(uint32_t));
    arena->tenants = theus_alloc(capacity * sizeof(theus_tenant));
    if (arena->lingering == NULL || arena->tenants == NULL) {
        return THEUS_NOMEM;
    }
    memset(arena->tenants, 0, capacity * sizeof(theus_tenant));
    if (arena->loan_count > 0) {
        arena->lent = theus_alloc(arena->loan_count * sizeof(theus_lent));
        if (arena->lent == NULL) {
            return THEUS_NOMEM;
        }
        memset(arena->lent, 0, arena->loan_count * sizeof(theus_lent));
    }
    return theus_runs_new(arena->data_size, capacity, &arena->runs);
}

static theus_status
make_files(theus_arena *arena)
{
    theus_status status = theus_files_create(theus_arena_files(arena), arena->control_size, arena->data_size,
                                             &arena->control_fd, &arena->data_fd);
    if (status != THEUS_OK
        || (status = theus_shm_back(arena->control_fd, 0, arena->control_size)) != THEUS_OK
        || (status = theus_shm_map(arena->control_fd, 0, arena->control_size, THEUS_MAP_WRITE, (void **)&arena->header))
               != THEUS_OK
        || (status = theus_shm_map(arena->data_fd, 0, arena->data_size, THEUS_MAP_WRITE, (void **)&arena->data))
               != THEUS_OK) {
        return status;
    }
    THEUS_SHM_STEP("files mapped");
    return theus_files_seal(theus_arena_files(arena), arena->control_fd, arena->data_fd);
}

/* Where they lie in the control file. */
static void
open_tables(theus_arena *arena, uint32_t capacity)
{
    theus_slots_open(&arena->slots, arena->header, capacity);
    arena->loans = (theus_loan_record *)((char *)arena->header + theus_shm_loans_at(capacity));
}

static theus_status
write_header(theus_arena *arena, const char *session, uint32_t capacity)
{
    theus_shm_header *header = arena->header;
    theus_status status = theus_random_id(header->id);
    if (status != THEUS_OK) {
        return status;
    }
    header->id[15] = (unsigned char)((header->id[15] & ~1u) | (arena->loan_count > 0));
    header->format = THEUS_SHM_FORMAT;
    header->capacity = capacity;
    header->fingerprint = THEUS_SHM_FINGERPRINT;
    header->control_size = arena->control_size;
    header->data_size = arena->data_size;
    header->pid = theus_process_id();
    header->memory = arena->memory;
    header->control_fd = arena->backend == THEUS_NAMED ? THEUS_BY_NAME : arena->control_fd;
    header->data_fd = arena->backend == THEUS_NAMED ? THEUS_BY_NAME : arena->data_fd;
    arena->name = (theus_arena_name){.pid = header->pid, .control_fd = header->control_fd};
    memcpy(arena->name.id, header->id, sizeof(header->id));
    header->made_ns = theus_clock_wall_ns();
    strncpy(header->session, session, THEUS_SESSION_MAX);
    open_tables(arena, capacity);
    theus_slots_init(&arena->slots);
    atomic_store(&theus_arena_participant(arena, THEUS_SHM_OWNER)->pid, header->pid);
    THEUS_SHM_STEP("header filled in");
    atomic_store(&header->magic, THEUS_SHM_MAGIC);
    return THEUS_OK;
}

static theus_status
make_arena(theus_arena *arena, const char *session, uint32_t capacity)
{
    theus_status status = make_held(arena, capacity);
    if (status == THEUS_OK) {
        status = make_books(arena, capacity);
    }
    if (status == THEUS_OK) {
        status = make_files(arena);
    }
    if (status == THEUS_OK && !theus_byte_try_lock(arena->control_fd, THEUS_SHM_OWNER)) {
        status = THEUS_REFUSED;
    }
    if (status == THEUS_OK) {
        status = write_header(arena, session, capacity);
    }
    return status != THEUS_OK ? status : theus_files_show(&arena->name, arena->control_fd, arena->data_fd);
}

theus_status
theus_arena_create(theus_zone *zone, const theus_arena_kind *kind, const char *session)
{
    theus_status status = theus_shm_watch();
    theus_arena *arena = status == THEUS_OK ? arena_blank() : NULL;
    if (arena == NULL) {
        return THEUS_NOMEM;
    }
    arena->zone = zone;
    arena->backend = kind->backend;
    arena->memory = kind->memory;
    arena->self = THEUS_SHM_OWNER;
    arena->loan_count = kind->lends ? THEUS_SHM_LOANS : 0;
    arena->control_size = theus_shm_control_size(kind->capacity, kind->lends);
    arena->data_size = kind->data_size;
    theus_hold_forks();
    status = make_arena(arena, session, kind->capacity);
    if (status == THEUS_OK) {
        theus_arena_enlist(arena);
    }
    else {
        theus_arena_close(arena);
    }
    theus_let_forks();
    return status;
}

theus_arena *
theus_arena_drop_locked(theus_arena *arena)
{
    assert(arena->refs > 0);
    arena->next_outdated = NULL;
    return --arena->refs > 0 ? NULL : arena;
}

theus_status
theus_arena_show(theus_arena *arena, char **data)
{
    char *shown = theus_arena_is_owned(arena) ? atomic_load(&arena->shown) : arena->data;
    if (shown == NULL) {
        void *made;
        theus_status status = theus_shm_map(arena->data_fd, 0, arena->data_size, THEUS_MAP_READ, &made);
        if (status != THEUS_OK) {
            return status;
        }
        if (atomic_compare_exchange_strong(&arena->shown, &shown, made)) {
            shown = made;
        }
        else {
            theus_shm_unmap(made, arena->data_size); /* another thread was faster: `shown` is its */
        }
    }
    *data = shown;
    return THEUS_OK;
}

/* ---- borrowing ---------------------------------------------------------------------------------- */

/* The files come from whoever made a token: nothing of the header is believed before it fits them. `capacity` is what was
 * looked at: somebody may write another one there at any time. */
static theus_status
check_header(const theus_arena *arena, const theus_arena_name *name, uint32_t *capacity)
{
    theus_shm_header *header = arena->header;
    *capacity = *(volatile uint32_t *)&header->capacity;
    if (atomic_load(&header->magic) != THEUS_SHM_MAGIC || header->format != THEUS_SHM_FORMAT
        || header->fingerprint != THEUS_SHM_FINGERPRINT || *capacity == 0 || *capacity % 64 != 0 || *capacity > THEUS_SHM_SLOTS_MOST
        || header->control_size != arena->control_size
        || theus_shm_control_size(*capacity, theus_shm_id_lends(name->id)) != arena->control_size) {
        return THEUS_BAD_TOKEN;
    }
    bool same = memcmp(header->id, name->id, sizeof(name->id)) == 0;
    return same && atomic_load(&header->closed) == 0 && theus_byte_is_locked(arena->control_fd, THEUS_SHM_OWNER) ? THEUS_OK
                                                                                                              : THEUS_STALE;
}

static theus_status
open_files(theus_arena *arena, const theus_arena_name *name, uint32_t *capacity)
{
    theus_status status = theus_files_open_control(name, &arena->control_fd, &arena->control_size);
    if (status != THEUS_OK) {
        return status == THEUS_GONE ? THEUS_STALE : status;
    }
    if (arena->control_size < THEUS_SHM_PAGE) {
        return THEUS_BAD_TOKEN;
    }
    THEUS_SHM_STEP("control opened");
    status = theus_shm_map(arena->control_fd, 0, arena->control_size, THEUS_MAP_WRITE, (void **)&arena->header);
    if (status != THEUS_OK || (status = check_header(arena, name, capacity)) != THEUS_OK) {
        return status;
    }
    arena->loan_count = theus_shm_id_lends(name->id) ? THEUS_SHM_LOANS : 0;
    uint32_t memory = *(volatile uint32_t *)&arena->header->memory;
    if (memory >= THEUS_MEMORY_BLOCKS) {
        return THEUS_BAD_TOKEN;
    }
    arena->memory = (theus_memory)memory;
    status = theus_files_open_data(name, theus_arena_files(arena), arena->header->data_fd, &arena->data_fd, &arena->data_size);
    if (status != THEUS_OK) {
        return status == THEUS_GONE ? THEUS_STALE : status;
    }
    if (arena->data_size == 0 || arena->data_size != arena->header->data_size) {
        return THEUS_BAD_TOKEN;
    }
    return theus_shm_map(arena->data_fd, 0, arena->data_size, THEUS_MAP_READ, (void **)&arena->data);
}

static theus_status
arena_open(const theus_arena_name *name, theus_arena **out, uint64_t *wanted)
{
    theus_status status = theus_shm_watch();
    theus_arena *arena = status == THEUS_OK ? arena_blank() : NULL;
    if (arena == NULL) {
        return THEUS_NOMEM;
    }
    uint32_t capacity, unused;
    arena->backend = name->control_fd == THEUS_BY_NAME ? THEUS_NAMED : THEUS_ANONYMOUS;
    arena->name = *name;
    status = open_files(arena, name, &capacity);
    if (status == THEUS_OK) {
        status = make_held(arena, capacity);
    }
    if (status == THEUS_OK) {
        open_tables(arena, capacity);
        arena->self = theus_arena_join(arena, arena->control_fd);
        /* The owner may have died, or closed it, after the files were opened and before we had a number. */
        status = arena->self == THEUS_SHM_NOBODY ? THEUS_CROWDED : check_header(arena, name, &unused);
    }
    if (status != THEUS_OK) {
        *wanted = arena->data_size > 0 ? arena->data_size : arena->control_size; /* which of both files was to be mapped last */
        theus_arena_close(arena);
        return status;
    }
    *out = arena;
    return THEUS_OK;
}

/* The arena of that id, with one more reference, or NULL. Who has no references is about to be destroyed. */
static theus_arena *
find(const unsigned char id[16])
{
    theus_shm_lock();
    theus_arena *it = theus_arenas_first_locked();
    while (it != NULL && (it->refs == 0 || memcmp(it->name.id, id, 16) != 0)) {
        it = it->next;
    }
    if (it != NULL) {
        it->refs++;
    }
    theus_shm_unlock();
    return it;
}

/* A borrowed arena that nobody here looks at, taken off the list. `outdated`: one whose owner has closed it, or is dead. */
static theus_arena *
take_borrowed_locked(bool outdated)
{
    for (theus_arena *it = theus_arenas_first_locked(); it != NULL; it = it->next) {
        if (!theus_arena_is_owned(it) && it->refs == 1
            && (!outdated || atomic_load(&it->header->closed) != 0 || !theus_byte_is_locked(it->control_fd, THEUS_SHM_OWNER))) {
            return theus_arena_drop_locked(it);
        }
    }
    return NULL;
}

theus_status
theus_arena_attach(const theus_arena_name *name, theus_arena **out, uint64_t *wanted)
{
    *out = find(name->id);
    if (*out != NULL) {
        return THEUS_OK;
    }
    theus_status status = THEUS_OK;
    theus_hold_forks();
    *out = find(name->id); /* another thread may have been faster */
    if (*out == NULL && (status = arena_open(name, out, wanted)) == THEUS_OK) {
        (*out)->refs++; /* the first one is the list's */
        theus_arena_enlist(*out);
    }
    theus_let_forks();
    theus_shm_lock();
    theus_arena *outdated = take_borrowed_locked(true); /* one goes when one comes: they cannot gather */
    theus_shm_unlock();
    theus_arena_destroy(outdated);
    return status;
}

uint32_t
theus_arenas_forget(void)
{
    for (uint32_t count = 0;; count++) {
        theus_shm_lock();
        theus_arena *unused = take_borrowed_locked(false);
        theus_shm_unlock();
        if (unused == NULL) {
            return count;
        }
        theus_arena_destroy(unused);
    }
}
