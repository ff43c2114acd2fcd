/* What an engine tells about itself: records, counters, conflicts by path; and how much of its past it keeps. */
#include "engine_type.h"

#include "errors.h"
#include "state_type.h"

enum { CONFLICT_PATHS_MAX = 1024 }; /* more different paths are only counted in the total */

static void
count_conflict(PyObject *conflicts, PyObject *path)
{
    PyObject *count = NULL, *more = NULL;
    int known = PyDict_GetItemRef(conflicts, path, &count);
    if (known > 0 || (known == 0 && PyDict_GET_SIZE(conflicts) < CONFLICT_PATHS_MAX)) {
        more = PyLong_FromLong((known > 0 ? PyLong_AsLong(count) : 0) + 1);
        if (more != NULL) {
            PyDict_SetItem(conflicts, path, more);
        }
    }
    Py_XDECREF(count);
    Py_XDECREF(more);
}

void
engine_note_conflict(EngineObject *self, const theus_conflict *why)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *path = txn_path_tuple(why->path, why->length);
    if (path != NULL) {
        Py_BEGIN_CRITICAL_SECTION(self->conflicts); /* in one piece, unless comparing keys runs Python code */
        count_conflict(self->conflicts, path);
        Py_END_CRITICAL_SECTION();
        Py_DECREF(path);
    }
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
        PyErr_SetInterrupt(); /* it came while a key was compared: to be raised where the program can see it */
    }
    PyErr_Clear(); /* a statistic is not worth failing for */
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

