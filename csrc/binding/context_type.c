/* Context, the type: its life, and what is no root. */
#include "context.h"

#include "active.h"
#include "engine_type.h"
#include "errors.h"
#include "guard.h"
#include "heavy_root.h"
#include "helpers.h"
#include "outgoing.h"
#include "txn_paths.h"

#include <stddef.h>

/* ---- life --------------------------------------------------------------------------- */

ContextObject *
context_new(TxnObject *txn, PyObject *plan, ScopeObject *scope, PyObject *args, PyObject *kwargs)
{
    ContextObject *self = PyObject_GC_New(ContextObject, txn->heap->st->Context_type);
    if (self == NULL) {
        return NULL;
    }
    self->txn = (TxnObject *)Py_NewRef((PyObject *)txn);
    self->plan = Py_NewRef(plan);
    self->scope = (ScopeObject *)Py_XNewRef((PyObject *)scope);
    self->args = Py_NewRef(args);
    self->kwargs = Py_NewRef(kwargs);
    self->around = self->bound = NULL;
    self->closed = false;
    self->admin = NULL;
    self->number = 0;
    self->coroutine = NULL;
    self->local = self->helpers = self->last_name = self->weakrefs = NULL;
    self->last = NULL;
    PyObject_GC_Track(self);
    return self;
}

static int
context_traverse(PyObject *op, visitproc visit, void *arg)
{
    ContextObject *self = (ContextObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->txn);
    Py_VISIT(self->plan);
    Py_VISIT(self->scope);
    Py_VISIT(self->around);
    Py_VISIT(self->bound);
    Py_VISIT(self->args);
    Py_VISIT(self->kwargs);
    Py_VISIT(self->coroutine);
    Py_VISIT(self->local);
    Py_VISIT(self->helpers);
    Py_VISIT(self->last);
    return 0;
}

