/* The places of a contract: made when they are first asked for, and walked. */
#include "scope.h"

#include "pattern.h"
#include "zones.h"

/* ---- making scopes ------------------------------------------------------------------ */

/* What the rests say about the place itself. */
static int
scope_describe(const module_state *st, ScopeObject *self)
{
    bool readable = (self->ceiling & RIGHT_READ) != 0;
    self->open = self->full = (self->here & RIGHT_READ) != 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(self->rests); i++) {
        PyObject *rest = PyTuple_GET_ITEM(self->rests, i);
        PyObject *first = PyTuple_GET_ITEM(rest_path(rest), 0);
        uint8_t rights = rest_rights(rest);
        self->below |= rights;
        switch (pattern_kind(st, first)) {
        case LITERAL:
            if (PyDict_SetItem(self->children, first, first) < 0) {
                return -1;
            }
            break;
        case ANY_KEY:
        case ANY_DEPTH:
            if (readable && (rights & RIGHT_READ) != 0) {
                self->open = true;
                self->full = self->full || PyTuple_GET_SIZE(rest_path(rest)) == 1;
            }
            break;
        case GLOB:
            self->globs = true;
            break;
        }
    }
    return 0;
}

/* All that tells one scope of a contract from another. */
typedef struct {
    PyObject *rests;  /* borrowed */
    PyObject *fields; /* borrowed from the rules */
    uint8_t granted;
    uint8_t ceiling;
    uint8_t level;
    bool hidden;
    bool frozen;
    bool admin;
} scope_place;

