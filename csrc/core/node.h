/* Trie nodes, and the rule by which versions share them without counting children.
 *
 * Copying a path in a persistent trie usually means one increment per child of every copied
 * node, and one decrement per child when the old version goes: 32 cache lines touched to change
 * one slot. Here the copy *borrows* its children instead:
 *
 *        older  <--- origin ---  newer          newer.borrowed: a bit per word that
 *        +------+                +------+       still belongs to an older node of the chain
 *        | a  b | --- succ --->  | a  B |       newer.borrowed = 01 (a), it owns B itself
 *        +------+                +------+
 *
 * Invariants, all guarded by heap.lock:
 *   1. P.succ == N  <=>  N.origin == P; a node has at most one succ. A second copy of P while
 *      P.succ is taken (a branch) is *counted*: it owns every word and retains what they name.
 *   2. A word of N that is borrowed is the same as that word of N.origin.
 *   3. Every non-empty word of a node is owned by exactly one node of its chain among those
 *      that share it. So the first node of a chain borrows nothing.
 * When P dies, words that N borrows and P owns pass to N (two mask operations); words that P
 * owns and N has replaced are released; N.origin becomes P.origin. So a copy and a death cost
 * O(1), whatever the width.
 *
 * Words of a node are immutable once its container is sealed; `borrowed`, `origin`, `succ` and
 * `refs` are not, and are never read without the lock. Readers look only at words. A node that
 * can be written (node.edit == container.edit) never has a succ: only sealed containers are
 * copied, and the copy gets a token of its own.
 *
 * Nothing foreign runs under heap.lock. What falls out of the structure is put in a
 * theus_grave; theus_grave_close() takes it apart, unlocks, and only then releases atoms. */
#ifndef THEUS_NODE_H
#define THEUS_NODE_H

#include <assert.h>
#include <string.h>

#include "container.h"
#include "heap.h"

typedef enum {
    THEUS_BRANCH,  /* words: child nodes, or 0; a tag in the low 4 bits (see index.h) */
    THEUS_LEAF,    /* words: values, keys and elements, all of them theus_value, or 0 */
    THEUS_SEGMENT, /* words: fragments and positions (index.c); owns nothing, has no chain */
    THEUS_CELLS,   /* words: atoms, all owned (theus_atoms); any number, has no chain */
} theus_node_sort;

#define THEUS_NODE_TAGS ((uintptr_t)15) /* nodes are aligned to 16 bytes */
#define THEUS_NODE_LOG2_MIN 2           /* no node has fewer than 4 words */
#define THEUS_NODE_LOG2_OWNED 6         /* branches and leaves: a mask bit per word */
#define THEUS_NODE_LOG2_SPARE 8         /* larger ones go straight back to the allocator */

typedef struct theus_node theus_node;

struct theus_node {
    /* guarded by heap.lock: */
    uint64_t borrowed; /* bit i: word i belongs to an older node of the chain */
    theus_node *origin;
    theus_node *succ;
    uint32_t refs;  /* owners: words of branches, entries and index of containers */
    uint32_t place; /* in heap.chains; only cells, and leaves that start a chain */
    union {
        uint64_t edit;    /* token of the edit that made the node; constant */
        theus_node *next; /* once refs is 0: link of a grave or of the spare nodes */
    };
    uint8_t sort;      /* theus_node_sort */
    uint8_t log2;      /* room for 1 << log2 words */
    uint32_t used;     /* segments: entries; cells: atoms (without the lock: see heap.h) */
    uintptr_t words[]; /* segments pack two 32-bit numbers in one: a word is 64 bits */
};

/* Things in no order, each of which remembers its place: O(1) to add and to remove, and a
 * place to walk them from. (An intrusive list was the other choice; unlinking from it touches
 * two neighbours that are rarely in the cache.) */
typedef struct {
    void **items;
    uint32_t count;
    uint32_t room;
} theus_roster;

