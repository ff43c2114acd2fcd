/* Memory that gives out, at every allocation in turn, from the first read to the end of the commit. An operation that
 * failed has not happened: tried again it works, and in the end everything stands where it would have stood. */
#include "scene.h"

static const char *const text =
    "{1:10 2:{3:{4:{5:{6:60 7:{}}}}} 8:(80 81) 9:[{1:1} {1:2} 92] 10:{1:1 2:2 3:3 4:4} 11:0 12:{} "
    "16:{1:{} 2:{} 3:{} 4:{} 5:{} 6:{}}}";

/* Everything that the steps store, made beforehand. */
enum { ATOMS = 64, EIGHTY = 63 }; /* by id, but for one */
static fake_atom *atoms[ATOMS];
static theus_value map, list;

static theus_value
atom(uint64_t id)
{
    return theus_value_of_atom(atoms[id]);
}

static long failures;

/* True when it is done; false when memory has given out, and it is to be tried again. */
static bool
done(theus_status status)
{
    if (status == THEUS_OK) {
        return true;
    }
    CHECK(status == THEUS_NOMEM || status == THEUS_FOREIGN); /* FOREIGN: inside fake_apply() */
    failures++;
    return false;
}

#define DO(operation) \
    do {              \
    } while (!done(operation))

static theus_status
found(theus_cell *cell, theus_find result)
{
    return result == THEUS_FIND_FAILED ? cell->txn->find_status : THEUS_OK;
}

static theus_cell *
enter(theus_cell *cell, uint64_t key)
{
    theus_cell *child = NULL;
    uint32_t pos = (uint32_t)key;
    theus_value value;
    if (cell->now->kind != THEUS_LIST) {
        REQUIRE(theus_cell_probe(cell, NULL, key, atoms[key], &pos, &value) == THEUS_FOUND);
    }
    DO(theus_cell_enter(cell, pos, &child));
    return child;
}

static void
store(theus_cell *cell, uint64_t key, theus_value value)
{
    DO(theus_cell_store(cell, NULL, key, atoms[key], value));
}

static void
look(theus_cell *cell, uint64_t key)
{
    uint32_t pos;
    theus_value value;
    DO(found(cell, theus_cell_lookup(cell, NULL, key, atoms[key], &pos, &value)));
}

static void
take(theus_cell *cell, uint64_t key)
{
    uint32_t pos = 0;
    theus_value value;
    DO(found(cell, theus_cell_lookup(cell, NULL, atoms[key]->hash, atoms[key], &pos, &value)));
    DO(theus_cell_remove(cell, atoms[key]->hash, pos));
}

static void
defer(theus_cell *cell, theus_deferred_kind kind, uint64_t key, uint64_t number)
{
    DO(theus_cell_defer(cell, kind, key, atoms[key], 0, atom(number), NULL));
}

/* ---- what a body may do ----------------------------------------------------------------------- */

static void
write_maps(session *tx)
{
    theus_cell *root = tx->txn.root, *deep = root;
    for (uint64_t key = 2; key < 6; key++) {
        deep = enter(deep, key);
    }
    store(deep, 6, atom(61));
    store(enter(deep, 7), 1, map);
    store(enter(enter(deep, 7), 1), 5, atom(5));
    for (uint64_t key = 20; key < 40; key++) { /* more than the logs have room for */
        look(root, key);
        store(root, key, atom(key));
        look(enter(root, 10), key % 4 + 1);
    }
    take(root, 25);
    take(enter(root, 10), 3);
    store(root, 12, list); /* where there was a map */
}

static void
write_others(session *tx)
{
    theus_cell *root = tx->txn.root, *elements = enter(root, 8), *items = enter(root, 9);
    store(elements, 50, THEUS_NONE);
    take(elements, EIGHTY);
    theus_value three[] = {atom(1), map, atom(3)}, value;
    theus_cell *second = enter(items, 1), *first = enter(items, 0);
    store(first, 2, atom(2));
    store(second, 2, atom(4));
    for (uint32_t pos = 0; pos < items->now->count; pos++) {
        DO(theus_cell_read(items, pos, &value));
    }
    DO(theus_cell_put(items, 2, atom(9)));
    DO(theus_cell_splice(items, 3, 0, three, 3));
    DO(theus_cell_splice(items, 1, 0, three, 2));
    CHECK(second->pos == 3);
    uint32_t order[] = {7, 6, 5, 4, 3, 2, 1, 0};
    DO(theus_cell_permute(items, order));
    CHECK(second->pos == 4 && first->pos == 7);
    store(second, 3, atom(5));
    store(enter(items, 1), 7, atom(6));
}

