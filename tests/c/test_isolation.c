/* The anomalies of the isolation literature on both levels, phantoms above all. (The same rows as seen from
 * Python: tests/unit/test_anomalies.py.) */
#include "scene.h"

/* ---- dirty and lost ------------------------------------------------------------------------ */

static void
test_g0_g1(void)
{
    for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
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
    for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
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
    for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
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
    for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
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
    for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
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
    for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
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
    for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
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
    const char *look, *change; /* as perform() reads them */
    const char *what, *path;   /* of the conflict; NULL: there is none */
} phantom;

static const phantom phantoms[] = {
    {"len 1", "set 1.9 90", "keys", "1"},
    {"len 1", "del 1.2", "keys", "1"},
    {"len 1", "clear 1", "keys", "1"},
    {"len 1", "set 1.2 21", NULL, NULL},
    {"len 1", "set 1.3.5 50", NULL, NULL},
    {"len 1", "set 1 {2:20 3:{4:40}}", "place", "1"},
    {"get 1.9", "set 1.9 90", "absence", "1.9"},
    {"get 1.9", "set 1.8 80", NULL, NULL},
    {"get 1.9", "del 1.2", NULL, NULL},
    {"get 1.9", "set 1 1", "value", "1"},
    {"all 1", "set 1.9 90", "content", "1"},
    {"all 1", "set 1.2 21", "content", "1"},
    {"all 1", "set 1.3.4 41", "content", "1"},
    {"all 1", "push 5 [52]", NULL, NULL},
    {"all ", "set 1.3.4 41", "content", ""},
    {"all ", "push 5 [52]", "content", ""},
    {"get 1.2", "set 1.2 21", "value", "1.2"},
    {"get 1.2", "del 1.2", "value", "1.2"},
    {"get 1.2", "set 1.9 90", NULL, NULL},
    {"get 1.2", "set 1.3.4 41", NULL, NULL},
    {"get 1.2", "clear 1", "value", "1.2"},
    {"get 1.2", "set 1 {2:20 3:{4:40}}", "place", "1"},
    {"get 1.2", "del 1", "value", "1"},
    {"get 1.3.4", "set 1.3.4 41", "value", "1.3.4"},
    {"get 1.3.4", "set 1.3.5 50", NULL, NULL},
    {"get 1.3.4", "set 1.3 {4:40}", "place", "1.3"},
    {"get 1.3.4", "set 1 {2:20 3:{4:40}}", "place", "1"},
    {"get 1.3.4", "del 1", "value", "1"},
    {"get 1.3.4", "set 1.2 21", NULL, NULL},
    {"get 1.3", "set 1.3.4 41", NULL, NULL}, /* that it is there, and a map */
    {"get 1.3", "set 1.3 [4]", "value", "1.3"},
    {"len 5", "push 5 [52]", "keys", "5"},
    {"len 5", "set 5.1 0", NULL, NULL},
    {"get 5.1", "set 5.1 0", "value", "5.1"},
    {"get 5.1", "set 5.0 0", NULL, NULL},
    {"get 5.1", "push 5 [52]", NULL, NULL},
    {"get 5.1", "unshift 5 [49]", "value", "5.1"},
    {"get 5.7", "push 5 [52]", "keys", "5"},
    {"in 6 61", "include 6 61", "absence", "6.61"},
    {"in 6 61", "include 6 62", NULL, NULL},
    {"in 6 60", "exclude 6 60", "value", "6.60"},
    {"in 6 60", "include 6 61", NULL, NULL},
    {"len 6", "include 6 61", "keys", "6"},
    {"len 6", "exclude 6 60", "keys", "6"},
};

/* One asks and writes elsewhere; the other changes what was asked for. */
static void
test_phantoms(void)
{
    for (size_t i = 0; i < sizeof(phantoms) / sizeof(phantoms[0]); i++) {
        const phantom *row = &phantoms[i];
        for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
            scene scene;
            scene_open(&scene, "{1:{2:20 3:{4:40}} 5:[50 51] 6:(60) 7:0}");
            session *asker = session_open(&scene, level), *changer = session_open(&scene, level);
            perform(asker, row->look);
            set(asker, "7", "1");
            perform(changer, row->change);
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

/* ---- items of a list are places only while no one moves them ------------------------------------------- */

static void
test_moved_items(void)
{
    for (theus_isolation level = THEUS_SERIALIZABLE; level <= THEUS_SNAPSHOT; level++) {
        scene scene;
        scene_open(&scene, "{1:[10 20] 2:0}");
        session *tx = session_open(&scene, level), *other = session_open(&scene, level);
        add(tx, "1.0", 5); /* deferred: the newest version has another item there */
        perform(other, "unshift 1 [99]");
        session_done(other);
        CHECK(session_refused(tx, "keys", "1"));
        CHECK(scene_is(&scene, "{1:[99 10 20] 2:0}"));
        scene_close(&scene);
    }
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
    test_moved_items();
    return check_result();
}
