/* Compiling paths to scopes, and walking them. */
#include "scope.h"

#include "errors.h"
#include "zones.h"

#include <stddef.h>

/* ---- wildcards ---------------------------------------------------------------------- */

typedef enum { LITERAL, ANY_KEY, ANY_DEPTH, GLOB } segment_kind;

typedef struct {
    PyObject_HEAD
    PyObject *text; /* "*", "**", or text with "*" and "?" among other characters */
    segment_kind kind;
} WildcardObject;

static segment_kind
kind_of(const module_state *st, PyObject *segment)
{
    return Py_IS_TYPE(segment, st->Wildcard_type) ? ((WildcardObject *)segment)->kind : LITERAL;
}

/* Does a text match a pattern, as file names do? When a "*" took too little, it takes one
 * character more; only the last one needs that, so this is no recursion. */
static bool
glob_matches(PyObject *pattern, PyObject *text)
{
    Py_ssize_t p = 0, t = 0, star = -1, taken = 0;
    Py_ssize_t pattern_end = PyUnicode_GET_LENGTH(pattern), end = PyUnicode_GET_LENGTH(text);
    while (t < end) {
        Py_UCS4 wanted = p < pattern_end ? PyUnicode_READ_CHAR(pattern, p) : 0;
        if (p < pattern_end && wanted == '*') {
            star = p++;
            taken = t;
        }
        else if (p < pattern_end && (wanted == '?' || wanted == PyUnicode_READ_CHAR(text, t))) {
            p++;
            t++;
        }
        else if (star >= 0) {
            p = star + 1;
            t = ++taken;
        }
        else {
            return false;
        }
    }
    while (p < pattern_end && PyUnicode_READ_CHAR(pattern, p) == '*') {
        p++;
    }
    return p == pattern_end;
}

static PyObject *
wildcard_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"text", NULL};
    PyObject *text;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "U:Wildcard", names, &text)) {
        return NULL;
    }
    WildcardObject *self = (WildcardObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->text = Py_NewRef(text);
        self->kind = PyUnicode_CompareWithASCIIString(text, "*") == 0    ? ANY_KEY
                     : PyUnicode_CompareWithASCIIString(text, "**") == 0 ? ANY_DEPTH
                                                                         : GLOB;
    }
    return (PyObject *)self;
}

static void
wildcard_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    Py_DECREF(((WildcardObject *)op)->text);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
wildcard_repr(PyObject *op)
{
    return Py_NewRef(((WildcardObject *)op)->text);
}

static PyType_Slot wildcard_slots[] = {
    {Py_tp_doc, "A segment of a declared path that stands for more than one key."},
    {Py_tp_new, wildcard_new},
    {Py_tp_dealloc, wildcard_dealloc},
    {Py_tp_repr, wildcard_repr},
    {0, NULL},
};

static PyType_Spec wildcard_spec = {
    .name = "theus._theus.Wildcard",
    .basicsize = sizeof(WildcardObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = wildcard_slots,
};

/* ---- making scopes ------------------------------------------------------------------ */

/* The rests of a scope to be, and the rights that are complete already. */
typedef struct {
    PyObject *found; /* dict with a rest as key: each once, in the order in which they were declared */
    uint8_t here;
} rest_set;

static uint8_t
rest_rights(PyObject *rest)
{
    return (uint8_t)PyLong_AsLong(PyTuple_GET_ITEM(rest, 0));
}

static PyObject *
rest_path(PyObject *rest)
{
    return PyTuple_GET_ITEM(rest, 1);
}

/* Adds a rest, each once. One that begins with "**" also adds what follows it, since "**" may stand
 * for no segment at all; at the end it stands for at least one. */
static int
rests_add(const module_state *st, rest_set *set, uint8_t rights, PyObject *path)
{
    if (PyTuple_GET_SIZE(path) == 0) {
        set->here |= rights;
        return 0;
    }
    PyObject *rest = Py_BuildValue("(iO)", rights, path);
    int known = rest == NULL ? -1 : PyDict_Contains(set->found, rest);
    if (known == 0 && PyDict_SetItem(set->found, rest, Py_None) < 0) {
        known = -1;
    }
    Py_XDECREF(rest);
    if (known != 0 || PyTuple_GET_SIZE(path) == 1
        || kind_of(st, PyTuple_GET_ITEM(path, 0)) != ANY_DEPTH) {
        return known < 0 ? -1 : 0;
    }
    PyObject *skipped = PyTuple_GetSlice(path, 1, PY_SSIZE_T_MAX);
    int result = skipped == NULL ? -1 : rests_add(st, set, rights, skipped);
    Py_XDECREF(skipped);
    return result;
}

/* The rests as a tuple, without those whose rights are complete. */
static PyObject *
rests_finish(rest_set *set)
{
    PyObject *alive = PyList_New(0), *rest, *ignored;
    Py_ssize_t i = 0; /* the dict is ours alone */
    while (alive != NULL && PyDict_Next(set->found, &i, &rest, &ignored)) {
        if ((rest_rights(rest) & ~set->here) != 0 && PyList_Append(alive, rest) < 0) {
            Py_CLEAR(alive);
        }
    }
    PyObject *result = alive == NULL ? NULL : PyList_AsTuple(alive);
    Py_XDECREF(alive);
    return result;
}

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
        switch (kind_of(st, first)) {
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

/* A root with these paths; `owner` and `rules` may be NULL. New reference. */
static ScopeObject *
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
    PyObject *name = Py_BuildValue("(iON)", bits, place->rests, PyLong_FromVoidPtr(place->fields)), *found = NULL;
    if (name == NULL) {
        return -1;
    }
    int known;
    Py_BEGIN_CRITICAL_SECTION(root);
    known = PyDict_GetItemRef(root->known, name, &found);
    if (known == 0) {
        found = (PyObject *)scope_make(st, root, place);
        known = found == NULL ? -1 : PyDict_SetItem(root->known, name, found) < 0 ? -1 : 1;
    }
    Py_END_CRITICAL_SECTION();
    *out = (ScopeObject *)found;
    Py_XDECREF(found); /* root->known holds it */
    Py_DECREF(name);
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

/* Does the first segment of a rest stand for `key`? NULL: for a key that no path names. */
static int
segment_matches(const module_state *st, PyObject *segment, PyObject *key)
{
    switch (kind_of(st, segment)) {
    case LITERAL:
        return key == NULL ? 0 : PyObject_RichCompareBool(segment, key, Py_EQ);
    case GLOB:
        return key != NULL && PyUnicode_Check(key)
               && glob_matches(((WildcardObject *)segment)->text, key);
    default:
        return 1;
    }
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
        int matches = segment_matches(st, first, key);
        if (matches <= 0) {
            result = matches;
            continue;
        }
        bool stays = kind_of(st, first) == ANY_DEPTH && PyTuple_GET_SIZE(path) > 1;
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
scope_of_everything(module_state *st, bool admin)
{
    PyObject *rests = PyTuple_New(0);
    ScopeObject *self
        = rests == NULL ? NULL : scope_make_root(st, RIGHTS_ALL, rests, NULL, NULL, false, admin);
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
             "`frozen`: the process is shown frozen values. Immutable; may be shared by threads.");

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
    return module_add_type(module, &wildcard_spec, &st->Wildcard_type) < 0
                   || module_add_type(module, &scope_spec, &st->Scope_type) < 0
               ? -1
               : 0;
}
