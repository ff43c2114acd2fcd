/* The Engine type: construction, transactions, what it is set to. Its other methods: engine_run.c, engine_swap.c, engine_facts.c,
 * engine_wait.c; its arguments: engine_arguments.c. */
#include "engine_type.h"

#include "admin.h"
#include "errors.h"
#include "outgoing.h"
#include "state_type.h"
#include "zones.h"

#include <stddef.h>

enum {
    DEFAULT_TIMEOUT_MS = 300000,
    DEFAULT_TRANSACTION_TIMEOUT_MS = 5000,
    DEFAULT_RING = 1024,
    DEFAULT_RING_TIMEOUT_MS = 1000,
};

static EngineObject *
engine_of(PyObject *op)
{
    return (EngineObject *)op;
}

int
engine_check_open(EngineObject *self)
{
    if (!self->closed) {
        return 0;
    }
    PyErr_SetNone(self->heap->st->ClosedError);
    return -1;
}

/* ---- life -------------------------------------------------------------------------------- */

static int
refuse_again(void)
{
    PyErr_SetString(PyExc_RuntimeError, "this engine is in use: make a new one instead of calling __init__ again");
    return -1;
}

/* Is the engine still as __new__ made it? Transactions keep the store they began on. */
static int
engine_check_unused(EngineObject *self)
{
    theus_store_facts facts = {0};
    theus_ring_facts ring = {0};
    if (self->store != NULL) {
        theus_store_read_facts(self->store, &facts);
        theus_ring_read_facts(theus_store_ring(self->store), &ring);
    }
    if (!active_is_empty(&self->active) || facts.version != 0 || ring.readers != 0) {
        return refuse_again();
    }
    return 0;
}

/* Gives the engine a store that begins with `first`, in place of an unused one. The heap is the same for the
 * engine's life: states and transactions made before __init__ stay of one family with those made after it. */
static int
engine_set_store(EngineObject *self, theus_version *first, const theus_store_limits *limits)
{
    theus_store *store, *old = self->store;
    theus_status status = theus_store_new(self->heap->core, first, limits, &store);
    if (status != THEUS_OK) {
        return errors_fail(self->heap->st, status);
    }
    self->store = store;
    if (THEUS_HAVE_GIL && old != NULL) {
        theus_store_free(old);
    }
    else {
        self->outdated = old;
    }
    return 0;
}

/* All of them or none. */
static theus_status
engine_init_locks(EngineObject *self)
{
    theus_status status = active_init(&self->active);
    if (status != THEUS_OK) {
        return status;
    }
    status = theus_bell_init(&self->commits, THEUS_HAVE_GIL);
    if (status == THEUS_OK) {
        status = theus_bell_init(&self->room, THEUS_HAVE_GIL);
        if (status == THEUS_OK) {
            return THEUS_OK;
        }
        theus_bell_fini(&self->commits);
    }
    active_fini(&self->active);
    return status;
}

static void
engine_fini_locks(EngineObject *self)
{
    theus_bell_fini(&self->room);
    theus_bell_fini(&self->commits);
    active_fini(&self->active);
}

