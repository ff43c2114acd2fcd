/* Foreign code that comes back: equal(), release() and apply() that use the transaction they were called from, and
 * callbacks that fail. Nothing breaks, what the body sees last is what is committed, and nothing is left over. */
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
apply_and_come_back(void *ctx, theus_deferred_kind kind, theus_value old, theus_value operand,
                    void *resolver, theus_value *out)
{
    come_back();
    (void)kind;
    (void)resolver;
    (void)ctx;
    theus_value made = old == THEUS_NONE || theus_value_kind(old) != THEUS_ATOM ? operand : old;
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
    for (int i = 0; i < 40; i++) { /* the table of children moves; some stand before where it was walked */
        char path[16];
        snprintf(path, sizeof(path), "1.%llu", (unsigned long long)(20 + (atom->id + (unsigned)i) % 40));
        cell_at(hook.session, path);
    }
}

static void
remove_another(fake_atom *atom)
{
    char path[16];
    snprintf(path, sizeof(path), "1.%llu", (unsigned long long)((atom->id - 100) % 5 + 20));
    discard(hook.session, path); /* its children close ranks */
}

static void
test_fold(void (*comes_back)(fake_atom *atom), bool writes)
{
    scene scene;
    scene_open(&scene, "{1:{}}");
    session *setup = session_open(&scene, THEUS_SERIALIZABLE);
    char path[16];
    for (int i = 0; i < 60; i++) {
        snprintf(path, sizeof(path), "1.%d", i);
        set(setup, path, "{3:0}");
    }
    session_done(setup);
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    hook.session = tx;
    for (uint64_t i = 0; i < 12; i++) { /* what will fall: in the frozen content, and then nowhere else */
        snprintf(path, sizeof(path), "1.%llu", (unsigned long long)i);
        fake_atom *key = fake_new(3), *value = fake_new(100 + i);
        value->on_free = comes_back;
        REQUIRE(theus_cell_store(cell_at(tx, path), NULL, 3, key, theus_value_of_atom(value)) == THEUS_OK);
        fake_release(key);
        fake_release(value);
    }
    for (int i = 20; i < 25; i++) {
        snprintf(path, sizeof(path), "1.%d.3", i);
        set(tx, path, "5");
    }
    theus_container *content;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 12; i++) {
            snprintf(path, sizeof(path), "1.%d.3", i);
            if (round == 1) {
                set(tx, path, "6");
            }
        }
        REQUIRE(theus_cell_freeze(tx->txn.root, &content) == THEUS_OK);
        CHECK(is_folded(tx));
        theus_container_release(content);
    }
    hook.session = NULL;
    CHECK(get(tx, "1.0.3") == (writes ? 7 : 6) && get(tx, "1.11.3") == (writes ? 7 : 6));
    session_done(tx);
    tx = session_open(&scene, THEUS_SERIALIZABLE);
    for (int i = 0; i < 12; i++) {
        snprintf(path, sizeof(path), "1.%d.3", i);
        CHECK(get(tx, path) == (writes ? 7 : 6));
    }
    session_close(tx);
    scene_close(&scene);
}

/* ---- callbacks that fail ---------------------------------------------------------------------------- */

