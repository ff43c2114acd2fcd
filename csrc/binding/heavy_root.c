/* theus._theus.HeavyRoot: what ctx.heavy is.
 *
 * It adds two methods to the draft or frozen value of the root and hands everything else on to it: so what is read is in the read
 * set, what is written has to be declared, and nothing here knows how. alloc() and put() make an array with the engine's
 * allocator, as a draft of the running attempt; only the contract is asked first, so that what could not be stored is refused
 * before there are pages for it. */
#include "heavy_root.h"

#include "context.h"
#include "guard.h"

typedef struct {
    PyObject_HEAD
    PyObject *context; /* owned */
    PyObject *root;    /* owned */
} HeavyRootObject;

static HeavyRootObject *
heavy_of(PyObject *op)
{
    return (HeavyRootObject *)op;
}

PyObject *
heavy_root_new(module_state *st, PyObject *context, PyObject *root)
{
    HeavyRootObject *self = PyObject_GC_New(HeavyRootObject, st->HeavyRoot_type);
    if (self != NULL) {
        self->context = Py_NewRef(context);
        self->root = Py_NewRef(root);
        PyObject_GC_Track(self);
    }
    return (PyObject *)self;
}

/* ---- arrays --------------------------------------------------------------------------- */

/* May the process store something at heavy.key? */
static int
check_output(TxnObject *txn, ScopeObject *scope, PyObject *key)
{
    PyObject *path = Py_BuildValue("(sO)", "heavy", key);
    int result = path == NULL ? -1 : txn_enter(txn);
    if (result == 0) {
        result = scope != NULL && scope->frozen ? guard_refuse_path(txn, scope, path, true)
                                                : guard_check_path(txn, path, RIGHT_UPDATE);
        txn_leave(txn);
    }
    Py_XDECREF(path);
    return result;
}

/* The argument `key`, a new reference, or NULL, perhaps without an exception. */
static PyObject *
key_of(PyObject *args, PyObject *kwargs)
{
    PyObject *key = NULL;
    if (PyTuple_GET_SIZE(args) > 0) {
        return Py_NewRef(PyTuple_GET_ITEM(args, 0));
    }
    PyObject *name = kwargs == NULL ? NULL : PyUnicode_InternFromString("key");
    if (name != NULL) {
        (void)PyDict_GetItemRef(kwargs, name, &key);
        Py_DECREF(name);
    }
    return key;
}

/* The method of engine.heavy, which knows the transaction that runs. */
static PyObject *
make(PyObject *op, PyObject *args, PyObject *kwargs, const char *method)
{
    const ContextObject *context = (ContextObject *)heavy_of(op)->context;
    TxnObject *txn = context->txn;
    PyObject *key = key_of(args, kwargs);
    if (key == NULL) {
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "%s() needs the key of the array", method);
    }
    int allowed = check_output(txn, context->scope, key);
    Py_DECREF(key);
    if (allowed < 0) {
        return NULL;
    }
    PyObject *heavy = PyObject_GetAttrString((PyObject *)txn->engine, "heavy");
    PyObject *bound = heavy == NULL ? NULL : PyObject_GetAttrString(heavy, method);
    PyObject *array = bound == NULL ? NULL : PyObject_Call(bound, args, kwargs);
    Py_XDECREF(bound);
    Py_XDECREF(heavy);
    return array;
}

static PyObject *
heavy_alloc(PyObject *op, PyObject *args, PyObject *kwargs)
{
    return make(op, args, kwargs, "alloc");
}

static PyObject *
heavy_put(PyObject *op, PyObject *args, PyObject *kwargs)
{
    return make(op, args, kwargs, "put");
}

/* ---- everything else is the root's ---------------------------------------------------- */

static PyObject *
heavy_getattro(PyObject *op, PyObject *name)
{
    if (type_lookup(Py_TYPE(op), name) != NULL) {
        return PyObject_GenericGetAttr(op, name);
    }
    return PyObject_GetAttr(heavy_of(op)->root, name);
}

static int
heavy_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    return PyObject_SetAttr(heavy_of(op)->root, name, value);
}

static PyObject *
heavy_subscript(PyObject *op, PyObject *key)
{
    return PyObject_GetItem(heavy_of(op)->root, key);
}

static int
heavy_ass_subscript(PyObject *op, PyObject *key, PyObject *value)
{
    PyObject *root = heavy_of(op)->root;
    return value == NULL ? PyObject_DelItem(root, key) : PyObject_SetItem(root, key, value);
}

static Py_ssize_t
heavy_length(PyObject *op)
{
    return PyObject_Size(heavy_of(op)->root);
}

static int
heavy_contains(PyObject *op, PyObject *key)
{
    return PySequence_Contains(heavy_of(op)->root, key);
}

static PyObject *
heavy_iter(PyObject *op)
{
    return PyObject_GetIter(heavy_of(op)->root);
}

static PyObject *
heavy_richcompare(PyObject *op, PyObject *other, int operation)
{
    PyObject *against = Py_IS_TYPE(other, Py_TYPE(op)) ? heavy_of(other)->root : other;
    return PyObject_RichCompare(heavy_of(op)->root, against, operation);
}

static PyObject *
heavy_repr(PyObject *op)
{
    return PyObject_Repr(heavy_of(op)->root);
}

/* ---- the type --------------------------------------------------------------------------- */

static int
heavy_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(heavy_of(op)->context);
    Py_VISIT(heavy_of(op)->root);
    return 0;
}

static void
heavy_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_DECREF(heavy_of(op)->context);
    Py_DECREF(heavy_of(op)->root);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyMethodDef heavy_methods[] = {
    {"alloc", (PyCFunction)(void (*)(void))heavy_alloc, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("alloc($self, key, shape, dtype='float64', **options)\n--\n\n"
               "A new array in shared memory, a draft of this attempt: engine.heavy.alloc() for a process that\n"
               "declares the output heavy.key. It is stored by assignment or as a returned output.")},
    {"put", (PyCFunction)(void (*)(void))heavy_put, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("put($self, key, array)\n--\n\nThe same with a copy of an array in it.")},
    {0},
};

static PyType_Slot heavy_slots[] = {
    {Py_tp_doc, "The root 'heavy' as a process sees it: a mapping, with alloc() and put()."},
    {Py_tp_dealloc, heavy_dealloc},
    {Py_tp_traverse, heavy_traverse},
    {Py_tp_repr, heavy_repr},
    {Py_tp_getattro, heavy_getattro},
    {Py_tp_setattro, heavy_setattro},
    {Py_tp_richcompare, heavy_richcompare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_iter, heavy_iter},
    {Py_mp_subscript, heavy_subscript},
    {Py_mp_ass_subscript, heavy_ass_subscript},
    {Py_mp_length, heavy_length},
    {Py_sq_contains, heavy_contains},
    {Py_tp_methods, heavy_methods},
    {0, NULL},
};

static PyType_Spec heavy_spec = {
    .name = "theus._theus.HeavyRoot",
    .basicsize = sizeof(HeavyRootObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION
             | Py_TPFLAGS_MAPPING,
    .slots = heavy_slots,
};

int
add_heavy_root_type(PyObject *module, module_state *st)
{
    if (module_add_type(module, &heavy_spec, &st->HeavyRoot_type) < 0) {
        return -1;
    }
    return module_register_abc(st, st->HeavyRoot_type, "MutableMapping");
}