static EngineObject *
engine_alloc(PyTypeObject *type)
{
    EngineObject *self = (EngineObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->timeout_ms = DEFAULT_TIMEOUT_MS;
    self->ring_timeout_ms = DEFAULT_RING_TIMEOUT_MS;
    if (engine_init_locks(self) != THEUS_OK) {
        PyErr_NoMemory();
        Py_CLEAR(self);
        return NULL;
    }
    self->conflicts = PyDict_New(); /* for dealloc: there is one only if the locks are there */
    if (self->conflicts == NULL) {
        engine_fini_locks(self);
        Py_CLEAR(self);
    }
    return self;
}

EngineObject *
engine_over(HeapObject *heap, theus_version *version)
{
    theus_store_limits limits = {.ring_capacity = 1, .history_count = 1};
    EngineObject *self = engine_alloc(heap->st->Engine_type);
    if (self == NULL) {
        return NULL;
    }
    self->heap = (HeapObject *)Py_NewRef((PyObject *)heap);
    if (engine_set_store(self, version, &limits) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

/* A store with a first version made of `data` and `heavy`: number 1, or 0 if it is empty. */
static int
engine_fill(EngineObject *self, PyObject *data, PyObject *heavy, PyObject *rules, const theus_store_limits *limits)
{
    theus_container *root = NULL, *signals = NULL;
    theus_version *first = NULL;
    HeapObject *heap = self->heap;
    int result = state_root_from(heap, data, heavy, &root);
    if (result == 0) {
        int hides = zones_hide(rules, root);
        self->hides = hides == 1;
        result = hides < 0 ? -1 : 0;
    }
    if (result == 0) { /* reading the data may have run code that uses the engine */
        result = engine_check_unused(self);
    }
    if (result == 0) {
        theus_status status = theus_container_new(heap->core, THEUS_MAP, &signals);
        if (status == THEUS_OK) {
            status = theus_edit_seal(signals);
        }
        if (status == THEUS_OK) {
            status = theus_version_new(NULL, root->count != 0, root, signals, NULL, &first);
        }
        result = status == THEUS_OK ? engine_set_store(self, first, limits) : errors_fail(heap->st, status);
    }
    theus_container_release(root);
    theus_container_release(signals);
    theus_version_release(first);
    return result;
}

/* An empty engine, whatever the arguments: a subclass passes its own to __init__. So there is no
 * engine without a store, even if that __init__ never calls ours. As small as can be: ours makes another one, and a ring
 * of the usual size is so large that the allocator would fetch its pages from the system, and give them back, each time. */
static PyObject *
engine_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    PyObject *module = PyType_GetModuleByDef(type, &theus_module);
    theus_store_limits limits = {.ring_capacity = 1, .history_count = ENGINE_DEFAULT_HISTORY};
    EngineObject *self = module == NULL ? NULL : engine_alloc(type);
    if (self == NULL) {
        return NULL;
    }
    self->heap = heap_new(module_state_of(module));
    if (self->heap != NULL) {
        self->heap->engine = PyWeakref_NewRef((PyObject *)self, NULL);
    }
    if (self->heap == NULL || self->heap->engine == NULL || engine_fill(self, NULL, NULL, NULL, &limits) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static int
engine_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "heavy", "strict_cas", "write_timeout_ms", "ring_capacity", "ring_mode",
                            "ring_timeout_ms", "history", "zones", NULL};
    EngineObject *self = engine_of(op);
    PyObject *data = NULL, *heavy = NULL, *timeout = Py_None, *ring = NULL, *history = NULL;
    PyObject *mode = NULL, *patience = NULL, *zones = Py_None, *cas = Py_False;
    bool strict = false;
    theus_store_limits limits = {.ring_capacity = DEFAULT_RING, .history_count = ENGINE_DEFAULT_HISTORY};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO$OOOOOOO:Engine", names, &data, &heavy, &cas,
                                     &timeout, &ring, &mode, &patience, &history, &zones)
        || engine_parse_flag(cas, "strict_cas", &strict) < 0
        || (ring != NULL && engine_parse_size(ring, "ring_capacity", &limits.ring_capacity) < 0)
        || (mode != NULL && engine_parse_ring_mode(mode, &limits.ring_mode) < 0)
        || (history != NULL && engine_parse_size(history, "history", &limits.history_count) < 0)) {
        return -1;
    }
    uint64_t timeout_ms = DEFAULT_TIMEOUT_MS, ring_timeout_ms = DEFAULT_RING_TIMEOUT_MS;
    if ((timeout != Py_None && engine_parse_timeout(timeout, &timeout_ms) < 0)
        || (patience != NULL && engine_parse_milliseconds(patience, "ring_timeout_ms", &ring_timeout_ms) < 0)) {
        return -1;
    }
    PyObject *rules = zones == Py_None ? NULL : zones_parse_rules(zones);
    if (rules == NULL && zones != Py_None) {
        return -1;
    }
    if (atomic_exchange(&self->initialised, true)) {
        Py_XDECREF(rules);
        return refuse_again();
    }
    if (engine_check_unused(self) < 0 || engine_fill(self, data, heavy, rules, &limits) < 0) {
        Py_XDECREF(rules);
        self->initialised = false;
        return -1;
    }
    self->rules = rules;
    self->strict_cas = strict;
    self->timeout_ms = timeout_ms;
    self->ring_timeout_ms = ring_timeout_ms;
    self->reserves = theus_ring_reserves(theus_store_ring(self->store));
    return 0;
}

