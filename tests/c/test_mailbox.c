/* The mailbox: order, calling back, who is woken, states; and threads on both sides. */
#define _POSIX_C_SOURCE 200809L

#include "mailbox.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { FOREVER_S = 60 };
static const uint64_t forever = FOREVER_S * UINT64_C(1000000000); /* a test that waits for it has failed */

static theus_letter *
letter(uint64_t number)
{
    size_t size = sizeof(number);
    theus_letter *made = theus_letter_new(7, number, 1, &size);
    REQUIRE(made != NULL);
    memcpy(made->part[0].content, &number, size);
    return made;
}

static theus_mailbox *
new_box(uint64_t spin_ns)
{
    theus_mailbox *box;
    REQUIRE(theus_mailbox_new(spin_ns, &box) == THEUS_OK);
    return box;
}

/* The number of the letter that is taken; 0: none. */
static uint64_t
take(theus_mailbox *box, uint64_t wait_ns)
{
    theus_letter *found = NULL;
    if (theus_mailbox_take(box, wait_ns, &found) != THEUS_TAKE_LETTER) {
        CHECK(found == NULL);
        return 0;
    }
    uint64_t number;
    memcpy(&number, found->part[0].content, sizeof(number));
    CHECK(number == found->number && found->kind == 7 && theus_letter_place_of(found) == THEUS_LETTER_TAKEN);
    theus_letter_release(found);
    return number;
}

/* ---- letters ---------------------------------------------------------------------------- */

static void
test_parts(void)
{
    size_t sizes[] = {0, 1, 63, 64, 1000, 0};
    theus_letter *made = theus_letter_new(1, 2, 6, sizes);
    REQUIRE(made != NULL);
    for (uint32_t i = 0; i < 6; i++) {
        CHECK(made->part[i].size == sizes[i] && (uintptr_t)made->part[i].content % 64 == 0);
        memset(made->part[i].content, (int)i, sizes[i]);
    }
    for (uint32_t i = 0; i < 6; i++) {
        for (size_t at = 0; at < sizes[i]; at++) {
            CHECK(made->part[i].content[at] == (char)i); /* none lies in another */
        }
    }
    theus_letter_release(made);

    size_t huge[] = {SIZE_MAX, SIZE_MAX / 2};
    CHECK(theus_letter_new(1, 2, 1, huge) == NULL && theus_letter_new(1, 2, 2, huge) == NULL);
    CHECK(theus_letter_new(1, 2, 1, &huge[1]) == NULL);
    theus_letter_release(NULL);
}

static void
test_calling_back(void)
{
    theus_mailbox *box = new_box(0);
    theus_letter *sent[4];
    for (uint64_t i = 0; i < 4; i++) {
        sent[i] = letter(i + 1);
        theus_letter_retain(sent[i]);
        theus_mailbox_post(box, sent[i]);
    }
    CHECK(theus_letter_recall(sent[0]) && !theus_letter_recall(sent[0]) && theus_letter_recall(sent[2]));
    CHECK(atomic_load(&box->waiting) == 4); /* they lie there still */
    CHECK(take(box, 0) == 2 && !theus_letter_recall(sent[1]));
    CHECK(take(box, 0) == 4 && take(box, 0) == 0 && atomic_load(&box->waiting) == 0);
    CHECK(theus_letter_place_of(sent[0]) == THEUS_LETTER_RECALLED);
    for (int i = 0; i < 4; i++) {
        theus_letter_release(sent[i]);
    }
    theus_mailbox_release(box);
}

/* ---- boxes -------------------------------------------------------------------------------- */

