/* Walking a draft.
 *
 * Maps and sets: the key set is read once, at the start; after that each step logs the value it
 * gives out. Replacing values on the way is allowed; an entry that came or went shows in the shape
 * and ends the walk with RuntimeError, as dict's does. Lists are walked by index and only the end
 * reads the length, so a loop that breaks off early depends on what it saw and nothing else.
 *
 * The cursor caches a leaf of cell->now. Every change of that, and every exchange of the container
 * itself, moves cell->stamp, and then the cursor starts afresh at the same position. */
#include "draft_parts.h"

typedef struct {
    PyObject_HEAD DraftObject *draft; /* owned; NULL when the end was reached */
    theus_cursor cursor;              /* maps and sets */
    uint64_t shape;                   /* of the container when the walk began */
    uint32_t stamp;                   /* of the cell when the cursor was set */
    uint32_t count;                   /* entries when the walk began */
    uint32_t done;                    /* steps so far */
    uint32_t index;                   /* lists: the next one, or one past it when reversed */
    PyObject *pair; /* owned: the last tuple given out, reused if nobody kept it */
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
    self->pair = NULL;
    self->what = what;
    self->reversed = reversed;
    self->done = 0;
    if (draft_enter_open(draft) < 0) {
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

/* ---- steps: the draft is entered; false at the end or with an exception set --------- */

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
        PyErr_SetString(PyExc_RuntimeError,
                        now->kind == THEUS_SET      ? "set changed size during iteration"
                        : now->count != self->count ? "dictionary changed size during iteration"
                                                    : "dictionary keys changed during iteration");
        return false;
    }
    uint32_t pos = self->cursor.pos;
    theus_cursor_init(&self->cursor, now, self->reversed);
    self->cursor.pos = pos;
    self->stamp = cell->stamp;
    return true;
}

/* (key, value) in the tuple of the last step if only we hold it. Steals both. */
static PyObject *
iterator_pair(DraftIterator *self, PyObject *key, PyObject *value)
{
    PyObject *pair = self->pair;
    if (THEUS_HAVE_GIL && pair != NULL && Py_REFCNT(pair) == 1) {
        PyObject *old_key = PyTuple_GET_ITEM(pair, 0), *old_value = PyTuple_GET_ITEM(pair, 1);
        Py_INCREF(pair);
        PyTuple_SET_ITEM(pair, 0, key);
        PyTuple_SET_ITEM(pair, 1, value);
        if (!PyObject_GC_IsTracked(pair)) {
            PyObject_GC_Track(pair); /* a collection lets go of tuples that hold only plain parts */
        }
        Py_DECREF(old_key);
        Py_DECREF(old_value);
        return pair;
    }
    pair = PyTuple_Pack(2, key, value);
    Py_DECREF(key);
    Py_DECREF(value);
    if (THEUS_HAVE_GIL) {
        Py_XSETREF(self->pair, Py_XNewRef(pair));
    }
    return pair;
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
    bool hides = draft_hides(draft);
    do {
        if (!(self->reversed ? theus_cursor_prev(&self->cursor, &pos, &key, NULL)
                             : theus_cursor_next(&self->cursor, &pos, &key, NULL))) {
            return false;
        }
    } while (hides && draft_hides_key(draft, (PyObject *)key));
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
    if (wrapped == NULL) {
        Py_DECREF((PyObject *)key);
        return false;
    }
    *result = iterator_pair(self, (PyObject *)key, wrapped);
    return *result != NULL;
}

static PyObject *
iterator_step(DraftIterator *self)
{
    DraftObject *draft = self->draft;
    PyObject *result = NULL;
    if (draft == NULL || draft_enter(draft) < 0) {
        return NULL;
    }
    bool more = self->what == DRAFT_ELEMENTS ? step_list(self, &result) : step_keyed(self, &result);
    draft_leave(draft);
    if (more) {
        self->done++;
    }
    else if (!PyErr_Occurred()) {
        self->draft = NULL;
        Py_DECREF((PyObject *)draft);
    }
    return result;
}

static PyObject *
iterator_next(PyObject *op)
{
    PyObject *next;
    Py_BEGIN_CRITICAL_SECTION(op); /* two threads may share it; the transaction refuses one of them */
    next = iterator_step((DraftIterator *)op);
    Py_END_CRITICAL_SECTION();
    return next;
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
    Py_VISIT(((DraftIterator *)op)->pair);
    return 0;
}

static int
iterator_clear(PyObject *op)
{
    Py_CLEAR(((DraftIterator *)op)->draft);
    Py_CLEAR(((DraftIterator *)op)->pair);
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
    {"__length_hint__", iterator_length_hint, METH_NOARGS,
     PyDoc_STR("How many steps are probably left.")},
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
