/* hash -> position, for maps and sets. See index.c. */
#ifndef THEUS_INDEX_H
#define THEUS_INDEX_H

#include "node.h"

#define THEUS_INDEX_BITS 5       /* 32 children of a directory */
#define THEUS_INDEX_SPLIT_LOG2 8 /* a segment of 256 words splits when it is full */
#define THEUS_INDEX_HASH_BITS 32

/* A word of the index: a directory (tag 0), a segment (tag is log2 - 1, so that a search
 * knows the mask before it has touched the segment; 15 means: ask the segment), or 0. */
static inline uintptr_t
theus_index_word(const theus_node *node)
{
    if (node->sort == THEUS_BRANCH) {
        return (uintptr_t)node;
    }
    unsigned tag = node->log2 - 1u;
    return (uintptr_t)node | (tag < THEUS_NODE_TAGS ? tag : THEUS_NODE_TAGS);
}

static inline uint32_t
theus_index_segment_mask(uintptr_t word)
{
    unsigned tag = (unsigned)(word & THEUS_NODE_TAGS);
    unsigned log2 = tag < THEUS_NODE_TAGS ? tag + 1 : theus_node_of_word(word)->log2;
    return (uint32_t)(((uint64_t)1 << log2) - 1);
}

/* What of an embedder's hash is kept. Integers hash to themselves, and programs like round
 * numbers: fold, multiply, take the upper half. */
static inline uint32_t
theus_index_fragment(uint64_t hash)
{
    hash ^= hash >> 32;
    hash *= 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
    return (uint32_t)(hash >> 32);
}

/* An entry of a segment: fragment above, position + 1 below; 0 is an empty word. */
static inline uint64_t
theus_index_entry(uint32_t fragment, uint32_t pos)
{
    return (uint64_t)fragment << 32 | (pos + 1u);
}

/* A walk over the positions that may have a key with this fragment. Nothing may be inserted
 * or removed between two steps. */
typedef struct {
    const uintptr_t *words; /* of the segment; NULL: nothing there */
    uint32_t mask;
    uint32_t i;
    uint32_t fragment;
} theus_index_probe;

static inline theus_index_probe
theus_index_find(const theus_container *container, uint32_t fragment)
{
    theus_index_probe probe = {.fragment = fragment};
    uintptr_t word = (uintptr_t)container->index;
    for (unsigned shift = THEUS_INDEX_HASH_BITS; word != 0;) {
        if ((word & THEUS_NODE_TAGS) != 0) {
            probe.words = theus_node_of_word(word)->words;
            probe.mask = theus_index_segment_mask(word);
            probe.i = fragment & probe.mask;
            break;
        }
        shift -= THEUS_INDEX_BITS;
        word =
            theus_node_of_word(word)->words[(fragment >> shift) & ((1u << THEUS_INDEX_BITS) - 1)];
    }
    return probe;
}

/* The next candidate; false when there are no more. */
static inline bool
theus_index_next(theus_index_probe *probe, uint32_t *pos)
{
    if (probe->words == NULL) {
        return false;
    }
    for (;;) {
        uint64_t entry = probe->words[probe->i];
        probe->i = (probe->i + 1) & probe->mask;
        if (entry == 0) {
            return false;
        }
        if (entry >> 32 == probe->fragment) {
            *pos = (uint32_t)entry - 1u;
            return true;
        }
    }
}

/* Both: the container is an edit, the caller holds heap.lock; on NOMEM nothing has changed. */
THEUS_MUST_CHECK theus_status theus_index_insert_locked(theus_container *edit, uint32_t fragment,
                                                        uint32_t pos, theus_grave *grave);
/* The entry must be there. */
THEUS_MUST_CHECK theus_status theus_index_remove_locked(theus_container *edit, uint32_t fragment,
                                                        uint32_t pos, theus_grave *grave);

/* Calls visit for each entry, in no order; stops at a status other than OK. */
typedef theus_status (*theus_index_visit_fn)(void *arg, uint32_t fragment, uint32_t pos);
THEUS_MUST_CHECK theus_status theus_index_walk(const theus_container *container,
                                               theus_index_visit_fn visit, void *arg);

#endif
