/* Foreign code that comes back: equal(), release() and apply() that use the transaction they were called
 * from. Nothing breaks, what the body sees last is what is committed, and nothing is left over. */
#include "scene.h"

/* ---- a body that comes back ----------------------------------------------------------------------- */

/* Random operations on the transaction, from inside one of its operations. */
static struct {
    session *session;
    scene *scene;
    unsigned long long random;
    int depth;
    long calls;
} hook;

enum { DEPTH_MAX = 3, KEYS = 12 };

static void come_back(void);

static void
on_equal(void *ctx, fake_atom *a, fake_atom *b)
{
    (void)ctx;
    (void)a;
    (void)b;
    come_back();
}

static void
on_free(fake_atom *atom)
{
    (void)atom;
    come_back();
}

static uint32_t
below(uint32_t bound)
{
    return check_random(&hook.random, bound);
}

/* Keys collide, so that they are compared; values come back when they are freed. */
static fake_atom *
hostile_key(void)
{
    uint64_t id = below(KEYS);
    return fake_new_hashed(id, id % 3);
}

static theus_value
hostile_value(void)
{
    theus_value value = value_of(hook.scene->heap, below(3) > 0   ? "7"
                                                   : below(2) > 0 ? "{1:1 2:{3:3}}"
                                                                  : "[1 2 3]");
    if (theus_value_kind(value) == THEUS_ATOM) {
        ((fake_atom *)theus_value_atom(value))->on_free = on_free;
    }
    return value;
}

/* A cell that the body can reach: two steps at most. */
static theus_cell *
some_cell(void)
{
    theus_cell *cell = hook.session->txn.root;
    for (uint32_t steps = below(3); steps > 0 && cell->now->count > 0; steps--) {
        uint32_t pos = theus_container_nth(cell->now, below(cell->now->count));
        if (theus_value_kind(theus_container_value_at(cell->now, pos)) != THEUS_ATOM) {
            REQUIRE(theus_cell_enter(cell, pos, &cell) == THEUS_OK);
        }
    }
    return cell;
}

static bool
may_fail(theus_status status)
{
    return status == THEUS_OK || status == THEUS_CHANGED || status == THEUS_BAD_PATH
           || (status == THEUS_FOREIGN && (fakes.fail_equal || fakes.fail_hash));
}

static void
write_list(theus_cell *cell)
{
    theus_value value = hostile_value();
    uint32_t count = cell->now->count;
    if (count > 0 && below(3) == 0) {
        CHECK(may_fail(theus_cell_put(cell, below(count), value)));
    }
    else {
        uint32_t start = below(count + 1), drop = start < count ? below(3) : 0;
        drop = drop > count - start ? count - start : drop;
        CHECK(may_fail(theus_cell_splice(cell, start, drop, &value, below(2))));
    }
    theus_value_release(hook.scene->heap, value);
}

static void
write_map(theus_cell *cell)
{
    fake_atom *key = hostile_key();
    uint32_t pos;
    theus_value value, there;
    switch (below(6)) {
    case 0:
        if (theus_cell_lookup(cell, NULL, key->hash, key, &pos, &there) == THEUS_FOUND) {
            CHECK(may_fail(theus_cell_remove(cell, key->hash, pos)));
        }
        break;
    case 1:
        CHECK(may_fail(theus_cell_clear(cell)));
        break;
    case 2:
        if (cell->now->kind == THEUS_MAP) {
            value = theus_value_of_atom(fake_new(1));
            CHECK(may_fail(theus_cell_defer(cell, THEUS_MERGE, key->hash, key, 0, value, NULL)));
            theus_value_release(hook.scene->heap, value);
        }
        break;
    default:
        value = hostile_value();
        CHECK(may_fail(theus_cell_store(cell, NULL, key->hash, key, value)));
        theus_value_release(hook.scene->heap, value);
    }
    fake_release(key);
}

static void
savepoint_around(void (*body)(void))
{
    theus_savepoint *savepoint;
    theus_status status = theus_txn_save(&hook.session->txn, &savepoint);
    CHECK(may_fail(status));
    if (status != THEUS_OK) {
        return;
    }
    body();
    if (below(2) == 0) {
        theus_savepoint_release(savepoint);
    }
    else {
        theus_savepoint_rollback(savepoint);
    }
}

static void
step(void)
{
    theus_cell *cell = some_cell();
    theus_container *content;
    theus_status status;
    switch (below(10)) {
    case 0:
        status = theus_cell_freeze(cell, &content);
        CHECK(may_fail(status));
        if (status == THEUS_OK) {
            CHECK(content->edit == 0);
            theus_container_release(content);
        }
        break;
    case 1:
        if (hook.depth < DEPTH_MAX) {
            savepoint_around(step);
        }
        break;
    case 2:
        send(hook.session, below(4), below(4));
        break;
    default:
        if (cell->now->kind == THEUS_LIST) {
            write_list(cell);
        }
        else {
            write_map(cell);
        }
    }
}

static void
come_back(void)
{
    if (hook.session == NULL || hook.depth >= DEPTH_MAX || below(3) > 0) {
        return;
    }
    hook.depth++;
    hook.calls++;
    if (theus_txn_enter(&hook.session->txn) == THEUS_OK) {
        step();
        theus_txn_leave(&hook.session->txn);
    }
    hook.depth--;
}

static int
apply_and_come_back(void *ctx, const theus_application *what, theus_value *out)
{
    theus_value old = what->old;
    come_back();
    theus_value made = old == THEUS_NONE || theus_value_kind(old) != THEUS_ATOM ? what->operand : old;
    theus_value_retain(ctx, made);
    *out = made;
    return 0;
}

