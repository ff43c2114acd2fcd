/* Senders, and the way of messages from the core to Python. */
#include "outgoing.h"

#include "draft.h"
#include "errors.h"
#include "freeze.h"
#include "guard.h"

/* ---- attaching ------------------------------------------------------------------------ */

/* May the running body send this? Entered. 0 or -1. */
static int
check_sending(TxnObject *self, PyObject *root, PyObject *name)
{
    bool frozen = self->guard->frozen;
    PyObject *path = frozen ? PyTuple_Pack(1, root) : PyTuple_Pack(2, root, name);
    int result = path == NULL ? -1 : 0;
    if (result == 0 && frozen) {
        result = guard_refuse_path(self, self->guard, path, true);
    }
    else if (result == 0 && root == self->heap->st->signal_name) {
        result = guard_check_path(self, path, 0); /* topics have no zones */
    }
    Py_XDECREF(path);
    return result;
}

/* The pair, with a name that is exactly a str. */
static int
attach_pair(TxnObject *self, theus_attachment kind, PyObject *name, PyObject *value)
{
    module_state *st = self->heap->st;
    PyObject *root = kind == THEUS_SIGNALS ? st->signal_name : st->outbox_name;
    theus_value frozen;
    if (kind != THEUS_NOTES && self->guard != NULL && check_sending(self, root, name) < 0) {
        return -1;
    }
    freeze_path top = freeze_path_top(NULL);
    freeze_path above = freeze_path_key(&top, root);
    freeze_path at = freeze_path_key(&above, name);
    if (draft_freeze_value(st, self, self->txn.root, value, &at, &frozen) < 0) {
        return -1;
    }
    theus_status status = theus_txn_attach(&self->txn, kind, name, frozen);
    freeze_drop(self->heap, frozen);
    return status == THEUS_OK ? 0 : txn_fail(self, status);
}

/* Names are texts, and of no type of the user's own: commits, handlers and receivers compare and hash them, and whoever
 * sends first must not be able to make that fail for everybody else. */
int
outgoing_attach(TxnObject *self, theus_attachment kind, PyObject *name, PyObject *value)
{
    if (!PyUnicode_Check(name)) {
        PyErr_Format(PyExc_TypeError, "a topic is a text, not %R", name);
        return -1;
    }
    PyObject *text = PyUnicode_FromObject(name);
    int result = text == NULL ? -1 : attach_pair(self, kind, text, value);
    Py_XDECREF(text);
    return result;
}

PyObject *
outgoing_pairs(HeapObject *heap, const theus_container *list)
{
    Py_ssize_t count = list == NULL ? 0 : list->count / 2;
    PyObject *pairs = PyTuple_New(count);
    for (Py_ssize_t i = 0; pairs != NULL && i < count; i++) {
        theus_value name = theus_container_value_at(list, (uint32_t)(2 * i));
        PyObject *value = handle_wrap(heap, theus_container_value_at(list, (uint32_t)(2 * i + 1)));
        PyObject *pair = value == NULL ? NULL : PyTuple_Pack(2, (PyObject *)theus_value_atom(name), value);
        Py_XDECREF(value);
        if (pair == NULL) {
            Py_CLEAR(pairs);
        }
        else {
            PyTuple_SET_ITEM(pairs, i, pair);
        }
    }
    return pairs;
}

/* ---- out of the engine --------------------------------------------------------------------- */

/* pending[(version, i)] = (topic, payload): the same again if it is done twice. 0 or -1. */
static int
take_record(HeapObject *heap, const theus_record *record, PyObject *pending)
{
    PyObject *pairs = outgoing_pairs(heap, record->attached[THEUS_MESSAGES]);
    int result = pairs == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; result == 0 && i < PyTuple_GET_SIZE(pairs); i++) {
        PyObject *place = Py_BuildValue("(Kn)", (unsigned long long)record->version, i);
        result = place == NULL ? -1 : PyDict_SetItem(pending, place, PyTuple_GET_ITEM(pairs, i));
        Py_XDECREF(place);
    }
    Py_XDECREF(pairs);
    return result;
}

/* A record leaves the queue only when all of its messages are in `pending`. */
PyObject *
engine_take_outbox(PyObject *op, PyObject *pending)
{
    EngineObject *self = (EngineObject *)op;
    theus_record *record;
    int result = 0;
    if (!PyDict_CheckExact(pending)) {
        return PyErr_Format(PyExc_TypeError, "take_outbox() puts messages into a dict, not %R", pending);
    }
    while (result == 0 && (record = theus_store_queued(self->store)) != NULL) {
        result = take_record(self->heap, record, pending);
        if (result == 0) {
            theus_store_unqueue(self->store, record->version);
        }
        theus_record_release(record);
    }
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- senders ---------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    TxnObject *txn; /* owned; constant */
} SenderObject;

