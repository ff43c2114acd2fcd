/* theus._theus.SharedZone: the shared memory of one engine. */
#include "shm_type.h"

#include "errors.h"

#include "../core/port_memory.h"

typedef struct {
    PyObject_HEAD
    theus_zone *zone; /* owned */
} ZoneObject;

static ZoneObject *
zone_of(PyObject *op)
{
    return (ZoneObject *)op;
}

PyObject *
module_system_memory(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    theus_memory_figures memory = theus_memory_read("");
    theus_address_figures address = theus_address_read();
    if (address.limit > 0) {
        uint64_t left = address.used < address.limit ? address.limit - address.used : 0;
        memory.total = address.limit < memory.total ? address.limit : memory.total;
        memory.room = left < memory.room ? left : memory.room;
    }
    return Py_BuildValue("KK", (unsigned long long)memory.total, (unsigned long long)memory.room);
}

static PyObject *
zone_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"session", "limit", "named", NULL};
    const char *session;
    unsigned long long limit;
    int named = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sK|p:SharedZone", names, &session, &limit, &named)) {
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
    theus_zone_choose(self->zone, named ? THEUS_NAMED : THEUS_ANONYMOUS);
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

static const char *const why_names[] = {
    [THEUS_ROOM_QUOTA] = "quota",
    [THEUS_ROOM_PROCESS] = "process",
    [THEUS_ROOM_ADDRESS] = "address space",
    [THEUS_ROOM_SYSTEM] = "system",
};

PyObject *
shm_raise(const module_state *st, theus_status status, const theus_refusal *refusal)
{
    if (status != THEUS_NO_ROOM) {
        return errors_raise(st, status);
    }
    PyObject *memory = PyImport_ImportModule("theus.memory"); /* for the words; loaded when somebody is refused */
    PyObject *error = memory == NULL
                          ? NULL
                          : PyObject_CallMethod(memory, "refused", "OK(ssKKI)", Py_None, (unsigned long long)refusal->mapping,
                                                why_names[refusal->why], "", (unsigned long long)refusal->used,
                                                (unsigned long long)refusal->limit, (unsigned)refusal->memory);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    Py_XDECREF(memory);
    return NULL;
}

