/* Values of a heap back to independent builtins. */
#include "freeze.h"

#include "draft.h"

#include "errors.h"
#include "records.h"
#include "tuples.h"

static PyObject *
thaw_map(HeapObject *heap, const theus_container *node)
{
    PyObject *dict = PyDict_New();
    theus_cursor cursor;
    void *key;
    theus_value value;
    theus_cursor_init(&cursor, node, false);
    while (dict != NULL && theus_cursor_next(&cursor, NULL, &key, &value)) {
        PyObject *thawed = thaw_value(heap, value);
        if (thawed == NULL || PyDict_SetItem(dict, (PyObject *)key, thawed) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(thawed);
    }
    return dict;
}

static PyObject *
thaw_list(HeapObject *heap, const theus_container *node)
{
    PyObject *list = PyList_New(node->count);
    theus_cursor cursor;
    uint32_t pos;
    theus_value value;
    theus_cursor_init(&cursor, node, false);
    while (list != NULL && theus_cursor_next(&cursor, &pos, NULL, &value)) {
        PyObject *thawed = thaw_value(heap, value);
        if (thawed == NULL) {
            Py_CLEAR(list);
        }
        else {
            PyList_SET_ITEM(list, pos, thawed);
        }
    }
    return list;
}

static PyObject *
thaw_set(const theus_container *node)
{
    PyObject *set = PySet_New(NULL);
    theus_cursor cursor;
    theus_value element;
    theus_cursor_init(&cursor, node, false);
    while (set != NULL && theus_cursor_next(&cursor, NULL, NULL, &element)) {
        if (PySet_Add(set, (PyObject *)theus_value_atom(element)) < 0) {
            Py_CLEAR(set);
        }
    }
    return set;
}

static PyObject *
thaw_container(HeapObject *heap, const theus_container *node)
{
    if (nesting_enter(" while a frozen container was being thawed") < 0) {
        return NULL;
    }
    PyObject *result = record_is(node)            ? record_thaw(heap, node)
                       : node->kind == THEUS_MAP  ? thaw_map(heap, node)
                       : node->kind == THEUS_LIST ? thaw_list(heap, node)
                                                  : thaw_set(node);
    nesting_leave();
    return result;
}

static PyObject *
thaw_tuple(module_state *st, PyObject *tuple)
{
    if (nesting_enter(" while a tuple was being thawed") < 0) {
        return NULL;
    }
    PyObject *parts = NULL, *result = NULL;
    bool failed = false;
    for (Py_ssize_t i = 0; !failed && i < PyTuple_GET_SIZE(tuple); i++) {
        PyObject *part = thaw_object(st, PyTuple_GET_ITEM(tuple, i));
        failed = part == NULL || tuple_replace(tuple, i, part, &parts) < 0;
    }
    if (failed) {
        Py_XDECREF(parts);
    }
    else {
        result = tuple_finish(tuple, parts);
    }
    nesting_leave();
    return result;
}

PyObject *
thaw_object(module_state *st, PyObject *object)
{
    if (handle_kind(st, object) != THEUS_ATOM) {
        return thaw_container(handle_of(object)->heap, handle_of(object)->node);
    }
    if (draft_check(st, object)) {
        return draft_thaw(object);
    }
    if (PyTuple_Check(object) && tuple_can_rebuild(Py_TYPE(object))) {
        return thaw_tuple(st, object);
    }
    return Py_NewRef(object);
}

PyObject *
thaw_value(HeapObject *heap, theus_value value)
{
    if (theus_value_kind(value) != THEUS_ATOM) {
        return thaw_container(heap, theus_value_container(value));
    }
    PyObject *atom = (PyObject *)theus_value_atom(value);
    return PyTuple_Check(atom) ? thaw_object(heap->st, atom) : Py_NewRef(atom);
}

PyObject *
module_thaw(PyObject *module, PyObject *object)
{
    return thaw_object(module_state_of(module), object);
}
