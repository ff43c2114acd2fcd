/* Drafts of records: an attribute that is written goes to its entry of the map cell, so two transactions that write
 * different fields of a record do not meet. What the class says about assignment (frozen, properties, a __setattr__
 * of its own) is asked through its plan. */
#include "records.h"

#include "attributes.h"
#include "draft_parts.h"
#include "guard.h"

/* ---- reading ------------------------------------------------------------------------------ */

/* Does the record hold this name? 1, 0, -1. Not logged. */
static int
holds(DraftObject *self, PyObject *name)
{
    uint64_t hash;
    uint32_t pos;
    if (key_hash(name, &hash) < 0 || draft_enter_key(self->txn, self->cell, hash) < 0) {
        return -1;
    }
    theus_find found = theus_cell_probe(self->cell, NULL, hash, name, &pos, NULL);
    int result = found == THEUS_FIND_FAILED ? draft_fail(self->txn, self->cell, self->txn->txn.find_status)
                                            : found == THEUS_FOUND;
    draft_leave(self);
    return result;
}

/* May the name be an entry? A method or property that no entry hides, of the class or of drafts, is no read of an absent
 * key: calling it twice would make a transaction depend on nobody storing an attribute of that name. */
static int
may_be_entry(DraftObject *self, PyObject *name)
{
    int declared = PySet_Contains(self->record->fields, name);
    if (declared != 0) {
        return declared;
    }
    PyObject *attribute = type_lookup_ref(self->record->cls, name);
    int known = attribute != NULL ? 1 : record_type_answers((PyObject *)self, name);
    Py_XDECREF(attribute);
    return known == 0 ? 1 : known < 0 ? -1 : holds(self, name);
}

PyObject *
record_draft_getattro(PyObject *op, PyObject *name)
{
    DraftObject *self = draft_of(op);
    PyObject *value;
    if (attribute_check_name(name) < 0) {
        return NULL;
    }
    if (record_name_is_special(name)) {
        int own = record_type_answers(op, name);
        if (own != 0) {
            return own < 0 ? NULL : PyObject_GenericGetAttr(op, name);
        }
    }
    int found = may_be_entry(self, name);
    if (found == 1) {
        found = draft_map_get(self, name, &value);
    }
    return found < 0 ? NULL : found == 1 ? value : record_class_getattr(self->record, op, name);
}

/* ---- writing ------------------------------------------------------------------------------ */

static int
draft_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    DraftObject *self = draft_of(op);
    const RecordClass *record = self->record;
    PyObject *done;
    if (attribute_check_name(name) < 0) {
        return -1;
    }
    if (value == NULL) {
        done = PyObject_CallMethod(record->plan, "remove", "OO", op, name);
    }
    else {
        int direct = PySet_Contains(record->fields, name);
        if (direct != 0) {
            return direct < 0 ? -1 : draft_map_store(draft_state(self), self->txn, self->cell,
                                                    self->scope, name, value);
        }
        done = PyObject_CallMethod(record->plan, "assign", "OOO", op, name, value);
    }
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* ---- by path ------------------------------------------------------------------------------ */

/* The class gets to see the draft, and whoever catches what it raises: so the draft is guarded even where the caller
 * holds the write against the guard by himself. 0 and *scope, or -1. */
static int
guard_for(TxnObject *txn, theus_cell *cell, ScopeObject **scope)
{
    if (*scope != NULL || txn->guard == NULL) {
        return 0;
    }
    PyObject *path = draft_path_tuple(txn, cell);
    int known = path == NULL ? -1 : scope_walk(txn->guard, path, 0, scope);
    if (known == 0) {
        guard_refuse_path(txn, txn->guard, path, true);
    }
    Py_XDECREF(path);
    return known == 1 ? 0 : -1;
}

/* A draft of the record, for one step by path. New reference. */
static PyObject *
draft_for(TxnObject *txn, theus_cell *cell, ScopeObject *scope, PyObject *key)
{
    if (!PyUnicode_Check(key)) {
        PyErr_Format(PyExc_TypeError, "a field of a record is named by a str, not by %R", key);
        return NULL;
    }
    return guard_for(txn, cell, &scope) < 0 ? NULL : draft_wrap(txn->heap->st, txn, cell, scope);
}

int
record_draft_set(TxnObject *txn, theus_cell *cell, ScopeObject *scope, PyObject *key, PyObject *value)
{
    PyObject *draft = draft_for(txn, cell, scope, key);
    int result = draft == NULL ? -1 : PyObject_SetAttr(draft, key, value);
    Py_XDECREF(draft);
    return result;
}

int
record_draft_delete(TxnObject *txn, theus_cell *cell, PyObject *key)
{
    PyObject *draft = draft_for(txn, cell, NULL, key);
    int result = draft == NULL ? -1 : PyObject_SetAttr(draft, key, NULL);
    Py_XDECREF(draft);
    return result;
}

int
record_draft_may_defer(TxnObject *txn, theus_cell *cell, PyObject *key)
{
    const module_state *st = txn->heap->st;
    const RecordClass *record = record_class_of(st, cell->now);
    int direct = record == NULL || !PyUnicode_Check(key) ? 0 : PySet_Contains(record->fields, key);
    if (direct == 0) {
        PyErr_Format(st->TransactionError,
                     "%R is no field that %R lets anyone assign, so no operation on it can be deferred: write it "
                     "through the draft",
                     key, record == NULL ? Py_None : (PyObject *)record->cls);
    }
    return direct == 1 ? 0 : -1;
}

