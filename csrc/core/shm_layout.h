/* The format of an arena: what lies where in its two files, and nothing about how it is used.
 *
 *     control file (every participant maps it for writing)
 *
 *         0        header          4096 bytes: who made it, how big, is it closed
 *         4096     participants    64 lines of 64 bytes: who has it mapped
 *         8192     hints           one bit per slot: is it free, probably?
 *         ...      slots           256 bytes each: one word of truth, who leases it, what it is
 *         ...      loans           512 of 32 bytes each, only in an arena that lends: which range who may write (shm_lendings.h)
 *
 *     data file (its owner maps it for writing, everybody else for reading; sealed against any other writer; that of an arena
 *                that lends is sealed against a change of its size alone)
 *
 *         0 ...    the blocks, each where its slot says: 64-byte aligned, from 64 KiB on page-aligned
 *
 * Numbers are of the machine's own byte order and size: an arena lives and dies on one machine. What is _Atomic may change at any
 * time, by any participant; the rest is constant once the header's magic stands, or, in a slot, while it is LIVE or RETIRED.
 * Offsets only: every process maps the files where it likes.
 *
 * No participant trusts another's numbers: whoever opens an arena checks the header against the sizes of the files, and whoever
 * leases a slot checks that its block lies within the data. A byte lock on the control file says who is alive: participant i holds
 * byte i, participant 0 is the owner. The kernel keeps those locks, so no number can lie about a death. Byte 64 + i is the door of
 * number i (shm_arena.h).
 *
 * The format's number stands for all of this, and for what participants do with it: two versions of theus that join, lease, lend or
 * bury in different ways must not meet in one arena, even if every field is where it was.
 *
 * What a hostile participant can do: all of them can write the control file, so it can end the leases of others, and the owner may
 * then give a block to its next tenant while somebody still looks at it, who sees data that were not meant for him; it can retire
 * what is live and fill the table, for as long as it lives. It cannot write to the data (but to those of an arena that lends),
 * have a range given out twice (the owner believes its own book), make anybody crash, or leave anything behind when it dies.
 * Participants are processes of one user; a word for each one's leases would not change that, because it would lie in the same file. */
#ifndef THEUS_SHM_LAYOUT_H
#define THEUS_SHM_LAYOUT_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define THEUS_SHM_MAGIC 0x316d687373756874u /* "thusshm1", read as bytes */
#define THEUS_SHM_FORMAT 2u

enum {
    THEUS_PARTICIPANTS = 64, /* one bit each in a slot's leases */
    THEUS_SHM_OWNER = 0,     /* participant */
    THEUS_SHM_NOBODY = THEUS_PARTICIPANTS, /* who got no number; in memory only */
    THEUS_SHM_PAGE = 4096,   /* of this format; the machine's pages may be larger */
    THEUS_SHM_SLOTS_MOST = 1 << 24,
    THEUS_SHM_LOANS = 512,   /* of an arena that lends */
    THEUS_LABEL_MAX = 191,   /* bytes */
    THEUS_SESSION_MAX = 63,
};

typedef struct {
    _Atomic(uint64_t) magic; /* stored last: who sees it sees the rest */
    uint32_t format;
    uint32_t capacity;       /* slots; a multiple of 64 */
    uint64_t fingerprint;    /* THEUS_SHM_FINGERPRINT of the maker */
    uint64_t control_size;
    uint64_t data_size;
    unsigned char id[16];    /* random, but for one bit (theus_shm_id_lends): names this arena for ever */
    uint32_t pid;            /* of the maker, which with the next two is where others find the files; that it lives is said by */
    int32_t control_fd;      /* the lock on byte 0 alone. -1: the files have names, in which pid and id stand (shm_files.h) */
    int32_t data_fd;
    uint32_t memory;         /* a theus_memory: what the data lie in */
    _Atomic(uint32_t) closed; /* its owner has let go of it: nothing new will come */
    uint64_t made_ns;        /* wall clock */
    char session[THEUS_SESSION_MAX + 1];
} theus_shm_header;

/* Written by its participant alone, so plain additions do; read by whoever reports. */
typedef struct {
    _Atomic(uint32_t) pid;
    uint32_t reserved;
    _Atomic(uint64_t) births, deaths; /* of blocks */
    _Atomic(uint64_t) bytes_born, bytes_dead;
    char more[24];
} theus_participant;

/* A slot's word: generation (32 bits), state (8), participant that claimed it (8), unused (16). */
typedef enum {
    THEUS_SLOT_FREE,    /* nobody's */
    THEUS_SLOT_CLAIMED, /* its claimer fills in the record; to everybody else it is not there */
    THEUS_SLOT_LIVE,    /* may be leased by who knows its generation */
    THEUS_SLOT_RETIRED, /* no new leases; FREE again after the last one */
    THEUS_SLOT_WORN,    /* its generations are used up: never given again */
} theus_slot_state;

