/* theus._theus.Promise: what the futures of pools keep their state in.
 *
 *     class PoolFuture(Promise, concurrent.futures.Future): ...
 *
 * A Future of the library makes a lock, a condition and two lists when it is born, and each of its steps takes the lock:
 * a third of what a small task costs. Most futures are waited for by one thread, which also ends them. So here
 *
 *     the condition is made when it is first asked for, and a promise without one is *quiet*
 *
 * Whoever waits, or leaves a callback or a waiter, asks for the condition first: so about a quiet promise nobody has to be
 * told anything, and to end it is to write two fields. Invariant: `condition` goes from NULL to an object once, and what
 * `finish` looks at and writes is one step for whoever makes it (the GIL, or the object's critical section: nothing in it
 * runs Python code). So either the condition came first, and the long way is taken, which holds it; or whoever asks for it
 * finds the new state. A promise that is pending begins or is called off in one such step, too, and needs no condition for
 * it: wait() and as_completed(), which look at states with the condition held, tell only those that are over from others.
 * What breaks it: writing `_state` of a promise that others may have to one that is over, but with its condition held.
 *
 * The names with an underscore are those that concurrent.futures gives its attributes; its methods, and those of asyncio
 * and of wait() and as_completed(), find here what they look for. */
#include "promise.h"

#include "codec.h"
#include "errors.h"

typedef struct {
    PyObject_HEAD
    /* NULL: None */
    PyObject *crew, *state, *result, *exception;
    /* NULL: nobody has asked */
    PyObject *condition, *waiters, *callbacks;
} PromiseObject;

static PromiseObject *
promise_of(PyObject *op)
{
    return (PromiseObject *)op;
}

/* ---- its state --------------------------------------------------------------------------------- */

static bool
is_state(PyObject *state, const char *name)
{
    return state != NULL && PyUnicode_CheckExact(state) && PyUnicode_CompareWithASCIIString(state, name) == 0;
}

/* Steals both references, and gives what was there to the caller. In one step with what the caller has seen. */
static void
exchange(PyObject **field, PyObject **object)
{
    PyObject *old = __atomic_exchange_n(field, *object, __ATOMIC_ACQ_REL);
    *object = old;
}

static PyObject *
promise_over(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    bool over;
    Py_BEGIN_CRITICAL_SECTION(op);
    PyObject *state = promise_of(op)->state;
    over = !is_state(state, "PENDING") && !is_state(state, "RUNNING");
    Py_END_CRITICAL_SECTION();
    return PyBool_FromLong(over);
}

/* From PENDING to another state, whether somebody has asked for the condition or not. Whether it is in that state now. */
static int
leave_pending(PyObject *op, const char *name)
{
    PromiseObject *promise = promise_of(op);
    PyObject *state = PyUnicode_InternFromString(name);
    bool there;
    if (state == NULL) {
        return -1;
    }
    Py_BEGIN_CRITICAL_SECTION(op);
    there = is_state(promise->state, name);
    if (is_state(promise->state, "PENDING")) {
        exchange(&promise->state, &state);
        there = true;
    }
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(state);
    return there;
}

int
promise_begin(const module_state *st, PyObject *op)
{
    if (!PyObject_TypeCheck(op, st->Promise_type)) {
        PyErr_Format(PyExc_TypeError, "a Promise is needed, not %R", op);
        return -1;
    }
    return leave_pending(op, "RUNNING");
}

static PyObject *
promise_begin_py(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int begun = leave_pending(op, "RUNNING");
    return begun < 0 ? NULL : PyBool_FromLong(begun);
}

static PyObject *
promise_call_off(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int off = leave_pending(op, "CANCELLED");
    return off < 0 ? NULL : PyBool_FromLong(off);
}

