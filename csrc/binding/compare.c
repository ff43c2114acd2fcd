/* Equality and hashing of containers. */
#include "compare.h"

#include "container_py.h"
#include "records.h"

#include <assert.h>

/* ---- two containers ---------------------------------------------------------------- */

typedef struct {
    HeapObject *heap_a, *heap_b;
    theus_kind kind;
} comparison;

static int
values_equal(HeapObject *heap_a, theus_value a, HeapObject *heap_b, theus_value b)
{
    theus_kind kind_a = theus_value_kind(a), kind_b = theus_value_kind(b);
    if (a == b) {
        return 1; /* as for Python's containers: identical is equal */
    }
    if (kind_a != THEUS_ATOM && kind_b != THEUS_ATOM
        && !record_is(theus_value_container(a)) && !record_is(theus_value_container(b))) {
        return kind_a == kind_b
               && containers_equal(heap_a, theus_value_container(a), heap_b,
                                   theus_value_container(b));
    }
    int equal = -1;
    PyObject *left = handle_wrap(heap_a, a), *right = handle_wrap(heap_b, b);
    if (left != NULL && right != NULL) {
        equal = PyObject_RichCompareBool(left, right, Py_EQ);
    }
    Py_XDECREF(left);
    Py_XDECREF(right);
    return equal;
}

/* A theus_change_fn: goes on while what changed compares equal. */
static int
report_difference(void *arg, theus_change_kind change, void *Py_UNUSED(key),
                  uint32_t Py_UNUSED(pos_a), theus_value a, uint32_t Py_UNUSED(pos_b),
                  theus_value b)
{
    const comparison *of = (const comparison *)arg;
    if (change != THEUS_CHANGED_VALUE) {
        return 1;
    }
    if (of->kind == THEUS_SET) {
        return 0; /* another object of the same element */
    }
    int equal = values_equal(of->heap_a, a, of->heap_b, b);
    return equal < 0 ? -1 : !equal;
}

int
containers_equal(HeapObject *heap_a, const theus_container *a, HeapObject *heap_b,
                 const theus_container *b)
{
    if (a == b) {
        return 1;
    }
    if (a->kind != b->kind || a->count != b->count) {
        return 0;
    }
    if (nesting_enter(" in comparison") < 0) {
        return -1;
    }
    comparison of = {heap_a, heap_b, (theus_kind)a->kind};
    theus_status status = THEUS_OK;
    int differs = theus_container_diff(a, b, NULL, report_difference, &of, &status);
    nesting_leave();
    return differs < 0 ? errors_fail(heap_a->st, status) : !differs;
}

/* ---- a container and a builtin ------------------------------------------------------- */

static int
value_equals_object(HeapObject *heap, theus_value value, PyObject *other)
{
    PyObject *wrapped = handle_wrap(heap, value);
    if (wrapped == NULL) {
        return -1;
    }
    int equal = PyObject_RichCompareBool(wrapped, other, Py_EQ);
    Py_DECREF(wrapped);
    return equal;
}

int
map_equals_dict(HeapObject *heap, const theus_container *map, PyObject *dict)
{
    if ((Py_ssize_t)map->count != PyDict_Size(dict)) {
        return 0;
    }
    theus_cursor cursor;
    void *key;
    theus_value value;
    int equal = 1;
    theus_cursor_init(&cursor, map, false);
    while (equal == 1 && theus_cursor_next(&cursor, NULL, &key, &value)) {
        PyObject *other;
        equal = PyDict_GetItemRef(dict, (PyObject *)key, &other);
        if (equal == 1) {
            equal = value_equals_object(heap, value, other);
            Py_DECREF(other);
        }
    }
    return equal;
}

int
list_equals_list(HeapObject *heap, const theus_container *list, PyObject *other)
{
    if ((Py_ssize_t)list->count != PyList_GET_SIZE(other)) {
        return 0;
    }
    theus_cursor cursor;
    uint32_t pos;
    theus_value value;
    int equal = 1;
    theus_cursor_init(&cursor, list, false);
    while (equal == 1 && theus_cursor_next(&cursor, &pos, NULL, &value)) {
        PyObject *part = list_part(other, pos);
        if (part == NULL) {
            return 0; /* an __eq__, or another thread, has made it shorter */
        }
        equal = value_equals_object(heap, value, part);
        Py_DECREF(part);
    }
    return equal == 1 ? (Py_ssize_t)list->count == PyList_GET_SIZE(other) : equal;
}

