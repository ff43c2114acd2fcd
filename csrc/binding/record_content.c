/* The content of records: from an instance and back, and what its class says to a change of it. */
#include "records.h"

#include "container_py.h"
#include "errors.h"

/* ---- from an instance -------------------------------------------------------------------- */

static int
insert_entry(HeapObject *heap, theus_container *edit, PyObject *key, theus_value value)
{
    uint64_t hash;
    if (key_hash(key, &hash) < 0) {
        return -1;
    }
    theus_status status = theus_container_insert(edit, hash, key, value, NULL);
    return status == THEUS_OK ? 0 : errors_fail(heap->st, status);
}

static int
load_attribute(HeapObject *heap, theus_container *edit, RecordClass *record, PyObject *name, PyObject *value,
               const freeze_path *at)
{
    theus_value frozen;
    freeze_path here = freeze_path_key(at, name);
    if (!PyUnicode_CheckExact(name)) {
        PyErr_Format(PyExc_TypeError, "an attribute of %R is named %R; a record has str names only", record->cls,
                     name);
        return -1;
    }
    if (freeze_value(heap, value, &here, &frozen) < 0) {
        return -1;
    }
    int stored = insert_entry(heap, edit, name, frozen);
    freeze_drop(heap, frozen);
    return stored;
}

/* `taken` is (values, given) as the plan gives it. */
static int
load_record(HeapObject *heap, theus_container *edit, RecordClass *record, PyObject *taken, const freeze_path *at)
{
    const module_state *st = heap->st;
    PyObject *values, *given, *key, *value;
    Py_ssize_t place = 0;
    if (!PyArg_ParseTuple(taken, "O!O", &PyDict_Type, &values, &given)
        || insert_entry(heap, edit, st->record_key, theus_value_of_atom(record)) < 0
        || (record->counts_given && insert_entry(heap, edit, st->given_key, theus_value_of_atom(given)) < 0)) {
        return -1;
    }
    Py_ssize_t size = PyDict_GET_SIZE(values);
    int result = 0;
    while (result == 0 && PyDict_Next(values, &place, &key, &value)) {
        Py_INCREF(key); /* freezing a part may run a body that has found the dict in the frame that made it */
        Py_INCREF(value);
        result = load_attribute(heap, edit, record, key, value, at);
        Py_DECREF(key);
        Py_DECREF(value);
        if (result == 0 && PyDict_GET_SIZE(values) != size) {
            PyErr_SetString(PyExc_RuntimeError, "the attributes changed while they were being copied");
            result = -1;
        }
    }
    return result;
}

