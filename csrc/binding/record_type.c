/* What people read about commits: CommitRecord, Change, MetaLogEntry. Named tuples that are made here. */
#include "outgoing.h"
#include "state_type.h"

static PyStructSequence_Field record_fields[] = {
    {"version", "the version that the commit made"},
    {"time", "seconds since 1970, exact to a few milliseconds"},
    {"thread", "identity of the thread that committed"},
    {"process", "name of the process, or None"},
    {"sets", "paths that were set"},
    {"deletes", "paths that were deleted"},
    {"reads", "values that were read and validated"},
    {"rebased", "True if other commits had come between, without touching what this one depends on"},
    {"paths", "the first eight paths written, as tuples"},
    /* by name alone, so that the record stays the tuple that it was: */
    {"signals", "the signals it sent, in order: (topic, payload)"},
    {"outbox", "the messages it sent, in order: (topic, payload)"},
    {"notes", "what the helpers of its processes have noted: (name, value)"},
    {NULL, NULL},
};

static PyStructSequence_Desc record_desc = {
    "theus.CommitRecord", "What one commit did.", record_fields, 9,
};

static PyStructSequence_Field change_fields[] = {
    {"path", "tuple of keys and indexes"},
    {"old", "the value before, or MISSING"},
    {"new", "the value after, or MISSING"},
    {NULL, NULL},
};

static PyStructSequence_Desc change_desc = {
    "theus.Change", "One difference between two versions.", change_fields, 3,
};

static PyStructSequence_Field meta_fields[] = {
    {"timestamp", "seconds since 1970"},
    {"key", "what the entry is about"},
    {"message", "what was noted"},
    {NULL, NULL},
};

static PyStructSequence_Desc meta_desc = {
    "theus._theus.MetaLogEntry", "One entry of a state's meta log.", meta_fields, 3,
};

static PyObject *
record_paths(const theus_record *record)
{
    PyObject *paths = PyTuple_New(record->path_count);
    uint32_t at = 0;
    for (uint32_t i = 0; paths != NULL && i < record->path_count; i++) {
        PyObject *path = txn_path_tuple(record->segments + at, record->depth[i]);
        if (path == NULL) {
            Py_CLEAR(paths);
            break;
        }
        PyTuple_SET_ITEM(paths, i, path);
        at += record->depth[i];
    }
    return paths;
}

PyObject *
record_wrap(HeapObject *heap, const theus_record *record)
{
    if (record == NULL) {
        Py_RETURN_NONE;
    }
    PyObject *made = PyStructSequence_New(heap->st->CommitRecord_type);
    if (made == NULL) {
        return NULL;
    }
    PyObject *parts[] = {
        PyLong_FromUnsignedLongLong(record->version),
        PyFloat_FromDouble((double)record->time_ns * 1e-9),
        PyLong_FromUnsignedLongLong(record->thread),
        Py_NewRef(record->process != NULL ? (PyObject *)record->process : Py_None),
        PyLong_FromUnsignedLong(record->sets),
        PyLong_FromUnsignedLong(record->deletes),
        PyLong_FromUnsignedLong(record->reads),
        PyBool_FromLong(record->rebased),
        record_paths(record),
        outgoing_pairs(heap, record->attached[THEUS_SIGNALS]),
        outgoing_pairs(heap, record->attached[THEUS_MESSAGES]),
        outgoing_pairs(heap, record->attached[THEUS_NOTES]),
    };
    bool whole = true;
    for (Py_ssize_t i = 0; i < (Py_ssize_t)Py_ARRAY_LENGTH(parts); i++) {
        whole = whole && parts[i] != NULL;
        PyStructSequence_SetItem(made, i, parts[i]);
    }
    if (!whole) {
        Py_CLEAR(made);
    }
    return made;
}

static int
add_record_type(PyObject *module, PyStructSequence_Desc *desc, PyTypeObject **slot)
{
    *slot = PyStructSequence_NewType(desc);
    if (*slot == NULL) {
        return -1;
    }
    return PyModule_AddType(module, *slot);
}

int
add_record_types(PyObject *module, module_state *st)
{
    if (add_record_type(module, &record_desc, &st->CommitRecord_type) < 0
        || add_record_type(module, &change_desc, &st->Change_type) < 0) {
        return -1;
    }
    return add_record_type(module, &meta_desc, &st->MetaLogEntry_type);
}
