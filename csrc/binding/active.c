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
    home_count(home_newest(txn->homes), 1);
    theus_mutex_unlock(&list->lock);
}

void
active_remove(active_txns *active, TxnObject *txn)
{
    active_list *list = list_of(active, txn->context);
    theus_mutex_lock(&list->lock);
    bool is_there = true;
    if (txn->previous != NULL) {
        txn->previous->next = txn->next;
    }
    else if (first_of(list) == txn) {
        atomic_store_explicit(&list->first, txn->next, memory_order_relaxed);
    }
    else {
        is_there = false;
    }
    if (is_there) {
        if (txn->next != NULL) {
            txn->next->previous = txn->previous;
        }
        txn->next = txn->previous = NULL;
        home_count(home_newest(txn->homes), (uint32_t)-1);
    }
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

/* ---- asking ---------------------------------------------------------------------------- */

TxnObject *
txn_current(EngineObject *engine)
{
    if (is_plainly_empty(&engine->active)) {
        return NULL;
    }
    PyObject *context = running_thread()->context;
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

/* Of the transactions that were begun at this home: is there one, and which ticket leads it? *leader was 0 before. */
static bool
look_at_home(active_txns *active, const HomeObject *home, uint64_t *leader)
{
    active_list *list = list_of(active, home->context);
    if (first_of(list) == NULL) {
        return false;
    }
    uint64_t epoch = theus_process_epoch();
    bool found = false;
    theus_mutex_lock(&list->lock);
    for (TxnObject *it = first_of(list); it != NULL && *leader == 0; it = it->next) {
        if (home_newest(it->homes) == home && it->txn.epoch == epoch) {
            found = true;
            *leader = it->leader;
        }
    }
    theus_mutex_unlock(&list->lock);
    return found;
}

/* The same for all homes of the caller. -1 with an exception. */
static int
look_at_homes(EngineObject *engine, uint64_t *leader)
{
    PyObject *chain = home_chain(engine->heap->st);
    *leader = 0;
    if (chain == NULL) {
        return -1;
    }
    bool found = false;
    for (Py_ssize_t i = 0, end = home_chain_length(chain); i < end && *leader == 0; i++) {
        found |= look_at_home(&engine->active, (HomeObject *)PyTuple_GET_ITEM(chain, i), leader);
    }
    Py_DECREF(chain);
    return found;
}

int
active_leader(EngineObject *engine, uint64_t *leader)
{
    return look_at_homes(engine, leader) < 0 ? -1 : 0;
}

int
txn_refuse_child(EngineObject *engine)
{
    uint64_t leader;
    if (is_plainly_empty(&engine->active)) {
        return 0;
    }
    int found = look_at_homes(engine, &leader);
    if (found == 1) {
        PyErr_SetString(engine->heap->st->TransactionError,
                        "this run was started by a child task or thread of a body whose transaction on the same "
                        "engine is still open: call it in the body itself, start it after the body, or give it a "
                        "transaction of its own with detached=True: engine.options(detached=True) for a process");
    }
    return found == 0 ? 0 : -1;
}
