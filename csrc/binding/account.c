/* Accounts: noted first, made into Python objects when the transaction has been left, as in operations.c. */
#include "account.h"

#include "draft.h"
#include "errors.h"
#include "freeze.h"
#include "outgoing.h"
#include "records.h"
#include "txn_paths.h"
#include "value_py.h"

#include "../core/account.h"
#include "../core/cell.h"

/* They are sent from process to process, of one version of the package. */
typedef enum {
    SAW_VALUE = THEUS_SAW_VALUE,
    SAW_NOTHING = THEUS_SAW_NOTHING,
    SAW_KEYS = THEUS_SAW_KEYS,
    SAW_ALL = THEUS_SAW_ALL,
    SET,
    DELETE,
    SET_AGAIN, /* to what stands there already */
    ADD,
    APPEND,
    MERGE,
} entry_kind;

typedef struct noted_entry {
    struct noted_entry *next;
    entry_kind kind;
    theus_value operand; /* counted; THEUS_NONE: there is none */
    PyObject *resolver;  /* owned; or NULL */
    uint32_t length;
    theus_segment path[]; /* keys owned */
} noted_entry;

typedef struct {
    TxnObject *txn;
    noted_entry *first;
    noted_entry **end;
    bool writes;              /* some are SET */
    theus_container *content; /* of the whole; counted; or NULL */
    theus_container *attached[THEUS_ATTACHMENTS]; /* counted */
} account;

/* ---- noting: entered, runs no Python code ----------------------------------------------- */

