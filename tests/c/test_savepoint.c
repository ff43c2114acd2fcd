/* Savepoints: writes are undone, reads are kept, cells come back to their places. */
#include "scene.h"

static theus_savepoint *
save(session *tx)
{
    theus_savepoint *savepoint;
    REQUIRE(theus_txn_save(&tx->txn, &savepoint) == THEUS_OK);
    CHECK(tx->txn.savepoint == savepoint);
    return savepoint;
}

static const char *const text = "{1:10 2:{3:30 4:{5:50}} 6:[60 {7:70} 62] 8:(80)}";

/* All kinds of writes at once. */
static void
scribble(session *tx)
{
    set(tx, "1", "11");
    set(tx, "2.3", "31");
    discard(tx, "2.4.5");
    set(tx, "2.4.9", "{1:1}");
    set(tx, "2.4.9.1", "2");
    splice(tx, "6", 0, 1, "[1 2]"); /* there, */
    splice(tx, "6", 0, 1, "[]");    /* and back again */
    set(tx, "6.1.7", "71");
    exclude(tx, "8", 80);
    include(tx, "8", 81);
    set(tx, "100", "{}");
    add(tx, "1", 1);
    send(tx, 1, 2);
}

static void
test_release(void)
{
    scene scene;
    scene_open(&scene, text);
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    theus_savepoint *outer = save(tx);
    set(tx, "1", "12");
    theus_savepoint *inner = save(tx);
    scribble(tx);
    theus_savepoint_release(inner);
    CHECK(tx->txn.savepoint == outer);
    theus_savepoint_release(outer);
    CHECK(tx->txn.savepoint == NULL);
    session_done(tx);
    CHECK(scene_is(&scene, "{1:12 2:{3:31 4:{9:{1:2}}} 6:[2 {7:71} 62] 8:(81) 100:{}}"));
    scene_close(&scene);
}

static void
test_rollback(void)
{
    scene scene;
    scene_open(&scene, text);
    for (int touched_before = 0; touched_before < 2; touched_before++) {
        session *tx = session_open(&scene, THEUS_SERIALIZABLE);
        if (touched_before) { /* cells and edits from before */
            CHECK(get(tx, "2.4.5") == 50 && get(tx, "6.1.7") == 70 && contains(tx, "8", 80));
        }
        set(tx, "2.10", "100");
        scribble(tx);
        theus_savepoint *savepoint = save(tx);
        scribble(tx);
        CHECK(theus_cell_clear(cell_at(tx, "2")) == THEUS_OK);
        set(tx, "6", "0");
        theus_savepoint_rollback(savepoint);
        set(tx, "6.1.8", "8"); /* through a cell that has come back */
        CHECK(reads_as(tx, "",
                       "{1:12 2:{3:31 4:{9:{1:2}} 10:100} 6:[2 {7:71 8:8} 62] 8:(81) 100:{}}"));
        session_close(tx);
    }
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    theus_savepoint *savepoint = save(tx);
    scribble(tx);
    theus_savepoint_rollback(savepoint);
    CHECK(session_commit(tx) == THEUS_UNCHANGED); /* signals are gone as well */
    session_close(tx);
    CHECK(scene_is(&scene, text) && scene_version(&scene) == 0);
    scene_close(&scene);
}

/* What the body read inside it may have acted on. */
static void
test_reads_are_kept(void)
{
    static const struct {
        const char *change, *to, *what, *path;
    } rows[] = {
        {"2.4.5", "51", "value", "2.4.5"}, /* in a cell that was born inside */
        {"1", "9", "value", "1"},
        {"50", "1", "absence", "50"},
        {"8", "(80 81)", "place", "8"},
        {"6.2", "0", "content", "6"}, /* read after the list was reshaped inside */
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        scene scene;
        scene_open(&scene, text);
        session *tx = session_open(&scene, THEUS_SERIALIZABLE);
        theus_savepoint *savepoint = save(tx);
        switch (i) {
        case 0:
            CHECK(get(tx, "2.4.5") == 50);
            break;
        case 1:
            CHECK(get(tx, "1") == 10);
            break;
        case 2:
            CHECK(get(tx, "50") == ABSENT);
            break;
        case 3:
            CHECK(length_of(tx, "8") == 1);
            break;
        case 4:
            append(tx, "6", "[63]");
            CHECK(get(tx, "6.2") == 62);
            break;
        }
        set(tx, "2.3", "0");
        theus_savepoint_rollback(savepoint);
        set(tx, "200", "1");
        commit_set(&scene, rows[i].change, rows[i].to);
        CHECK(session_refused(tx, rows[i].what, rows[i].path));
        scene_close(&scene);
    }
}

