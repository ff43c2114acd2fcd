/* Walks two versions together, descending only where they differ, and lists what changed.
 *
 * The core reports entries whose value words differ. Two equal atoms that are different objects are no change for people,
 * so atoms are compared with == here. Elements of sets are their own path and have no other value. */
#include "diff.h"

#include "errors.h"
#include "records.h"

typedef struct diff_step {
    const struct diff_step *up;
    PyObject *key; /* borrowed; NULL: index */
    uint32_t index;
} diff_step;

typedef struct {
    HeapObject *heap_a, *heap_b;
    PyObject *changes;
    const diff_step *at;
    theus_kind kind; /* of the containers being compared */
    bool record;     /* they are records */
} diff_run;

static PyObject *
step_path(const diff_step *last)
{
    Py_ssize_t length = 0;
    for (const diff_step *it = last; it != NULL; it = it->up) {
        length++;
    }
    PyObject *path = PyTuple_New(length);
    for (const diff_step *it = last; path != NULL && it != NULL; it = it->up) {
        PyObject *part = it->key != NULL ? Py_NewRef(it->key) : PyLong_FromUnsignedLong(it->index);
        if (part == NULL) {
            Py_CLEAR(path);
            break;
        }
        PyTuple_SET_ITEM(path, --length, part);
    }
    return path;
}

static PyObject *
shown(HeapObject *heap, theus_value value)
{
    return value == THEUS_NONE ? Py_NewRef(heap->st->MISSING) : handle_wrap(heap, value);
}

static int
add_change(diff_run *run, const diff_step *step, theus_value old, theus_value new)
{
    PyObject *before = shown(run->heap_a, old);
    PyObject *after = before == NULL ? NULL : shown(run->heap_b, new);
    PyObject *change = NULL;
    int same = 0, result = -1;
    if (after == NULL) {
        goto done;
    }
    if (old != THEUS_NONE && new != THEUS_NONE) {
        same = PyObject_RichCompareBool(before, after, Py_EQ);
        if (same != 0) {
            result = same < 0 ? -1 : 0;
            goto done;
        }
    }
    change = PyStructSequence_New(run->heap_a->st->Change_type);
    if (change == NULL) {
        goto done;
    }
    PyObject *path = step_path(step);
    PyStructSequence_SetItem(change, 0, path);
    PyStructSequence_SetItem(change, 1, Py_NewRef(before));
    PyStructSequence_SetItem(change, 2, Py_NewRef(after));
    result = path == NULL ? -1 : PyList_Append(run->changes, change);
done:
    Py_XDECREF(before);
    Py_XDECREF(after);
    Py_XDECREF(change);
    return result;
}

static int compare(diff_run *run, const diff_step *at, theus_container *a, theus_container *b);

static int
report(void *arg, theus_change_kind Py_UNUSED(kind), void *key, uint32_t pos_a, theus_value a,
       uint32_t pos_b, theus_value b)
{
    diff_run *run = arg;
    diff_step step = {run->at, key, a != THEUS_NONE ? pos_a : pos_b};
    if (run->record && !PyUnicode_Check((PyObject *)key)) {
        return 0; /* a hidden entry */
    }
    if (run->kind == THEUS_LIST) {
        step.key = NULL;
    }
    else if (run->kind == THEUS_SET && key == NULL) {
        step.key = theus_value_atom(a != THEUS_NONE ? a : b);
    }
    theus_kind nested = theus_value_kind(a);
    if (a != THEUS_NONE && b != THEUS_NONE && nested != THEUS_ATOM && nested == theus_value_kind(b)
        && record_classes_equal(run->heap_a->st, theus_value_container(a), theus_value_container(b))) {
        return compare(run, &step, theus_value_container(a), theus_value_container(b));
    }
    return add_change(run, &step, a, b);
}

static int
compare(diff_run *run, const diff_step *at, theus_container *a, theus_container *b)
{
    if (nesting_enter(" in diff()") < 0) {
        return -1;
    }
    diff_run inner = *run;
    theus_status status = THEUS_OK;
    inner.at = at;
    inner.kind = (theus_kind)a->kind;
    inner.record = record_is(a);
    int result = theus_container_diff(a, b, NULL, report, &inner, &status);
    if (result < 0 && !PyErr_Occurred()) {
        errors_raise(run->heap_a->st, status);
    }
    nesting_leave();
    return result;
}

PyObject *
diff_containers(HeapObject *heap_a, theus_container *a, HeapObject *heap_b, theus_container *b)
{
    diff_run run = {heap_a, heap_b, PyList_New(0), NULL, THEUS_MAP, false};
    if (run.changes != NULL && compare(&run, NULL, a, b) < 0) {
        Py_CLEAR(run.changes);
    }
    return run.changes;
}