static noted_entry *
note(account *self, entry_kind kind, const theus_segment *path, uint32_t length)
{
    noted_entry *one = PyMem_Malloc(sizeof(*one) + length * sizeof(*path));
    if (one == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    *one = (noted_entry){.kind = kind, .operand = THEUS_NONE, .length = length};
    for (uint32_t i = 0; i < length; i++) {
        one->path[i] = path[i];
        Py_XINCREF((PyObject *)path[i].key);
    }
    *self->end = one;
    self->end = &one->next;
    return one;
}

static int
note_sight(void *arg, theus_sight what, const theus_segment *path, uint32_t length)
{
    return note(arg, (entry_kind)what, path, length) == NULL ? -1 : 0;
}

static int
note_write(account *self, entry_kind kind, const theus_segment *path, uint32_t length)
{
    if (length > THEUS_ACCOUNT_DEPTH) {
        length = THEUS_ACCOUNT_DEPTH;
        kind = SET;
        if (note(self, SAW_ALL, path, length) == NULL) {
            return -1;
        }
    }
    self->writes |= kind == SET;
    return note(self, kind, path, length) == NULL ? -1 : 0;
}

static int
note_operation(void *arg, theus_op_kind kind, const theus_segment *path, uint32_t length)
{
    /* Deferred ones come with their operands, from theus_txn_deferrals(). */
    return kind == THEUS_OP_SET      ? note_write(arg, SET, path, length)
           : kind == THEUS_OP_DELETE ? note_write(arg, DELETE, path, length)
                                     : 0;
}

static int
note_idle(void *arg, theus_op_kind kind, const theus_segment *path, uint32_t length)
{
    (void)kind;
    return note_write(arg, SET_AGAIN, path, length);
}

static int
note_deferral(void *arg, theus_deferred_kind kind, const theus_segment *path, uint32_t length, theus_value operand,
              void *resolver)
{
    account *self = arg;
    noted_entry *one = note(self, (entry_kind)(ADD + (int)kind), path, length);
    if (one == NULL) {
        return -1;
    }
    theus_value_retain(self->txn->heap->core, operand);
    one->operand = operand;
    one->resolver = Py_XNewRef((PyObject *)resolver);
    return 0;
}

static int
note_all(account *self)
{
    theus_txn *txn = &self->txn->txn;
    theus_status status = theus_txn_settle_untold(txn);
    if (status == THEUS_OK && (theus_txn_sights(txn, note_sight, self) != 0
                               || theus_txn_operations(txn, note_operation, self) != 0
                               || theus_txn_idle_writes(txn, note_idle, self) != 0
                               || theus_txn_deferrals(txn, note_deferral, self) != 0)) {
        return -1;
    }
    if (status == THEUS_OK && self->writes) {
        status = theus_cell_content(txn->root, &self->content);
    }
    if (status != THEUS_OK) {
        return txn_fail(self->txn, status);
    }
    theus_attach_all(txn->attached, self->attached);
    return 0;
}

static void
account_fini(account *self)
{
    for (noted_entry *one = self->first, *next; one != NULL; one = next) {
        next = one->next;
        for (uint32_t i = 0; i < one->length; i++) {
            Py_XDECREF((PyObject *)one->path[i].key);
        }
        theus_value_release(self->txn->heap->core, one->operand);
        Py_XDECREF(one->resolver);
        PyMem_Free(one);
    }
    theus_container_release(self->content);
    theus_detach(self->attached);
}

/* ---- made into objects ------------------------------------------------------------------ */

/* What stands at a path of the content. New reference. */
static PyObject *
value_at(const account *self, const noted_entry *one)
{
    HeapObject *heap = self->txn->heap;
    theus_value value = theus_value_of_container(self->content);
    for (uint32_t i = 0; i < one->length; i++) {
        const theus_container *up = theus_value_container(value);
        PyObject *key = (PyObject *)one->path[i].key;
        uint32_t pos = one->path[i].index;
        theus_find found = THEUS_ABSENT;
        uint64_t hash;
        if (theus_value_kind(value) == THEUS_ATOM) {
            found = THEUS_ABSENT;
        }
        else if (key == NULL) {
            value = pos < up->span ? theus_container_value_at(up, pos) : THEUS_NONE;
            found = value == THEUS_NONE ? THEUS_ABSENT : THEUS_FOUND;
        }
        else {
            found = key_hash(key, &hash) < 0 ? THEUS_FIND_FAILED
                                             : theus_container_find(up, NULL, hash, key, &pos, &value);
        }
        if (found != THEUS_FOUND) {
            if (!PyErr_Occurred()) { /* keys whose equality is not what it was */
                txn_error(self->txn, "a key that was written is not found again: its == or hash() has changed");
            }
            return NULL;
        }
    }
    return handle_wrap(heap, value);
}

/* New reference. */
static PyObject *
entry_tuple(const account *self, const noted_entry *one)
{
    PyObject *path = txn_path_tuple(one->path, one->length);
    PyObject *value = NULL, *entry = NULL;
    if (path != NULL && one->kind == SET) {
        value = value_at(self, one);
        entry = value == NULL ? NULL : Py_BuildValue("(iOO)", (int)one->kind, path, value);
    }
    else if (path != NULL && one->operand != THEUS_NONE) {
        value = handle_wrap(self->txn->heap, one->operand);
        entry = value == NULL           ? NULL
                : one->resolver == NULL ? Py_BuildValue("(iOO)", (int)one->kind, path, value)
                                        : Py_BuildValue("(iOOO)", (int)one->kind, path, value, one->resolver);
    }
    else if (path != NULL) {
        entry = Py_BuildValue("(iO)", (int)one->kind, path);
    }
    Py_XDECREF(value);
    Py_XDECREF(path);
    return entry;
}

static PyObject *
account_tuple(account *self)
{
    HeapObject *heap = self->txn->heap;
    PyObject *entries = PyList_New(0);
    for (const noted_entry *one = self->first; one != NULL && entries != NULL; one = one->next) {
        PyObject *entry = entry_tuple(self, one);
        if (entry == NULL || PyList_Append(entries, entry) < 0) {
            Py_CLEAR(entries);
        }
        Py_XDECREF(entry);
    }
    PyObject *sent[THEUS_ATTACHMENTS] = {NULL}, *made = entries;
    for (int kind = 0; made != NULL && kind < THEUS_ATTACHMENTS; kind++) {
        made = sent[kind] = outgoing_pairs(heap, self->attached[kind]);
    }
    if (made != NULL) {
        made = PyTuple_Pack(1 + THEUS_ATTACHMENTS, entries, sent[THEUS_SIGNALS], sent[THEUS_MESSAGES], sent[THEUS_NOTES]);
    }
    for (int kind = 0; kind < THEUS_ATTACHMENTS; kind++) {
        Py_XDECREF(sent[kind]);
    }
    Py_XDECREF(entries);
    return made;
}

static TxnObject *
transaction_of(PyObject *module, PyObject *object, const char *name)
{
    if (!Py_IS_TYPE(object, module_state_of(module)->Transaction_type)) {
        PyErr_Format(PyExc_TypeError, "%s() takes a transaction, not %R", name, object);
        return NULL;
    }
    return (TxnObject *)object;
}

PyObject *
module_account(PyObject *module, PyObject *transaction)
{
    TxnObject *txn = transaction_of(module, transaction, "account");
    account self = {.txn = txn, .end = &self.first};
    if (txn == NULL || txn_enter(txn) < 0) {
        return NULL;
    }
    int result = 0;
    if (txn->callbacks != NULL && PyList_GET_SIZE(txn->callbacks) > 0) {
        result = txn_error(txn, "on_commit() is of no use in a worker, where nothing is committed: send a message through "
                                "ctx.outbox");
    }
    if (result == 0) {
        result = note_all(&self);
    }
    txn_leave(txn);
    PyObject *made = result < 0 ? NULL : account_tuple(&self);
    account_fini(&self);
    return made;
}

/* ---- repeating: entered ----------------------------------------------------------------- */

static int
misfit(PyObject *entry)
{
    PyErr_Format(PyExc_ValueError, "repeat() takes what account() gave, and %R is no entry of that", entry);
    return -1;
}

/* Goes down a path, and logs each step: the cell of the container there; 1, 0 (there is none), -1. */
static int
enter_path(TxnObject *txn, PyObject *path, theus_cell **cell)
{
    *cell = txn->txn.root;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(path); i++) {
        uint64_t hash;
        uint32_t pos;
        theus_value value;
        int found = txn_cell_find(txn, *cell, PyTuple_GET_ITEM(path, i), true, &hash, &pos, &value);
        if (found <= 0 || theus_value_kind(value) == THEUS_ATOM) {
            return found < 0 ? -1 : 0;
        }
        theus_status status = theus_cell_enter(*cell, pos, cell);
        if (status != THEUS_OK) {
            return txn_fail(txn, status);
        }
    }
    return 1;
}