static void
context_dealloc(PyObject *op)
{
    ContextObject *self = (ContextObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    Py_XDECREF(self->local);
    Py_XDECREF(self->helpers);
    Py_XDECREF(self->last_name);
    Py_XDECREF((PyObject *)self->last);
    Py_DECREF(self->plan);
    Py_XDECREF((PyObject *)self->scope);
    Py_XDECREF((PyObject *)self->around);
    Py_XDECREF((PyObject *)self->bound);
    Py_DECREF(self->args);
    Py_DECREF(self->kwargs);
    Py_XDECREF(self->coroutine);
    Py_XDECREF(self->admin);
    Py_DECREF((PyObject *)self->txn);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

/* ---- what is no root ---------------------------------------------------------------- */

static PyObject *
get_input(PyObject *op, void *Py_UNUSED(closure))
{
    ContextObject *self = (ContextObject *)op;
    PyObject *names = PyObject_GetAttrString(self->plan, "parameters");
    PyObject *passed = names == NULL ? NULL : PyDict_New(), *result = NULL;
    int done = passed == NULL || !PyTuple_Check(names) ? -1 : 0;
    for (Py_ssize_t i = 0; done == 0 && i < PyTuple_GET_SIZE(names)
                           && i < PyTuple_GET_SIZE(self->args); i++) {
        done = PyDict_SetItem(passed, PyTuple_GET_ITEM(names, i), PyTuple_GET_ITEM(self->args, i));
    }
    if (done == 0 && PyDict_Update(passed, self->kwargs) == 0) {
        result = PyDictProxy_New(passed);
    }
    Py_XDECREF(names);
    Py_XDECREF(passed);
    return result;
}

static PyObject *
get_local(PyObject *op, void *Py_UNUSED(closure))
{
    ContextObject *self = (ContextObject *)op;
    PyObject *local;
    Py_BEGIN_CRITICAL_SECTION(op);
    if (self->local == NULL) {
        self->local = PyDict_New();
    }
    local = Py_XNewRef(self->local);
    Py_END_CRITICAL_SECTION();
    return local;
}

/* A read-only context of the pinned version. Its transaction is nobody's: runs do not join it. */
static PyObject *
snapshot_of(ContextObject *self)
{
    TxnObject *txn = self->txn;
    if (txn_enter(txn) < 0) {
        return NULL;
    }
    PyObject *result = NULL;
    ScopeObject *scope = scope_for_snapshot(self->scope);
    TxnObject *reader = txn_new(txn->engine, THEUS_SNAPSHOT, true, 0, NULL);
    if (scope != NULL && reader != NULL && txn_begin(reader, txn->txn.pinned, false) == 0) {
        active_remove(&reader->engine->active, reader);
        result = (PyObject *)context_new(reader, self->plan, scope, self->args, self->kwargs);
    }
    Py_XDECREF((PyObject *)scope);
    Py_XDECREF((PyObject *)reader);
    txn_leave(txn);
    return result;
}

static PyObject *
get_version(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((ContextObject *)op)->txn->version);
}

static PyObject *
get_state(PyObject *op, void *Py_UNUSED(closure))
{
    ContextObject *self = (ContextObject *)op;
    if (context_is_read_only(self)) {
        return Py_NewRef(op); /* nothing was written, so the roots are the snapshot */
    }
    return self->scope == NULL ? txn_snapshot(self->txn) : snapshot_of(self);
}

static PyObject *
get_transaction(PyObject *op, void *Py_UNUSED(closure))
{
    ContextObject *self = (ContextObject *)op;
    if (context_is_read_only(self)) {
        context_refuse_write(self, NULL);
        return NULL;
    }
    return Py_NewRef((PyObject *)self->txn);
}

/* A draft of the state itself, whose entries are the roots. */
static PyObject *
get_data(PyObject *op, void *Py_UNUSED(closure))
{
    ContextObject *self = (ContextObject *)op;
    TxnObject *txn = self->txn;
    if (txn_enter(txn) < 0) {
        return NULL;
    }
    PyObject *roots = draft_wrap(context_state(self), txn, txn->txn.root, self->scope);
    txn_leave(txn);
    return roots;
}

static PyObject *
get_helper(PyObject *op, void *name)
{
    ContextObject *self = (ContextObject *)op;
    if (txn_enter(self->txn) < 0) { /* so that it is one thread at a time */
        return NULL;
    }
    PyObject *helper = helper_get(self->txn, self->plan, &self->helpers, name);
    txn_leave(self->txn);
    return helper;
}

/* A sender of the transaction; not for who may send nothing. */
static PyObject *
get_sender(PyObject *op, void *outbox)
{
    ContextObject *self = (ContextObject *)op;
    const module_state *st = context_state(self);
    if (context_is_read_only(self)) {
        context_refuse_write(self, outbox != NULL ? st->outbox_name : st->signal_name);
        return NULL;
    }
    return outbox != NULL ? outgoing_outbox(self->txn) : outgoing_signal(self->txn);
}

static PyObject *
defer(PyObject *op, PyObject *const *args, Py_ssize_t count, const char *name,
      PyObject *(*method)(PyObject *, PyObject *const *, Py_ssize_t))
{
    ContextObject *self = (ContextObject *)op;
    if (errors_check_count(name, count, 2, 2) < 0) {
        return NULL;
    }
    if (!context_is_read_only(self)) {
        return method((PyObject *)self->txn, args, count);
    }
    PyObject *path = txn_path_argument(context_state(self), args[0]);
    if (path != NULL && txn_enter(self->txn) == 0) {
        guard_refuse_path(self->txn, self->scope, path, true);
        txn_leave(self->txn);
    }
    Py_XDECREF(path);
    return NULL;
}

static PyObject *
context_add(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    return defer(op, args, count, "add", txn_method_add);
}

static PyObject *
context_append(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    return defer(op, args, count, "append", txn_method_append);
}

static PyObject *
context_repr(PyObject *op)
{
    PyObject *name = PyObject_GetAttrString(((ContextObject *)op)->plan, "name");
    PyObject *text = name == NULL ? NULL : PyUnicode_FromFormat("<context of process %R>", name);
    Py_XDECREF(name);
    return text;
}

static PyObject *
get_alias(PyObject *op, void *name)
{
    PyObject *alias = PyUnicode_FromString(name), *value = NULL;
    if (alias != NULL && context_read_root((ContextObject *)op, alias, &value) == 0) {
        context_no_root((ContextObject *)op, alias);
    }
    Py_XDECREF(alias);
    return value;
}

static PyObject *
get_heavy(PyObject *op, void *Py_UNUSED(closure))
{
    ContextObject *self = (ContextObject *)op;
    PyObject *name = PyUnicode_InternFromString("heavy"), *value = NULL, *result = NULL;
    if (name != NULL && context_read_root(self, name, &value) == 0) {
        context_no_root(self, name);
    }
    if (value != NULL) {
        result = heavy_root_new(context_state(self), op, value);
    }
    Py_XDECREF(value);
    Py_XDECREF(name);
    return result;
}

/* ---- the type ----------------------------------------------------------------------- */

static PyGetSetDef context_getset[] = {
    {"input", get_input, NULL,
     PyDoc_STR("What the caller passed, by parameter name, positional arguments too."), NULL},
    {"local", get_local, NULL,
     PyDoc_STR("A dict for this one attempt. It is not state: nothing of it is kept."), NULL},
    {"state", get_state, NULL,
     PyDoc_STR("The snapshot that the run began with: its roots, read-only, under the same contract.\n"
               "Of an EFFECT process, reading it is not part of the transaction: a commit does not\n"
               "depend on what was seen there. Without a contract it is a State, unless the state has\n"
               "fields that processes are not shown."),
     NULL},
    {"version", get_version, NULL, PyDoc_STR("The number of the version that the run began with."),
     NULL},
    {"transaction", get_transaction, NULL,
     PyDoc_STR("The transaction of this attempt, under the same contract. EFFECT only."), NULL},
    {"tx", get_transaction, NULL, PyDoc_STR("The same, by an old name."), NULL},
    {"data", get_data, NULL, PyDoc_STR("The roots as one dict, under the same contract."), NULL},
    {"log", get_helper, NULL,
     PyDoc_STR("A logger whose records tell process, run and version; see theus.helpers."), "log"},
    {"now", get_helper, NULL,
     PyDoc_STR("The time, in UTC, one and the same for this attempt; noted in the record of its commit."),
     "now"},
    {"random", get_helper, NULL,
     PyDoc_STR("A random.Random of this attempt's own, its seed noted in the record of its commit."),
     "random"},
    {"outbox", get_sender, NULL,
     PyDoc_STR("Messages that are handed over after the commit: outbox.add(topic, payload). EFFECT only."), "outbox"},
    {"signal", get_sender, NULL,
     PyDoc_STR("Signals that are sent with the commit: signal.send(topic, payload). EFFECT only."), NULL},
    {"heavy", get_heavy, NULL, PyDoc_STR("The root 'heavy', with alloc() and put() for the arrays of this attempt."), NULL},
    {"domain_ctx", get_alias, NULL, PyDoc_STR("The root 'domain', by an old name."), "domain_ctx"},
    {"global_", get_alias, NULL, PyDoc_STR("The root 'global', which is a keyword."), "global_"},
    {"global_ctx", get_alias, NULL, PyDoc_STR("The root 'global', by an old name."), "global_ctx"},
    {0},
};

static PyMethodDef context_methods[] = {
    {"add", THEUS_FASTCALL(context_add), METH_FASTCALL,
     PyDoc_STR("add($self, path, amount, /)\n--\n\n"
               "Adds to the number that stands at path when the run commits; see Transaction.add.")},
    {"append", THEUS_FASTCALL(context_append), METH_FASTCALL,
     PyDoc_STR("append($self, path, value, /)\n--\n\n"
               "Appends to the list that stands at path when the run commits.")},
    {0},
};

static PyMemberDef context_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ContextObject, weakrefs), READONLY, NULL},
    {0},
};