static void
test_states(void)
{
    theus_mailbox *box = new_box(0);
    theus_letter *found;
    for (uint64_t i = 1; i <= 6; i++) {
        theus_mailbox_post(box, letter(i));
    }
    CHECK(take(box, forever) == 1);
    theus_mailbox_set(box, THEUS_BOX_HELD);
    CHECK(theus_mailbox_take(box, forever, &found) == THEUS_TAKE_END && atomic_load(&box->waiting) == 5);
    theus_mailbox_set(box, THEUS_BOX_OPEN);
    CHECK(take(box, forever) == 2);
    theus_mailbox_set(box, THEUS_BOX_DRAINING);
    CHECK(take(box, forever) == 3);

    REQUIRE(theus_mailbox_take(box, 0, &found) == THEUS_TAKE_LETTER && found->number == 4);
    theus_mailbox_return(box, found);
    uint64_t order[] = {5, 6, 4};
    theus_letter *left = theus_mailbox_empty(box);
    for (int i = 0; i < 3; i++) {
        REQUIRE(left != NULL);
        theus_letter *next = left->next;
        CHECK(left->number == order[i] && theus_letter_place_of(left) == THEUS_LETTER_TAKEN);
        theus_letter_release(left);
        left = next;
    }
    CHECK(left == NULL && theus_mailbox_take(box, forever, &found) == THEUS_TAKE_END);
    theus_mailbox_retain(box);
    theus_mailbox_release(box);
    theus_mailbox_post(box, letter(9)); /* goes with the box */
    theus_mailbox_release(box);
}

static void
test_time(void)
{
    theus_mailbox *box = new_box(1000);
    CHECK(take(box, 0) == 0 && take(box, 2000000) == 0 && !theus_mailbox_watch(box, 0) && !theus_mailbox_watch(box, 2000000));
    theus_mailbox_ring(box); /* nobody waits: the next who would look up */
    theus_letter *found;
    CHECK(theus_mailbox_take(box, 0, &found) == THEUS_TAKE_NOTHING); /* not who would not wait */
    CHECK(theus_mailbox_take(box, forever, &found) == THEUS_TAKE_RUNG && !theus_mailbox_watch(box, forever));
    CHECK(theus_mailbox_take(box, 1000, &found) == THEUS_TAKE_NOTHING);
    theus_mailbox_post(box, letter(1));
    CHECK(theus_mailbox_watch(box, forever) && theus_mailbox_watch(box, 0));
    theus_mailbox_attend(box);
    CHECK(!theus_mailbox_watch(box, 1000000));
    theus_mailbox_leave(box);
    CHECK(theus_mailbox_watch(box, forever) && take(box, 0) == 1);
    theus_mailbox_release(box);
}

static void
test_out_of_memory(void)
{
    for (long n = 1;; n++) {
        theus_mailbox *box;
        theus_alloc_fail_at(n);
        theus_status status = theus_mailbox_new(0, &box);
        theus_alloc_fail_at(-1);
        if (status == THEUS_OK) {
            theus_mailbox_release(box);
            break;
        }
        CHECK(status == THEUS_NOMEM && box == NULL);
    }
    size_t size = 10;
    theus_alloc_fail_at(1);
    CHECK(theus_letter_new(1, 1, 1, &size) == NULL);
    theus_alloc_fail_at(-1);
}

static void
test_fork(void)
{
    theus_mailbox *box = new_box(0);
    theus_mailbox_post(box, letter(1));
    theus_mutex_lock(&box->lock); /* as another thread might hold it */
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        theus_mailbox_release(box); /* touches nothing of it */
        _exit(0);
    }
    theus_mutex_unlock(&box->lock);
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    theus_mailbox_release(box);
}

/* ---- threads -------------------------------------------------------------------------------- */

enum { WORKERS = 3, SENDERS = 2, TASKS = 20000 };

typedef struct {
    theus_mailbox *tasks, *answers;
    _Atomic(uint64_t) taken, recalled;
    uint64_t first;
} pool;

static void *
work(void *arg)
{
    pool *of = arg;
    theus_letter *found;
    while (theus_mailbox_take(of->tasks, UINT64_MAX, &found) == THEUS_TAKE_LETTER) {
        atomic_fetch_add(&of->taken, 1);
        theus_mailbox_post(of->answers, letter(found->number));
        theus_letter_release(found);
    }
    return NULL;
}

static void *
send(void *arg)
{
    pool *of = arg;
    for (uint64_t i = 1; i <= TASKS; i++) {
        theus_letter *sent = letter(i);
        theus_letter_retain(sent);
        theus_mailbox_post(of->tasks, sent);
        if (i % 16 == 0 && theus_letter_recall(sent)) {
            atomic_fetch_add(&of->recalled, 1);
        }
        theus_letter_release(sent);
        if (i % 64 == 0) {
            theus_yield();
        }
    }
    return NULL;
}

