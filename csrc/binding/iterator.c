/* Walking a container from Python.
 *
 * A sealed container is walked with a core cursor, which remembers its leaf. In an edit a leaf
 * may be replaced between two steps, so there each step looks its position up afresh and
 * compares the shape. */
#include "iterator.h"

typedef struct {
    PyObject_HEAD
    PyObject *owner;  /* owned; NULL when the end was reached, unless live: then constant */
    HeapObject *heap; /* borrowed through owner, as is cursor.container */
    theus_cursor cursor;
    PyObject *pair; /* owned: the last tuple given out, reused if nobody kept it */
    uint64_t shape; /* of the edit when iteration began */
    uint32_t left;
    iterate_what what;
    bool reversed;
    bool live; /* the container was an edit when iteration began */
    bool ended;
} IteratorObject;

PyObject *
iterator_new(HeapObject *heap, PyObject *owner, const theus_container *container, iterate_what what,
             bool reversed)
{
    IteratorObject *self = PyObject_GC_New(IteratorObject, heap->st->Iterator_type);
    if (self == NULL) {
        return NULL;
    }
    self->owner = Py_NewRef(owner);
    self->heap = heap;
    theus_cursor_init(&self->cursor, container, reversed);
    self->pair = NULL;
    self->shape = container->shape;
    self->left = container->count;
    self->what = what;
    self->reversed = reversed;
    self->live = container->edit != 0;
    self->ended = false;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* Stores a pair in the tuple of the last step if only we hold it; steals both parts. */
static PyObject *
iterator_pair(IteratorObject *self, PyObject *key, PyObject *value)
{
    PyObject *pair = self->pair;
    if (THEUS_HAVE_GIL && pair != NULL && Py_REFCNT(pair) == 1) {
        PyObject *old_key = PyTuple_GET_ITEM(pair, 0);
        PyObject *old_value = PyTuple_GET_ITEM(pair, 1);
        Py_INCREF(pair);
        PyTuple_SET_ITEM(pair, 0, key);
        PyTuple_SET_ITEM(pair, 1, value);
        if (!PyObject_GC_IsTracked(pair)) {
            PyObject_GC_Track(
                pair); /* the collector lets go of tuples that hold only plain parts */
        }
        Py_DECREF(old_key);
        Py_DECREF(old_value);
        return pair;
    }
    pair = PyTuple_New(2);
    if (pair == NULL) {
        Py_DECREF(key);
        Py_DECREF(value);
        return NULL;
    }
    PyTuple_SET_ITEM(pair, 0, key);
    PyTuple_SET_ITEM(pair, 1, value);
    if (THEUS_HAVE_GIL) {
        Py_XSETREF(self->pair, Py_NewRef(pair));
    }
    return pair;
}

static PyObject *
iterator_emit(IteratorObject *self, PyObject *key, theus_value value)
{
    if (self->what == ITERATE_KEYS) {
        return Py_NewRef(key);
    }
    if (self->what == ITERATE_VALUES) {
        return handle_wrap(self->heap, value);
    }
    Py_INCREF(
        key); /* before anything is allocated: that may run the collector, and so foreign code */
    PyObject *wrapped = handle_wrap(self->heap, value);
    if (wrapped == NULL) {
        Py_DECREF(key);
        return NULL;
    }
    return iterator_pair(self, key, wrapped);
}

/* One step through an edit: like theus_cursor_next and _prev, without their cache. */
static bool
iterator_step_live(IteratorObject *self, void **key, theus_value *value)
{
    const theus_container *container = self->cursor.container;
    if (container->shape != self->shape) {
        self->left = 0;
        PyErr_SetString(PyExc_RuntimeError, "the container got or lost entries during iteration");
        return false;
    }
    uint32_t *pos = &self->cursor.pos;
    while (self->reversed ? *pos > 0 : *pos < container->span) {
        uint32_t here = self->reversed ? --*pos : (*pos)++;
        *value = theus_container_value_at(container, here);
        if (*value != THEUS_NONE) {
            *key = container->kind == THEUS_LIST ? NULL : theus_container_key_at(container, here);
            return true;
        }
    }
    return false;
}

static PyObject *
iterator_step(IteratorObject *self)
{
    void *key;
    theus_value value;
    if (self->ended) {
        return NULL;
    }
    bool more = self->live       ? iterator_step_live(self, &key, &value)
                : self->reversed ? theus_cursor_prev(&self->cursor, NULL, &key, &value)
                                 : theus_cursor_next(&self->cursor, NULL, &key, &value);
    if (more) {
        self->left--;
        return iterator_emit(self, (PyObject *)key, value);
    }
    self->ended = true;
    if (!self->live) {
        Py_CLEAR(self->owner);
    }
    return NULL;
}

/* Two threads may share an iterator, and one may write to the edit meanwhile. */
static PyObject *
iterator_next(PyObject *op)
{
    IteratorObject *self = (IteratorObject *)op;
    PyObject *next;
    if (self->live) {
        Py_BEGIN_CRITICAL_SECTION2(op, self->owner);
        next = iterator_step(self);
        Py_END_CRITICAL_SECTION2();
    }
    else {
        Py_BEGIN_CRITICAL_SECTION(op);
        next = iterator_step(self);
        Py_END_CRITICAL_SECTION();
    }
    return next;
}

static PyObject *
iterator_length_hint(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    const IteratorObject *self = (const IteratorObject *)op;
    return PyLong_FromLong(self->ended ? 0 : (long)self->left);
}

static int
iterator_traverse(PyObject *op, visitproc visit, void *arg)
{
    IteratorObject *self = (IteratorObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->owner);
    Py_VISIT(self->pair);
    return 0;
}

static int
iterator_clear(PyObject *op)
{
    IteratorObject *self = (IteratorObject *)op;
    Py_CLEAR(self->owner);
    Py_CLEAR(self->pair);
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
    {"__length_hint__", iterator_length_hint, METH_NOARGS, PyDoc_STR("How many steps are left.")},
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
    .name = "theus._theus.Iterator",
    .basicsize = sizeof(IteratorObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = iterator_slots,
};

int
add_iterator_type(PyObject *module, module_state *st)
{
    return module_add_type(module, &iterator_spec, &st->Iterator_type);
}
