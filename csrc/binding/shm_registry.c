/* What lies in the folder of named shared memory: the core's sweep, as a list. theus/registry.py makes something of it. */
#include "shm_type.h"

#include "errors.h"

#include "../core/shm_ledger.h"
#include "../core/shm_sweep.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    theus_left left; /* its name is not ours: `name` is */
    char name[THEUS_FILE_NAME_MAX + 1];
} entry;

/* Filled in without the interpreter: a sweep may take a while. */
typedef struct {
    entry *entries;
    size_t count, places;
    bool no_memory;
} entries;

static void
collect(void *context, const theus_left *left)
{
    entries *found = context;
    if (found->count == found->places) {
        size_t places = found->places > 0 ? 2 * found->places : 64;
        entry *more = PyMem_RawRealloc(found->entries, places * sizeof(entry));
        if (more == NULL) {
            found->no_memory = true;
            return;
        }
        found->entries = more;
        found->places = places;
    }
    entry *last = &found->entries[found->count++];
    last->left = *left;
    strncpy(last->name, left->name, THEUS_FILE_NAME_MAX);
    last->name[THEUS_FILE_NAME_MAX] = '\0';
}

static const char *const whys[] = {
    [THEUS_LEFT_DEAD] = "dead",     [THEUS_LEFT_ORPHAN] = "orphan", [THEUS_LEFT_ALIVE] = "alive",
    [THEUS_LEFT_OTHERS] = "others", [THEUS_LEFT_CLOSED] = "closed", [THEUS_LEFT_FOREIGN] = "foreign",
};

static PyObject *
describe(const entry *it)
{
    PyObject *name = PyUnicode_DecodeFSDefault(it->name);
    PyObject *session = PyUnicode_DecodeUTF8(it->left.session, (Py_ssize_t)strlen(it->left.session), "replace");
    if (name == NULL || session == NULL) {
        Py_XDECREF(name);
        Py_XDECREF(session);
        return NULL;
    }
    return Py_BuildValue("(NsOKINd)", name, whys[it->left.why], it->left.removed ? Py_True : Py_False,
                         (unsigned long long)it->left.bytes, (unsigned int)it->left.pid, session,
                         (double)it->left.made_ns / 1e9);
}

PyObject *
module_sweep_shared(PyObject *module, PyObject *args)
{
    entries found = {0};
    theus_status status;
    PyObject *folder;
    int remove;
    if (!PyArg_ParseTuple(args, "O&p:sweep_shared", PyUnicode_FSConverter, &folder, &remove)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    status = theus_sweep(PyBytes_AS_STRING(folder), remove != 0, collect, &found);
    Py_END_ALLOW_THREADS
    Py_DECREF(folder);
    PyObject *list = NULL;
    if (found.no_memory) {
        PyErr_NoMemory();
    }
    else if (status != THEUS_OK) {
        errors_raise(module_state_of(module), status);
    }
    else {
        list = PyList_New((Py_ssize_t)found.count);
    }
    for (size_t i = 0; list != NULL && i < found.count; i++) {
        PyObject *item = describe(&found.entries[i]);
        if (item == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    PyMem_RawFree(found.entries);
    return list;
}

PyObject *
module_shared_folder(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyUnicode_DecodeFSDefault(theus_files_folder());
}

PyObject *
module_open_ledger(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    int fd;
    theus_arena_name name;
    theus_status status = theus_ledger_open(&fd, &name);
    if (status != THEUS_OK) {
        return errors_raise(module_state_of(module), status);
    }
    PyObject *opened = Py_BuildValue("(is)", fd, theus_file_name_of(&name, THEUS_FILE_CONTROL).text);
    if (opened == NULL) {
        (void)theus_files_hide(&name);
        theus_shm_close(fd);
    }
    return opened;
}

PyObject *
module_hide_arenas(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    theus_arenas_hide();
    Py_RETURN_NONE;
}

void
shm_choose_folder(void)
{
    const char *path = getenv("THEUS_SHM_DIR"); /* while the module is imported: nobody changes it meanwhile */
    theus_files_choose_folder(path != NULL && path[0] != '\0' ? path : "/dev/shm");
    path = getenv("THEUS_SPILL_DIR");
    theus_files_choose_disk(path != NULL && path[0] != '\0' ? path : "/var/tmp");
}
