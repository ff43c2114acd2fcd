/* What differs between two containers.
 *
 * Both tries are walked side by side, and where they meet in the same node everything below is
 * equal. So two versions cost as much as what lies between them. Where the positions of keys do
 * not agree (one of the two was compacted, or the key was removed and came back), the key is
 * looked up in the other container. */
#include "node.h"
#include "vector.h"

struct diff {
    const theus_container *a;
    const theus_container *b;
    void *ctx;
    theus_change_fn report;
    void *arg;
    bool additions; /* the second walk: what is only in b; the first one reports the rest */
    theus_place_fn place; /* not NULL: is told of all entries that are not the same, instead of `report` */
};

/* What stands at one position; empty beyond the end of a leaf, or without a leaf. */
struct entry {
    void *key;
    theus_value value;
};

static struct entry
leaf_entry(theus_kind kind, const theus_node *leaf, unsigned offset)
{
    struct entry entry = {NULL, THEUS_NONE};
    if (leaf != NULL && offset < theus_node_room(leaf)) {
        entry.key = theus_value_atom(leaf->words[offset]); /* lists: compared as a word only */
        entry.value = leaf->words[offset + theus_entries_stride(kind) - 1];
    }
    return entry;
}

/* Where the key stands in the other container. Calls back. */
static theus_find
diff_find(const struct diff *diff, const theus_container *where, void *key, uint32_t *pos,
          theus_value *value)
{
    uint64_t hash;
    if (where->heap->ops->hash(diff->ctx, key, &hash) != 0) {
        return THEUS_FIND_FAILED;
    }
    return theus_container_find(where, diff->ctx, hash, key, pos, value);
}

/* The two entries of one position of two maps or sets, which are not the same. */
static int
diff_keyed(const struct diff *diff, uint32_t pos, struct entry in_a, struct entry in_b)
{
    uint32_t other;
    theus_value value;
    if (in_a.key == in_b.key) {
        return diff->additions ? 0
                               : diff->report(diff->arg, THEUS_CHANGED_VALUE, in_a.key, pos,
                                              in_a.value, pos, in_b.value);
    }
    if (!diff->additions && in_a.key != NULL) {
        switch (diff_find(diff, diff->b, in_a.key, &other, &value)) {
        case THEUS_FIND_FAILED:
            return -1;
        case THEUS_ABSENT:
            return diff->report(diff->arg, THEUS_REMOVED, in_a.key, pos, in_a.value, 0, THEUS_NONE);
        case THEUS_FOUND: /* a set has no values: an equal element changes nothing */
            return value == in_a.value || diff->a->kind == THEUS_SET
                       ? 0
                       : diff->report(diff->arg, THEUS_CHANGED_VALUE, in_a.key, pos, in_a.value,
                                      other, value);
        }
    }
    if (diff->additions && in_b.key != NULL) {
        switch (diff_find(diff, diff->a, in_b.key, &other, &value)) {
        case THEUS_FIND_FAILED:
            return -1;
        case THEUS_ABSENT:
            return diff->report(diff->arg, THEUS_ADDED, in_b.key, 0, THEUS_NONE, pos, in_b.value);
        case THEUS_FOUND:
            return 0; /* the first walk has seen it */
        }
    }
    return 0;
}

static int
diff_listed(const struct diff *diff, uint32_t pos, struct entry in_a, struct entry in_b)
{
    if ((in_a.value == THEUS_NONE) != diff->additions) {
        return 0; /* the other walk's */
    }
    if (diff->additions) {
        return diff->report(diff->arg, THEUS_ADDED, NULL, pos, THEUS_NONE, pos, in_b.value);
    }
    if (in_b.value == THEUS_NONE) {
        return diff->report(diff->arg, THEUS_REMOVED, NULL, pos, in_a.value, pos, THEUS_NONE);
    }
    return diff->report(diff->arg, THEUS_CHANGED_VALUE, NULL, pos, in_a.value, pos, in_b.value);
}

static int
diff_leaves(const struct diff *diff, const theus_node *a, const theus_node *b, uint32_t base)
{
    theus_kind kind = (theus_kind)diff->a->kind;
    unsigned stride = theus_entries_stride(kind);
    unsigned words = stride << theus_entries_leaf_bits(kind);
    for (unsigned offset = 0; offset < words; offset += stride) {
        struct entry in_a = leaf_entry(kind, a, offset);
        struct entry in_b = leaf_entry(kind, b, offset);
        if (in_a.key == in_b.key && in_a.value == in_b.value) {
            continue;
        }
        uint32_t pos = base + offset / stride;
        int result;
        if (diff->place != NULL) {
            result = diff->place(diff->arg, pos, in_a.key, in_a.value, in_b.key, in_b.value);
        }
        else {
            result = kind == THEUS_LIST ? diff_listed(diff, pos, in_a, in_b) : diff_keyed(diff, pos, in_a, in_b);
        }
        if (result != 0) {
            return result;
        }
    }
    return 0;
}

/* Child i of a node at `shift`, seen from the height of the taller trie: a lower trie
 * hangs under its first child. */
static const theus_node *
diff_child(const theus_node *node, unsigned node_shift, unsigned shift, unsigned i)
{
    if (node == NULL || node_shift < shift) {
        return i == 0 ? node : NULL;
    }
    return i < theus_node_room(node) ? theus_node_of_word(node->words[i]) : NULL;
}

static int
diff_nodes(const struct diff *diff, const theus_node *a, unsigned a_shift, const theus_node *b,
           unsigned b_shift, uint32_t base)
{
    if (a == b) {
        return 0; /* shared (a node has one height for ever), or nothing on both sides */
    }
    unsigned shift = a_shift > b_shift ? a_shift : b_shift;
    if (shift == 0) {
        return diff_leaves(diff, a, b, base);
    }
    unsigned below = shift - THEUS_BRANCH_BITS;
    unsigned bits = below + theus_entries_leaf_bits((theus_kind)diff->a->kind);
    int result = 0;
    for (unsigned i = 0; i < 1u << THEUS_BRANCH_BITS && result == 0; i++) {
        const theus_node *child_a = diff_child(a, a_shift, shift, i);
        const theus_node *child_b = diff_child(b, b_shift, shift, i);
        result = diff_nodes(diff, child_a, a_shift < below ? a_shift : below, child_b,
                            b_shift < below ? b_shift : below, base + (i << bits));
    }
    return result;
}

int
theus_container_diff(const theus_container *a, const theus_container *b, void *ctx,
                     theus_change_fn report, void *arg, theus_status *status)
{
    assert(a->kind == b->kind);
    *status = THEUS_OK;
    struct diff diff = {.a = a, .b = b, .ctx = ctx, .report = report, .arg = arg};
    int result = diff_nodes(&diff, a->entries, a->shift, b->entries, b->shift, 0);
    bool additions =
        a->kind == THEUS_LIST ? b->span > a->span : a->heap != b->heap || a->shape != b->shape;
    if (result == 0 && additions) {
        diff.additions = true;
        result = diff_nodes(&diff, a->entries, a->shift, b->entries, b->shift, 0);
    }
    if (result < 0) {
        *status = THEUS_FOREIGN;
    }
    return result;
}

int
theus_container_places(const theus_container *a, const theus_container *b, theus_place_fn place, void *arg)
{
    assert(a->kind == b->kind && a->heap == b->heap);
    struct diff diff = {.a = a, .b = b, .arg = arg, .place = place};
    return diff_nodes(&diff, a->entries, a->shift, b->entries, b->shift, 0);
}