static int
engine_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(engine_of(op)->heap);
    Py_VISIT(engine_of(op)->conflicts);
    Py_VISIT(engine_of(op)->rules);
    Py_VISIT(engine_of(op)->admins);
    Py_VISIT(engine_of(op)->everything);
    Py_VISIT(engine_of(op)->admissions);
    int stopped = theus_bell_visit(&engine_of(op)->commits, (int (*)(void *, void *))visit, arg);
    return stopped != 0 ? stopped : theus_bell_visit(&engine_of(op)->room, (int (*)(void *, void *))visit, arg);
}

/* Whoever listens is in the same cycle, and waits no longer. */
static void
drop_listeners(theus_bell *bell)
{
    theus_listener *next;
    for (theus_listener *it = theus_bell_take(bell); it != NULL; it = next) {
        next = it->next;
        Py_DECREF((PyObject *)it->who);
        theus_free(it);
    }
}

/* The heap stays until the end: whoever else is in the cycle may still look at it. */
static int
engine_clear(PyObject *op)
{
    if (engine_of(op)->conflicts != NULL) {
        PyDict_Clear(engine_of(op)->conflicts);
    }
    if (engine_of(op)->admins != NULL) {
        PyDict_Clear(engine_of(op)->admins);
    }
    drop_listeners(&engine_of(op)->commits);
    drop_listeners(&engine_of(op)->room);
    return 0;
}

static void
engine_dealloc(PyObject *op)
{
    EngineObject *self = engine_of(op);
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    THEUS_CLEAR_WEAKREFS(op, self->weakrefs);
    if (self->outdated != NULL) {
        theus_store_free(self->outdated);
    }
    drop_listeners(&self->commits);
    drop_listeners(&self->room);
    if (self->store != NULL) {
        theus_store_free(self->store);
    }
    if (self->conflicts != NULL) {
        engine_fini_locks(self);
        Py_DECREF(self->conflicts);
    }
    Py_XDECREF(self->rules);
    Py_XDECREF(self->admins);
    Py_XDECREF(self->everything);
    Py_XDECREF(self->admissions);
    Py_XDECREF(self->heap);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
engine_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EngineObject *self = engine_of(op);
    if (!atomic_exchange(&self->closed, true)) {
        theus_store_limits limits = {.history_count = 1};
        theus_turns_close(theus_store_turns(self->store));
        theus_status status = theus_store_limit_history(self->store, &limits);
        int commits = waiting_ring(&self->commits), room = waiting_ring(&self->room);
        if (status != THEUS_OK) {
            return errors_raise(self->heap->st, status);
        }
        if (commits < 0 || room < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

/* ---- transactions --------------------------------------------------------------------------- */

static PyObject *
engine_transaction(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"write_timeout_ms", "isolation", "read_only", "process", "detached", NULL};
    EngineObject *self = engine_of(op);
    uint64_t timeout_ms = DEFAULT_TRANSACTION_TIMEOUT_MS;
    theus_isolation isolation = THEUS_SERIALIZABLE;
    PyObject *wanted = NULL, *timeout = NULL, *process = Py_None, *reads = Py_False, *apart = Py_False;
    bool read_only = false, detached = false;
    if (engine_check_open(self) < 0) {
        return NULL;
    }
    if (kwargs != NULL || PyTuple_GET_SIZE(args) != 0) {
        if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOOOO:transaction", names, &timeout, &wanted,
                                         &reads, &process, &apart)
            || engine_parse_flag(reads, "read_only", &read_only) < 0
            || engine_parse_flag(apart, "detached", &detached) < 0
            || (wanted != NULL && engine_parse_isolation(wanted, &isolation) < 0)) {
            return NULL;
        }
        if (timeout != NULL && engine_parse_timeout(timeout, &timeout_ms) < 0) {
            return NULL;
        }
        if (process != Py_None && !PyUnicode_Check(process)) {
            PyErr_Format(PyExc_TypeError, "process= names a process: a str, not %R", process);
            return NULL;
        }
    }
    TxnObject *txn = txn_new(self, isolation, read_only, timeout_ms, process == Py_None ? NULL : process);
    if (txn != NULL) {
        txn->detached = detached;
    }
    return (PyObject *)txn;
}

static PyObject *
engine_current(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TxnObject *txn = txn_current(engine_of(op));
    return txn == NULL ? Py_NewRef(Py_None) : (PyObject *)txn;
}

static PyObject *
engine_count_retry(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    atomic_fetch_add_explicit(&theus_store_counters(engine_of(op)->store)->retries, 1, memory_order_relaxed);
    Py_RETURN_NONE;
}

/* ---- state and figures ----------------------------------------------------------- */

