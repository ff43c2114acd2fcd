/* theus._theus.Promise: what the futures of pools keep their state in.
 *
 *     class PoolFuture(Promise, concurrent.futures.Future): ...
 *
 * A Future of the library makes a lock, a condition and two lists when it is born, and each of its steps takes the lock:
 * a third of what a small task costs. Most futures are waited for by one thread, which also ends them. So here
 *
 *     nothing is made before it is asked for, and a promise that nobody has asked for is *quiet*
 *     there is no lock: whoever takes what should be one gets a *view*
 *
 * Quiet: whoever waits, or leaves a callback or a waiter, calls ask() first. About a quiet promise nobody has to be told
 * anything, and to end it is to write two fields, one step for whoever does it (the GIL, or the object's critical section:
 * nothing in it runs Python code). Invariant: `asked` becomes true once, and finish() looks at it and writes in one step.
 * So either the long way is taken, which tells everybody; or whoever asks finds the new state.
 *
 * Views: wait() and as_completed() of the library take the conditions of their futures, look at the states, and leave a
 * waiter with each, to be told of those that were not over. They do so in code of Python, where a signal handler may
 * raise in the main thread: a condition would stay held for ever, and with it whoever ends the promise. So look(), in place
 * of acquire(), only has this thread go on seeing the state of that moment, until it does look_away(); the promise itself
 * changes when it changes. A waiter
 *
 *     that comes when the state seen is told of   knows it, and hears nothing more
 *     else                                        is told once: by itself if the promise has changed behind the view, else
 *                                                 by whoever changes it, who takes it from `untold`
 *
 * What a waiter finds when it comes, and what it does, is one step (join), as is to take one from `untold`: so it is told
 * exactly once. A thread that looks again sees the state of then; a view that is left over, because its owner was thrown
 * out, lies below that, and hides nothing from who looks.
 *
 * The names with an underscore are those that concurrent.futures gives its attributes; its methods, and those of asyncio
 * and of wait() and as_completed(), find in theus/pools/promise.py what they look for. */
#include "promise.h"

#include "codec.h"
#include "errors.h"

#include <string.h>

typedef struct {
    unsigned long thread;
    PyObject *state;
} view;