int
record_freeze(HeapObject *heap, RecordClass *record, PyObject *object, const freeze_path *at, theus_value *out)
{
    PyObject *taken = PyObject_CallMethod(record->plan, "take", "O", object);
    theus_container *edit = taken == NULL ? NULL : container_new(heap, THEUS_MAP);
    int result = -1;
    if (edit != NULL) {
        freeze_path here = {.up = at, .index = -1, .source = object};
        theus_container_mark(edit, (uint8_t)(MARK_RECORD | (record->validates ? THEUS_MARK_ADMIT : 0)));
        result = load_record(heap, edit, record, taken, &here);
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
    Py_XDECREF(taken);
    return result;
}

/* ---- and back ---------------------------------------------------------------------------- */

PyObject *
record_values(HeapObject *heap, const theus_container *node, bool thawed)
{
    PyObject *values = PyDict_New();
    theus_cursor cursor;
    void *key;
    theus_value value;
    theus_cursor_init(&cursor, node, false);
    while (values != NULL && theus_cursor_next(&cursor, NULL, &key, &value)) {
        if (!PyUnicode_Check((PyObject *)key)) {
            continue; /* a hidden entry */
        }
        PyObject *object = thawed ? thaw_value(heap, value) : handle_wrap(heap, value);
        if (object == NULL || PyDict_SetItem(values, (PyObject *)key, object) < 0) {
            Py_CLEAR(values);
        }
        Py_XDECREF(object);
    }
    return values;
}

PyObject *
record_given(const RecordClass *record, const theus_container *node)
{
    return record->counts_given ? (PyObject *)theus_value_atom(theus_container_value_at(node, 1)) : Py_None;
}

PyObject *
record_thaw(HeapObject *heap, const theus_container *node)
{
    RecordClass *record = record_class_of(heap->st, node);
    if (record == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the record belongs to an engine that has been collected");
        return NULL;
    }
    PyObject *values = record_values(heap, node, true);
    return values == NULL ? NULL
                          : PyObject_CallMethod(record->plan, "make", "NO", values, record_given(record, node));
}

/* ---- the same content -------------------------------------------------------------------- */

static int containers_same(HeapObject *heap, const theus_container *a, const theus_container *b);

/* Stricter than ==: 1 is not True here, because a class may have turned one into the other. */
static int
values_same(HeapObject *heap, theus_value a, theus_value b)
{
    if (a == b) {
        return 1;
    }
    if (theus_value_kind(a) != theus_value_kind(b)) {
        return 0;
    }
    if (theus_value_kind(a) != THEUS_ATOM) {
        return containers_same(heap, theus_value_container(a), theus_value_container(b));
    }
    PyObject *left = (PyObject *)theus_value_atom(a), *right = (PyObject *)theus_value_atom(b);
    return Py_TYPE(left) == Py_TYPE(right) ? PyObject_RichCompareBool(left, right, Py_EQ) : 0;
}

/* What `in` has for the entry (pos, key) of a container of the same kind and count: 1, 0, -1. */
static int
find_like(HeapObject *heap, const theus_container *in, uint32_t pos, PyObject *key, theus_value *value)
{
    if (in->kind != THEUS_LIST) {
        return container_find(heap, in, key, &pos, value);
    }
    *value = theus_container_value_at(in, pos);
    return 1;
}

static int
containers_same(HeapObject *heap, const theus_container *a, const theus_container *b)
{
    theus_cursor cursor;
    uint32_t pos;
    void *key;
    theus_value value, other;
    if (a->kind != b->kind || a->mark != b->mark || a->count != b->count) {
        return 0;
    }
    if (nesting_enter(" in comparison") < 0) {
        return -1;
    }
    int same = 1;
    theus_cursor_init(&cursor, a, false);
    while (same == 1 && theus_cursor_next(&cursor, &pos, &key, &value)) {
        same = find_like(heap, b, pos, (PyObject *)key, &other);
        if (same == 1 && a->kind != THEUS_SET) {
            same = values_same(heap, value, other);
        }
    }
    nesting_leave();
    return same;
}

/* ---- what the class makes of a change ------------------------------------------------------ */

/* The names whose value is another one than when the body came. */
static PyObject *
written_names(HeapObject *heap, const theus_container *before, const theus_container *after)
{
    PyObject *names = PySet_New(NULL);
    theus_cursor cursor;
    uint32_t pos;
    void *key;
    theus_value value, old;
    theus_cursor_init(&cursor, after, false);
    while (names != NULL && theus_cursor_next(&cursor, NULL, &key, &value)) {
        int found = container_find(heap, before, (PyObject *)key, &pos, &old);
        if (found < 0
            || (PyUnicode_Check((PyObject *)key) && (found == 0 || old != value)
                && PySet_Add(names, (PyObject *)key) < 0)) {
            Py_CLEAR(names);
        }
    }
    PyObject *frozen = names == NULL ? NULL : PyFrozenSet_New(names);
    Py_XDECREF(names);
    return frozen;
}

/* What the class has raised becomes the cause of a RecordError with the path. */
static void
name_place(const module_state *st, const RecordClass *record, theus_cell *cell)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return; /* KeyboardInterrupt and the like go through */
    }
    PyObject *cause = PyErr_GetRaisedException();
    PyObject *path = draft_path_tuple(NULL, cell), *reason = PyObject_Str(cause), *error = NULL;
    if (path != NULL && reason != NULL) {
        error = PyObject_CallFunctionObjArgs(st->RecordError, path, record->cls, reason, NULL);
    }
    if (error != NULL) {
        PyException_SetCause(error, Py_NewRef(cause));
        PyException_SetContext(error, Py_NewRef(cause));
        PyErr_SetObject(st->RecordError, error);
    }
    Py_XDECREF(error);
    Py_XDECREF(reason);
    Py_XDECREF(path);
    Py_DECREF(cause);
}

/* The instance that the class makes of the content. New reference. */
static PyObject *
check_content(HeapObject *heap, RecordClass *record, theus_cell *cell, const theus_container *made)
{
    PyObject *values = record_values(heap, made, true), *instance = NULL;
    PyObject *written = record->counts_given ? written_names(heap, cell->first, made) : Py_NewRef(Py_None);
    if (values != NULL && written != NULL) {
        instance = PyObject_CallMethod(record->plan, "check", "OOO", values, record_given(record, made), written);
        if (instance == NULL) {
            name_place(heap->st, record, cell);
        }
    }
    Py_XDECREF(values);
    Py_XDECREF(written);
    return instance;
}

