/* Rehearsals: where a body runs whose account is repeated elsewhere. */
#include "account.h"

#include "engine_type.h"
#include "errors.h"
#include "state_type.h"

/* A version of `roots` that is in no store. New reference. */
static theus_version *
loose_version(EngineObject *engine, PyObject *roots, uint64_t number)
{
    theus_container *root = NULL;
    theus_version *made = NULL;
    if (state_root_from(engine->heap, roots, NULL, &root) < 0) {
        return NULL;
    }
    theus_version *first = theus_store_pin(engine->store); /* without signals, as this one */
    theus_status status = theus_version_new(engine->store, number, root, first->signals, NULL, &made);
    theus_version_release(first);
    if (status != THEUS_OK) {
        errors_raise(engine->heap->st, status);
    }
    theus_container_release(root);
    return made;
}

static int
parse_place(PyObject *const *args, uint64_t *number, unsigned long long *run, theus_isolation *isolation, bool *hides)
{
    if (engine_parse_version(args[2], number) < 0 || engine_parse_isolation(args[4], isolation) < 0) {
        return -1;
    }
    *run = PyLong_AsUnsignedLongLong(args[3]);
    if (PyErr_Occurred()) {
        return -1;
    }
    if (!PyUnicode_Check(args[5])) {
        PyErr_Format(PyExc_TypeError, "rehearse() takes the name of a process, not %R", args[5]);
        return -1;
    }
    return engine_parse_flag(args[6], "hides", hides);
}

/* _theus.rehearse(engine, roots, version, run, isolation, process, hides) */
PyObject *
module_rehearse(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    uint64_t number;
    unsigned long long run;
    theus_isolation isolation;
    bool hides;
    if (errors_check_count("rehearse", count, 7, 7) < 0) {
        return NULL;
    }
    if (!PyObject_TypeCheck(args[0], module_state_of(module)->Engine_type)) {
        return PyErr_Format(PyExc_TypeError, "rehearse() takes an engine, not %R", args[0]);
    }
    EngineObject *engine = (EngineObject *)args[0];
    if (parse_place(args, &number, &run, &isolation, &hides) < 0 || engine_check_open(engine) < 0) {
        return NULL;
    }
    engine->hides = hides; /* only attempts of that engine run here, one after the other */
    theus_version *pinned = loose_version(engine, args[1], number);
    TxnObject *txn = pinned == NULL ? NULL : txn_new(engine, isolation, false, 0, args[5]);
    if (txn != NULL) {
        txn->run = run;
        if (txn_begin(txn, pinned, false) < 0) {
            Py_CLEAR(txn);
        }
    }
    theus_version_release(pinned);
    return (PyObject *)txn;
}
