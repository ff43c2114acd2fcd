/* theus._theus.SharedBlock: one block of shared memory, of this process or another.
 *
 * It is a lease, or shows another one's block. It exports a buffer, and owns no Python object but the one it shows: no cycle can
 * run through it, and the collector need not see it. Arrays refer to it for as long as they live, so memory goes when the last
 * view goes, whatever happened to zone, engine and owner. */
#include "shm_type.h"

#include "array_view.h"
#include "errors.h"

#include <stddef.h>
#include <string.h>

typedef enum {
    BLOCK_LEASE,   /* the block itself: writable if it is ours */
    BLOCK_SHOWN,   /* the same, never writable */
    BLOCK_PRIVATE, /* a copy on write */
    BLOCK_LENT,    /* a range of it, writable until the loan ends */
} block_kind;

typedef struct {
    PyObject_HEAD
    theus_block block;  /* ours to release if there is no original, and no loan */
    block_kind kind;
    PyObject *original; /* not of a lease: the one whose block this shows, owned */
    char *data;
    uint64_t from, size; /* the bytes of the block that lie at `data` */
    void *mapping;      /* of a private copy: what to unmap */
    uint64_t mapped;
    theus_loan *loan;   /* of a range, owned */
    _Atomic(bool) ended; /* that loan: nobody writes through us any more */
    PyObject *weakrefs;
} BlockObject;

static BlockObject *
block_of(PyObject *op)
{
    return (BlockObject *)op;
}

/* ---- tokens --------------------------------------------------------------------------------- */

static const char token_magic[4] = {'t', 'h', 's', '1'};

block_token
shm_token_of(const theus_block *block)
{
    block_token token = {.slot = block->slot, .generation = block->generation};
    memcpy(token.magic, token_magic, sizeof(token.magic));
    theus_arena_name_of(block->arena, &token.arena);
    return token;
}

static PyObject *
token_of(const theus_block *block)
{
    block_token token = shm_token_of(block);
    return PyBytes_FromStringAndSize((const char *)&token, sizeof(token));
}

static PyObject *
block_token_bytes(PyObject *op, void *Py_UNUSED(closure))
{
    return token_of(&block_of(op)->block);
}

static BlockObject *
block_new(module_state *st, const theus_block *block, block_kind kind, char *data)
{
    BlockObject *self = PyObject_New(BlockObject, st->SharedBlock_type);
    if (self != NULL) {
        self->block = *block;
        self->kind = kind;
        self->original = NULL;
        self->data = data;
        self->from = 0;
        self->size = block->size;
        self->mapping = NULL;
        self->mapped = 0;
        self->loan = NULL;
        atomic_init(&self->ended, false);
        self->weakrefs = NULL;
    }
    return self;
}

PyObject *
shm_block_of_lease(module_state *st, theus_block *block)
{
    BlockObject *self = block_new(st, block, BLOCK_LEASE, theus_block_data(block));
    if (self == NULL) {
        theus_block_release(block);
    }
    return (PyObject *)self;
}

PyObject *
shm_block_of_loan(module_state *st, theus_loan *loan)
{
    BlockObject *self = block_new(st, &loan->block, BLOCK_LENT, loan->data);
    if (self == NULL) {
        theus_loan_free(loan);
        return NULL;
    }
    self->loan = loan;
    self->from = loan->from;
    self->size = loan->size;
    return (PyObject *)self;
}

static PyObject *block_publish(PyObject *op, PyObject *ignored);

