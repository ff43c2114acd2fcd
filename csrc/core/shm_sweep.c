/* See shm_sweep.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* strnlen */
#endif

#include "shm_sweep.h"

#include "shm_arena.h"
#include "shm_ledger.h"
#include "shm_slots.h"

#include <assert.h>
#include <string.h>

typedef struct {
    const char *folder;
    bool remove;
    void (*tell)(void *context, const theus_left *left);
    void *context;
} sweep;

/* The other file of an arena, whatever its format: only the end of the name differs. */
static theus_file_name
sibling_of(const char *name, theus_file_kind kind)
{
    theus_file_name other;
    size_t stem = (size_t)(strrchr(name, '.') - name);
    const char *suffix = kind == THEUS_FILE_CONTROL ? ".control" : ".data";
    assert(stem + strlen(suffix) < sizeof(other.text));
    memcpy(other.text, name, stem);
    strcpy(other.text + stem, suffix);
    return other;
}

static bool
is_there(const sweep *its, const char *name, uint64_t *bytes)
{
    theus_name_facts facts;
    if (theus_name_look(its->folder, name, &facts) != THEUS_OK) {
        return false;
    }
    *bytes += facts.bytes;
    return true;
}

/* What the header says, if there is one: for people. Nothing depends on it. */
static void
read_header(int control, theus_left *left)
{
    theus_shm_header header;
    bool whole = theus_file_read(control, &header, sizeof(header)) == sizeof(header);
    if (whole && atomic_load(&header.magic) == THEUS_SHM_MAGIC && header.format == THEUS_SHM_FORMAT) {
        left->made_ns = header.made_ns;
        memcpy(left->session, header.session, strnlen(header.session, THEUS_SESSION_MAX));
    }
}

/* Data first: alone they would be nobody's, for the next one. */
static void
remove_arena(const sweep *its, const char *control, theus_left *left)
{
    theus_file_name data = sibling_of(control, THEUS_FILE_DATA);
    THEUS_SHM_STEP("sweep: dead");
    (void)theus_name_remove(its->folder, data.text);
    THEUS_SHM_STEP("sweep: data");
    left->removed = theus_name_remove(its->folder, control);
    THEUS_SHM_STEP("sweep: control");
    if (!left->removed) {
        left->why = THEUS_LEFT_CLOSED;
    }
}

/* Finds out whether the owner of a control file of this user lives. False: it is not there any more. */
static bool
judge(const sweep *its, const char *name, theus_left *left)
{
    int control;
    uint64_t size;
    switch (theus_name_open(its->folder, name, false, &control, &size)) {
    case THEUS_OK:
        break;
    case THEUS_GONE: /* or it has a second name, which is none of our doing */
        left->why = THEUS_LEFT_FOREIGN;
        left->bytes = 0;
        return is_there(its, name, &left->bytes);
    default:
        left->why = THEUS_LEFT_CLOSED;
        return true;
    }
    left->why = theus_byte_is_locked(control, THEUS_SHM_OWNER) ? THEUS_LEFT_ALIVE : THEUS_LEFT_DEAD;
    if (its->tell != NULL) {
        read_header(control, left);
    }
    bool remove = its->remove && left->why == THEUS_LEFT_DEAD;
    if (theus_ledger_sweep(its->folder, control, remove, &left->bytes) != THEUS_OK) {
        remove = false; /* what stands in it must not lose it */
    }
    theus_shm_close(control);
    (void)is_there(its, sibling_of(name, THEUS_FILE_DATA).text, &left->bytes);
    if (remove) {
        remove_arena(its, name, left);
    }
    uint64_t unused = 0;
    return left->removed || is_there(its, name, &unused); /* its owner, or another sweep, may have been faster */
}

/* Data count with their control file. False: that is there, or they are not. */
static bool
judge_data(const sweep *its, const char *name, theus_left *left)
{
    uint64_t bytes = 0;
    if (is_there(its, sibling_of(name, THEUS_FILE_CONTROL).text, &bytes)) {
        return false;
    }
    bytes = 0;
    left->why = THEUS_LEFT_ORPHAN;
    if (its->remove) {
        left->removed = theus_name_remove(its->folder, name);
        left->why = left->removed ? THEUS_LEFT_ORPHAN : THEUS_LEFT_CLOSED;
    }
    return left->removed || is_there(its, name, &bytes);
}

static void
visit(void *context, const char *name)
{
    const sweep *its = context;
    theus_left left = {.why = THEUS_LEFT_FOREIGN, .name = name};
    theus_name_facts facts;
    theus_arena_name arena;
    theus_file_kind kind;
    uint32_t format;
    bool there = theus_name_look(its->folder, name, &facts) == THEUS_OK;
    if (there) {
        left.bytes = facts.bytes;
    }
    if (there && facts.regular && theus_file_name_parse(name, &arena, &format, &kind)) {
        left.pid = arena.pid;
        if (!facts.mine) {
            left.why = THEUS_LEFT_OTHERS;
        }
        else {
            there = kind == THEUS_FILE_CONTROL ? judge(its, name, &left) : judge_data(its, name, &left);
        }
    }
    if (there && its->tell != NULL) {
        its->tell(its->context, &left);
    }
}

theus_status
theus_sweep(const char *folder, bool remove, void (*tell)(void *context, const theus_left *left), void *context)
{
    sweep its = {folder, remove, tell, context};
    theus_hold_forks(); /* a child would keep the folder and the file open that are being looked at */
    theus_status status = theus_names_each(folder, THEUS_FILE_PREFIX, visit, &its);
    theus_let_forks();
    return status;
}
