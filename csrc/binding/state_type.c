/* State: one version, immutable. How it is made, and what its engine remembers of others: state_make.c,
 * state_history.c. */
#include "state_object.h"

#include "attributes.h"
#include "diff.h"
#include "errors.h"
#include "freeze.h"
#include "txn_paths.h"
#include "value_py.h"

#include <stddef.h>

PyObject *
state_new(HeapObject *heap, EngineObject *engine, theus_version *version)
{
    StateObject *self = PyObject_GC_New(StateObject, heap->st->State_type);
    if (self == NULL) {
        theus_version_release(version);
        return NULL;
    }
    self->heap = (HeapObject *)Py_NewRef((PyObject *)heap);
    self->engine = (EngineObject *)Py_XNewRef((PyObject *)engine);
    self->version = version;
    self->meta = NULL;
    self->meta_capacity = 1000;
    self->weakrefs = NULL;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

theus_version *
state_version(const module_state *st, PyObject *state, HeapObject **heap)
{
    if (Py_TYPE(state) != st->State_type) {
        return NULL;
    }
    *heap = state_of(state)->heap;
    return state_of(state)->version;
}

static int
state_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(state_of(op)->heap);
    Py_VISIT(state_of(op)->engine);
    Py_VISIT(state_of(op)->meta);
    return 0;
}

static int
state_clear(PyObject *op)
{
    Py_CLEAR(state_of(op)->meta);
    return 0;
}

