/* The part of theus.helpers that knows the transaction: run and version for the log, notes for the record. */
#include "helpers.h"

#include "outgoing.h"

#include <stdarg.h>
#include <string.h>

/* theus.helpers.name(...). New reference. */
static PyObject *
call_helpers(const char *name, const char *format, ...)
{
    va_list args;
    PyObject *module = PyImport_ImportModule("theus.helpers");
    PyObject *function = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    va_start(args, format);
    PyObject *values = function == NULL ? NULL : Py_VaBuildValue(format, args);
    va_end(args);
    PyObject *made = values == NULL ? NULL : PyObject_CallObject(function, values);
    Py_XDECREF(values);
    Py_XDECREF(function);
    Py_XDECREF(module);
    return made;
}

static int
note(TxnObject *txn, const char *name, PyObject *value)
{
    PyObject *what = PyUnicode_InternFromString(name);
    int result = what == NULL ? -1 : outgoing_attach(txn, THEUS_NOTES, what, value);
    Py_XDECREF(what);
    return result;
}

static PyObject *
make_log(TxnObject *txn, PyObject *plan)
{
    PyObject *name = PyObject_GetAttrString(plan, "name");
    PyObject *log = NULL;
    if (name != NULL) {
        log = call_helpers("make_log", "(OKK)", name, (unsigned long long)txn_run(txn),
                           (unsigned long long)txn->version);
        Py_DECREF(name);
    }
    return log;
}

static PyObject *
make_now(TxnObject *txn)
{
    PyObject *now = call_helpers("read_clock", "()");
    if (now != NULL && note(txn, "now", now) < 0) {
        Py_CLEAR(now);
    }
    return now;
}

static PyObject *
make_random(TxnObject *txn)
{
    PyObject *seed = PyLong_FromUnsignedLongLong(theus_random()), *made = NULL;
    if (seed != NULL && note(txn, "seed", seed) == 0) {
        made = call_helpers("make_random", "(O)", seed);
    }
    Py_XDECREF(seed);
    return made;
}

PyObject *
helper_get(TxnObject *txn, PyObject *plan, PyObject **kept, const char *name)
{
    PyObject *key = PyUnicode_InternFromString(name), *helper = NULL;
    if (*kept == NULL) {
        *kept = PyDict_New();
    }
    if (key != NULL && *kept != NULL && PyDict_GetItemRef(*kept, key, &helper) == 0) {
        helper = strcmp(name, "log") == 0   ? make_log(txn, plan)
                 : strcmp(name, "now") == 0 ? make_now(txn)
                                            : make_random(txn);
        if (helper != NULL && PyDict_SetItem(*kept, key, helper) < 0) {
            Py_CLEAR(helper);
        }
    }
    Py_XDECREF(key);
    return helper;
}
