/* The list behind a mailbox, and who sleeps beside it. */
#include "mailbox.h"

#include <assert.h>

enum { ALIGNMENT = 64 };

/* ---- letters ---------------------------------------------------------------------------- */

static size_t
aligned(size_t size)
{
    return (size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
}

theus_letter *
theus_letter_new(uint32_t kind, uint64_t number, uint32_t parts, const size_t *sizes)
{
    size_t head = sizeof(theus_letter) + parts * sizeof(((theus_letter *)NULL)->part[0]);
    /* Small letters, nearly all of them, stay small: only from the second part on is there a need to align. */
    size_t total = parts > 1 ? head + ALIGNMENT : head;
    for (uint32_t i = 0; i < parts; i++) {
        size_t room = parts > 1 ? aligned(sizes[i]) : sizes[i];
        if (room < sizes[i] || room > SIZE_MAX / 2 || total > SIZE_MAX / 2 - room) {
            return NULL;
        }
        total += room;
    }
    theus_letter *letter = theus_alloc(total);
    if (letter == NULL) {
        return NULL;
    }
    letter->next = NULL;
    atomic_init(&letter->refs, 1);
    atomic_init(&letter->place, THEUS_LETTER_WAITS);
    letter->kind = kind;
    letter->number = number;
    letter->parts = parts;
    char *at = (char *)letter + head;
    if (parts > 1) {
        at += (ALIGNMENT - (uintptr_t)at % ALIGNMENT) % ALIGNMENT;
    }
    for (uint32_t i = 0; i < parts; i++) {
        letter->part[i].size = sizes[i];
        letter->part[i].content = at;
        at += aligned(sizes[i]);
    }
    return letter;
}

void
theus_letter_retain(theus_letter *letter)
{
    atomic_fetch_add_explicit(&letter->refs, 1, memory_order_relaxed);
}

void
theus_letter_release(theus_letter *letter)
{
    if (letter != NULL && atomic_fetch_sub_explicit(&letter->refs, 1, memory_order_acq_rel) == 1) {
        theus_free(letter);
    }
}

static bool
letter_goes(theus_letter *letter, theus_letter_place place)
{
    uint32_t waits = THEUS_LETTER_WAITS;
    return atomic_compare_exchange_strong_explicit(&letter->place, &waits, (uint32_t)place, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

bool
theus_letter_recall(theus_letter *letter)
{
    return letter_goes(letter, THEUS_LETTER_RECALLED);
}

/* ---- boxes -------------------------------------------------------------------------------- */

theus_status
theus_mailbox_new(uint64_t look_ns, theus_mailbox **result)
{
    *result = NULL;
    theus_mailbox *box = theus_alloc(sizeof(*box));
    if (box == NULL) {
        return THEUS_NOMEM;
    }
    if (theus_mutex_init(&box->lock, THEUS_RANK_MAIL, false) != THEUS_OK) {
        goto no_lock;
    }
    if (theus_cond_init(&box->front) != THEUS_OK) {
        goto no_front;
    }
    if (theus_cond_init(&box->back) != THEUS_OK) {
        goto no_back;
    }
    atomic_init(&box->refs, 1);
    atomic_init(&box->waiting, 0);
    box->look = (theus_look){.look_ns = look_ns};
    box->epoch = theus_process_epoch();
    box->first = box->last = NULL;
    box->state = THEUS_BOX_OPEN;
    box->attending = box->asleep = 0;
    box->looking = false;
    box->rung_front = box->rung_back = false;
    *result = box;
    return THEUS_OK;

no_back:
    theus_cond_fini(&box->front);
no_front:
    theus_mutex_fini(&box->lock);
no_lock:
    theus_free(box);
    return THEUS_NOMEM;
}

void
theus_mailbox_retain(theus_mailbox *box)
{
    atomic_fetch_add_explicit(&box->refs, 1, memory_order_relaxed);
}

void
theus_mailbox_release(theus_mailbox *box)
{
    if (box == NULL || atomic_fetch_sub_explicit(&box->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    if (box->epoch != theus_process_epoch()) {
        return;
    }
    while (box->first != NULL) {
        theus_letter *letter = box->first;
        box->first = letter->next;
        theus_letter_release(letter);
    }
    theus_cond_fini(&box->back);
    theus_cond_fini(&box->front);
    theus_mutex_fini(&box->lock);
    theus_free(box);
}

/* Wakes the one behind, if nobody else will see to what lies there. */
static void
call_back_locked(theus_mailbox *box)
{
    assert(theus_mutex_is_mine(&box->lock));
    if (box->first != NULL && box->attending == 0) {
        theus_cond_signal(&box->back);
    }
}

void
theus_mailbox_post(theus_mailbox *box, theus_letter *letter)
{
    letter->next = NULL;
    theus_mutex_lock(&box->lock);
    if (box->last == NULL) {
        box->first = letter;
    }
    else {
        box->last->next = letter;
    }
    box->last = letter;
    uint32_t waiting = atomic_fetch_add_explicit(&box->waiting, 1, memory_order_release) + 1;
    if (box->asleep > 0 && waiting > (box->looking ? 1u : 0u)) {
        theus_cond_signal(&box->front);
    }
    call_back_locked(box);
    theus_mutex_unlock(&box->lock);
}

static theus_letter *
pop_locked(theus_mailbox *box)
{
    assert(theus_mutex_is_mine(&box->lock));
    theus_letter *letter = box->first;
    if (letter != NULL) {
        box->first = letter->next;
        if (box->first == NULL) {
            box->last = NULL;
        }
        letter->next = NULL;
        atomic_fetch_sub_explicit(&box->waiting, 1, memory_order_relaxed);
    }
    return letter;
}

/* The next letter that nobody has called back; those that were fall out into *dropped. */
static theus_letter *
take_locked(theus_mailbox *box, theus_letter **dropped)
{
    theus_letter *letter;
    while ((letter = pop_locked(box)) != NULL && !letter_goes(letter, THEUS_LETTER_TAKEN)) {
        letter->next = *dropped;
        *dropped = letter;
    }
    return letter;
}

static void
release_list(theus_letter *letter)
{
    while (letter != NULL) {
        theus_letter *next = letter->next;
        theus_letter_release(letter);
        letter = next;
    }
}

void
theus_mailbox_return(theus_mailbox *box, theus_letter *letter)
{
    atomic_store_explicit(&letter->place, THEUS_LETTER_WAITS, memory_order_release);
    theus_mailbox_post(box, letter);
}

/* Looks for a letter for a moment, without the lock. The lock is the caller's, before and after. */
static void
look_unlocked(theus_mailbox *box)
{
    enum { PAUSES = 64 };
    bool goes_on;
    box->looking = true;
    theus_mutex_unlock(&box->lock);
    theus_look_begin(&box->look);
    do {
        for (int i = 0; i < PAUSES && atomic_load_explicit(&box->waiting, memory_order_relaxed) == 0; i++) {
            theus_pause();
        }
        goes_on = theus_look_goes_on(&box->look);
    } while (atomic_load_explicit(&box->waiting, memory_order_relaxed) == 0 && goes_on);
    theus_mutex_lock(&box->lock);
    theus_look_end(&box->look, box->first != NULL);
    box->looking = false;
}

static uint64_t
time_of_end(uint64_t wait_ns)
{
    uint64_t now = theus_clock_fine_ns();
    return wait_ns < UINT64_MAX - now ? now + wait_ns : UINT64_MAX;
}

theus_take
theus_mailbox_take(theus_mailbox *box, uint64_t wait_ns, theus_letter **letter)
{
    theus_letter *dropped = NULL;
    theus_take result = THEUS_TAKE_NOTHING;
    uint64_t end = 0; /* asked for when it is needed */
    bool looked = false;
    theus_mutex_lock(&box->lock);
    for (;;) {
        *letter = box->state == THEUS_BOX_HELD ? NULL : take_locked(box, &dropped);
        if (*letter != NULL) {
            result = THEUS_TAKE_LETTER;
            break;
        }
        if (box->state != THEUS_BOX_OPEN) {
            result = THEUS_TAKE_END;
            break;
        }
        if (wait_ns == 0) {
            break; /* a ring is for the next who would wait */
        }
        if (box->rung_front) {
            box->rung_front = false;
            result = THEUS_TAKE_RUNG;
            break;
        }
        if (end == 0) {
            end = time_of_end(wait_ns);
        }
        if (!looked && !box->looking && theus_look_pays(&box->look)) {
            looked = true;
            look_unlocked(box);
            continue;
        }
        box->asleep++;
        bool in_time = theus_cond_wait(&box->front, &box->lock, end);
        box->asleep--;
        if (!in_time) {
            wait_ns = 0; /* one more look, and that is all */
        }
    }
    theus_mutex_unlock(&box->lock);
    release_list(dropped);
    return result;
}

bool
theus_mailbox_watch(theus_mailbox *box, uint64_t wait_ns)
{
    uint64_t end = time_of_end(wait_ns);
    theus_mutex_lock(&box->lock);
    bool called, in_time = true;
    while (!(called = box->first != NULL && box->attending == 0) && in_time && !box->rung_back) {
        in_time = theus_cond_wait(&box->back, &box->lock, end);
    }
    box->rung_back = false;
    theus_mutex_unlock(&box->lock);
    return called;
}

void
theus_mailbox_attend(theus_mailbox *box)
{
    theus_mutex_lock(&box->lock);
    box->attending++;
    theus_mutex_unlock(&box->lock);
}

void
theus_mailbox_leave(theus_mailbox *box)
{
    theus_mutex_lock(&box->lock);
    assert(box->attending > 0);
    box->attending--;
    call_back_locked(box);
    theus_mutex_unlock(&box->lock);
}

void
theus_mailbox_set(theus_mailbox *box, theus_box_state state)
{
    theus_mutex_lock(&box->lock);
    box->state = state;
    theus_cond_broadcast(&box->front);
    theus_mutex_unlock(&box->lock);
}

void
theus_mailbox_ring(theus_mailbox *box)
{
    theus_mutex_lock(&box->lock);
    box->rung_front = box->rung_back = true;
    theus_cond_signal(&box->front);
    theus_cond_signal(&box->back);
    theus_mutex_unlock(&box->lock);
}

theus_letter *
theus_mailbox_empty(theus_mailbox *box)
{
    theus_letter *dropped = NULL, *first = NULL, **end = &first, *letter;
    theus_mutex_lock(&box->lock);
    while ((letter = take_locked(box, &dropped)) != NULL) {
        *end = letter;
        end = &letter->next;
    }
    theus_mutex_unlock(&box->lock);
    release_list(dropped);
    return first;
}
