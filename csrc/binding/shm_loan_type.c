/* theus._theus.SharedLoan: a range of a block that was lent, as its owner sees it. What its taker has is a SharedBlock over the
 * range alone (shm_block_type.c). Between them travels a token. */
#include "shm_type.h"

#include "errors.h"

#include <string.h>

typedef struct {
    PyObject_HEAD
    PyObject *of;      /* owned: the SharedBlock, whose lease keeps `block` */
    theus_block block;
    theus_loan_name name;
} LoanObject;

static LoanObject *
loan_of(PyObject *op)
{
    return (LoanObject *)op;
}

/* What names a loan to other processes of this machine. */
typedef struct {
    char magic[4];
    block_token block;
    theus_loan_name loan;
} loan_token;

static const char loan_magic[4] = {'t', 'h', 'l', '1'};

_Static_assert(sizeof(loan_token) == 48, "a token has no padding");

static const char *const state_names[] = {
    [THEUS_LOAN_NONE] = "over",         [THEUS_LOAN_OFFERED] = "offered", [THEUS_LOAN_TAKEN] = "taken",
    [THEUS_LOAN_RETURNED] = "returned", [THEUS_LOAN_BROKEN] = "broken",   [THEUS_LOAN_RECALLED] = "recalled",
};

/* ---- methods of SharedBlock ----------------------------------------------------------------- */

static PyObject *
describe(const theus_loan_facts *facts)
{
    return Py_BuildValue("(KKI)", (unsigned long long)facts->from, (unsigned long long)facts->size, (unsigned)facts->pid);
}

static PyObject *
loan_new(module_state *st, PyObject *of, const theus_block *block, theus_loan_name name)
{
    LoanObject *self = PyObject_New(LoanObject, st->SharedLoan_type);
    if (self == NULL) { /* nobody will ever know its name */
        (void)theus_loan_recall(block, name);
        theus_loan_forget(block, name);
        return NULL;
    }
    self->of = Py_NewRef(of);
    self->block = *block;
    self->name = name;
    return (PyObject *)self;
}

PyObject *
shm_lend(PyObject *of, const theus_block *block, PyObject *args)
{
    unsigned long long from, size;
    if (!PyArg_ParseTuple(args, "KK:lend", &from, &size)) {
        return NULL;
    }
    if (size == 0 || from > block->size || size > block->size - from) {
        return PyErr_Format(PyExc_ValueError, "a block of %llu bytes has no range of %llu bytes from byte %llu on",
                            (unsigned long long)block->size, size, from);
    }
    theus_loan_name name;
    theus_loan_facts other;
    switch (theus_loan_offer(block, from, size, &name, &other)) {
    case THEUS_LENDS:
        return loan_new(module_state_of_type(Py_TYPE(of)), of, block, name);
    case THEUS_LENDS_OVERLAP:
        return describe(&other);
    case THEUS_LENDS_FULL:
        return PyTuple_New(0);
    case THEUS_LENDS_NOT:
        break;
    }
    PyErr_SetString(PyExc_ValueError, "nothing of this block can be lent: it was not allocated for that, was published or freed");
    return NULL;
}

PyObject *
shm_loans(const theus_block *block)
{
    uint32_t places = theus_loans_list(block, NULL, 0) + 8, count; /* some more: others lend meanwhile */
    theus_loan_facts *facts = PyMem_Calloc(places, sizeof(*facts));
    if (facts == NULL) {
        return PyErr_NoMemory();
    }
    count = theus_loans_list(block, facts, places);
    count = count < places ? count : places;
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < count; i++) {
        PyObject *item = describe(&facts[i]);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    PyMem_Free(facts);
    return list;
}

/* ---- SharedLoan ------------------------------------------------------------------------------- */

static PyObject *
loan_look(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    theus_loan_facts facts = theus_loan_look(&loan_of(op)->block, loan_of(op)->name);
    /* The state lies where others can write; the core has looked at the generation alone. */
    size_t state = (size_t)facts.state < sizeof(state_names) / sizeof(state_names[0]) ? (size_t)facts.state : THEUS_LOAN_NONE;
    return Py_BuildValue("(sI)", state_names[state], (unsigned)facts.pid);
}

static PyObject *
loan_recall(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(theus_loan_recall(&loan_of(op)->block, loan_of(op)->name));
}

static PyObject *
loan_token_bytes(PyObject *op, void *Py_UNUSED(closure))
{
    loan_token token = {.block = shm_token_of(&loan_of(op)->block), .loan = loan_of(op)->name};
    memcpy(token.magic, loan_magic, sizeof(token.magic));
    return PyBytes_FromStringAndSize((const char *)&token, sizeof(token));
}

static void
loan_dealloc(PyObject *op)
{
    LoanObject *self = loan_of(op);
    PyTypeObject *type = Py_TYPE(op);
    PyObject *of = self->of;
    theus_loan_forget(&self->block, self->name);
    PyObject_Free(op);
    Py_DECREF(of);
    Py_DECREF(type);
}

PyObject *
module_take_loan(PyObject *module, PyObject *bytes)
{
    module_state *st = module_state_of(module);
    loan_token token;
    if (!PyBytes_Check(bytes) || PyBytes_GET_SIZE(bytes) != sizeof(token)
        || memcmp(PyBytes_AS_STRING(bytes), loan_magic, sizeof(loan_magic)) != 0) {
        PyErr_Format(st->BadTokenError, "%R is no token of a lent range", bytes);
        return NULL;
    }
    memcpy(&token, PyBytes_AS_STRING(bytes), sizeof(token));
    theus_loan *loan;
    theus_refusal refusal;
    theus_status status;
    Py_BEGIN_ALLOW_THREADS
    status = theus_loan_take(&token.block.arena, token.block.slot, token.block.generation, token.loan, &loan, &refusal);
    Py_END_ALLOW_THREADS
    return status == THEUS_OK ? shm_block_of_loan(st, loan) : shm_raise(st, status, &refusal);
}

static PyMethodDef loan_methods[] = {
    {"look", loan_look, METH_NOARGS,
     PyDoc_STR("look($self, /)\n--\n\n(state, pid of the taker or 0); a state is offered, taken, returned, broken, recalled or over.")},
    {"recall", loan_recall, METH_NOARGS,
     PyDoc_STR("recall($self, /)\n--\n\nNobody can take it from now on. False: somebody has.")},
    {0},
};

static PyGetSetDef loan_getset[] = {
    {"token", loan_token_bytes, NULL, PyDoc_STR("What take_loan() takes, once, in whatever process."), NULL},
    {0},
};

static PyType_Slot loan_slots[] = {
    {Py_tp_doc, "A range of a block of shared memory that one other may write, as its owner sees it."},
    {Py_tp_dealloc, loan_dealloc},
    {Py_tp_methods, loan_methods},
    {Py_tp_getset, loan_getset},
    {0, NULL},
};

static PyType_Spec loan_spec = {
    .name = "theus._theus.SharedLoan",
    .basicsize = sizeof(LoanObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = loan_slots,
};

int
add_shm_loan_type(PyObject *module, module_state *st)
{
    return module_add_type(module, &loan_spec, &st->SharedLoan_type);
}
