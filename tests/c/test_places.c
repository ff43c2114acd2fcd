/* What is the same place after somebody else's commit: nested paths, containers that are replaced, emptied and put
 * back, elements of lists that move. */
#include "scene.h"

/* ---- nested paths ------------------------------------------------------------------------------------------- */

static void
test_siblings(void)
{
    for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
        scene scene;
        scene_open(&scene, "{1:{2:{3:30 4:40}}}");
        session *one = session_open(&scene, level), *two = session_open(&scene, level);
        CHECK(get(one, "1.2.3") == 30 && get(two, "1.2.4") == 40);
        set(one, "1.2.3", "31");
        set(two, "1.2.4", "41");
        set(two, "1.2.5", "51");
        session_done(one);
        session_done(two);
        CHECK(scene_is(&scene, "{1:{2:{3:31 4:41 5:51}}}"));
        scene_close(&scene);
    }
}

/* `below` writes 1.3.4 without reading; what the other does above decides. A serializable one has seen
 * the containers on its way; a snapshot is asked about its writes alone. */
static void
test_ancestor(void)
{
    static const struct {
        const char *change, *what, *path, *left;
    } rows[] = {
        {"set 1 {2:20 3:{4:40}}", "place", "1", "{1:{2:20 3:{4:40}} 7:0}"},
        {"set 1.3 {4:40}", "place", "1.3", "{1:{2:20 3:{4:40}} 7:0}"},
        {"set 1.3 [4]", "value", "1.3", "{1:{2:20 3:[4]} 7:0}"},
        {"set 1 1", "value", "1", "{1:1 7:0}"},
        {"del 1", "value", "1", "{7:0}"},
        {"clear 1", "value", "1.3", "{1:{} 7:0}"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
            scene scene;
            scene_open(&scene, "{1:{2:20 3:{4:40}} 7:0}");
            session *below = session_open(&scene, level), *above = session_open(&scene, level);
            set(below, "1.3.4", "41");
            perform(above, rows[i].change);
            session_done(above);
            bool snapshot = level == THEUS_SNAPSHOT;
            CHECK(session_refused(below, snapshot ? "place" : rows[i].what,
                                  snapshot ? "1.3" : rows[i].path));
            CHECK(scene_is(&scene, rows[i].left));
            scene_close(&scene);
        }
    }
}

