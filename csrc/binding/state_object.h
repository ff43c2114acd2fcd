/* What state_type.c, state_history.c and state_make.c share. */
#ifndef THEUS_STATE_OBJECT_H
#define THEUS_STATE_OBJECT_H

#include "state_type.h"

typedef struct {
    PyObject_HEAD
    HeapObject *heap;       /* owned */
    EngineObject *engine;   /* owned, or NULL: a state made by hand */
    theus_version *version; /* one count */
    PyObject *meta;         /* list shared by states made from one another, or NULL until it is used */
    Py_ssize_t meta_capacity;
    PyObject *weakrefs;
} StateObject;

static inline StateObject *
state_of(PyObject *op)
{
    return (StateObject *)op;
}

/* state_type.c */

/* The value at `path`, a tuple: 1; 0 where nothing is; -1 with an exception. *out is for PyMem_Free(). */
int state_find_path(StateObject *self, PyObject *path, theus_segment **out, theus_value *value);

/* The name of the root for arrays. New reference. */
PyObject *state_heavy_name(void);

/* The list of the meta log, made on demand if `make`. New reference, or NULL. */
PyObject *state_meta(StateObject *self, bool make);

/* state_history.c: methods */
PyObject *state_at(PyObject *self, PyObject *version);
PyObject *state_diff(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *state_shares(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *state_provenance(PyObject *self, PyObject *path);

/* state_make.c: the constructor and methods */
PyObject *state_type_new(PyTypeObject *type, PyObject *args, PyObject *kwargs);
PyObject *state_update(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *state_restrict_view(PyObject *self, PyObject *ignored);

#endif