/* ---- for theus.records ----------------------------------------------------------------------- */

static DraftObject *
draft_argument(const module_state *st, PyObject *object, PyObject *name)
{
    if (!PyUnicode_Check(name)) { /* else the hidden entries could be named */
        PyErr_Format(PyExc_TypeError, "a field of a record is named by a str, not by %R", name);
        return NULL;
    }
    if (!draft_check(st, object) || draft_of(object)->record == NULL) {
        PyErr_Format(PyExc_TypeError, "%R is no draft of a record", object);
        return NULL;
    }
    return draft_of(object);
}

PyObject *
module_record_store(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *st = module_state_of(module);
    DraftObject *self = errors_check_count("record_store", count, 4, 4) < 0 ? NULL : draft_argument(st, args[0], args[1]);
    if (self == NULL) {
        return NULL;
    }
    int stored = PyObject_IsTrue(args[3]); /* a new one, if need be? */
    if (stored == 0) {
        stored = holds(self, args[1]);
    }
    if (stored == 1 && draft_map_store(st, self->txn, self->cell, self->scope, args[1], args[2]) < 0) {
        stored = -1;
    }
    return stored < 0 ? NULL : PyBool_FromLong(stored);
}

PyObject *
module_record_discard(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const module_state *st = module_state_of(module);
    DraftObject *self = errors_check_count("record_discard", count, 2, 2) < 0 ? NULL : draft_argument(st, args[0], args[1]);
    int removed = self == NULL ? -1 : draft_map_discard(self, args[1]);
    return removed < 0 ? NULL : PyBool_FromLong(removed);
}

PyObject *
module_is_record(PyObject *module, PyObject *object)
{
    const module_state *st = module_state_of(module);
    return PyBool_FromLong(record_view_check(object)
                           || (draft_check(st, object) && draft_of(object)->record != NULL));
}

/* ---- the content as a whole: through a view of it --------------------------------------------- */

static PyObject *
draft_get_part(PyObject *op, void *name)
{
    PyObject *view = draft_peek(op);
    PyObject *part = view == NULL ? NULL : PyObject_GetAttrString(view, (const char *)name);
    Py_XDECREF(view);
    return part;
}

static PyObject *
draft_get_class(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef((PyObject *)draft_of(op)->record->cls);
}

static PyObject *
draft_dir(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *view = draft_peek(op);
    PyObject *names = view == NULL ? NULL : PyObject_Dir(view);
    Py_XDECREF(view);
    return names;
}

/* Where the class says nothing. */
static PyObject *
record_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<draft of a record of %R>", draft_of(op)->record->cls);
}

static PyObject *
record_compare(PyObject *op, PyObject *other, int how)
{
    if (Py_TYPE(other) != Py_TYPE(op) || (how != Py_EQ && how != Py_NE)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    return PyBool_FromLong((draft_of(op)->cell == draft_of(other)->cell) == (how == Py_EQ));
}

static PyMethodDef draft_methods[] = {
    {"to_object", record_method_to_object, METH_NOARGS,
     PyDoc_STR("to_object($self, /)\n--\n\n"
               "An instance of the class with the content of now, independent at any depth.")},
    {"freeze", draft_method_freeze, METH_NOARGS,
     PyDoc_STR("freeze($self, /)\n--\n\n"
               "The content, validated by its class, as a view that outlives the transaction.")},
    {"__copy__", record_method_to_object, METH_NOARGS, PyDoc_STR("As to_object().")},
    {"__deepcopy__", record_method_to_object, METH_O, PyDoc_STR("As to_object().")},
    {"__reduce_ex__", record_method_reduce, METH_O, PyDoc_STR("Pickles as the instance.")},
    {"__dir__", draft_dir, METH_NOARGS, PyDoc_STR("Names of the class, and of what the record holds.")},
    {0},
};

static PyGetSetDef draft_getset[] = {
    {"__class__", draft_get_class, NULL, PyDoc_STR("The class of the instance that was stored."), NULL},
    {"__dict__", draft_get_part, NULL, PyDoc_STR("A new dict of the attributes as they are now."), "__dict__"},
    {"__pydantic_extra__", draft_get_part, NULL, NULL, "__pydantic_extra__"},
    {"__pydantic_private__", draft_get_part, NULL, NULL, "__pydantic_private__"},
    {"__pydantic_fields_set__", draft_get_part, NULL, NULL, "__pydantic_fields_set__"},
    {0},
};

PyDoc_STRVAR(draft_doc,
             "An instance of the state, as its transaction sees and changes it. `__class__` is its class.");

static PyType_Slot draft_slots[] = {
    {Py_tp_doc, (void *)draft_doc},
    {Py_tp_new, record_new},
    {Py_tp_dealloc, draft_dealloc},
    {Py_tp_traverse, draft_traverse},
    {Py_tp_members, draft_members},
    {Py_tp_methods, draft_methods},
    {Py_tp_getset, draft_getset},
    {Py_tp_getattro, record_draft_getattro},
    {Py_tp_setattro, draft_setattro},
    {Py_tp_repr, record_repr},
    {Py_tp_richcompare, record_compare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {0, NULL},
};

static PyType_Spec draft_spec = {
    .name = "theus._theus.DraftRecord",
    .basicsize = sizeof(DraftObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = draft_slots,
};

PyTypeObject *
record_draft_type_new(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &draft_spec, NULL);
}
