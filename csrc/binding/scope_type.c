/* Scope, the type: scopes made from paths, from one another, and what Python sees of them. */
#include "scope.h"

#include "pattern.h"
#include "zones.h"

#include <stddef.h>

/* ---- the type ----------------------------------------------------------------------- */

/* Adds each path of an iterable with these rights. */
static int
add_paths(const module_state *st, rest_set *set, PyObject *paths, uint8_t rights)
{
    PyObject *iterator = PyObject_GetIter(paths), *path;
    if (iterator == NULL) {
        return -1;
    }
    int result = 0;
    while (result == 0 && (path = PyIter_Next(iterator)) != NULL) {
        if (PyTuple_CheckExact(path)) {
            result = rests_add(st, set, rights, path);
        }
        else {
            PyErr_Format(PyExc_TypeError, "a declared path is a tuple, not %R", path);
            result = -1;
        }
        Py_DECREF(path);
    }
    Py_DECREF(iterator);
    return result < 0 || PyErr_Occurred() ? -1 : 0;
}

static PyObject *
scope_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"reads", "writes", "owner", "frozen", NULL};
    module_state *st = module_state_of_type(type);
    PyObject *reads, *writes = NULL, *owner = Py_None;
    int frozen = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O$Op:Scope", names, &reads, &writes, &owner,
                                     &frozen)) {
        return NULL;
    }
    rest_set set = {PyDict_New(), 0};
    ScopeObject *self = NULL;
    if (set.found != NULL && add_paths(st, &set, reads, RIGHT_READ) == 0
        && (writes == NULL || add_paths(st, &set, writes, RIGHTS_WRITE) == 0)) {
        PyObject *rests = rests_finish(&set);
        self = rests == NULL ? NULL
                             : scope_make_root(st, set.here, rests, owner == Py_None ? NULL : owner, NULL,
                                               frozen != 0, false);
        Py_XDECREF(rests);
    }
    Py_XDECREF(set.found);
    return (PyObject *)self;
}

ScopeObject *
scope_in(ScopeObject *root, PyObject *rules, bool admin)
{
    if (root->inner != NULL) {
        ScopeObject *inner = scope_in(root->inner, rules, admin), *outer = scope_in(root->outer, rules, admin);
        ScopeObject *both = inner == NULL || outer == NULL ? NULL : scope_within(inner, outer);
        Py_XDECREF((PyObject *)inner);
        Py_XDECREF((PyObject *)outer);
        return both;
    }
    return scope_make_root(module_state_of_type(Py_TYPE(root)), root->granted, root->rests, root->owner, rules,
                           root->frozen, admin);
}

ScopeObject *
scope_of_everything(module_state *st, PyObject *rules, bool admin)
{
    PyObject *rests = PyTuple_New(0);
    ScopeObject *self
        = rests == NULL ? NULL : scope_make_root(st, RIGHTS_ALL, rests, NULL, rules, false, admin);
    Py_XDECREF(rests);
    return self;
}

static PyObject *
scope_method_under(PyObject *op, PyObject *rules)
{
    ScopeObject *self = (ScopeObject *)op;
    if (self->root != self) {
        return PyErr_Format(PyExc_ValueError, "only the scope of a whole contract can be put under rules");
    }
    PyObject *parsed = zones_parse_rules(rules);
    ScopeObject *made = parsed == NULL ? NULL : scope_in(self, parsed, self->admin);
    Py_XDECREF(parsed);
    return (PyObject *)made;
}

ScopeObject *
scope_for_snapshot(ScopeObject *root)
{
    if (root->inner != NULL) {
        ScopeObject *inner = scope_for_snapshot(root->inner), *outer = scope_for_snapshot(root->outer);
        ScopeObject *both = inner == NULL || outer == NULL ? NULL : scope_within(inner, outer);
        Py_XDECREF((PyObject *)inner);
        Py_XDECREF((PyObject *)outer);
        return both;
    }
    module_state *st = module_state_of_type(Py_TYPE(root));
    rest_set set = {PyDict_New(), root->granted & RIGHT_READ};
    int result = set.found == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; result == 0 && i < PyTuple_GET_SIZE(root->rests); i++) {
        PyObject *rest = PyTuple_GET_ITEM(root->rests, i);
        if ((rest_rights(rest) & RIGHT_READ) != 0) {
            result = rests_add(st, &set, RIGHT_READ, rest_path(rest));
        }
    }
    PyObject *rests = result < 0 ? NULL : rests_finish(&set);
    ScopeObject *self
        = rests == NULL ? NULL : scope_make_root(st, set.here, rests, root->owner, root->rules, true, false);
    Py_XDECREF(rests);
    Py_XDECREF(set.found);
    return self;
}

static void
revoke_one(ScopeObject *self)
{
    self->granted = self->here = self->below = 0;
    self->open = self->full = self->globs = false;
    PyDict_Clear(self->children);
    Py_XDECREF(atomic_exchange(&self->others, Py_NewRef(Py_None)));
}

/* The scopes themselves stay: whoever runs this may be comparing a key on behalf of one that is being walked. */
void
scope_revoke(ScopeObject *root)
{
    PyObject *name, *scope;
    Py_ssize_t i = 0;
    root->ended = true;
    if (root->inner != NULL) {
        scope_revoke(root->inner);
        scope_revoke(root->outer);
    }
    revoke_one(root);
    while (PyDict_Next(root->known, &i, &name, &scope)) {
        revoke_one((ScopeObject *)scope);
    }
}

