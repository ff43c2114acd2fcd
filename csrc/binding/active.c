/* Who runs which transaction. */
#include "active.h"

#include "engine_type.h"
#include "value_py.h"

/* ---- the list -------------------------------------------------------------------- */

theus_status
active_init(active_txns *list)
{
    atomic_init(&list->first, NULL);
    return theus_mutex_init(&list->lock, THEUS_RANK_ACTIVE, theus_py_value_ops.serial);
}

void
active_fini(active_txns *list)
{
    theus_mutex_fini(&list->lock);
}

void
active_add(active_txns *list, TxnObject *txn)
{
    theus_mutex_lock(&list->lock);
    TxnObject *next = atomic_load_explicit(&list->first, memory_order_relaxed);
    txn->previous = NULL;
    txn->next = next;
    if (next != NULL) {
        next->previous = txn;
    }
    atomic_store_explicit(&list->first, txn, memory_order_relaxed);
    theus_mutex_unlock(&list->lock);
}

void
active_remove(active_txns *list, TxnObject *txn)
{
    theus_mutex_lock(&list->lock);
    if (txn->previous != NULL) {
        txn->previous->next = txn->next;
    } else if (atomic_load_explicit(&list->first, memory_order_relaxed) == txn) {
        atomic_store_explicit(&list->first, txn->next, memory_order_relaxed);
    }
    if (txn->next != NULL) {
        txn->next->previous = txn->previous;
    }
    txn->next = txn->previous = NULL;
    theus_mutex_unlock(&list->lock);
}

/* ---- who we are -------------------------------------------------------------------- */

PyObject *
running_context(void)
{
    PyThreadState *tstate = PyThreadState_Get();
    if (tstate->context == NULL) {
        PyObject *copy = PyContext_CopyCurrent();
        if (copy == NULL) {
            PyErr_Clear();
        }
        Py_XDECREF(copy);
    }
    return tstate->context;
}

PyObject *
home_of(module_state *st, PyObject *context)
{
    PyObject *home;
    if (PyContextVar_Get(st->home, Py_None, &home) < 0) {
        return NULL;
    }
    /* The address as bytes: each begin compares it, and an int would have to be unpacked. */
    if (home != Py_None && memcmp(PyBytes_AS_STRING(PyTuple_GET_ITEM(home, 0)), &context, sizeof(context)) == 0) {
        return home;
    }
    PyObject *address = PyBytes_FromStringAndSize((const char *)&context, sizeof(context));
    PyObject *own = address == NULL ? NULL : PyTuple_Pack(2, address, home);
    PyObject *token = own == NULL ? NULL : PyContextVar_Set(st->home, own);
    Py_DECREF(home);
    Py_XDECREF(address);
    if (token == NULL) {
        Py_CLEAR(own);
    }
    Py_XDECREF(token);
    return own;
}

/* ---- asking ---------------------------------------------------------------------------- */

TxnObject *
txn_current(EngineObject *engine)
{
    active_txns *list = &engine->active;
    if (active_is_empty(list)) {
        return NULL; /* ours would be seen: this thread has put it there */
    }
    uint64_t thread = theus_thread_id(), epoch = theus_process_epoch();
    PyObject *context = running_context();
    theus_mutex_lock(&list->lock);
    TxnObject *it = atomic_load_explicit(&list->first, memory_order_relaxed);
    while (it != NULL
           && !(it->thread == thread && it->context == context && it->txn.epoch == epoch
                && object_try_ref((PyObject *)it))) {
        it = it->next;
    }
    theus_mutex_unlock(&list->lock);
    return it;
}

/* Has a body that runs in the context of one of these homes (a chain of them) a transaction open? */
static bool
has_open_parent(active_txns *list, PyObject *home)
{
    uint64_t epoch = theus_process_epoch();
    bool found = false;
    theus_mutex_lock(&list->lock);
    for (; home != Py_None && !found; home = PyTuple_GET_ITEM(home, 1)) {
        TxnObject *it = atomic_load_explicit(&list->first, memory_order_relaxed);
        while (it != NULL && !(it->home == home && it->txn.epoch == epoch)) {
            it = it->next;
        }
        found = it != NULL;
    }
    theus_mutex_unlock(&list->lock);
    return found;
}

int
active_leader(EngineObject *engine, uint64_t *leader)
{
    active_txns *list = &engine->active;
    PyObject *home;
    *leader = 0;
    if (active_is_empty(list)) {
        return 0;
    }
    if (PyContextVar_Get(engine->heap->st->home, Py_None, &home) < 0) {
        return -1;
    }
    uint64_t epoch = theus_process_epoch();
    theus_mutex_lock(&list->lock);
    for (PyObject *at = home; at != Py_None && *leader == 0; at = PyTuple_GET_ITEM(at, 1)) {
        TxnObject *it = atomic_load_explicit(&list->first, memory_order_relaxed);
        for (; it != NULL && *leader == 0; it = it->next) {
            *leader = it->home == at && it->txn.epoch == epoch ? it->leader : 0;
        }
    }
    theus_mutex_unlock(&list->lock);
    Py_DECREF(home);
    return 0;
}

int
txn_refuse_child(EngineObject *engine)
{
    module_state *st = engine->heap->st;
    PyObject *home;
    if (active_is_empty(&engine->active)) {
        return 0;
    }
    if (PyContextVar_Get(st->home, Py_None, &home) < 0) {
        return -1;
    }
    bool refused = home != Py_None && has_open_parent(&engine->active, home);
    Py_DECREF(home);
    if (refused) {
        PyErr_SetString(st->TransactionError,
                        "this run was started by a child task or thread of a body whose transaction on the same "
                        "engine is still open: call it in the body itself, start it after the body, or give it a "
                        "transaction of its own with detached=True");
    }
    return refused ? -1 : 0;
}