typedef struct {
    PyObject_HEAD
    /* NULL: None */
    PyObject *crew, *state, *result, *exception;
    view *views;                /* the later ones of a thread hide its earlier ones */
    Py_ssize_t view_count;
    /* lists, NULL as long as they were empty */
    PyObject *waiters, *untold; /* all that have come and not left; those who have to hear of its end */
    PyObject *callbacks;
    bool asked;
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

/* Whether waiters hear of that state: not of a mere CANCELLED, as in the library. */
static bool
is_told_of(PyObject *state)
{
    return is_state(state, "FINISHED") || is_state(state, "CANCELLED_AND_NOTIFIED");
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

/* From one state to another. Whether it is in that one now. */
static int
change(PyObject *op, const char *from, const char *name)
{
    PromiseObject *promise = promise_of(op);
    PyObject *state = PyUnicode_InternFromString(name);
    bool there;
    if (state == NULL) {
        return -1;
    }
    Py_BEGIN_CRITICAL_SECTION(op);
    there = is_state(promise->state, name);
    if (is_state(promise->state, from)) {
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
    return change(op, "PENDING", "RUNNING");
}

static PyObject *
answer(int is_so)
{
    return is_so < 0 ? NULL : PyBool_FromLong(is_so);
}

static PyObject *
promise_begin_py(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return answer(change(op, "PENDING", "RUNNING"));
}

static PyObject *
promise_call_off(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return answer(change(op, "PENDING", "CANCELLED"));
}

static PyObject *
promise_notify(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return answer(change(op, "CANCELLED", "CANCELLED_AND_NOTIFIED"));
}

/* 1: this call has ended it. 0: it is over already, or not `quiet`, if it has to be. */
static int
end(PyObject *op, PyObject *result, PyObject *exception, bool quiet)
{
    PromiseObject *promise = promise_of(op);
    PyObject *finished = PyUnicode_InternFromString("FINISHED");
    PyObject *value = Py_NewRef(result), *error = Py_NewRef(exception);
    bool ended = false;
    if (finished != NULL) {
        Py_BEGIN_CRITICAL_SECTION(op);
        ended = (is_state(promise->state, "PENDING") || is_state(promise->state, "RUNNING")) && !(quiet && promise->asked);
        if (ended) {
            exchange(&promise->result, &value);
            exchange(&promise->exception, &error);
            exchange(&promise->state, &finished);
        }
        Py_END_CRITICAL_SECTION();
    }
    int status = finished == NULL ? -1 : ended;
    Py_XDECREF(value);
    Py_XDECREF(error);
    Py_XDECREF(finished);
    return status;
}

static PyObject *
promise_finish(PyObject *op, PyObject *result)
{
    return answer(end(op, result, Py_None, true));
}

static PyObject *
promise_conclude(PyObject *op, PyObject *args)
{
    PyObject *result, *exception;
    return PyArg_ParseTuple(args, "OO:conclude", &result, &exception) ? answer(end(op, result, exception, false)) : NULL;
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

/* ---- whoever waits for it ------------------------------------------------------------------------- */

static PyObject *
promise_shown(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_NONE;
}

static PyObject *
promise_ask(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PromiseObject *promise = promise_of(op);
    bool asked;
    Py_BEGIN_CRITICAL_SECTION(op);
    asked = promise->asked;
    Py_END_CRITICAL_SECTION();
    if (!asked) {
        /* Told first: if that raises, nobody has asked yet, and whoever does is told of again. */
        PyObject *told = PyObject_CallMethod(op, "shown", NULL);
        if (told == NULL) {
            return NULL;
        }
        Py_DECREF(told);
        Py_BEGIN_CRITICAL_SECTION(op);
        promise->asked = true;
        Py_END_CRITICAL_SECTION();
    }
    Py_RETURN_NONE;
}

static PyObject *
promise_look(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PromiseObject *promise = promise_of(op);
    view *views;
    Py_BEGIN_CRITICAL_SECTION(op);
    views = PyMem_Realloc(promise->views, (size_t)(promise->view_count + 1) * sizeof *views);
    if (views != NULL) {
        promise->views = views;
        views[promise->view_count++] = (view){PyThread_get_thread_ident(), Py_XNewRef(promise->state)};
    }
    Py_END_CRITICAL_SECTION();
    if (views == NULL) {
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

/* The last one of this thread, or NULL. Caller is in the critical section. */
static view *
own_view(PromiseObject *promise)
{
    unsigned long here = promise->view_count > 0 ? PyThread_get_thread_ident() : 0;
    for (Py_ssize_t i = promise->view_count; i > 0; i--) {
        if (promise->views[i - 1].thread == here) {
            return &promise->views[i - 1];
        }
    }
    return NULL;
}

static PyObject *
promise_look_away(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PromiseObject *promise = promise_of(op);
    PyObject *seen = NULL;
    Py_BEGIN_CRITICAL_SECTION(op);
    view *own = own_view(promise);
    if (own != NULL) {
        seen = own->state;
        view *end = promise->views + promise->view_count--;
        memmove(own, own + 1, (size_t)(end - own - 1) * sizeof *own);
    }
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(seen);
    Py_RETURN_NONE;
}

/* Caller is in the critical section. */
static PyObject *
state_seen(PromiseObject *promise)
{
    view *own = own_view(promise);
    return own != NULL ? own->state : promise->state;
}

/* Makes the list if there is none. Not in the critical section: before Python 3.12 the collector may run at it. */
static int
make_list(PyObject *op, PyObject **field)
{
    bool there;
    (void)op; /* before 3.13 */
    Py_BEGIN_CRITICAL_SECTION(op);
    there = *field != NULL;
    Py_END_CRITICAL_SECTION();
    if (there) {
        return 0;
    }
    PyObject *made = PyList_New(0);
    if (made == NULL) {
        return -1;
    }
    Py_BEGIN_CRITICAL_SECTION(op);
    if (*field == NULL) {
        exchange(field, &made);
    }
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(made);
    return 0;
}

/* Takes the first one that is this object off a list. Caller is in the critical section, and drops the reference outside:
 * NULL, it was not there. */
static PyObject *
take(PyObject *list, PyObject *item)
{
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        if (PyList_GET_ITEM(list, i) == item) {
            PyObject *taken = Py_NewRef(item);
            if (PyList_SetSlice(list, i, i + 1, NULL) == 0) {
                return taken;
            }
            PyErr_Clear(); /* no memory to move the rest: it stays */
            Py_DECREF(taken);
            return NULL;
        }
    }
    return NULL;
}
static PyObject *
promise_join(PyObject *op, PyObject *waiter)
{
    PromiseObject *promise = promise_of(op);
    if (make_list(op, &promise->waiters) < 0 || make_list(op, &promise->untold) < 0) {
        return NULL;
    }
    bool hears, behind; /* of its end; which has come, but is not seen */
    int status;
    Py_BEGIN_CRITICAL_SECTION(op);
    hears = !is_told_of(state_seen(promise));
    behind = hears && is_told_of(promise->state);
    status = PyList_Append(promise->waiters, waiter);
    if (status == 0 && hears && !behind) {
        status = PyList_Append(promise->untold, waiter);
    }
    Py_END_CRITICAL_SECTION();
    return status < 0 ? NULL : PyBool_FromLong(behind);
}

static PyObject *
promise_leave(PyObject *op, PyObject *waiter)
{
    PromiseObject *promise = promise_of(op);
    PyObject *left, *unheard;
    Py_BEGIN_CRITICAL_SECTION(op);
    left = take(promise->waiters, waiter);
    unheard = take(promise->untold, waiter);
    Py_END_CRITICAL_SECTION();
    bool was_there = left != NULL;
    Py_XDECREF(left);
    Py_XDECREF(unheard);
    return PyBool_FromLong(was_there);
}

static PyObject *
promise_next_untold(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PromiseObject *promise = promise_of(op);
    PyObject *next = NULL;
    Py_BEGIN_CRITICAL_SECTION(op);
    if (promise->untold != NULL && PyList_GET_SIZE(promise->untold) > 0) {
        next = take(promise->untold, PyList_GET_ITEM(promise->untold, 0));
    }
    Py_END_CRITICAL_SECTION();
    return next != NULL ? next : Py_NewRef(Py_None);
}

static PyObject *
promise_waiting(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PromiseObject *promise = promise_of(op);
    Py_ssize_t count = 0, found = 0;
    do { /* until a tuple is as long as the list: making it may take a while, see make_list */
        count = found;
        PyObject *copy = PyTuple_New(count);
        if (copy == NULL) {
            return NULL;
        }
        Py_BEGIN_CRITICAL_SECTION(op);
        found = promise->waiters == NULL ? 0 : PyList_GET_SIZE(promise->waiters);
        for (Py_ssize_t i = 0; found == count && i < count; i++) {
            PyTuple_SET_ITEM(copy, i, Py_NewRef(PyList_GET_ITEM(promise->waiters, i)));
        }
        Py_END_CRITICAL_SECTION();
        if (found == count) {
            return copy;
        }
        Py_DECREF(copy);
    } while (true);
}

static PyObject *
promise_callbacks(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *found;
    if (make_list(op, &promise_of(op)->callbacks) < 0) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(op);
    found = Py_NewRef(promise_of(op)->callbacks);
    Py_END_CRITICAL_SECTION();
    return found;
}

/* Off the list and called in one step: a signal handler that raises comes before both, or into the callback. By the list's
 * own method, as code of Python changes this list, too. */
static PyObject *
promise_call_next(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *callbacks = promise_callbacks(op, NULL);
    PyObject *next = callbacks == NULL ? NULL : PyObject_CallMethod(callbacks, "pop", "i", 0);
    Py_XDECREF(callbacks);
    if (next == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_IndexError)) {
            return NULL;
        }
        PyErr_Clear();
        Py_RETURN_FALSE;
    }
    PyObject *called = PyObject_CallOneArg(next, op);
    Py_DECREF(next);
    if (called == NULL) {
        return NULL;
    }
    Py_DECREF(called);
    Py_RETURN_TRUE;
}

static PyObject *
promise_state_seen(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *seen;
    Py_BEGIN_CRITICAL_SECTION(op);
    seen = Py_XNewRef(state_seen(promise_of(op)));
    Py_END_CRITICAL_SECTION();
    return seen != NULL ? seen : Py_NewRef(Py_None);
}

static int
promise_set_state(PyObject *op, PyObject *state, void *Py_UNUSED(closure))
{
    PyObject *set = Py_XNewRef(state);
    Py_BEGIN_CRITICAL_SECTION(op);
    exchange(&promise_of(op)->state, &set);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(set);
    return 0;
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
    for (Py_ssize_t i = 0; i < promise->view_count; i++) {
        Py_VISIT(promise->views[i].state);
    }
    Py_VISIT(promise->waiters);
    Py_VISIT(promise->untold);
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
    while (promise->view_count > 0) {
        view *last = &promise->views[--promise->view_count];
        Py_CLEAR(last->state);
    }
    Py_CLEAR(promise->waiters);
    Py_CLEAR(promise->untold);
    Py_CLEAR(promise->callbacks);
    return 0;
}

static void
promise_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)promise_clear(op);
    PyMem_Free(promise_of(op)->views);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef promise_methods[] = {
    {"over", promise_over, METH_NOARGS,
     PyDoc_STR("over($self, /)\n--\n\nAs done(), but without ask(): nobody relies on the answer.")},
    {"begin", promise_begin_py, METH_NOARGS,
     PyDoc_STR("begin($self, /)\n--\n\nIt runs from now on, if it is pending. Whether it is running now.")},
    {"call_off", promise_call_off, METH_NOARGS,
     PyDoc_STR("call_off($self, /)\n--\n\n"
               "It is cancelled from now on, if it is pending. Whether it is, and those who wait are not told yet.")},
    {"notify", promise_notify, METH_NOARGS,
     PyDoc_STR("notify($self, /)\n--\n\n"
               "Those who wait may be told from now on, if it was called off. Whether they may.")},
    {"finish", promise_finish, METH_O,
     PyDoc_STR("finish($self, result, /)\n--\n\nEnds it with that. False: nothing was done, set_result() has to.")},
    {"fulfil", promise_fulfil, METH_O,
     PyDoc_STR("fulfil($self, body, /)\n--\n\n"
               "finish() with the value that these bytes hold. False: nothing was done, as somebody waits for it, or the value\n"
               "is none that C can restore alone.")},
    {"conclude", promise_conclude, METH_VARARGS,
     PyDoc_STR("conclude($self, result, exception, /)\n--\n\n"
               "Ends it, whoever waits: they are not told yet. False: it is over already.")},
    {"shown", promise_shown, METH_NOARGS,
     PyDoc_STR("shown($self, /)\n--\n\nCalled when it is first asked for: somebody may wait from now on.")},
    {"ask", promise_ask, METH_NOARGS,
     PyDoc_STR("ask($self, /)\n--\n\nThe caller relies on being told; so there is somebody who sees to that from now on.")},
    {"look", promise_look, METH_NOARGS,
     PyDoc_STR("look($self, /)\n--\n\nFor this thread, _state stays as it is until look_away().")},
    {"look_away", promise_look_away, METH_NOARGS,
     PyDoc_STR("look_away($self, /)\n--\n\nEnds the last look() of this thread.")},
    {"join", promise_join, METH_O,
     PyDoc_STR("join($self, waiter, /)\n--\n\n"
               "It is among those who wait. True: _state does not show that it is over, and the caller tells this one.")},
    {"leave", promise_leave, METH_O,
     PyDoc_STR("leave($self, waiter, /)\n--\n\nIt waits no more. Whether it did.")},
    {"next_untold", promise_next_untold, METH_NOARGS,
     PyDoc_STR("next_untold($self, /)\n--\n\nOne who has to be told that it is over, by the caller; None: all were.")},
    {"call_next", promise_call_next, METH_NOARGS,
     PyDoc_STR("call_next($self, /)\n--\n\nTakes the first callback off and calls it. False: there is none.")},
    {"waiting", promise_waiting, METH_NOARGS, PyDoc_STR("waiting($self, /)\n--\n\nA tuple of those who wait.")},
    {0},
};

static PyMemberDef promise_members[] = {
    {"crew", T_OBJECT, offsetof(PromiseObject, crew), READONLY, PyDoc_STR("Who works on it.")},
    {"state", T_OBJECT, offsetof(PromiseObject, state), READONLY, PyDoc_STR("The present one.")},
    {"_result", T_OBJECT, offsetof(PromiseObject, result), 0, NULL},
    {"_exception", T_OBJECT, offsetof(PromiseObject, exception), 0, NULL},
    {0},
};

static PyGetSetDef promise_getset[] = {
    {"_state", promise_state_seen, promise_set_state, PyDoc_STR("The one that look() has kept, or the present one."), NULL},
    {"_done_callbacks", promise_callbacks, NULL, NULL, NULL},
    {0},
};

static PyType_Slot promise_slots[] = {
    {Py_tp_doc, "Promise(crew=None, /)\n--\n\n"
                "The state of a concurrent.futures.Future, without locks. For classes that inherit from both, this one first."},
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
