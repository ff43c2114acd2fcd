/* A scope within another one: what both let be done.
 *
 *     outer body --guard: outer--> runs a process --guard: inner within outer--> ...
 *
 * It steps both at once. Such a scope has no paths of its own: its children are the pairs that it
 * has stepped to, kept by its root. Where the two allow the same right at different places below,
 * `below` promises too much; the next steps find out. */
#include "scope.h"

static uint8_t
reach(const ScopeObject *scope)
{
    return scope->granted | scope->below;
}

/* The two of them at one place. `root` is NULL for a root. New reference. */
static ScopeObject *
pair_new(ScopeObject *root, ScopeObject *inner, ScopeObject *outer)
{
    PyTypeObject *type = Py_TYPE((PyObject *)inner);
    ScopeObject *self = PyObject_GC_New(ScopeObject, type);
    if (self == NULL) {
        return NULL;
    }
    self->root = root == NULL ? self : (ScopeObject *)Py_NewRef((PyObject *)root);
    self->owner = NULL;
    self->known = NULL;
    self->rests = PyTuple_New(0);
    self->children = PyDict_New();
    atomic_init(&self->others, NULL);
    self->inner = (ScopeObject *)Py_NewRef((PyObject *)inner);
    self->outer = (ScopeObject *)Py_NewRef((PyObject *)outer);
    self->within = NULL;
    self->rules = NULL;
    self->fields = inner->fields;
    self->granted = inner->granted & outer->granted;
    self->ceiling = inner->ceiling & outer->ceiling;
    self->here = self->granted & self->ceiling;
    self->level = inner->level;
    self->hidden = inner->hidden || outer->hidden;
    self->admin = inner->admin && outer->admin;
    self->ended = false;
    self->below = reach(inner) & reach(outer) & (uint8_t)~self->granted;
    self->frozen = inner->frozen || outer->frozen;
    self->open = inner->open && outer->open;
    self->full = inner->full && outer->full;
    self->globs = false;
    PyObject_GC_Track((PyObject *)self);
    if (root == NULL) {
        self->known = PyDict_New();
    }
    if (self->rests == NULL || self->children == NULL || (root == NULL && self->known == NULL)) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return self;
}

ScopeObject *
scope_within(ScopeObject *inner, ScopeObject *outer)
{
    ScopeObject *result;
    if (inner == outer) {
        return (ScopeObject *)Py_NewRef((PyObject *)inner);
    }
    Py_BEGIN_CRITICAL_SECTION(inner);
    result = inner->within;
    if (result == NULL || result->outer != outer) {
        result = pair_new(NULL, inner, outer);
        if (result != NULL) {
            Py_XSETREF(inner->within, (ScopeObject *)Py_NewRef((PyObject *)result));
        }
    }
    else {
        Py_INCREF((PyObject *)result);
    }
    Py_END_CRITICAL_SECTION();
    return result;
}

/* What `self` has for the place to which both have stepped: 1 and *child (borrowed), 0 or -1. */
static int
pair_find(ScopeObject *self, ScopeObject *inner, ScopeObject *outer, ScopeObject **child)
{
    ScopeObject *root = self->root;
    if ((reach(inner) & reach(outer)) == 0) {
        return 0;
    }
    PyObject *name = PyTuple_Pack(2, inner, outer);
    int known = name == NULL ? -1 : scope_recall(root, name, child);
    if (known == 0) {
        known = scope_remember(root, name, pair_new(root, inner, outer), child);
    }
    Py_XDECREF(name);
    return known;
}

int
scope_step_both(ScopeObject *self, PyObject *key, ScopeObject **child)
{
    ScopeObject *inner, *outer;
    int known = scope_step(self->inner, key, &inner);
    if (known == 1) {
        known = scope_step(self->outer, key, &outer);
    }
    return known == 1 ? pair_find(self, inner, outer, child) : known;
}

int
scope_step_both_index(ScopeObject *self, Py_ssize_t index, ScopeObject **child)
{
    ScopeObject *inner, *outer;
    int known = scope_step_index(self->inner, index, &inner);
    if (known == 1) {
        known = scope_step_index(self->outer, index, &outer);
    }
    return known == 1 ? pair_find(self, inner, outer, child) : known;
}

/* Does this one let it be done? 1, 0 or -1. */
static int
allows(ScopeObject *scope, PyObject *path, bool write)
{
    ScopeObject *end;
    int known = scope_walk(scope, path, 0, &end);
    if (known <= 0) {
        return known;
    }
    return write ? !scope->frozen && scope_declares_write(end) : (end->here & RIGHT_READ) != 0;
}

ScopeObject *
scope_that_refuses(ScopeObject *root, PyObject *path, bool write)
{
    while (root->inner != NULL) {
        /* Around what would write stands a body that may write nowhere: then that is why. */
        bool outer_refuses = write && root->outer->frozen && !root->inner->frozen;
        int allowed = outer_refuses ? 1 : allows(root->inner, path, write);
        if (allowed < 0) {
            return NULL;
        }
        root = allowed ? root->outer : root->inner;
    }
    return root;
}
