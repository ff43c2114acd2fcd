/* Attachments: what rides on a commit, and the queue of the records that carry messages. */
#include "scene.h"

#include "ring.h"

#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static theus_status
attach(session *tx, theus_attachment kind, uint64_t name, uint64_t number)
{
    fake_atom *key = fake_new(name), *value = fake_new(number);
    theus_status status = theus_txn_attach(&tx->txn, kind, key, theus_value_of_atom(value));
    fake_release(key);
    fake_release(value);
    return status;
}

static bool
list_is(theus_container *list, const char *text)
{
    char shown[256];
    if (list == NULL) {
        return text == NULL;
    }
    value_show(theus_value_of_container(list), shown, sizeof(shown));
    return text != NULL && strcmp(shown, text) == 0;
}

/* Is the oldest queued record of this version, with these messages? 0, NULL: there is none. */
static bool
queued_is(const scene *scene, uint64_t version, const char *messages)
{
    theus_record *record = theus_store_queued(scene->store);
    bool is = record == NULL ? version == 0
                             : record->version == version && list_is(record->attached[THEUS_MESSAGES], messages);
    theus_record_release(record);
    return is;
}

static void
test_everything_is_in_the_record(void)
{
    scene scene;
    scene_open(&scene, "{1:0}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(attach(tx, THEUS_MESSAGES, 1, 10) == THEUS_OK);
    CHECK(attach(tx, THEUS_SIGNALS, 2, 20) == THEUS_OK);
    CHECK(attach(tx, THEUS_MESSAGES, 1, 11) == THEUS_OK);
    CHECK(attach(tx, THEUS_SIGNALS, 2, 21) == THEUS_OK);
    CHECK(attach(tx, THEUS_NOTES, 3, 30) == THEUS_OK);
    CHECK(theus_txn_attached(&tx->txn, THEUS_MESSAGES) == 2);
    CHECK(session_commit(tx) == THEUS_COMMITTED);
    const theus_record *record = tx->made->record;
    CHECK(list_is(record->attached[THEUS_MESSAGES], "[1 10 1 11]"));
    CHECK(list_is(record->attached[THEUS_SIGNALS], "[2 20 2 21]"));
    CHECK(list_is(record->attached[THEUS_NOTES], "[3 30]"));
    CHECK(list_is(tx->made->signals, "{2:21}"));
    CHECK(queued_is(&scene, tx->made->number, "[1 10 1 11]"));
    session_close(tx);
    scene_close(&scene); /* and a queue that nobody has emptied goes with its store */
}

static void
test_what_makes_a_version(void)
{
    scene scene;
    scene_open(&scene, "{1:0}");
    uint64_t before = scene_version(&scene);
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(attach(tx, THEUS_NOTES, 3, 30) == THEUS_OK);
    CHECK(session_commit(tx) == THEUS_UNCHANGED && scene_version(&scene) == before);
    session_close(tx);
    tx = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(attach(tx, THEUS_MESSAGES, 1, 10) == THEUS_OK);
    session_done(tx);
    CHECK(scene_version(&scene) == before + 1 && scene_is(&scene, "{1:0}"));
    tx = session_open(&scene, THEUS_SERIALIZABLE);
    set(tx, "1", "1");
    CHECK(session_commit(tx) == THEUS_COMMITTED);
    for (int kind = 0; kind < THEUS_ATTACHMENTS; kind++) {
        CHECK(tx->made->record->attached[kind] == NULL);
    }
    session_close(tx);
    scene_close(&scene);
}

static void
test_savepoints(void)
{
    scene scene;
    scene_open(&scene, "{1:0}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    theus_savepoint *savepoint;
    REQUIRE(theus_txn_save(&tx->txn, &savepoint) == THEUS_OK);
    CHECK(theus_txn_attached_before(&tx->txn, THEUS_MESSAGES) == 0);
    CHECK(attach(tx, THEUS_MESSAGES, 1, 10) == THEUS_OK);
    theus_savepoint_rollback(savepoint);
    CHECK(tx->txn.attached[THEUS_MESSAGES] == NULL && !theus_txn_sends(&tx->txn));
    CHECK(attach(tx, THEUS_MESSAGES, 1, 11) == THEUS_OK);
    REQUIRE(theus_txn_save(&tx->txn, &savepoint) == THEUS_OK);
    CHECK(theus_txn_attached_before(&tx->txn, THEUS_MESSAGES) == 1);
    CHECK(attach(tx, THEUS_MESSAGES, 1, 12) == THEUS_OK);
    theus_savepoint_release(savepoint);
    CHECK(theus_txn_attached_before(&tx->txn, THEUS_MESSAGES) == 0);
    REQUIRE(theus_txn_save(&tx->txn, &savepoint) == THEUS_OK);
    CHECK(attach(tx, THEUS_MESSAGES, 1, 13) == THEUS_OK);
    theus_savepoint_rollback(savepoint);
    session_done(tx);
    CHECK(queued_is(&scene, scene_version(&scene), "[1 11 1 12]"));
    scene_close(&scene);
}

static void
test_losers_leave_nothing(void)
{
    scene scene;
    scene_open(&scene, "{1:0}");
    session *loser = session_open(&scene, THEUS_SERIALIZABLE);
    session *aborted = session_open(&scene, THEUS_SERIALIZABLE);
    session *rebased = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(get(loser, "1") == 0);
    CHECK(attach(loser, THEUS_MESSAGES, 1, 10) == THEUS_OK);
    CHECK(attach(aborted, THEUS_MESSAGES, 1, 11) == THEUS_OK);
    CHECK(attach(rebased, THEUS_MESSAGES, 1, 12) == THEUS_OK);
    session *winner = session_open(&scene, THEUS_SERIALIZABLE);
    set(winner, "1", "1");
    session_done(winner);
    CHECK(session_refused(loser, "value", "1"));
    session_close(aborted);
    CHECK(queued_is(&scene, 0, NULL));
    session_done(rebased);
    CHECK(queued_is(&scene, scene_version(&scene), "[1 12]"));
    scene_close(&scene);
}

/* The queue keeps what ring and history have long forgotten, and gives each record once. */
static void
test_queue(void)
{
    scene scene;
    scene_open(&scene, "{1:0}");
    uint64_t first = scene_version(&scene) + 1;
    for (uint64_t i = 0; i < 40; i++) {
        session *tx = session_open(&scene, THEUS_SERIALIZABLE);
        if (i % 2 == 0) {
            CHECK(attach(tx, THEUS_MESSAGES, 1, 100 + i) == THEUS_OK);
        }
        set(tx, "1", i % 2 == 0 ? "1" : "2");
        session_done(tx);
    }
    for (uint64_t i = 0; i < 20; i += 2) {
        char text[32];
        snprintf(text, sizeof(text), "[1 %d]", (int)(100 + i));
        CHECK(queued_is(&scene, first + i, text) && queued_is(&scene, first + i, text));
        theus_store_unqueue(scene.store, first + i);
    }
    theus_store_unqueue(scene.store, first + 3); /* taken already: nothing */
    CHECK(queued_is(&scene, first + 20, "[1 120]"));
    theus_store_unqueue(scene.store, first + 30); /* several at once */
    CHECK(queued_is(&scene, first + 32, "[1 132]"));
    theus_store_unqueue(scene.store, UINT64_MAX);
    CHECK(queued_is(&scene, 0, NULL));
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(attach(tx, THEUS_MESSAGES, 1, 7) == THEUS_OK);
    session_done(tx);
    CHECK(queued_is(&scene, first + 40, "[1 7]"));
    scene_close(&scene);
}

/* A pair is attached whole or not at all, and the commit finds memory or fails whole. */
static void
test_without_memory(void)
{
    theus_status status = THEUS_NOMEM;
    for (long n = 1; status != THEUS_OK; n++) {
        scene scene;
        scene_open(&scene, "{}");
        session *tx = session_open(&scene, THEUS_SERIALIZABLE);
        theus_savepoint *savepoint;
        CHECK(attach(tx, THEUS_MESSAGES, 1, 1) == THEUS_OK);
        REQUIRE(theus_txn_save(&tx->txn, &savepoint) == THEUS_OK);
        fake_atom *topic = fake_new(2), *payload = fake_new(5);
        theus_alloc_fail_at(n);
        status = theus_txn_attach(&tx->txn, THEUS_MESSAGES, topic, theus_value_of_atom(payload));
        theus_alloc_fail_at(-1);
        fake_release(topic);
        fake_release(payload);
        CHECK(status == THEUS_OK || status == THEUS_NOMEM);
        CHECK(list_is(tx->txn.attached[THEUS_MESSAGES], status == THEUS_OK ? "[1 1 2 5]" : "[1 1]"));
        session_close(tx);
        scene_close(&scene);
    }
    theus_outcome outcome = THEUS_COMMIT_FAILED;
    for (long n = 1; outcome != THEUS_COMMITTED; n++) {
        scene scene;
        scene_open(&scene, "{}");
        session *tx = session_open(&scene, THEUS_SERIALIZABLE);
        CHECK(attach(tx, THEUS_MESSAGES, 1, 1) == THEUS_OK);
        CHECK(attach(tx, THEUS_SIGNALS, 1, 1) == THEUS_OK);
        theus_alloc_fail_at(n);
        outcome = session_commit(tx);
        theus_alloc_fail_at(-1);
        CHECK(outcome == THEUS_COMMITTED || outcome == THEUS_COMMIT_FAILED);
        CHECK(queued_is(&scene, outcome == THEUS_COMMITTED ? scene_version(&scene) : 0, "[1 1]"));
        session_close(tx);
        scene_close(&scene);
    }
}

/* What was waiting is the parent's to hand over. */
static void
test_fork(void)
{
    scene scene;
    scene_open(&scene, "{1:0}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(attach(tx, THEUS_MESSAGES, 1, 10) == THEUS_OK);
    session_done(tx);
    uint64_t version = scene_version(&scene);
    for (int commits_first = 0; commits_first < 2; commits_first++) {
        pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            bool well = commits_first || queued_is(&scene, 0, NULL);
            tx = session_open(&scene, THEUS_SERIALIZABLE);
            well = well && attach(tx, THEUS_MESSAGES, 1, 11) == THEUS_OK;
            session_done(tx);
            well = well && queued_is(&scene, version + 1, "[1 11]");
            scene_close(&scene);
            _exit(well && check_result() == 0 ? 0 : 1);
        }
        int status;
        REQUIRE(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    CHECK(queued_is(&scene, version, "[1 10]"));
    scene_close(&scene);
}

/* ---- threads ---------------------------------------------------------------------------- */

enum { SENDERS = 3, SENT = 300 };

static void *
send_many(void *arg)
{
    const scene *scene = arg;
    for (int i = 0; i < SENT; i++) {
        session *tx = session_open(scene, THEUS_SERIALIZABLE);
        CHECK(attach(tx, THEUS_MESSAGES, 1, (uint64_t)i) == THEUS_OK);
        session_done(tx);
    }
    return NULL;
}

/* Each is handed over once, in the order of versions, while others commit. */
static void
test_taking_while_others_send(void)
{
    scene scene;
    pthread_t threads[SENDERS];
    scene_open(&scene, "{1:0}");
    for (int i = 0; i < SENDERS; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, send_many, &scene) == 0);
    }
    uint64_t last = 0;
    for (int taken = 0; taken < SENDERS * SENT;) {
        theus_record *record = theus_store_queued(scene.store);
        if (record != NULL) {
            CHECK(record->version > last && record->attached[THEUS_MESSAGES]->count == 2);
            last = record->version;
            theus_store_unqueue(scene.store, last);
            theus_record_release(record);
            taken++;
        }
    }
    for (int i = 0; i < SENDERS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(queued_is(&scene, 0, NULL) && last == scene_version(&scene));
    scene_close(&scene);
}

int
main(void)
{
    test_everything_is_in_the_record();
    test_what_makes_a_version();
    test_savepoints();
    test_losers_leave_nothing();
    test_queue();
    test_without_memory();
    test_fork();
    test_taking_while_others_send();
    return check_result();
}
