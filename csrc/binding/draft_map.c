/* Map cells by Python key: get, store, update.
 *
 * Hashing a key and freezing a value may run any Python code, so both are done before the
 * transaction is entered; the core looks up and writes in one go. */
#include "draft_parts.h"
#include "guard.h"

/* A body reads the same container again and again: ctx.domain.accounts["a"], ["b"] ... So a draft
 * keeps the one that it gave out last. (Three levels down: 190 -> 100 ns.) Not without a GIL: a body
 * may hand its drafts to threads. */
static void
remember_child(DraftObject *self, PyObject *key, PyObject *child)
{
    DraftObject *last = self->last;
    PyObject *last_key = self->last_key;
    self->last = (DraftObject *)Py_NewRef(child);
    self->last_key = Py_NewRef(key);
    self->last_stamp = self->cell->stamp;
    Py_XDECREF(last_key);
    Py_XDECREF((PyObject *)last);
}

/* The door, as far as it matters to who has read the same before under this stamp. */
static inline bool
still_stands(const theus_cell *cell, uint32_t stamp)
{
    return cell->stamp == stamp && cell->deferred == NULL && !cell->dead;
}

/* What was read last, if that was `key`. A loop asks for the same limit or rate each time round: then the cell knows its
 * atom, and this draft has been shown that one, so its scope lets it. (ctx.domain.x: 46 -> 25 ns.) Borrowed, or NULL. */
static inline PyObject *
remembered(const DraftObject *self, const PyObject *key)
{
    const theus_txn *txn = &self->txn->txn;
    const theus_cell *cell = self->cell;
    if (self->last_atom == 0 && key != self->last_key) {
        return NULL;
    }
    if (!THEUS_HAVE_GIL || txn->state != THEUS_TXN_OPEN || txn->committing
        || txn->epoch != theus_process_epoch()) {
        return NULL; /* there may be no cell any more */
    }
    if (key == cell->last_key && self->last_atom == cell->last_number && still_stands(cell, cell->last_stamp)) {
        return (PyObject *)theus_value_atom(cell->last_value);
    }
    if (key == self->last_key && still_stands(cell, self->last_stamp) && !self->last->cell->dead) {
        return (PyObject *)self->last;
    }
    return NULL;
}

static inline void
remember(DraftObject *self, PyObject *key, theus_value found, PyObject *value)
{
    if (self->scope != NULL && (self->scope->admin || value == Py_None)) {
        return; /* what an admin scope shows is not shown after it; and None may stand for what is hidden */
    }
    if (theus_value_kind(found) == THEUS_ATOM) {
        self->last_atom = self->cell->last_key == key ? self->cell->last_number : 0;
    }
    else if (THEUS_HAVE_GIL && PyUnicode_CheckExact(key) && draft_check(draft_state(self), value)) {
        remember_child(self, key, value);
    }
}

int
draft_map_get(DraftObject *self, PyObject *key, PyObject **value)
{
    uint64_t hash;
    uint32_t pos;
    theus_value found;
    *value = Py_XNewRef(remembered(self, key));
    if (*value != NULL) {
        return 1;
    }
    if (key_hash(key, &hash) < 0 || draft_enter_key(self->txn, self->cell, hash) < 0) {
        return -1;
    }
    int result = draft_lookup(self, hash, key, &pos, &found);
    if (result == 1) {
        *value = self->scope != NULL && PyUnicode_CheckExact(key)
                     ? draft_guarded_by(self, key, pos, found)
                     : draft_at(self, pos, found);
        result = *value == NULL ? -1 : 1;
        if (result == 1) {
            remember(self, key, found, *value);
        }
    }
    draft_leave(self);
    return result == 0 && self->scope != NULL && draft_check_absent(self, key) < 0 ? -1 : result;
}

/* ---- storing ------------------------------------------------------------------------ */