PyObject *
engine_records(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    EngineObject *self = (EngineObject *)op;
    uint64_t sequence = 0, lost = 0;
    if (errors_check_count("records", count, 0, 1) < 0) {
        return NULL;
    }
    if (count == 1) {
        if (engine_parse_version(args[0], &sequence) < 0) {
            return NULL;
        }
    }
    PyObject *list = PyList_New(0);
    theus_record *record;
    theus_ring_facts facts; /* up to what there is now: commits may come faster than we go */
    theus_ring_read_facts(theus_store_ring(self->store), &facts);
    uint64_t lost_before = 0;
    while (list != NULL && sequence < facts.written
           && (record = theus_store_next_record(self->store, &sequence, &lost)) != NULL) {
        if (lost != lost_before && PyList_GET_SIZE(list) > 0) { /* overtaken on the way: the next call tells of that gap */
            theus_record_release(record);
            lost = lost_before;
            break;
        }
        lost_before = lost;
        PyObject *shown = record_wrap(self->heap, record);
        theus_record_release(record);
        if (shown == NULL || PyList_Append(list, shown) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(shown);
    }
    return list == NULL ? NULL : Py_BuildValue("(NK)", list, (unsigned long long)lost);
}

/* Runs that needed more than one attempt, by the number of attempts. New reference. */
static PyObject *
tries_dict(const theus_turn_facts *facts)
{
    PyObject *tries = PyDict_New();
    for (int i = 1; i < THEUS_TURN_TRIES && tries != NULL; i++) {
        if (facts->tries[i] == 0) {
            continue;
        }
        PyObject *attempts = PyLong_FromLong(i + 1), *runs = PyLong_FromUnsignedLongLong(facts->tries[i]);
        if (attempts == NULL || runs == NULL || PyDict_SetItem(tries, attempts, runs) < 0) {
            Py_CLEAR(tries);
        }
        Py_XDECREF(attempts);
        Py_XDECREF(runs);
    }
    return tries;
}

/* What the line of tickets has to say. New reference: a dict. */
static PyObject *
turn_counters(EngineObject *self)
{
    theus_turn_facts facts;
    theus_turns_read_facts(theus_store_turns(self->store), &facts);
    PyObject *tries = tries_dict(&facts);
    return tries == NULL ? NULL
                         : Py_BuildValue("{s:I,s:K,s:I,s:K,s:K,s:N,s:I,s:N}", "queue_depth", facts.queue_depth,
                                         "tickets", (unsigned long long)facts.tickets, "tickets_held",
                                         facts.tickets_held, "waits", (unsigned long long)facts.waits,
                                         "leases_expired", (unsigned long long)facts.leases_expired, "queueing",
                                         PyBool_FromLong(facts.queueing), "tries_max", facts.tries_max, "tries",
                                         tries);
}

PyObject *
engine_counters(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EngineObject *self = (EngineObject *)op;
    theus_counters *counters = theus_store_counters(self->store);
    theus_store_facts facts;
    theus_heap_stats heap;
    theus_ring_facts ring;
    theus_ring_read_facts(theus_store_ring(self->store), &ring);
    theus_store_read_facts(self->store, &facts);
    theus_heap_read_stats(self->heap->core, &heap);
    PyObject *dict = Py_BuildValue(
        "{s:K,s:K,s:I,s:I,s:K,s:K,s:I,s:K,s:K,s:K}", "version", (unsigned long long)facts.version,
        "oldest_version", (unsigned long long)facts.oldest, "history_versions", facts.history_count,
        "ring_capacity", ring.capacity, "ring_written", (unsigned long long)ring.written,
        "ring_lost", (unsigned long long)ring.lost, "ring_readers", ring.readers, "heap_bytes", (unsigned long long)heap.bytes,
        "heap_nodes", (unsigned long long)heap.nodes, "heap_containers",
        (unsigned long long)heap.containers);
#define ADD_COUNTER(name)                                                                             \
    if (dict != NULL) {                                                                               \
        PyObject *value = PyLong_FromUnsignedLongLong(                                                \
            atomic_load_explicit(&counters->name, memory_order_relaxed));                             \
        if (value == NULL || PyDict_SetItemString(dict, #name, value) < 0) {                          \
            Py_CLEAR(dict);                                                                           \
        }                                                                                             \
        Py_XDECREF(value);                                                                            \
    }
    THEUS_COUNTER_LIST(ADD_COUNTER)
#undef ADD_COUNTER
    PyObject *paths = dict == NULL ? NULL : PyDict_Copy(self->conflicts);
    if (paths == NULL || PyDict_SetItemString(dict, "conflicts_by_path", paths) < 0) {
        Py_CLEAR(dict);
    }
    Py_XDECREF(paths);
    PyObject *turns = dict == NULL ? NULL : turn_counters(self);
    if (turns == NULL || PyDict_Update(dict, turns) < 0) {
        Py_CLEAR(dict);
    }
    Py_XDECREF(turns);
    return dict;
}

/* One limit: None means no limit, `zero` is how the core writes that. -1 with an exception. */
static int
parse_limit(PyObject *argument, const char *name, double scale, uint64_t *out)
{
    *out = 0;
    if (argument == Py_None) {
        return 0;
    }
    double wanted = PyBool_Check(argument) ? -1.0 : PyFloat_AsDouble(argument);
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Clear(); /* as -1.0 it is refused below */
    }
    if (PyBool_Check(argument) || PyErr_Occurred()) {
        if (PyBool_Check(argument) || PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "%s= must be a positive number or None, not %R", name, argument);
        }
        return -1;
    }
    if (!(wanted > 0.0) || wanted * scale >= 9.0e18) {
        PyErr_Format(PyExc_ValueError, "%s= must be a positive number or None, not %R", name, argument);
        return -1;
    }
    *out = (uint64_t)(wanted * scale);
    return 0;
}

static int
check_whole(PyObject *argument, const char *name)
{
    if (argument == Py_None || (PyLong_Check(argument) && !PyBool_Check(argument))) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s= must be a positive number (an int) or None, not %R", name, argument);
    return -1;
}

PyObject *
engine_history_limit(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"count", "bytes", "age", NULL};
    EngineObject *self = (EngineObject *)op;
    PyObject *count = Py_None, *bytes = Py_None, *age = Py_None;
    theus_store_limits limits = {0};
    uint64_t versions;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOO:history_limit", names, &count, &bytes, &age)
        || check_whole(count, "count") < 0 || check_whole(bytes, "bytes") < 0
        || parse_limit(count, "count", 1.0, &versions) < 0
        || parse_limit(bytes, "bytes", 1.0, &limits.history_bytes) < 0
        || parse_limit(age, "age", 1e9, &limits.history_age_ns) < 0) {
        return NULL;
    }
    if (versions > (1u << 24)) {
        PyErr_Format(PyExc_ValueError, "count= must be at most 16777216, not %R", count);
        return NULL;
    }
    limits.history_count = versions == 0 ? ENGINE_DEFAULT_HISTORY : (uint32_t)versions;
    theus_status status = theus_store_limit_history(self->store, &limits);
    if (status != THEUS_OK) {
        return errors_raise(self->heap->st, status);
    }
    Py_RETURN_NONE;
}
