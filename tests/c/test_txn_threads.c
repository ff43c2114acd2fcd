/* Transactions under several threads, and the door of a single one: BUSY, ENDED, FORKED. */
#define _POSIX_C_SOURCE 200809L

#include "conflict.h"
#include "scene.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 8, ACCOUNTS = 10, ROUNDS = 300, START = 1000 };

static scene bank;
static pthread_barrier_t start;
static _Atomic(int) moving;
static _Atomic(long) conflicts;

static void
run_threads(void *(*bodies[THREADS])(void *))
{
    pthread_t threads[THREADS];
    pthread_barrier_init(&start, NULL, THREADS);
    for (size_t i = 0; i < THREADS; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, bodies[i], (void *)i) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    pthread_barrier_destroy(&start);
}

/* The newest version, as a session of its own; session_open() asks for a number, which may be gone by then. */
static session *
open_newest(theus_isolation isolation)
{
    session *tx = calloc(1, sizeof(*tx));
    REQUIRE(tx != NULL);
    theus_version *version = theus_store_pin(bank.store);
    theus_txn_begin(&tx->txn, bank.store, version, isolation, false);
    theus_version_release(version);
    tx->txn.apply = fake_apply;
    tx->txn.embedder = bank.heap;
    return tx;
}

static void
set_number(session *tx, const char *path, int64_t number)
{
    char shown[24];
    snprintf(shown, sizeof(shown), "%lld", (long long)number);
    set(tx, path, shown);
}

/* Commits and closes; false after a conflict, with a wait. */
static bool
committed(session *tx, uint32_t *failures)
{
    theus_outcome outcome = session_commit(tx);
    REQUIRE(outcome != THEUS_COMMIT_FAILED);
    session_close(tx);
    if (outcome != THEUS_CONFLICTED) {
        return true;
    }
    atomic_fetch_add(&conflicts, 1);
    theus_sleep_ns(theus_backoff_ns(2000, (*failures)++, theus_random()));
    return false;
}

/* ---- money is neither made nor lost ----------------------------------------------------------------- */

static void *
move_money(void *arg)
{
    unsigned long long random = (size_t)arg + 1;
    pthread_barrier_wait(&start);
    for (int i = 0; i < ROUNDS; i++) {
        unsigned from = check_random(&random, ACCOUNTS), to = check_random(&random, ACCOUNTS);
        uint32_t failures = 0;
        session *tx;
        do {
            char path[2][16];
            snprintf(path[0], sizeof(path[0]), "1.%u", from);
            snprintf(path[1], sizeof(path[1]), "1.%u", to);
            tx = open_newest(THEUS_SERIALIZABLE);
            int64_t amount = 1 + check_random(&random, 5), rich = get(tx, path[0]);
            if (from != to && rich >= amount) {
                set_number(tx, path[0], rich - amount);
                set_number(tx, path[1], get(tx, path[1]) + amount);
            }
            add(tx, "2", 1); /* counts with everybody, and conflicts with nobody */
        } while (!committed(tx, &failures));
    }
    atomic_fetch_sub(&moving, 1);
    return NULL;
}

/* Every version has the same sum: nobody sees half of a transfer. Serializable readers never fail. */
static void *
watch_money(void *arg)
{
    (void)arg;
    pthread_barrier_wait(&start);
    uint64_t last = 0;
    do {
        session *tx = open_newest(THEUS_SERIALIZABLE);
        CHECK(tx->txn.pinned->number >= last);
        last = tx->txn.pinned->number;
        int64_t sum = 0;
        for (int i = 0; i < ACCOUNTS; i++) {
            char path[16];
            snprintf(path, sizeof(path), "1.%d", i);
            sum += get(tx, path);
        }
        CHECK(sum == ACCOUNTS * START && get(tx, "2") == (int64_t)last);
        CHECK(session_commit(tx) == THEUS_UNCHANGED);
        session_close(tx);
    } while (atomic_load(&moving) > 0);
    return NULL;
}

