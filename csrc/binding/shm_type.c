/* theus._theus.SharedZone and SharedBlock: the shared memory of one engine, and one block of it, of this process or another.
 *
 * A SharedBlock is a lease, or shows another one's block. It exports a buffer, and owns no Python object but the one it shows: no cycle can run through it, and the collector need not see it. Arrays refer to
 * it for as long as they live, so memory goes when the last view goes, whatever happened to zone, engine and owner. */
#include "shm_type.h"

#include "errors.h"

#include "../core/shm_zone.h"

#include <stddef.h>
#include <string.h>

typedef struct {
    PyObject_HEAD
    theus_zone *zone; /* owned */
} ZoneObject;

typedef enum {
    BLOCK_LEASE,   /* the block itself: writable if it is ours */
    BLOCK_SHOWN,   /* the same, never writable */
    BLOCK_PRIVATE, /* a copy on write */
} block_kind;

typedef struct {
    PyObject_HEAD
    theus_block block;  /* ours to release if there is no original */
    block_kind kind;
    PyObject *original; /* not of a lease: the one whose block this shows, owned */
    char *data;
    void *mapping;      /* of a private copy: what to unmap */
    uint64_t mapped;
    PyObject *weakrefs;
} BlockObject;

static ZoneObject *
zone_of(PyObject *op)
{
    return (ZoneObject *)op;
}

static BlockObject *
block_of(PyObject *op)
{
    return (BlockObject *)op;
}

/* ---- tokens --------------------------------------------------------------------------------- */

/* What names a block to other processes of this machine. */
typedef struct {
    char magic[4];
    uint32_t slot, generation;
    theus_arena_name arena;
} block_token;

static const char token_magic[4] = {'t', 'h', 's', '1'};

_Static_assert(sizeof(block_token) == 36, "a token has no padding");

static PyObject *
block_token_bytes(PyObject *op, void *Py_UNUSED(closure))
{
    BlockObject *self = block_of(op);
    block_token token = {.slot = self->block.slot, .generation = self->block.generation};
    memcpy(token.magic, token_magic, sizeof(token.magic));
    theus_arena_name_of(self->block.arena, &token.arena);
    return PyBytes_FromStringAndSize((const char *)&token, sizeof(token));
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
        self->mapping = NULL;
        self->mapped = 0;
        self->weakrefs = NULL;
    }
    return self;
}

/* Takes over a lease, also where it fails. */
static PyObject *
block_of_lease(module_state *st, theus_block *block)
{
    BlockObject *self = block_new(st, block, BLOCK_LEASE, theus_block_data(block));
    if (self == NULL) {
        theus_block_release(block);
    }
    return (PyObject *)self;
}

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
    theus_status status;
    Py_BEGIN_ALLOW_THREADS
    status = theus_block_lease(&token.arena, token.slot, token.generation, &block);
    Py_END_ALLOW_THREADS
    return status == THEUS_OK ? block_of_lease(st, &block) : errors_raise(st, status);
}

PyObject *
module_forget_arenas(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    theus_arenas_forget();
    Py_RETURN_NONE;
}

PyObject *
module_system_memory(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("KK", (unsigned long long)theus_memory_total(), (unsigned long long)theus_memory_room());
}

/* ---- SharedBlock ------------------------------------------------------------------------------- */

static bool
block_is_writable(const BlockObject *self)
{
    return self->kind == BLOCK_PRIVATE || (self->kind == BLOCK_LEASE && theus_block_is_owned(&self->block));
}

static int
block_get_buffer(PyObject *op, Py_buffer *view, int flags)
{
    BlockObject *self = block_of(op);
    return PyBuffer_FillInfo(view, op, self->data, (Py_ssize_t)self->block.size, !block_is_writable(self), flags);
}

