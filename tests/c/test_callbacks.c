/* Callbacks that fail, that come at a bad moment, or that change what they were called about. */
#include "scene.h"

/* What the callbacks here need to know. */
static struct {
    session *session;
    long calls;
} hook;

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
apply_fails(void *ctx, const theus_application *what, theus_value *out)
{
    (void)ctx;
    (void)what;
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
apply_and_shorten(void *ctx, const theus_application *what, theus_value *out)
{
    theus_cell *list = cell_at(hook.session, "1");
    while (list->now->count > 0) {
        REQUIRE(theus_cell_splice(list, 0, 1, NULL, 0) == THEUS_OK);
    }
    return fake_apply(ctx, what, out);
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
apply_and_defer(void *ctx, const theus_application *what, theus_value *out)
{
    if (applications++ == 0) {
        add(hook.session, "1", 100);
        add(hook.session, "1", 1000);
        CHECK(get(hook.session, "1") == 0); /* being applied: what is there so far */
    }
    return fake_apply(ctx, what, out);
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
apply_sometimes(void *ctx, const theus_application *what, theus_value *out)
{
    if (--fails_at == 0) {
        fake_atom *key = fake_new(1), *last = fake_new(9);
        REQUIRE(theus_cell_defer(hook.session->txn.root, THEUS_APPEND, 1, key, 0,
                                 theus_value_of_atom(last), NULL)
                == THEUS_OK);
        fake_release(key);
        fake_release(last);
        return -1;
    }
    return fake_apply(ctx, what, out);
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
        REQUIRE(
            theus_cell_defer(tx->txn.root, THEUS_APPEND, 1, key, 0, theus_value_of_atom(item), NULL)
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
            REQUIRE(theus_cell_lookup(tx->txn.root, NULL, missed->hash, missed, &pos, &value)
                    == THEUS_ABSENT);
            REQUIRE(theus_cell_defer(tx->txn.root, THEUS_ADD, i, key, 0,
                                     theus_value_of_atom(operand), NULL)
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
main(void)
{
    test_failing_callbacks();
    test_commits_fail();
    test_commit_is_closed();
    test_list_shortened_by_apply();
    test_defer_in_apply();
    test_order_after_a_failure();
    test_collection_at_the_end();
    return check_result();
}
