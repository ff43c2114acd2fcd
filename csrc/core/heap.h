/* One family of containers: the memory of all its versions, and the one place
 * from which every key and value can be enumerated.
 *
 * The heap owns each reference to an atom exactly once, through the leaf node
 * that owns the slot (see node.h). So the embedder's cycle collector asks the
 * heap, and only the heap, what is alive: states, views, drafts and containers
 * hold heap + root and report nothing else, and nothing is reported twice. */
#ifndef THEUS_HEAP_H
#define THEUS_HEAP_H

#include "port.h"
#include "value.h"

typedef struct theus_heap theus_heap;

THEUS_MUST_CHECK theus_status theus_heap_new(const theus_value_ops *ops, theus_heap **out);

/* Frees every node and releases every atom that is left. No container of this
 * heap may be used afterwards. Runs foreign code (releases) while the heap is
 * still whole, then frees the memory. */
void theus_heap_free(theus_heap *heap);

const theus_value_ops *theus_heap_ops(const theus_heap *heap);

/* Calls visit(atom, arg) once per owned reference; stops at a non-zero result and
 * returns it. Takes no lock: the collector runs while no core region is open, and
 * with every other thread stopped or outside the core. */
int theus_heap_visit(theus_heap *heap, int (*visit)(void *atom, void *arg), void *arg);

/* Replaces every atom by `placeholder` (retained once per slot), then releases what was there. For a
 * collector that breaks cycles: what still looks at the heap finds placeholders,
 * never freed memory. */
void theus_heap_clear(theus_heap *heap, void *placeholder);

typedef struct {
    uint64_t bytes;      /* in live nodes, indexes and containers */
    uint64_t nodes;      /* live nodes and index segments */
    uint64_t containers; /* live container headers */
} theus_heap_stats;

void theus_heap_read_stats(theus_heap *heap, theus_heap_stats *out);

/* Bare cells of atoms, owned by the heap and seen by visit: for records and logs
 * that must keep keys alive. `atoms` are retained. Freed by theus_atoms_free. */
typedef struct theus_node theus_atoms;
THEUS_MUST_CHECK theus_status theus_atoms_new(theus_heap *heap, void *const *atoms, uint32_t count,
                                              theus_atoms **out);
void *theus_atoms_at(const theus_atoms *cells, uint32_t index); /* borrowed */
void theus_atoms_free(theus_heap *heap, theus_atoms *cells);    /* may run foreign code */

/* For what makes cells all the time. Empty cells, with room for `count` atoms and, behind so many, for `extra` bytes of
 * the owner's own (aligned to 8), which the heap does not look at. Fill and drain take no lock: what stands in
 * cells is their owner's business alone, and the collector's while no one is inside the core. */
THEUS_MUST_CHECK theus_status theus_atoms_alloc(theus_heap *heap, uint32_t count, size_t extra,
                                                theus_atoms **out);
bool theus_atoms_fit(const theus_atoms *cells, uint32_t count, size_t extra);
void *theus_atoms_extra(theus_atoms *cells, uint32_t count);
void theus_atoms_fill(theus_heap *heap, theus_atoms *cells, void *const *atoms, uint32_t count);
void theus_atoms_drain(theus_heap *heap, theus_atoms *cells); /* may run foreign code */

#endif
