/* compare_and_swap(): one write at an expected version. */
#include "engine_type.h"
#include "errors.h"
#include "txn_paths.h"

#include "../core/conflict.h"

enum { SWAP_EXPECTED, SWAP_DATA, SWAP_HEAVY, SWAP_SIGNAL, SWAP_REQUESTER, SWAP_ARGUMENTS };

/* The arguments in the order of the signature, borrowed; NULL where one was not given. By hand, because
 * PyArg_ParseTupleAndKeywords costs as much as the commit. */
static int
parse_swap(PyObject *const *args, Py_ssize_t count, PyObject *names, PyObject *slots[SWAP_ARGUMENTS])
{
    static const char *const known[] = {"expected_version", "data", "heavy", "signal", "requester"};
    if (errors_check_count("compare_and_swap", count, 0, SWAP_ARGUMENTS) < 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < SWAP_ARGUMENTS; i++) {
        slots[i] = i < count ? args[i] : NULL;
    }
    for (Py_ssize_t i = 0; names != NULL && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        int at = 0;
        while (at < SWAP_ARGUMENTS && PyUnicode_CompareWithASCIIString(name, known[at]) != 0) {
            at++;
        }
        if (at == SWAP_ARGUMENTS || slots[at] != NULL) {
            PyErr_Format(PyExc_TypeError, "compare_and_swap() got %s %R",
                         at == SWAP_ARGUMENTS ? "an unexpected keyword argument"
                                              : "multiple values for argument", name);
            return -1;
        }
        slots[at] = args[count + i];
    }
    if (slots[SWAP_EXPECTED] == NULL) {
        PyErr_SetString(PyExc_TypeError, "compare_and_swap() needs the expected version");
        return -1;
    }
    return 0;
}

/* The history cannot answer for `expected`. A version that has left it is a conflict, as any that
 * others have gone on from: a loop that retries conflicts has only to read again. One that never
 * was is a mistake of the caller. */
static void
refuse_version(EngineObject *self, PyObject *asked, uint64_t expected)
{
    module_state *st = self->heap->st;
    theus_store_facts facts;
    theus_store_read_facts(self->store, &facts);
    unsigned long long newest = facts.version;
    PyObject *kind, *error;
    if (expected <= newest) {
        const char *reason = self->strict_cas ? "strict" : "forgotten";
        kind = st->ConflictError;
        error = PyObject_CallFunction(kind, "OOKOs", Py_None, asked, newest, Py_None, reason);
    }
    else {
        kind = st->VersionError;
        error = PyObject_CallFunction(kind, "OKK", asked, (unsigned long long)facts.oldest, newest);
    }
    if (error != NULL) {
        PyErr_SetObject(kind, error);
        Py_DECREF(error);
    }
}

/* A snapshot transaction that began at the expected version: its commit asks exactly whether the
 * places it writes have changed since. */
PyObject *
engine_compare_and_swap(PyObject *op, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    EngineObject *self = (EngineObject *)op;
    PyObject *slots[SWAP_ARGUMENTS];
    uint64_t expected;
    if (engine_check_open(self) < 0 || parse_swap(args, count, names, slots) < 0
        || engine_parse_version(slots[SWAP_EXPECTED], &expected) < 0) {
        return NULL;
    }
    theus_version *pinned;
    theus_status status = theus_store_at(self->store, expected, &pinned);
    if (status != THEUS_OK) {
        refuse_version(self, slots[SWAP_EXPECTED], expected);
        return NULL;
    }
    PyObject *requester = slots[SWAP_REQUESTER];
    PyObject *process = requester != NULL && PyUnicode_Check(requester) ? requester : NULL;
    TxnObject *txn = txn_new(self, THEUS_SNAPSHOT, false, 0, process);
    PyObject *result = NULL;
    if (txn != NULL && txn_begin(txn, pinned, false) == 0) {
        txn->txn.strict = self->strict_cas;
        txn->txn.pledged = true;
        theus_conflict why;
        int done = txn_enter(txn);
        if (done == 0) {
            done = txn_update(txn, slots[SWAP_DATA], slots[SWAP_HEAVY], slots[SWAP_SIGNAL]);
            txn_leave(txn);
        }
        if (done < 0) {
            txn_abort(txn);
        }
        else {
            done = txn_commit(txn, &why, TXN_GATE_REFUSE);
            if (done == 0) {
                txn_raise_conflict(self, &why, 1);
                theus_conflict_fini(&why);
            }
            else if (done == 1) {
                result = PyLong_FromUnsignedLongLong(txn->version);
            }
        }
    }
    theus_version_release(pinned);
    Py_XDECREF(txn);
    return result;
}