typedef struct {
    _Atomic(uint64_t) word;   /* the truth: shm_slots.h */
    _Atomic(uint64_t) leases; /* a bit per participant that looks at the block */
    /* the record: */
    uint64_t offset;          /* of the block in the data file */
    uint64_t size;            /* bytes that were asked for */
    uint64_t extent;          /* bytes taken: size, rounded up */
    uint32_t tag;             /* the quota that it counts for: the owner's affair, also while it is LIVE */
    uint32_t site;            /* where it was allocated: for leak detection; 0: not known */
    uint64_t tick_ns;         /* when: monotonic, coarse */
    uint32_t label_length;
    _Atomic(uint32_t) published; /* the owner has promised: it changes no more */
    char label[THEUS_LABEL_MAX + 1];
} theus_slot;

/* A loan's word: generation (32 bits), state (8), participant that took it (8), unused (16). */
typedef enum {
    THEUS_LOAN_NONE,     /* there was none here yet */
    THEUS_LOAN_OFFERED,  /* may be taken, once, by who knows its generation */
    THEUS_LOAN_TAKEN,    /* its taker may write */
    THEUS_LOAN_RETURNED, /* its taker has finished. This and what follows is over for ever */
    THEUS_LOAN_BROKEN,   /* its taker has not: it died, or gave up */
    THEUS_LOAN_RECALLED, /* nobody has taken it */
} theus_loan_state;

typedef struct {
    _Atomic(uint64_t) word;         /* the truth: shm_lendings.h */
    /* constant while it is OFFERED or TAKEN: */
    _Atomic(uint64_t) from, size;   /* bytes of the block */
    _Atomic(uint32_t) slot, tenant; /* the block: its slot, and the generation there */
} theus_loan_record;

/* The length of a label, whatever somebody wrote there. */
static inline uint32_t
theus_slot_label_length(const theus_slot *slot)
{
    uint32_t length = *(const volatile uint32_t *)&slot->label_length;
    return length < THEUS_LABEL_MAX ? length : THEUS_LABEL_MAX;
}

static_assert(sizeof(theus_shm_header) <= THEUS_SHM_PAGE, "the header has a page");
static_assert(sizeof(theus_participant) == 64, "participants do not share cache lines");
static_assert(sizeof(theus_slot) == 256, "a slot is four cache lines, its hot part the first");
static_assert(offsetof(theus_slot, label) == 64, "what is asked for without the label is one cache line");
static_assert(sizeof(theus_loan_record) == 32, "two loans share a cache line, and no more");
static_assert(sizeof(_Atomic(uint64_t)) == 8, "an atomic word is a word");

#define THEUS_SHM_FINGERPRINT                                                                                   \
    ((uint64_t)sizeof(theus_slot) << 48 | (uint64_t)sizeof(theus_participant) << 40                              \
     | (uint64_t)offsetof(theus_shm_header, session) << 28 | (uint64_t)offsetof(theus_slot, tick_ns) << 20       \
     | (uint64_t)(sizeof(theus_loan_record) + THEUS_SHM_LOANS / 64) << 14 | (uint64_t)THEUS_PARTICIPANTS << 7 | sizeof(void *))

/* Does the arena of this id lend? The id says so, and no field of the header: whoever has the name of an arena has it from its owner,
 * while anybody may write to the header, and where memory has names there is no seal that would contradict him. */
static inline bool
theus_shm_id_lends(const unsigned char id[16])
{
    return (id[15] & 1) != 0;
}

/* Where the parts of a control file with `capacity` slots begin, and its size. */
static inline uint64_t
theus_shm_hints_at(void)
{
    return THEUS_SHM_PAGE + sizeof(theus_participant) * THEUS_PARTICIPANTS;
}

static inline uint64_t
theus_shm_slots_at(uint32_t capacity)
{
    return (theus_shm_hints_at() + capacity / 8 + 63) / 64 * 64;
}

static inline uint64_t
theus_shm_loans_at(uint32_t capacity)
{
    return theus_shm_slots_at(capacity) + (uint64_t)capacity * sizeof(theus_slot);
}

static inline uint64_t
theus_shm_control_size(uint32_t capacity, bool lends)
{
    uint64_t end = theus_shm_loans_at(capacity) + (lends ? (uint64_t)THEUS_SHM_LOANS * sizeof(theus_loan_record) : 0);
    return (end + THEUS_SHM_PAGE - 1) / THEUS_SHM_PAGE * THEUS_SHM_PAGE;
}

#endif
