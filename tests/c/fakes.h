/* Atoms that only count: what stands in for Python objects in the tests of the core.
 *
 * Two atoms with one id are equal, as two equal strings are. When the last reference goes, the
 * atom is freed, so the address sanitizer sees what looks at it later; a test that leaks one
 * ends with fakes_live() above 0. */
#ifndef THEUS_FAKES_H
#define THEUS_FAKES_H

#include "container.h"

typedef struct fake_atom {
    _Atomic(long) refs;
    uint64_t id;
    uint64_t hash;
    void (*on_free)(struct fake_atom *atom); /* as __del__; may be NULL */
} fake_atom;

/* What equal() does besides comparing ids; all NULL or 0 by default. */
typedef struct {
    void (*on_equal)(void *ctx, fake_atom *a, fake_atom *b);
    int fail_equal; /* equal() answers -1 from now on */
    int fail_hash;
    _Atomic(long) equal_calls;
    _Atomic(long) retain_calls;
} fake_behaviour;

extern fake_behaviour fakes;
extern const theus_value_ops fake_ops;

fake_atom *fake_new(uint64_t id); /* one reference; hash = id */
fake_atom *fake_new_hashed(uint64_t id, uint64_t hash);
void fake_retain(void *atom);
void fake_release(void *atom);
long fakes_live(void); /* atoms that exist */

/* ---- short forms, for tests that are about something else ------------------------- */

theus_container *new_edit(theus_heap *heap, theus_kind kind);
theus_container *begin(theus_container *base);
theus_container *sealed(theus_container *edit);

/* Sets a key (or element) as a program would: find, then put or insert. The atoms are made here
 * from the ids and belong to the container alone. */
theus_status set_id(theus_container *edit, uint64_t key, uint64_t value);
theus_status set_hashed(theus_container *edit, uint64_t key, uint64_t hash, uint64_t value);
/* 1: it was there; 0: not; -1: out of memory. */
int remove_id(theus_container *edit, uint64_t key);
int remove_hashed(theus_container *edit, uint64_t key, uint64_t hash);
/* The id of the value, or of the element; -1 if absent. */
int64_t get_id(const theus_container *container, uint64_t key);
int64_t get_hashed(const theus_container *container, uint64_t key, uint64_t hash);
theus_status append_id(theus_container *list, uint64_t value);
int64_t id_at(const theus_container *container, uint32_t pos);

/* Both walkers, and the count of all references that the heap should own. */
void check_sound(theus_container *container);
long owned_atoms(theus_heap *heap);

#endif