static PyObject *
sender_new(PyTypeObject *type, TxnObject *txn)
{
    SenderObject *self = PyObject_GC_New(SenderObject, type);
    if (self != NULL) {
        self->txn = (TxnObject *)Py_NewRef((PyObject *)txn);
        PyObject_GC_Track(self);
    }
    return (PyObject *)self;
}

PyObject *
outgoing_outbox(TxnObject *txn)
{
    return sender_new(txn->heap->st->Outbox_type, txn);
}

PyObject *
outgoing_signal(TxnObject *txn)
{
    return sender_new(txn->heap->st->Signal_type, txn);
}

static int
sender_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((SenderObject *)op)->txn);
    return 0;
}

static void
sender_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_DECREF((PyObject *)((SenderObject *)op)->txn);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyObject *
sender_attach(PyObject *op, theus_attachment kind, PyObject *name, PyObject *value)
{
    TxnObject *txn = ((SenderObject *)op)->txn;
    if (txn_enter(txn) < 0) {
        return NULL;
    }
    int result = outgoing_attach(txn, kind, name, value);
    txn_leave(txn);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

static Py_ssize_t
sender_count(PyObject *op, theus_attachment kind)
{
    TxnObject *txn = ((SenderObject *)op)->txn;
    if (txn_enter(txn) < 0) {
        return -1;
    }
    Py_ssize_t count = theus_txn_attached(&txn->txn, kind);
    txn_leave(txn);
    return count;
}

/* add(topic, payload), or add(message) for what has both as attributes. */
static PyObject *
outbox_add(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (errors_check_count("add", count, 1, 2) < 0) {
        return NULL;
    }
    if (count == 2) {
        return sender_attach(op, THEUS_MESSAGES, args[0], args[1]);
    }
    PyObject *topic = PyObject_GetAttrString(args[0], "topic");
    PyObject *payload = topic == NULL ? NULL : PyObject_GetAttrString(args[0], "payload");
    PyObject *result = NULL;
    if (payload != NULL) {
        result = sender_attach(op, THEUS_MESSAGES, topic, payload);
    }
    else if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Format(PyExc_TypeError, "outbox.add() takes a topic and a payload, or an OutboxMsg, not %R", args[0]);
    }
    Py_XDECREF(topic);
    Py_XDECREF(payload);
    return result;
}

static Py_ssize_t
outbox_length(PyObject *op)
{
    return sender_count(op, THEUS_MESSAGES);
}

static PyObject *
signal_send(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    return errors_check_count("send", count, 2, 2) < 0 ? NULL : sender_attach(op, THEUS_SIGNALS, args[0], args[1]);
}

static PyMethodDef outbox_methods[] = {
    {"add", THEUS_FASTCALL(outbox_add), METH_FASTCALL,
     PyDoc_STR("add(topic, payload), or add(message)\n\n"
               "Sends a message with the commit of this transaction, and only with it. The payload is kept as it\n"
               "is now: later changes of the object do not reach it.")},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(outbox_doc,
             "The messages that a transaction sends if it commits. len() is their number so far.\n"
             "TheusEngine.process_outbox() hands them over.");

static PyType_Slot outbox_slots[] = {
    {Py_tp_doc, (void *)outbox_doc},   {Py_tp_dealloc, sender_dealloc},  {Py_tp_traverse, sender_traverse},
    {Py_tp_methods, outbox_methods},   {Py_sq_length, outbox_length},    {0, NULL},
};

static PyType_Spec outbox_spec = {
    .name = "theus._theus.Outbox",
    .basicsize = sizeof(SenderObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = outbox_slots,
};

static PyMethodDef signal_methods[] = {
    {"send", THEUS_FASTCALL(signal_send), METH_FASTCALL,
     PyDoc_STR("send(topic, payload)\n\n"
               "Sends a signal with the commit of this transaction, and only with it. The process declares it as an\n"
               "output, signal.topic.")},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(signal_doc, "The signals that a transaction sends if it commits. TheusEngine.signals() receives them.");

static PyType_Slot signal_slots[] = {
    {Py_tp_doc, (void *)signal_doc},   {Py_tp_dealloc, sender_dealloc}, {Py_tp_traverse, sender_traverse},
    {Py_tp_methods, signal_methods},   {0, NULL},
};

static PyType_Spec signal_spec = {
    .name = "theus._theus.SignalSender",
    .basicsize = sizeof(SenderObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = signal_slots,
};

int
add_outgoing_types(PyObject *module, module_state *st)
{
    st->signal_name = PyUnicode_InternFromString("signal");
    st->outbox_name = PyUnicode_InternFromString("outbox");
    if (st->signal_name == NULL || st->outbox_name == NULL
        || module_add_type(module, &outbox_spec, &st->Outbox_type) < 0) {
        return -1;
    }
    return module_add_type(module, &signal_spec, &st->Signal_type);
}
