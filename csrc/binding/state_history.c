/* What a State knows of other versions: at, diff, shares, provenance. */
#include "state_object.h"

#include "diff.h"
#include "errors.h"
#include "txn_paths.h"

/* Version `number`, retained; NULL with an exception that names what was `asked` for. */
static theus_version *
version_at(StateObject *self, uint64_t number, PyObject *asked)
{
    theus_version *version = NULL;
    if (number == self->version->number) {
        theus_version_retain(self->version);
        return self->version;
    }
    uint64_t oldest = self->version->number, newest = oldest;
    theus_status status = number > newest ? THEUS_FUTURE : THEUS_GONE;
    if (self->engine != NULL) {
        theus_store_facts facts;
        theus_store_read_facts(self->engine->store, &facts);
        oldest = facts.oldest;
        newest = facts.version;
        status = theus_store_at(self->engine->store, number, &version);
    }
    if (status != THEUS_OK) {
        PyObject *error = PyObject_CallFunction(
            self->heap->st->VersionError, "OKK", asked, (unsigned long long)oldest,
            (unsigned long long)newest);
        if (error != NULL) {
            PyErr_SetObject(self->heap->st->VersionError, error);
            Py_DECREF(error);
        }
        return NULL;
    }
    return version;
}

/* A version named by a number or by a State (of any heap). */
static theus_version *
version_argument(StateObject *self, PyObject *argument)
{
    if (Py_TYPE(argument) == self->heap->st->State_type) {
        theus_version *version = state_of(argument)->version;
        theus_version_retain(version);
        return version;
    }
    if (!PyLong_Check(argument)) {
        PyErr_Format(PyExc_TypeError, "a version is an int or a State, not %R", argument);
        return NULL;
    }
    uint64_t number;
    return engine_parse_version(argument, &number) < 0 ? NULL : version_at(self, number, argument);
}

PyObject *
state_at(PyObject *op, PyObject *argument)
{
    StateObject *self = state_of(op);
    if (!PyLong_Check(argument)) {
        PyErr_Format(PyExc_TypeError, "at() needs the number of a version, not %R", argument);
        return NULL;
    }
    theus_version *version = version_argument(self, argument);
    return version == NULL ? NULL : state_new(self->heap, self->engine, version);
}

PyObject *
state_diff(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    StateObject *self = state_of(op);
    if (errors_check_count("diff", count, 1, 2) < 0) {
        return NULL;
    }
    theus_version *a = version_argument(self, args[0]);
    if (a == NULL) {
        return NULL;
    }
    HeapObject *heap_a = Py_TYPE(args[0]) == self->heap->st->State_type ? state_of(args[0])->heap : self->heap;
    HeapObject *heap_b = self->heap;
    theus_version *b = self->version;
    if (count == 2 && args[1] != Py_None) {
        b = version_argument(self, args[1]);
        if (b != NULL && Py_TYPE(args[1]) == self->heap->st->State_type) {
            heap_b = state_of(args[1])->heap;
        }
    }
    else {
        theus_version_retain(b);
    }
    PyObject *changes = b == NULL ? NULL : diff_containers(heap_a, a->root, heap_b, b->root);
    theus_version_release(a);
    theus_version_release(b);
    return changes;
}

/* The value word at a path, THEUS_NONE where nothing is: 0, or -1. */
static int
word_at(StateObject *self, PyObject *path, theus_value *word)
{
    theus_segment *segments;
    int found = state_find_path(self, path, &segments, word);
    PyMem_Free(segments);
    if (found == 0) {
        *word = THEUS_NONE;
    }
    return found < 0 ? -1 : 0;
}

PyObject *
state_shares(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    StateObject *self = state_of(op);
    theus_value here, there;
    if (errors_check_count("shares", count, 1, 2) < 0) {
        return NULL;
    }
    if (Py_TYPE(args[0]) != Py_TYPE(op)) {
        PyErr_Format(PyExc_TypeError, "shares() compares with another State, not with %R", args[0]);
        return NULL;
    }
    PyObject *path = count == 2 ? txn_path_argument(self->heap->st, args[1]) : PyTuple_New(0);
    int result = path == NULL || word_at(self, path, &here) < 0 || word_at(state_of(args[0]), path, &there) < 0;
    Py_XDECREF(path);
    return result != 0 ? NULL : PyBool_FromLong(here == there);
}

/* Does the engine's history hold this very version? A state made by update() has the number of another. */
static bool
is_in_history(StateObject *self)
{
    theus_version *version = NULL;
    if (self->engine == NULL
        || theus_store_at(self->engine->store, self->version->number, &version) != THEUS_OK) {
        return false;
    }
    theus_version_release(version);
    return version == self->version; /* which we hold: so the address is not another one's by now */
}

PyObject *
state_provenance(PyObject *op, PyObject *argument)
{
    StateObject *self = state_of(op);
    theus_segment *segments;
    theus_value value;
    PyObject *path = txn_path_argument(self->heap->st, argument);
    if (path == NULL) {
        return NULL;
    }
    PyObject *result = NULL;
    int found = state_find_path(self, path, &segments, &value);
    if (found >= 0 && !is_in_history(self)) {
        result = Py_NewRef(Py_None);
    }
    else if (found >= 0) {
        theus_version *made = NULL;
        theus_status status = theus_store_blame(self->engine->store, NULL, segments,
                                                (uint32_t)PyTuple_GET_SIZE(path), 0,
                                                self->version->number, &made);
        result = status != THEUS_OK ? errors_raise(self->heap->st, status)
                                    : record_wrap(self->heap, made == NULL ? NULL : made->record);
        theus_version_release(made);
    }
    PyMem_Free(segments);
    Py_DECREF(path);
    return result;
}
