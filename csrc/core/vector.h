/* The entries of a container: a radix trie of positions. See vector.c. */
#ifndef THEUS_VECTOR_H
#define THEUS_VECTOR_H

#include "node.h"

#define THEUS_BRANCH_BITS 5   /* 32 children */
#define THEUS_MAP_LEAF_BITS 5 /* 32 keys, 32 values */
#define THEUS_LEAF_BITS 5     /* 32 values or elements */

#define THEUS_SPAN_MAX ((uint32_t)INT32_MAX) /* positions; index.c has room for one bit more */

static inline unsigned
theus_entries_leaf_bits(theus_kind kind)
{
    return kind == THEUS_MAP ? THEUS_MAP_LEAF_BITS : THEUS_LEAF_BITS;
}

/* Words per entry: key and value side by side, so that a lookup misses the cache once. */
static inline unsigned
theus_entries_stride(theus_kind kind)
{
    return kind == THEUS_MAP ? 2 : 1;
}

/* Where the words of position `pos` begin in its leaf. */
static inline unsigned
theus_entries_offset(theus_kind kind, uint32_t pos)
{
    unsigned i = pos & ((1u << theus_entries_leaf_bits(kind)) - 1);
    return i * theus_entries_stride(kind);
}

/* Which child of a branch, `shift` bits above the leaf, leads to `pos`. */
static inline unsigned
theus_entries_child(theus_kind kind, unsigned shift, uint32_t pos)
{
    unsigned below = theus_entries_leaf_bits(kind) + shift - THEUS_BRANCH_BITS;
    return (pos >> below) & ((1u << THEUS_BRANCH_BITS) - 1);
}

/* Positions that fit under a root with this shift. */
static inline uint64_t
theus_entries_capacity(theus_kind kind, unsigned shift)
{
    return (uint64_t)1 << (theus_entries_leaf_bits(kind) + shift);
}

/* The leaf that holds a position below span. */
static inline const theus_node *
theus_entries_leaf(const theus_container *container, uint32_t pos)
{
    assert(pos < container->span);
    const theus_node *node = container->entries;
    for (unsigned shift = container->shift; shift > 0; shift -= THEUS_BRANCH_BITS) {
        node = (const theus_node *)node->words[theus_entries_child(container->kind, shift, pos)];
    }
    return node;
}

/* The words of a position below span: key and value, or value, or element. */
static inline const uintptr_t *
theus_entries_at(const theus_container *container, uint32_t pos)
{
    return theus_entries_leaf(container, pos)->words + theus_entries_offset(container->kind, pos);
}

/* The functions below write: the container is an edit, and the caller holds heap.lock. On
 * NULL or NOMEM nothing that a reader can see has changed. */

/* The leaf of a position below span, made writable. */
theus_node *theus_entries_own_locked(theus_container *edit, uint32_t pos, theus_grave *grave);

/* The leaf in which position span can be filled in; span is below THEUS_SPAN_MAX. */
theus_node *theus_entries_room_locked(theus_container *edit, theus_grave *grave);

/* Fills it in: takes references of its own to the key (maps only) and the value or element.
 * Leaves the index alone, and the shape too. */
void theus_entries_fill_locked(theus_container *edit, theus_node *leaf, void *key,
                               theus_value value, theus_grave *grave);

/* Both in one. */
THEUS_MUST_CHECK theus_status theus_entries_append_locked(theus_container *edit, void *key,
                                                          theus_value value, theus_grave *grave);

/* Drops all positions from `span` on, of a list. */
THEUS_MUST_CHECK theus_status theus_entries_trim_locked(theus_container *edit, uint32_t span,
                                                        theus_grave *grave);

#endif
