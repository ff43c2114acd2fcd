/* Core containers with Python keys: the steps that every container type is made of.
 *
 * All functions report failure as -1 with an exception set. Hashing and comparing keys runs
 * Python code, which may reach the very edit that is being written; therefore each step looks
 * up and writes with no Python code between the two, and fails if the edit was sealed
 * meanwhile. */
#ifndef THEUS_CONTAINER_PY_H
#define THEUS_CONTAINER_PY_H

#include "errors.h"
#include "freeze.h"
#include "value_py.h"

/* 1 and *pos, *value; or 0; or -1. */
static inline int
container_find_hashed(HeapObject *heap, const theus_container *container, PyObject *key,
                      uint64_t hash, uint32_t *pos, theus_value *value)
{
    theus_find found = theus_container_find(container, NULL, hash, key, pos, value);
    return found >= 0 ? (int)found : errors_find_failed(heap->st);
}

static inline int
container_find(HeapObject *heap, const theus_container *container, PyObject *key, uint32_t *pos,
               theus_value *value)
{
    uint64_t hash;
    if (key_hash(key, &hash) < 0) {
        return -1;
    }
    return container_find_hashed(heap, container, key, hash, pos, value);
}

/* A new edit: empty, or of a sealed base. NULL with an exception set. */
theus_container *container_new(HeapObject *heap, theus_kind kind);
theus_container *container_edit(HeapObject *heap, theus_container *base);

/* map[key] = value, for a value that is in this heap already (borrowed). */
int map_store(HeapObject *heap, theus_container *edit, PyObject *key, theus_value value);
/* The same; freezes `value` first. `at` is the path of the map. */
int map_store_object(HeapObject *heap, theus_container *edit, PyObject *key, PyObject *value,
                     const freeze_path *at);
/* Adds an element to a set if it is not there. */
int set_add(HeapObject *heap, theus_container *edit, PyObject *element);
/* Removes a key of a map or an element of a set: 1, or 0 if it was not there. */
int container_discard(HeapObject *heap, theus_container *edit, PyObject *key);

/* dict.update: `source` is a frozen or builtin dict, anything with keys(), or an iterable of
 * pairs. */
int map_update(HeapObject *heap, theus_container *edit, PyObject *source, const freeze_path *at);
/* set.update with any iterable. */
int set_update(HeapObject *heap, theus_container *edit, PyObject *source);
/* list.extend with any iterable. `at` is the path of the list. */
int list_extend(HeapObject *heap, theus_container *edit, PyObject *source, const freeze_path *at);

/* Appends values that are in this heap already (borrowed). */
int list_append_values(HeapObject *heap, theus_container *edit, const theus_value *values,
                       uint32_t count);

#endif