static PyObject *
get_state(PyObject *op, void *Py_UNUSED(closure))
{
    EngineObject *self = engine_of(op);
    return state_new(self->heap, self, theus_store_pin(self->store));
}

static PyObject *
get_version(PyObject *op, void *Py_UNUSED(closure))
{
    theus_store_facts facts;
    theus_store_read_facts(engine_of(op)->store, &facts);
    return PyLong_FromUnsignedLongLong(facts.version);
}

static PyObject *
get_strict(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(engine_of(op)->strict_cas);
}

static int
set_strict(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    bool strict;
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "strict_cas cannot be deleted");
        return -1;
    }
    if (engine_parse_flag(value, "strict_cas", &strict) < 0) {
        return -1;
    }
    engine_of(op)->strict_cas = strict;
    return 0;
}

static PyObject *
get_timeout(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(engine_of(op)->timeout_ms);
}

static int
set_timeout(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "write_timeout_ms cannot be deleted");
        return -1;
    }
    uint64_t timeout_ms;
    if (engine_parse_timeout(value, &timeout_ms) < 0) {
        return -1;
    }
    engine_of(op)->timeout_ms = timeout_ms;
    return 0;
}

static PyObject *
get_ring_mode(PyObject *op, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(engine_ring_mode_name(engine_of(op)));
}

static PyObject *
get_ring_timeout(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(engine_of(op)->ring_timeout_ms);
}

static PyObject *
get_queueing(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(theus_turn_queue_is_on(&theus_store_turns(engine_of(op)->store)->queue));
}

static PyObject *
get_hides(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(engine_of(op)->hides);
}

static PyObject *
get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(engine_of(op)->closed);
}

static PyObject *
engine_repr(PyObject *op)
{
    theus_store_facts facts;
    theus_store_read_facts(engine_of(op)->store, &facts);
    return PyUnicode_FromFormat("<%s: version %llu%s>", Py_TYPE(op)->tp_name,
                                (unsigned long long)facts.version,
                                engine_of(op)->closed ? ", closed" : "");
}

/* ---- the type -------------------------------------------------------------------- */