enum {
    THEUS_ROSTER_INLINE = 2,
    THEUS_NODE_SPARE_SIZES = THEUS_NODE_LOG2_SPARE - THEUS_NODE_LOG2_MIN + 1,
};

struct theus_heap {
    const theus_value_ops *ops; /* constant after theus_heap_new() */
    theus_mutex lock;           /* rank HEAP */

    /* Guarded by lock. (live_nodes does not stand beside live_bytes, because the compiler would
     * change the two in one vector, and that stalls on the half that has just been written: 10 %
     * of a small write.) */
    uint64_t token;      /* the last edit token or shape given out; never reused */
    uint64_t live_bytes; /* in nodes and headers; not in spare ones */
    theus_roster chains; /* cells, and leaves that start a chain: all owned atoms hang here */
    uint32_t live_nodes;
    theus_roster containers;                         /* every live header */
    theus_node *spare_nodes[THEUS_NODE_SPARE_SIZES]; /* by size, the smallest first */
    theus_container *spare_containers;
    uint8_t spare_node_counts[THEUS_NODE_SPARE_SIZES];
    uint8_t spare_container_count;

    /* What the rosters begin with, so that a heap with one small map allocates none. */
    void *first_chains[THEUS_ROSTER_INLINE];
    void *first_containers[THEUS_ROSTER_INLINE];
};

/* ---- graves --------------------------------------------------------------- */

/* More than two of the largest leaves, so that any one step finds room after a bury. */
enum { THEUS_GRAVE_ATOMS = 192 };

/* What one operation has let fall: a local variable of it. The lists link nodes and containers
 * whose count is 0 but which still stand whole, chains included; so other threads may keep
 * unlinking their neighbours meanwhile. */
typedef struct {
    theus_node *nodes;
    theus_container *containers;
    uint32_t count;
    void *atoms[THEUS_GRAVE_ATOMS]; /* references to give back after unlocking */
} theus_grave;

static inline void
theus_grave_init(theus_grave *grave)
{
    grave->nodes = NULL;
    grave->containers = NULL;
    grave->count = 0; /* atoms[] stays as it is: 1.5 KiB that are hardly ever used */
}

/* Ends an operation: takes apart what fell out, unlocks the heap, then releases the atoms,
 * which may run foreign code. Unlocks in between when there is much, so that regions stay
 * short. The lock is held on entry and not on return. */
void theus_grave_empty(theus_heap *heap, theus_grave *grave);

static inline void
theus_grave_close(theus_heap *heap, theus_grave *grave)
{
    if (grave->nodes == NULL && grave->containers == NULL && grave->count == 0) {
        theus_mutex_unlock(&heap->lock); /* copying a path, as most writes do, lets nothing fall */
    }
    else {
        theus_grave_empty(heap, grave);
    }
}

/* Gives up one count or reference. The atoms of at most 64 words may be dropped by one
 * operation; nodes and containers without limit. */
void theus_node_drop_locked(theus_heap *heap, theus_node *node, theus_grave *grave);
void theus_value_drop_locked(theus_heap *heap, theus_value value, theus_grave *grave);

/* ---- rosters ---------------------------------------------------------------- */

/* reserve makes room for one more, and add then cannot fail; it returns the place. remove returns
 * who moved into the place that became free, or NULL: the caller tells it. */
THEUS_MUST_CHECK theus_status theus_roster_reserve(theus_roster *roster, void **inline_items);
uint32_t theus_roster_add(theus_roster *roster, void *item);
void *theus_roster_remove(theus_roster *roster, uint32_t place);

/* ---- nodes ------------------------------------------------------------------ */

/* A node with one count, all words 0, for the edit `edit` (0: for nobody). NULL: no memory. */
theus_node *theus_node_new_locked(theus_heap *heap, theus_node_sort sort, unsigned log2,
                                  uint64_t edit);

/* A copy of `node` (with its log2), one count, for the edit `edit`. NULL: no memory. */
theus_node *theus_node_copy_locked(theus_heap *heap, theus_node *node, uint64_t edit);

