/* Bodies of transactions: called, known again, and what they return. */
#include "body.h"

#include "draft.h"

/* ---- calls ------------------------------------------------------------------------------- */

/* The transaction takes the place of the function in args[0]. */
static PyObject *
call_with(TxnObject *txn, PyObject *const *args, Py_ssize_t count)
{
    enum { FEW = 8 };
    PyObject *few[FEW + 1];
    PyObject **stack = few;
    if (count > FEW) {
        stack = PyMem_Malloc((size_t)(count + 1) * sizeof(PyObject *));
        if (stack == NULL) {
            return PyErr_NoMemory();
        }
    }
    stack[0] = NULL;
    stack[1] = (PyObject *)txn;
    for (Py_ssize_t i = 1; i < count; i++) {
        stack[i + 1] = args[i];
    }
    PyObject *result = PyObject_Vectorcall(args[0], stack + 1, (size_t)count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (stack != few) {
        PyMem_Free(stack);
    }
    return result;
}

/* Refused before its first step, so it must not complain that nobody awaited it. */
static void
close_coroutine(PyObject *coroutine)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *closed = PyObject_CallMethod(coroutine, "close", NULL);
    Py_XDECREF(closed);
    Py_DECREF(coroutine);
    PyErr_SetRaisedException(error); /* in place of whatever close() raised */
}

/* Whether a generator is a call of `fn`, rather than something that it made. */
static bool
is_call_of(PyObject *generator, PyObject *fn)
{
    const char *name = PyGen_CheckExact(generator) ? "gi_code" : "ag_code";
    PyObject *code = PyObject_GetAttrString(generator, name);
    PyObject *own = code == NULL ? NULL : PyObject_GetAttrString(fn, "__code__");
    bool same = own != NULL && own == code;
    PyErr_Clear(); /* not every callable has code */
    Py_XDECREF(own);
    Py_XDECREF(code);
    return same;
}

/* The result, or NULL: not a line of a coroutine function or a generator function has run. */
static PyObject *
refuse_what_has_not_run(PyObject *fn, PyObject *result)
{
    if (result == NULL) {
        return NULL;
    }
    if (PyCoro_CheckExact(result)) {
        PyErr_Format(PyExc_TypeError, "%R is a coroutine function: await engine.run_async() runs those", fn);
        close_coroutine(result);
        return NULL;
    }
    if ((PyGen_CheckExact(result) || PyAsyncGen_CheckExact(result)) && is_call_of(result, fn)) {
        PyErr_Format(PyExc_TypeError, "%R is a generator function, which would run after its transaction: "
                     "return a list instead of yielding", fn);
        Py_DECREF(result);
        return NULL;
    }
    return result;
}

PyObject *
body_call(TxnObject *txn, PyObject *const *args, Py_ssize_t count)
{
    return refuse_what_has_not_run(args[0], call_with(txn, args, count));
}

/* ---- which one it is ---------------------------------------------------------------------------- */

enum { PARTS = 8, DEPTH = 3 }; /* what is looked at of a tuple or a dict, and how far down */

static uint64_t
mixed(uint64_t hash, uint64_t more)
{
    uint64_t x = (hash ^ more) * 0x9E3779B97F4A7C15u + 1;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    return x ^ (x >> 31);
}

static uint64_t
mixed_with_pointer(uint64_t hash, const void *pointer)
{
    return mixed(hash, (uint64_t)(uintptr_t)pointer);
}