static ScopeObject *
scope_make(module_state *st, ScopeObject *root, const scope_place *place)
{
    ScopeObject *self = PyObject_GC_New(ScopeObject, st->Scope_type);
    if (self == NULL) {
        return NULL;
    }
    self->root = root == NULL ? self : (ScopeObject *)Py_NewRef((PyObject *)root);
    self->owner = NULL;
    self->known = root == NULL ? PyDict_New() : NULL;
    self->rests = Py_NewRef(place->rests);
    self->children = PyDict_New();
    self->rules = NULL;
    self->fields = place->fields;
    atomic_init(&self->others, NULL);
    self->inner = self->outer = self->within = NULL;
    self->granted = place->granted;
    self->here = place->granted & place->ceiling;
    self->ceiling = place->ceiling;
    self->level = place->level;
    self->hidden = place->hidden;
    self->admin = place->admin;
    self->ended = false;
    self->below = 0;
    self->frozen = place->frozen;
    self->globs = false;
    PyObject_GC_Track(self);
    if (self->children == NULL || (root == NULL && self->known == NULL)
        || scope_describe(st, self) < 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return self;
}

ScopeObject *
scope_make_root(module_state *st, uint8_t granted, PyObject *rests, PyObject *owner, PyObject *rules, bool frozen,
                bool admin)
{
    scope_place place = {.rests = rests, .granted = granted, .ceiling = RIGHTS_ALL, .frozen = frozen, .admin = admin};
    ScopeObject *self = scope_make(st, NULL, &place);
    if (self != NULL) {
        self->owner = Py_XNewRef(owner);
        self->rules = Py_XNewRef(rules);
    }
    return self;
}

int
scope_recall(ScopeObject *root, PyObject *name, ScopeObject **out)
{
    PyObject *found = NULL;
    int known = PyDict_GetItemRef(root->known, name, &found);
    *out = (ScopeObject *)found;
    Py_XDECREF(found); /* root->known holds it */
    return known;
}

int
scope_remember(ScopeObject *root, PyObject *name, ScopeObject *made, ScopeObject **out)
{
    if (made == NULL) {
        return -1;
    }
    PyObject *kept = NULL;
    int known;
    Py_BEGIN_CRITICAL_SECTION(root);
    known = PyDict_GetItemRef(root->known, name, &kept);
    if (known == 0) {
        kept = Py_NewRef((PyObject *)made);
        known = PyDict_SetItem(root->known, name, kept) < 0 ? -1 : 1;
    }
    Py_END_CRITICAL_SECTION();
    *out = (ScopeObject *)kept;
    Py_XDECREF(kept); /* root->known holds it */
    Py_DECREF((PyObject *)made);
    return known;
}

/* The one scope of this contract for a place: 1 and *out (borrowed), 0 if nothing is declared, or -1. */
static int
scope_find(module_state *st, ScopeObject *root, scope_place *place, ScopeObject **out)
{
    if (root->ended || (place->granted == 0 && PyTuple_GET_SIZE(place->rests) == 0)) {
        return 0;
    }
    place->frozen = root->frozen;
    place->admin = root->admin;
    int bits = place->granted | place->ceiling << 8 | place->level << 16 | place->hidden << 20;
    PyObject *name = Py_BuildValue("(iON)", bits, place->rests, PyLong_FromVoidPtr(place->fields));
    int known = name == NULL ? -1 : scope_recall(root, name, out);
    if (known == 0) {
        known = scope_remember(root, name, scope_make(st, root, place), out);
    }
    Py_XDECREF(name);
    return known;
}

/* The place below `key` (NULL: below a key that no path and no zone names), as far as zones go. 0 or -1. */
static int
zone_below(const ScopeObject *self, PyObject *key, scope_place *place)
{
    uint8_t rights = RIGHTS_ALL;
    place->ceiling = self->ceiling;
    place->level = self->level < SCOPE_FIELD ? self->level + 1 : SCOPE_FIELD;
    if (self->level == 0 && zones_of_root(self->root->rules, key, &rights, &place->fields) < 0) {
        return -1;
    }
    if (self->level == 1) {
        if (zones_of_field(self->fields, key, &rights) < 0) {
            return -1;
        }
        place->hidden = !self->root->admin && (rights & RIGHT_READ) == 0 && (self->ceiling & RIGHT_READ) != 0;
    }
    place->ceiling &= self->root->admin ? zones_as_admin(rights) : rights;
    return 0;
}

/* Computes the scope below `key`: 1 and *out (borrowed), 0 or -1. */
static int
scope_advance(module_state *st, ScopeObject *self, PyObject *key, ScopeObject **out)
{
    rest_set set = {PyDict_New(), self->granted};
    scope_place place = {NULL};
    int result = set.found == NULL || zone_below(self, key, &place) < 0 ? -1 : 0;
    for (Py_ssize_t i = 0; result == 0 && i < PyTuple_GET_SIZE(self->rests); i++) {
        PyObject *rest = PyTuple_GET_ITEM(self->rests, i), *path = rest_path(rest);
        PyObject *first = PyTuple_GET_ITEM(path, 0);
        int matches = pattern_matches(st, first, key);
        if (matches <= 0) {
            result = matches;
            continue;
        }
        bool stays = pattern_kind(st, first) == ANY_DEPTH && PyTuple_GET_SIZE(path) > 1;
        PyObject *left = stays ? Py_NewRef(path) : PyTuple_GetSlice(path, 1, PY_SSIZE_T_MAX);
        result = left == NULL ? -1 : rests_add(st, &set, rest_rights(rest), left);
        Py_XDECREF(left);
    }
    PyObject *rests = result < 0 ? NULL : rests_finish(&set);
    place.rests = rests;
    place.granted = set.here;
    result = rests == NULL ? -1 : scope_find(st, self->root, &place, out);
    Py_XDECREF(rests);
    Py_XDECREF(set.found);
    return result;
}

/* ---- walking ------------------------------------------------------------------------ */

/* The scope of all keys that no path names. */
static int
step_to_others(ScopeObject *self, ScopeObject **child)
{
    PyObject *others = atomic_load(&self->others);
    if (others == NULL) {
        ScopeObject *found = NULL;
        int result = scope_advance(module_state_of_type(Py_TYPE(self)), self, NULL, &found);
        if (result < 0) {
            return -1;
        }
        PyObject *nobody = NULL;
        others = Py_NewRef(result == 1 ? (PyObject *)found : Py_None);
        if (!atomic_compare_exchange_strong(&self->others, &nobody, others)) {
            Py_DECREF(others); /* another thread has found the same */
        }
    }
    *child = (ScopeObject *)others;
    return others != Py_None;
}

enum { DEEPEST_TUPLE = 16 }; /* nobody declares a key deeper than that */

static bool
compares_as(PyTypeObject *type, PyTypeObject *builtin)
{
    return type->tp_hash == builtin->tp_hash && type->tp_richcompare == builtin->tp_richcompare;
}

/* May a declared path name this key? Those are literals. A key with a hash or an == of its own could be a declared one
 * here, and another one where the state is searched. `depth`: of tuples around it. */
static bool
can_be_named(PyObject *key, int depth)
{
    PyTypeObject *type = Py_TYPE(key);
    if (type == &PyUnicode_Type || compares_as(type, &PyUnicode_Type) || compares_as(type, &PyLong_Type)
        || compares_as(type, &PyFloat_Type) || compares_as(type, &PyBytes_Type)
        || compares_as(type, &PyComplex_Type) || key == Py_None) {
        return true;
    }
    if (type != &PyTuple_Type || depth == DEEPEST_TUPLE) {
        return false;
    }
    bool named = true;
    for (Py_ssize_t i = 0; named && i < PyTuple_GET_SIZE(key); i++) {
        named = can_be_named(PyTuple_GET_ITEM(key, i), depth + 1);
    }
    return named;
}

/* To a key that no path names as it is. */
static int
step_unnamed(ScopeObject *self, PyObject *key, ScopeObject **child)
{
    int apart = self->globs || (self->level == 1 && zones_of_name(key) != RIGHTS_ALL);
    PyObject *rules = self->level == 0 ? self->root->rules : self->fields;
    if (!apart && rules != NULL && PyUnicode_CheckExact(key)) {
        apart = PyDict_Contains(rules, key);
    }
    return apart < 0 ? -1
           : apart   ? scope_advance(module_state_of_type(Py_TYPE(self)), self, key, child)
                     : step_to_others(self, child);
}

int
scope_step(ScopeObject *self, PyObject *key, ScopeObject **child)
{
    if (self->below == 0 && self->level == SCOPE_FIELD) {
        *child = self;
        return self->granted != 0; /* 0: what is left of an admin scope */
    }
    if (self->inner != NULL) {
        return scope_step_both(self, key, child);
    }
    if (!can_be_named(key, 0)) {
        return PyObject_Hash(key) == -1 ? -1 : step_to_others(self, child);
    }
    PyObject *found;
    if (PyDict_GET_SIZE(self->children) == 0) {
        return step_unnamed(self, key, child);
    }
    int result = PyDict_GetItemRef(self->children, key, &found);
    if (result == 0) {
        return step_unnamed(self, key, child);
    }
    if (result == 1 && Py_IS_TYPE(found, Py_TYPE(self))) {
        *child = (ScopeObject *)found;
    }
    else if (result == 1) {
        /* Asked for with the declared key: True equals 1, too. */
        result = scope_advance(module_state_of_type(Py_TYPE(self)), self, found, child);
        if (result == 1 && PyDict_SetItem(self->children, found, (PyObject *)*child) < 0) {
            result = -1;
        }
    }
    Py_XDECREF(found); /* a scope is held by the root */
    return result;
}

int
scope_step_index(ScopeObject *self, Py_ssize_t index, ScopeObject **child)
{
    if (PyDict_GET_SIZE(self->children) == 0 && !self->globs) {
        if (self->below == 0 && self->level == SCOPE_FIELD) {
            *child = self;
            return self->granted != 0;
        }
        return self->inner != NULL ? scope_step_both_index(self, index, child) : step_to_others(self, child);
    }
    PyObject *key = PyLong_FromSsize_t(index);
    int result = key == NULL ? -1 : scope_step(self, key, child);
    Py_XDECREF(key);
    return result;
}

int
scope_walk(ScopeObject *self, PyObject *path, Py_ssize_t from, ScopeObject **end)
{
    for (Py_ssize_t i = from; i < PyTuple_GET_SIZE(path); i++) {
        int known = scope_step(self, PyTuple_GET_ITEM(path, i), &self);
        if (known <= 0) {
            return known;
        }
    }
    *end = self;
    return 1;
}
