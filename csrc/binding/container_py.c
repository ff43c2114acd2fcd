/* Single steps and bulk loads of containers with Python keys. */
#include "container_py.h"

theus_container *
container_new(HeapObject *heap, theus_kind kind)
{
    theus_container *made;
    theus_status status = theus_container_new(heap->core, kind, &made);
    if (status != THEUS_OK) {
        errors_raise(heap->st, status);
        return NULL;
    }
    return made;
}

theus_container *
container_edit(HeapObject *heap, theus_container *base)
{
    theus_container *made;
    theus_status status = theus_edit_begin(base, &made);
    if (status != THEUS_OK) {
        errors_raise(heap->st, status);
        return NULL;
    }
    return made;
}

static inline int
checked(HeapObject *heap, theus_status status)
{
    return status == THEUS_OK ? 0 : errors_fail(heap->st, status);
}

/* ---- single steps ------------------------------------------------------------------ */

/* The position of a key in an edit, for writing there at once: 1, 0 or -1. */
static int
find_to_write(HeapObject *heap, theus_container *edit, PyObject *key, uint64_t *hash, uint32_t *pos)
{
    if (key_hash(key, hash) < 0) {
        return -1;
    }
    int found = container_find_hashed(heap, edit, key, *hash, pos, NULL);
    if (found >= 0 && edit->edit == 0) {
        return errors_fail(heap->st, THEUS_CHANGED);
    }
    return found;
}

int
map_store(HeapObject *heap, theus_container *edit, PyObject *key, theus_value value)
{
    uint64_t hash;
    uint32_t pos;
    int found = find_to_write(heap, edit, key, &hash, &pos);
    if (found < 0) {
        return -1;
    }
    return checked(heap, found ? theus_container_put(edit, pos, value)
                               : theus_container_insert(edit, hash, key, value, NULL));
}

int
map_store_object(HeapObject *heap, theus_container *edit, PyObject *key, PyObject *value,
                 const freeze_path *at)
{
    theus_value frozen;
    freeze_path here = freeze_path_key(at, key);
    if (freeze_value(heap, value, &here, &frozen) < 0) {
        return -1;
    }
    int result = map_store(heap, edit, key, frozen);
    freeze_drop(heap, frozen);
    return result;
}

int
set_add(HeapObject *heap, theus_container *edit, PyObject *element)
{
    uint64_t hash;
    uint32_t pos;
    int found = find_to_write(heap, edit, element, &hash, &pos);
    if (found != 0) {
        return found < 0 ? -1 : 0;
    }
    return checked(heap, theus_container_insert(edit, hash, element, THEUS_NONE, NULL));
}

int
container_discard(HeapObject *heap, theus_container *edit, PyObject *key)
{
    uint64_t hash;
    uint32_t pos;
    int found = find_to_write(heap, edit, key, &hash, &pos);
    if (found <= 0) {
        return found;
    }
    return checked(heap, theus_container_remove(edit, hash, pos)) < 0 ? -1 : 1;
}

int
list_append_values(HeapObject *heap, theus_container *edit, const theus_value *values,
                   uint32_t count)
{
    return checked(heap, theus_list_splice(edit, edit->span, 0, values, count));
}

/* ---- bulk loads ---------------------------------------------------------------------- */

/* From a frozen dict: of this heap its values are shared, of another one they are copied. */
static int
update_from_frozen(HeapObject *heap, theus_container *edit, HandleObject *source,
                   const freeze_path *at)
{
    theus_cursor cursor;
    void *key;
    theus_value value;
    bool shared = source->heap == heap;
    theus_cursor_init(&cursor, source->node, false);
    while (theus_cursor_next(&cursor, NULL, &key, &value)) {
        if (shared || theus_value_kind(value) == THEUS_ATOM) {
            if (map_store(heap, edit, (PyObject *)key, value) < 0) {
                return -1;
            }
            continue;
        }
        PyObject *handle = handle_wrap(source->heap, value);
        if (handle == NULL) {
            return -1;
        }
        int stored = map_store_object(heap, edit, (PyObject *)key, handle, at);
        Py_DECREF(handle);
        if (stored < 0) {
            return -1;
        }
    }
    return 0;
}

static int
update_from_dict(HeapObject *heap, theus_container *edit, PyObject *source, const freeze_path *at)
{
    Py_ssize_t place = 0, size = PyDict_GET_SIZE(source);
    PyObject *key, *value;
    int result = 0;
    Py_BEGIN_CRITICAL_SECTION(source);
    while (result == 0 && PyDict_Next(source, &place, &key, &value)) {
        Py_INCREF(key);
        Py_INCREF(value);
        result = map_store_object(heap, edit, key, value, at);
        Py_DECREF(key);
        Py_DECREF(value);
        if (result == 0 && PyDict_GET_SIZE(source) != size) {
            PyErr_SetString(PyExc_RuntimeError,
                            "dictionary changed size while it was being copied");
            result = -1;
        }
    }
    Py_END_CRITICAL_SECTION();
    return result;
}

static int
update_from_keys(HeapObject *heap, theus_container *edit, PyObject *source, PyObject *keys,
                 const freeze_path *at)
{
    PyObject *iterator = PyObject_GetIter(keys);
    if (iterator == NULL) {
        return -1;
    }
    int result = 0;
    PyObject *key;
    while (result == 0 && (key = PyIter_Next(iterator)) != NULL) {
        PyObject *value = PyObject_GetItem(source, key);
        result = value == NULL ? -1 : map_store_object(heap, edit, key, value, at);
        Py_XDECREF(value);
        Py_DECREF(key);
    }
    Py_DECREF(iterator);
    return result < 0 || PyErr_Occurred() ? -1 : 0;
}

