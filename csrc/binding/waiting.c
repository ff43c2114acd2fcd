/* Bells with Python listeners. */
#include "waiting.h"

int
waiting_listen(theus_bell *bell, PyObject *wake)
{
    Py_INCREF(wake); /* the listener's */
    if (theus_bell_add(bell, wake) == THEUS_OK) {
        return 0;
    }
    Py_DECREF(wake);
    PyErr_NoMemory();
    return -1;
}

static bool
is_same(void *arg, void *who)
{
    return arg == who;
}

bool
waiting_unlisten(theus_bell *bell, PyObject *wake)
{
    PyObject *removed = theus_bell_remove(bell, is_same, wake);
    Py_XDECREF(removed);
    return removed != NULL;
}

int
waiting_call(PyObject *wake)
{
    PyObject *done = PyObject_CallNoArgs(wake);
    if (done == NULL && !PyErr_ExceptionMatches(PyExc_Exception)) {
        PyObject *interrupt = PyErr_GetRaisedException();
        done = PyObject_CallNoArgs(wake);
        if (done == NULL) {
            PyErr_Clear(); /* the first one is told */
        }
        Py_XDECREF(done);
        PyErr_SetRaisedException(interrupt);
        return -1;
    }
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

void
waiting_defer(PyObject *reporter)
{
    if (PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_WriteUnraisable(reporter);
        return;
    }
    PyObject *interrupt = PyErr_GetRaisedException();
    (void)PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), (PyObject *)Py_TYPE(interrupt));
    Py_DECREF(interrupt);
}

int
waiting_call_all(theus_bell *bell)
{
    PyObject *error = NULL;
    theus_listener *next;
    for (theus_listener *it = theus_bell_take(bell); it != NULL; it = next) {
        PyObject *wake = it->who;
        int called = theus_listener_is_here(it) ? waiting_call(wake) : 0;
        next = it->next;
        theus_free(it);
        Py_DECREF(wake);
        if (called < 0) {
            PyObject *raised = PyErr_GetRaisedException();
            if (error == NULL) {
                error = raised;
            }
            else {
                Py_DECREF(raised);
            }
        }
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
        return -1;
    }
    return 0;
}

void
waiting_ring_quietly(theus_bell *bell, PyObject *reporter)
{
    if (!theus_bell_awaited(bell)) {
        return;
    }
    PyObject *error = PyErr_GetRaisedException();
    if (waiting_call_all(bell) < 0) {
        waiting_defer(reporter);
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

/* ---- threads ------------------------------------------------------------------------------------ */

PyObject *
waiting_new_lock(void)
{
    PyObject *threads = PyImport_ImportModule("_thread");
    PyObject *lock = threads == NULL ? NULL : PyObject_CallMethod(threads, "allocate_lock", NULL);
    PyObject *held = lock == NULL ? NULL : PyObject_CallMethod(lock, "acquire", NULL);
    Py_XDECREF(threads);
    if (held == NULL) {
        Py_CLEAR(lock);
    }
    Py_XDECREF(held);
    return lock;
}

int
waiting_acquire(PyObject *lock, uint64_t limit_ns)
{
    const double longest = 1e9; /* seconds: what a lock takes, and more than anybody waits in one go */
    double seconds = (double)limit_ns * 1e-9;
    PyObject *got = PyObject_CallMethod(lock, "acquire", "Od", Py_True, seconds < longest ? seconds : longest);
    Py_XDECREF(got);
    return got == NULL ? -1 : 0;
}

int
waiting_until(theus_bell *bell, int (*ready)(void *arg), void *arg, uint64_t limit_ns)
{
    uint64_t end_ns = theus_clock_fine_ns() + limit_ns;
    if (end_ns < limit_ns) {
        end_ns = UINT64_MAX;
    }
    for (;;) {
        uint64_t now_ns = theus_clock_fine_ns();
        PyObject *lock = waiting_new_lock();
        PyObject *release = lock == NULL ? NULL : PyObject_GetAttrString(lock, "release");
        int result = release == NULL ? -1 : waiting_listen(bell, release);
        if (result == 0) {
            result = ready(arg); /* after listening, see bell.h */
            if (result == 0 && now_ns < end_ns) {
                result = waiting_acquire(lock, end_ns - now_ns);
            }
            waiting_unlisten(bell, release);
        }
        Py_XDECREF(release);
        Py_XDECREF(lock);
        if (result != 0 || now_ns >= end_ns) {
            return result;
        }
    }
}

/* ---- event loops ------------------------------------------------------------------------------------ */

int
waiting_would_block_loop(void)
{
    PyObject *name = PyUnicode_FromString("asyncio.events");
    PyObject *events = name == NULL ? NULL : PyImport_GetModule(name); /* not imported: then no loop runs */
    Py_XDECREF(name);
    if (events == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    PyObject *loop = PyObject_CallMethod(events, "_get_running_loop", NULL);
    int result = loop == NULL ? -1 : loop != Py_None;
    Py_DECREF(events);
    Py_XDECREF(loop);
    return result;
}