PyDoc_STRVAR(context_doc,
             "What a process sees: its first argument.\n\n"
             "The roots of the state are attributes and items, ctx.domain and ctx['domain'], as far\n"
             "as the contract declares something there; see theus.context. Belongs to one attempt\n"
             "of one run, and to the thread or task that runs it.");

static PyType_Slot context_slots[] = {
    {Py_tp_doc, (void *)context_doc},
    {Py_tp_dealloc, context_dealloc},
    {Py_tp_traverse, context_traverse},
    {Py_tp_repr, context_repr},
    {Py_tp_getattro, context_getattro},
    {Py_tp_setattro, context_setattro},
    {Py_mp_subscript, context_subscript},
    {Py_mp_ass_subscript, context_ass_subscript},
    {Py_sq_contains, context_contains},
    {Py_tp_getset, context_getset},
    {Py_tp_methods, context_methods},
    {Py_tp_members, context_members},
    {0, NULL},
};

static PyType_Spec context_spec = {
    .name = "theus._theus.Context",
    .basicsize = sizeof(ContextObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = context_slots,
};

int
add_context_type(PyObject *module, module_state *st)
{
    st->root_aliases = Py_BuildValue("{s:s,s:s,s:s}", "domain_ctx", "domain", "global_", "global",
                                     "global_ctx", "global");
    if (st->root_aliases == NULL) {
        return -1;
    }
    PyObject *proxy = PyDictProxy_New(st->root_aliases);
    int added = proxy == NULL ? -1 : PyModule_AddObjectRef(module, "ROOT_ALIASES", proxy);
    Py_XDECREF(proxy);
    return added < 0 ? -1 : module_add_type(module, &context_spec, &st->Context_type);
}
