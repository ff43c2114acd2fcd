/* An awaitable that has its result: what __aenter__ and __aexit__ of a transaction give, because neither waits. */
#include "txn_paths.h"

typedef struct {
    PyObject_HEAD
    PyObject *value;
} ReadyObject;

PyObject *
ready_new(module_state *st, PyObject *value)
{
    ReadyObject *self = PyObject_GC_New(ReadyObject, st->Ready_type);
    if (self == NULL) {
        Py_DECREF(value);
        return NULL;
    }
    self->value = value;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyObject *
ready_next(PyObject *op)
{
    ReadyObject *self = (ReadyObject *)op;
    PyObject *value;
    Py_BEGIN_CRITICAL_SECTION(op); /* two threads may await it: one gets the value */
    value = self->value;
    self->value = NULL;
    Py_END_CRITICAL_SECTION();
    if (value == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this was awaited before");
        return NULL;
    }
    /* StopIteration by hand: a tuple as value would be taken for its arguments. */
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
    Py_DECREF(value);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
    return NULL;
}

static int
ready_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ReadyObject *)op)->value);
    return 0;
}

static int
ready_clear(PyObject *op)
{
    Py_CLEAR(((ReadyObject *)op)->value);
    return 0;
}

static void
ready_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    ready_clear(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyType_Slot ready_slots[] = {
    {Py_tp_dealloc, ready_dealloc}, {Py_tp_traverse, ready_traverse}, {Py_tp_clear, ready_clear},
    {Py_am_await, PyObject_SelfIter}, {Py_tp_iter, PyObject_SelfIter}, {Py_tp_iternext, ready_next},
    {0, NULL},
};

static PyType_Spec ready_spec = {
    .name = "theus._theus._Ready",
    .basicsize = sizeof(ReadyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = ready_slots,
};

int
add_ready_type(PyObject *module, module_state *st)
{
    st->Ready_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &ready_spec, NULL);
    return st->Ready_type == NULL ? -1 : 0;
}
