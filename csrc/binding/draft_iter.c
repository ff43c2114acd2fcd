/* Walking a draft.
 *
 * Maps and sets: the key set is read once, at the start; after that each step logs the value it gives
 * out. Replacing values on the way is allowed; an entry that came or went shows in the shape and ends the walk
 * with RuntimeError, as dict's does. Lists are walked by index and only the end reads the length, so a loop
 * that breaks off early depends on what it saw and nothing else.
 *
 * The cursor caches a leaf of cell->now. Every change of that, and every exchange of the container itself, moves
 * cell->stamp, and then the cursor starts afresh at the same position. */
#include "draft_parts.h"

typedef struct {
    PyObject_HEAD
    DraftObject *draft; /* owned; NULL when the end was reached */
    theus_cursor cursor; /* maps and sets */
    uint64_t shape;     /* of the container when the walk began */
    uint32_t stamp;     /* of the cell when the cursor was set */
    uint32_t count;     /* entries when the walk began */
    uint32_t done;      /* steps so far */
    uint32_t index;     /* lists: the next one, or one past it when reversed */
    draft_what what;
    bool reversed;
} DraftIterator;

PyObject *
draft_iterate(DraftObject *draft, draft_what what, bool reversed)
{
    DraftIterator *self = PyObject_GC_New(DraftIterator, draft_state(draft)->DraftIterator_type);
    if (self == NULL) {
        return NULL;
    }
    self->draft = NULL;
    self->what = what;
    self->reversed = reversed;
    self->done = 0;
    if (draft_enter(draft) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    theus_cell *cell = draft->cell;
    if (what != DRAFT_ELEMENTS || reversed) {
        theus_cell_read_shape(cell);
    }
    theus_cursor_init(&self->cursor, cell->now, reversed);
    self->shape = cell->now->shape;
    self->stamp = cell->stamp;
    self->count = cell->now->count;
    self->index = reversed ? cell->now->count : 0;
    self->draft = (DraftObject *)Py_NewRef((PyObject *)draft);
    draft_leave(draft);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* ---- steps: the draft is entered; false at the end or with an exception set ------------------ */

static bool
step_list(DraftIterator *self, PyObject **result)
{
    DraftObject *draft = self->draft;
    theus_cell *cell = draft->cell;
    theus_value value;
    uint32_t count = cell->now->count;
    if (self->reversed ? self->index == 0 || self->index > count : self->index >= count) {
        theus_cell_read_shape(cell);
        return false;
    }
    uint32_t pos = self->reversed ? --self->index : self->index++;
    if (draft_checked(draft, theus_cell_read(cell, pos, &value)) < 0) {
        return false;
    }
    *result = draft_at(draft, pos, value);
    return *result != NULL;
}

static bool
refresh_cursor(DraftIterator *self)
{
    const theus_cell *cell = self->draft->cell;
    const theus_container *now = cell->now;
    if (now->shape != self->shape) {
        PyErr_Format(PyExc_RuntimeError, "%s changed %s during iteration",
                     now->kind == THEUS_SET ? "set" : "dictionary",
                     now->count != self->count || now->kind == THEUS_SET ? "size" : "keys");
        return false;
    }
    uint32_t pos = self->cursor.pos;
    theus_cursor_init(&self->cursor, now, self->reversed);
    self->cursor.pos = pos;
    self->stamp = cell->stamp;
    return true;
}

static bool
step_keyed(DraftIterator *self, PyObject **result)
{
    DraftObject *draft = self->draft;
    theus_cell *cell = draft->cell;
    uint32_t pos;
    void *key;
    theus_value value;
    if (self->stamp != cell->stamp && !refresh_cursor(self)) {
        return false;
    }
    if (!(self->reversed ? theus_cursor_prev(&self->cursor, &pos, &key, NULL)
                         : theus_cursor_next(&self->cursor, &pos, &key, NULL))) {
        return false;
    }
    if (self->what == DRAFT_KEYS) {
        *result = Py_NewRef((PyObject *)key);
        return true;
    }
    if (draft_checked(draft, theus_cell_read(cell, pos, &value)) < 0) {
        return false;
    }
    if (self->what == DRAFT_VALUES) {
        *result = draft_at(draft, pos, value);
        return *result != NULL;
    }
    Py_INCREF((PyObject *)key); /* before anything is allocated: a collection may run finalizers */
    PyObject *wrapped = draft_at(draft, pos, value);
    *result = wrapped == NULL ? NULL : PyTuple_Pack(2, (PyObject *)key, wrapped);
    Py_DECREF((PyObject *)key);
    Py_XDECREF(wrapped);
    return *result != NULL;
}

static PyObject *
iterator_next(PyObject *op)
{
    DraftIterator *self = (DraftIterator *)op;
    DraftObject *draft = self->draft;
    PyObject *result = NULL;
    if (draft == NULL || draft_enter(draft) < 0) {
        return NULL;
    }
    bool more = self->what == DRAFT_ELEMENTS ? step_list(self, &result) : step_keyed(self, &result);
    draft_leave(draft);
    if (more) {
        self->done++;
    } else if (!PyErr_Occurred()) {
        self->draft = NULL;
        Py_DECREF((PyObject *)draft);
    }
    return result;
}

static PyObject *
iterator_length_hint(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    const DraftIterator *self = (const DraftIterator *)op;
    if (self->draft == NULL || self->done >= self->count) {
        return PyLong_FromLong(0);
    }
    return PyLong_FromUnsignedLong(self->count - self->done);
}

static int
iterator_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((DraftIterator *)op)->draft);
    return 0;
}

static int
iterator_clear(PyObject *op)
{
    Py_CLEAR(((DraftIterator *)op)->draft);
    return 0;
}

static void
iterator_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)iterator_clear(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyMethodDef iterator_methods[] = {
    {"__length_hint__", iterator_length_hint, METH_NOARGS, PyDoc_STR("How many steps are probably left.")},
    {0},
};

static PyType_Slot iterator_slots[] = {
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, iterator_next},
    {Py_tp_methods, iterator_methods},
    {Py_tp_traverse, iterator_traverse},
    {Py_tp_clear, iterator_clear},
    {Py_tp_dealloc, iterator_dealloc},
    {0, NULL},
};

static PyType_Spec iterator_spec = {
    .name = "theus._theus.DraftIterator",
    .basicsize = sizeof(DraftIterator),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = iterator_slots,
};

int
add_draft_iterator_type(PyObject *module, module_state *st)
{
    return module_add_type(module, &iterator_spec, &st->DraftIterator_type);
}
