"""The faults of versions and transactions, for tests/faults.py: (name, file, old, new) as there."""

from __future__ import annotations

FAULTS = [
    (
        "reads are not validated",
        "validate.c",
        "verdict result = reads ? check_reads(run, cell) : HOLDS;",
        "verdict result = reads && !run ? check_reads(run, cell) : HOLDS;",
    ),
    (
        "absences are not validated",
        "validate.c",
        "        result = check_absences(run, cell);",
        "        result = run ? HOLDS : check_absences(run, cell);",
    ),
    (
        "the key set is not validated",
        "validate.c",
        "if (cell->read_shape && base->shape != there->shape) {",
        "if (cell->read_shape && base->shape != there->shape && base->kind == THEUS_LIST) {",
    ),
    (
        "a read of the whole is not validated",
        "validate.c",
        '    if (cell->read_all) {\n        return theus_commit_broken(run, cell, "content", NULL);',
        '    if (cell->read_all && cell->home == NULL) {\n        return theus_commit_broken(run, cell, "content", NULL);',
    ),
    (
        "a written record is not shown to its class",
        "cell.c",
        "    theus_cell_note_mark(cell);\n",
        "",
    ),
    (
        "what the class makes of a record is not what is stored",
        "candidate.c",
        "    theus_container_release(*content);\n    *content = passed;",
        "    theus_container_release(passed);",
    ),
    (
        "an ancestor that was replaced does not matter",
        "validate.c",
        "            && theus_value_container(value)->line == cell->base->line) {",
        "            ) {",
    ),
    (
        "a place that is gone does not matter",
        "validate.c",
        '        return theus_commit_broken(run, cell, "place", NULL);',
        "        return HOLDS;",
    ),
    (
        "a snapshot does not validate its writes",
        "validate.c",
        "        else if (run->txn->isolation == THEUS_SNAPSHOT) {",
        "        else if (run->txn->isolation == THEUS_SNAPSHOT && run->newest == run->txn->pinned) {",
    ),
    (
        "lists are not asked whether items moved",
        "validate.c",
        "    if (cell->base->shape != cell->current->shape) {",
        "    if (cell->base->shape != cell->current->shape && run == NULL) {",
    ),
    (
        "a rebase drops the first of several writes",
        "candidate.c",
        "    for (uint32_t i = 0; i < cell->writes.count && status == THEUS_OK; i++) {\n"
        "        uint32_t pos = cell->writes.items[i];\n        theus_value value = theus_c",
        "    for (uint32_t i = cell->writes.count > 1; i < cell->writes.count && status == THEUS_OK; i++) {\n"
        "        uint32_t pos = cell->writes.items[i];\n        theus_value value = theus_c",
    ),
    (
        "a rebase forgets what was deleted",
        "candidate.c",
        "            status = edit_remove(run, edit, theus_container_key_at(base, pos));",
        "            status = run ? THEUS_OK : edit_remove(run, edit, theus_container_key_at(base, pos));",
    ),
    (
        "a deferred operation is applied once more after a rebase",
        "candidate.c",
        "        status = apply_one(run, edit, cell, it);\n",
        "        status = apply_one(run, edit, cell, it);\n"
        "        if (status == THEUS_OK && run->newest != run->txn->pinned) {\n"
        "            status = apply_one(run, edit, cell, it);\n        }\n",
    ),
    (
        "a version is published over another one",
        "store.c",
        "    if (store->current == expected",
        "    if (store->current->number >= expected->number",
    ),
    (
        "the gate lets everybody pass",
        "turn.c",
        "    bool passes = gate_opens_locked(",
        "    bool passes = true || gate_opens_locked(",
    ),
    (
        "who passed the gate before a ticket was given publishes",
        "store.c",
        "        && atomic_load_explicit(&store->turns.grants, memory_order_relaxed) == grants) {",
        "        && grants + 1 != 0) {",
    ),
    (
        "a pin lets the lock go too early",
        "store.c",
        "    theus_version *version = store->current;\n    theus_version_retain(version);\n"
        "    theus_mutex_unlock(&store->lock);\n",
        "    theus_version *version = store->current;\n    theus_mutex_unlock(&store->lock);\n"
        "    theus_version_retain(version);\n",
    ),
    (
        "a count is raised in two steps",
        "store.c",
        "    atomic_fetch_add_explicit(&version->refs, 1, memory_order_relaxed);",
        "    uint32_t refs = atomic_load(&version->refs);\n    atomic_store(&version->refs, refs + 1);",
    ),
    (
        "the door of a transaction lets two in",
        "txn.c",
        "    if (!atomic_compare_exchange_strong_explicit(&txn->user, &nobody, me, memory_order_acquire,\n"
        "                                                 memory_order_relaxed)\n"
        "        && nobody != me) {",
        "    nobody = atomic_load(&txn->user);\n    if (nobody == 0) {\n"
        "        atomic_store(&txn->user, me);\n    }\n    else if (nobody != me) {",
    ),
    (
        "after a write, reads of its container are not logged",
        "cell_read.c",
        "    return cell->now == cell->base || theus_cell_base_holds(cell, pos, value);",
        "    return cell->now == cell->base || (cell == NULL && theus_cell_base_holds(cell, pos, value));",
    ),
    (
        "a lookup is remembered across writes",
        "cell_read.c",
        "    if (key == cell->last_key && cell->stamp == cell->last_stamp) {",
        "    if (key == cell->last_key) {",
    ),
    (
        "a savepoint that is rolled back takes the reads along",
        "savepoint.c",
        "        cell->stale = saved->stale;\n",
        "        cell->stale = saved->stale;\n        cell->reads.count = 0;\n",
    ),
    (
        "a savepoint that is rolled back keeps the writes",
        "savepoint.c",
        "        cell->now = saved->now;\n        saved->now = undone;\n",
        "",
    ),
    (
        "a node that dies does not pass on what others borrow",
        "node.c",
        "            falls ^= passes;\n",
        "",
    ),
    (
        "a savepoint that is rolled back keeps its messages",
        "savepoint.c",
        "        txn->attached[i] = savepoint->attached[i];\n"
        "        savepoint->attached[i] = undone;\n",
        "        (void)undone;\n",
    ),
    (
        "who has not swapped the version has sent its messages",
        "store.c",
        "    theus_mutex_lock(&store->lock);\n    if (store->current == expected",
        "    theus_mutex_lock(&store->lock);\n"
        "    if (next->record != NULL && next->record->attached[THEUS_MESSAGES] != NULL\n"
        "        && store->current != expected) {\n"
        "        theus_queue_push_locked(&store->queue, next->record);\n    }\n"
        "    if (store->current == expected",
    ),
    (
        "messages that come after an interrupted hand-over are lost",
        "attach.c",
        "    queue->first = *end;\n    *end = NULL;\n",
        "    queue->first = NULL;\n",
    ),
    (
        "a forked child hands over what its parent has sent",
        "attach.c",
        "    if (queue->epoch == epoch) {",
        "    if (queue->epoch == epoch || queue->first != NULL) {",
    ),
    (
        "a reader of the ring is not told of all it lost",
        "ring.c",
        "        *lost += due - *sequence;",
        "        *lost += 1;",
    ),
    (
        "a commit that fails keeps its place in the ring",
        "txn.c",
        "        theus_ring_unreserve(theus_store_ring(txn->store), txn->epoch);",
        "",
    ),
    (
        "places that are reserved are not counted",
        "ring.c",
        "        ring->reserved++;",
        "",
    ),
    (
        "a place that was filled stays reserved",
        "ring.c",
        "        ring->reserved--;\n    }\n    theus_mutex_unlock(&ring->lock);\n    return left;",
        "    }\n    theus_mutex_unlock(&ring->lock);\n    return left;",
    ),
    (
        "a late reader begins where a reserved place overtakes it",
        "ring.c",
        "    position = position < first ? first : position;\n",
        "",
    ),
    (
        "records that are not kept have no number",
        "ring.c",
        "    record->sequence = ring->sequence++;",
        "    record->sequence = ring->written;\n    ring->sequence = ring->written + 1;",
    ),
    (
        "a reader that leaves takes with it what others have to read",
        "ring.c",
        "        least = it->position < least ? it->position : least;",
        "        least = it->position > least ? it->position : least;",
    ),
    (
        "the topics of others are forgotten",
        "candidate.c",
        "*latest = run->newest->signals;",
        "*latest = run->txn->pinned->signals;",
    ),
    (
        "who joins the queue does not say what for",
        "chain.c",
        "               ? chain_take(chain, &guess, body_ns)",
        "               ? chain_take(chain, &chain->footprint, body_ns)",
    ),
    (
        "who begins to wait is not seen by the next commit",
        "bell.c",
        "    atomic_fetch_add_explicit(&bell->waiting, 1, memory_order_relaxed);",
        "    atomic_fetch_add_explicit(&bell->waiting, bell->first->next == NULL, memory_order_relaxed);",
    ),
]