static void
test_money(void)
{
    theus_store_limits limits = {.ring_capacity = 16, .history_count = 4};
    scene_open_with(
        &bank, "{1:{0:1000 1:1000 2:1000 3:1000 4:1000 5:1000 6:1000 7:1000 8:1000 9:1000} 2:0}",
        &limits);
    void *(*bodies[THREADS])(void *);
    for (int i = 0; i < THREADS; i++) {
        bodies[i] = i < THREADS - 2 ? move_money : watch_money;
    }
    atomic_store(&moving, THREADS - 2);
    run_threads(bodies);
    session *tx = open_newest(THEUS_SERIALIZABLE);
    CHECK(get(tx, "2") == (THREADS - 2) * ROUNDS);
    session_close(tx);
    theus_counters *counters = theus_store_counters(bank.store);
    CHECK(counters->commits == (THREADS - 2) * ROUNDS
          && counters->conflicts == (uint64_t)conflicts);
    scene_close(&bank);
}

/* ---- one counter, all the threads ---------------------------------------------------------------------- */

static void *
count_up(void *arg)
{
    theus_isolation level = (size_t)arg % 2 == 0 ? THEUS_SERIALIZABLE : THEUS_SNAPSHOT;
    pthread_barrier_wait(&start);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t failures = 0;
        session *tx;
        do {
            tx = open_newest(level);
            set_number(tx, "1", get(tx, "1") + 1);
        } while (!committed(tx, &failures));
    }
    return NULL;
}

static void
test_counter(void)
{
    scene_open(&bank, "{1:0}");
    void *(*bodies[THREADS])(void *);
    for (int i = 0; i < THREADS; i++) {
        bodies[i] = count_up;
    }
    run_threads(bodies);
    char expected[32];
    snprintf(expected, sizeof(expected), "{1:%d}", THREADS * ROUNDS);
    CHECK(scene_is(&bank, expected));
    CHECK(scene_version(&bank) == THREADS * ROUNDS);
    scene_close(&bank);
}

/* ---- siblings: each thread its own key, in one map ------------------------------------------------------- */

static void *
write_own(void *arg)
{
    char path[16];
    pthread_barrier_wait(&start);
    for (int i = 0; i < ROUNDS; i++) {
        session *tx = open_newest(i % 2 == 0 ? THEUS_SERIALIZABLE : THEUS_SNAPSHOT);
        snprintf(path, sizeof(path), "1.%zu", (size_t)arg);
        CHECK(get(tx, path) == i);
        set_number(tx, path, i + 1);
        CHECK(session_commit(tx) == THEUS_COMMITTED);
        session_close(tx);
    }
    return NULL;
}

static void
test_siblings(void)
{
    scene_open(&bank, "{1:{0:0 1:0 2:0 3:0 4:0 5:0 6:0 7:0}}");
    void *(*bodies[THREADS])(void *);
    for (int i = 0; i < THREADS; i++) {
        bodies[i] = write_own;
    }
    run_threads(bodies);
    CHECK(scene_version(&bank) == THREADS * ROUNDS);
    CHECK(theus_store_counters(bank.store)->conflicts == 0);
    CHECK(scene_is(&bank, "{1:{0:300 1:300 2:300 3:300 4:300 5:300 6:300 7:300}}"));
    scene_close(&bank);
}

/* ---- the door -------------------------------------------------------------------------------------------- */

static theus_txn *shared_txn;

static void *
knock(void *arg)
{
    pthread_barrier_wait(&start); /* it is held now, */
    CHECK(theus_txn_enter(shared_txn) == THEUS_BUSY);
    pthread_barrier_wait(&start);
    pthread_barrier_wait(&start); /* and now it is not, */
    CHECK(theus_txn_enter(shared_txn) == THEUS_OK);
    theus_txn_leave(shared_txn);
    pthread_barrier_wait(&start);
    pthread_barrier_wait(&start); /* and now it has ended */
    CHECK(theus_txn_enter(shared_txn) == THEUS_ENDED);
    return arg;
}

static void
test_busy(void)
{
    scene_open(&bank, "{1:0}");
    session *tx = open_newest(THEUS_SERIALIZABLE);
    shared_txn = &tx->txn;
    pthread_t thread;
    pthread_barrier_init(&start, NULL, 2);
    REQUIRE(pthread_create(&thread, NULL, knock, NULL) == 0);
    CHECK(theus_txn_enter(shared_txn) == THEUS_OK);
    CHECK(theus_txn_enter(shared_txn)
          == THEUS_OK); /* the same thread comes back: a callback does */
    theus_txn_leave(shared_txn);
    pthread_barrier_wait(&start);
    pthread_barrier_wait(&start);
    theus_txn_abort(shared_txn); /* not from inside an operation */
    CHECK(shared_txn->state == THEUS_TXN_OPEN);
    theus_txn_leave(shared_txn);
    pthread_barrier_wait(&start);
    pthread_barrier_wait(&start);
    theus_txn_abort(shared_txn);
    pthread_barrier_wait(&start);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&start);
    theus_txn_abort(shared_txn); /* twice is nothing */
    CHECK(theus_txn_enter(shared_txn) == THEUS_ENDED);
    session_close(tx);
    scene_close(&bank);
}

