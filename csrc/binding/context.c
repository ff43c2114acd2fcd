/* The context of a process: the roots of its transaction by name, under the scope of its contract.
 *
 * A root is read at nearly every access to the state, so the context keeps the draft of the last
 * one. It stands for the root as long as nothing was written in the root map since. (Not without a
 * GIL: a body may hand its context to threads.) */
#include "context.h"

#include "active.h"
#include "admin.h"
#include "attributes.h"
#include "draft.h"
#include "engine_type.h"
#include "errors.h"
#include "guard.h"
#include "helpers.h"
#include "outgoing.h"
#include "state_type.h"
#include "txn_paths.h"

#include <stddef.h>

typedef struct {
    PyObject_HEAD
    TxnObject *txn;       /* owned; constant, as all above `local`, */
    PyObject *plan;       /* owned */
    ScopeObject *scope;   /* owned; but for this one, for the time of an admin scope. NULL: no contract, none around it */
    ScopeObject *around;  /* owned: the guard that it found; NULL: none */
    ScopeObject *bound;   /* owned: what may be done when the body has returned; NULL: as before it */
    PyObject *args;       /* owned: what the caller passed */
    PyObject *kwargs;     /* owned */
    bool closed;          /* once only: a body that closes its context fails its run. Written entered */
    PyObject *local;      /* owned: dict, once it was asked for */
    PyObject *helpers;    /* owned: dict of log, now, random, as they were asked for; or NULL */
    PyObject *last_name;  /* owned: name of the root that was read last, or NULL */
    DraftObject *last;    /* owned: its draft */
    uint32_t last_stamp;  /* of the root cell then */
    PyObject *weakrefs;
} ContextObject;

static module_state *
context_state(const ContextObject *self)
{
    return self->txn->heap->st;
}

static bool
is_read_only(const ContextObject *self)
{
    return self->scope != NULL && self->scope->frozen;
}

/* ---- roots -------------------------------------------------------------------------- */

/* Old programs have other names for two roots. New reference, or NULL with an exception. */
static PyObject *
root_name(module_state *st, PyObject *name)
{
    PyObject *known = NULL;
    if (PyUnicode_Check(name) && PyDict_GetItemRef(st->root_aliases, name, &known) < 0) {
        return NULL;
    }
    return known != NULL ? known : Py_NewRef(name);
}

static void
remember_root(ContextObject *self, PyObject *name, PyObject *draft)
{
    Py_XSETREF(self->last_name, Py_NewRef(name));
    Py_XSETREF(self->last, (DraftObject *)Py_NewRef(draft));
    self->last_stamp = self->txn->txn.root->stamp;
}

/* The scope of a root, entered: 0 and *below (NULL: everything may be done), or -1. */
static int
root_scope(ContextObject *self, PyObject *root, ScopeObject **below)
{
    *below = NULL;
    if (self->scope == NULL) {
        return 0;
    }
    int known = scope_step(self->scope, root, below);
    if (known == 0) {
        return guard_refuse_read(self->txn, self->scope, self->txn->txn.root, root);
    }
    return known < 0 ? -1 : 0;
}

/* The root: 1 and *value (new reference), 0 if there is none, or -1. */
static int
read_root(ContextObject *self, PyObject *name, PyObject **value)
{
    TxnObject *txn = self->txn;
    module_state *st = context_state(self);
    PyObject *root = root_name(st, name);
    ScopeObject *below;
    uint64_t hash;
    uint32_t pos;
    theus_value found;
    *value = NULL;
    if (root == NULL || txn_enter(txn) < 0) {
        Py_XDECREF(root);
        return -1;
    }
    int result = root_scope(self, root, &below);
    if (result == 0) {
        result = txn_cell_find(txn, txn->txn.root, root, true, &hash, &pos, &found);
    }
    if (result == 1) {
        *value = draft_value(st, txn, txn->txn.root, pos, found, below);
        if (*value == NULL) {
            result = -1;
        }
        else if (THEUS_HAVE_GIL && PyUnicode_CheckExact(name) && draft_check(st, *value)) {
            remember_root(self, name, *value);
        }
    }
    txn_leave(txn);
    Py_DECREF(root);
    return result;
}

/* Is the name more likely meant as a method of the transaction than as a root? No exception may be
 * set. */