/* As the watcher of a pool: awake only while nobody attends. */
static void *
watch(void *arg)
{
    pool *of = arg;
    uint64_t seen = 0;
    while (seen != UINT64_MAX) {
        if (theus_mailbox_watch(of->answers, UINT64_MAX)) {
            uint64_t number;
            while ((number = take(of->answers, 0)) != 0) {
                if (number == UINT64_MAX) {
                    return (void *)(uintptr_t)seen;
                }
                seen++;
            }
        }
    }
    return NULL;
}

/* Every letter is taken once or called back, and nobody sleeps through the last one. Half of the time somebody is in front. */
static void
test_threads(uint64_t spin_ns)
{
    pool of = {.tasks = new_box(spin_ns), .answers = new_box(spin_ns)};
    pthread_t worker[WORKERS], sender[SENDERS], watcher;
    REQUIRE(pthread_create(&watcher, NULL, watch, &of) == 0);
    for (int i = 0; i < WORKERS; i++) {
        REQUIRE(pthread_create(&worker[i], NULL, work, &of) == 0);
    }
    for (int i = 0; i < SENDERS; i++) {
        REQUIRE(pthread_create(&sender[i], NULL, send, &of) == 0);
    }
    uint64_t front = 0;
    for (int i = 0; i < 200; i++) {
        theus_mailbox_attend(of.answers);
        for (int k = 0; k < 50; k++) {
            front += take(of.answers, 1000000) != 0;
        }
        theus_mailbox_leave(of.answers);
        theus_yield();
    }
    for (int i = 0; i < SENDERS; i++) {
        pthread_join(sender[i], NULL);
    }
    theus_mailbox_set(of.tasks, THEUS_BOX_DRAINING);
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(worker[i], NULL);
    }
    theus_mailbox_post(of.answers, letter(UINT64_MAX));
    void *behind;
    pthread_join(watcher, &behind);
    CHECK(of.taken + of.recalled == SENDERS * TASKS);
    CHECK(front + (uintptr_t)behind == of.taken);
    theus_mailbox_release(of.tasks);
    theus_mailbox_release(of.answers);
}

static void
test_looking_that_does_not_pay_pauses(void)
{
    const uint64_t ms = 1000 * 1000;
    theus_mailbox *box = new_box(ms / 10);
    CHECK(take(box, ms) == 0 && box->look.pause_ns == ms);
    box->look.paused_until = UINT64_MAX;
    CHECK(take(box, ms) == 0 && box->look.pause_ns == ms); /* it has slept, and not looked */
    theus_mailbox_post(box, letter(1));
    CHECK(take(box, forever) == 1 && box->look.pause_ns == ms); /* what is there is not looked for */
    theus_mailbox_release(box);
}

/* One letter at a time, there and back: a wake that is lost stops it. */
static void
test_ping_pong(uint64_t spin_ns)
{
    pool of = {.tasks = new_box(spin_ns), .answers = new_box(spin_ns)};
    pthread_t worker[2];
    for (int i = 0; i < 2; i++) {
        REQUIRE(pthread_create(&worker[i], NULL, work, &of) == 0);
    }
    for (uint64_t i = 1; i <= 5000; i++) {
        theus_mailbox_post(of.tasks, letter(i));
        CHECK(take(of.answers, forever) == i);
    }
    theus_mailbox_set(of.tasks, THEUS_BOX_HELD);
    for (int i = 0; i < 2; i++) {
        pthread_join(worker[i], NULL);
    }
    theus_mailbox_release(of.tasks);
    theus_mailbox_release(of.answers);
}

int
main(void)
{
    test_parts();
    test_calling_back();
    test_states();
    test_time();
    test_out_of_memory();
    test_fork();
    test_looking_that_does_not_pay_pauses();
    test_threads(0);
    test_threads(20000);
    test_ping_pong(0);
    test_ping_pong(20000);
    CHECK(theus_alloc_live() == 0);
    return check_result();
}