static PyObject *
promise_finish(PyObject *op, PyObject *result)
{
    PromiseObject *promise = promise_of(op);
    PyObject *finished = PyUnicode_InternFromString("FINISHED"), *value = Py_NewRef(result);
    bool ended;
    if (finished == NULL) {
        Py_DECREF(value);
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(op);
    ended = promise->condition == NULL && (is_state(promise->state, "PENDING") || is_state(promise->state, "RUNNING"));
    if (ended) {
        exchange(&promise->result, &value);
        exchange(&promise->state, &finished);
    }
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(value);
    Py_XDECREF(finished);
    return PyBool_FromLong(ended);
}

/* Ends it with a value that is still bytes: one step for whoever delivers it. */
static PyObject *
promise_fulfil(PyObject *op, PyObject *body)
{
    if (!PyBytes_CheckExact(body)) {
        return PyErr_Format(PyExc_TypeError, "fulfil() takes bytes, not %R", body);
    }
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(op), &theus_module);
    PyObject *value = module == NULL ? NULL
                                     : codec_read(module_state_of(module), PyBytes_AS_STRING(body),
                                                  (size_t)PyBytes_GET_SIZE(body), Py_None, NULL);
    if (value == NULL) {
        PyErr_Clear(); /* whoever restores it in Python finds out, or succeeds */
        Py_RETURN_FALSE;
    }
    PyObject *ended = promise_finish(op, value);
    Py_DECREF(value);
    return ended;
}

/* ---- what is made when it is asked for ------------------------------------------------------------ */

static PyObject *
promise_shown(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_NONE;
}

/* What stands in the field: `made`, if nobody was quicker. Steals the reference to that; NULL is passed on. */
static PyObject *
first_one(PyObject *op, PyObject **field, PyObject *made)
{
    PyObject *found = NULL;
    (void)op; /* before 3.13 */
    if (made != NULL) {
        Py_BEGIN_CRITICAL_SECTION(op);
        if (*field == NULL) {
            exchange(field, &made);
        }
        found = Py_NewRef(*field);
        Py_END_CRITICAL_SECTION();
        Py_XDECREF(made);
    }
    return found;
}

static PyObject *
new_condition(void)
{
    PyObject *module = PyImport_ImportModule("theus.pools.promise");
    PyObject *made = module == NULL ? NULL : PyObject_CallMethod(module, "QuickCondition", NULL);
    Py_XDECREF(module);
    return made;
}

static PyObject *
promise_condition(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *found;
    Py_BEGIN_CRITICAL_SECTION(op);
    found = Py_XNewRef(promise_of(op)->condition);
    Py_END_CRITICAL_SECTION();
    if (found != NULL) {
        return found;
    }
    /* Told first: if that raises, nobody has asked yet, and whoever does is told of again. */
    PyObject *told = PyObject_CallMethod(op, "shown", NULL);
    if (told == NULL) {
        return NULL;
    }
    Py_DECREF(told);
    return first_one(op, &promise_of(op)->condition, new_condition());
}

/* In a forked child, where nobody will let go of the one that there was. */
static int
promise_set_condition(PyObject *op, PyObject *made, void *Py_UNUSED(closure))
{
    PyObject *condition = Py_XNewRef(made);
    Py_BEGIN_CRITICAL_SECTION(op);
    exchange(&promise_of(op)->condition, &condition);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(condition);
    return 0;
}

static PyObject *
list_in(PyObject *op, PyObject **field)
{
    PyObject *found;
    Py_BEGIN_CRITICAL_SECTION(op);
    found = Py_XNewRef(*field);
    Py_END_CRITICAL_SECTION();
    return found != NULL ? found : first_one(op, field, PyList_New(0));
}

static PyObject *
promise_waiters(PyObject *op, void *Py_UNUSED(closure))
{
    return list_in(op, &promise_of(op)->waiters);
}

static PyObject *
promise_callbacks(PyObject *op, void *Py_UNUSED(closure))
{
    return list_in(op, &promise_of(op)->callbacks);
}

/* ---- the type ----------------------------------------------------------------------------------------- */

static PyObject *
promise_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *crew = PyTuple_GET_SIZE(args) == 1 ? PyTuple_GET_ITEM(args, 0) : Py_None;
    PyObject *state = PyUnicode_InternFromString("PENDING");
    PyObject *op = state == NULL ? NULL : type->tp_alloc(type, 0); /* zeros */
    if (op == NULL) {
        Py_XDECREF(state);
        return NULL;
    }
    promise_of(op)->state = state;
    promise_of(op)->crew = Py_NewRef(crew);
    return op;
}

