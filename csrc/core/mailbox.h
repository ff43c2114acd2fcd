/* A mailbox: letters of bytes from any thread to any thread, whatever interpreters they belong to.
 *
 *     post ──▶ [ letter │ letter │ letter ] ──▶ take      one of those in front, who work
 *                                           ──▶ watch     the one behind, who steps in when nobody is in front
 *
 * Letters are taken in the order in which they were posted, each by one taker. The sender may keep a reference and call a letter
 * back until it is taken: `place` of the letter decides that by one compare-and-swap, so it costs the same however many wait. What
 * was called back stays in the list, empty-handed, until a taker comes to it.
 *
 * Who is woken
 * ------------
 * A wake-up costs both sides a system call and some microseconds, more than a small task. So a taker who finds nothing looks for a while
 * before it sleeps, if that pays (look.h), one at a time: `looking`. post() wakes a sleeper only for letters that the one who looks will
 * not take. Nobody sleeps through a letter: the list, `looking` and `asleep` change under the lock, a sleeper looks at the list under it
 * before it sleeps, and so does the one who gave up looking.
 *
 * Those in front say when they come and go (attend, leave). While one of them is there, working on what it took last or waiting for
 * more, the one behind sleeps on. The last to leave wakes it, if something lies there.
 *
 * The state of a box is OPEN, then DRAINING (takers get what is left, then nothing for ever) or HELD (takers get nothing from now
 * on; what is left stays), which may be opened again. ring() makes a taker in front and the one behind look up, those who wait or
 * else the next who would: their reason is not in the box.
 *
 * Boxes and letters are counted; the last reference frees them, in any thread. In a forked child a box of the parent is only
 * let go, and its memory stays: there its lock may be held, and its sleepers counted, for ever. */
#ifndef THEUS_MAILBOX_H
#define THEUS_MAILBOX_H

#include "look.h"

typedef enum {
    THEUS_LETTER_WAITS, /* in a box, or on its way there */
    THEUS_LETTER_TAKEN,
    THEUS_LETTER_RECALLED,
} theus_letter_place;

typedef struct theus_letter {
    struct theus_letter *next;  /* of the box that it lies in */
    _Atomic(uint32_t) refs;
    _Atomic(uint32_t) place;    /* theus_letter_place; WAITS, then one of the others for good, but for theus_mailbox_return() */
    uint32_t kind;              /* of whoever embeds us, as is the number */
    uint32_t parts;
    uint64_t number;
    struct {
        size_t size;
        char *content;          /* within the letter, aligned to 64 bytes */
    } part[];
} theus_letter;

/* With room for parts of these sizes, which the caller fills before anybody else sees it. One reference. NULL: no memory. */
THEUS_MUST_CHECK theus_letter *theus_letter_new(uint32_t kind, uint64_t number, uint32_t parts, const size_t *sizes);
void theus_letter_retain(theus_letter *letter);
void theus_letter_release(theus_letter *letter); /* NULL is allowed */

/* True: nobody has taken it, and nobody will. Once. */
bool theus_letter_recall(theus_letter *letter);

static inline theus_letter_place
theus_letter_place_of(theus_letter *letter)
{
    return (theus_letter_place)atomic_load_explicit(&letter->place, memory_order_acquire);
}

typedef enum { THEUS_BOX_OPEN, THEUS_BOX_DRAINING, THEUS_BOX_HELD } theus_box_state;

typedef enum {
    THEUS_TAKE_LETTER,  /* yours */
    THEUS_TAKE_NOTHING, /* the time has passed */
    THEUS_TAKE_RUNG,    /* somebody rang */
    THEUS_TAKE_END,     /* nothing comes any more, in this state of the box */
} theus_take;

typedef struct {
    _Atomic(uint32_t) refs;
    _Atomic(uint32_t) waiting; /* letters in the list; changes under lock, those who look read it without */
    uint64_t epoch;            /* constant: theus_process_epoch() of its process */
    theus_mutex lock;          /* rank MAIL */
    theus_cond front, back;
    /* guarded by lock: */
    theus_letter *first, *last;
    theus_box_state state;
    uint32_t attending;        /* takers in front that have come and not gone */
    uint32_t asleep;           /* of them, on `front` */
    bool looking;              /* one of them, at `waiting`: `look` is its own until then */
    theus_look look;
    bool rung_front, rung_back;
} theus_mailbox;

THEUS_MUST_CHECK theus_status theus_mailbox_new(uint64_t look_ns, theus_mailbox **box);
void theus_mailbox_retain(theus_mailbox *box);
void theus_mailbox_release(theus_mailbox *box); /* nobody waits; letters in it go */

/* Takes over the caller's reference. Whatever the state: who posts into a box that is not open sees to what becomes of it. */
void theus_mailbox_post(theus_mailbox *box, theus_letter *letter);

/* `wait_ns`: 0 only looks, UINT64_MAX waits without an end. The letter comes with the reference of the box. */
THEUS_MUST_CHECK theus_take theus_mailbox_take(theus_mailbox *box, uint64_t wait_ns, theus_letter **letter);

/* Posts what was taken once more, for a taker who cannot make anything of it now; at the end, whatever its place was. */
void theus_mailbox_return(theus_mailbox *box, theus_letter *letter);

/* For the one behind: true once there are letters and nobody in front; false when the time has passed or somebody rang. */
bool theus_mailbox_watch(theus_mailbox *box, uint64_t wait_ns);

void theus_mailbox_attend(theus_mailbox *box);
void theus_mailbox_leave(theus_mailbox *box);

void theus_mailbox_set(theus_mailbox *box, theus_box_state state);
void theus_mailbox_ring(theus_mailbox *box);

/* All letters that nobody has taken or called back, as a list in order, taken; the caller's to release one by one. */
theus_letter *theus_mailbox_empty(theus_mailbox *box);

#endif