static PyObject *
block_retire(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    theus_status status = theus_block_retire(&block_of(op)->block);
    if (status != THEUS_OK) {
        return errors_raise(module_state_of_type(Py_TYPE(op)), status);
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
    theus_status status = theus_block_map_private(&shown->block, &mapping, &mapped, &data);
    if (status != THEUS_OK) {
        return errors_raise(st, status);
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
    if (of->kind == BLOCK_PRIVATE) {
        PyErr_SetString(PyExc_ValueError, "a private copy cannot be published");
        return NULL;
    }
    theus_status status = theus_block_publish(&of->block, &data);
    if (status != THEUS_OK) {
        return errors_raise(st, status);
    }
    BlockObject *self = block_new(st, &of->block, BLOCK_SHOWN, data);
    if (self != NULL) {
        self->original = Py_NewRef(op);
    }
    return (PyObject *)self;
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
    if (original == NULL) {
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

static PyObject *
block_live(PyObject *op, void *Py_UNUSED(closure))
{
    BlockObject *self = block_of(op);
    return PyBool_FromLong(self->kind != BLOCK_PRIVATE && theus_block_is_live(&self->block));
}

static PyObject *
block_published(PyObject *op, void *Py_UNUSED(closure))
{
    BlockObject *self = block_of(op);
    return PyBool_FromLong(self->kind != BLOCK_PRIVATE && theus_block_is_published(&self->block));
}

static PyObject *
block_leases(PyObject *op, void *Py_UNUSED(closure))
{
    uint64_t leases = atomic_load(&theus_block_record(&block_of(op)->block)->leases);
    return PyLong_FromLong((long)__builtin_popcountll(leases));
}

static PyMethodDef block_methods[] = {
    {"retire", block_retire, METH_NOARGS,
     PyDoc_STR("retire($self, /)\n--\n\nNo process can borrow it from now on; those that have it keep it. Raises\n"
               "BorrowedArrayError if it is another process's.")},
    {"private", block_private, METH_NOARGS,
     PyDoc_STR("private($self, /)\n--\n\nThe same content, writable: what is written stays in this process, page by page.")},
    {"publish", block_publish, METH_NOARGS,
     PyDoc_STR("publish($self, /)\n--\n\n"
               "The same block, read-only by the kernel. Its owner promises not to change it any more. Raises\n"
               "BorrowedArrayError if it is another process's, who has not.")},
    {0},
};

static PyMemberDef block_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(BlockObject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef block_getset[] = {
    {"address", block_address, NULL, PyDoc_STR("Where it is mapped in this process."), NULL},
    {"size", block_size, NULL, PyDoc_STR("In bytes, as asked for."), NULL},
    {"label", block_label, NULL, PyDoc_STR("The key that it was allocated under."), NULL},
    {"session", block_session, NULL, PyDoc_STR("The session of the engine that allocated it."), NULL},
    {"pid", block_pid, NULL, PyDoc_STR("The process that allocated it."), NULL},
    {"owned", block_owned, NULL, PyDoc_STR("Whether it is this process's own."), NULL},
    {"live", block_live, NULL, PyDoc_STR("Whether other processes may borrow it."), NULL},
    {"published", block_published, NULL, PyDoc_STR("Whether its owner has promised not to change it."), NULL},
    {"leases", block_leases, NULL, PyDoc_STR("The number of processes that look at it."), NULL},
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

/* The SharedBlock at the end of an array's chain of bases; NULL, perhaps with an exception set, if none is there. */
static PyObject *
block_below(const module_state *st, PyObject *array)
{
    PyObject *base = Py_NewRef(array);
    while (base != NULL && Py_TYPE(base) != st->SharedBlock_type) {
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
    int64_t low = (int64_t)((intptr_t)view->buf - (intptr_t)data), high = low;
    bool empty = false;
    *offset = low;
    for (int i = 0; i < view->ndim; i++) {
        int64_t reach;
        empty = empty || view->shape[i] == 0;
        if (__builtin_mul_overflow((int64_t)view->shape[i] - 1, (int64_t)view->strides[i], &reach)
            || (reach < 0 ? __builtin_add_overflow(low, reach, &low) : __builtin_add_overflow(high, reach, &high))) {
            return false;
        }
    }
    if (empty) {
        low = high = *offset;
    }
    else if (__builtin_add_overflow(high, (int64_t)view->itemsize, &high)) {
        return false;
    }
    return low >= 0 && high >= 0 && (uint64_t)high <= size;
}

PyObject *
module_place_in_block(PyObject *module, PyObject *array)
{
    PyObject *block = block_below(module_state_of(module), array), *place = NULL;
    Py_buffer view;
    if (block == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    if (PyObject_GetBuffer(array, &view, PyBUF_STRIDES) == 0) {
        const BlockObject *of = block_of(block);
        int64_t offset;
        place = place_of_view(&view, of->data, of->block.size, &offset)
                    ? Py_BuildValue("(OL)", block, (long long)offset)
                    : Py_NewRef(Py_None);
        PyBuffer_Release(&view);
    }
    Py_DECREF(block);
    return place;
}

/* ---- SharedZone ---------------------------------------------------------------------------------- */

static PyObject *
zone_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"session", "limit", NULL};
    const char *session;
    unsigned long long limit;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sK:SharedZone", names, &session, &limit)) {
        return NULL;
    }
    ZoneObject *self = (ZoneObject *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    theus_status status = theus_zone_new(session, limit, &self->zone);
    if (status != THEUS_OK) {
        Py_DECREF(self);
        return errors_raise(module_state_of_type(type), status);
    }
    return (PyObject *)self;
}

static void
zone_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (zone_of(op)->zone != NULL) {
        theus_zone_free(zone_of(op)->zone);
    }
    PyObject_Free(op);
    Py_DECREF(type);
}

/* A label or prefix as bytes; NULL with ValueError if it is too long. Borrowed from `text`. */
static const char *
parse_label(PyObject *text, Py_ssize_t *length)
{
    const char *label = PyUnicode_AsUTF8AndSize(text, length);
    if (label != NULL && *length > THEUS_LABEL_MAX) {
        PyErr_Format(PyExc_ValueError, "a key has at most %d bytes, and %R has %zd", THEUS_LABEL_MAX, text, *length);
        return NULL;
    }
    return label;
}

static PyObject *
zone_alloc(PyObject *op, PyObject *args)
{
    PyObject *text;
    unsigned long long size;
    int zero;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "UKp:alloc", &text, &size, &zero)) {
        return NULL;
    }
    const char *label = parse_label(text, &length);
    if (label == NULL) {
        return NULL;
    }
    theus_zone *zone = zone_of(op)->zone;
    theus_block block;
    theus_refusal refusal;
    theus_status status;
    Py_BEGIN_ALLOW_THREADS /* new pages take milliseconds, and so does zeroing */
    status = theus_zone_alloc(zone, label, (uint32_t)length, size, zero != 0, &block, &refusal);
    Py_END_ALLOW_THREADS
    module_state *st = module_state_of_type(Py_TYPE(op));
    if (status == THEUS_OK) {
        return block_of_lease(st, &block);
    }
    if (status != THEUS_NO_ROOM) {
        return errors_raise(st, status);
    }
    theus_quota quota = {0};
    if (refusal.why == THEUS_ROOM_QUOTA) {
        (void)theus_zone_read_quota(zone, refusal.quota, &quota);
    }
    return Py_BuildValue("(Os#KK)", refusal.why == THEUS_ROOM_QUOTA ? Py_True : Py_False, quota.prefix,
                         (Py_ssize_t)quota.length, (unsigned long long)refusal.used, (unsigned long long)refusal.limit);
}

static PyObject *
zone_retire_all(PyObject *op, PyObject *shut)
{
    int for_ever = PyObject_IsTrue(shut);
    if (for_ever < 0) {
        return NULL;
    }
    theus_zone_retire_all(zone_of(op)->zone, for_ever != 0);
    Py_RETURN_NONE;
}

static PyObject *
zone_tidy(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    uint64_t bytes;
    Py_BEGIN_ALLOW_THREADS
    bytes = theus_zone_tidy(zone_of(op)->zone);
    Py_END_ALLOW_THREADS
    return PyLong_FromUnsignedLongLong(bytes);
}

static PyObject *
zone_limit(PyObject *op, PyObject *args)
{
    PyObject *prefix;
    unsigned long long soft, hard;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "UKK:limit", &prefix, &soft, &hard)) {
        return NULL;
    }
    const char *label = parse_label(prefix, &length);
    if (label == NULL) {
        return NULL;
    }
    theus_status status = theus_zone_limit(zone_of(op)->zone, label, (uint32_t)length, soft, hard);
    if (status != THEUS_OK) {
        PyErr_Format(PyExc_ValueError, "there are %d quotas already; %R would be one more", THEUS_ZONE_QUOTAS - 1, prefix);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
class_dict(const theus_tally *classes)
{
    PyObject *found = PyDict_New();
    for (int i = 0; found != NULL && i < THEUS_SIZE_CLASSES; i++) {
        if (classes[i].blocks == 0) {
            continue;
        }
        PyObject *most = PyLong_FromUnsignedLongLong(1ULL << (i + 6));
        PyObject *tally = Py_BuildValue("(KK)", (unsigned long long)classes[i].blocks, (unsigned long long)classes[i].bytes);
        if (most == NULL || tally == NULL || PyDict_SetItem(found, most, tally) < 0) {
            Py_CLEAR(found);
        }
        Py_XDECREF(most);
        Py_XDECREF(tally);
    }
    return found;
}

static PyObject *
zone_figures(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    theus_zone_figures f;
    theus_zone_read(zone_of(op)->zone, &f);
    PyObject *classes = class_dict(f.classes);
    if (classes == NULL) {
        return NULL;
    }
#define FIGURE(name) #name, (unsigned long long)f.name
    return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsKsKsKsN}", FIGURE(births), FIGURE(deaths), FIGURE(bytes_born),
                         FIGURE(bytes_dead), FIGURE(asked), FIGURE(arenas), FIGURE(mapped), FIGURE(backed), FIGURE(idle),
                         FIGURE(lingering), FIGURE(free_bytes), FIGURE(largest_free), "classes", classes);
#undef FIGURE
}

static PyObject *
zone_quotas(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *list = PyList_New(0);
    theus_quota quota;
    for (uint32_t i = 0; list != NULL && theus_zone_read_quota(zone_of(op)->zone, i, &quota); i++) {
        PyObject *item = Py_BuildValue("(s#KKKK)", quota.prefix, (Py_ssize_t)quota.length, (unsigned long long)quota.soft,
                                       (unsigned long long)quota.hard, (unsigned long long)quota.used,
                                       (unsigned long long)quota.peak);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *
describe_block(const theus_block_figures *block)
{
    PyObject *label = PyUnicode_DecodeUTF8(block->label, (Py_ssize_t)block->length, "replace");
    if (label == NULL) {
        return NULL;
    }
    double age = (double)(theus_clock_tick_ns() - block->tick_ns) / 1e9;
    return Py_BuildValue("(NKKOId)", label, (unsigned long long)block->size, (unsigned long long)block->extent,
                         block->state == THEUS_SLOT_LIVE ? Py_True : Py_False, (unsigned)block->leases, age);
}

static PyObject *
zone_blocks(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    theus_zone *zone = zone_of(op)->zone;
    uint64_t places = theus_zone_list(zone, NULL, 0) + 16, count; /* some more: others allocate meanwhile */
    theus_block_figures *blocks = PyMem_Calloc(places, sizeof(*blocks));
    if (blocks == NULL) {
        return PyErr_NoMemory();
    }
    count = theus_zone_list(zone, blocks, places);
    count = count < places ? count : places;
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (uint64_t i = 0; list != NULL && i < count; i++) {
        PyObject *item = describe_block(&blocks[i]);
        if (item == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    PyMem_Free(blocks);
    return list;
}

static PyMethodDef zone_methods[] = {
    {"alloc", zone_alloc, METH_VARARGS,
     PyDoc_STR("alloc($self, label, size, zero, /)\n--\n\n"
               "A new block, or why there is none: (whether a quota refused, its prefix, bytes used, limit).")},
    {"retire_all", zone_retire_all, METH_O,
     PyDoc_STR("retire_all($self, shut, /)\n--\n\n"
               "No block can be borrowed from now on. If `shut`, memory is not kept for later ones either.")},
    {"tidy", zone_tidy, METH_NOARGS,
     PyDoc_STR("tidy($self, /)\n--\n\nLooks for dead borrowers, unmaps what is empty; bytes given back.")},
    {"limit", zone_limit, METH_VARARGS,
     PyDoc_STR("limit($self, prefix, soft, hard, /)\n--\n\nSets the quota of a prefix, in bytes; 0: none.")},
    {"figures", zone_figures, METH_NOARGS, PyDoc_STR("figures($self, /)\n--\n\nAll totals, by name.")},
    {"quotas", zone_quotas, METH_NOARGS,
     PyDoc_STR("quotas($self, /)\n--\n\nA list of (prefix, soft, hard, used, peak).")},
    {"blocks", zone_blocks, METH_NOARGS,
     PyDoc_STR("blocks($self, /)\n--\n\nA list of (label, size, extent, live, leases, age in seconds).")},
    {0},
};

static PyType_Slot zone_slots[] = {
    {Py_tp_doc, "SharedZone(session, limit)\n--\n\nThe shared memory of one engine; limit in bytes, 0: none."},
    {Py_tp_new, zone_new},
    {Py_tp_dealloc, zone_dealloc},
    {Py_tp_methods, zone_methods},
    {0, NULL},
};

static PyType_Spec zone_spec = {
    .name = "theus._theus.SharedZone",
    .basicsize = sizeof(ZoneObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = zone_slots,
};

int
add_shm_types(PyObject *module, module_state *st)
{
    if (module_add_type(module, &block_spec, &st->SharedBlock_type) < 0) {
        return -1;
    }
    return module_add_type(module, &zone_spec, &st->SharedZone_type);
}
