/* Making and dropping container handles. */
#include "handle.h"

#include "errors.h"
#include "freeze.h"
#include "records.h"

#include <assert.h>
#include <stddef.h>

static PyTypeObject *
handle_type(const module_state *st, theus_kind kind)
{
    switch (kind) {
    case THEUS_MAP:
        return st->FrozenDict_type;
    case THEUS_LIST:
        return st->FrozenList_type;
    case THEUS_SET:
        return st->FrozenSet_type;
    case THEUS_ATOM:
        break;
    }
    Py_UNREACHABLE();
}

PyObject *
handle_new(HeapObject *heap, theus_container *node)
{
    assert(node->edit == 0);
    module_state *st = heap->st;
    RecordClass *record = node->mark == 0 ? NULL : record_class_of(st, node);
    PyTypeObject *type =
        record != NULL ? record->view_type : handle_type(st, (theus_kind)node->kind);
    HandleObject *self;
    if (st->free_handle_count > 0) {
        self = st->free_handles[--st->free_handle_count];
        PyObject_Init((PyObject *)self, type);
    }
    else {
        self = PyObject_GC_New(HandleObject, type);
        if (self == NULL) {
            theus_container_release(node);
            return NULL;
        }
    }
    self->heap = (HeapObject *)Py_NewRef((PyObject *)heap);
    self->node = node;
    self->weakrefs = NULL;
    if (record != NULL) {
        self->record = (RecordClass *)Py_NewRef((PyObject *)record);
    }
    else {
        atomic_init(&self->hash, -1);
    }
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

PyObject *
handle_wrap_container(HeapObject *heap, theus_container *node)
{
    theus_container_retain(node);
    return handle_new(heap, node);
}

PyObject *
handle_seal(HeapObject *heap, theus_container *edit)
{
    theus_status status = theus_edit_seal(edit);
    if (status != THEUS_OK) {
        theus_container_release(edit);
        return errors_raise(heap->st, status);
    }
    return handle_new(heap, edit);
}

int
handle_refuse_write(PyObject *op, const char *instead)
{
    return errors_frozen(handle_of(op)->heap->st, op, instead);
}

int
handle_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(handle_of(op)->heap);
    if (record_view_check(op)) {
        Py_VISIT((PyObject *)handle_of(op)->record);
    }
    return 0;
}

/* A container can hold a handle as a key, which holds a container ...: the trashcan keeps a long
 * chain of them from running the C stack over. */
void
handle_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    THEUS_TRASHCAN_BEGIN(op, handle_dealloc)
    HandleObject *self = handle_of(op);
    PyTypeObject *type = Py_TYPE(op);
    HeapObject *heap = self->heap;
    module_state *st = heap->st;
    THEUS_CLEAR_WEAKREFS(op, self->weakrefs);
    if (record_view_check(op)) {
        Py_DECREF((PyObject *)self->record);
        Py_SET_TYPE(op, st->FrozenDict_type); /* for the free list: that of the record may go before the memory does */
    }
    theus_container_release(self->node);
    if (st->recycles && st->free_handle_count < FREE_HANDLES) {
        st->free_handles[st->free_handle_count++] = self;
    }
    else {
        PyObject_GC_Del(self);
    }
    Py_DECREF(type);
    Py_DECREF((PyObject *)heap); /* last: it keeps the module, and so `st`, alive */
    THEUS_TRASHCAN_END
}

PyObject *
handle_copy(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(op);
}

PyObject *
handle_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *builtin = thaw_object(handle_of(op)->heap->st, op);
    return builtin == NULL ? NULL : Py_BuildValue("O(N)", Py_TYPE(op), builtin);
}

module_state *
binary_state(PyObject *a, PyObject *b)
{
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(a), &theus_module);
    if (module == NULL) {
        PyErr_Clear();
        module = PyType_GetModuleByDef(Py_TYPE(b), &theus_module);
    }
    return module == NULL ? NULL : module_state_of(module);
}

void
handle_drop_free_list(module_state *st)
{
    while (st->free_handle_count > 0) {
        PyObject_GC_Del(st->free_handles[--st->free_handle_count]);
    }
}

PyMemberDef handle_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(HandleObject, weakrefs), READONLY, NULL},
    {0},
};

/* ---- identity ----------------------------------------------------------------------- */

PyObject *
module_is_same(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const module_state *st = module_state_of(module);
    if (errors_check_count("is_same", count, 2, 2) < 0) {
        return NULL;
    }
    PyObject *a = args[0], *b = args[1];
    bool handles = handle_kind(st, a) != THEUS_ATOM && handle_kind(st, b) != THEUS_ATOM;
    return PyBool_FromLong(a == b || (handles && handle_of(a)->node == handle_of(b)->node));
}