static uint64_t
mixed_with_value(uint64_t hash, PyObject *value, int depth)
{
    if (PyUnicode_CheckExact(value) || PyLong_CheckExact(value)) {
        return mixed(hash, (uint64_t)PyObject_Hash(value)); /* of these it cannot fail */
    }
    if (depth < DEPTH && PyTuple_CheckExact(value)) {
        Py_ssize_t size = PyTuple_GET_SIZE(value);
        for (Py_ssize_t i = 0; i < size && i < PARTS; i++) {
            hash = mixed_with_value(hash, PyTuple_GET_ITEM(value, i), depth + 1);
        }
        return mixed(hash, (uint64_t)size);
    }
    if (depth < DEPTH && PyDict_CheckExact(value)) {
        Py_ssize_t at = 0;
        PyObject *key, *item; /* borrowed: nothing below runs code that could change the dict */
        Py_BEGIN_CRITICAL_SECTION(value);
        for (int i = 0; i < PARTS && PyDict_Next(value, &at, &key, &item); i++) {
            hash = mixed_with_value(mixed_with_value(hash, key, depth + 1), item, depth + 1);
        }
        Py_END_CRITICAL_SECTION();
        return mixed(hash, (uint64_t)PyDict_GET_SIZE(value));
    }
    return mixed_with_pointer(hash, value);
}

/* An attribute of an object of the interpreter, whose getters run no code of the user. NULL: it has none. */
static PyObject *
attribute_of(PyObject *object, const char *name)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    if (value == NULL) {
        PyErr_Clear(); /* it only makes for a worse guess */
    }
    return value;
}

static uint64_t
mixed_with_attribute(uint64_t hash, PyObject *object, const char *name)
{
    PyObject *value = attribute_of(object, name);
    if (value != NULL) {
        hash = mixed_with_value(hash, value, 0);
        Py_DECREF(value);
    }
    return hash;
}

static theus_body
function_known_as(PyObject *function)
{
    theus_body body = {.kind = mixed_with_pointer(0, PyFunction_GET_CODE(function))};
    PyObject *cells = PyFunction_GET_CLOSURE(function); /* borrowed; never another one */
    body.exact = mixed_with_attribute(body.kind, function, "__defaults__");
    for (Py_ssize_t i = 0; cells != NULL && i < PyTuple_GET_SIZE(cells) && i < PARTS; i++) {
        PyObject *held = PyCell_Get(PyTuple_GET_ITEM(cells, i));
        if (held != NULL) {
            body.exact = mixed_with_value(body.exact, held, 0);
            Py_DECREF(held);
        }
    }
    return body;
}

static theus_body callable_known_as(PyObject *callable, int depth);

/* Its kind is that of its function, and of a first argument that is one: what it wraps. */
static theus_body
partial_known_as(PyObject *partial, int depth)
{
    PyObject *function = attribute_of(partial, "func"), *arguments = attribute_of(partial, "args");
    theus_body body = {0, 0};
    if (function != NULL) {
        body = callable_known_as(function, depth + 1);
    }
    if (arguments != NULL) {
        if (PyTuple_CheckExact(arguments) && PyTuple_GET_SIZE(arguments) > 0
            && PyFunction_Check(PyTuple_GET_ITEM(arguments, 0))) {
            body.kind = mixed(body.kind, function_known_as(PyTuple_GET_ITEM(arguments, 0)).kind);
        }
        body.exact = mixed_with_value(body.exact, arguments, 0);
    }
    body.exact = mixed_with_attribute(body.exact, partial, "keywords");
    Py_XDECREF(arguments);
    Py_XDECREF(function);
    return body;
}

static theus_body
callable_known_as(PyObject *callable, int depth)
{
    if (PyFunction_Check(callable)) {
        return function_known_as(callable);
    }
    if (depth < DEPTH && PyMethod_Check(callable)) {
        theus_body body = callable_known_as(PyMethod_GET_FUNCTION(callable), depth + 1);
        body.exact = mixed_with_pointer(body.exact, PyMethod_GET_SELF(callable));
        return body;
    }
    if (depth < DEPTH && strcmp(Py_TYPE(callable)->tp_name, "functools.partial") == 0) { /* no class statement makes one */
        return partial_known_as(callable, depth);
    }
    uint64_t kind = mixed_with_pointer(0, Py_TYPE(callable));
    return (theus_body){.kind = kind, .exact = mixed_with_pointer(kind, callable)};
}