/* Writes are forgotten: a place that was only written inside is nobody's business any more. */
static void
test_writes_are_forgotten(void)
{
    const theus_isolation levels[] = {THEUS_SERIALIZABLE, THEUS_SNAPSHOT};
    for (int i = 0; i < 2; i++) {
        scene scene;
        scene_open(&scene, text);
        session *tx = session_open(&scene, levels[i]);
        theus_savepoint *savepoint = save(tx);
        set(tx, "1", "0");
        set(tx, "2.3", "0");
        append(tx, "6", "[1]");
        theus_savepoint_rollback(savepoint);
        set(tx, "200", "1");
        commit_set(&scene, "1", "1");
        commit_set(&scene, "2.3", "3");
        commit_set(&scene, "6.0", "6");
        session_done(tx);
        CHECK(scene_is(&scene, "{1:1 2:{3:3 4:{5:50}} 6:[6 {7:70} 62] 8:(80) 200:1}"));
        scene_close(&scene);
    }
}

static void
test_cells(void)
{
    scene scene;
    scene_open(&scene, text);
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    theus_cell *two = cell_at(tx, "2"), *item = cell_at(tx, "6.1");
    theus_savepoint *savepoint = save(tx);
    theus_cell *born = cell_at(tx, "2.4");
    set(tx, "2.4.5", "0");
    splice(tx, "6", 0, 0, "[1]");
    set(tx, "2", "0"); /* detaches */
    CHECK(!theus_cell_is_attached(two) && item->pos == 2);
    theus_savepoint_rollback(savepoint);
    CHECK(born->dead && born->parent == NULL && !two->dead);
    CHECK(theus_cell_is_attached(two) && cell_at(tx, "2") == two);
    CHECK(item->pos == 1 && cell_at(tx, "6.1") == item);
    CHECK(cell_at(tx, "2.4") != born && get(tx, "2.4.5") == 50);
    theus_segment path[4];
    CHECK(theus_cell_path(born, path, 4) == 2); /* by where it was found */
    CHECK(((fake_atom *)path[1].key)->id == 4);
    session_close(tx);
    scene_close(&scene);
}

