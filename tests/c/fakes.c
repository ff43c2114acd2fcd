#include "fakes.h"

#include "check.h"

_Atomic(int) check_failures;

fake_behaviour fakes;

static _Atomic(long) live_atoms;

fake_atom *
fake_new_hashed(uint64_t id, uint64_t hash)
{
    fake_atom *atom = calloc(1, sizeof(*atom)); /* not through theus_alloc: it never fails */
    REQUIRE(atom != NULL);
    atom->refs = 1;
    atom->id = id;
    atom->hash = hash;
    atomic_fetch_add(&live_atoms, 1);
    return atom;
}

fake_atom *
fake_new(uint64_t id)
{
    return fake_new_hashed(id, id);
}

void
fake_retain(void *memory)
{
    fake_atom *atom = memory;
    REQUIRE(atomic_fetch_add(&atom->refs, 1) > 0);
    atomic_fetch_add_explicit(&fakes.retain_calls, 1, memory_order_relaxed);
}

void
fake_release(void *memory)
{
    fake_atom *atom = memory;
    long before = atomic_fetch_sub(&atom->refs, 1);
    REQUIRE(before > 0);
    if (before > 1) {
        return;
    }
    if (atom->on_free != NULL) {
        atom->on_free(atom);
    }
    atomic_fetch_sub(&live_atoms, 1);
    free(atom);
}

long
fakes_live(void)
{
    return atomic_load(&live_atoms);
}

static int
fake_equal(void *ctx, void *a, void *b)
{
    atomic_fetch_add_explicit(&fakes.equal_calls, 1, memory_order_relaxed);
    if (fakes.on_equal != NULL) {
        fakes.on_equal(ctx, a, b);
    }
    if (fakes.fail_equal) {
        return -1;
    }
    return ((fake_atom *)a)->id == ((fake_atom *)b)->id;
}

static int
fake_hash(void *ctx, void *atom, uint64_t *hash)
{
    (void)ctx;
    *hash = ((fake_atom *)atom)->hash;
    return fakes.fail_hash ? -1 : 0;
}

const theus_value_ops fake_ops = {
    .retain = fake_retain,
    .release = fake_release,
    .equal = fake_equal,
    .hash = fake_hash,
};

/* ---- short forms ---------------------------------------------------------------- */

theus_container *
new_edit(theus_heap *heap, theus_kind kind)
{
    theus_container *edit;
    REQUIRE(theus_container_new(heap, kind, &edit) == THEUS_OK);
    return edit;
}

theus_container *
begin(theus_container *base)
{
    theus_container *edit;
    REQUIRE(theus_edit_begin(base, &edit) == THEUS_OK);
    return edit;
}

theus_container *
sealed(theus_container *edit)
{
    REQUIRE(theus_edit_seal(edit) == THEUS_OK);
    return edit;
}

theus_status
set_hashed(theus_container *edit, uint64_t key_id, uint64_t hash, uint64_t value_id)
{
    fake_atom *key = fake_new_hashed(key_id, hash);
    fake_atom *value = fake_new(value_id);
    theus_value word = theus_value_of_atom(value);
    uint32_t pos;
    theus_status status = THEUS_OK;
    theus_find found = theus_container_find(edit, NULL, hash, key, &pos, NULL);
    REQUIRE(found != THEUS_FIND_FAILED);
    if (found == THEUS_ABSENT) {
        status = theus_container_insert(edit, hash, key, word, NULL);
    }
    else if (edit->kind == THEUS_MAP) {
        status = theus_container_put(edit, pos, word);
    }
    fake_release(key);
    fake_release(value);
    return status;
}

theus_status
set_id(theus_container *edit, uint64_t key, uint64_t value)
{
    return set_hashed(edit, key, key, value);
}

int
remove_hashed(theus_container *edit, uint64_t key_id, uint64_t hash)
{
    fake_atom *key = fake_new_hashed(key_id, hash);
    uint32_t pos;
    theus_find found = theus_container_find(edit, NULL, hash, key, &pos, NULL);
    REQUIRE(found != THEUS_FIND_FAILED);
    fake_release(key);
    if (found == THEUS_ABSENT) {
        return 0;
    }
    return theus_container_remove(edit, hash, pos) == THEUS_OK ? 1 : -1;
}

int
remove_id(theus_container *edit, uint64_t key)
{
    return remove_hashed(edit, key, key);
}

int64_t
get_hashed(const theus_container *container, uint64_t key_id, uint64_t hash)
{
    fake_atom *key = fake_new_hashed(key_id, hash);
    uint32_t pos;
    theus_value value;
    theus_find found = theus_container_find(container, NULL, hash, key, &pos, &value);
    REQUIRE(found != THEUS_FIND_FAILED);
    fake_release(key);
    if (found == THEUS_ABSENT) {
        return -1;
    }
    CHECK(theus_container_value_at(container, pos) == value);
    return (int64_t)((fake_atom *)theus_value_atom(value))->id;
}

int64_t
get_id(const theus_container *container, uint64_t key)
{
    return get_hashed(container, key, key);
}

theus_status
append_id(theus_container *list, uint64_t value_id)
{
    fake_atom *value = fake_new(value_id);
    theus_value word = theus_value_of_atom(value);
    theus_status status = theus_list_splice(list, list->span, 0, &word, 1);
    fake_release(value);
    return status;
}

int64_t
id_at(const theus_container *container, uint32_t pos)
{
    theus_value value = theus_container_value_at(container, pos);
    return value == THEUS_NONE ? -1 : (int64_t)((fake_atom *)theus_value_atom(value))->id;
}

void
check_sound(theus_container *container)
{
    CHECK_SOUND(theus_container_check(container, NULL));
    CHECK_SOUND(theus_heap_check(container->heap));
}

static int
count_atom(void *atom, void *arg)
{
    REQUIRE(((fake_atom *)atom)->refs > 0);
    ++*(long *)arg;
    return 0;
}

long
owned_atoms(theus_heap *heap)
{
    long count = 0;
    CHECK(theus_heap_visit(heap, count_atom, &count) == 0);
    return count;
}