static void
write_the_rest(session *tx)
{
    theus_cell *root = tx->txn.root;
    theus_savepoint *savepoint;
    theus_container *content;
    defer(root, THEUS_ADD, 11, 5);
    DO(theus_cell_settle(root, NULL));
    DO(theus_txn_save(&tx->txn, &savepoint));
    write_maps(tx);
    DO(theus_cell_clear(enter(root, 10)));
    theus_savepoint_rollback(savepoint);
    DO(theus_txn_save(&tx->txn, &savepoint));
    store(root, 13, map);
    theus_savepoint_release(savepoint);
    DO(theus_cell_freeze(enter(root, 10), &content));
    store(root, 14, theus_value_of_container(content));
    theus_container_release(content);
    DO(theus_cell_clear(enter(root, 12)));
    DO(theus_txn_attach(&tx->txn, THEUS_SIGNALS, atoms[1], atom(2)));
    DO(theus_txn_attach(&tx->txn, THEUS_MESSAGES, atoms[2], atom(3)));
    defer(root, THEUS_ADD, 11, 7);
    defer(root, THEUS_APPEND, 15, 8);
    defer(root, THEUS_APPEND, 15, 9);
    store(enter(root, 13), 9, atom(9));
}

static void
write_children(session *tx)
{
    theus_cell *parent = enter(tx->txn.root, 16);
    for (uint64_t key = 1; key <= 6; key++) {
        store(enter(parent, key), 7, atom(key));
    }
}

static void
write_sparse(session *tx)
{
    theus_cell *cell = enter(tx->txn.root, 10);
    take(cell, 1);
    take(cell, 2);
    take(cell, 3);
}

/* ---- the runs ---------------------------------------------------------------------------------- */

typedef struct {
    void (*body)(session *tx);
    const char *path, *to; /* what somebody commits meanwhile; NULL: nothing */
} scenario;

static const scenario scenarios[] = {
    {write_maps, NULL, NULL},     {write_maps, "2.9", "1"},     {write_maps, "2.3.4.5.9", "1"},
    {write_others, NULL, NULL},   {write_others, "1", "11"},    {write_the_rest, NULL, NULL},
    {write_the_rest, "1", "100"}, {write_sparse, NULL, NULL},   {write_sparse, "10.9", "9"},
    {write_sparse, "2.9", "1"},   {write_children, NULL, NULL}, {write_children, "16.1.9", "1"},
};

/* Runs one with the n-th allocation failing (0: none). False: n is past the last one. */
static bool
run(const scenario *scenario, long n, char *result, size_t room)
{
    scene scene;
    scene_open(&scene, text);
    for (uint64_t i = 0; i < ATOMS; i++) {
        atoms[i] = fake_new(i == EIGHTY ? 80 : i);
    }
    map = value_of(scene.heap, "{1:1}");
    list = value_of(scene.heap, "[1 2]");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    if (scenario->path != NULL) {
        commit_set(&scene, scenario->path, scenario->to);
    }
    uint64_t version = scene_version(&scene);
    char before[4096], after[4096];
    theus_version *current = theus_store_pin(scene.store);
    value_show(theus_value_of_container(current->root), before, sizeof(before));
    theus_version_release(current);

    failures = 0;
    theus_alloc_fail_at(n == 0 ? -1 : n);
    scenario->body(tx);
    theus_outcome outcome = session_commit(tx);
    theus_alloc_fail_at(-1);
    bool failed = failures > 0 || outcome == THEUS_COMMIT_FAILED;

    current = theus_store_pin(scene.store);
    value_show(theus_value_of_container(current->root), after, sizeof(after));
    theus_version_release(current);
    if (outcome == THEUS_COMMIT_FAILED) {
        CHECK(tx->status == THEUS_NOMEM || tx->status == THEUS_FOREIGN);
        CHECK(scene_version(&scene) == version && strcmp(before, after) == 0);
    }
    else {
        CHECK(outcome == THEUS_COMMITTED);
        if (n == 0) {
            snprintf(result, room, "%s", after);
        }
        CHECK(strcmp(result, after) == 0);
    }
    session_close(tx);
    for (int i = 0; i < ATOMS; i++) {
        fake_release(atoms[i]);
    }
    theus_value_release(scene.heap, map);
    theus_value_release(scene.heap, list);
    scene_close(&scene);
    return failed;
}

