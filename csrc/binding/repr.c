/* Short texts of containers. */
#include "repr.h"

#include "records.h"

/* A dict of settings fits on a few lines; a table of a million rows does not flood a log. */
enum {
    OUTER_ENTRIES = 12, /* shown of the container itself */
    INNER_ENTRIES = 5,  /* shown of containers inside */
    DEPTH = 4,          /* containers below this are only hinted at */
    ATOM_LENGTH = 100,  /* longer texts are cut in the middle */
};

static int
put_text(PyObject *texts, const char *text)
{
    PyObject *piece = PyUnicode_FromString(text);
    if (piece == NULL) {
        return -1;
    }
    int result = PyList_Append(texts, piece);
    Py_DECREF(piece);
    return result;
}

static int
put_atom(PyObject *texts, PyObject *atom)
{
    PyObject *text = PyObject_Repr(atom);
    if (text == NULL) {
        return -1;
    }
    Py_ssize_t length = PyUnicode_GET_LENGTH(text);
    if (length > ATOM_LENGTH) {
        PyObject *head = PyUnicode_Substring(text, 0, ATOM_LENGTH / 2);
        PyObject *tail = PyUnicode_Substring(text, length - ATOM_LENGTH / 4, length);
        Py_DECREF(text);
        text = head != NULL && tail != NULL ? PyUnicode_FromFormat("%U...%U", head, tail) : NULL;
        Py_XDECREF(head);
        Py_XDECREF(tail);
        if (text == NULL) {
            return -1;
        }
    }
    int result = PyList_Append(texts, text);
    Py_DECREF(text);
    return result;
}

static int put_container(PyObject *texts, HeapObject *heap, const theus_container *container, iterate_what what,
                         int depth);

static int
put_value(PyObject *texts, HeapObject *heap, theus_value value, int depth)
{
    if (theus_value_kind(value) == THEUS_ATOM) {
        return put_atom(texts, (PyObject *)theus_value_atom(value));
    }
    if (record_is(theus_value_container(value))) { /* as its class writes it, which may leave things out */
        PyObject *view = handle_wrap(heap, value);
        int result = view == NULL ? -1 : put_atom(texts, view);
        Py_XDECREF(view);
        return result;
    }
    return put_container(texts, heap, theus_value_container(value), ITERATE_ITEMS, depth + 1);
}

/* Maps: "key: value", or only one of the two. */
static int
put_entry(PyObject *texts, HeapObject *heap, PyObject *key, theus_value value, iterate_what what, int depth)
{
    if (key == NULL || what == ITERATE_VALUES) {
        return put_value(texts, heap, value, depth);
    }
    if (put_atom(texts, key) < 0) {
        return -1;
    }
    if (what == ITERATE_KEYS) {
        return 0;
    }
    return put_text(texts, ": ") < 0 ? -1 : put_value(texts, heap, value, depth);
}

static int
put_entries(PyObject *texts, HeapObject *heap, const theus_container *container, iterate_what what, int depth)
{
    theus_cursor cursor;
    void *key;
    theus_value value;
    uint32_t shown = 0, limit = depth == 0 ? OUTER_ENTRIES : INNER_ENTRIES;
    theus_cursor_init(&cursor, container, false);
    while (shown < limit && theus_cursor_next(&cursor, NULL, &key, &value)) {
        if (container->kind != THEUS_MAP) {
            key = NULL;
        }
        if ((shown++ > 0 && put_text(texts, ", ") < 0)
            || put_entry(texts, heap, (PyObject *)key, value, what, depth) < 0) {
            return -1;
        }
    }
    if (shown < container->count) {
        char rest[48];
        PyOS_snprintf(rest, sizeof(rest), ", ... %lu more",
                      (unsigned long)(container->count - shown));
        return put_text(texts, rest);
    }
    return 0;
}

static int
put_container(PyObject *texts, HeapObject *heap, const theus_container *container, iterate_what what, int depth)
{
    static const struct {
        const char *open, *close, *empty, *hint;
    } looks[] = {
        [THEUS_MAP] = {"{", "}", "{}", "{...}"},
        [THEUS_LIST] = {"[", "]", "[]", "[...]"},
        [THEUS_SET] = {"{", "}", "set()", "{...}"},
    };
    theus_kind kind = what == ITERATE_ITEMS ? (theus_kind)container->kind : THEUS_LIST;
    if (container->count == 0) {
        return put_text(texts, kind == THEUS_SET && depth == 0 ? "" : looks[kind].empty);
    }
    if (depth >= DEPTH) {
        return put_text(texts, looks[kind].hint);
    }
    if (put_text(texts, looks[kind].open) < 0 || put_entries(texts, heap, container, what, depth) < 0) {
        return -1;
    }
    return put_text(texts, looks[kind].close);
}

PyObject *
container_repr_part(const char *name, HeapObject *heap, const theus_container *container, iterate_what what)
{
    PyObject *result = NULL, *texts = PyList_New(0), *nothing = PyUnicode_FromString("");
    if (texts != NULL && nothing != NULL && put_container(texts, heap, container, what, 0) == 0) {
        PyObject *inside = PyUnicode_Join(nothing, texts);
        if (inside != NULL) {
            result = PyUnicode_FromFormat("%s(%U)", name, inside);
            Py_DECREF(inside);
        }
    }
    Py_XDECREF(texts);
    Py_XDECREF(nothing);
    return result;
}

PyObject *
container_repr(const char *name, HeapObject *heap, const theus_container *container)
{
    return container_repr_part(name, heap, container, ITERATE_ITEMS);
}

PyObject *
handle_repr(PyObject *op)
{
    static const char *const names[] = {
        [THEUS_MAP] = "FrozenDict",
        [THEUS_LIST] = "FrozenList",
        [THEUS_SET] = "FrozenSet",
    };
    const HandleObject *self = handle_of(op);
    const char *name = names[self->node->kind];
    int inside = Py_ReprEnter(op); /* an opaque object may lead back here */
    if (inside != 0) {
        return inside < 0 ? NULL : PyUnicode_FromFormat("%s(...)", name);
    }
    if (nesting_enter(" while getting the repr of a frozen container") < 0) {
        Py_ReprLeave(op);
        return NULL;
    }
    PyObject *result = container_repr(name, self->heap, self->node);
    nesting_leave();
    Py_ReprLeave(op);
    return result;
}
