/* The gate: replay on a newer version, deferred operations, signals, records, compare-and-swap, compaction. */
#include "scene.h"

static uint64_t
counter(const scene *scene, size_t offset)
{
    return atomic_load((_Atomic(uint64_t) *)((char *)theus_store_counters(scene->store) + offset));
}
#define COUNTER(scene, name) counter(scene, offsetof(theus_counters, name))

/* ---- replay --------------------------------------------------------------------------------- */

/* Every kind of write, repeated on top of somebody else's. */
static void
test_replay(void)
{
    scene scene;
    scene_open(&scene, "{1:10 2:20 3:{4:40 5:50} 6:(60 61) 7:[70 71]}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    set(tx, "1", "11");
    set(tx, "8", "{9:90}");
    set(tx, "8.9", "91"); /* in a container of one's own */
    discard(tx, "2");
    discard(tx, "3.4");
    set(tx, "3.4", "41"); /* removed and stored again: at the end */
    set(tx, "3.6", "1");
    discard(tx, "3.6"); /* came and went */
    set(tx, "3.8", "1");
    discard(tx, "3.8");
    set(tx, "3.8", "80");
    include(tx, "6", 62);
    exclude(tx, "6", 60);
    set(tx, "7.0", "{1:1}");
    set(tx, "7.0.2", "2");
    commit_set(&scene, "3.7", "77");
    commit_set(&scene, "9", "99");
    session *other = session_open(&scene, THEUS_SERIALIZABLE);
    include(other, "6", 63);
    session_done(other);
    session_done(tx);
    CHECK(scene_is(&scene,
                   "{1:11 3:{5:50 7:77 4:41 8:80} 6:(61 63 62) 7:[{1:1 2:2} 71] 9:99 8:{9:91}}"));
    CHECK(COUNTER(&scene, commits) == 4 && COUNTER(&scene, rebases) == 1);
    scene_close(&scene);
}

/* Blind, so nothing is checked: what another has removed is stored anew, what he has stored is overwritten, what
 * both remove is gone. */
static void
test_replay_of_blind_writes(void)
{
    scene scene;
    scene_open(&scene, "{1:10 2:20 3:30 4:{}}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    set(tx, "1", "11");
    set(tx, "5", "50");
    set(tx, "4", "{6:60}");
    commit_set(&scene, "1", NULL);
    commit_set(&scene, "5", "55");
    commit_set(&scene, "4.7", "70");
    session_done(tx);
    CHECK(scene_is(&scene, "{2:20 3:30 4:{6:60} 5:50 1:11}"));
    scene_close(&scene);
}

/* A lost publish sends the transaction round again: this store loses it a few times. */
static int rivals;
static scene *contended;

static int
apply_with_rival(void *ctx, const theus_application *what, theus_value *out)
{
    if (rivals > 0) {
        rivals--;
        session *rival = session_open(contended, THEUS_SERIALIZABLE);
        char path[16];
        snprintf(path, sizeof(path), "%d", 100 + rivals);
        set(rival, path, "1");
        add(rival, "1", 1);
        session_done(rival);
    }
    return fake_apply(ctx, what, out);
}

static void
test_lost_publishes(void)
{
    scene scene;
    scene_open(&scene, "{1:0 2:{3:30}}");
    contended = &scene;
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    tx->txn.apply = apply_with_rival;
    add(tx, "1", 10);
    add(tx, "1", 20); /* oldest first, in every round */
    set(tx, "2.3", "31");
    discard(tx, "2.3");
    set(tx, "2.4", "40");
    rivals = 3;
    session_done(tx);
    CHECK(rivals == 0 && scene_is(&scene, "{1:33 2:{4:40} 102:1 101:1 100:1}"));
    CHECK(COUNTER(&scene, commits) == 4 && COUNTER(&scene, rebases) == 1);
    scene_close(&scene);
}

/* Who is never first gives up when it is late; so does who is late when it comes. */
static void
test_deadline(void)
{
    scene scene;
    scene_open(&scene, "{1:0}");
    contended = &scene;
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    tx->txn.apply = apply_with_rival;
    tx->txn.deadline_ns = theus_clock_tick_ns() + 10 * 1000 * 1000;
    add(tx, "1", 10);
    rivals = 1000 * 1000;
    CHECK(session_commit(tx) == THEUS_COMMIT_FAILED && tx->status == THEUS_LATE);
    CHECK(rivals > 0);
    session_close(tx);
    tx = session_open(&scene, THEUS_SERIALIZABLE); /* also when nobody is in the way */
    tx->txn.deadline_ns = 1;
    set(tx, "2", "2");
    rivals = 0;
    CHECK(session_commit(tx) == THEUS_COMMIT_FAILED && tx->status == THEUS_LATE);
    session_close(tx);
    scene_close(&scene);
}

/* ---- deferred operations ----------------------------------------------------------------------- */

static void
test_deferred_commute(void)
{
    scene scene;
    scene_open(&scene, "{1:5 2:{}}");
    session *adder = session_open(&scene, THEUS_SERIALIZABLE);
    session *rmw = session_open(&scene, THEUS_SERIALIZABLE);
    session *late = session_open(&scene, THEUS_SERIALIZABLE);
    add(adder, "1", 10);
    add(adder, "2.3", 1); /* absent: the operand itself */
    CHECK(get(rmw, "1") == 5);
    set(rmw, "1", "6");
    CHECK(get(late, "1") == 5);
    set(late, "1", "7");
    session_done(rmw);
    session_done(adder);
    CHECK(session_refused(late, "value", "1"));
    CHECK(scene_is(&scene, "{1:16 2:{3:1}}"));
    CHECK(COUNTER(&scene, conflicts) == 1);
    scene_close(&scene);
}

/* The body that looks sees its own additions, and then depends on what it saw. */
static void
test_deferred_settle(void)
{
    scene scene;
    scene_open(&scene, "{1:5 2:[7] 3:0}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    add(tx, "1", 10);
    add(tx, "1", 100);
    add(tx, "2.0", 1);
    CHECK(get(tx, "1") == 115 && get(tx, "2.0") == 8);
    CHECK(tx->txn.root->deferred == NULL && tx->txn.root->reads.count == 2);
    add(tx, "1", 1);
    CHECK(reads_as(tx, "", "{1:116 2:[8] 3:0}")); /* freezing settles everything below */
    add(tx, "1", 1);
    commit_set(&scene, "3", "1");
    CHECK(session_refused(tx, "content", ""));

    tx = session_open(&scene, THEUS_SERIALIZABLE);
    add(tx, "1", 10);
    set(tx, "1", "0"); /* a store settles first, and overwrites */
    add(tx, "1", 3);
    session_done(tx);
    CHECK(scene_is(&scene, "{1:3 2:[7] 3:1}"));
    scene_close(&scene);
}

static void
test_deferred_kinds(void)
{
    scene scene;
    scene_open(&scene, "{1:{2:[1] 3:10}}");
    for (int settle = 0; settle < 2; settle++) {
        session *tx = session_open(&scene, THEUS_SERIALIZABLE);
        theus_cell *cell = cell_at(tx, "1");
        append(tx, "1.2", "[2]"); /* the body holds a draft of the list */
        static const struct {
            theus_deferred_kind kind;
            uint64_t key, operand;
        } ops[] = {{THEUS_APPEND, 2, 3},
                   {THEUS_APPEND, 4, 4},
                   {THEUS_MERGE, 3, 7},
                   {THEUS_MERGE, 3, 12},
                   {THEUS_APPEND, 2, 5}};
        for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
            fake_atom *key = fake_new(ops[i].key), *operand = fake_new(ops[i].operand);
            REQUIRE(theus_cell_defer(cell, ops[i].kind, key->hash, key, 0,
                                     theus_value_of_atom(operand), NULL)
                    == THEUS_OK);
            fake_release(key);
            fake_release(operand);
        }
        if (settle) {
            CHECK(theus_cell_settle(cell, NULL) == THEUS_OK);
        }
        session_done(tx);
        CHECK(scene_is(&scene, "{1:{2:[1 2 3 5] 3:12 4:[4]}}"));
        commit_set(&scene, "1", "{2:[1] 3:10}");
    }
    scene_close(&scene);
}

/* Many of them: neither the stack nor time grows with the square. */
static void
test_deferred_many(void)
{
    enum { COUNT = 50000 };
    scene scene;
    scene_open(&scene, "{1:0}");
    for (int settle = 0; settle < 2; settle++) {
        session *tx = session_open(&scene, THEUS_SERIALIZABLE);
        for (int i = 0; i < COUNT; i++) {
            add(tx, "1", 2);
        }
        CHECK(!settle || get(tx, "1") == 3 * COUNT + 2 * COUNT);
        session_done(tx);
        commit_set(&scene, "1", "150000");
    }
    scene_close(&scene);
}

static void
test_deferred_failures(void)
{
    scene scene;
    scene_open(&scene, "{1:[0 1]}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    theus_cell *list = cell_at(tx, "1");
    add(tx, "1.1", 1);
    add(tx, "1.0", 1);
    discard(tx, "1.1"); /* settles first: 1.1 was 2 by then */
    add(tx, "1.1", 1);  /* beyond the end */
    CHECK(theus_cell_settle(list, NULL) == THEUS_BAD_PATH && list->deferred != NULL);
    CHECK(session_commit(tx) == THEUS_COMMIT_FAILED && tx->status == THEUS_BAD_PATH);
    session_close(tx);
    CHECK(scene_is(&scene, "{1:[0 1]}"));
    scene_close(&scene);
}

/* ---- no-ops ---------------------------------------------------------------------------------------- */

static void
test_noops(void)
{
    scene scene;
    scene_open(&scene, "{1:10 2:{} 3:(30)}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE); /* nothing at all */
    CHECK(session_commit(tx) == THEUS_UNCHANGED);
    session_close(tx);
    tx = session_open(&scene, THEUS_SERIALIZABLE); /* reads only: valid whatever happened */
    CHECK(get(tx, "1") == 10);
    commit_set(&scene, "1", "11");
    CHECK(session_commit(tx) == THEUS_UNCHANGED);
    session_close(tx);
    tx = session_open(&scene, THEUS_SERIALIZABLE); /* writes that come to nothing */
    theus_cell *root = tx->txn.root;
    CHECK(theus_cell_put(root, 0, theus_container_value_at(root->now, 0)) == THEUS_OK);
    include(tx, "3", 30);
    set(tx, "2.5", "5");
    discard(tx, "2.5");
    CHECK(session_commit(tx) == THEUS_UNCHANGED);
    session_close(tx);
    CHECK(scene_version(&scene) == 1);
    CHECK(COUNTER(&scene, commits) == 1 && COUNTER(&scene, reads) == 1
          && COUNTER(&scene, noops) == 2);

    /* Beside a write that counts, a store of the same value keeps its place in the order. */
    tx = session_open(&scene, THEUS_SERIALIZABLE);
    root = tx->txn.root;
    CHECK(theus_cell_put(root, 0, theus_container_value_at(root->now, 0)) == THEUS_OK);
    set(tx, "2.5", "5");
    commit_set(&scene, "1", "12");
    session_done(tx);
    CHECK(scene_is(&scene, "{1:11 2:{5:5} 3:(30)}"));

    /* A pledge is kept even then: compare-and-swap says what it was told to compare. */
    tx = session_open(&scene, THEUS_SNAPSHOT);
    tx->txn.pledged = true;
    root = tx->txn.root;
    CHECK(theus_cell_put(root, 0, theus_container_value_at(root->now, 0)) == THEUS_OK);
    commit_set(&scene, "1", "13");
    CHECK(session_refused(tx, "value", "1"));
    scene_close(&scene);
}

/* ---- compare-and-swap ---------------------------------------------------------------------------------- */

static void
test_compare_and_swap(void)
{
    scene scene;
    scene_open(&scene, "{1:0 2:0}");
    commit_set(&scene, "1", "1");
    commit_set(&scene, "1", "2");
    session *tx = session_open_at(&scene, THEUS_SNAPSHOT, 0); /* as of an old version */
    set(tx, "2", "20");
    session_done(tx);
    CHECK(scene_is(&scene, "{1:2 2:20}"));
    tx = session_open_at(&scene, THEUS_SNAPSHOT, 1);
    set(tx, "1", "9");
    CHECK(session_commit(tx) == THEUS_CONFLICTED);
    CHECK(tx->why.expected == 1 && tx->why.found == 3 && strcmp(tx->why.what, "value") == 0);
    session_close(tx);
    tx = session_open_at(&scene, THEUS_SNAPSHOT, 2);
    tx->txn.strict = true; /* the version itself is what is compared */
    set(tx, "5", "1");
    CHECK(session_refused(tx, "strict", ""));
    tx = session_open_at(&scene, THEUS_SNAPSHOT, 3);
    tx->txn.strict = true;
    set(tx, "5", "1");
    session_done(tx);
    CHECK(scene_is(&scene, "{1:2 2:20 5:1}") && scene_version(&scene) == 4);
    scene_close(&scene);
}

/* A conflict holds on to the keys of its path, whatever becomes of the versions. */
static void
test_conflict_keeps_keys(void)
{
    scene scene;
    scene_open_with(&scene, "{1:{2:[{3:0}]}}", &(theus_store_limits){.history_count = 1});
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(get(tx, "1.2.0.3") == 0);
    set(tx, "1.2.0.3", "1");
    commit_set(&scene, "1.2.0.3", "5");
    CHECK(session_commit(tx) == THEUS_CONFLICTED);
    commit_set(&scene, "1", NULL);
    commit_set(&scene, "4", "4");
    CHECK(tx->why.length == 4 && tx->why.expected == 0 && tx->why.found == 1);
    CHECK(((fake_atom *)tx->why.path[0].key)->id == 1
          && ((fake_atom *)tx->why.path[3].key)->id == 3);
    CHECK(tx->why.path[2].key == NULL && tx->why.path[2].index == 0);
    long owned = owned_atoms(scene.heap);
    theus_conflict_fini(&tx->why);
    CHECK(owned_atoms(scene.heap) == owned - 3);
    session_close(tx);
    scene_close(&scene);
}

/* ---- signals -------------------------------------------------------------------------------------------- */

static bool
signals_are(const scene *scene, const char *text)
{
    char shown[128];
    theus_version *version = theus_store_pin(scene->store);
    value_show(theus_value_of_container(version->signals), shown, sizeof(shown));
    theus_version_release(version);
    return strcmp(shown, text) == 0;
}

static void
test_signals(void)
{
    scene scene;
    scene_open(&scene, "{1:0}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    send(tx, 1, 10);
    send(tx, 2, 20);
    send(tx, 1, 11);
    session *other = session_open(&scene, THEUS_SERIALIZABLE);
    send(other, 2, 21);
    send(other, 3, 30);
    session_done(other);
    session_done(tx); /* signals alone never conflict: each topic keeps the last in commit order */
    CHECK(signals_are(&scene, "{2:20 3:30 1:11}") && scene_version(&scene) == 2);
    tx = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(get(tx, "1") == 0);
    send(tx, 9, 90);
    commit_set(&scene, "1", "1");
    CHECK(session_refused(tx, "value", "1")); /* they go down with their transaction */
    CHECK(signals_are(&scene, "{2:20 3:30 1:11}"));

    scene_close(&scene);
}

/* A first signal that finds no memory is none. */
static void
test_signal_without_memory(void)
{
    theus_status status = THEUS_NOMEM;
    for (long n = 1; status != THEUS_OK; n++) {
        scene scene;
        scene_open(&scene, "{}");
        session *tx = session_open(&scene, THEUS_SERIALIZABLE);
        fake_atom *topic = fake_new(2), *payload = fake_new(5);
        theus_alloc_fail_at(n);
        status = theus_txn_attach(&tx->txn, THEUS_SIGNALS, topic, theus_value_of_atom(payload));
        theus_alloc_fail_at(-1);
        fake_release(topic);
        fake_release(payload);
        CHECK(status == THEUS_OK ? n > 2 : status == THEUS_NOMEM);
        CHECK(session_commit(tx) == (status == THEUS_OK ? THEUS_COMMITTED : THEUS_UNCHANGED));
        session_close(tx);
        scene_close(&scene);
    }
}

/* ---- records --------------------------------------------------------------------------------------------- */

static void
test_records(void)
{
    scene scene;
    scene_open(&scene, "{1:{2:20} 3:[30 31] 4:40}");
    fake_atom *process = fake_new(777);
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    tx->txn.process = process;
    get(tx, "4");
    get(tx, "1.2");
    set(tx, "1.2", "21");
    set(tx, "3.1", "32");
    discard(tx, "4");
    commit_set(&scene, "9", "90");
    session_done(tx);
    fake_release(process);
    uint64_t sequence = 1, lost = 0;
    theus_record *record = theus_store_next_record(scene.store, &sequence, &lost);
    REQUIRE(record != NULL);
    CHECK(record->version == 2 && record->rebased && record->thread == theus_thread_id());
    CHECK(record->sets == 2 && record->deletes == 1 && record->reads == 4); /* fetches count */
    CHECK(((fake_atom *)record->process)->id == 777);
    CHECK(record->path_count == 3 && record->segment_count == 5);
    CHECK(record->depth[0] == 1 && record->depth[1] == 2 && record->depth[2] == 2);
    CHECK(((fake_atom *)record->segments[0].key)->id == 4);
    CHECK(((fake_atom *)record->segments[2].key)->id == 2);
    CHECK(record->segments[4].key == NULL && record->segments[4].index == 1);
    CHECK(theus_clock_wall_ns() - record->time_ns < 3600u * 1000000000u);
    theus_version *version = theus_store_pin(scene.store);
    CHECK(version->record == record);
    theus_version_release(version);
    theus_record_release(record);

    tx = session_open(&scene, THEUS_SERIALIZABLE); /* more paths than it keeps */
    char path[16];
    for (int i = 0; i < 20; i++) {
        snprintf(path, sizeof(path), "%d", 100 + i);
        set(tx, path, "0");
    }
    session_done(tx);
    record = theus_store_next_record(scene.store, &sequence, &lost);
    CHECK(record->sets == 20 && record->path_count == THEUS_RECORD_PATHS && lost == 0);
    theus_record_release(record);
    scene_close(&scene);
}

/* ---- compaction -------------------------------------------------------------------------------------------- */

/* A commit leaves no container mostly holes, at any depth and by any way through the gate. scene_check() asks. */
static void
test_compaction(void)
{
    enum { KEYS = 300, LEFT = 5 };
    for (int rebased = 0; rebased < 3; rebased++) {
        scene scene;
        scene_open(&scene, "{1:{2:{}} 3:()}");
        session *tx = session_open(&scene, THEUS_SERIALIZABLE), *rival;
        char path[32];
        for (int i = 0; i < KEYS; i++) {
            snprintf(path, sizeof(path), "1.2.%d", i);
            set(tx, path, "{7:7}");
            include(tx, "3", (uint64_t)i);
        }
        session_done(tx);
        scene_check(&scene);
        tx = session_open(&scene, THEUS_SERIALIZABLE);
        theus_cell *left[LEFT];
        for (int i = 0; i < LEFT; i++) { /* drafts of what stays */
            snprintf(path, sizeof(path), "1.2.%d", KEYS - LEFT + i);
            left[i] = cell_at(tx, path);
        }
        for (int i = 0; i < KEYS - LEFT; i++) {
            snprintf(path, sizeof(path), "1.2.%d", i);
            discard(tx, path);
            exclude(tx, "3", (uint64_t)i);
        }
        set(tx, "1.2.297.8", "8");
        CHECK(theus_cell_child_at(cell_at(tx, "1.2"), left[2]->pos) == left[2]);
        if (rebased > 0) { /* elsewhere, or in the very container */
            rival = session_open(&scene, THEUS_SERIALIZABLE);
            set(rival, rebased == 1 ? "4" : "1.2.1000", "0");
            session_done(rival);
        }
        session_done(tx);
        scene_check(&scene);
        tx = session_open(&scene, THEUS_SERIALIZABLE);
        CHECK(cell_at(tx, "1.2")->now->span <= 2 * LEFT && cell_at(tx, "3")->now->span <= 2 * LEFT);
        CHECK(get(tx, "1.2.297.8") == 8 && length_of(tx, "1.2") == LEFT + (rebased == 2));
        session_close(tx);
        scene_close(&scene);
    }
}

/* A queue: one key in, one out, for ever. */
static void
test_queue_stays_small(void)
{
    scene scene;
    scene_open(&scene, "{1:{0:0 1:1 2:2}}");
    char path[32];
    for (int i = 3; i < 500; i++) {
        session *tx = session_open(&scene, THEUS_SERIALIZABLE);
        snprintf(path, sizeof(path), "1.%d", i);
        set(tx, path, "1");
        snprintf(path, sizeof(path), "1.%d", i - 3);
        discard(tx, path);
        session_done(tx);
    }
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(cell_at(tx, "1")->now->span <= 8);
    session_close(tx);
    CHECK(scene_is(&scene, "{1:{497:1 498:1 499:1}}"));
    scene_close(&scene);
}

int
main(void)
{
    test_replay();
    test_replay_of_blind_writes();
    test_lost_publishes();
    test_deadline();
    test_deferred_commute();
    test_deferred_settle();
    test_deferred_kinds();
    test_deferred_many();
    test_deferred_failures();
    test_noops();
    test_compare_and_swap();
    test_conflict_keeps_keys();
    test_signals();
    test_signal_without_memory();
    test_records();
    test_compaction();
    test_queue_stays_small();
    return check_result();
}