/* In place of Future's, which makes what is here, or is made when it is asked for. */
static int
promise_init(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    return 0;
}

static int
promise_traverse(PyObject *op, visitproc visit, void *arg)
{
    PromiseObject *promise = promise_of(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(promise->crew);
    Py_VISIT(promise->state);
    Py_VISIT(promise->result);
    Py_VISIT(promise->exception);
    Py_VISIT(promise->condition);
    Py_VISIT(promise->waiters);
    Py_VISIT(promise->callbacks);
    return 0;
}

static int
promise_clear(PyObject *op)
{
    PromiseObject *promise = promise_of(op);
    Py_CLEAR(promise->crew);
    Py_CLEAR(promise->state);
    Py_CLEAR(promise->result);
    Py_CLEAR(promise->exception);
    Py_CLEAR(promise->condition);
    Py_CLEAR(promise->waiters);
    Py_CLEAR(promise->callbacks);
    return 0;
}

static void
promise_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)promise_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef promise_methods[] = {
    {"over", promise_over, METH_NOARGS,
     PyDoc_STR("over($self, /)\n--\n\nAs done(), but it asks for no condition: nobody relies on the answer.")},
    {"begin", promise_begin_py, METH_NOARGS,
     PyDoc_STR("begin($self, /)\n--\n\nIt runs from now on, if it is pending. Whether it is running now.")},
    {"call_off", promise_call_off, METH_NOARGS,
     PyDoc_STR("call_off($self, /)\n--\n\n"
               "It is cancelled from now on, if it is pending. Whether it is, and those who wait are not told yet.")},
    {"finish", promise_finish, METH_O,
     PyDoc_STR("finish($self, result, /)\n--\n\nEnds it with that. False: nothing was done, set_result() has to.")},
    {"fulfil", promise_fulfil, METH_O,
     PyDoc_STR("fulfil($self, body, /)\n--\n\n"
               "finish() with the value that these bytes hold. False: nothing was done, as somebody waits for it, or the value\n"
               "is none that C can restore alone.")},
    {"shown", promise_shown, METH_NOARGS,
     PyDoc_STR("shown($self, /)\n--\n\nCalled when the condition is about to be made: somebody may wait from now on.")},
    {0},
};

static PyMemberDef promise_members[] = {
    {"crew", T_OBJECT, offsetof(PromiseObject, crew), READONLY, PyDoc_STR("Who works on it.")},
    {"_state", T_OBJECT, offsetof(PromiseObject, state), 0, NULL},
    {"_result", T_OBJECT, offsetof(PromiseObject, result), 0, NULL},
    {"_exception", T_OBJECT, offsetof(PromiseObject, exception), 0, NULL},
    {0},
};

static PyGetSetDef promise_getset[] = {
    {"_condition", promise_condition, promise_set_condition, PyDoc_STR("Made when it is first asked for, after shown()."), NULL},
    {"_waiters", promise_waiters, NULL, PyDoc_STR("Guarded by the condition."), NULL},
    {"_done_callbacks", promise_callbacks, NULL, PyDoc_STR("Guarded by the condition."), NULL},
    {0},
};

static PyType_Slot promise_slots[] = {
    {Py_tp_doc, "Promise(crew=None, /)\n--\n\n"
                "The state of a concurrent.futures.Future, whose condition is made when somebody asks for it. For\n"
                "classes that inherit from both, this one first."},
    {Py_tp_new, promise_new},
    {Py_tp_init, promise_init},
    {Py_tp_traverse, promise_traverse},
    {Py_tp_clear, promise_clear},
    {Py_tp_dealloc, promise_dealloc},
    {Py_tp_methods, promise_methods},
    {Py_tp_members, promise_members},
    {Py_tp_getset, promise_getset},
    {0, NULL},
};

static PyType_Spec promise_spec = {
    .name = "theus._theus.Promise",
    .basicsize = sizeof(PromiseObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = promise_slots,
};

int
add_promise_type(PyObject *module, module_state *st)
{
    return module_add_type(module, &promise_spec, &st->Promise_type);
}