PyObject *
module_borrow_block(PyObject *module, PyObject *bytes)
{
    module_state *st = module_state_of(module);
    block_token token;
    if (!PyBytes_Check(bytes) || PyBytes_GET_SIZE(bytes) != sizeof(token)
        || memcmp(PyBytes_AS_STRING(bytes), token_magic, sizeof(token_magic)) != 0) {
        PyErr_Format(st->BadTokenError, "%R is no token of a shared array", bytes);
        return NULL;
    }
    memcpy(&token, PyBytes_AS_STRING(bytes), sizeof(token));
    theus_block block;
    theus_refusal refusal;
    theus_status status;
    Py_BEGIN_ALLOW_THREADS
    status = theus_block_lease(&token.arena, token.slot, token.generation, &block, &refusal);
    Py_END_ALLOW_THREADS
    if (status != THEUS_OK) {
        return shm_raise(st, status, &refusal);
    }
    PyObject *lease = shm_block_of_lease(st, &block);
    /* A state may hold it: then nobody writes there, not its owner either, who is given what all others are shown. */
    if (lease != NULL && theus_block_is_owned(&block) && theus_block_is_published(&block)) {
        PyObject *shown = block_publish(lease, NULL);
        Py_DECREF(lease);
        return shown;
    }
    return lease;
}

PyObject *
module_count_leases(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLongLong(theus_arenas_held());
}

PyObject *
module_forget_arenas(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    theus_arenas_forget();
    Py_RETURN_NONE;
}

PyObject *
module_recover_leases(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    uint64_t leases;
    Py_BEGIN_ALLOW_THREADS
    leases = theus_zones_recover();
    Py_END_ALLOW_THREADS
    return PyLong_FromUnsignedLongLong(leases);
}

/* ---- SharedBlock ------------------------------------------------------------------------------- */

static bool
block_is_writable(const BlockObject *self)
{
    return self->kind == BLOCK_PRIVATE || (self->kind == BLOCK_LEASE && theus_block_is_owned(&self->block))
           || (self->kind == BLOCK_LENT && !atomic_load(&self->ended));
}

static int
block_get_buffer(PyObject *op, Py_buffer *view, int flags)
{
    BlockObject *self = block_of(op);
    return PyBuffer_FillInfo(view, op, self->data, (Py_ssize_t)self->size, !block_is_writable(self), flags);
}

static PyObject *
block_retire(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    module_state *st = module_state_of_type(Py_TYPE(op));
    if (block_of(op)->kind == BLOCK_PRIVATE) {
        PyErr_SetString(st->BorrowedArrayError,
                        "a copy on write frees nothing, it goes with its last view: free the array that it was made of");
        return NULL;
    }
    theus_status status = theus_block_retire(&block_of(op)->block);
    if (status != THEUS_OK) {
        return errors_raise(st, status);
    }
    Py_RETURN_NONE;
}

