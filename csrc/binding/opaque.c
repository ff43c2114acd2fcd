/* Opaque, the wrapper for what a heap would refuse, and the marks MISSING and DELETE. */
#include "draft.h"
#include "errors.h"

/* ---- Opaque ----------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *value; /* owned; NULL only after tp_clear */
} OpaqueObject;

/* No state shall keep what works only inside one. */
static bool
belongs_to_a_transaction(PyTypeObject *opaque, PyObject *value)
{
    PyObject *module = PyType_GetModuleByDef(opaque, &theus_module);
    if (module == NULL) {
        PyErr_Clear(); /* cannot be: the type was made with the module */
        return false;
    }
    const module_state *st = module_state_of(module);
    PyTypeObject *type = Py_TYPE(value);
    return draft_check(st, value) || draft_view_check(st, value) || type == st->DraftIterator_type
           || type == st->Context_type || type == st->Transaction_type;
}

static PyObject *
opaque_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"value", NULL};
    PyObject *value;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Opaque", names, &value)) {
        return NULL;
    }
    if (belongs_to_a_transaction(type, value)) {
        return PyErr_Format(PyExc_TypeError, "Opaque() vouches that a value will not change, and a %s ends with its "
                            "transaction: store it as it is, and the state keeps its content", Py_TYPE(value)->tp_name);
    }
    OpaqueObject *self = PyObject_GC_New(OpaqueObject, type);
    if (self != NULL) {
        self->value = Py_NewRef(value);
        PyObject_GC_Track(self);
    }
    return (PyObject *)self;
}

static int
opaque_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((OpaqueObject *)op)->value);
    return 0;
}

static int
opaque_clear(PyObject *op)
{
    Py_CLEAR(((OpaqueObject *)op)->value);
    return 0;
}

static void
opaque_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    THEUS_TRASHCAN_BEGIN(op, opaque_dealloc)
    (void)opaque_clear(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
    THEUS_TRASHCAN_END
}

static PyObject *
opaque_repr(PyObject *op)
{
    int inside = Py_ReprEnter(op);
    if (inside != 0) {
        return inside < 0 ? NULL : PyUnicode_FromString("Opaque(...)");
    }
    PyObject *result = PyUnicode_FromFormat("Opaque(%R)", ((OpaqueObject *)op)->value);
    Py_ReprLeave(op);
    return result;
}

/* Two wrappers of one object are equal: what the object itself compares may change. */
static PyObject *
opaque_richcompare(PyObject *op, PyObject *other, int how)
{
    if (!Py_IS_TYPE(other, Py_TYPE(op)) || (how != Py_EQ && how != Py_NE)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    bool same = ((OpaqueObject *)op)->value == ((OpaqueObject *)other)->value;
    return PyBool_FromLong(same == (how == Py_EQ));
}

static Py_hash_t
opaque_hash(PyObject *op)
{
    /* Addresses are multiples of 16: move the zeros out of the way of small tables. */
    uintptr_t address = (uintptr_t)((OpaqueObject *)op)->value;
    Py_hash_t hash = (Py_hash_t)((address >> 4) | (address << (8 * sizeof(address) - 4)));
    return hash == -1 ? -2 : hash;
}

static PyObject *
opaque_get_value(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *value = ((OpaqueObject *)op)->value;
    return Py_NewRef(value != NULL ? value : Py_None);
}

static PyObject *
opaque_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("O(O)", Py_TYPE(op), ((OpaqueObject *)op)->value);
}

static PyGetSetDef opaque_getset[] = {
    {"value", opaque_get_value, NULL, PyDoc_STR("The object itself, not a copy."), NULL},
    {0},
};

static PyMethodDef opaque_methods[] = {
    {"__reduce__", opaque_reduce, METH_NOARGS, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,
     PyDoc_STR("Opaque[T], for annotations.")},
    {0},
};

PyDoc_STRVAR(
    opaque_doc,
    "Opaque(value)\n--\n\n"
    "Holds any object in a state by reference, on the caller's word that it does not change.\n\n"
    "It reads back as the wrapper; the object is its `value`. Two wrappers are equal if they hold\n"
    "the same object. A transaction does not see what happens inside that object.");

static PyType_Slot opaque_slots[] = {
    {Py_tp_doc, (void *)opaque_doc},
    {Py_tp_new, opaque_new},
    {Py_tp_traverse, opaque_traverse},
    {Py_tp_clear, opaque_clear},
    {Py_tp_dealloc, opaque_dealloc},
    {Py_tp_repr, opaque_repr},
    {Py_tp_richcompare, opaque_richcompare},
    {Py_tp_hash, opaque_hash},
    {Py_tp_getset, opaque_getset},
    {Py_tp_methods, opaque_methods},
    {0, NULL},
};

static PyType_Spec opaque_spec = {
    .name = "theus.Opaque",
    .basicsize = sizeof(OpaqueObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = opaque_slots,
};

/* ---- marks ------------------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    const char *name; /* constant, a literal */
} SentinelObject;

static PyObject *
sentinel_new(PyTypeObject *type, const char *name)
{
    SentinelObject *self = PyObject_GC_New(SentinelObject, type);
    if (self != NULL) {
        self->name = name;
        PyObject_GC_Track(self);
    }
    return (PyObject *)self;
}

static int
sentinel_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
sentinel_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

/* Also __reduce__: a string there names a global, so that copies and pickles are the mark
 * itself. */
static PyObject *
sentinel_repr(PyObject *op)
{
    return PyUnicode_FromString(((SentinelObject *)op)->name);
}

static PyObject *
sentinel_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return sentinel_repr(op);
}

static PyMethodDef sentinel_methods[] = {
    {"__reduce__", sentinel_reduce, METH_NOARGS, NULL},
    {0},
};

static PyType_Slot sentinel_slots[] = {
    {Py_tp_doc, "The type of MISSING (nothing is there) and DELETE (remove what is there)."},
    {Py_tp_traverse, sentinel_traverse},
    {Py_tp_dealloc, sentinel_dealloc},
    {Py_tp_repr, sentinel_repr},
    {Py_tp_methods, sentinel_methods},
    {0, NULL},
};

static PyType_Spec sentinel_spec = {
    .name = "theus._theus.Sentinel",
    .basicsize = sizeof(SentinelObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = sentinel_slots,
};

int
add_opaque_types(PyObject *module, module_state *st)
{
    if (module_add_type(module, &opaque_spec, &st->Opaque_type) < 0
        || module_add_type(module, &sentinel_spec, &st->Sentinel_type) < 0) {
        return -1;
    }
    st->MISSING = sentinel_new(st->Sentinel_type, "MISSING");
    st->DELETE = sentinel_new(st->Sentinel_type, "DELETE");
    if (st->MISSING == NULL || st->DELETE == NULL
        || PyModule_AddObjectRef(module, "MISSING", st->MISSING) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "DELETE", st->DELETE);
}
