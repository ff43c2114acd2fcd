/* Python values into a heap. See freeze.h for the rules, atoms.c for what is taken by reference. */
#include "freeze.h"

#include "draft.h"

#include "atoms.h"
#include "container_py.h"
#include "records.h"
#include "tuples.h"

/* Nesting beyond this is refused even where Python's own limit is higher: every level
 * costs some hundred bytes of C stack. */
enum { MAX_DEPTH = 1000 };

/* ---- where we are -------------------------------------------------------------- */

PyObject *
freeze_path_tuple(const freeze_path *at)
{
    PyObject *steps = PyList_New(0);
    PyObject *prefix = NULL; /* borrowed */
    int failed = steps == NULL;
    for (; at != NULL && !failed; at = at->up) {
        PyObject *step = at->key != NULL  ? Py_NewRef(at->key)
                         : at->index >= 0 ? PyLong_FromSsize_t(at->index)
                                          : NULL;
        if (step != NULL) {
            failed = PyList_Append(steps, step) < 0;
            Py_DECREF(step);
        }
        else if (at->index >= 0) {
            failed = 1;
        }
        if (at->prefix != NULL) {
            prefix = at->prefix;
        }
    }
    PyObject *path = NULL;
    if (!failed && PyList_Reverse(steps) == 0) {
        path = PyList_AsTuple(steps);
    }
    Py_XDECREF(steps);
    if (path != NULL && prefix != NULL) {
        Py_SETREF(path, PySequence_Concat(prefix, path));
    }
    return path;
}

static int
refuse(HeapObject *heap, PyObject *object, const freeze_path *at, const char *advice)
{
    PyObject *path = freeze_path_tuple(at);
    if (path == NULL) {
        return -1;
    }
    errors_unfreezable(heap->st, path, object, advice);
    Py_DECREF(path);
    return -1;
}

/* Refuses a container that is being copied already, further up. */
static int
check_nesting(HeapObject *heap, PyObject *object, const freeze_path *at)
{
    int depth = 0;
    for (const freeze_path *level = at; level != NULL; level = level->up) {
        depth += level->source != NULL;
        if (level->source == object) {
            return refuse(heap, object, at,
                          "it contains itself; a state holds trees, so store a key or an "
                          "id in place of the inner one");
        }
    }
    if (depth > MAX_DEPTH) {
        PyErr_Format(PyExc_RecursionError, "the value is nested more than %d levels deep",
                     MAX_DEPTH);
        return -1;
    }
    return 0;
}

/* ---- builtin containers -------------------------------------------------------- */

/* The loops below take entries of a dict or set as distinct without asking, for as long as no
 * foreign code can have run since the start: as soon as a key or a value is not plain, hashing
 * or copying it may change the source under us, and a key may come twice. */

static int
load_dict_entry(HeapObject *heap, theus_container *edit, PyObject *key, PyObject *value,
                bool distinct, const freeze_path *at)
{
    if (!distinct) {
        return map_store_object(heap, edit, key, value, at);
    }
    theus_status status = theus_container_insert(edit, (uint64_t)object_hash(key), key,
                                                 theus_value_of_atom(value), NULL);
    return status == THEUS_OK ? 0 : errors_fail(heap->st, status);
}

static int
load_dict(HeapObject *heap, theus_container *edit, PyObject *dict, const freeze_path *at)
{
    Py_ssize_t place = 0, size = PyDict_GET_SIZE(dict);
    PyObject *key, *value;
    int result = 0;
    bool distinct = true;
    Py_BEGIN_CRITICAL_SECTION(dict);
    while (result == 0 && PyDict_Next(dict, &place, &key, &value)) {
        Py_INCREF(key);
        Py_INCREF(value);
        distinct = distinct && freeze_is_plain(key) && freeze_is_plain(value);
        result = load_dict_entry(heap, edit, key, value, distinct, at);
        Py_DECREF(key);
        Py_DECREF(value);
        if (result == 0 && PyDict_GET_SIZE(dict) != size) {
            PyErr_SetString(PyExc_RuntimeError,
                            "dictionary changed size while it was being copied");
            result = -1;
        }
    }
    Py_END_CRITICAL_SECTION();
    return result;
}