/* A write that failed is none: it is not in the log, so what others commit in its place stands; and a draft of
 * what it would have overwritten goes on. */
static void
test_failed_write_is_none(void)
{
    for (int way = 0; way < 3; way++) {
        theus_status status = THEUS_NOMEM;
        for (long n = 1; status != THEUS_OK; n++) {
            scene scene;
            scene_open(&scene, "{1:10 2:{3:30} 4:[40 41]}");
            fake_atom *key = fake_new(way == 0 ? 1 : 2), *value = fake_new(11);
            theus_value word = theus_value_of_atom(value);
            session *tx = session_open(&scene, THEUS_SERIALIZABLE);
            theus_cell *root = tx->txn.root, *inner = cell_at(tx, way == 2 ? "4" : "2");
            if (way == 1) {
                set(tx, "2.3", "31");
            }
            theus_alloc_fail_at(n);
            status = way == 2 ? theus_cell_put(inner, 1, word)
                              : theus_cell_store(root, NULL, key->hash, key, word);
            theus_alloc_fail_at(-1);
            fake_release(key);
            fake_release(value);
            if (status != THEUS_OK) {
                CHECK(status == THEUS_NOMEM);
                CHECK(theus_cell_is_attached(inner));
                CHECK(inner->writes.count == (way == 1) && root->writes.count == 0);
                set(tx, "5", "50");
                commit_set(&scene, way == 2 ? "4.1" : "1", "12");
                session_done(tx);
                CHECK(scene_is(&scene, way == 0   ? "{1:12 2:{3:30} 4:[40 41] 5:50}"
                                       : way == 1 ? "{1:12 2:{3:31} 4:[40 41] 5:50}"
                                                  : "{1:10 2:{3:30} 4:[40 12] 5:50}"));
            }
            else {
                CHECK(n > 1);
                session_close(tx);
            }
            scene_close(&scene);
        }
    }
}

/* A conflict that finds no memory for its path says less; it is still a conflict. */
static void
test_conflict(void)
{
    enum { DEPTH = 20 };
    char nested[DEPTH * 4 + 8] = "", path[DEPTH * 2] = "1";
    for (int i = 0; i < DEPTH; i++) {
        strcat(nested, "{1:");
        strcat(path, i > 0 ? ".1" : "");
    }
    strcat(nested, "5");
    for (int i = 0; i < DEPTH; i++) {
        strcat(nested, "}");
    }
    int cut = 0;
    for (long n = 1;; n++) {
        scene scene;
        scene_open(&scene, nested);
        session *tx = session_open(&scene, THEUS_SERIALIZABLE);
        CHECK(get(tx, path) == 5);
        set(tx, "2", "0");
        commit_set(&scene, path, "6");
        theus_alloc_fail_at(n);
        theus_outcome outcome = session_commit(tx);
        theus_alloc_fail_at(-1);
        CHECK(outcome == THEUS_CONFLICTED
              || (outcome == THEUS_COMMIT_FAILED && tx->status == THEUS_NOMEM));
        bool whole = outcome == THEUS_CONFLICTED && tx->why.length == DEPTH;
        if (outcome == THEUS_CONFLICTED && !whole) {
            CHECK(tx->why.length == 0 && tx->why.cells == NULL);
            cut++;
        }
        session_close(tx);
        scene_close(&scene);
        if (whole) {
            CHECK(cut > 0);
            break;
        }
    }
}

int
main(void)
{
    for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
        char result[4096];
        long n = 0;
        CHECK(!run(&scenarios[i], 0, result, sizeof(result)));
        while (run(&scenarios[i], ++n, result, sizeof(result))) {
            if (check_result() != 0) {
                fprintf(stderr, "scenario %zu, allocation %ld\n", i, n);
                return 1;
            }
        }
        CHECK(n > 5);
    }
    test_failed_write_is_none();
    test_conflict();
    return check_result();
}