static bool
is_of_transaction(ContextObject *self, PyObject *name)
{
    return !is_read_only(self) && type_lookup(context_state(self)->Transaction_type, name) != NULL;
}

static void
no_root(ContextObject *self, PyObject *name)
{
    if (is_of_transaction(self, name)) {
        PyErr_Format(PyExc_AttributeError, "a context has no %U(): use ctx.transaction.%U()", name,
                     name);
        return;
    }
    PyObject *root = root_name(context_state(self), name);
    if (root != NULL) {
        PyErr_Format(PyExc_AttributeError,
                     "the state has no root %R yet; give it to TheusEngine(context={...}), or "
                     "assign it first: ctx.%U = {}",
                     root, name);
        Py_DECREF(root);
    }
}

static PyObject *
context_getattro(PyObject *op, PyObject *name)
{
    ContextObject *self = (ContextObject *)op;
    PyObject *value;
    if (THEUS_HAVE_GIL && name == self->last_name && self->txn->txn.state == THEUS_TXN_OPEN
        && self->last_stamp == self->txn->txn.root->stamp && !self->last->cell->dead) {
        return Py_NewRef((PyObject *)self->last);
    }
    if (attribute_check_name(name) < 0) {
        return NULL;
    }
    if (type_lookup(Py_TYPE(op), name) != NULL) {
        return PyObject_GenericGetAttr(op, name);
    }
    if (draft_is_dunder(name)) {
        return PyErr_Format(PyExc_AttributeError, "a context has no attribute %R", name);
    }
    int found = read_root(self, name, &value);
    if (found < 0 && PyErr_ExceptionMatches(context_state(self)->ContractViolationError)) {
        PyObject *error = PyErr_GetRaisedException();
        if (is_of_transaction(self, name)) {
            Py_DECREF(error);
            found = 0;
        }
        else {
            PyErr_SetRaisedException(error);
        }
    }
    if (found == 0) {
        no_root(self, name);
    }
    return value;
}

static PyObject *
context_subscript(PyObject *op, PyObject *name)
{
    PyObject *value;
    if (read_root((ContextObject *)op, name, &value) == 0) {
        PyObject *path = PyTuple_Pack(1, name);
        if (path != NULL) {
            txn_path_error(context_state((ContextObject *)op), path, "there is no such root");
            Py_DECREF(path);
        }
    }
    return value;
}

static int
context_contains(PyObject *op, PyObject *name)
{
    PyObject *value;
    int result = read_root((ContextObject *)op, name, &value);
    Py_XDECREF(value);
    return result;
}

/* Refuses a write to a root (NULL: to no place in particular). Returns -1. */
static int
refuse_write(ContextObject *self, PyObject *root)
{
    if (txn_enter(self->txn) == 0) {
        guard_refuse_write(self->txn, self->scope, self->txn->txn.root, root);
        txn_leave(self->txn);
    }
    return -1;
}

static int
context_ass_subscript(PyObject *op, PyObject *name, PyObject *value)
{
    ContextObject *self = (ContextObject *)op;
    PyObject *root = root_name(context_state(self), name);
    if (root == NULL) {
        return -1;
    }
    if (is_read_only(self)) {
        refuse_write(self, root);
        Py_DECREF(root);
        return -1;
    }
    PyObject *path = PyTuple_Pack(1, root);
    Py_DECREF(root);
    int result = path == NULL ? -1 : txn_enter(self->txn);
    if (result == 0) {
        result = value == NULL ? txn_delete_path(self->txn, self->scope, path)
                               : txn_set_path(self->txn, self->scope, path, value);
        txn_leave(self->txn);
    }
    Py_XDECREF(path);
    return result < 0 ? -1 : 0;
}

static int
context_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    if (attribute_check_name(name) < 0) {
        return -1;
    }
    int alias = PyDict_Contains(context_state((ContextObject *)op)->root_aliases, name);
    if (alias < 0) {
        return -1;
    }
    if (alias == 0 && !is_read_only((ContextObject *)op)
        && type_lookup(Py_TYPE(op), name) != NULL) {
        PyErr_Format(PyExc_AttributeError,
                     "ctx.%U cannot be assigned; a root of that name is ctx[%R]", name, name);
        return -1;
    }
    return context_ass_subscript(op, name, value);
}

