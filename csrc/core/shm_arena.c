/* See shm_arena.h. */
#include "shm_loans.h"

#include <assert.h>
#include <string.h>

static struct {
    theus_mutex files;            /* rank FILES: held while an arena's files are opened or closed, and across fork() */
    theus_mutex lock;             /* rank SHM */
    theus_arena *first;           /* guarded by lock; changes only while `files` is held, too */
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

/* ---- participants ----------------------------------------------------------------------- */

/* Makes `number`, which we have locked, ours: whoever had it before is dead, or has left. */
static void
settle(theus_arena *arena, uint32_t number)
{
    theus_participant *participant = theus_arena_participant(arena, number);
    if (atomic_load(&participant->pid) != 0) {
        theus_slots_reap(&arena->slots, number);
        THEUS_SHM_STEP("predecessor reaped");
    }
    atomic_store(&participant->pid, theus_process_id());
    THEUS_SHM_STEP("joined");
}

/* Locks a number, if nobody has it. What a dead holder had taken of lent ranges is broken before: once we hold his lock, he would look
 * alive to the owner until we get to it. A second lock, the door of the number, keeps others from getting it between the two. */
static bool
try_number(theus_arena *arena, int fd, uint32_t number)
{
    uint32_t door = THEUS_PARTICIPANTS + number;
    if (arena->loan_count == 0) {
        return theus_byte_try_lock(fd, number);
    }
    if (theus_byte_is_locked(fd, number) || !theus_byte_try_lock(fd, door)) {
        return false;
    }
    bool got = false;
    if (!theus_byte_is_locked(fd, number)) {
        theus_lendings_reap(arena->loans, arena->loan_count, number);
        got = theus_byte_try_lock(fd, number);
        THEUS_SHM_STEP("behind the door");
    }
    theus_byte_unlock(fd, door);
    return got;
}

/* A number of our own, locked through `fd`; NOBODY: all are taken. */
static uint32_t
join(theus_arena *arena, int fd)
{
    for (uint32_t number = THEUS_SHM_OWNER + 1; number < THEUS_PARTICIPANTS; number++) {
        if (try_number(arena, fd, number)) {
            settle(arena, number);
            return number;
        }
    }
    return THEUS_SHM_NOBODY;
}

uint32_t
theus_arena_bury_locked(theus_arena *arena, uint32_t number)
{
    assert(number != THEUS_SHM_OWNER && number < THEUS_PARTICIPANTS);
    uint32_t leases = 0;
    if (theus_byte_try_lock(arena->control_fd, number)) {
        leases = theus_slots_reap(&arena->slots, number);
        theus_lendings_reap(arena->loans, arena->loan_count, number);
        THEUS_SHM_STEP("dead reaped");
        atomic_store(&theus_arena_participant(arena, number)->pid, 0);
        theus_byte_unlock(arena->control_fd, number);
    }
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

static void
close_arena(theus_arena *arena)
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

/* At the end: blocks go to the first arena that has room, so those made last are the first to become empty. */
static void
enlist(theus_arena *arena)
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
theus_arena_destroy(theus_arena *arena)
{
    if (arena == NULL) {
        return;
    }
    theus_mutex_lock(&process.files);
    theus_shm_lock();
    theus_arena **link = &process.first;
    while (*link != arena) {
        link = &(*link)->next;
    }
    *link = arena->next;
    theus_shm_unlock();
    close_arena(arena);
    theus_mutex_unlock(&process.files);
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

static theus_files_kind
files_of(const theus_arena *arena)
{
    return (theus_files_kind){.backend = arena->backend, .memory = arena->memory, .lends = arena->loan_count > 0};
}

static theus_status
make_files(theus_arena *arena)
{
    theus_status status = theus_files_create(files_of(arena), arena->control_size, arena->data_size,
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
    return theus_files_seal(files_of(arena), arena->control_fd, arena->data_fd);
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

static void fork_begins(void);
static void fork_in_parent(void);
static void fork_in_child(void);

static theus_status
watch_process(void)
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
    (void)watch_process(); /* without memory for that, a child inherits what it can do nothing with */
    theus_mutex_lock(&process.files);
}

void
theus_let_forks(void)
{
    theus_mutex_unlock(&process.files);
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
    theus_status status = watch_process();
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
    theus_mutex_lock(&process.files);
    status = make_arena(arena, session, kind->capacity);
    if (status == THEUS_OK) {
        enlist(arena);
    }
    else {
        close_arena(arena);
    }
    theus_mutex_unlock(&process.files);
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
    status = theus_files_open_data(name, files_of(arena), arena->header->data_fd, &arena->data_fd, &arena->data_size);
    if (status != THEUS_OK) {
        return status == THEUS_GONE ? THEUS_STALE : status;
    }
    if (arena->data_size == 0 || arena->data_size != arena->header->data_size) {
        return THEUS_BAD_TOKEN;
    }
    return theus_shm_map(arena->data_fd, 0, arena->data_size, THEUS_MAP_READ, (void **)&arena->data);
}

static theus_status
arena_open(const theus_arena_name *name, theus_arena **out)
{
    theus_status status = watch_process();
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
        arena->self = join(arena, arena->control_fd);
        /* The owner may have died, or closed it, after the files were opened and before we had a number. */
        status = arena->self == THEUS_SHM_NOBODY ? THEUS_CROWDED : check_header(arena, name, &unused);
    }
    if (status != THEUS_OK) {
        close_arena(arena);
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
    theus_arena *it = process.first;
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
    for (theus_arena *it = process.first; it != NULL; it = it->next) {
        if (!theus_arena_is_owned(it) && it->refs == 1
            && (!outdated || atomic_load(&it->header->closed) != 0 || !theus_byte_is_locked(it->control_fd, THEUS_SHM_OWNER))) {
            return theus_arena_drop_locked(it);
        }
    }
    return NULL;
}

theus_status
theus_arena_attach(const theus_arena_name *name, theus_arena **out)
{
    *out = find(name->id);
    if (*out != NULL) {
        return THEUS_OK;
    }
    theus_status status = THEUS_OK;
    theus_mutex_lock(&process.files);
    *out = find(name->id); /* another thread may have been faster */
    if (*out == NULL && (status = arena_open(name, out)) == THEUS_OK) {
        (*out)->refs++; /* the first one is the list's */
        enlist(*out);
    }
    theus_mutex_unlock(&process.files);
    theus_shm_lock();
    theus_arena *outdated = take_borrowed_locked(true); /* one goes when one comes: they cannot gather */
    theus_shm_unlock();
    theus_arena_destroy(outdated);
    return status;
}

void
theus_arenas_forget(void)
{
    theus_arena *unused;
    do {
        theus_shm_lock();
        unused = take_borrowed_locked(false);
        theus_shm_unlock();
        theus_arena_destroy(unused);
    } while (unused != NULL);
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
    arena->child = join(arena, arena->child_fd);
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
 * hold descriptions, too. (A child that got no description of its own keeps the parent's, and the parent looks alive as
 * long as it lives.) */
static void
leave_descriptions(theus_arena *arena)
{
    if (arena->child_fd >= 0) {
        theus_shm_remap(arena->child_fd, 0, arena->header, arena->control_size, THEUS_MAP_WRITE);
    }
    theus_shm_close(arena->control_fd);
    arena->control_fd = arena->child_fd;
    arena->child_fd = -1;
    theus_files_lose_write(files_of(arena), &arena->data_fd);
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
        close_arena(it);
    }
    theus_shm_unlock();
    theus_mutex_unlock(&process.files);
}
