/* Noting operations first and making Python objects when all are known: making one may run the
 * collector, and that a finalizer that writes to the transaction whose cells are being walked. */
#include "operations.h"

#include "errors.h"

typedef struct {
    noted_operation *first;
    noted_operation **end;
    bool (*wanted)(void *arg, const theus_segment *path, uint32_t length); /* NULL: all are */
    void *arg;
} noting;

static int
note(noting *notes, int kind, const theus_segment *path, uint32_t length)
{
    noted_operation *one = PyMem_Malloc(sizeof(*one) + length * sizeof(*path));
    if (one == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    one->next = NULL;
    one->kind = kind;
    one->length = length;
    for (uint32_t i = 0; i < length; i++) {
        one->path[i] = path[i];
        Py_XINCREF((PyObject *)path[i].key);
    }
    *notes->end = one;
    notes->end = &one->next;
    return 0;
}

static int
note_one(void *arg, theus_op_kind kind, const theus_segment *path, uint32_t length)
{
    const noting *notes = arg;
    if (notes->wanted != NULL && !notes->wanted(notes->arg, path, length)) {
        return 0;
    }
    return note(arg, (int)kind, path, length);
}

static int
note_sent(noting *notes, const theus_txn *txn, bool recent, theus_attachment kind, int operation, PyObject *root)
{
    const theus_container *list = txn->attached[kind];
    int result = 0;
    for (uint32_t i = recent ? theus_txn_attached_before(txn, kind) : 0; result == 0 && i < theus_txn_attached(txn, kind);
         i++) {
        theus_segment path[] = {{root, 0}, {theus_value_atom(theus_container_value_at(list, 2 * i)), 0}};
        result = note(notes, operation, path, 2);
    }
    return result;
}

static int
finish(TxnObject *txn, const noting *notes, int result, theus_status status, noted_operation **first)
{
    if (result != 0) {
        operations_free(notes->first);
        if (!PyErr_Occurred()) {
            txn_fail(txn, status);
        }
        return -1;
    }
    *first = notes->first;
    return 0;
}

int
operations_note(TxnObject *txn, bool recent, bool idle, noted_operation **first)
{
    noting notes = {.end = &notes.first};
    theus_status status = THEUS_OK;
    int result = recent ? theus_txn_recent_operations(&txn->txn, NULL, note_one, &notes, &status)
                        : theus_txn_operations(&txn->txn, note_one, &notes);
    const module_state *st = txn->heap->st;
    if (result == 0 && idle) {
        result = theus_txn_idle_writes(&txn->txn, note_one, &notes);
    }
    if (result == 0) {
        result = note_sent(&notes, &txn->txn, recent, THEUS_SIGNALS, OPERATION_SIGNAL, st->signal_name);
    }
    if (result == 0) {
        result = note_sent(&notes, &txn->txn, recent, THEUS_MESSAGES, OPERATION_MESSAGE, st->outbox_name);
    }
    return finish(txn, &notes, result, status, first);
}

int
operations_note_some(TxnObject *txn, bool (*wanted)(void *arg, const theus_segment *path, uint32_t length), void *arg,
                     noted_operation **first)
{
    noting notes = {.end = &notes.first, .wanted = wanted, .arg = arg};
    return finish(txn, &notes, theus_txn_operations(&txn->txn, note_one, &notes), THEUS_OK, first);
}

void
operations_free(noted_operation *first)
{
    for (noted_operation *one = first, *next; one != NULL; one = next) {
        next = one->next;
        for (uint32_t i = 0; i < one->length; i++) {
            Py_XDECREF((PyObject *)one->path[i].key);
        }
        PyMem_Free(one);
    }
}

static PyObject *
operation_entry(const noted_operation *one)
{
    static const char *const names[] = {"set", "delete", "add", "append", "merge", "signal", "message"};
    PyObject *where = txn_path_tuple(one->path, one->length);
    return where == NULL ? NULL : Py_BuildValue("(sN)", names[one->kind], where);
}

PyObject *
txn_method_operations(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    TxnObject *self = (TxnObject *)op;
    noted_operation *first = NULL;
    if (errors_check_count("operations", count, 0, 2) < 0) {
        return NULL;
    }
    int recent = count == 0 ? 0 : PyObject_IsTrue(args[0]);
    int idle = count < 2 ? 0 : PyObject_IsTrue(args[1]);
    if (recent < 0 || idle < 0 || txn_enter(self) < 0) {
        return NULL;
    }
    int result = operations_note(self, recent != 0, idle != 0, &first);
    txn_leave(self);
    PyObject *list = result < 0 ? NULL : PyList_New(0);
    for (noted_operation *one = first; one != NULL && list != NULL; one = one->next) {
        PyObject *entry = operation_entry(one);
        if (entry == NULL || PyList_Append(list, entry) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(entry);
    }
    operations_free(first);
    return list;
}