/* That the body found a container counts even when what it wrote there is thrown away. */
static void
test_fetch_is_a_read(void)
{
    scene scene;
    scene_open(&scene, "{1:{2:{3:30}} 4:[40 41] 7:0}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    set(tx, "1.2.3", "31");
    set(tx, "1", "{}");
    set(tx, "7", "1");
    commit_set(&scene, "1", "{}");
    CHECK(session_refused(tx, "place", "1"));
    tx = session_open(&scene, THEUS_SERIALIZABLE); /* and so does the length of a list */
    set(tx, "4.1", "42");
    set(tx, "4", "0");
    commit_set(&scene, "4.1", NULL);
    CHECK(session_refused(tx, "keys", "4"));
    scene_close(&scene);
}

/* A container of the pinned version that is put back in its place is written as a whole, as it was. */
static void
test_restored_container(void)
{
    scene scene;
    scene_open(&scene, "{1:{2:20} 7:0}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    theus_cell *root = tx->txn.root;
    theus_value map = theus_container_value_at(root->now, 0);
    CHECK(theus_cell_put(root, 0, map) == THEUS_OK);
    set(tx, "1.3", "30");
    commit_set(&scene, "1.2", "21");
    session_done(tx);
    CHECK(scene_is(&scene, "{1:{2:20 3:30} 7:0}"));
    tx = session_open(&scene, THEUS_SERIALIZABLE); /* without another write, and without anybody */
    root = tx->txn.root;
    map = theus_container_value_at(root->now, 0);
    CHECK(theus_cell_put(root, 0, map) == THEUS_OK);
    set(tx, "1.3", "31");
    session_done(tx);
    CHECK(scene_is(&scene, "{1:{2:20 3:31} 7:0}"));
    scene_close(&scene);
}

/* The other order: who replaces or removes without having looked inside takes everything with it; who emptied
 * a container has changed each of its places. */
static void
test_descendant(void)
{
    for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
        scene scene;
        scene_open(&scene, "{1:{2:20 3:{4:40}} 7:0}");
        session *above = session_open(&scene, level), *clearing = session_open(&scene, level);
        session *reading = session_open(&scene, level);
        set(above, "1", "{9:9}");
        perform(clearing, "clear 1");
        CHECK(get(reading, "1.3.4") == 40);
        set(reading, "1", "{8:8}");
        commit_set(&scene, "1.3.4", "41");
        CHECK(session_refused(clearing, "content", "1"));
        if (level == THEUS_SERIALIZABLE) {
            CHECK(session_refused(reading, "value", "1.3.4"));
            session_done(above);
            CHECK(scene_is(&scene, "{1:{9:9} 7:0}"));
        }
        else {
            CHECK(session_refused(reading, "value", "1"));
            CHECK(session_refused(above, "value", "1"));
        }
        scene_close(&scene);
    }
}

/* Gone and back: the same value is the same value, another container is another container. */
static void
test_delete_and_reinsert(void)
{
    for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
        scene scene;
        scene_open(&scene, "{1:{2:20} 7:0}");
        session *reader = session_open(&scene, level), *below = session_open(&scene, level);
        CHECK(get(reader, "1.2") == 20);
        set(reader, "7", "1");
        CHECK(get(below, "1.2") == 20);
        set(below, "1.2", "21");
        theus_version *first = theus_store_pin(scene.store);
        theus_value map = theus_container_value_at(first->root, 0);
        commit_set(&scene, "1", NULL);
        session *undo = session_open(&scene, level);
        fake_atom *key = fake_new(1);
        REQUIRE(theus_cell_store(undo->txn.root, NULL, 1, key, map) == THEUS_OK);
        fake_release(key);
        session_done(undo);
        theus_version_release(first);
        session_done(reader); /* the very same container is back */
        session_done(below);
        CHECK(scene_is(&scene, "{7:1 1:{2:21}}"));

        below = session_open(&scene, level);
        set(below, "1.2", "22");
        commit_set(&scene, "1", NULL);
        commit_set(&scene, "1", "{2:21}");
        CHECK(session_refused(below, "place", "1"));
        scene_close(&scene);
    }
}

/* ---- lists --------------------------------------------------------------------------------------------------- */

static void
test_list_places(void)
{
    for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
        scene scene;
        scene_open(&scene, "{1:[0 1 2 3]}");
        session *one = session_open(&scene, level), *two = session_open(&scene, level);
        set(one, "1.0", "10");
        set(two, "1.3", "13");
        session_done(one);
        session_done(two);
        CHECK(scene_is(&scene, "{1:[10 1 2 13]}"));

        session *writer = session_open(&scene, level), *shifter = session_open(&scene, level);
        set(writer, "1.3", "33");
        splice(shifter, "1", 0, 0, "[9]");
        session_done(shifter);
        CHECK(session_refused(writer, "keys", "1"));
        CHECK(scene_is(&scene, "{1:[9 10 1 2 13]}"));

        shifter = session_open(&scene, level);
        writer = session_open(&scene, level);
        splice(shifter, "1", 0, 1, "[]");
        set(writer, "1.4", "44");
        session_done(writer);
        CHECK(session_refused(shifter, "content", "1"));

        writer = session_open(&scene, level); /* the same place */
        shifter = session_open(&scene, level);
        set(writer, "1.2", "5");
        set(shifter, "1.2", "6");
        session_done(shifter);
        CHECK(session_refused(writer, "value", "1.2"));

        add(writer = session_open(&scene, level), "1.0", 1); /* deferred, by index */
        commit_set(&scene, "1.0", "100");
        session_done(writer);
        CHECK(scene_is(&scene, "{1:[101 10 6 2 44]}"));
        add(writer = session_open(&scene, level), "1.0", 1);
        commit_set(&scene, "1.4", NULL);
        CHECK(session_refused(writer, "keys", "1"));

        one = session_open(&scene, level); /* two appends */
        two = session_open(&scene, level);
        append(one, "1", "[7]");
        append(two, "1", "[8]");
        session_done(one);
        CHECK(session_refused(two, "content", "1"));
        scene_close(&scene);
    }
}