/* Stores a value of this heap (borrowed). */
static int
store_value(TxnObject *txn, theus_cell *cell, ScopeObject *scope, uint64_t hash, PyObject *key,
            theus_value value)
{
    if (draft_enter_key(txn, cell, hash) < 0) {
        return -1;
    }
    if (scope != NULL && guard_check_write(txn, cell, scope, hash, key, value) < 0) {
        theus_txn_leave(&txn->txn);
        return -1;
    }
    theus_status status = theus_cell_store(cell, NULL, hash, key, value);
    int result = status == THEUS_OK ? 0 : draft_fail(txn, cell, status);
    theus_txn_leave(&txn->txn);
    return result;
}

/* Does `draft` stand at `key` already? 1, 0 or -1. Asking is no read: the answer says only
 * that nothing needs to be done. */
static int
stands_at(TxnObject *txn, theus_cell *cell, uint64_t hash, PyObject *key, PyObject *draft)
{
    uint32_t pos;
    if (draft_of(draft)->txn != txn) {
        return 0;
    }
    if (draft_enter_key(txn, cell, hash) < 0) {
        return -1;
    }
    int result = 0;
    theus_cell *child = draft_of(draft)->cell;
    if (child->parent == cell && !txn->txn.read_only) {
        theus_find found = theus_cell_probe(cell, NULL, hash, key, &pos, NULL);
        result = found == THEUS_FIND_FAILED
                     ? draft_fail(txn, cell, txn->txn.find_status)
                     : found == THEUS_FOUND && theus_cell_child_at(cell, pos) == child;
    }
    theus_txn_leave(&txn->txn);
    return result;
}

int
draft_map_store(module_state *st, TxnObject *txn, theus_cell *cell, ScopeObject *scope, PyObject *key,
                PyObject *object)
{
    uint64_t hash;
    theus_value value;
    if (key_hash(key, &hash) < 0) {
        return -1;
    }
    if (freeze_is_plain(object)) {
        return store_value(txn, cell, scope, hash, key, theus_value_of_atom(object));
    }
    if (draft_check(st, object)) {
        int stands = stands_at(txn, cell, hash, key, object);
        if (stands != 0) {
            return stands < 0 ? -1 : 0;
        }
    }
    freeze_path at = freeze_path_key(NULL, key);
    if (draft_freeze_value(st, txn, cell, object, &at, &value) < 0) {
        return -1;
    }
    int result = store_value(txn, cell, scope, hash, key, value);
    freeze_drop(txn->heap, value);
    return result;
}

int
draft_map_discard(DraftObject *self, PyObject *key)
{
    uint64_t hash;
    uint32_t pos;
    theus_value value;
    if (key_hash(key, &hash) < 0 || draft_enter_entry(self) < 0) {
        return -1;
    }
    int result = self->scope == NULL ? 0 : draft_check_store(self, hash, key, THEUS_NONE);
    if (result == 0) {
        result = draft_lookup(self, hash, key, &pos, &value);
    }
    if (result == 1 && draft_checked(self, theus_cell_remove(self->cell, hash, pos)) < 0) {
        result = -1;
    }
    draft_leave(self);
    return result;
}

/* ---- update ------------------------------------------------------------------------- */

static int
store_entry(DraftObject *self, PyObject *key, PyObject *value)
{
    return draft_map_store(draft_state(self), self->txn, self->cell, self->scope, key, value);
}

/* Of this heap the values are shared, of another one they are copied. */
static int
update_from_frozen(DraftObject *self, HandleObject *source)
{
    HeapObject *heap = self->txn->heap;
    theus_cursor cursor;
    void *key;
    theus_value value;
    uint64_t hash;
    int result = 0;
    theus_cursor_init(&cursor, source->node, false);
    while (result == 0 && theus_cursor_next(&cursor, NULL, &key, &value)) {
        if (source->heap == heap || theus_value_kind(value) == THEUS_ATOM) {
            result = key_hash((PyObject *)key, &hash) < 0
                         ? -1
                         : store_value(self->txn, self->cell, self->scope, hash, (PyObject *)key,
                                       value);
            continue;
        }
        PyObject *handle = handle_wrap(source->heap, value);
        result = handle == NULL ? -1 : store_entry(self, (PyObject *)key, handle);
        Py_XDECREF(handle);
    }
    return result;
}

