/* Where transactions begin. */
#include "home.h"

PyThreadState *
running_thread(void)
{
    PyThreadState *thread = PyThreadState_Get();
    if (thread->context == NULL) {
        PyObject *copy = PyContext_CopyCurrent();
        if (copy == NULL) {
            PyErr_Clear();
        }
        Py_XDECREF(copy);
    }
    return thread;
}

PyObject *
home_chain(module_state *st)
{
    PyObject *chain;
    return PyContextVar_Get(st->home, Py_None, &chain) < 0 ? NULL : chain;
}

/* The index of the first home from `at` on where a transaction is open; else the end. Those of other contexts may
 * open and close meanwhile; but what was open when this context was copied, and is still, is found. */
static Py_ssize_t
next_open(PyObject *chain, Py_ssize_t at)
{
    Py_ssize_t end = home_chain_length(chain);
    while (at < end
           && atomic_load_explicit(&((HomeObject *)PyTuple_GET_ITEM(chain, at))->open, memory_order_relaxed) == 0) {
        at++;
    }
    return at;
}

/* (home, *those of `chain` where a transaction is open) */
static PyObject *
chain_with(HomeObject *home, PyObject *chain)
{
    Py_ssize_t end = home_chain_length(chain), open = next_open(chain, 0);
    if (open == end) {
        return PyTuple_Pack(1, home);
    }
    PyObject *list = PyList_New(0);
    int result = list == NULL ? -1 : PyList_Append(list, (PyObject *)home);
    while (result == 0 && open < end) {
        result = PyList_Append(list, PyTuple_GET_ITEM(chain, open));
        open = next_open(chain, open + 1);
    }
    PyObject *made = result < 0 ? NULL : PyList_AsTuple(list);
    Py_XDECREF(list);
    return made;
}

/* Steals `chain`. */
static PyObject *
begin_fresh(module_state *st, const PyThreadState *thread, PyObject *chain)
{
    HomeObject *home = PyObject_GC_New(HomeObject, st->Home_type);
    if (home == NULL) {
        Py_DECREF(chain);
        return NULL;
    }
    home->context = thread->context;
    home->visit = thread->context_ver;
    atomic_init(&home->open, 0);
    PyObject_GC_Track(home);
    PyObject *made = chain_with(home, chain);
    PyObject *token = made == NULL ? NULL : PyContextVar_Set(st->home, made);
    Py_DECREF(home);
    Py_DECREF(chain);
    if (token == NULL) {
        Py_CLEAR(made);
    }
    Py_XDECREF(token);
    return made;
}

/* Is this thread the youngest, so that no thread that is alive was started by it? An interpreter lists its threads newest
 * first. */
static bool
is_youngest(const PyThreadState *thread)
{
    return PyInterpreterState_ThreadHead(thread->interp) == thread;
}

PyObject *
home_begin(module_state *st, const PyThreadState *thread, bool is_async)
{
    PyObject *chain;
    if (PyContextVar_Get(st->home, Py_None, &chain) < 0) {
        return NULL;
    }
    if (chain != Py_None && !is_async) {
        const HomeObject *newest = home_newest(chain);
        if (newest->context == thread->context && newest->visit == thread->context_ver
            && (!st->threads_inherit || is_youngest(thread))) {
            return chain;
        }
    }
    return begin_fresh(st, thread, chain);
}

/* ---- the type, of which no user sees an instance ---------------------------------- */

static int
home_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
home_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyType_Slot home_slots[] = {
    {Py_tp_dealloc, home_dealloc},
    {Py_tp_traverse, home_traverse},
    {0, NULL},
};

static PyType_Spec home_spec = {
    .name = "theus._theus._Home",
    .basicsize = sizeof(HomeObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = home_slots,
};

/* sys.flags.thread_inherit_context, which came with 3.14. 1, 0 or -1. */
static int
do_threads_inherit(void)
{
    PyObject *flags = PySys_GetObject("flags"), *flag; /* borrowed */
    if (flags == NULL) {
        return 0;
    }
    int found = PyObject_GetOptionalAttrString(flags, "thread_inherit_context", &flag);
    int inherit = found <= 0 ? found : PyObject_IsTrue(flag);
    Py_XDECREF(flag);
    return inherit;
}

int
add_home_type(PyObject *module, module_state *st)
{
    int inherit = do_threads_inherit();
    if (inherit < 0) {
        return -1;
    }
    st->threads_inherit = inherit;
    st->home = PyContextVar_New("theus.home", NULL);
    if (st->home == NULL || PyModule_AddObjectRef(module, "HOME", st->home) < 0) {
        return -1;
    }
    st->Home_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &home_spec, NULL);
    return st->Home_type == NULL ? -1 : 0;
}