int
set_equals_set(HeapObject *Py_UNUSED(heap), const theus_container *set, PyObject *other)
{
    if ((Py_ssize_t)set->count != PySet_GET_SIZE(other)) {
        return 0;
    }
    theus_cursor cursor;
    theus_value element;
    int equal = 1;
    theus_cursor_init(&cursor, set, false);
    while (equal == 1 && theus_cursor_next(&cursor, NULL, NULL, &element)) {
        equal = PySet_Contains(other, (PyObject *)theus_value_atom(element));
    }
    return equal;
}

/* ---- hashing -------------------------------------------------------------------------- */

/* splitmix64: spreads sums of small hashes over the word. */
static uint64_t
mix(uint64_t x)
{
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

/* Equal to the hash of the frozenset with the same elements, because the two compare equal. */
static Py_hash_t
set_hash(const theus_container *set)
{
    PyObject *elements = PyList_New(0);
    theus_cursor cursor;
    theus_value element;
    theus_cursor_init(&cursor, set, false);
    while (elements != NULL && theus_cursor_next(&cursor, NULL, NULL, &element)) {
        if (PyList_Append(elements, (PyObject *)theus_value_atom(element)) < 0) {
            Py_CLEAR(elements);
        }
    }
    PyObject *same = elements != NULL ? PyFrozenSet_New(elements) : NULL;
    Py_hash_t hash = same != NULL ? PyObject_Hash(same) : -1;
    Py_XDECREF(elements);
    Py_XDECREF(same);
    return hash;
}

static int
value_hash_of(HeapObject *heap, theus_value value, uint64_t *hash)
{
    Py_hash_t found;
    if (theus_value_kind(value) == THEUS_ATOM) {
        found = object_hash((PyObject *)theus_value_atom(value));
    }
    else if (record_is(theus_value_container(value))) { /* as its class says */
        PyObject *view = handle_wrap(heap, value);
        found = view == NULL ? -1 : PyObject_Hash(view);
        Py_XDECREF(view);
    }
    else {
        found = container_hash(heap, theus_value_container(value));
    }
    *hash = (uint64_t)found;
    return found == -1 ? -1 : 0;
}

/* Maps: a sum over the entries, so their order does not count. Lists: a chain, so it does. */
static Py_hash_t
entries_hash(HeapObject *heap, const theus_container *container)
{
    theus_cursor cursor;
    void *key;
    theus_value value;
    uint64_t total = mix(container->kind), of_key, of_value;
    theus_cursor_init(&cursor, container, false);
    while (theus_cursor_next(&cursor, NULL, &key, &value)) {
        if (value_hash_of(heap, value, &of_value) < 0) {
            return -1;
        }
        if (container->kind == THEUS_LIST) {
            total = mix(total ^ of_value);
            continue;
        }
        if (key_hash((PyObject *)key, &of_key) < 0) {
            return -1;
        }
        total += mix(mix(of_key) ^ of_value);
    }
    Py_hash_t hash = (Py_hash_t)mix(total + container->count);
    return hash == -1 ? -2 : hash;
}

Py_hash_t
container_hash(HeapObject *heap, const theus_container *container)
{
    if (container->kind == THEUS_SET) {
        return set_hash(container);
    }
    if (nesting_enter(" while a frozen container was being hashed") < 0) {
        return -1;
    }
    Py_hash_t hash = entries_hash(heap, container);
    nesting_leave();
    return hash;
}

Py_hash_t
handle_hash(PyObject *op)
{
    HandleObject *self = handle_of(op);
    Py_hash_t hash = atomic_load_explicit(&self->hash, memory_order_relaxed);
    if (hash == -1) {
        hash = container_hash(self->heap, self->node);
        atomic_store_explicit(&self->hash, hash, memory_order_relaxed);
    }
    return hash;
}