theus_body
body_known_as(PyObject *fn, PyObject *const *args, Py_ssize_t count, PyObject *process)
{
    theus_body body = callable_known_as(fn, 0);
    if (process != NULL) {
        body.kind = mixed_with_value(body.kind, process, 0);
        body.exact = mixed_with_value(body.exact, process, 0);
    }
    for (Py_ssize_t i = 0; i < count && i < PARTS; i++) {
        body.exact = mixed_with_value(body.exact, args[i], 0);
    }
    return body;
}

/* ---- results ----------------------------------------------------------------------------- */

/* The parts of a result with drafts replaced, or `result` itself if it held none. Both are new references; steals nothing. */
static PyObject *
freeze_parts(TxnObject *self, PyObject *result)
{
    /* Of a dict a copy: freezing a draft may run a resolver that changes the dict meanwhile. */
    PyObject *copy = PyDict_CheckExact(result) ? PyDict_Copy(result) : NULL;
    PyObject *parts = PyDict_CheckExact(result) ? (copy == NULL ? NULL : PyDict_Values(copy))
                                                : PySequence_List(result);
    bool changed = false;
    for (Py_ssize_t i = 0; parts != NULL && i < PyList_GET_SIZE(parts); i++) {
        PyObject *part = PyList_GET_ITEM(parts, i); /* borrowed: parts is ours alone */
        PyObject *frozen = txn_freeze_result(self, Py_NewRef(part));
        changed = changed || frozen != part;
        if (frozen == NULL || PyList_SetItem(parts, i, frozen) < 0) {
            Py_CLEAR(parts);
        }
    }
    if (parts == NULL || !changed) {
        Py_XDECREF(copy);
        Py_XDECREF(parts);
        return parts == NULL ? NULL : Py_NewRef(result);
    }
    PyObject *made = NULL;
    if (PyTuple_CheckExact(result)) {
        made = PyList_AsTuple(parts);
    }
    else if (PyTuple_Check(result)) {
        made = PyObject_CallMethod(result, "_make", "O", parts);
    }
    else if (PyList_CheckExact(result)) {
        return parts;
    }
    else {
        PyObject *keys = PyDict_Keys(copy);
        made = keys == NULL ? NULL : PyDict_New();
        for (Py_ssize_t i = 0; made != NULL && i < PyList_GET_SIZE(parts); i++) {
            if (PyDict_SetItem(made, PyList_GET_ITEM(keys, i), PyList_GET_ITEM(parts, i)) < 0) {
                Py_CLEAR(made);
            }
        }
        Py_XDECREF(keys);
        Py_DECREF(copy);
    }
    Py_DECREF(parts);
    return made;
}

/* Any other subclass may be made in a way of its own. */
static bool
is_named_tuple(PyObject *object)
{
    return PyTuple_Check(object) && PyObject_HasAttrString((PyObject *)Py_TYPE(object), "_make");
}

/* Drafts die with their transaction; what a body returns must not. Looks into exact lists and dicts, and into tuples,
 * named ones too, and copies those that held one: others may hold them too. */
PyObject *
txn_freeze_result(TxnObject *self, PyObject *result)
{
    PyObject *frozen;
    if (draft_check(self->heap->st, result)) {
        frozen = draft_frozen(result);
    }
    else if (draft_view_check(self->heap->st, result)) {
        frozen = draft_view_frozen(result);
    }
    else if (PyTuple_CheckExact(result) || PyList_CheckExact(result) || PyDict_CheckExact(result)
             || is_named_tuple(result)) {
        int inside = Py_ReprEnter(result); /* the interpreter's list of containers being walked */
        if (inside > 0) {
            return result; /* it holds itself */
        }
        frozen = NULL;
        if (inside == 0) {
            if (nesting_enter(" in a result") == 0) {
                frozen = freeze_parts(self, result);
                nesting_leave();
            }
            Py_ReprLeave(result);
        }
    }
    else {
        return result;
    }
    Py_DECREF(result);
    return frozen;
}
