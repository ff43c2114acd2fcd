/* The mailbox, schedule by schedule: each letter is taken once or called back, and nobody who waits is forgotten, which
 * would be a deadlock here.
 *
 * One scene is how a pool of interpreters uses it (theus/pools/residents.py): those who wait for a result take the
 * answers themselves, in turn, and a watcher steps in while none of them is there. */
#include "switch.h" /* here, too: locks of the test's own */

#include "schedule.h"

#include <string.h>

#include "../check.h"
#include "mailbox.h"

enum { LETTERS = 4, WAIT_NS = 100 };

static struct {
    theus_mailbox *box;
    theus_letter *letter[LETTERS + 1]; /* by number, from 1 on; the scene's own references */
    _Atomic(int) taken[LETTERS + 1];
    _Atomic(int) recalled;
    int senders;
    _Atomic(int) posting;              /* of them, those that may still post */
    _Atomic(bool) told;
    /* of the pool: */
    pthread_mutex_t lock;
    pthread_cond_t ended;     /* a future has */
    bool pumped, closed;      /* guarded by lock, as is `done`: */
    bool done[LETTERS + 1];
} stage;

typedef struct {
    uint64_t spin_ns;
    int senders;
} settings;

static void
open_box(const void *about)
{
    const settings *given = about;
    memset(&stage, 0, sizeof(stage));
    REQUIRE(theus_mailbox_new(given->spin_ns, &stage.box) == THEUS_OK);
    for (uint64_t i = 1; i <= LETTERS; i++) {
        stage.letter[i] = theus_letter_new(0, i, 0, NULL);
        REQUIRE(stage.letter[i] != NULL);
    }
    stage.senders = stage.posting = given->senders;
    pthread_mutex_init(&stage.lock, NULL);
}

/* What nobody has taken lies there still; each letter went one way. */
static void
close_box(void)
{
    int known = stage.recalled;
    theus_letter *left = theus_mailbox_empty(stage.box);
    while (left != NULL) {
        theus_letter *next = left->next;
        stage.taken[left->number]++;
        theus_letter_release(left);
        left = next;
    }
    CHECK(atomic_load(&stage.box->waiting) == 0 && stage.box->first == NULL && stage.box->last == NULL);
    CHECK(stage.box->attending == 0 && stage.box->asleep == 0 && !stage.box->looking);
    for (int i = 1; i <= LETTERS; i++) {
        CHECK(stage.taken[i] <= 1);
        known += stage.taken[i];
        theus_letter_release(stage.letter[i]);
    }
    CHECK(known == LETTERS);
    theus_mailbox_release(stage.box);
    CHECK(theus_alloc_live() == 0);
}

static void
post(int number)
{
    theus_letter_retain(stage.letter[number]);
    theus_mailbox_post(stage.box, stage.letter[number]);
}

static void
recall(int number)
{
    stage.recalled += theus_letter_recall(stage.letter[number]);
}

/* The number of what was taken; 0: nothing; -1: the end. */
static int
take(uint64_t wait_ns)
{
    theus_letter *letter;
    theus_take result = theus_mailbox_take(stage.box, wait_ns, &letter);
    if (result != THEUS_TAKE_LETTER) {
        CHECK(letter == NULL);
        return result == THEUS_TAKE_END ? -1 : 0;
    }
    int number = (int)letter->number;
    stage.taken[number]++;
    theus_letter_release(letter);
    return number;
}

/* ---- workers and those who send ------------------------------------------------------------------- */

static void
work(void)
{
    while (take(UINT64_MAX) != -1) {
    }
}

static void
tasks(int thread)
{
    if (thread < 2) {
        work();
        return;
    }
    int share = LETTERS / stage.senders;
    for (int i = 1; i <= share; i++) {
        post((thread - 2) * share + i);
    }
    if (thread == 2) {
        recall(2);
    }
    if (--stage.posting == 0) {
        theus_mailbox_set(stage.box, THEUS_BOX_DRAINING);
    }
}

/* One letter is enough for each who waits: the second one is not left to who takes the first. */
static void
each_takes_one(int thread)
{
    if (thread < 2) {
        int number = take(UINT64_MAX);
        CHECK(number > 0);
        return;
    }
    for (int i = 1; i <= LETTERS; i++) {
        post(i);
    }
}

/* Nobody begins anything any more, as before a fork: what is left is the one's who empties, and then there are workers again. */
static void
hold(int thread)
{
    if (thread == 0) {
        work();
    }
    else if (thread == 1) {
        post(1);
        post(2);
        theus_mailbox_set(stage.box, THEUS_BOX_HELD);
        int number = take(UINT64_MAX);
        CHECK(number == -1);
        post(3);
        theus_mailbox_set(stage.box, THEUS_BOX_OPEN);
        /* The worker has left, or has seen nothing of this, or took what is there: it gets the rest. */
        post(4);
        theus_mailbox_set(stage.box, THEUS_BOX_DRAINING);
        work();
    }
    else {
        recall(1);
        recall(3);
    }
}

