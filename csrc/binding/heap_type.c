/* _theus.Heap: the one object that shows a family of containers to the collector. */
#include "heap_type.h"

#include "errors.h"
#include "value_py.h"

HeapObject *
heap_new(module_state *st)
{
    theus_heap *core;
    theus_status status = theus_heap_new(&theus_py_value_ops, &core);
    if (status != THEUS_OK) {
        errors_raise(st, status);
        return NULL;
    }
    HeapObject *self = PyObject_GC_New(HeapObject, st->Heap_type);
    if (self == NULL) {
        theus_heap_free(core);
        return NULL;
    }
    self->core = core;
    self->module = Py_NewRef(st->module);
    self->st = st;
    self->engine = NULL;
    PyObject_GC_Track(self);
    return self;
}

typedef struct {
    visitproc visit;
    void *arg;
} visitor;

static int
visit_atom(void *atom, void *arg)
{
    const visitor *to = (const visitor *)arg;
    return to->visit((PyObject *)atom, to->arg);
}

static int
heap_traverse(PyObject *op, visitproc visit, void *arg)
{
    HeapObject *self = (HeapObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->module);
    visitor to = {visit, arg};
    return theus_heap_visit(self->core, visit_atom, &to);
}

/* Breaks every cycle that runs through this heap: handles need no tp_clear of their own. The
 * module stays until dealloc, because handles that die later still read `st`. */
static int
heap_clear(PyObject *op)
{
    theus_heap_clear(((HeapObject *)op)->core, Py_None);
    return 0;
}

static void
heap_dealloc(PyObject *op)
{
    HeapObject *self = (HeapObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    theus_heap_free(self->core);
    Py_XDECREF(self->engine);
    PyObject *module = self->module;
    PyObject_GC_Del(op);
    Py_DECREF(module);
    Py_DECREF(type);
}

static PyObject *
heap_get_bytes(PyObject *op, void *Py_UNUSED(closure))
{
    theus_heap_stats stats;
    theus_heap_read_stats(((HeapObject *)op)->core, &stats);
    return PyLong_FromUnsignedLongLong(stats.bytes);
}

static PyObject *
heap_get_nodes(PyObject *op, void *Py_UNUSED(closure))
{
    theus_heap_stats stats;
    theus_heap_read_stats(((HeapObject *)op)->core, &stats);
    return PyLong_FromUnsignedLongLong(stats.nodes);
}

static PyObject *
heap_get_containers(PyObject *op, void *Py_UNUSED(closure))
{
    theus_heap_stats stats;
    theus_heap_read_stats(((HeapObject *)op)->core, &stats);
    return PyLong_FromUnsignedLongLong(stats.containers);
}

static PyGetSetDef heap_getset[] = {
    {"bytes", heap_get_bytes, NULL, PyDoc_STR("Bytes in live nodes, indexes and containers."),
     NULL},
    {"nodes", heap_get_nodes, NULL, PyDoc_STR("Live nodes and index segments."), NULL},
    {"containers", heap_get_containers, NULL, PyDoc_STR("Live containers, all versions together."),
     NULL},
    {0},
};

static PyType_Slot heap_slots[] = {
    {Py_tp_doc, "The memory of one engine, or of one family of free-standing frozen containers."},
    {Py_tp_traverse, heap_traverse},
    {Py_tp_clear, heap_clear},
    {Py_tp_dealloc, heap_dealloc},
    {Py_tp_getset, heap_getset},
    {0, NULL},
};

static PyType_Spec heap_spec = {
    .name = "theus._theus.Heap",
    .basicsize = sizeof(HeapObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = heap_slots,
};

int
add_heap_type(PyObject *module, module_state *st)
{
    return module_add_type(module, &heap_spec, &st->Heap_type);
}
