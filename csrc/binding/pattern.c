/* Declared paths: their wildcards, and what is left of them on the way down. */
#include "pattern.h"

/* ---- wildcards ---------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *text; /* "*", "**", or text with "*" and "?" among other characters */
    segment_kind kind;
} WildcardObject;

segment_kind
pattern_kind(const module_state *st, PyObject *segment)
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

int
pattern_matches(const module_state *st, PyObject *segment, PyObject *key)
{
    switch (pattern_kind(st, segment)) {
    case LITERAL:
        return key == NULL ? 0 : PyObject_RichCompareBool(segment, key, Py_EQ);
    case GLOB:
        return key != NULL && PyUnicode_Check(key)
               && glob_matches(((WildcardObject *)segment)->text, key);
    default:
        return 1;
    }
}

/* ---- rests -------------------------------------------------------------------------- */

int
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
        || pattern_kind(st, PyTuple_GET_ITEM(path, 0)) != ANY_DEPTH) {
        return known < 0 ? -1 : 0;
    }
    PyObject *skipped = PyTuple_GetSlice(path, 1, PY_SSIZE_T_MAX);
    int result = skipped == NULL ? -1 : rests_add(st, set, rights, skipped);
    Py_XDECREF(skipped);
    return result;
}

PyObject *
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

int
add_wildcard_type(PyObject *module, module_state *st)
{
    return module_add_type(module, &wildcard_spec, &st->Wildcard_type);
}