/* What is not there has been logged as such, which is as good. */
static int
see(TxnObject *txn, int kind, PyObject *path)
{
    theus_cell *cell;
    if (kind == SAW_VALUE || kind == SAW_NOTHING) {
        uint64_t hash;
        uint32_t pos;
        theus_value value;
        int found = PyTuple_GET_SIZE(path) == 0 ? 0 : txn_walk(txn, path, &cell);
        if (found == 1) {
            found = txn_cell_find(txn, cell, txn_path_last(path), true, &hash, &pos, &value);
        }
        return found < 0 ? -1 : 0;
    }
    int found = enter_path(txn, path, &cell);
    if (found == 1) {
        if (kind == SAW_KEYS) {
            theus_cell_read_shape(cell);
        }
        else {
            theus_cell_read_all(cell);
        }
    }
    return found < 0 ? -1 : 0;
}

static int
set_again(TxnObject *txn, theus_cell *cell, PyObject *key)
{
    uint64_t hash = 0;
    uint32_t pos;
    theus_value value;
    int found = txn_cell_find(txn, cell, key, false, &hash, &pos, &value);
    if (found != 1) {
        return found;
    }
    theus_status status = cell->now->kind == THEUS_SET ? theus_cell_store(cell, NULL, hash, key, THEUS_NONE)
                                                       : theus_cell_put(cell, pos, value);
    return status == THEUS_OK ? 0 : txn_fail(txn, status);
}

/* Attributes of records are entries as they are here: the class was asked in the worker. */
static int
set_entry(TxnObject *txn, theus_cell *cell, PyObject *path, PyObject *key, PyObject *value)
{
    if (cell->now->kind == THEUS_MAP) {
        return draft_map_store(txn->heap->st, txn, cell, NULL, key, value);
    }
    if (cell->now->kind == THEUS_SET) {
        uint64_t hash;
        theus_status status = THEUS_OK;
        if (key_hash(key, &hash) < 0 || (status = theus_cell_store(cell, NULL, hash, key, THEUS_NONE)) != THEUS_OK) {
            return status == THEUS_OK ? -1 : txn_fail(txn, status);
        }
        return 0;
    }
    freeze_path place = freeze_path_top(path);
    return txn_cell_set(txn, cell, NULL, &place, key, value);
}