/* After a freeze of the root, every container holds what the cells below it have become. */
static bool
is_folded(const session *session)
{
    bool folded = true;
    for (const theus_cell *cell = session->txn.root->next; cell != NULL; cell = cell->next) {
        if (cell->touched && theus_cell_is_attached(cell)) {
            folded &= theus_container_value_at(cell->parent->now, cell->pos)
                      == theus_value_of_container(cell->now);
        }
    }
    return folded;
}

static void
test_reentry(unsigned long long seed)
{
    scene scene;
    scene_open(&scene, "{1:{} 2:[1 2 3] 3:{1:{} 2:{}} 4:(1 2)}");
    char seen[1 << 14];
    for (int round = 0; round < 6; round++) {
        session *session = session_open(&scene, THEUS_SERIALIZABLE);
        session->txn.apply = apply_and_come_back;
        hook.scene = &scene;
        hook.session = session;
        hook.random = seed * 1000003 + (unsigned)round + 1;
        fakes.on_equal = on_equal;
        for (int i = 0; i < 25; i++) {
            CHECK(theus_txn_enter(&session->txn) == THEUS_OK);
            step();
            theus_txn_leave(&session->txn);
        }
        hook.session = NULL; /* the last look is a quiet one */
        theus_container *content;
        REQUIRE(theus_cell_freeze(session->txn.root, &content) == THEUS_OK);
        value_show(theus_value_of_container(content), seen, sizeof(seen));
        theus_container_release(content);
        CHECK(is_folded(session));
        CHECK_SOUND(theus_heap_check(scene.heap));
        hook.session = session;
        if (round == 5) { /* released while the transaction ends: it has ended for them */
            session_close(session);
        }
        else {
            CHECK(session_commit(session) != THEUS_CONFLICTED);
            CHECK(session->outcome != THEUS_COMMIT_FAILED);
            CHECK(scene_is(&scene, seen));
            session_close(session);
        }
        hook.session = NULL;
        fakes.on_equal = NULL;
    }
    scene_close(&scene);
}

/* ---- during a fold -------------------------------------------------------------------------------------- */

/* What falls out of the parent, when it gets the new content of a child, comes back while the rest waits. */
static void
write_the_child(fake_atom *atom)
{
    char path[16];
    snprintf(path, sizeof(path), "1.%llu.3", (unsigned long long)(atom->id - 100));
    set(hook.session, path, "7");
}

static void
enter_others(fake_atom *atom)
{
    (void)atom;
    for (int i = 20; i < 60; i++) { /* the table of children grows */
        char path[16];
        snprintf(path, sizeof(path), "1.%d", i);
        cell_at(hook.session, path);
    }
}

/* Positions 0, 64 and 128 want the same place in a table of 64; when the first that came goes, the others move
 * up, over where it was walked. */
static void
remove_others(fake_atom *atom)
{
    (void)atom;
    for (int i = 64; i < 140; i++) {
        char path[16];
        snprintf(path, sizeof(path), "1.%d", i);
        discard(hook.session, path);
    }
}

static void
test_fold(void (*comes_back)(fake_atom *atom), bool writes)
{
    scene scene;
    scene_open(&scene, "{1:{}}");
    session *setup = session_open(&scene, THEUS_SERIALIZABLE);
    char path[16];
    for (int i = 0; i < 140; i++) {
        snprintf(path, sizeof(path), "1.%d", i);
        set(setup, path, "{3:0}");
    }
    session_done(setup);
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    hook.session = tx;
    for (int i = 64; i < 140; i++) {
        snprintf(path, sizeof(path), "1.%d", i);
        if (i % 64 < 12) {
            cell_at(tx, path);
        }
    }
    for (uint64_t i = 0; i < 12;
         i++) { /* what will fall: soon in the frozen content, and nowhere else */
        snprintf(path, sizeof(path), "1.%llu", (unsigned long long)i);
        fake_atom *key = fake_new(3), *value = fake_new(100 + i);
        value->on_free = comes_back;
        REQUIRE(theus_cell_store(cell_at(tx, path), NULL, 3, key, theus_value_of_atom(value))
                == THEUS_OK);
        fake_release(key);
        fake_release(value);
    }
    theus_container *content;
    for (int round = 0; round < 3; round++) { /* the container, again with new values, then all */
        for (int i = 0; round == 1 && i < 12; i++) {
            snprintf(path, sizeof(path), "1.%d.3", i);
            set(tx, path, "6");
        }
        REQUIRE(theus_cell_freeze(round < 2 ? cell_at(tx, "1") : tx->txn.root, &content)
                == THEUS_OK);
        CHECK(round < 2 || is_folded(tx));
        theus_container_release(content);
    }
    hook.session = NULL;
    session_done(tx);
    tx = session_open(&scene, THEUS_SERIALIZABLE);
    for (int i = 0; i < 12; i++) {
        snprintf(path, sizeof(path), "1.%d.3", i);
        CHECK(get(tx, path) == (writes ? 7 : 6));
    }
    session_close(tx);
    scene_close(&scene);
}

int
main(int count, char **arguments)
{
    unsigned long long from = count > 1 ? strtoull(arguments[1], NULL, 10) : 1;
    unsigned long long until = count > 2 ? strtoull(arguments[2], NULL, 10) : from + 150;
    for (unsigned long long seed = from; seed < until && check_result() == 0; seed++) {
        test_reentry(seed);
        if (check_result() != 0) {
            fprintf(stderr, "seed %llu\n", seed);
        }
    }
    CHECK(hook.calls > 500);
    test_fold(write_the_child, true);
    test_fold(enter_others, false);
    test_fold(remove_others, false);
    return check_result();
}
