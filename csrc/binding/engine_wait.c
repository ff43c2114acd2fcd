/* Who waits for an engine: listeners, and commits that need a place in its ring. */
#include "engine_type.h"

#include "errors.h"

/* ---- listeners --------------------------------------------------------------------------- */

static theus_bell *
bell_of(EngineObject *self, PyObject *room)
{
    int wanted = room == NULL ? 0 : PyObject_IsTrue(room);
    return wanted < 0 ? NULL : wanted ? &self->room : &self->commits;
}

PyObject *
engine_listen(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (errors_check_count("listen", count, 1, 2) < 0) {
        return NULL;
    }
    if (!PyCallable_Check(args[0])) {
        PyErr_Format(PyExc_TypeError, "listen() needs something to call, not %R", args[0]);
        return NULL;
    }
    theus_bell *bell = bell_of((EngineObject *)op, count == 2 ? args[1] : NULL);
    return bell == NULL || waiting_listen(bell, args[0]) < 0 ? NULL : Py_NewRef(Py_None);
}

PyObject *
engine_unlisten(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (errors_check_count("unlisten", count, 1, 2) < 0) {
        return NULL;
    }
    theus_bell *bell = bell_of((EngineObject *)op, count == 2 ? args[1] : NULL);
    if (bell == NULL) {
        return NULL;
    }
    return PyBool_FromLong(waiting_unlisten(bell, args[0]));
}

/* ---- a place in the ring ---------------------------------------------------------------------- */

static const char *const mode_names[] = {"overwrite", "drop_new", "block", "strict"};

const char *
engine_ring_mode_name(EngineObject *self)
{
    return mode_names[theus_store_ring(self->store)->mode];
}

int
engine_parse_ring_mode(PyObject *argument, theus_ring_mode *out)
{
    for (int mode = THEUS_RING_OVERWRITE; mode <= THEUS_RING_STRICT; mode++) {
        if (PyUnicode_Check(argument) && PyUnicode_CompareWithASCIIString(argument, mode_names[mode]) == 0) {
            *out = (theus_ring_mode)mode;
            return 0;
        }
    }
    PyErr_Format(PyUnicode_Check(argument) ? PyExc_ValueError : PyExc_TypeError,
                 "ring_mode= is 'overwrite', 'drop_new', 'block' or 'strict', not %R", argument);
    return -1;
}

/* RingFullError(mode, capacity, reason, timeout_ms); -1. */
static int
refuse(EngineObject *engine, const char *reason)
{
    theus_ring *ring = theus_store_ring(engine->store);
    PyObject *type = engine->heap->st->RingFullError;
    PyObject *error = PyObject_CallFunction(type, "sIsK", mode_names[ring->mode], ring->capacity, reason,
                                            (unsigned long long)engine->ring_timeout_ms);
    if (error != NULL) {
        PyErr_SetObject(type, error);
        Py_DECREF(error);
    }
    return -1;
}

static int
try_reserve(void *arg)
{
    TxnObject *self = arg;
    atomic_thread_fence(memory_order_seq_cst); /* between listening and this look, as in txn_abandon() */
    if (atomic_load_explicit(&self->txn.abandoned, memory_order_relaxed)) {
        return txn_fail(self, THEUS_ENDED);
    }
    switch (theus_txn_reserve(&self->txn)) {
    case THEUS_OK:
        return 1;
    case THEUS_FULL:
        return self->engine->closed ? engine_check_open(self->engine) : 0;
    default:
        return refuse(self->engine, "no reader");
    }
}

int
txn_try_reserve(TxnObject *self)
{
    int room = try_reserve(self);
    bool waits = theus_store_ring(self->engine->store)->mode == THEUS_RING_BLOCK;
    return room == 0 && !waits ? refuse(self->engine, "full") : room;
}

int
txn_reserve(TxnObject *self)
{
    EngineObject *engine = self->engine;
    int room = txn_try_reserve(self);
    if (room != 0) {
        return room;
    }
    int blocks = waiting_would_block_loop();
    if (blocks != 0) {
        return blocks < 0 ? -1 : refuse(engine, "event loop");
    }
    uint64_t limit_ns = engine->ring_timeout_ms == 0 ? UINT64_MAX : engine->ring_timeout_ms * 1000000;
    uint64_t now_ns = theus_clock_tick_ns(), end_ns = self->txn.deadline_ns;
    bool late = end_ns != 0 && (end_ns <= now_ns || end_ns - now_ns < limit_ns);
    if (late) {
        limit_ns = end_ns > now_ns ? end_ns - now_ns : 0;
    }
    room = waiting_until(&engine->room, try_reserve, self, limit_ns);
    if (room == 0) {
        return late ? txn_raise_timeout(self) : refuse(engine, "timeout");
    }
    return room;
}