/* An edit of `made`, once there is something to change. */
typedef struct {
    HeapObject *heap;
    theus_container *made;
    theus_container *edit; /* NULL until then */
} grafting;

static int
begin_change(grafting *graft)
{
    if (graft->edit == NULL) {
        graft->edit = container_edit(graft->heap, graft->made);
    }
    return graft->edit == NULL ? -1 : 0;
}

/* Entries of `fresh` that `made` has not, or not the same. */
static int
take_over(grafting *graft, const theus_container *fresh, uint32_t *common)
{
    theus_cursor cursor;
    uint32_t pos;
    void *key;
    theus_value value, old;
    theus_cursor_init(&cursor, fresh, false);
    while (theus_cursor_next(&cursor, NULL, &key, &value)) {
        int found = container_find(graft->heap, graft->made, (PyObject *)key, &pos, &old);
        int same = found == 1 ? values_same(graft->heap, old, value) : found;
        *common += found == 1;
        if (same < 0
            || (same == 0
                && (begin_change(graft) < 0 || map_store(graft->heap, graft->edit, (PyObject *)key, value) < 0))) {
            return -1;
        }
    }
    return 0;
}

/* Entries of `made` that `fresh` has no more. */
static int
drop_missing(grafting *graft, const theus_container *fresh)
{
    theus_cursor cursor;
    uint32_t pos;
    void *key;
    theus_cursor_init(&cursor, graft->made, false);
    while (theus_cursor_next(&cursor, NULL, &key, NULL)) {
        int found = container_find(graft->heap, fresh, (PyObject *)key, &pos, NULL);
        if (found < 0
            || (found == 0
                && (begin_change(graft) < 0 || container_discard(graft->heap, graft->edit, (PyObject *)key) < 0))) {
            return -1;
        }
    }
    return 0;
}

/* `made` with the content of `fresh`: what is the same stays the same value word, so that those who read or wrote other
 * fields are not disturbed. Counted. */
static int
take_content(HeapObject *heap, theus_container *made, const theus_container *fresh, theus_container **out)
{
    grafting graft = {heap, made, NULL};
    uint32_t common = 0;
    int result = take_over(&graft, fresh, &common);
    if (result == 0 && common != made->count) {
        result = drop_missing(&graft, fresh);
    }
    if (result == 0 && graft.edit != NULL) {
        theus_status status = theus_edit_seal(graft.edit);
        result = status == THEUS_OK ? 0 : errors_fail(heap->st, status);
    }
    if (result < 0) {
        theus_container_release(graft.edit);
        return -1;
    }
    if (graft.edit == NULL) {
        theus_container_retain(made);
    }
    *out = graft.edit == NULL ? made : graft.edit;
    return 0;
}

/* May the entries of `fresh` go into `made`? A validation may give an instance of another class, which has other hidden
 * entries, or none to be asked for: then it is stored as a whole. */
static bool
is_alike(const module_state *st, const theus_container *made, const theus_container *fresh)
{
    return made->mark == fresh->mark && record_classes_equal(st, made, fresh);
}

int
record_admit(void *ctx, theus_cell *cell, theus_container *made, theus_container **out)
{
    HeapObject *heap = ctx;
    RecordClass *record = record_class_of(heap->st, made);
    if (record == NULL) { /* the collector has been here */
        theus_container_retain(made);
        *out = made;
        return 0;
    }
    theus_value fresh = THEUS_NONE;
    PyObject *instance = check_content(heap, record, cell, made);
    PyObject *path = instance == NULL ? NULL : draft_path_tuple(NULL, cell);
    int result = -1;
    if (path != NULL) {
        freeze_path at = freeze_path_top(path);
        result = freeze_value(heap, instance, &at, &fresh);
    }
    if (result == 0
        && (theus_value_kind(fresh) != THEUS_MAP || !record_is(theus_value_container(fresh)))) {
        PyErr_Format(PyExc_TypeError, "its validation gave %R, which is no record", instance);
        name_place(heap->st, record, cell);
        result = -1;
    }
    if (result == 0 && is_alike(heap->st, made, theus_value_container(fresh))) {
        result = take_content(heap, made, theus_value_container(fresh), out);
    }
    else if (result == 0) {
        *out = theus_value_container(fresh);
        theus_container_retain(*out);
    }
    if (fresh != THEUS_NONE) {
        freeze_drop(heap, fresh);
    }
    Py_XDECREF(path);
    Py_XDECREF(instance);
    return result;
}