static int
scope_traverse(PyObject *op, visitproc visit, void *arg)
{
    ScopeObject *self = (ScopeObject *)op;
    Py_VISIT(Py_TYPE(op));
    if (self->root != self) {
        Py_VISIT(self->root);
    }
    Py_VISIT(self->owner);
    Py_VISIT(self->inner);
    Py_VISIT(self->outer);
    Py_VISIT(self->within);
    Py_VISIT(self->known);
    Py_VISIT(self->rules);
    Py_VISIT(self->rests);
    Py_VISIT(self->children);
    Py_VISIT(atomic_load(&self->others));
    return 0;
}

/* Only what makes circles: the dicts themselves stay, and what is asked for would be made again. */
static int
scope_clear(PyObject *op)
{
    ScopeObject *self = (ScopeObject *)op;
    Py_CLEAR(self->owner);
    Py_CLEAR(self->within);
    Py_XDECREF(atomic_exchange(&self->others, NULL));
    PyDict_Clear(self->children);
    if (self->known != NULL) {
        PyDict_Clear(self->known);
    }
    return 0;
}

static void
scope_dealloc(PyObject *op)
{
    ScopeObject *self = (ScopeObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_CLEAR(self->owner);
    Py_CLEAR(self->inner);
    Py_CLEAR(self->outer);
    Py_CLEAR(self->within);
    Py_CLEAR(self->known);
    Py_CLEAR(self->rules);
    Py_CLEAR(self->rests);
    Py_CLEAR(self->children);
    Py_XDECREF(atomic_load(&self->others));
    if (self->root != self) {
        Py_DECREF((PyObject *)self->root);
    }
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyObject *
scope_method_step(PyObject *op, PyObject *key)
{
    ScopeObject *child;
    int known = scope_step((ScopeObject *)op, key, &child);
    if (known <= 0) {
        return known < 0 ? NULL : Py_NewRef(Py_None);
    }
    return Py_NewRef((PyObject *)child);
}

/* Whether the place at `path` and all that is below it is declared with these rights. */
static PyObject *
scope_grants(PyObject *op, PyObject *path, uint8_t rights)
{
    ScopeObject *end = NULL;
    if (!PyTuple_CheckExact(path)) {
        return PyErr_Format(PyExc_TypeError, "a path is a tuple of keys, not %R", path);
    }
    int known = scope_walk((ScopeObject *)op, path, 0, &end);
    return known < 0 ? NULL : PyBool_FromLong(known && (end->granted & rights) == rights);
}

static PyObject *
scope_method_reads(PyObject *op, PyObject *path)
{
    return scope_grants(op, path, RIGHT_READ);
}

static PyObject *
scope_method_writes(PyObject *op, PyObject *path)
{
    return scope_grants(op, path, RIGHTS_WRITE);
}

static PyObject *
scope_get_names(PyObject *op, void *Py_UNUSED(closure))
{
    return PyFrozenSet_New(((ScopeObject *)op)->children);
}

static PyObject *
scope_get_open(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((ScopeObject *)op)->open);
}

static PyGetSetDef scope_getset[] = {
    {"names", scope_get_names, NULL, PyDoc_STR("The keys that a path names here, as they are."),
     NULL},
    {"open", scope_get_open, NULL,
     PyDoc_STR("Whether each key may be asked for, so that the key set itself may be read."), NULL},
    {0},
};

static PyMethodDef scope_methods[] = {
    {"step", scope_method_step, METH_O,
     PyDoc_STR("step($self, key, /)\n--\n\n"
               "The scope below key, or None: nothing there is declared.")},
    {"under", scope_method_under, METH_O,
     PyDoc_STR("under($self, rules, /)\n--\n\nThe same contract in an engine with these rules about fields: see theus.zones.")},
    {"reads", scope_method_reads, METH_O,
     PyDoc_STR("reads($self, path, /)\n--\n\n"
               "Whether the place at a path (a tuple) and all below it may be read.")},
    {"writes", scope_method_writes, METH_O,
     PyDoc_STR("writes($self, path, /)\n--\n\n"
               "Whether the place at a path (a tuple) and all below it may be written.")},
    {0},
};

PyDoc_STRVAR(scope_doc,
             "Scope(reads, writes=(), *, owner=None, frozen=False)\n--\n\n"
             "What is declared at and below one place, walked downwards key by key.\n\n"
             "`reads` and `writes` are paths as theus.scope.parse_pattern gives them. `owner` makes\n"
             "the refusals of a guard: no_read(path) and no_write(path) return the exceptions.\n"
             "`frozen`: every write is refused. Immutable; may be shared by threads.");

static PyType_Slot scope_slots[] = {
    {Py_tp_doc, (void *)scope_doc},
    {Py_tp_new, scope_new},
    {Py_tp_dealloc, scope_dealloc},
    {Py_tp_traverse, scope_traverse},
    {Py_tp_clear, scope_clear},
    {Py_tp_methods, scope_methods},
    {Py_tp_getset, scope_getset},
    {0, NULL},
};

static PyType_Spec scope_spec = {
    .name = "theus._theus.Scope",
    .basicsize = sizeof(ScopeObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = scope_slots,
};

int
add_scope_types(PyObject *module, module_state *st)
{
    return add_wildcard_type(module, st) < 0
                   || module_add_type(module, &scope_spec, &st->Scope_type) < 0
               ? -1
               : 0;
}