static int
delete_entry(TxnObject *txn, theus_cell *cell, PyObject *key)
{
    uint64_t hash = 0;
    uint32_t pos;
    theus_value value;
    if (!record_is(cell->now)) {
        return txn_cell_delete(txn, cell, key) < 0 ? -1 : 0;
    }
    int found = txn_cell_find(txn, cell, key, true, &hash, &pos, &value);
    theus_status status = found == 1 ? theus_cell_remove(cell, hash, pos) : THEUS_OK;
    return found < 0 ? -1 : status == THEUS_OK ? 0 : txn_fail(txn, status);
}

static int
write_entry(TxnObject *txn, int kind, PyObject *entry, PyObject *path)
{
    theus_cell *cell;
    PyObject *value = PyTuple_GET_SIZE(entry) > 2 ? PyTuple_GET_ITEM(entry, 2) : NULL;
    if ((kind == SET) != (value != NULL) || PyTuple_GET_SIZE(path) == 0) {
        return misfit(entry);
    }
    int found = txn_walk(txn, path, &cell);
    if (found <= 0) {
        return found < 0 ? -1 : txn_path_error(txn->heap->st, path, "a part on the way is missing or holds no container");
    }
    PyObject *key = txn_path_last(path);
    return kind == SET      ? set_entry(txn, cell, path, key, value)
           : kind == DELETE ? delete_entry(txn, cell, key)
                            : set_again(txn, cell, key);
}

static int
repeat_entry(TxnObject *txn, PyObject *entry)
{
    PyObject *path;
    int kind;
    if (!PyTuple_Check(entry) || PyTuple_GET_SIZE(entry) < 2 || !PyLong_Check(PyTuple_GET_ITEM(entry, 0))
        || !PyTuple_CheckExact(path = PyTuple_GET_ITEM(entry, 1))) {
        return misfit(entry);
    }
    kind = (int)PyLong_AsLong(PyTuple_GET_ITEM(entry, 0));
    Py_ssize_t size = PyTuple_GET_SIZE(entry);
    if (kind >= SAW_VALUE && kind <= SAW_ALL) {
        return see(txn, kind, path);
    }
    if (kind >= SET && kind <= SET_AGAIN) {
        return write_entry(txn, kind, entry, path);
    }
    if (kind < ADD || kind > MERGE || size != (kind == MERGE ? 4 : 3)) {
        return PyErr_Occurred() ? -1 : misfit(entry);
    }
    return txn_defer(txn, (theus_deferred_kind)(kind - ADD), path, PyTuple_GET_ITEM(entry, 2),
                     kind == MERGE ? PyTuple_GET_ITEM(entry, 3) : NULL);
}

static int
attach_pairs(TxnObject *txn, theus_attachment kind, PyObject *pairs)
{
    int result = 0;
    for (Py_ssize_t i = 0; result == 0 && i < PyTuple_GET_SIZE(pairs); i++) {
        PyObject *pair = PyTuple_GET_ITEM(pairs, i);
        result = PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2
                     ? outgoing_attach(txn, kind, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1))
                     : misfit(pair);
    }
    return result;
}

PyObject *
module_repeat(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyObject *entries, *sent[THEUS_ATTACHMENTS];
    TxnObject *txn = errors_check_count("repeat", count, 2, 2) < 0 ? NULL : transaction_of(module, args[0], "repeat");
    if (txn == NULL) {
        return NULL;
    }
    if (!PyTuple_Check(args[1])
        || !PyArg_ParseTuple(args[1], "O!O!O!O!:repeat", &PyList_Type, &entries, &PyTuple_Type, &sent[THEUS_SIGNALS],
                             &PyTuple_Type, &sent[THEUS_MESSAGES], &PyTuple_Type, &sent[THEUS_NOTES])) {
        PyErr_Clear();
        misfit(args[1]);
        return NULL;
    }
    if (txn_enter(txn) < 0) {
        return NULL;
    }
    int result = 0;
    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(entries); i++) {
        PyObject *entry = Py_NewRef(PyList_GET_ITEM(entries, i)); /* equality of keys may change the list */
        result = repeat_entry(txn, entry);
        Py_DECREF(entry);
    }
    for (int kind = 0; result == 0 && kind < THEUS_ATTACHMENTS; kind++) {
        result = attach_pairs(txn, (theus_attachment)kind, sent[kind]);
    }
    txn_leave(txn);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}