static PyMethodDef engine_methods[] = {
    {"transaction", THEUS_FASTCALL(engine_transaction), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("transaction(write_timeout_ms=5000, isolation='serializable', read_only=False, process=None,\n"
               "detached=False)\n\n"
               "A transaction for a with block. It commits at the end of the block and raises ConflictError\n"
               "if another commit changed what it depends on; run() retries instead. Inside a transaction of the\n"
               "same thread and task it becomes a savepoint of that one, unless detached. write_timeout_ms:\n"
               "milliseconds (0: no limit), after which a commit of writes raises WriteTimeoutError. process:\n"
               "the name in its record. Raises ClosedError.")},
    {"current", engine_current, METH_NOARGS,
     PyDoc_STR("The open transaction that this thread and task runs on this engine, or None.")},
    {"count_retry", engine_count_retry, METH_NOARGS,
     PyDoc_STR("Adds one to the counter of retries: for loops that retry in Python.")},
    {"run", THEUS_FASTCALL(engine_run), METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("run(fn, *args, retries=None, deadline=None, isolation='serializable', detached=False,\n"
               "process=None)\n\n"
               "Calls fn(tx, *args) as a transaction and returns its result; on a conflict calls it again on\n"
               "a fresh snapshot, after a short jittered wait. retries: how often at most (None: no limit but\n"
               "the deadline; 0: the first conflict raises ConflictError). deadline: seconds (default: the\n"
               "engine's write_timeout_ms). Inside a transaction of the same thread and task it becomes a\n"
               "savepoint of that one, unless detached. fn may run several times: keep effects outside the\n"
               "state in tx.on_commit().")},
    {"compare_and_swap", THEUS_FASTCALL(engine_compare_and_swap), METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("compare_and_swap(expected_version, data=None, heavy=None, signal=None, requester=None)\n\n"
               "Merges data into the state if nothing that it touches has changed since expected_version;\n"
               "returns the version that now stands. Raises ConflictError, also for a version that has left the\n"
               "history, and VersionError for one that does not exist yet. With strict_cas any newer version\n"
               "is a conflict. heavy goes below the root 'heavy', signal is {topic: payload}, and requester\n"
               "a name for the record.")},
    {"allow_admin_function", THEUS_FASTCALL(engine_allow_admin), METH_FASTCALL,
     PyDoc_STR("allow_admin_function(function, name): processes that run this very function may open admin scopes, which "
               "are recorded under that name.")},
    {"admissions", engine_admissions, METH_NOARGS,
     PyDoc_STR("admissions(): (time, process, reason, version, committed) of the admin scopes so far, oldest first.")},
    {"records", THEUS_FASTCALL(engine_records), METH_FASTCALL,
     PyDoc_STR("records(since=0): (list of CommitRecord, lost). Records of commits number since, since + 1, ...\n"
               "oldest first; lost counts those that the ring no longer holds. Continue at\n"
               "since + lost + len(list).")},
    {"counters", engine_counters, METH_NOARGS, PyDoc_STR("The engine's figures as a dict.")},
    {"history_limit", THEUS_FASTCALL(engine_history_limit), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("history_limit(count=None, bytes=None, age=None): how many versions to keep (None: 128), how many\n"
               "bytes of structure, for how many seconds after they were superseded.")},
    {"take_outbox", engine_take_outbox, METH_O,
     PyDoc_STR("take_outbox(pending): moves the messages of all commits so far into a dict, {(version, index): (topic,\n"
               "payload)}, in the order of commits. For one caller at a time: process_outbox().")},
    {"attach", engine_attach, METH_O,
     PyDoc_STR("attach(since): a RecordCursor that begins with the record of commit number since, or (None) with the\n"
               "oldest that no reader has read. reader() makes the usual one.")},
    {"listen", THEUS_FASTCALL(engine_listen), METH_FASTCALL,
     PyDoc_STR("listen(wake, room=False): calls wake() once, after the next commit or close(), in the thread that made\n"
               "it; with room=True after a record was read, so that the ring has room. What it raises goes to that\n"
               "thread. To miss nothing: listen, then look, then wait.")},
    {"unlisten", THEUS_FASTCALL(engine_unlisten), METH_FASTCALL,
     PyDoc_STR("unlisten(wake, room=False): undoes listen(wake), by identity: True, or False if it was called or\n"
               "will be at once.")},
    {"close", engine_close, METH_NOARGS,
     PyDoc_STR("Refuses new transactions, drops the history and ends every wait. States that are held stay good.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef engine_getset[] = {
    {"state", get_state, NULL, PyDoc_STR("The current version, as a State."), NULL},
    {"version", get_version, NULL, PyDoc_STR("The number of the current version."), NULL},
    {"strict_cas", get_strict, set_strict, PyDoc_STR("Refuse every compare_and_swap on an old version."), NULL},
    {"write_timeout_ms", get_timeout, set_timeout, PyDoc_STR("Default deadline of run(), in milliseconds."), NULL},
    {"ring_timeout_ms", get_ring_timeout, NULL,
     PyDoc_STR("How long a commit waits for room in the ring, in mode 'block'. 0: no limit."), NULL},
    {"ring_mode", get_ring_mode, NULL,
     PyDoc_STR("What becomes of a commit record for which the ring has no room."), NULL},
    {"queueing", get_queueing, NULL,
     PyDoc_STR("True while runs wait in line before their first attempt, because trying first would be waste."), NULL},
    {"hides_fields", get_hides, NULL,
     PyDoc_STR("Whether some version may have held fields that processes may not read."), NULL},
    {"closed", get_closed, NULL, PyDoc_STR("True after close()."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef engine_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EngineObject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(engine_doc,
"Engine(data=None, heavy=None, *, strict_cas=False, write_timeout_ms=None, ring_capacity=1024,\n"
"ring_mode='overwrite', ring_timeout_ms=1000, history=128)\n\n"
"One immutable, versioned state and the transactions on it. The data are copied in. All methods may be called\n"
"from any thread.");

static PyType_Slot engine_slots[] = {
    {Py_tp_doc, (void *)engine_doc},
    {Py_tp_new, engine_new},
    {Py_tp_init, engine_init},
    {Py_tp_dealloc, engine_dealloc},
    {Py_tp_traverse, engine_traverse},
    {Py_tp_clear, engine_clear},
    {Py_tp_repr, engine_repr},
    {Py_tp_methods, engine_methods},
    {Py_tp_getset, engine_getset},
    {Py_tp_members, engine_members},
    {0, NULL},
};

static PyType_Spec engine_spec = {
    .name = "theus._theus.Engine",
    .basicsize = sizeof(EngineObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = engine_slots,
};

int
add_engine_type(PyObject *module, module_state *st)
{
    return module_add_type(module, &engine_spec, &st->Engine_type);
}