/* One element of an iterable of pairs. */
static int
store_pair(HeapObject *heap, theus_container *edit, PyObject *item, Py_ssize_t index,
           const freeze_path *at)
{
    PyObject *pair = PySequence_Tuple(item);
    if (pair == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "element %zd is no pair of key and value but a %.200s",
                         index, Py_TYPE(item)->tp_name);
        }
        return -1;
    }
    int result = -1;
    if (PyTuple_GET_SIZE(pair) != 2) {
        PyErr_Format(PyExc_ValueError, "element %zd has %zd parts; a pair of key and value has 2",
                     index, PyTuple_GET_SIZE(pair));
    }
    else {
        result =
            map_store_object(heap, edit, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1), at);
    }
    Py_DECREF(pair);
    return result;
}

static int
update_from_pairs(HeapObject *heap, theus_container *edit, PyObject *source, const freeze_path *at)
{
    PyObject *iterator = PyObject_GetIter(source);
    if (iterator == NULL) {
        return -1;
    }
    int result = 0;
    PyObject *item;
    for (Py_ssize_t index = 0; result == 0 && (item = PyIter_Next(iterator)) != NULL; index++) {
        result = store_pair(heap, edit, item, index, at);
        Py_DECREF(item);
    }
    Py_DECREF(iterator);
    return result < 0 || PyErr_Occurred() ? -1 : 0;
}

int
map_update(HeapObject *heap, theus_container *edit, PyObject *source, const freeze_path *at)
{
    if (Py_IS_TYPE(source, heap->st->FrozenDict_type)) {
        return update_from_frozen(heap, edit, handle_of(source), at);
    }
    if (PyDict_CheckExact(source)) {
        return update_from_dict(heap, edit, source, at);
    }
    PyObject *method;
    if (PyObject_GetOptionalAttrString(source, "keys", &method) < 0) {
        return -1;
    }
    if (method == NULL) {
        return update_from_pairs(heap, edit, source, at);
    }
    PyObject *keys = PyObject_CallNoArgs(method);
    Py_DECREF(method);
    if (keys == NULL) {
        return -1;
    }
    int result = update_from_keys(heap, edit, source, keys, at);
    Py_DECREF(keys);
    return result;
}

int
set_update(HeapObject *heap, theus_container *edit, PyObject *source)
{
    PyObject *iterator = PyObject_GetIter(source);
    if (iterator == NULL) {
        return -1;
    }
    int result = 0;
    PyObject *element;
    while (result == 0 && (element = PyIter_Next(iterator)) != NULL) {
        result = set_add(heap, edit, element);
        Py_DECREF(element);
    }
    Py_DECREF(iterator);
    return result < 0 || PyErr_Occurred() ? -1 : 0;
}

/* Values on their way into a list: a leaf full. */
enum { BATCH = 32 };

typedef struct {
    HeapObject *heap;
    theus_container *edit;
    uint32_t count;
    theus_value values[BATCH];
} batch;

static int
batch_flush(batch *filled)
{
    uint32_t count = filled->count;
    filled->count = 0;
    int result = list_append_values(filled->heap, filled->edit, filled->values, count);
    for (uint32_t i = 0; i < count; i++) {
        freeze_drop(filled->heap, filled->values[i]);
    }
    return result;
}

static int
batch_add(batch *to, PyObject *object, const freeze_path *at)
{
    theus_value value;
    if (freeze_value(to->heap, object, at, &value) < 0) {
        return -1;
    }
    to->values[to->count++] = value;
    return to->count == BATCH ? batch_flush(to) : 0;
}

static int
extend_from_frozen(HeapObject *heap, theus_container *edit, const theus_container *source)
{
    theus_cursor cursor;
    theus_value values[BATCH];
    uint32_t count = 0;
    theus_cursor_init(&cursor, source, false);
    while (theus_cursor_next(&cursor, NULL, NULL, &values[count])) {
        if (++count == BATCH) {
            count = 0;
            if (list_append_values(heap, edit, values, BATCH) < 0) {
                return -1;
            }
        }
    }
    return list_append_values(heap, edit, values, count);
}

int
list_extend(HeapObject *heap, theus_container *edit, PyObject *source, const freeze_path *at)
{
    if (Py_IS_TYPE(source, heap->st->FrozenList_type) && handle_of(source)->heap == heap) {
        return extend_from_frozen(heap, edit, handle_of(source)->node);
    }
    batch filled; /* not initialised as a whole: the values are written before they are read */
    filled.heap = heap;
    filled.edit = edit;
    filled.count = 0;
    freeze_path here = freeze_path_index(at, 0);
    here.source = source;
    int result = 0;
    if (PyList_CheckExact(source)) {
        /* By index: freezing a part can run Python code that changes the list. */
        PyObject *part;
        for (; result == 0 && (part = list_part(source, here.index)) != NULL; here.index++) {
            result = batch_add(&filled, part, &here);
            Py_DECREF(part);
        }
    }
    else {
        PyObject *iterator = PyObject_GetIter(source), *part;
        if (iterator == NULL) {
            return -1;
        }
        for (; result == 0 && (part = PyIter_Next(iterator)) != NULL; here.index++) {
            result = batch_add(&filled, part, &here);
            Py_DECREF(part);
        }
        Py_DECREF(iterator);
        if (PyErr_Occurred()) {
            result = -1;
        }
    }
    if (result < 0) {
        for (uint32_t i = 0; i < filled.count; i++) {
            freeze_drop(heap, filled.values[i]);
        }
        return -1;
    }
    return filled.count > 0 ? batch_flush(&filled) : 0;
}
