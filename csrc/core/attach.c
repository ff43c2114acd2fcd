/* Attachments of a transaction, and the queue of the records that carry messages. */
#include "cell.h"
#include "ring.h"

/* ---- attaching ------------------------------------------------------------------------ */

/* *out: an edit to append to. It is the list itself, or (the first pair, or the first since a savepoint or the gate has
 * sealed what there was) a new one, for the caller to put in its place. */
static theus_status
attached_edit(theus_txn *txn, theus_attachment kind, theus_container **out)
{
    theus_container *list = txn->attached[kind];
    if (list == NULL) {
        return theus_container_new(theus_store_heap(txn->store), THEUS_LIST, out);
    }
    if (list->edit == 0) {
        return theus_edit_begin(list, out);
    }
    *out = list;
    return THEUS_OK;
}

theus_status
theus_txn_attach(theus_txn *txn, theus_attachment kind, void *name, theus_value value)
{
    if (txn->read_only && kind != THEUS_NOTES) {
        return THEUS_READ_ONLY;
    }
    theus_container *edit, *old = txn->attached[kind];
    theus_value pair[] = {theus_value_of_atom(name), value};
    theus_status status = attached_edit(txn, kind, &edit);
    if (status != THEUS_OK) {
        return status;
    }
    status = theus_list_splice(edit, edit->count, 0, pair, 2);
    if (edit == old) {
        return status;
    }
    if (status == THEUS_OK) {
        txn->attached[kind] = edit;
        edit = old;
    }
    theus_container_release(edit);
    return status;
}

uint32_t
theus_txn_attached(const theus_txn *txn, theus_attachment kind)
{
    const theus_container *list = txn->attached[kind];
    return list == NULL ? 0 : list->count / 2;
}

void
theus_attached_share(theus_container *const from[], theus_container *to[])
{
    for (int kind = 0; kind < THEUS_ATTACHMENTS; kind++) {
        if (from[kind] != NULL) {
            theus_seal_in_place(from[kind]);
            theus_container_retain(from[kind]);
            to[kind] = from[kind];
        }
    }
}

void
theus_attached_drop(theus_container *attached[])
{
    for (int kind = 0; kind < THEUS_ATTACHMENTS; kind++) {
        theus_container *list = attached[kind];
        attached[kind] = NULL;
        theus_container_release(list);
    }
}

/* ---- the queue -------------------------------------------------------------------------- */

theus_record *
theus_queue_disown_locked(theus_queue *queue)
{
    uint64_t epoch = theus_process_epoch();
    if (queue->epoch == epoch) {
        return NULL;
    }
    theus_record *inherited = queue->first;
    *queue = (theus_queue){.epoch = epoch};
    return inherited;
}

void
theus_queue_push_locked(theus_queue *queue, theus_record *record)
{
    theus_record_retain_private(record);
    record->next_queued = NULL;
    if (queue->first == NULL) {
        queue->first = record;
    }
    else {
        queue->last->next_queued = record;
    }
    queue->last = record;
}

theus_record *
theus_queue_pop_locked(theus_queue *queue, uint64_t upto)
{
    theus_record *chain = queue->first, **end = &queue->first;
    while (*end != NULL && (*end)->version <= upto) {
        end = &(*end)->next_queued;
    }
    if (end == &queue->first) {
        return NULL;
    }
    queue->first = *end;
    *end = NULL;
    return chain;
}

void
theus_queue_free(theus_record *chain)
{
    while (chain != NULL) {
        theus_record *next = chain->next_queued;
        theus_record_release(chain);
        chain = next;
    }
}
