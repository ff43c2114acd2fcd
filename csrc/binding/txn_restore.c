/* restore(): the whole content becomes that of another state. */
#include "draft.h"
#include "errors.h"
#include "guard.h"
#include "state_type.h"
#include "txn_paths.h"
#include "value_py.h"

#include "../core/cell.h"

/* Is the root at `pos` still the very value that is wanted there? */
static bool
is_wanted(const theus_cell *root, uint32_t pos, theus_value there, theus_value wanted)
{
    const theus_cell *child = theus_cell_child_at(root, pos);
    return there == wanted && (child == NULL || !(child->touched || child->touched_below));
}

static int
restore_root(TxnObject *self, HeapObject *heap, PyObject *name, theus_value wanted)
{
    theus_cell *root = self->txn.root;
    uint64_t hash;
    uint32_t pos;
    theus_value there;
    int found = txn_cell_find(self, root, name, false, &hash, &pos, &there);
    if (found < 0 || (found == 1 && is_wanted(root, pos, there, wanted))) {
        return found < 0 ? -1 : 0;
    }
    PyObject *value = handle_wrap(heap, wanted); /* shared where the heap is ours, else copied */
    freeze_path place = freeze_path_key(NULL, name);
    int result = value == NULL ? -1 : txn_cell_set(self, root, NULL, &place, name, value);
    Py_XDECREF(value);
    return result;
}

/* The names of the roots that are there now. */
static PyObject *
root_names(const theus_cell *root)
{
    PyObject *names = PyList_New(0);
    theus_cursor cursor;
    void *name;
    theus_cursor_init(&cursor, root->now, false);
    while (names != NULL && theus_cursor_next(&cursor, NULL, &name, NULL)) {
        if (PyList_Append(names, name) < 0) {
            Py_CLEAR(names);
        }
    }
    return names;
}

static int
delete_others(TxnObject *self, theus_container *wanted)
{
    PyObject *names = root_names(self->txn.root);
    int result = names == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(names); i++) {
        PyObject *name = PyList_GET_ITEM(names, i);
        uint64_t hash;
        uint32_t pos;
        result = key_hash(name, &hash);
        if (result < 0) {
            break;
        }
        theus_find found = theus_container_find(wanted, NULL, hash, name, &pos, NULL);
        if (found == THEUS_FIND_FAILED) {
            result = errors_find_failed(self->heap->st);
        }
        else if (found == THEUS_ABSENT && txn_cell_delete(self, self->txn.root, name) < 0) {
            result = -1;
        }
    }
    Py_XDECREF(names);
    return result;
}

PyObject *
txn_method_restore(PyObject *op, PyObject *state)
{
    TxnObject *self = (TxnObject *)op;
    HeapObject *heap;
    theus_version *wanted = state_version(self->heap->st, state, &heap);
    if (wanted == NULL) {
        PyErr_Format(PyExc_TypeError, "restore() needs a State, such as engine.state.at(3), not %R", state);
        return NULL;
    }
    if (txn_enter(self) < 0) {
        return NULL;
    }
    if (self->guard != NULL && !scope_declares_write(self->guard)) {
        guard_refuse_write(self, self->guard, self->txn.root, NULL);
        txn_leave(self);
        return NULL;
    }
    theus_cell *root = self->txn.root;
    /* What was not written must be as it is in `wanted`, too: so whatever others change is a conflict. */
    theus_cell_read_all(root);
    theus_status status = root->deferred == NULL ? THEUS_OK : theus_cell_settle(root, NULL);
    int result = status == THEUS_OK ? delete_others(self, wanted->root) : txn_fail(self, status);
    theus_cursor cursor;
    void *name;
    theus_value value;
    theus_cursor_init(&cursor, wanted->root, false);
    while (result == 0 && theus_cursor_next(&cursor, NULL, &name, &value)) {
        result = restore_root(self, heap, name, value);
    }
    txn_leave(self);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}
