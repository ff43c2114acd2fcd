/* The Python side of one container: heap + node. All container types start with this struct.
 *
 * A handle is made whenever a container is read, so making one must be cheap: dead
 * handles are kept on a small free list of the module. A handle owns one count of
 * its node and one reference to the heap, and reports only the heap to the collector. */
#ifndef THEUS_HANDLE_H
#define THEUS_HANDLE_H

#include "heap_type.h"

struct HandleObject {
    PyObject_HEAD
    HeapObject *heap;      /* owned; constant */
    theus_container *node; /* one count; constant and sealed in frozen handles */
    PyObject *weakrefs;
    union {
        _Atomic(Py_hash_t) hash; /* -1 until it was asked for; the same whoever finds it out */
        RecordClass *record;     /* of views of records, see records.h: owned; constant */
    };
};

/* A frozen handle over `node`, which must be sealed. Steals one count of node, also
 * on failure. New reference. */
PyObject *handle_new(HeapObject *heap, theus_container *node);

/* What Python sees of a value of this heap (the value is borrowed): the atom itself, or a new
 * handle. New reference. */
PyObject *handle_wrap_container(HeapObject *heap, theus_container *node);

static inline PyObject *
handle_wrap(HeapObject *heap, theus_value value)
{
    if (theus_value_kind(value) == THEUS_ATOM) {
        return Py_NewRef((PyObject *)theus_value_atom(value));
    }
    return handle_wrap_container(heap, theus_value_container(value));
}

/* FrozenError for a write to a frozen handle; `instead` says what to do. Returns -1. */
int handle_refuse_write(PyObject *handle, const char *instead);

/* Seals an edit and gives it a handle. Steals the count of `edit`, also on failure. */
PyObject *handle_seal(HeapObject *heap, theus_container *edit);

/* tp_getattro of views of records; tells their types, of which each class has its own. */
PyObject *record_view_getattro(PyObject *self, PyObject *name);

static inline bool
record_view_check(PyObject *object)
{
    return Py_TYPE(object)->tp_getattro == record_view_getattro;
}

/* The kind of a frozen handle, or THEUS_ATOM for any other object. */
static inline theus_kind
handle_kind(const module_state *st, PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if (type == st->FrozenDict_type) {
        return THEUS_MAP;
    }
    if (type == st->FrozenList_type) {
        return THEUS_LIST;
    }
    if (type == st->FrozenSet_type) {
        return THEUS_SET;
    }
    return record_view_check(object) ? THEUS_MAP : THEUS_ATOM;
}

static inline HandleObject *
handle_of(PyObject *object)
{
    return (HandleObject *)object;
}

/* tp_dealloc and tp_traverse of the three frozen types, and the members that let them be weakly
 * referenced. */
void handle_dealloc(PyObject *self);
int handle_traverse(PyObject *self, visitproc visit, void *arg);
extern PyMemberDef handle_members[];

/* copy(), __copy__, __deepcopy__: the handle itself. __reduce__: the type and its builtin form,
 * so that a pickle opens anywhere theus is installed. */
PyObject *handle_copy(PyObject *self, PyObject *ignored);
PyObject *handle_reduce(PyObject *self, PyObject *ignored);

/* For binary operators, where either operand may be ours: the state behind the one that is a
 * frozen container. */
module_state *binary_state(PyObject *a, PyObject *b);

/* _theus.is_same(a, b): one object, or handles of one container. While one of them is held, no other container can be taken
 * for it. */
PyObject *module_is_same(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* Frees what the free list keeps. Called by m_free. */
void handle_drop_free_list(module_state *st);

#endif
