/* The anomalies of the isolation literature, on both levels, and what counts as a conflict: by value, key set,
 * absence, content and place. (The same rows as seen from Python: tests/unit/test_anomalies.py.) */
#include "scene.h"

static const theus_isolation levels[] = {THEUS_SERIALIZABLE, THEUS_SNAPSHOT};

#define BOTH(level)                                                                     \
    for (size_t level##_i = 0; level##_i < 2; level##_i++)                              \
        for (theus_isolation level = levels[level##_i], *once_ = &level; once_ != NULL; \
             once_ = NULL)

/* ---- dirty and lost ------------------------------------------------------------------------ */

static void
test_g0_g1(void)
{
    BOTH(level)
    {
        scene scene;
        scene_open(&scene, "{1:0 2:0}");
        session *one = session_open(&scene, level), *two = session_open(&scene, level);
        set(one, "1", "1");
        CHECK(get(two, "1") == 0); /* G1a, G1b: nothing of an unfinished one is seen */
        set(two, "2", "2");
        CHECK(get(one, "2") == 0);
        session_done(one);
        CHECK(get(two, "1") == 0 && get(two, "2") == 2);
        if (level == THEUS_SERIALIZABLE) { /* G1c: it read what one has changed since */
            CHECK(session_refused(two, "value", "1"));
            CHECK(scene_is(&scene, "{1:1 2:0}"));
        }
        else {
            session_done(two);
            CHECK(scene_is(&scene, "{1:1 2:2}"));
        }
        scene_close(&scene);
    }
}

/* Two blind writers: any order is a serial one. First committer wins does not allow it. */
static void
test_blind_writes(void)
{
    BOTH(level)
    {
        scene scene;
        scene_open(&scene, "{1:0}");
        session *one = session_open(&scene, level), *two = session_open(&scene, level);
        set(one, "1", "1");
        set(two, "1", "2");
        session_done(one);
        if (level == THEUS_SERIALIZABLE) {
            session_done(two);
            CHECK(scene_is(&scene, "{1:2}"));
        }
        else {
            CHECK(session_refused(two, "value", "1"));
            CHECK(scene_is(&scene, "{1:1}"));
        }
        scene_close(&scene);
    }
}

static void
test_p4_lost_update(void)
{
    BOTH(level)
    {
        scene scene;
        scene_open(&scene, "{1:{2:100}}");
        session *one = session_open(&scene, level), *two = session_open(&scene, level);
        CHECK(get(one, "1.2") == 100 && get(two, "1.2") == 100);
        set(one, "1.2", "101");
        set(two, "1.2", "102");
        session_done(one);
        CHECK(session_refused(two, "value", "1.2"));
        CHECK(scene_is(&scene, "{1:{2:101}}"));
        scene_close(&scene);
    }
}

/* A reader never sees half of somebody's commit, and always may end. */
static void
test_read_skew(void)
{
    BOTH(level)
    {
        scene scene;
        scene_open(&scene, "{1:10 2:20}");
        session *reader = session_open(&scene, level), *writer = session_open(&scene, level);
        CHECK(get(reader, "1") == 10);
        set(writer, "1", "12");
        set(writer, "2", "18");
        session_done(writer);
        CHECK(get(reader, "2") == 20);
        CHECK(session_commit(reader) == THEUS_UNCHANGED);
        session_close(reader);
        scene_close(&scene);
    }
}

/* Storing what is there already is a write: the serial order decides what stands, not the values. */
static void
test_silent_store(void)
{
    BOTH(level)
    {
        scene scene;
        scene_open(&scene, "{1:{} 2:0 3:(7) 4:[8]}");
        commit_set(&scene, "1", "{5:50}");
        session *one = session_open(&scene, level), *two = session_open(&scene, level);
        theus_container *root = two->txn.root->now;
        theus_value there = theus_container_value_at(root, 1);
        CHECK(theus_cell_put(two->txn.root, 1, there) == THEUS_OK);
        include(two, "3", 7);
        CHECK(get(one, "2") == 0);
        set(one, "2", "1");
        exclude(one, "3", 7);
        set(one, "1.5", "51");
        session_done(one);
        set(two, "1.6", "60");
        if (level == THEUS_SERIALIZABLE) { /* as if two had run after one */
            session_done(two);
            CHECK(scene_is(&scene, "{1:{5:51 6:60} 2:0 3:(7) 4:[8]}"));
        }
        else {
            CHECK(session_refused(two, "value", "2"));
        }
        scene_close(&scene);
    }
}

/* ---- skew ------------------------------------------------------------------------------------- */

static void
test_g2_write_skew(void)
{
    BOTH(level)
    {
        scene scene;
        scene_open(&scene, "{1:1 2:1}");
        session *one = session_open(&scene, level), *two = session_open(&scene, level);
        CHECK(get(one, "1") == 1 && get(one, "2") == 1 && get(two, "1") == 1 && get(two, "2") == 1);
        set(one, "1", "0");
        set(two, "2", "0");
        session_done(one);
        if (level == THEUS_SERIALIZABLE) {
            CHECK(session_refused(two, "value", "1"));
            CHECK(scene_is(&scene, "{1:0 2:1}"));
        }
        else { /* it does happen: the level is offered under its honest name */
            session_done(two);
            CHECK(scene_is(&scene, "{1:0 2:0}"));
        }
        scene_close(&scene);
    }
}

/* Fekete 2004: a withdrawal, a deposit, and a statement between them. */
static void
test_read_only_anomaly(void)
{
    BOTH(level)
    {
        scene scene;
        scene_open(&scene, "{1:0 2:0}");
        session *withdrawal = session_open(&scene, level);
        CHECK(get(withdrawal, "1") == 0 && get(withdrawal, "2") == 0);
        commit_set(&scene, "2", "20");
        session *statement = session_open(&scene, level);
        CHECK(get(statement, "1") == 0 && get(statement, "2") == 20);
        CHECK(session_commit(statement) == THEUS_UNCHANGED);
        session_close(statement);
        set(withdrawal, "1", "11");
        if (level == THEUS_SERIALIZABLE) {
            CHECK(session_refused(withdrawal, "value", "2"));
        }
        else {
            session_done(withdrawal);
        }
        scene_close(&scene);
    }
}

/* ---- phantoms --------------------------------------------------------------------------------------- */

typedef struct {
    void (*look)(session *tx);
    void (*change)(session *tx);
    const char *what, *path; /* of the conflict; NULL: there is none */
} phantom;

static void
look_length(session *tx)
{
    length_of(tx, "1");
}
static void
look_missing(session *tx)
{
    CHECK(get(tx, "1.9") == ABSENT);
}
static void
look_all(session *tx)
{
    CHECK(reads_as(tx, "1", "{2:20 3:{4:40}}"));
}
static void
look_above(session *tx)
{
    CHECK(reads_as(tx, "", "{1:{2:20 3:{4:40}} 5:[50 51] 6:(60) 7:0}"));
}
static void
look_value(session *tx)
{
    CHECK(get(tx, "1.2") == 20);
}
static void
look_deep(session *tx)
{
    CHECK(get(tx, "1.3.4") == 40);
}
static void
look_nested(session *tx)
{
    CHECK(get(tx, "1.3") == NESTED);
}
static void
look_list_length(session *tx)
{
    length_of(tx, "5");
}
static void
look_list_item(session *tx)
{
    CHECK(get(tx, "5.1") == 51);
}
static void
look_beyond(session *tx)
{
    CHECK(get(tx, "5.7") == ABSENT);
}
static void
look_set_missing(session *tx)
{
    CHECK(!contains(tx, "6", 61));
}
static void
look_set_there(session *tx)
{
    CHECK(contains(tx, "6", 60));
}
static void
look_set_length(session *tx)
{
    length_of(tx, "6");
}

static void
change_insert(session *tx)
{
    set(tx, "1.9", "90");
}
static void
change_other_insert(session *tx)
{
    set(tx, "1.8", "80");
}
static void
change_value(session *tx)
{
    set(tx, "1.2", "21");
}
static void
change_remove(session *tx)
{
    discard(tx, "1.2");
}
static void
change_deep(session *tx)
{
    set(tx, "1.3.4", "41");
}
static void
change_deep_insert(session *tx)
{
    set(tx, "1.3.5", "50");
}
static void
change_replace(session *tx)
{
    set(tx, "1", "{2:20 3:{4:40}}");
}
static void
change_replace_by_atom(session *tx)
{
    set(tx, "1", "1");
}
static void
change_replace_deep(session *tx)
{
    set(tx, "1.3", "{4:40}");
}
static void
change_kind_deep(session *tx)
{
    set(tx, "1.3", "[4]");
}
static void
change_delete_parent(session *tx)
{
    discard(tx, "1");
}
static void
change_clear(session *tx)
{
    CHECK(theus_cell_clear(cell_at(tx, "1")) == THEUS_OK);
}
static void
change_append(session *tx)
{
    append(tx, "5", "[52]");
}
static void
change_prepend(session *tx)
{
    splice(tx, "5", 0, 0, "[49]");
}
static void
change_item(session *tx)
{
    set(tx, "5.1", "0");
}
static void
change_other_item(session *tx)
{
    set(tx, "5.0", "0");
}
static void
change_include(session *tx)
{
    include(tx, "6", 61);
}
static void
change_exclude(session *tx)
{
    exclude(tx, "6", 60);
}
static void
change_include_other(session *tx)
{
    include(tx, "6", 62);
}

static const phantom phantoms[] = {
    {look_length, change_insert, "keys", "1"},
    {look_length, change_remove, "keys", "1"},
    {look_length, change_clear, "keys", "1"},
    {look_length, change_value, NULL, NULL},
    {look_length, change_deep_insert, NULL, NULL},
    {look_length, change_replace, "place", "1"},
    {look_missing, change_insert, "absence", "1.9"},
    {look_missing, change_other_insert, NULL, NULL},
    {look_missing, change_remove, NULL, NULL},
    {look_missing, change_replace_by_atom, "value", "1"},
    {look_all, change_insert, "content", "1"},
    {look_all, change_value, "content", "1"},
    {look_all, change_deep, "content", "1"},
    {look_all, change_append, NULL, NULL},
    {look_above, change_deep, "content", ""},
    {look_above, change_append, "content", ""},
    {look_value, change_value, "value", "1.2"},
    {look_value, change_remove, "value", "1.2"},
    {look_value, change_insert, NULL, NULL},
    {look_value, change_deep, NULL, NULL},
    {look_value, change_clear, "value", "1.2"},
    {look_value, change_replace, "place", "1"},
    {look_value, change_delete_parent, "value", "1"},
    {look_deep, change_deep, "value", "1.3.4"},
    {look_deep, change_deep_insert, NULL, NULL},
    {look_deep, change_replace_deep, "place", "1.3"},
    {look_deep, change_replace, "place", "1"},
    {look_deep, change_delete_parent, "value", "1"},
    {look_deep, change_value, NULL, NULL},
    {look_nested, change_deep, NULL, NULL}, /* that it is there, and a map */
    {look_nested, change_kind_deep, "value", "1.3"},
    {look_list_length, change_append, "keys", "5"},
    {look_list_length, change_item, NULL, NULL},
    {look_list_item, change_item, "value", "5.1"},
    {look_list_item, change_other_item, NULL, NULL},
    {look_list_item, change_append, NULL, NULL},
    {look_list_item, change_prepend, "value", "5.1"},
    {look_beyond, change_append, "keys", "5"},
    {look_set_missing, change_include, "absence", "6.61"},
    {look_set_missing, change_include_other, NULL, NULL},
    {look_set_there, change_exclude, "value", "6.60"},
    {look_set_there, change_include, NULL, NULL},
    {look_set_length, change_include, "keys", "6"},
    {look_set_length, change_exclude, "keys", "6"},
};

/* One asks and writes elsewhere; the other changes what was asked for. */
static void
test_phantoms(void)
{
    for (size_t i = 0; i < sizeof(phantoms) / sizeof(phantoms[0]); i++) {
        const phantom *row = &phantoms[i];
        BOTH(level)
        {
            scene scene;
            scene_open(&scene, "{1:{2:20 3:{4:40}} 5:[50 51] 6:(60) 7:0}");
            session *asker = session_open(&scene, level), *changer = session_open(&scene, level);
            row->look(asker);
            set(asker, "7", "1");
            row->change(changer);
            session_done(changer);
            if (level == THEUS_SERIALIZABLE && row->what != NULL) {
                bool refused = session_refused(asker, row->what, row->path);
                if (!refused) {
                    fprintf(stderr, "row %zu\n", i);
                }
                CHECK(refused);
            }
            else {
                session_done(asker);
            }
            scene_close(&scene);
        }
    }
}

/* ---- nested paths ------------------------------------------------------------------------------------------- */

static void
test_siblings(void)
{
    BOTH(level)
    {
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
        void (*change)(session *tx);
        const char *what, *path, *left;
    } rows[] = {
        {change_replace, "place", "1", "{1:{2:20 3:{4:40}} 7:0}"},
        {change_replace_deep, "place", "1.3", "{1:{2:20 3:{4:40}} 7:0}"},
        {change_kind_deep, "value", "1.3", "{1:{2:20 3:[4]} 7:0}"},
        {change_replace_by_atom, "value", "1", "{1:1 7:0}"},
        {change_delete_parent, "value", "1", "{7:0}"},
        {change_clear, "value", "1.3", "{1:{} 7:0}"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        BOTH(level) {
            scene scene;
            scene_open(&scene, "{1:{2:20 3:{4:40}} 7:0}");
            session *below = session_open(&scene, level), *above = session_open(&scene, level);
            set(below, "1.3.4", "41");
            rows[i].change(above);
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
    BOTH(level)
    {
        scene scene;
        scene_open(&scene, "{1:{2:20 3:{4:40}} 7:0}");
        session *above = session_open(&scene, level), *clearing = session_open(&scene, level);
        session *reading = session_open(&scene, level);
        set(above, "1", "{9:9}");
        change_clear(clearing);
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
    BOTH(level)
    {
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
    BOTH(level)
    {
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
    BOTH(level)
    {
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
    change_clear(tx);
    set(tx, "7", "1");
    commit_set(&scene, "1.2", "3");
    CHECK(session_refused(tx, "keys", "1"));
    scene_close(&scene);
}

int
main(void)
{
    test_g0_g1();
    test_blind_writes();
    test_p4_lost_update();
    test_read_skew();
    test_silent_store();
    test_g2_write_skew();
    test_read_only_anomaly();
    test_phantoms();
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