static int
load_set(HeapObject *heap, theus_container *edit, PyObject *set)
{
    /* Without a GIL another thread may take an element out and put it back, and it would come twice. */
    PyObject *source = THEUS_HAVE_GIL ? Py_NewRef(set) : PyFrozenSet_New(set), *element;
    PyObject *iterator = source == NULL ? NULL : PyObject_GetIter(source);
    Py_XDECREF(source);
    if (iterator == NULL) {
        return -1;
    }
    int result = 0;
    bool distinct = true;
    while (result == 0 && (element = PyIter_Next(iterator)) != NULL) {
        distinct = distinct && freeze_is_plain(element);
        if (distinct) {
            theus_status status = theus_container_insert(edit, (uint64_t)object_hash(element),
                                                         element, THEUS_NONE, NULL);
            result = status == THEUS_OK ? 0 : errors_fail(heap->st, status);
        }
        else {
            result = set_add(heap, edit, element);
        }
        Py_DECREF(element);
    }
    Py_DECREF(iterator);
    return result < 0 || PyErr_Occurred() ? -1 : 0;
}

static int
freeze_container(HeapObject *heap, theus_kind kind, PyObject *object, const freeze_path *at,
                 theus_value *out)
{
    if (check_nesting(heap, object, at) < 0
        || nesting_enter(" while a value was being frozen") < 0) {
        return -1;
    }
    int result = -1;
    theus_container *edit = container_new(heap, kind);
    if (edit != NULL) {
        freeze_path here = {.up = at, .index = -1, .source = object};
        result = kind == THEUS_MAP    ? load_dict(heap, edit, object, &here)
                 : kind == THEUS_LIST ? list_extend(heap, edit, object, at)
                                      : load_set(heap, edit, object);
        if (result == 0) {
            theus_status status = theus_edit_seal(edit);
            result = status == THEUS_OK ? 0 : errors_fail(heap->st, status);
        }
        if (result == 0) {
            *out = theus_value_of_container(edit);
        }
        else {
            theus_container_release(edit);
        }
    }
    nesting_leave();
    return result;
}

/* Mappings that are no exact dict go through a dict, which respects their own order. */
static int
freeze_mapping(HeapObject *heap, PyObject *object, const freeze_path *at, theus_value *out)
{
    if (check_nesting(heap, object, at) < 0) {
        return -1;
    }
    PyObject *copy = PyDict_New();
    if (copy == NULL) {
        return -1;
    }
    int result = PyDict_Update(copy, object);
    if (result == 0) {
        freeze_path here = {.up = at, .index = -1, .source = object};
        result = freeze_container(heap, THEUS_MAP, copy, &here, out);
    }
    Py_DECREF(copy);
    return result;
}

/* ---- tuples -------------------------------------------------------------------- */

/* A part of a tuple, as the tuple in the heap shall hold it: itself, or the handle of its
 * frozen copy. New reference. */
static PyObject *
freeze_part(HeapObject *heap, PyObject *part, const freeze_path *at)
{
    theus_value value;
    if (handle_kind(heap->st, part) != THEUS_ATOM && handle_of(part)->heap == heap) {
        return Py_NewRef(part);
    }
    if (freeze_value(heap, part, at, &value) < 0) {
        return NULL;
    }
    if (theus_value_kind(value) == THEUS_ATOM) {
        return (PyObject *)theus_value_atom(value);
    }
    return handle_new(heap, theus_value_container(value));
}

/* The tuple itself if all of its parts stay as they are, else a new one of the same type. New
 * reference. */