static void
test_nesting(void)
{
    scene scene;
    scene_open(&scene, "{1:{2:0}}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    set(tx, "1.2", "1");
    CHECK(theus_txn_savepoint(&tx->txn) == 0);
    theus_savepoint *one = save(tx);
    uint64_t name = theus_txn_savepoint(&tx->txn);
    CHECK(name != 0);
    set(tx, "1.2", "2");
    theus_savepoint *two = save(tx);
    set(tx, "1.2", "3");
    theus_savepoint *three = save(tx);
    set(tx, "1.2", "4");
    theus_savepoint_rollback(three);
    CHECK(get(tx, "1.2") == 3);
    theus_savepoint_release(two);
    CHECK(get(tx, "1.2") == 3);
    CHECK(theus_txn_savepoint(&tx->txn) == name);
    theus_savepoint_rollback(one);
    CHECK(get(tx, "1.2") == 1);
    CHECK(theus_txn_savepoint(&tx->txn) == 0);
    (void)save(tx); /* left open: the end of the transaction frees it */
    CHECK(theus_txn_savepoint(&tx->txn) > name);
    set(tx, "1.3", "5");
    session_done(tx);
    CHECK(scene_is(&scene, "{1:{2:1 3:5}}"));
    tx = session_open(&scene, THEUS_SERIALIZABLE);
    (void)save(tx);
    (void)save(tx);
    session_close(tx);
    scene_close(&scene);
}

static void
test_signals(void)
{
    scene scene;
    scene_open(&scene, "{1:0}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    send(tx, 1, 10);
    theus_savepoint *savepoint = save(tx);
    send(tx, 1, 11); /* after a savepoint has sealed them */
    send(tx, 2, 20);
    theus_savepoint_rollback(savepoint);
    send(tx, 3, 30);
    session_done(tx);
    theus_version *version = theus_store_pin(scene.store);
    char shown[64];
    value_show(theus_value_of_container(version->signals), shown, sizeof(shown));
    CHECK(strcmp(shown, "{1:10 3:30}") == 0);
    theus_version_release(version);
    scene_close(&scene);
}

/* Deferred before: applied when the savepoint opens. Deferred inside: undone with it. */
static void
test_deferred(void)
{
    scene scene;
    scene_open(&scene, "{1:5 2:{3:30}}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    add(tx, "1", 1);
    add(tx, "2.3", 1);
    theus_savepoint *savepoint = save(tx);
    CHECK(tx->txn.root->deferred == NULL);
    add(tx, "1", 100);
    add(tx, "2.3", 100);
    CHECK(get(tx, "2.3") == 131); /* one of them has been applied */
    theus_savepoint_rollback(savepoint);
    add(tx, "1", 10);
    session_done(tx);
    CHECK(scene_is(&scene, "{1:16 2:{3:31}}"));
    scene_close(&scene);
}

/* Random writes and savepoints, against a stack of texts. */
static void
test_random(void)
{
    enum { DEPTH = 4, STEPS = 3000 };
    scene scene;
    scene_open(&scene, text);
    char shown[DEPTH + 1][4096], path[32], number[16];
    unsigned long long random = 11;
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    theus_savepoint *open[DEPTH];
    int depth = 0;
    for (int step = 0; step < STEPS; step++) {
        static const char *const maps[] = {"", "2.", "2.4."};
        unsigned action = check_random(&random, 20);
        snprintf(path, sizeof(path), "%s%u", maps[check_random(&random, 3)],
                 20 + check_random(&random, 6));
        snprintf(number, sizeof(number), "%u", check_random(&random, 100));
        if (action < 8) {
            set(tx, path, action < 6 ? number : "{1:1}");
        }
        else if (action < 11) {
            discard(tx, path);
        }
        else if (action == 11) {
            splice(tx, "6", check_random(&random, 3), check_random(&random, 2), "[5]");
        }
        else if (action == 12) {
            set(tx, "2.4.30", "{1:{2:2}}");
            set(tx, "2.4.30.1.3", number);
        }
        else if (action == 13
                 && theus_value_kind(theus_container_value_at(cell_at(tx, "6")->now, 1))
                        == THEUS_MAP) {
            set(tx, "6.1.7", number);
        }
        else if (action < 17 && depth < DEPTH) {
            theus_container *content;
            REQUIRE(theus_cell_freeze(tx->txn.root, &content) == THEUS_OK);
            value_show(theus_value_of_container(content), shown[depth], sizeof(shown[0]));
            theus_container_release(content);
            open[depth++] = save(tx);
        }
        else if (depth > 0 && action == 18) {
            theus_savepoint_release(open[--depth]);
        }
        else if (depth > 0) {
            theus_savepoint_rollback(open[--depth]);
            CHECK(reads_as(tx, "", shown[depth]));
        }
        if (step % 100 == 0) {
            CHECK_SOUND(theus_heap_check(scene.heap));
        }
    }
    theus_container *content;
    REQUIRE(theus_cell_freeze(tx->txn.root, &content) == THEUS_OK);
    value_show(theus_value_of_container(content), shown[0], sizeof(shown[0]));
    theus_container_release(content);
    session_done(tx);
    CHECK(scene_is(&scene, shown[0]));
    scene_close(&scene);
}

/* ---- what was done since ----------------------------------------------------------------------- */

typedef struct {
    char text[256];
    size_t used;
} op_list;

static int
list_op(void *arg, theus_op_kind kind, const theus_segment *path, uint32_t length)
{
    op_list *list = arg;
    list->text[list->used++] = "=-+a>"[kind];
    for (uint32_t i = 0; i < length; i++) {
        const fake_atom *key = path[i].key;
        list->used += (size_t)sprintf(list->text + list->used, i > 0 ? ".%llu" : "%llu",
                                      (unsigned long long)(key != NULL ? key->id : path[i].index));
    }
    list->text[list->used++] = ' ';
    list->text[list->used] = '\0';
    return 0;
}

static bool
did_since(session *tx, const char *expected)
{
    op_list list = {.used = 0};
    theus_status status;
    CHECK(theus_txn_recent_operations(&tx->txn, NULL, list_op, &list, &status) == 0);
    CHECK(status == THEUS_OK);
    if (strcmp(list.text, expected) != 0) {
        fprintf(stderr, "expected %s\n   found %s\n", expected, list.text);
    }
    return strcmp(list.text, expected) == 0;
}

static void
test_recent_operations(void)
{
    scene scene;
    scene_open(&scene, text);
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    set(tx, "1", "11");
    set(tx, "20", "{1:1}"); /* a container of one's own */
    CHECK(did_since(tx, "=1 =20 "));
    theus_savepoint *savepoint = save(tx);
    CHECK(did_since(tx, ""));
    set(tx, "2.3", "31");
    set(tx, "20.1", "2");
    set(tx, "20.2", "3");
    discard(tx, "1");
    set(tx, "2.4.5", "51");
    add(tx, "2.9", 1);
    CHECK(did_since(tx, "-1 =2.3 +2.9 =20.1 =20.2 =2.4.5 "));
    theus_savepoint *inner = save(tx);
    CHECK(did_since(tx, ""));
    set(tx, "6.0", "0");
    CHECK(did_since(tx, "=6.0 "));
    theus_savepoint_rollback(inner);
    CHECK(did_since(tx, "-1 =2.3 =2.9 =20.1 =20.2 =2.4.5 "));
    discard(tx, "20.1");
    fakes.fail_hash = 1; /* comparing contents asks for hashes, and equality */
    op_list list = {.used = 0};
    theus_status status = THEUS_OK;
    CHECK(theus_txn_recent_operations(&tx->txn, NULL, list_op, &list, &status) == -1);
    CHECK(status == THEUS_FOREIGN);
    fakes.fail_hash = 0;
    theus_savepoint_release(savepoint);
    session_close(tx);
    scene_close(&scene);
}

/* ---- memory --------------------------------------------------------------------------------------- */

static void
test_nomem(void)
{
    for (long n = 1;; n++) {
        scene scene;
        scene_open(&scene, text);
        session *tx = session_open(&scene, THEUS_SERIALIZABLE);
        scribble(tx);
        for (int i = 0; i < 20; i++) { /* logs too long for their place in the cell */
            char path[16];
            snprintf(path, sizeof(path), "%d", 30 + i);
            set(tx, path, "0");
        }
        theus_savepoint *savepoint;
        theus_alloc_fail_at(n);
        theus_status status = theus_txn_save(&tx->txn, &savepoint);
        theus_alloc_fail_at(-1);
        CHECK(status == THEUS_OK || status == THEUS_NOMEM);
        set(tx, "1", "0");
        if (status == THEUS_OK) {
            CHECK(n > 2);
            theus_savepoint_rollback(savepoint);
        }
        else {
            CHECK(tx->txn.savepoint == NULL);
        }
        CHECK(get(tx, "1") == (status == THEUS_OK ? 12 : 0));
        session_close(tx);
        scene_close(&scene);
        if (status == THEUS_OK) {
            break;
        }
    }
}

int
main(void)
{
    test_release();
    test_rollback();
    test_reads_are_kept();
    test_writes_are_forgotten();
    test_cells();
    test_nesting();
    test_signals();
    test_deferred();
    test_random();
    test_recent_operations();
    test_nomem();
    return check_result();
}