/* The last moment of somebody who waits, and a letter that comes just then. */
static void
in_time(int thread)
{
    if (thread == 0) {
        int number = take(WAIT_NS);
        CHECK(number >= 0);
        while (number == 0) {
            number = take(UINT64_MAX);
        }
        post(2);
        post(3);
        post(4);
    }
    else {
        theus_sleep_ns(WAIT_NS);
        post(1);
    }
}

/* ---- rings ---------------------------------------------------------------------------------------- */

/* Who waits looks up for what is not in the box, also if a letter comes at the same time. */
static void
rings(int thread)
{
    if (thread == 0) {
        int got = 0;
        theus_mailbox_attend(stage.box);
        while (got < LETTERS || !stage.told) {
            got += take(UINT64_MAX) > 0;
        }
        theus_mailbox_leave(stage.box);
    }
    else if (thread == 1) {
        stage.told = true;
        theus_mailbox_ring(stage.box);
    }
    else {
        for (int i = 1; i <= LETTERS; i++) {
            post(i);
        }
    }
}

/* ---- a pool --------------------------------------------------------------------------------------- */

static bool
try_pump(void)
{
    pthread_mutex_lock(&stage.lock);
    bool mine = !stage.pumped;
    stage.pumped = true;
    pthread_mutex_unlock(&stage.lock);
    return mine;
}

static void
leave_pump(void)
{
    pthread_mutex_lock(&stage.lock);
    stage.pumped = false;
    pthread_mutex_unlock(&stage.lock);
}

static bool
is_done(int number)
{
    pthread_mutex_lock(&stage.lock);
    bool done = stage.done[number];
    pthread_mutex_unlock(&stage.lock);
    return done;
}

static void
deliver(int number)
{
    if (number > 0) {
        pthread_mutex_lock(&stage.lock);
        stage.done[number] = true;
        pthread_cond_broadcast(&stage.ended);
        pthread_mutex_unlock(&stage.lock);
    }
}

/* Residents.wait_for. */
static void
wait_for_result(int number)
{
    if (is_done(number)) {
        return;
    }
    theus_mailbox_attend(stage.box);
    if (try_pump()) {
        while (!is_done(number)) {
            deliver(take(UINT64_MAX));
        }
        leave_pump();
    }
    theus_mailbox_leave(stage.box);
    pthread_mutex_lock(&stage.lock);
    while (!stage.done[number]) {
        pthread_cond_wait(&stage.ended, &stage.lock);
    }
    pthread_mutex_unlock(&stage.lock);
}

/* Residents.watch: until the pool is closed and everything is done. */
static void
watch(void)
{
    bool over = false;
    while (!over) {
        (void)theus_mailbox_watch(stage.box, UINT64_MAX);
        if (try_pump()) {
            int number;
            while ((number = take(0)) > 0) {
                deliver(number);
            }
            leave_pump();
        }
        pthread_mutex_lock(&stage.lock);
        over = stage.closed;
        for (int i = 1; i <= LETTERS; i++) {
            over &= stage.done[i];
        }
        pthread_mutex_unlock(&stage.lock);
    }
}

static void
pool(int thread)
{
    if (thread == 0) {
        watch();
    }
    else if (thread == 1) {
        wait_for_result(2);
        wait_for_result(3);
    }
    else if (thread == 2) {
        wait_for_result(1);
        pthread_mutex_lock(&stage.lock);
        stage.closed = true;
        pthread_mutex_unlock(&stage.lock);
        theus_mailbox_ring(stage.box);
    }
    else {
        for (int i = 1; i <= LETTERS; i++) {
            post(i); /* nobody waits for the last one: it is the watcher's */
        }
    }
}

/* ---- scenes ---------------------------------------------------------------------------------------- */

#ifdef __x86_64__
enum { LOOK_NS = 2 }; /* a pause is a nanosecond: see switch.h */
#else
enum { LOOK_NS = 0 };
#endif

static const settings asleep = {0, 2}, looking = {LOOK_NS, 2}, alone = {0, 1}, alone_looking = {LOOK_NS, 1};

static const sim_scene scenes[] = {
    {"letters: one sender", 3, 2, &alone, open_box, tasks, close_box},
    {"letters: two senders", 4, 1, &asleep, open_box, tasks, close_box},
    {"letters: one looks", 3, 2, &alone_looking, open_box, tasks, close_box},
    {"letters: one looks, two senders", 4, 1, &looking, open_box, tasks, close_box},
    {"letters: one each", 3, 2, &alone, open_box, each_takes_one, close_box},
    {"letters: one looks, one each", 3, 2, &alone_looking, open_box, each_takes_one, close_box},
    {"letters: held", 3, 2, &asleep, open_box, hold, close_box},
    {"letters: in time", 2, 3, &asleep, open_box, in_time, close_box},
    {"letters: rings", 3, 2, &asleep, open_box, rings, close_box},
    {"letters: rings while one looks", 3, 2, &looking, open_box, rings, close_box},
    {"letters: a pool", 4, 1, &asleep, open_box, pool, close_box},
    {"letters: a pool that looks", 4, 1, &looking, open_box, pool, close_box},
};

int
main(int argc, char **argv)
{
    sim_explore(scenes, sizeof(scenes) / sizeof(scenes[0]), argc, argv);
    return check_result();
}
