/* Who runs which transaction. */
#include "active.h"

#include "engine_type.h"
#include "value_py.h"

/* ---- the lists ------------------------------------------------------------------- */

static active_list *
list_of(active_txns *active, const void *context)
{
    uint64_t spread = (uint64_t)(uintptr_t)context * UINT64_C(0x9E3779B97F4A7C15);
    return &active->lists[(spread >> 32) % ACTIVE_LISTS];
}

/* The newest of a list; to be looked at under its lock, or for NULL. What this thread, or one that has handed
 * something to it, has put there is seen. */
static TxnObject *
first_of(active_list *list)
{
    return atomic_load_explicit(&list->first, memory_order_relaxed);
}

theus_status
active_init(active_txns *active)
{
    for (int i = 0; i < ACTIVE_LISTS; i++) {
        active_list *list = &active->lists[i];
        atomic_init(&list->first, NULL);
        theus_status status = theus_mutex_init(&list->lock, THEUS_RANK_ACTIVE, THEUS_HAVE_GIL);
        if (status != THEUS_OK) {
            while (i-- > 0) {
                theus_mutex_fini(&active->lists[i].lock);
            }
            return status;
        }
    }
    return THEUS_OK;
}

void
active_fini(active_txns *active)
{
    for (int i = 0; i < ACTIVE_LISTS; i++) {
        theus_mutex_fini(&active->lists[i].lock);
    }
}

void
active_add(active_txns *active, TxnObject *txn)
{
    active_list *list = list_of(active, txn->context);
    theus_mutex_lock(&list->lock);
    TxnObject *next = first_of(list);
    txn->previous = NULL;
    txn->next = next;
    if (next != NULL) {
        next->previous = txn;
    }
    atomic_store_explicit(&list->first, txn, memory_order_relaxed);
    theus_mutex_unlock(&list->lock);
}

void
active_remove(active_txns *active, TxnObject *txn)
{
    active_list *list = list_of(active, txn->context);
    theus_mutex_lock(&list->lock);
    if (txn->previous != NULL) {
        txn->previous->next = txn->next;
    }
    else if (first_of(list) == txn) {
        atomic_store_explicit(&list->first, txn->next, memory_order_relaxed);
    }
    if (txn->next != NULL) {
        txn->next->previous = txn->previous;
    }
    txn->next = txn->previous = NULL;
    theus_mutex_unlock(&list->lock);
}

/* Where one look tells. */
static inline bool
is_plainly_empty(active_txns *active)
{
    return ACTIVE_LISTS == 1 && first_of(&active->lists[0]) == NULL;
}

bool
active_is_empty(active_txns *active)
{
    for (int i = 0; i < ACTIVE_LISTS; i++) {
        if (first_of(&active->lists[i]) != NULL) {
            return false;
        }
    }
    return true;
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
    if (is_plainly_empty(&engine->active)) {
        return NULL;
    }
    PyObject *context = running_context();
    active_list *list = list_of(&engine->active, context);
    if (first_of(list) == NULL) {
        return NULL;
    }
    uint64_t thread = theus_thread_id(), epoch = theus_process_epoch();
    theus_mutex_lock(&list->lock);
    TxnObject *it = first_of(list);
    while (it != NULL
           && !(it->thread == thread && it->context == context && it->txn.epoch == epoch
                && object_try_ref((PyObject *)it))) {
        it = it->next;
    }
    theus_mutex_unlock(&list->lock);
    return it;
}

/* Of the transactions that were begun at this home: is there one, and which ticket leads it? */
static bool
look_at_home(active_txns *active, PyObject *home, uint64_t *leader)
{
    void *context;
    memcpy(&context, PyBytes_AS_STRING(PyTuple_GET_ITEM(home, 0)), sizeof(context));
    active_list *list = list_of(active, context);
    if (first_of(list) == NULL) {
        return false;
    }
    uint64_t epoch = theus_process_epoch();
    bool found = false;
    *leader = 0;
    theus_mutex_lock(&list->lock);
    for (TxnObject *it = first_of(list); it != NULL && *leader == 0; it = it->next) {
        if (it->home == home && it->txn.epoch == epoch) {
            found = true;
            *leader = it->leader;
        }
    }
    theus_mutex_unlock(&list->lock);
    return found;
}

int
active_leader(EngineObject *engine, uint64_t *leader)
{
    PyObject *home;
    *leader = 0;
    if (PyContextVar_Get(engine->heap->st->home, Py_None, &home) < 0) {
        return -1;
    }
    for (PyObject *at = home; at != Py_None && *leader == 0; at = PyTuple_GET_ITEM(at, 1)) {
        (void)look_at_home(&engine->active, at, leader);
    }
    Py_DECREF(home);
    return 0;
}

int
txn_refuse_child(EngineObject *engine)
{
    module_state *st = engine->heap->st;
    PyObject *home;
    uint64_t leader;
    if (is_plainly_empty(&engine->active)) {
        return 0;
    }
    if (PyContextVar_Get(st->home, Py_None, &home) < 0) {
        return -1;
    }
    bool refused = false;
    for (PyObject *at = home; at != Py_None && !refused; at = PyTuple_GET_ITEM(at, 1)) {
        refused = look_at_home(&engine->active, at, &leader);
    }
    Py_DECREF(home);
    if (refused) {
        PyErr_SetString(st->TransactionError,
                        "this run was started by a child task or thread of a body whose transaction on the same "
                        "engine is still open: call it in the body itself, start it after the body, or give it a "
                        "transaction of its own with detached=True: engine.options(detached=True) for a process");
    }
    return refused ? -1 : 0;
}