static int
update_from_dict(DraftObject *self, PyObject *source)
{
    Py_ssize_t place = 0, size = PyDict_GET_SIZE(source);
    PyObject *key, *value;
    int result = 0;
    Py_BEGIN_CRITICAL_SECTION(source);
    while (result == 0 && PyDict_Next(source, &place, &key, &value)) {
        Py_INCREF(key);
        Py_INCREF(value);
        result = store_entry(self, key, value);
        Py_DECREF(key);
        Py_DECREF(value);
        if (result == 0 && PyDict_GET_SIZE(source) != size) {
            PyErr_SetString(PyExc_RuntimeError, "dict mutated during update");
            result = -1;
        }
    }
    Py_END_CRITICAL_SECTION();
    return result;
}

static int
update_from_keys(DraftObject *self, PyObject *source, PyObject *keys)
{
    PyObject *iterator = PyObject_GetIter(keys), *key;
    if (iterator == NULL) {
        return -1;
    }
    int result = 0;
    while (result == 0 && (key = PyIter_Next(iterator)) != NULL) {
        PyObject *value = PyObject_GetItem(source, key);
        result = value == NULL ? -1 : store_entry(self, key, value);
        Py_XDECREF(value);
        Py_DECREF(key);
    }
    Py_DECREF(iterator);
    return result < 0 || PyErr_Occurred() ? -1 : 0;
}

static int
store_pair(DraftObject *self, PyObject *item, Py_ssize_t index)
{
    PyObject *pair = sequence_parts(item, "");
    if (pair == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "element %zd is no pair of key and value but of type %s",
                         index, Py_TYPE(item)->tp_name);
        }
        return -1;
    }
    int result = -1;
    if (PySequence_Fast_GET_SIZE(pair) != 2) {
        PyErr_Format(PyExc_ValueError, "element %zd has %zd parts; a pair of key and value has 2",
                     index, PySequence_Fast_GET_SIZE(pair));
    }
    else {
        PyObject *key = Py_NewRef(PySequence_Fast_GET_ITEM(pair, 0));
        PyObject *value = Py_NewRef(PySequence_Fast_GET_ITEM(pair, 1));
        result = store_entry(self, key, value);
        Py_DECREF(key);
        Py_DECREF(value);
    }
    Py_DECREF(pair);
    return result;
}

static int
update_from_pairs(DraftObject *self, PyObject *source)
{
    PyObject *iterator = PyObject_GetIter(source), *item;
    if (iterator == NULL) {
        return -1;
    }
    int result = 0;
    for (Py_ssize_t index = 0; result == 0 && (item = PyIter_Next(iterator)) != NULL; index++) {
        result = store_pair(self, item, index);
        Py_DECREF(item);
    }
    Py_DECREF(iterator);
    return result < 0 || PyErr_Occurred() ? -1 : 0;
}

/* A draft as source is read as a whole, first: it may be this one, or one inside it. */
static int
update_from_draft(DraftObject *self, PyObject *source)
{
    PyObject *content = draft_frozen(source);
    if (content == NULL) {
        return -1;
    }
    int result = update_from_frozen(self, handle_of(content));
    Py_DECREF(content);
    return result;
}

int
draft_map_update(DraftObject *self, PyObject *source)
{
    const module_state *st = draft_state(self);
    if (PyDict_CheckExact(source)) {
        return update_from_dict(self, source);
    }
    if (Py_IS_TYPE(source, st->FrozenDict_type)) {
        return update_from_frozen(self, handle_of(source));
    }
    if (Py_IS_TYPE(source, st->DraftDict_type)) {
        return update_from_draft(self, source);
    }
    PyObject *method;
    if (PyObject_GetOptionalAttrString(source, "keys", &method) < 0) {
        return -1;
    }
    if (method == NULL) {
        return update_from_pairs(self, source);
    }
    PyObject *keys = PyObject_CallNoArgs(method);
    Py_DECREF(method);
    int result = keys == NULL ? -1 : update_from_keys(self, source, keys);
    Py_XDECREF(keys);
    return result;
}