/* `node`, which its edit alone can reach, with twice the words: a new node stands in its
 * place in the chain, and the old one is gone. NULL: no memory, and nothing has changed. */
theus_node *theus_node_grow_locked(theus_heap *heap, theus_node *node);

/* Puts `word` in place i of a writable branch or leaf, which takes over the caller's count
 * of what it names, and drops what it owned there. */
void theus_node_store_locked(theus_heap *heap, theus_node *node, unsigned i, uintptr_t word,
                             theus_grave *grave);

/* The node of *ref made writable for `edit`: itself, or a copy that has taken its place in *ref.
 * `parent` is the writable branch that *ref lies in, or NULL if a container owns *ref. The tag
 * of *ref stays. NULL: no memory, and nothing has changed. */
theus_node *theus_node_own_locked(theus_heap *heap, theus_node *parent, uintptr_t *ref,
                                  uint64_t edit, theus_grave *grave);

/* Puts `word` in *ref, as above, for the caller that has built the new node itself. */
void theus_node_replace_locked(theus_heap *heap, theus_node *parent, uintptr_t *ref, uintptr_t word,
                               theus_grave *grave);

/* ---- containers ------------------------------------------------------------- */

/* A header with one count, registered; the caller fills in the rest. NULL: no memory. */
theus_container *theus_container_alloc_locked(theus_heap *heap);

/* theus_edit_begin(), for who holds the lock already. NULL: no memory. */
theus_container *theus_edit_begin_locked(theus_container *base);

/* Gives up one count; true if it was the last. The last owner needs no atomic subtraction: nobody
 * is left to change the count meanwhile. */
static inline bool
theus_container_drop(theus_container *container)
{
    if (atomic_load_explicit(&container->refs, memory_order_acquire) == 1) {
        atomic_store_explicit(&container->refs, 0, memory_order_relaxed);
        return true;
    }
    return atomic_fetch_sub_explicit(&container->refs, 1, memory_order_acq_rel) == 1;
}

/* Drops all entries of a container and leaves it empty; count, span and shift become 0. */
void theus_container_empty_locked(theus_container *container, theus_grave *grave);

/* For an operation of many steps that must happen as a whole: do them on a scratch copy of the
 * edit (caller's storage, unknown to the heap), then end it. With OK the edit takes over what the
 * scratch has become, its token and shape too; else the edit stays as it was. Meanwhile no one
 * else uses the edit, and nothing foreign runs. `share`: begin with the edit's entries (lists
 * only; O(1), as an edit of a sealed container), else empty. */
void theus_scratch_begin(theus_container *scratch, const theus_container *edit, bool share);
void theus_scratch_end_locked(theus_container *scratch, theus_container *edit, theus_status status,
                              theus_grave *grave);

static inline uint64_t
theus_heap_token_locked(theus_heap *heap)
{
    assert(theus_mutex_is_mine(&heap->lock));
    return ++heap->token;
}

/* ---- words ------------------------------------------------------------------ */

static inline theus_node *
theus_node_of_word(uintptr_t word)
{
    return (theus_node *)(word & ~THEUS_NODE_TAGS);
}

static inline uint32_t
theus_node_room(const theus_node *node)
{
    return (uint32_t)1 << node->log2;
}

/* The bits of `borrowed` that a node of this size has. */
static inline uint64_t
theus_node_mask(const theus_node *node)
{
    return node->log2 == THEUS_NODE_LOG2_OWNED ? UINT64_MAX
                                               : ((uint64_t)1 << theus_node_room(node)) - 1;
}

/* One more reference or count of what `value` names; with or without the lock. */
static inline void
theus_value_take(const theus_value_ops *ops, theus_value value)
{
    if (theus_value_kind(value) == THEUS_ATOM) {
        ops->retain(theus_value_atom(value));
    }
    else {
        theus_container_retain(theus_value_container(value));
    }
}

#endif