static void
state_dealloc(PyObject *op)
{
    StateObject *self = state_of(op);
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    THEUS_CLEAR_WEAKREFS(op, self->weakrefs);
    Py_CLEAR(self->meta);
    theus_version_release(self->version);
    Py_XDECREF(self->engine);
    Py_DECREF(self->heap);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

/* ---- reading ------------------------------------------------------------------------- */

/* The value of a root, or NULL without an exception. */
static PyObject *
root_value(StateObject *self, PyObject *name)
{
    uint64_t hash;
    uint32_t pos;
    theus_value value;
    if (key_hash(name, &hash) < 0) {
        return NULL;
    }
    theus_find found = theus_container_find(self->version->root, NULL, hash, name, &pos, &value);
    if (found == THEUS_FOUND) {
        return handle_wrap(self->heap, value);
    }
    if (found == THEUS_FIND_FAILED) {
        errors_find_failed(self->heap->st);
    }
    return NULL;
}

static PyObject *
state_getattro(PyObject *op, PyObject *name)
{
    if (attribute_check_name(name) < 0) {
        return NULL;
    }
    if (type_lookup(Py_TYPE(op), name) != NULL) {
        return PyObject_GenericGetAttr(op, name);
    }
    PyObject *value = root_value(state_of(op), name);
    if (value == NULL && !PyErr_Occurred()) {
        /* Old programs ask for these two before they exist. */
        if (PyUnicode_Check(name) && (PyUnicode_CompareWithASCIIString(name, "domain") == 0
                                      || PyUnicode_CompareWithASCIIString(name, "global") == 0)) {
            Py_RETURN_NONE;
        }
        PyErr_Format(PyExc_AttributeError, "the state has no root named %R", name);
    }
    return value;
}

/* For completion, and for Python's "Did you mean". */
static PyObject *
state_dir(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StateObject *self = state_of(op);
    PyObject *list = PyObject_CallMethod((PyObject *)&PyBaseObject_Type, "__dir__", "O", op);
    theus_cursor cursor;
    void *key;
    theus_cursor_init(&cursor, self->version->root, false);
    while (list != NULL && theus_cursor_next(&cursor, NULL, &key, NULL)) {
        PyObject *name = (PyObject *)key; /* borrowed from the container */
        if (PyUnicode_Check(name) && PyUnicode_IsIdentifier(name) == 1 && PyList_Append(list, name) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

static int
state_setattro(PyObject *op, PyObject *Py_UNUSED(name), PyObject *Py_UNUSED(value))
{
    return errors_frozen(state_of(op)->heap->st, op,
                         "update() for a new state, or a transaction of the engine");
}

static PyObject *
state_subscript(PyObject *op, PyObject *name)
{
    PyObject *value = root_value(state_of(op), name);
    if (value == NULL && !PyErr_Occurred()) {
        PyErr_SetObject(PyExc_KeyError, name);
    }
    return value;
}

static int
state_contains(PyObject *op, PyObject *name)
{
    PyObject *value = root_value(state_of(op), name);
    Py_XDECREF(value);
    return value != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
}

/* A path argument as segments of the core: keys borrowed from the tuple, indexes for ints that stand at lists. The
 * segments are the caller's to free with PyMem_Free. 1 with *value set, 0 when nothing is there, or -1. */
int
state_find_path(StateObject *self, PyObject *path, theus_segment **out, theus_value *value)
{
    Py_ssize_t length = PyTuple_GET_SIZE(path);
    theus_segment *segments = PyMem_Malloc((size_t)(length + 1) * sizeof(*segments));
    theus_value here = theus_value_of_container(self->version->root);
    theus_find found = THEUS_FOUND;
    *out = segments;
    if (segments == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < length; i++) {
        PyObject *key = PyTuple_GET_ITEM(path, i);
        theus_container *container
            = found == THEUS_FOUND && theus_value_kind(here) != THEUS_ATOM ? theus_value_container(here) : NULL;
        segments[i] = (theus_segment){key, 0};
        if (container != NULL && container->kind == THEUS_LIST && PyLong_CheckExact(key)) {
            int overflow;
            long long index = PyLong_AsLongLongAndOverflow(key, &overflow);
            index += index < 0 ? (long long)container->count : 0;
            if (!overflow && index >= 0 && index < (long long)container->count) {
                segments[i] = (theus_segment){NULL, (uint32_t)index};
            }
        }
        found = container == NULL ? THEUS_ABSENT : theus_path_find(container, NULL, &segments[i], 1, &here);
        if (found == THEUS_FIND_FAILED) {
            return errors_find_failed(self->heap->st);
        }
    }
    *value = here;
    return found == THEUS_FOUND;
}

static PyObject *
state_get(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    StateObject *self = state_of(op);
    theus_segment *segments;
    theus_value value;
    if (errors_check_count("get", count, 1, 2) < 0) {
        return NULL;
    }
    PyObject *path = txn_path_argument(self->heap->st, args[0]);
    if (path == NULL) {
        return NULL;
    }
    int found = state_find_path(self, path, &segments, &value);
    PyMem_Free(segments);
    Py_DECREF(path);
    if (found < 0) {
        return NULL;
    }
    return found ? handle_wrap(self->heap, value) : Py_NewRef(count == 2 ? args[1] : Py_None);
}

static PyObject *
state_to_dict(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StateObject *self = state_of(op);
    return thaw_value(self->heap, theus_value_of_container(self->version->root));
}

static PyObject *
get_version(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(state_of(op)->version->number);
}

static PyObject *
get_record(PyObject *op, void *Py_UNUSED(closure))
{
    StateObject *self = state_of(op);
    return record_wrap(self->heap, self->version->record);
}

PyObject *
state_heavy_name(void)
{
    return PyUnicode_InternFromString("heavy");
}

/* Every root but "heavy". */
static PyObject *
get_data(PyObject *op, void *Py_UNUSED(closure))
{
    StateObject *self = state_of(op);
    theus_container *root = self->version->root, *edit;
    PyObject *name = state_heavy_name();
    uint64_t hash;
    uint32_t pos;
    if (name == NULL || key_hash(name, &hash) < 0) {
        return NULL;
    }
    theus_find found = theus_container_find(root, NULL, hash, name, &pos, NULL);
    Py_DECREF(name);
    if (found == THEUS_ABSENT) {
        return handle_wrap_container(self->heap, root);
    }
    if (found == THEUS_FIND_FAILED) {
        errors_find_failed(self->heap->st);
        return NULL;
    }
    theus_status status = theus_edit_begin(root, &edit);
    if (status == THEUS_OK) {
        status = theus_container_remove(edit, hash, pos);
        if (status == THEUS_OK) {
            return handle_seal(self->heap, edit);
        }
        theus_container_release(edit);
    }
    return errors_raise(self->heap->st, status);
}

static PyObject *
get_heavy(PyObject *op, void *Py_UNUSED(closure))
{
    StateObject *self = state_of(op);
    PyObject *name = state_heavy_name();
    PyObject *heavy = name == NULL ? NULL : root_value(self, name);
    Py_XDECREF(name);
    if (heavy != NULL || PyErr_Occurred()) {
        return heavy;
    }
    return PyObject_CallNoArgs((PyObject *)self->heap->st->FrozenDict_type);
}

static PyObject *
get_signals(PyObject *op, void *Py_UNUSED(closure))
{
    StateObject *self = state_of(op);
    return handle_wrap_container(self->heap, self->version->signals);
}

/* ---- the meta log ------------------------------------------------------------------------- */

/* The log, a new reference. If there is none yet it is made, or NULL (without an exception) if that is not wanted. */
PyObject *
state_meta(StateObject *self, bool make)
{
    PyObject *meta;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->meta == NULL && make) {
        self->meta = PyList_New(0);
    }
    meta = Py_XNewRef(self->meta);
    Py_END_CRITICAL_SECTION();
    return meta;
}

static PyObject *
state_log_meta(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    StateObject *self = state_of(op);
    if (errors_check_count("log_meta", count, 2, 2) < 0) {
        return NULL;
    }
    if (!PyUnicode_Check(args[0]) || !PyUnicode_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "log_meta(key, message) needs two strings");
        return NULL;
    }
    if (self->meta_capacity == 0) {
        Py_RETURN_NONE;
    }
    PyObject *meta = state_meta(self, true);
    if (meta == NULL) {
        return NULL;
    }
    PyObject *entry = PyStructSequence_New(self->heap->st->MetaLogEntry_type);
    PyObject *now = PyFloat_FromDouble((double)theus_clock_wall_ns() * 1e-9);
    if (entry == NULL || now == NULL) {
        Py_DECREF(meta);
        Py_XDECREF(entry);
        Py_XDECREF(now);
        return NULL;
    }
    PyStructSequence_SetItem(entry, 0, now);
    PyStructSequence_SetItem(entry, 1, Py_NewRef(args[0]));
    PyStructSequence_SetItem(entry, 2, Py_NewRef(args[1]));
    int result;
    Py_BEGIN_CRITICAL_SECTION(meta);
    result = PyList_Append(meta, entry);
    Py_ssize_t over = PyList_GET_SIZE(meta) - self->meta_capacity;
    if (result == 0 && over > 0) {
        result = PyList_SetSlice(meta, 0, over, NULL);
    }
    Py_END_CRITICAL_SECTION();
    Py_DECREF(entry);
    Py_DECREF(meta);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
state_get_meta_logs(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *meta = state_meta(state_of(op), false);
    PyObject *copy = meta == NULL ? PyList_New(0) : PyList_GetSlice(meta, 0, PY_SSIZE_T_MAX);
    Py_XDECREF(meta);
    return copy;
}

static PyObject *
get_meta(PyObject *op, void *Py_UNUSED(closure))
{
    return state_get_meta_logs(op, NULL);
}

/* ---- the type -------------------------------------------------------------------- */

static PyObject *
state_repr(PyObject *op)
{
    StateObject *self = state_of(op);
    PyObject *root = handle_wrap_container(self->heap, self->version->root);
    PyObject *text = root == NULL ? NULL
                                  : PyUnicode_FromFormat("State(version=%llu, data=%R)",
                                                         (unsigned long long)self->version->number, root);
    Py_XDECREF(root);
    return text;
}

/* Two states are equal when their data, heavy roots and signals are; the version does not count. */
static PyObject *
state_richcompare(PyObject *a, PyObject *b, int how)
{
    if ((how != Py_EQ && how != Py_NE) || Py_TYPE(a) != Py_TYPE(b)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *left = handle_wrap_container(state_of(a)->heap, state_of(a)->version->root);
    PyObject *right = handle_wrap_container(state_of(b)->heap, state_of(b)->version->root);
    PyObject *result = left == NULL || right == NULL ? NULL : PyObject_RichCompare(left, right, how);
    Py_XDECREF(left);
    Py_XDECREF(right);
    return result;
}

static PyObject *
state_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StateObject *self = state_of(op);
    PyObject *data = get_data(op, NULL);
    PyObject *heavy = data == NULL ? NULL : get_heavy(op, NULL);
    PyObject *signals = heavy == NULL ? NULL : get_signals(op, NULL);
    PyObject *result = NULL;
    if (signals != NULL) {
        result = Py_BuildValue("O(OOOKn)", Py_TYPE(op), data, PyObject_IsTrue(heavy) ? heavy : Py_None,
                               signals, (unsigned long long)self->version->number, self->meta_capacity);
    }
    Py_XDECREF(data);
    Py_XDECREF(heavy);
    Py_XDECREF(signals);
    return result;
}

static PyMethodDef state_methods[] = {
    {"update", THEUS_FASTCALL(state_update), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("update(data=None, heavy=None, signal=None): a new State, one version on. Dicts merge at\n"
               "any depth, DELETE as a value removes, other values replace.")},
    {"get", THEUS_FASTCALL(state_get), METH_FASTCALL,
     PyDoc_STR("get(path, default=None): the value at a path, a tuple or text.")},
    {"at", state_at, METH_O,
     PyDoc_STR("at(version): the State of that version of the same engine. VersionError if the history does\n"
               "not hold it.")},
    {"diff", THEUS_FASTCALL(state_diff), METH_FASTCALL,
     PyDoc_STR("diff(a, b=self): what changed from a to b, as a list of Change. Costs what changed, where the\n"
               "two share structure.")},
    {"shares", THEUS_FASTCALL(state_shares), METH_FASTCALL,
     PyDoc_STR("shares(other, path=()): is what stands at a path the very same in both states, or absent in both? Looks\n"
               "at identity, not at content, so it costs the way there. What was stored anew is not the same.")},
    {"provenance", state_provenance, METH_O,
     PyDoc_STR("provenance(path): the CommitRecord of the transaction that gave the path its value, or None\n"
               "if that was before the history, or the state is none of its engine's versions.")},
    {"restrict_view", state_restrict_view, METH_NOARGS,
     PyDoc_STR("The same data without the engine: no history, no other versions.")},
    {"log_meta", THEUS_FASTCALL(state_log_meta), METH_FASTCALL,
     PyDoc_STR("log_meta(key, message): notes something in the log that states made from this one share.")},
    {"get_meta_logs", state_get_meta_logs, METH_NOARGS, PyDoc_STR("The meta log, oldest first.")},
    {"to_dict", state_to_dict, METH_NOARGS, PyDoc_STR("All roots as plain builtins, independent of the state.")},
    {"__reduce__", state_reduce, METH_NOARGS, NULL},
    {"__dir__", state_dir, METH_NOARGS, PyDoc_STR("Methods, and roots that are identifiers.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef state_getset[] = {
    {"version", get_version, NULL, PyDoc_STR("The number of this version."), NULL},
    {"record", get_record, NULL, PyDoc_STR("The CommitRecord of the commit that made this version, or None."), NULL},
    {"data", get_data, NULL, PyDoc_STR("All roots but heavy, as a FrozenDict."), NULL},
    {"heavy", get_heavy, NULL, PyDoc_STR("The root 'heavy', as a FrozenDict."), NULL},
    {"signals", get_signals, NULL, PyDoc_STR("The last payload of each topic, as a FrozenDict."), NULL},
    {"meta", get_meta, NULL, PyDoc_STR("The meta log, oldest first."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef state_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(StateObject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(state_doc,
"One version of an engine's state: immutable, complete, consistent for as long as it is held.\n\n"
"Roots are attributes and items: state.domain, state['domain']. Containers come as\n"
"FrozenDict, FrozenList and FrozenSet. Any thread may read it.");

static PyType_Slot state_slots[] = {
    {Py_tp_doc, (void *)state_doc},
    {Py_tp_new, state_type_new},
    {Py_tp_dealloc, state_dealloc},
    {Py_tp_traverse, state_traverse},
    {Py_tp_clear, state_clear},
    {Py_tp_repr, state_repr},
    {Py_tp_richcompare, state_richcompare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_getattro, state_getattro},
    {Py_tp_setattro, state_setattro},
    {Py_mp_subscript, state_subscript},
    {Py_sq_contains, state_contains},
    {Py_tp_methods, state_methods},
    {Py_tp_getset, state_getset},
    {Py_tp_members, state_members},
    {0, NULL},
};

static PyType_Spec state_spec = {
    .name = "theus.State",
    .basicsize = sizeof(StateObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = state_slots,
};

int
add_state_type(PyObject *module, module_state *st)
{
    return module_add_type(module, &state_spec, &st->State_type);
}