/* After any failure the same transaction goes on as if nothing had been tried. */
static void
test_failing_callbacks(void)
{
    scene scene;
    scene_open(&scene, "{1:10 2:{3:30}}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    theus_cell *root = tx->txn.root;
    fake_atom *twin = fake_new(1), *value = fake_new(5);
    theus_value word = theus_value_of_atom(value), there;
    uint32_t pos;
    send(tx, 1, 1);
    fakes.fail_equal = 1;
    CHECK(theus_cell_lookup(root, NULL, 1, twin, &pos, &there) == THEUS_FIND_FAILED);
    CHECK(tx->txn.find_status == THEUS_FOREIGN);
    CHECK(theus_cell_probe(root, NULL, 1, twin, &pos, &there) == THEUS_FIND_FAILED);
    CHECK(theus_cell_store(root, NULL, 1, twin, word) == THEUS_FOREIGN);
    CHECK(theus_txn_signal(&tx->txn, NULL, 1, twin, word) == THEUS_FOREIGN);
    CHECK(theus_cell_defer(root, THEUS_ADD, 1, twin, 0, word, NULL) == THEUS_OK);
    CHECK(theus_cell_settle(root, NULL) == THEUS_FOREIGN && root->deferred != NULL);
    theus_container *content;
    CHECK(theus_cell_freeze(root, &content) == THEUS_FOREIGN);
    theus_savepoint *savepoint;
    CHECK(theus_txn_save(&tx->txn, &savepoint) == THEUS_FOREIGN && tx->txn.savepoint == NULL);
    CHECK(theus_cell_put(root, 1, word) == THEUS_FOREIGN);
    CHECK(theus_cell_clear(root) == THEUS_FOREIGN);
    fakes.fail_equal = 0;
    CHECK(root->writes.count == 0 && root->absent == NULL);
    CHECK(get(tx, "1") == 15);
    session_done(tx);
    CHECK(scene_is(&scene, "{1:15 2:{3:30}}"));
    fake_release(twin);
    fake_release(value);
    scene_close(&scene);
}

static int
apply_fails(void *ctx, theus_deferred_kind kind, theus_value old, theus_value operand, void *resolver,
            theus_value *out)
{
    (void)ctx;
    (void)kind;
    (void)old;
    (void)operand;
    (void)resolver;
    (void)out;
    return -1;
}

static void
commit_failing(scene *scene, int fail_hash, int fail_equal, void (*prepare)(session *tx))
{
    session *tx = session_open(scene, THEUS_SERIALIZABLE);
    prepare(tx);
    commit_set(scene, "2.9", "1"); /* so that it has to look keys up */
    commit_set(scene, "2.9", NULL);
    commit_set(scene, "8", "80");
    commit_set(scene, "8", NULL);
    uint64_t version = scene_version(scene);
    fakes.fail_hash = fail_hash;
    fakes.fail_equal = fail_equal;
    CHECK(session_commit(tx) == THEUS_COMMIT_FAILED && tx->status == THEUS_FOREIGN);
    fakes.fail_hash = fakes.fail_equal = 0;
    session_close(tx);
    CHECK(scene_version(scene) == version && scene_is(scene, "{1:10 2:{3:30} 4:[1]}"));
    scene_check(scene);
}

static void
prepare_read(session *tx)
{
    get(tx, "2.3");
    set(tx, "1", "11");
}

static void
prepare_absence(session *tx)
{
    theus_cell *root = tx->txn.root;
    fake_atom *key = fake_new_hashed(99, 1); /* collides with key 1 */
    uint32_t pos;
    theus_value value;
    CHECK(theus_cell_lookup(root, NULL, 1, key, &pos, &value) == THEUS_ABSENT);
    fake_release(key);
    set(tx, "2.5", "50");
}

static void
prepare_write(session *tx)
{
    set(tx, "1", "11");
}

static void
prepare_apply(session *tx)
{
    add(tx, "1", 1);
    tx->txn.apply = apply_fails;
}

static void
prepare_signal(session *tx)
{
    send(tx, 1, 1);
}

static void
test_commits_fail(void)
{
    scene scene;
    scene_open(&scene, "{1:10 2:{3:30} 4:[1]}");
    commit_failing(&scene, 1, 0, prepare_read);
    commit_failing(&scene, 0, 1, prepare_absence);
    commit_failing(&scene, 1, 0, prepare_write);
    commit_failing(&scene, 0, 0, prepare_apply);
    commit_failing(&scene, 1, 0, prepare_signal);
    scene_close(&scene);
}

/* ---- at commit ---------------------------------------------------------------------------------------- */

static int entered;

static void
try_to_enter(void *ctx, fake_atom *a, fake_atom *b)
{
    (void)ctx;
    (void)a;
    (void)b;
    entered += theus_txn_enter(&hook.session->txn) != THEUS_ENDED;
    theus_txn_abort(&hook.session->txn); /* it is not the body's any more */
}

/* For whatever runs inside the commit, the transaction has ended: its logs are being read. */
static void
test_commit_is_closed(void)
{
    scene scene;
    scene_open(&scene, "{1:10 2:20}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    fake_atom *key = fake_new(1), *value = fake_new(11);
    REQUIRE(theus_cell_store(tx->txn.root, NULL, 1, key, theus_value_of_atom(value)) == THEUS_OK);
    fake_release(key);
    fake_release(value);
    commit_set(&scene, "1", NULL);
    commit_set(&scene, "1", "12"); /* another key object: it is compared */
    hook.session = tx;
    fakes.on_equal = try_to_enter;
    long calls = fakes.equal_calls;
    CHECK(session_commit(tx) == THEUS_COMMITTED && fakes.equal_calls > calls && entered == 0);
    fakes.on_equal = NULL;
    hook.session = NULL;
    session_close(tx);
    CHECK(scene_is(&scene, "{2:20 1:11}"));
    scene_close(&scene);
}

/* Deferred on a list, whose body shortens it while it is applied. */
static int
apply_and_shorten(void *ctx, theus_deferred_kind kind, theus_value old, theus_value operand,
                  void *resolver, theus_value *out)
{
    theus_cell *list = cell_at(hook.session, "1");
    while (list->now->count > 0) {
        REQUIRE(theus_cell_splice(list, 0, 1, NULL, 0) == THEUS_OK);
    }
    return fake_apply(ctx, kind, old, operand, resolver, out);
}

static void
test_list_shortened_by_apply(void)
{
    scene scene;
    scene_open(&scene, "{1:[1 2 3]}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    hook.session = tx;
    add(tx, "1.2", 1);
    tx->txn.apply = apply_and_shorten;
    theus_cell *list = cell_at(tx, "1");
    CHECK(theus_cell_settle(list, NULL) == THEUS_CHANGED && list->now->count == 0);
    hook.session = NULL;
    session_close(tx);
    scene_close(&scene);
}

/* A resolver that defers again: once applied it is part of the value, never lost. */
static int applications;

static int
apply_and_defer(void *ctx, theus_deferred_kind kind, theus_value old, theus_value operand, void *resolver,
                theus_value *out)
{
    if (applications++ == 0) {
        add(hook.session, "1", 100);
        add(hook.session, "1", 1000);
        CHECK(get(hook.session, "1") == 0); /* being applied: what is there so far */
    }
    return fake_apply(ctx, kind, old, operand, resolver, out);
}

static void
test_defer_in_apply(void)
{
    scene scene;
    scene_open(&scene, "{1:0}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    hook.session = tx;
    tx->txn.apply = apply_and_defer;
    add(tx, "1", 1);
    add(tx, "1", 10);
    CHECK(theus_cell_settle(tx->txn.root, NULL) == THEUS_OK && tx->txn.root->deferred != NULL);
    CHECK(get_id(tx->txn.root->now, 1) == 11);
    CHECK(get(tx, "1") == 1111);
    session_done(tx);
    hook.session = NULL;
    CHECK(scene_is(&scene, "{1:1111}"));
    scene_close(&scene);
}

/* An application that fails half way leaves the rest as it was deferred, in order; what was deferred meanwhile comes
 * after it. */
static int fails_at;

static int
apply_sometimes(void *ctx, theus_deferred_kind kind, theus_value old, theus_value operand, void *resolver,
                theus_value *out)
{
    if (--fails_at == 0) {
        fake_atom *key = fake_new(1), *last = fake_new(9);
        REQUIRE(theus_cell_defer(hook.session->txn.root, THEUS_APPEND, 1, key, 0, theus_value_of_atom(last), NULL)
                == THEUS_OK);
        fake_release(key);
        fake_release(last);
        return -1;
    }
    return fake_apply(ctx, kind, old, operand, resolver, out);
}

static void
test_order_after_a_failure(void)
{
    scene scene;
    scene_open(&scene, "{1:[0]}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    fake_atom *key = fake_new(1);
    hook.session = tx;
    tx->txn.apply = apply_sometimes;
    for (uint64_t i = 1; i <= 4; i++) {
        fake_atom *item = fake_new(i);
        REQUIRE(theus_cell_defer(tx->txn.root, THEUS_APPEND, 1, key, 0, theus_value_of_atom(item), NULL)
                == THEUS_OK);
        fake_release(item);
    }
    fake_release(key);
    fails_at = 2;
    CHECK(theus_cell_settle(tx->txn.root, NULL) == THEUS_FOREIGN);
    CHECK(reads_as(tx, "", "{1:[0 1 2 3 4 9]}"));
    session_done(tx);
    hook.session = NULL;
    CHECK(scene_is(&scene, "{1:[0 1 2 3 4 9]}"));
    scene_close(&scene);
}

/* The collector may come while a transaction gives back what it held: it must not see what is gone. */
static int
visit_one(void *atom, void *arg)
{
    (void)arg;
    CHECK(((fake_atom *)atom)->refs > 0);
    return 0;
}

static void
collect(fake_atom *atom)
{
    (void)atom;
    hook.calls++;
    CHECK(theus_txn_visit(&hook.session->txn, visit_one, NULL) == 0);
}

static void
test_collection_at_the_end(void)
{
    for (int settle = 0; settle < 2; settle++) {
        scene scene;
        scene_open(&scene, "{1:0}");
        session *tx = session_open(&scene, THEUS_SERIALIZABLE);
        hook.session = tx;
        for (uint64_t i = 1; i < 6; i++) {
            fake_atom *key = fake_new(i), *operand = fake_new(1), *missed = fake_new(50 + i);
            uint32_t pos;
            theus_value value;
            key->on_free = operand->on_free = missed->on_free = collect;
            REQUIRE(theus_cell_lookup(tx->txn.root, NULL, missed->hash, missed, &pos, &value) == THEUS_ABSENT);
            REQUIRE(theus_cell_defer(tx->txn.root, THEUS_ADD, i, key, 0, theus_value_of_atom(operand), NULL)
                    == THEUS_OK);
            fake_release(key);
            fake_release(operand);
            fake_release(missed);
        }
        if (settle) {
            CHECK(theus_cell_settle(tx->txn.root, NULL) == THEUS_OK);
        }
        long calls = hook.calls;
        theus_txn_abort(&tx->txn);
        CHECK(hook.calls >= calls + 10);
        hook.session = NULL;
        session_close(tx);
        scene_close(&scene);
    }
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
    test_fold(remove_another, false);
    test_failing_callbacks();
    test_commits_fail();
    test_commit_is_closed();
    test_list_shortened_by_apply();
    test_defer_in_apply();
    test_order_after_a_failure();
    test_collection_at_the_end();
    return check_result();
}