/* Threads that go in and out of one transaction: each time alone, or refused. */
static _Atomic(int) inside;

static void *
go_in_and_out(void *arg)
{
    pthread_barrier_wait(&start);
    for (int i = 0; i < 2000; i++) {
        theus_status status = theus_txn_enter(shared_txn);
        if (status == THEUS_OK) {
            CHECK(atomic_fetch_add(&inside, 1) == 0);
            atomic_fetch_sub(&inside, 1);
            theus_txn_leave(shared_txn);
        }
        else {
            CHECK(status == THEUS_BUSY);
        }
    }
    return arg;
}

static void
test_one_at_a_time(void)
{
    scene_open(&bank, "{1:0}");
    session *tx = open_newest(THEUS_SERIALIZABLE);
    shared_txn = &tx->txn;
    void *(*bodies[THREADS])(void *);
    for (int i = 0; i < THREADS; i++) {
        bodies[i] = go_in_and_out;
    }
    run_threads(bodies);
    session_close(tx);
    scene_close(&bank);
}

/* One of them ends it: what the cells hold goes while nobody is inside. */
static void *
go_in_until_ended(void *arg)
{
    pthread_barrier_wait(&start);
    for (unsigned turn = 1;; turn++) {
        theus_status status = theus_txn_enter(shared_txn);
        if (status == THEUS_ENDED) {
            return arg;
        }
        if (status == THEUS_OK) {
            theus_cell_read_shape(shared_txn->root);
            theus_txn_leave(shared_txn);
        }
        if (status != THEUS_OK || turn % 16 == 0) {
            theus_yield(); /* who is inside, or wants to end it, may have no processor */
        }
    }
}

static void *
abort_soon(void *arg)
{
    pthread_barrier_wait(&start);
    theus_yield();
    while (!theus_txn_abort(shared_txn)) { /* refused while another thread is inside */
        CHECK(shared_txn->state == THEUS_TXN_OPEN);
        theus_yield();
    }
    return arg;
}

static void
test_abort_while_others_come(void)
{
    for (int round = 0; round < 50; round++) {
        scene_open(&bank, "{1:0}");
        session *tx = open_newest(THEUS_SERIALIZABLE);
        shared_txn = &tx->txn;
        void *(*bodies[THREADS])(void *);
        for (int i = 0; i < THREADS; i++) {
            bodies[i] = i == 0 ? abort_soon : go_in_until_ended;
        }
        run_threads(bodies);
        CHECK(!theus_txn_abort(shared_txn));
        session_close(tx);
        scene_close(&bank);
    }
}

static void
test_fork(void)
{
    scene_open(&bank, "{1:0}");
    session *tx = open_newest(THEUS_SERIALIZABLE), *ended = open_newest(THEUS_SERIALIZABLE);
    theus_txn_abort(&ended->txn);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) { /* where the transaction goes on in the parent, it cannot go on here */
        bool refused_here = theus_txn_enter(&tx->txn) == THEUS_FORKED;
        bool ended_here = theus_txn_enter(&ended->txn) == THEUS_ENDED;
        session *own = open_newest(THEUS_SERIALIZABLE);
        set(own, "1", "2");
        bool works = session_commit(own) == THEUS_COMMITTED && scene_is(&bank, "{1:2}");
        _exit(refused_here && ended_here && works ? 0 : 1);
    }
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(theus_txn_enter(&tx->txn) == THEUS_OK);
    theus_txn_leave(&tx->txn);
    CHECK(scene_is(&bank, "{1:0}"));
    session_close(tx);
    session_close(ended);
    scene_close(&bank);
}

int
main(void)
{
    test_fork(); /* while there is one thread */
    test_busy();
    test_one_at_a_time();
    test_abort_while_others_come();
    test_counter();
    test_siblings();
    atomic_store(&conflicts, 0);
    test_money();
    return check_result();
}