static PyObject *
freeze_tuple_parts(HeapObject *heap, PyObject *tuple, const freeze_path *at)
{
    Py_ssize_t size = PyTuple_GET_SIZE(tuple);
    PyObject *parts = NULL;
    freeze_path here = {.up = at, .source = tuple};
    for (here.index = 0; here.index < size; here.index++) {
        PyObject *part = PyTuple_GET_ITEM(tuple, here.index); /* borrowed from tuple */
        PyObject *frozen = freeze_part(heap, part, &here);
        if (frozen == NULL || tuple_replace(tuple, here.index, frozen, &parts) < 0) {
            Py_XDECREF(parts);
            return NULL;
        }
    }
    if (parts != NULL && !tuple_can_rebuild(Py_TYPE(tuple))) {
        Py_DECREF(parts);
        refuse(heap, tuple, at,
               "it has parts that can change, and its class cannot be rebuilt; store tuple(value)");
        return NULL;
    }
    return tuple_finish(tuple, parts);
}

static int
freeze_tuple(HeapObject *heap, PyObject *object, const freeze_path *at, theus_value *out)
{
    if (check_nesting(heap, object, at) < 0
        || nesting_enter(" while a value was being frozen") < 0) {
        return -1;
    }
    PyObject *made = freeze_tuple_parts(heap, object, at);
    nesting_leave();
    if (made == NULL) {
        return -1;
    }
    *out = theus_value_of_atom(made);
    return 0;
}

/* ---- frozen containers --------------------------------------------------------- */

static int
copy_entries(HeapObject *heap, const theus_container *source, theus_container *edit)
{
    theus_cursor cursor;
    void *key;
    theus_value value;
    theus_status status = THEUS_OK;
    theus_cursor_init(&cursor, source, false);
    while (status == THEUS_OK && theus_cursor_next(&cursor, NULL, &key, &value)) {
        theus_container *part = NULL;
        if (theus_value_kind(value) != THEUS_ATOM) {
            if (freeze_copy(heap, theus_value_container(value), &part) < 0) {
                return -1;
            }
            value = theus_value_of_container(part);
        }
        if (source->kind == THEUS_LIST) {
            status = theus_list_splice(edit, edit->span, 0, &value, 1);
        }
        else {
            /* The keys of the source are distinct, but their hashes are asked again: the container
             * does not keep them. */
            uint64_t hash;
            status =
                key_hash((PyObject *)key, &hash) < 0
                    ? THEUS_FOREIGN
                    : theus_container_insert(edit, hash, key,
                                             source->kind == THEUS_SET ? THEUS_NONE : value, NULL);
        }
        theus_container_release(part);
    }
    if (status == THEUS_OK) {
        status = theus_edit_seal(edit);
    }
    return status == THEUS_OK ? 0 : errors_fail(heap->st, status);
}

int
freeze_copy(HeapObject *heap, const theus_container *source, theus_container **out)
{
    if (nesting_enter(" while a frozen container was being copied") < 0) {
        return -1;
    }
    int result = -1;
    theus_container *edit = container_new(heap, (theus_kind)source->kind);
    if (edit != NULL) {
        theus_container_mark(edit, source->mark);
        result = copy_entries(heap, source, edit);
        if (result == 0) {
            *out = edit;
        }
        else {
            theus_container_release(edit);
        }
    }
    nesting_leave();
    return result;
}

static int
freeze_handle(HeapObject *heap, HandleObject *handle, theus_value *out)
{
    theus_container *node = handle->node;
    if (handle->heap == heap) {
        theus_container_retain(node);
    }
    else if (freeze_copy(heap, handle->node, &node) < 0) {
        return -1;
    }
    *out = theus_value_of_container(node);
    return 0;
}

/* ---- any value ----------------------------------------------------------------- */