static PyObject *
zone_alloc(PyObject *op, PyObject *args)
{
    PyObject *text;
    unsigned long long size;
    int zero, lending = 0;
    Py_ssize_t length;
    unsigned placement = THEUS_PLACE(THEUS_MEMORY_SHARED);
    if (!PyArg_ParseTuple(args, "UKp|pI:alloc", &text, &size, &zero, &lending, &placement)) {
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
    unsigned how = (zero ? THEUS_ZEROED : 0) | (lending ? THEUS_LENDING : 0);
    Py_BEGIN_ALLOW_THREADS /* new pages take milliseconds, and so does zeroing */
    status = theus_zone_alloc_in(zone, placement, label, (uint32_t)length, size, how, &block, &refusal);
    Py_END_ALLOW_THREADS
    module_state *st = module_state_of_type(Py_TYPE(op));
    if (status == THEUS_OK) {
        return shm_block_of_lease(st, &block);
    }
    if (status != THEUS_NO_ROOM) {
        return errors_raise(st, status);
    }
    theus_quota quota = {0};
    if (refusal.why == THEUS_ROOM_QUOTA) {
        (void)theus_zone_read_quota(zone, refusal.quota, &quota);
    }
    return Py_BuildValue("(ss#KKI)", why_names[refusal.why], quota.prefix, (Py_ssize_t)quota.length, (unsigned long long)refusal.used,
                         (unsigned long long)refusal.limit, (unsigned)refusal.memory);
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
zone_decay(PyObject *op, PyObject *seconds)
{
    double wanted = PyFloat_AsDouble(seconds);
    if (wanted == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    if (!(wanted >= 0 && wanted < 1e9)) {
        return PyErr_Format(PyExc_ValueError, "a number of seconds is between 0 and 1e9, unlike %R", seconds);
    }
    theus_zone_decay(zone_of(op)->zone, (uint64_t)(wanted * 1e9));
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

/* (arenas, blocks, bytes, backed, idle) of each kind of memory, in their order. */
static PyObject *
memory_list(const theus_memory_tally *memory)
{
    PyObject *list = PyList_New(THEUS_MEMORY_BLOCKS);
    for (int i = 0; list != NULL && i < THEUS_MEMORY_BLOCKS; i++) {
        const theus_memory_tally *it = &memory[i];
        PyObject *tally = Py_BuildValue("(KKKKK)", (unsigned long long)it->arenas, (unsigned long long)it->blocks,
                                        (unsigned long long)it->bytes, (unsigned long long)it->backed,
                                        (unsigned long long)it->idle);
        if (tally == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, tally);
    }
    return list;
}

static PyObject *
zone_figures(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    theus_zone_figures f;
    theus_zone_read(zone_of(op)->zone, &f);
    PyObject *classes = class_dict(f.classes), *memory = classes == NULL ? NULL : memory_list(f.memory);
    if (memory == NULL) {
        Py_XDECREF(classes);
        return NULL;
    }
#define FIGURE(name) #name, (unsigned long long)f.name
    return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsKsKsKsNsN}", FIGURE(births), FIGURE(deaths), FIGURE(bytes_born),
                         FIGURE(bytes_dead), FIGURE(asked), FIGURE(arenas), FIGURE(mapped), FIGURE(backed), FIGURE(idle),
                         FIGURE(lingering), FIGURE(free_bytes), FIGURE(largest_free), "classes", classes, "memory", memory);
#undef FIGURE
}

static PyObject *
zone_quotas(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *list = PyList_New(0);
    theus_quota quota;
    for (uint32_t i = 0; list != NULL && theus_zone_read_quota(zone_of(op)->zone, i, &quota); i++) {
        PyObject *item = Py_BuildValue("(s#KKKKK)", quota.prefix, (Py_ssize_t)quota.length, (unsigned long long)quota.soft,
                                       (unsigned long long)quota.hard, (unsigned long long)quota.used,
                                       (unsigned long long)quota.peak, (unsigned long long)quota.blocks);
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
    return Py_BuildValue("(NKKOIdOIKOII)", label, (unsigned long long)block->size, (unsigned long long)block->extent,
                         block->state == THEUS_SLOT_LIVE ? Py_True : Py_False, (unsigned)block->leases, age,
                         block->published ? Py_True : Py_False, (unsigned)block->site,
                         (unsigned long long)(uintptr_t)block->data, block->lends ? Py_True : Py_False, (unsigned)block->lent,
                         (unsigned)block->memory);
}

/* Of a zone; NULL: of the process. */
static PyObject *
block_list(theus_zone *zone)
{
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

static PyObject *
zone_blocks(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return block_list(zone_of(op)->zone);
}

static PyObject *
zone_lookers(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    theus_zone *zone = zone_of(op)->zone;
    uint64_t places = theus_zone_lookers(zone, NULL, 0) + 16, count; /* some more: others come meanwhile */
    theus_looker *lookers = PyMem_Calloc(places, sizeof(*lookers));
    if (lookers == NULL) {
        return PyErr_NoMemory();
    }
    count = theus_zone_lookers(zone, lookers, places);
    count = count < places ? count : places;
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (uint64_t i = 0; list != NULL && i < count; i++) {
        PyObject *item = Py_BuildValue("(IKK)", (unsigned)lookers[i].pid, (unsigned long long)lookers[i].blocks,
                                       (unsigned long long)lookers[i].bytes);
        if (item == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    PyMem_Free(lookers);
    return list;
}

/* ---- of the process ------------------------------------------------------------------------------------- */

PyObject *
module_process_blocks(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return block_list(NULL);
}

PyObject *
module_process_memory(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    theus_process_figures found;
    theus_process_read(&found);
    const theus_process_totals *totals = &found.totals;
    return Py_BuildValue("(KKKKKKKKKK)", (unsigned long long)totals->soft, (unsigned long long)totals->hard,
                         (unsigned long long)totals->used, (unsigned long long)totals->peak, (unsigned long long)totals->births,
                         (unsigned long long)totals->deaths, (unsigned long long)totals->bytes_born,
                         (unsigned long long)totals->bytes_dead, (unsigned long long)found.blocks, (unsigned long long)found.bytes);
}

PyObject *
module_limit_process(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long soft, hard;
    int first;
    if (!PyArg_ParseTuple(args, "KKp:limit_process", &soft, &hard, &first)) {
        return NULL;
    }
    theus_process_limit(soft, hard, first != 0);
    Py_RETURN_NONE;
}

static PyMethodDef zone_methods[] = {
    {"alloc", zone_alloc, METH_VARARGS,
     PyDoc_STR("alloc($self, label, size, zero, lending=False, placement=4, /)\n--\n\n"
               "A new block in one of those kinds of memory (a bit each), or why there is none: (whose limit it\n"
               "is, the prefix of that quota, bytes used, limit, the number of the kind that was asked last).")},
    {"retire_all", zone_retire_all, METH_O,
     PyDoc_STR("retire_all($self, shut, /)\n--\n\n"
               "No block can be borrowed from now on. If `shut`, memory is not kept for later ones either.")},
    {"tidy", zone_tidy, METH_NOARGS,
     PyDoc_STR("tidy($self, /)\n--\n\nLooks for dead borrowers, unmaps what is empty; bytes given back.")},
    {"decay", zone_decay, METH_O,
     PyDoc_STR("decay($self, seconds, /)\n--\n\nHow long memory without an array is kept for the next one.")},
    {"limit", zone_limit, METH_VARARGS,
     PyDoc_STR("limit($self, prefix, soft, hard, /)\n--\n\nSets the quota of a prefix, in bytes; 0: none.")},
    {"figures", zone_figures, METH_NOARGS, PyDoc_STR("figures($self, /)\n--\n\nAll totals, by name.")},
    {"quotas", zone_quotas, METH_NOARGS,
     PyDoc_STR("quotas($self, /)\n--\n\nA list of (prefix, soft, hard, used, peak, blocks).")},
    {"blocks", zone_blocks, METH_NOARGS,
     PyDoc_STR("blocks($self, /)\n--\n\nA list of (label, size, extent, live, leases, age in seconds,\n"
               "published, site, address, whether it lends, ranges lent, number of the kind of memory).")},
    {"lookers", zone_lookers, METH_NOARGS,
     PyDoc_STR("lookers($self, /)\n--\n\nA list of (pid, blocks, bytes): who looks at how much of it. A process stands\n"
               "there once for each arena.")},
    {0},
};

static PyType_Slot zone_slots[] = {
    {Py_tp_doc, "SharedZone(session, limit, named=False)\n--\n\n"
                "The shared memory of one engine; limit in bytes, 0: none."},
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
    shm_choose_folder();
    if (add_shm_block_type(module, st) < 0 || add_shm_loan_type(module, st) < 0) {
        return -1;
    }
    return module_add_type(module, &zone_spec, &st->SharedZone_type);
}