static PyObject *
block_mark(PyObject *op, PyObject *site)
{
    unsigned long number = PyLong_AsUnsignedLong(site);
    if (number == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    if (number <= UINT32_MAX && theus_block_is_owned(&block_of(op)->block)) {
        theus_block_set_site(&block_of(op)->block, (uint32_t)number);
    }
    Py_RETURN_NONE;
}

static PyObject *
block_private(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BlockObject *shown = block_of(op);
    module_state *st = module_state_of_type(Py_TYPE(op));
    void *mapping;
    uint64_t mapped;
    char *data;
    theus_refusal refusal;
    theus_status status = theus_block_map_private(&shown->block, &mapping, &mapped, &data, &refusal);
    if (status != THEUS_OK) {
        return shm_raise(st, status, &refusal);
    }
    BlockObject *self = block_new(st, &shown->block, BLOCK_PRIVATE, data);
    if (self == NULL) {
        theus_shm_unmap(mapping, mapped);
        return NULL;
    }
    self->original = Py_NewRef(op);
    self->mapping = mapping;
    self->mapped = mapped;
    if (shown->kind == BLOCK_PRIVATE) {
        memcpy(mapping, shown->mapping, mapped); /* the pages that were written there are not the block's */
    }
    return (PyObject *)self;
}

static PyObject *
block_publish(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BlockObject *of = block_of(op);
    module_state *st = module_state_of_type(Py_TYPE(op));
    char *data;
    if (of->kind == BLOCK_SHOWN) {
        return Py_NewRef(op);
    }
    if (of->kind != BLOCK_LEASE) {
        PyErr_SetString(PyExc_ValueError, "neither a private copy nor a lent range can be published");
        return NULL;
    }
    theus_refusal refusal;
    theus_status status = theus_block_publish(&of->block, &data, &refusal);
    if (status != THEUS_OK) {
        return shm_raise(st, status, &refusal);
    }
    BlockObject *self = block_new(st, &of->block, BLOCK_SHOWN, data);
    if (self != NULL) {
        self->original = Py_NewRef(op);
    }
    return (PyObject *)self;
}

static PyObject *
block_lend(PyObject *op, PyObject *args)
{
    BlockObject *self = block_of(op);
    if (self->kind == BLOCK_PRIVATE) {
        PyErr_SetString(PyExc_ValueError, "a copy on write is this process's own: nothing of it can be lent");
        return NULL;
    }
    return shm_lend(op, &self->block, args);
}

static PyObject *
block_loans(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return shm_loans(&block_of(op)->block);
}

static PyObject *
block_recall(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(theus_loans_recall(&block_of(op)->block));
}

static PyObject *
block_end(PyObject *op, PyObject *finished)
{
    BlockObject *self = block_of(op);
    int good = PyObject_IsTrue(finished);
    if (good < 0) {
        return NULL;
    }
    if (self->loan != NULL && !atomic_exchange(&self->ended, true)) {
        theus_loan_end(self->loan, good != 0);
    }
    Py_RETURN_NONE;
}

static void
block_dealloc(PyObject *op)
{
    BlockObject *self = block_of(op);
    PyTypeObject *type = Py_TYPE(op);
    PyObject *original = self->original;
    THEUS_CLEAR_WEAKREFS(op, self->weakrefs);
    if (self->mapping != NULL) {
        theus_shm_unmap(self->mapping, self->mapped);
    }
    if (self->loan != NULL) {
        theus_loan_free(self->loan);
    }
    else if (original == NULL) {
        theus_block_release(&self->block);
    }
    PyObject_Free(op);
    Py_XDECREF(original);
    Py_DECREF(type);
}

static PyObject *
block_address(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromVoidPtr(block_of(op)->data);
}

static PyObject *
block_size(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(block_of(op)->block.size);
}

static PyObject *
block_label(PyObject *op, void *Py_UNUSED(closure))
{
    const theus_slot *record = theus_block_record(&block_of(op)->block);
    return PyUnicode_DecodeUTF8(record->label, (Py_ssize_t)theus_slot_label_length(record), "replace");
}

static PyObject *
block_session(PyObject *op, void *Py_UNUSED(closure))
{
    const char *session = block_of(op)->block.arena->header->session;
    return PyUnicode_DecodeUTF8(session, (Py_ssize_t)strnlen(session, THEUS_SESSION_MAX), "replace");
}

static PyObject *
block_pid(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(block_of(op)->block.arena->header->pid);
}

static PyObject *
block_owned(PyObject *op, void *Py_UNUSED(closure))
{
    BlockObject *self = block_of(op);
    return PyBool_FromLong(self->kind != BLOCK_PRIVATE && theus_block_is_owned(&self->block));
}

static bool
can_travel(const BlockObject *self)
{
    return self->kind != BLOCK_PRIVATE && theus_block_is_live(&self->block);
}

static PyObject *
block_live(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(can_travel(block_of(op)));
}

static PyObject *
block_published(PyObject *op, void *Py_UNUSED(closure))
{
    BlockObject *self = block_of(op);
    return PyBool_FromLong(self->kind != BLOCK_PRIVATE && theus_block_is_published(&self->block));
}

static PyObject *
block_lends(PyObject *op, void *Py_UNUSED(closure))
{
    BlockObject *self = block_of(op);
    return PyBool_FromLong(self->kind != BLOCK_PRIVATE && theus_block_lends(&self->block));
}

static PyObject *
block_leases(PyObject *op, void *Py_UNUSED(closure))
{
    uint64_t leases = atomic_load(&theus_block_record(&block_of(op)->block)->leases);
    return PyLong_FromLong((long)__builtin_popcountll(leases));
}

static PyObject *
block_file(PyObject *op, void *Py_UNUSED(closure))
{
    const theus_arena *arena = block_of(op)->block.arena;
    if (arena->backend != THEUS_NAMED) {
        Py_RETURN_NONE;
    }
    return PyUnicode_FromString(theus_file_name_of(&arena->name, THEUS_FILE_DATA).text);
}

static PyObject *
block_memory(PyObject *op, void *Py_UNUSED(closure))
{
    const BlockObject *self = block_of(op);
    return PyLong_FromLong(self->kind == BLOCK_PRIVATE ? THEUS_MEMORY_HOST : (long)self->block.arena->memory);
}

static PyMethodDef block_methods[] = {
    {"retire", block_retire, METH_NOARGS,
     PyDoc_STR("retire($self, /)\n--\n\nNo process can borrow it from now on; those that have it keep it. Raises\n"
               "BorrowedArrayError if it is another process's.")},
    {"mark", block_mark, METH_O,
     PyDoc_STR("mark($self, site, /)\n--\n\nNotes the number of the place in the program that allocated it.")},
    {"private", block_private, METH_NOARGS,
     PyDoc_STR("private($self, /)\n--\n\nThe same content, writable: what is written stays in this process, page by page.")},
    {"publish", block_publish, METH_NOARGS,
     PyDoc_STR("publish($self, /)\n--\n\n"
               "The same block, read-only by the kernel. Its owner promises not to change it any more. Raises\n"
               "BorrowedArrayError if it is another process's, who has not.")},
    {"lend", block_lend, METH_VARARGS,
     PyDoc_STR("lend($self, offset, size, /)\n--\n\n"
               "A SharedLoan of this range. If it cannot be: () if as many are lent as can be, (offset, size, pid) of one\n"
               "that overlaps. ValueError if nothing of the block can be lent.")},
    {"loans", block_loans, METH_NOARGS,
     PyDoc_STR("loans($self, /)\n--\n\nA list of (offset, size, pid or 0) of the ranges that others may write, or will.")},
    {"recall", block_recall, METH_NOARGS,
     PyDoc_STR("recall($self, /)\n--\n\nWhat is lent and nobody has taken, nobody can take from now on. How many.")},
    {"end", block_end, METH_O,
     PyDoc_STR("end($self, finished, /)\n--\n\nThe loan that this is ends: read-only, and the owner knows. Once; else nothing.")},
    {0},
};

static PyMemberDef block_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(BlockObject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef block_getset[] = {
    {"address", block_address, NULL, PyDoc_STR("Where it is mapped in this process."), NULL},
    {"size", block_size, NULL, PyDoc_STR("In bytes, as asked for; of a lent range, that of the whole block."), NULL},
    {"label", block_label, NULL, PyDoc_STR("The key that it was allocated under."), NULL},
    {"session", block_session, NULL, PyDoc_STR("The session of the engine that allocated it."), NULL},
    {"pid", block_pid, NULL, PyDoc_STR("The process that allocated it."), NULL},
    {"owned", block_owned, NULL, PyDoc_STR("Whether it is this process's own."), NULL},
    {"live", block_live, NULL, PyDoc_STR("Whether other processes may borrow it."), NULL},
    {"published", block_published, NULL, PyDoc_STR("Whether its owner has promised not to change it."), NULL},
    {"lends", block_lends, NULL, PyDoc_STR("Whether ranges of it can be lent."), NULL},
    {"leases", block_leases, NULL, PyDoc_STR("The number of processes that look at it."), NULL},
    {"file", block_file, NULL, PyDoc_STR("The name of the file that it lies in; None: that has none."), NULL},
    {"memory", block_memory, NULL, PyDoc_STR("The number of the kind of memory that it lies in."), NULL},
    {"token", block_token_bytes, NULL, PyDoc_STR("What borrow_block() takes in another process."), NULL},
    {0},
};

static PyType_Slot block_slots[] = {
    {Py_tp_doc, "A block of shared memory, for as long as somebody in this process looks at it."},
    {Py_tp_dealloc, block_dealloc},
    {Py_tp_methods, block_methods},
    {Py_tp_members, block_members},
    {Py_tp_getset, block_getset},
    {Py_bf_getbuffer, block_get_buffer},
    {0, NULL},
};

static PyType_Spec block_spec = {
    .name = "theus._theus.SharedBlock",
    .basicsize = sizeof(BlockObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = block_slots,
};

/* ---- arrays in blocks ------------------------------------------------------------------------------ */

enum { BASES_MAX = 100 }; /* NumPy keeps such chains short; objects of others may be their own base */

/* The SharedBlock at the end of an array's chain of bases; NULL, perhaps with an exception set, if none is there. */
static PyObject *
block_below(const module_state *st, PyObject *array)
{
    PyObject *base = Py_NewRef(array);
    for (int steps = 0; base != NULL && Py_TYPE(base) != st->SharedBlock_type; steps++) {
        if (steps == BASES_MAX) {
            Py_CLEAR(base);
            break;
        }
        PyObject *next = NULL;
        if (PyMemoryView_Check(base)) {
            next = Py_XNewRef(PyMemoryView_GET_BUFFER(base)->obj);
        }
        else {
            (void)PyObject_GetOptionalAttrString(base, "base", &next);
        }
        Py_SETREF(base, next);
    }
    return base;
}

/* Whether an array's data lie in `size` bytes from `data`, and where. No sum may overflow: the strides may be forged. */
static bool
place_of_view(const Py_buffer *view, const char *data, uint64_t size, int64_t *offset)
{
    int64_t low, high;
    *offset = (int64_t)((intptr_t)view->buf - (intptr_t)data);
    return array_extent(view->ndim, view->shape, view->strides, view->itemsize, &low, &high)
           && !__builtin_add_overflow(*offset, low, &low) && !__builtin_add_overflow(*offset, high, &high) && low >= 0
           && high >= 0 && (uint64_t)high <= size;
}

/* The block in which all data of an array lie (1, a new reference in *block), and where in it; 0: in none, and -1. */
static int
find_place(const module_state *st, PyObject *array, PyObject **block, int64_t *offset)
{
    Py_buffer view;
    *block = block_below(st, array);
    if (*block == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    int found = PyObject_GetBuffer(array, &view, PyBUF_STRIDES);
    if (found == 0) {
        const BlockObject *of = block_of(*block);
        found = place_of_view(&view, of->data, of->size, offset);
        *offset += (int64_t)of->from;
        PyBuffer_Release(&view);
    }
    if (found != 1) {
        Py_CLEAR(*block);
    }
    return found;
}

/* (what, offset), taking over `what`. */
static PyObject *
with_offset(PyObject *what, int64_t offset)
{
    return what == NULL ? NULL : Py_BuildValue("(NL)", what, (long long)offset);
}

PyObject *
module_place_in_block(PyObject *module, PyObject *array)
{
    PyObject *block;
    int64_t offset;
    int found = find_place(module_state_of(module), array, &block, &offset);
    return found == 1 ? with_offset(block, offset) : found < 0 ? NULL : Py_NewRef(Py_None);
}

PyObject *
module_token_in_block(PyObject *module, PyObject *array)
{
    PyObject *block;
    int64_t offset;
    int found = find_place(module_state_of(module), array, &block, &offset);
    if (found < 1) {
        return found < 0 ? NULL : Py_NewRef(Py_None);
    }
    BlockObject *of = block_of(block);
    PyObject *result = can_travel(of) ? with_offset(token_of(&of->block), offset) : Py_NewRef(Py_None);
    Py_DECREF(block);
    return result;
}

int
add_shm_block_type(PyObject *module, module_state *st)
{
    return module_add_type(module, &block_spec, &st->SharedBlock_type);
}
