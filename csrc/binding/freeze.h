/* From Python values to core values and back.
 *
 * freeze: dict -> map, list -> list, set -> set, copied once, at any depth; what cannot change
 * (see atoms.c) is held by reference; a frozen container of the same heap is shared, one of
 * another heap is copied; anything else is refused with its path and a way out. thaw: the
 * builtin again, independent of the heap. */
#ifndef THEUS_FREEZE_H
#define THEUS_FREEZE_H

#include "handle.h"

/* Where a value being frozen stands: a chain on the C stack from the part up to the whole. It costs
 * nothing until an error asks for the path. All references are borrowed. */
typedef struct freeze_path {
    const struct freeze_path *up;
    PyObject *prefix; /* tuple: path of the whole, where it is known; else NULL */
    PyObject *key;    /* the step down from there: a key, */
    Py_ssize_t index; /* or an index if key is NULL; -1 = no step */
    PyObject *source; /* the Python container that is being copied here, or NULL */
} freeze_path;

/* The whole stands at `prefix` (a tuple, or NULL). */
static inline freeze_path
freeze_path_top(PyObject *prefix)
{
    return (freeze_path){.prefix = prefix, .index = -1};
}

/* One step below `up`, for values that the caller takes apart itself. */
static inline freeze_path
freeze_path_key(const freeze_path *up, PyObject *key)
{
    return (freeze_path){.up = up, .key = key, .index = -1};
}

static inline freeze_path
freeze_path_index(const freeze_path *up, Py_ssize_t index)
{
    return (freeze_path){.up = up, .index = index};
}

/* The chain as a tuple. New reference. `at` may be NULL. */
PyObject *freeze_path_tuple(const freeze_path *at);

/* Atoms that are met most: decided without a lookup. */
static inline bool
freeze_is_plain(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    return type == &PyUnicode_Type || type == &PyLong_Type || type == &PyFloat_Type
           || type == &PyBool_Type || object == Py_None || type == &PyBytes_Type;
}

int freeze_any(HeapObject *heap, PyObject *object, const freeze_path *at, theus_value *out);

/* The value of `object` in this heap. *out is owned by the caller: one reference of an atom or
 * one count of a sealed container (drop it with freeze_drop). Runs Python code if there are
 * keys to hash. -1 with an exception set. `at` may be NULL. */
static inline int
freeze_value(HeapObject *heap, PyObject *object, const freeze_path *at, theus_value *out)
{
    if (freeze_is_plain(object)) {
        *out = theus_value_of_atom(Py_NewRef(object));
        return 0;
    }
    return freeze_any(heap, object, at, out);
}

/* Gives back what freeze_value gave. May run Python code. */
static inline void
freeze_drop(HeapObject *heap, theus_value value)
{
    if (theus_value_kind(value) == THEUS_ATOM) {
        Py_XDECREF((PyObject *)theus_value_atom(value));
    }
    else {
        theus_value_release(heap->core, value);
    }
}

/* A deep copy of a container of any heap into this one, sealed. */
int freeze_copy(HeapObject *heap, const theus_container *source, theus_container **out);

/* The independent builtin for a value of a heap: dict, list, set, or the atom (tuples that
 * hold frozen containers are rebuilt). New reference. */
PyObject *thaw_value(HeapObject *heap, theus_value value);

/* The same for any object: frozen handles are thawed, others come back as they are. */
PyObject *thaw_object(module_state *st, PyObject *object);

/* The frozen form of any object, in a heap of its own if it needs one. New reference. */
PyObject *freeze_object(module_state *st, PyObject *object);

/* _theus.freeze and _theus.thaw */
PyObject *module_freeze(PyObject *module, PyObject *value);
PyObject *module_thaw(PyObject *module, PyObject *value);

#endif