/* What is neither atom nor mapping: an instance of a class of records, or refused. */
static int
freeze_instance(HeapObject *heap, PyObject *object, const freeze_path *at, theus_value *out)
{
    RecordClass *record;
    PyObject *advice = NULL;
    int found = record_class_find(heap->st, Py_TYPE(object), &record, &advice);
    if (found == 1) {
        found = -1;
        if (check_nesting(heap, object, at) == 0
            && nesting_enter(" while a value was being frozen") == 0) {
            found = record_freeze(heap, record, object, at, out);
            nesting_leave();
        }
        Py_DECREF((PyObject *)record);
        return found;
    }
    if (found == 0) {
        const char *why = advice == NULL ? atom_advice(heap->st, object) : PyUnicode_AsUTF8(advice);
        found = why == NULL ? -1 : refuse(heap, object, at, why);
    }
    Py_XDECREF(advice);
    return found;
}

/* A shared array: what is kept of it cannot be written, in this process either. */
static int
freeze_published(HeapObject *heap, PyObject *object, const freeze_path *at, theus_value *out)
{
    PyObject *held = PyObject_CallMethod(object, "_published", NULL);
    if (held == NULL) {
        return -1;
    }
    if (held == Py_None) {
        Py_DECREF(held);
        return refuse(heap, object, at,
                      "its data do not lie in a living block of shared memory, or in one that its owner, another process, may "
                      "still write; store engine.heavy.put(key, value)");
    }
    *out = theus_value_of_atom(held);
    return 0;
}

static int
freeze_other(HeapObject *heap, PyObject *object, const freeze_path *at, theus_value *out)
{
    switch (atom_judge(heap->st, object)) {
    case ATOM_ACCEPTED:
        *out = theus_value_of_atom(Py_NewRef(object));
        return 0;
    case ATOM_AS_DICT:
        return freeze_mapping(heap, object, at, out);
    case ATOM_PUBLISHED:
        return freeze_published(heap, object, at, out);
    case ATOM_REFUSED:
        return freeze_instance(heap, object, at, out);
    case ATOM_FAILED:
        break;
    }
    return -1;
}

int
freeze_any(HeapObject *heap, PyObject *object, const freeze_path *at, theus_value *out)
{
    PyTypeObject *type = Py_TYPE(object);
    if (freeze_is_plain(object) || type == &PyFrozenSet_Type) {
        /* The elements of a frozenset are held by the rule for keys: what has a hash keeps it. */
        *out = theus_value_of_atom(Py_NewRef(object));
        return 0;
    }
    if (type == &PyDict_Type) {
        return freeze_container(heap, THEUS_MAP, object, at, out);
    }
    if (type == &PyList_Type) {
        return freeze_container(heap, THEUS_LIST, object, at, out);
    }
    if (type == &PySet_Type) {
        return freeze_container(heap, THEUS_SET, object, at, out);
    }
    if (PyTuple_Check(object) && type->tp_dictoffset == 0) {
        return freeze_tuple(heap, object, at, out);
    }
    if (handle_kind(heap->st, object) != THEUS_ATOM) {
        return freeze_handle(heap, handle_of(object), out);
    }
    if (draft_check(heap->st, object)) {
        return draft_freeze(heap, object, out);
    }
    return freeze_other(heap, object, at, out);
}

PyObject *
freeze_object(module_state *st, PyObject *object)
{
    if (freeze_is_plain(object) || handle_kind(st, object) != THEUS_ATOM) {
        return Py_NewRef(object);
    }
    HeapObject *heap = heap_new(st);
    if (heap == NULL) {
        return NULL;
    }
    PyObject *result = NULL;
    theus_value value;
    if (freeze_value(heap, object, NULL, &value) == 0) {
        result = theus_value_kind(value) == THEUS_ATOM
                     ? (PyObject *)theus_value_atom(value)
                     : handle_new(heap, theus_value_container(value));
    }
    Py_DECREF((PyObject *)heap);
    return result;
}

PyObject *
module_freeze(PyObject *module, PyObject *object)
{
    return freeze_object(module_state_of(module), object);
}