/* ---- making one ---------------------------------------------------------------------- */

/* All arguments are borrowed. */
static ContextObject *
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
    self->local = self->helpers = self->last_name = self->weakrefs = NULL;
    self->last = NULL;
    PyObject_GC_Track(self);
    return self;
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
    if (scope != NULL && reader != NULL && txn_begin(reader, txn->txn.pinned) == 0) {
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
    if (is_read_only(self)) {
        return Py_NewRef(op); /* nothing was written, so the roots are the snapshot */
    }
    return self->scope == NULL ? txn_snapshot(self->txn) : snapshot_of(self);
}

static PyObject *
get_transaction(PyObject *op, void *Py_UNUSED(closure))
{
    ContextObject *self = (ContextObject *)op;
    if (is_read_only(self)) {
        refuse_write(self, NULL);
        return NULL;
    }
    return Py_NewRef((PyObject *)self->txn);
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
    if (is_read_only(self)) {
        refuse_write(self, outbox != NULL ? st->outbox_name : st->signal_name);
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
    if (!is_read_only(self)) {
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

/* ---- for admin scopes --------------------------------------------------------------- */

TxnObject *
context_transaction(PyObject *op)
{
    return ((ContextObject *)op)->txn;
}

PyObject *
context_plan(PyObject *op)
{
    return ((ContextObject *)op)->plan;
}

ScopeObject *
context_scope(PyObject *op)
{
    return ((ContextObject *)op)->scope;
}

void
context_use_scope(PyObject *op, ScopeObject *scope)
{
    ContextObject *self = (ContextObject *)op;
    ScopeObject *before = self->scope;
    self->scope = (ScopeObject *)Py_XNewRef((PyObject *)scope);
    Py_XSETREF(self->txn->guard, (ScopeObject *)Py_XNewRef((PyObject *)scope));
    Py_CLEAR(self->last_name);
    Py_CLEAR(self->last);
    Py_XDECREF((PyObject *)before);
}

/* ---- opening and closing ------------------------------------------------------------ */

enum { OPEN_TXN, OPEN_PLAN, OPEN_SCOPE, OPEN_BOUND, OPEN_ARGS, OPEN_KWARGS, OPEN_COUNT };

static bool
is_scope(const module_state *st, PyObject *object)
{
    return object == Py_None || Py_IS_TYPE(object, st->Scope_type);
}

/* What `scope` (or None, or NULL) lets be done within `around`: 0 and *out (new reference; NULL:
 * everything), or -1. */
static int
narrowed(PyObject *scope, ScopeObject *around, ScopeObject **out)
{
    ScopeObject *own = scope == Py_None ? NULL : (ScopeObject *)scope;
    if (own == NULL || around == NULL) {
        *out = (ScopeObject *)Py_XNewRef((PyObject *)(own != NULL ? own : around));
        return 0;
    }
    *out = scope_within(own, around);
    return *out == NULL ? -1 : 0;
}

PyObject *
module_open_context(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *st = module_state_of(module);
    if (errors_check_count("open_context", count, OPEN_COUNT, OPEN_COUNT) < 0) {
        return NULL;
    }
    if (!Py_IS_TYPE(args[OPEN_TXN], st->Transaction_type) || !is_scope(st, args[OPEN_SCOPE])
        || !is_scope(st, args[OPEN_BOUND]) || !PyTuple_Check(args[OPEN_ARGS])
        || !PyDict_Check(args[OPEN_KWARGS])) {
        PyErr_SetString(PyExc_TypeError, "open_context() takes a transaction, a plan, two scopes or "
                                         "None, a tuple and a dict");
        return NULL;
    }
    TxnObject *txn = (TxnObject *)args[OPEN_TXN];
    if (txn_enter(txn) < 0) {
        return NULL;
    }
    ScopeObject *scope = NULL;
    int result = narrowed(args[OPEN_SCOPE], txn->guard, &scope);
    ContextObject *self
        = result < 0 ? NULL : context_new(txn, args[OPEN_PLAN], scope, args[OPEN_ARGS], args[OPEN_KWARGS]);
    if (self != NULL) {
        self->around = (ScopeObject *)Py_XNewRef((PyObject *)txn->guard);
        Py_XSETREF(txn->guard, (ScopeObject *)Py_XNewRef((PyObject *)scope));
        ScopeObject **bound = txn->txn.savepoint == NULL ? &txn->bound : &txn->joined_bound;
        if (args[OPEN_BOUND] != Py_None) {
            self->bound = (ScopeObject *)Py_NewRef(args[OPEN_BOUND]);
            if (*bound == NULL) {
                *bound = (ScopeObject *)Py_NewRef(args[OPEN_BOUND]);
            }
        }
    }
    Py_XDECREF((PyObject *)scope);
    txn_leave(txn);
    return (PyObject *)self;
}

/* The refusal to show in place of a FrozenError: what the body was given was frozen because it may not
 * write. -1. */
static int
refuse_frozen_write(ContextObject *self, PyObject *error)
{
    PyObject *path = PyTuple_New(0);
    PyObject *refusal = path == NULL ? NULL : guard_refusal(self->txn, self->scope, path, true);
    if (refusal != NULL) {
        PyException_SetCause(refusal, Py_NewRef(error));
        PyErr_SetObject((PyObject *)Py_TYPE(refusal), refusal);
        Py_DECREF(refusal);
    }
    Py_XDECREF(path);
    return -1;
}

/* The end of a body that has returned, or raised `error`. Entered. 0 or -1. */
static int
end_body(ContextObject *self, PyObject *error)
{
    TxnObject *txn = self->txn;
    bool closed = self->closed;
    self->closed = true;
    admin_end((PyObject *)self);
    if (error != NULL) {
        Py_CLEAR(txn->refused); /* the run fails in any case */
        return is_read_only(self) && PyErr_GivenExceptionMatches(error, context_state(self)->FrozenError)
                   ? refuse_frozen_write(self, error)
                   : 0;
    }
    if (closed) {
        return txn_error(txn, "the context of a process is closed by the engine, when its body has returned");
    }
    ScopeObject *after;
    if (narrowed((PyObject *)self->bound, self->around, &after) < 0) {
        return -1;
    }
    Py_XSETREF(txn->guard, after);
    return guard_raise_refused(txn);
}

PyObject *
module_close_context(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const module_state *st = module_state_of(module);
    if (errors_check_count("close_context", count, 2, 2) < 0) {
        return NULL;
    }
    if (!Py_IS_TYPE(args[0], st->Context_type) || !(args[1] == Py_None || PyExceptionInstance_Check(args[1]))) {
        PyErr_SetString(PyExc_TypeError, "close_context() takes what open_context() gave, and an exception or None");
        return NULL;
    }
    ContextObject *self = (ContextObject *)args[0];
    PyObject *error = args[1] == Py_None ? NULL : args[1];
    if (txn_enter(self->txn) < 0) {
        if (error == NULL) {
            return NULL;
        }
        PyErr_Clear(); /* it has ended, and its guard with it; the body's own error is the one to show */
        Py_RETURN_NONE;
    }
    int result = end_body(self, error);
    txn_leave(self->txn);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- the type ----------------------------------------------------------------------- */

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
    Py_DECREF((PyObject *)self->txn);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyObject *
get_alias(PyObject *op, void *name)
{
    PyObject *alias = PyUnicode_FromString(name), *value = NULL;
    if (alias != NULL && read_root((ContextObject *)op, alias, &value) == 0) {
        no_root((ContextObject *)op, alias);
    }
    Py_XDECREF(alias);
    return value;
}

static PyGetSetDef context_getset[] = {
    {"input", get_input, NULL,
     PyDoc_STR("What the caller passed, by parameter name, positional arguments too."), NULL},
    {"local", get_local, NULL,
     PyDoc_STR("A dict for this one attempt. It is not state: nothing of it is kept."), NULL},
    {"state", get_state, NULL,
     PyDoc_STR("The snapshot that the run began with: its roots, read-only, under the same contract.\n"
               "Of an EFFECT process, reading it is not part of the transaction: a commit does not\n"
               "depend on what was seen there. Without a contract it is a State."),
     NULL},
    {"version", get_version, NULL, PyDoc_STR("The number of the version that the run began with."),
     NULL},
    {"transaction", get_transaction, NULL,
     PyDoc_STR("The transaction of this attempt, under the same contract. EFFECT only."), NULL},
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