/* Elements that are containers: written in place, they stay themselves wherever others move them. */
static void
test_list_elements(void)
{
    for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
        scene scene;
        scene_open(&scene, "{1:[{2:0} {2:1}]}");
        session *writer = session_open(&scene, level);
        set(writer, "1.1.2", "10");
        session *shifter = session_open(&scene, level);
        splice(shifter, "1", 0, 0, "[{2:9}]");
        session_done(shifter);
        CHECK(session_refused(writer, "place", "1.1"));
        CHECK(scene_is(&scene, "{1:[{2:9} {2:0} {2:1}]}"));

        writer = session_open(&scene, level); /* an append moves nobody */
        set(writer, "1.1.2", "10");
        shifter = session_open(&scene, level);
        append(shifter, "1", "[{2:7}]");
        session_done(shifter);
        session_done(writer);
        CHECK(scene_is(&scene, "{1:[{2:9} {2:10} {2:1} {2:7}]}"));

        writer =
            session_open(&scene, level); /* neither does a write of the same element elsewhere */
        set(writer, "1.1.3", "30");
        shifter = session_open(&scene, level);
        set(shifter, "1.1.4", "40");
        session_done(shifter);
        session_done(writer);
        CHECK(scene_is(&scene, "{1:[{2:9} {2:10 4:40 3:30} {2:1} {2:7}]}"));

        writer = session_open(&scene, level); /* a permutation keeps the length, not the places */
        set(writer, "1.0.2", "5");
        session *sorter = session_open(&scene, level);
        uint32_t order[] = {1, 0, 2, 3};
        CHECK(theus_cell_permute(cell_at(sorter, "1"), order) == THEUS_OK);
        session_done(sorter);
        CHECK(session_refused(writer, "place", "1.0"));
        scene_close(&scene);
    }
}

/* What was read in a list after it was reshaped is still a read when the list is thrown away. */
static void
test_reads_of_a_reshaped_list(void)
{
    scene scene;
    scene_open(&scene, "{1:[{2:20} 5] 7:0}");
    for (int inner = 0; inner < 2; inner++) {
        session *tx = session_open(&scene, THEUS_SERIALIZABLE);
        append(tx, "1", "[6]");
        CHECK(inner ? get(tx, "1.0.2") >= 20 : get(tx, "1.1") >= 5);
        set(tx, "1", "0");
        set(tx, "7", "1");
        commit_set(&scene, inner ? "1.0.2" : "1.1", "55");
        CHECK(session_refused(tx, "content", "1"));
    }
    scene_close(&scene);
}

/* Emptying what is empty already writes nothing, and counts on it. */
static void
test_clear_of_nothing(void)
{
    scene scene;
    scene_open(&scene, "{1:{} 7:0}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    perform(tx, "clear 1");
    set(tx, "7", "1");
    commit_set(&scene, "1.2", "3");
    CHECK(session_refused(tx, "keys", "1"));
    scene_close(&scene);
}

int
main(void)
{
    test_siblings();
    test_ancestor();
    test_fetch_is_a_read();
    test_restored_container();
    test_descendant();
    test_delete_and_reinsert();
    test_list_places();
    test_list_elements();
    test_reads_of_a_reshaped_list();
    test_clear_of_nothing();
    return check_result();
}
