/* theus._theus.RecordCursor: a reader that is attached to the ring of an engine, and detaches when it dies.
 *
 * One thread at a time takes from it; theus.records.RecordReader, which people use, sees to that. */
#include "engine_type.h"
#include "errors.h"
#include "state_type.h"

typedef struct {
    PyObject_HEAD
    EngineObject *engine; /* owned */
    theus_ring *ring;     /* of its store */
    _Atomic(bool) attached;
    _Atomic(uint64_t) lost; /* reader.lost after the last take: that one belongs to ring.lock */
    theus_reader reader;
    theus_record *kept; /* counted, or NULL: was read, and an exception came before it could be handed over */
} CursorObject;

static CursorObject *
cursor_of(PyObject *op)
{
    return (CursorObject *)op;
}

PyObject *
engine_attach(PyObject *op, PyObject *argument)
{
    EngineObject *engine = (EngineObject *)op;
    uint64_t since = 0;
    if (engine_check_open(engine) < 0 || (argument != Py_None && engine_parse_version(argument, &since) < 0)) {
        return NULL;
    }
    CursorObject *self = PyObject_GC_New(CursorObject, engine->heap->st->RecordCursor_type);
    if (self == NULL) {
        return NULL;
    }
    self->engine = (EngineObject *)Py_NewRef(op);
    self->ring = theus_store_ring(engine->store);
    atomic_init(&self->attached, true);
    atomic_init(&self->lost, 0);
    self->kept = NULL;
    theus_ring_attach(self->ring, &self->reader,
                      argument == Py_None ? THEUS_RING_UNREAD : since > INT64_MAX ? INT64_MAX : (int64_t)since);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static void
cursor_let_go(CursorObject *self)
{
    if (atomic_exchange(&self->attached, false)) {
        theus_ring_detach(self->ring, &self->reader);
        waiting_ring_quietly(&self->engine->room, (PyObject *)Py_TYPE(self)); /* commits wait for it no longer */
    }
}

static PyObject *
cursor_detach(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    cursor_let_go(cursor_of(op));
    Py_RETURN_NONE;
}

static PyObject *
cursor_take(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    CursorObject *self = cursor_of(op);
    if (!self->attached && self->kept == NULL) {
        Py_RETURN_NONE;
    }
    if (self->reader.epoch != theus_process_epoch()) {
        PyObject *closed = self->engine->heap->st->ClosedError;
        PyObject *error = PyObject_CallFunction(closed, "s", "the record reader of the parent process");
        if (error != NULL) {
            PyErr_SetObject(closed, error);
            Py_DECREF(error);
        }
        return NULL;
    }
    theus_record *record = self->kept;
    self->kept = NULL;
    if (record == NULL) {
        uint64_t lost;
        record = theus_ring_read(self->ring, &self->reader, &lost);
        self->lost = lost;
        if (record != NULL && waiting_ring(&self->engine->room) < 0) {
            self->kept = record;
            return NULL;
        }
    }
    PyObject *shown = record_wrap(self->engine->heap, record);
    if (shown == NULL) {
        self->kept = record;
        return NULL;
    }
    theus_record_release(record);
    return shown;
}

static PyObject *
get_lost(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(cursor_of(op)->lost);
}

static PyObject *
get_attached(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(cursor_of(op)->attached);
}

static int
cursor_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(cursor_of(op)->engine);
    return 0;
}

static void
cursor_dealloc(PyObject *op)
{
    CursorObject *self = cursor_of(op);
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    cursor_let_go(self);
    theus_record_release(self->kept);
    Py_DECREF(self->engine);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyMethodDef cursor_methods[] = {
    {"take", cursor_take, METH_NOARGS,
     PyDoc_STR("take(): the next CommitRecord, or None when all have been read. Its place in the ring is free then.")},
    {"detach", cursor_detach, METH_NOARGS, PyDoc_STR("detach(): reads no more, and holds up nobody.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef cursor_getset[] = {
    {"lost", get_lost, NULL, PyDoc_STR("Records that the ring had not kept when they were due, as of the last take()."),
     NULL},
    {"attached", get_attached, NULL, PyDoc_STR("False after detach()."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(cursor_doc, "A place in the ring of an engine's commit records. Engine.reader() makes the usual reader.");

static PyType_Slot cursor_slots[] = {
    {Py_tp_doc, (void *)cursor_doc},
    {Py_tp_dealloc, cursor_dealloc},
    {Py_tp_traverse, cursor_traverse},
    {Py_tp_methods, cursor_methods},
    {Py_tp_getset, cursor_getset},
    {0, NULL},
};

static PyType_Spec cursor_spec = {
    .name = "theus._theus.RecordCursor",
    .basicsize = sizeof(CursorObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = cursor_slots,
};

int
add_cursor_type(PyObject *module, module_state *st)
{
    return module_add_type(module, &cursor_spec, &st->RecordCursor_type);
}
