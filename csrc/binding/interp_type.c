/* theus._theus.InterpreterWorker: an interpreter with a GIL of its own, and the thread that lives in it.
 *
 *     run(), in a thread that Python has made for it        any other thread of the interpreter that made it
 *     ───────────────────────────────────────────────       ──────────────────────────────────────────────
 *     make an interpreter, enter it
 *     start(mailbox, setup) gives `answer`
 *     ┌▶ take a letter; `task` = its number                 current(): which task, and since when
 *     │  answer(kind, number, body, buffers)                interrupt(number): KeyboardInterrupt into that task
 *     └─ `task` = 0; no interrupt is left
 *     wait until no visitor is left, end the interpreter
 *     back where the thread came from
 *
 * The thread state lives as long as the worker: entering an interpreter anew costs more than a small task.
 *
 * A visitor is a thread that enters the worker's interpreter to interrupt it. It waits for that GIL, so a task in C code that never
 * lets it go holds the visitor, too: it is a thread made for that. `task` changes only with the worker's GIL held, and so does
 * the visitor look at it: an interrupt reaches the task that it was meant for, or nobody. The interpreter lives until the
 * visitors have left: they are counted under `lock`, where `interpreter` is NULL before and after.
 *
 * The object belongs to the interpreter that made it. What the worker's thread uses of it while it lives there are plain
 * words, atomics and the lock; run() holds a reference, so it stays. */
#include "errors.h"
#include "mail_type.h"

#include <string.h>

enum {
    KIND_LOST = 12,   /* an answer: the task has ended without one of its own */
    KIND_UNBORN = 13, /* of the worker: it could not start; the body is a text */
};

typedef struct {
    PyObject_HEAD
    theus_mailbox *tasks, *answers; /* a reference each */
    _Atomic(uint64_t) task;         /* number of the one that runs; 0: none */
    _Atomic(uint64_t) since;        /* theus_clock_fine_ns() when it began */
    _Atomic(bool) retired;          /* ends after its task */
    theus_mutex lock;               /* rank MAIL */
    theus_cond left;                /* a visitor has */
    /* guarded by lock: */
    bool begun;
    PyInterpreterState *interpreter;
    unsigned long thread;
    uint32_t visitors;
} WorkerObject;

static WorkerObject *
worker_of(PyObject *op)
{
    return (WorkerObject *)op;
}

/* ---- in the worker's interpreter ----------------------------------------------------------- */

/* Says something to the pool for which Python is not needed. Without memory nobody hears it: the pool sees that the task
 * has no answer when the worker has ended. */
static void
post_text(theus_mailbox *box, uint32_t kind, uint64_t number, const char *text)
{
    size_t size = strlen(text);
    theus_letter *letter = theus_letter_new(kind, number, 1, &size);
    if (letter != NULL) {
        memcpy(letter->part[0].content, text, size);
        theus_mailbox_post(box, letter);
    }
}

/* Posts the exception that is set as the reason why there is no worker. */
static void
post_unborn(theus_mailbox *box)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *text = PyUnicode_FromFormat("%s: %S", Py_TYPE(error)->tp_name, error);
    const char *utf8 = text == NULL ? NULL : PyUnicode_AsUTF8(text);
    post_text(box, KIND_UNBORN, 0, utf8 != NULL ? utf8 : "its interpreter could not start");
    PyErr_Clear();
    Py_XDECREF(text);
    Py_DECREF(error);
}

/* sys.path = the parts of a text between its newlines. */
static int
set_path(const char *text, Py_ssize_t size)
{
    PyObject *joined = PyUnicode_DecodeUTF8(text, size, "surrogatepass");
    PyObject *newline = PyUnicode_FromString("\n");
    PyObject *path = joined == NULL || newline == NULL ? NULL : PyUnicode_Split(joined, newline, -1);
    int set = path == NULL ? -1 : PySys_SetObject("path", path);
    Py_XDECREF(joined);
    Py_XDECREF(newline);
    Py_XDECREF(path);
    return set;
}

/* What Python calls for each letter: start(answers, setup). NULL with an exception set. */
static PyObject *
start(theus_mailbox *answers, const char *path, Py_ssize_t path_size, const char *setup, Py_ssize_t setup_size)
{
    PyObject *package = NULL, *mine = NULL, *box = NULL, *answer = NULL;
    if (set_path(path, path_size) < 0) {
        return NULL;
    }
    mine = PyImport_ImportModule("theus._theus"); /* this interpreter's own */
    package = mine == NULL ? NULL : PyImport_ImportModule("theus.pools.resident");
    box = package == NULL ? NULL : mailbox_object(module_state_of(mine), answers);
    if (box != NULL) {
        answer = PyObject_CallMethod(package, "start", "Oy#", box, setup, setup_size);
    }
    Py_XDECREF(mine);
    Py_XDECREF(package);
    Py_XDECREF(box);
    return answer;
}

static void
run_task(WorkerObject *worker, module_state *st, PyObject *answer, theus_letter *letter)
{
    uint64_t number = letter->number;
    atomic_store(&worker->since, theus_clock_fine_ns());
    atomic_store(&worker->task, number);
    PyObject *content = letter_content(st, letter);
    PyObject *done = content == NULL ? NULL : PyObject_Call(answer, content, NULL);
    atomic_store(&worker->task, 0);
    (void)PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), NULL); /* one that came too late */
    if (done == NULL) {
        /* No memory, or an interrupt just before or after the answer: then there are two, and the pool takes the first. */
        PyErr_Clear();
        post_text(worker->answers, KIND_LOST, number, "");
    }
    Py_XDECREF(content);
    Py_XDECREF(done);
}

static void
serve(WorkerObject *worker, PyObject *answer)
{
    PyObject *mine = PyImport_ImportModule("theus._theus");
    if (mine == NULL) {
        PyErr_Clear();
        return;
    }
    module_state *st = module_state_of(mine);
    theus_take took = THEUS_TAKE_NOTHING;
    while (took != THEUS_TAKE_END && !atomic_load(&worker->retired)) {
        theus_letter *letter = NULL;
        Py_BEGIN_ALLOW_THREADS
        took = theus_mailbox_take(worker->tasks, UINT64_MAX, &letter);
        Py_END_ALLOW_THREADS
        if (took == THEUS_TAKE_LETTER) {
            run_task(worker, st, answer, letter);
        }
    }
    Py_DECREF(mine);
}

/* ---- the thread ------------------------------------------------------------------------------- */

static void
open_door(WorkerObject *worker, PyThreadState *own)
{
    theus_mutex_lock(&worker->lock);
    worker->interpreter = PyThreadState_GetInterpreter(own);
    worker->thread = PyThread_get_thread_ident();
    theus_mutex_unlock(&worker->lock);
}

/* Visitors need the GIL of the interpreter to leave it: it is not ours here. */
static void
close_door(WorkerObject *worker)
{
    Py_BEGIN_ALLOW_THREADS
    theus_mutex_lock(&worker->lock);
    worker->interpreter = NULL;
    while (worker->visitors > 0) {
        (void)theus_cond_wait(&worker->left, &worker->lock, UINT64_MAX);
    }
    theus_mutex_unlock(&worker->lock);
    Py_END_ALLOW_THREADS
}

static PyObject *
worker_run(PyObject *op, PyObject *args)
{
    WorkerObject *worker = worker_of(op);
    Py_buffer path, setup;
    if (!PyArg_ParseTuple(args, "y*y*:run", &path, &setup)) {
        return NULL;
    }
    theus_mutex_lock(&worker->lock);
    bool again = worker->begun;
    worker->begun = true;
    theus_mutex_unlock(&worker->lock);
    PyThreadState *here = PyThreadState_Get(), *own = NULL;
    const char *problem = again ? "a worker runs once" : interpreter_begin(&own);
    if (problem == NULL) {
        open_door(worker, own);
        PyObject *answer = start(worker->answers, path.buf, path.len, setup.buf, setup.len);
        if (answer == NULL) {
            post_unborn(worker->answers);
        }
        else if (answer != Py_None) {
            serve(worker, answer);
        }
        Py_XDECREF(answer);
        close_door(worker);
        Py_EndInterpreter(own);
        (void)PyThreadState_Swap(here);
    }
    PyBuffer_Release(&path);
    PyBuffer_Release(&setup);
    if (problem != NULL) {
        PyErr_SetString(PyExc_RuntimeError, problem);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- visitors and others ------------------------------------------------------------------------- */

static PyObject *
worker_interrupt(PyObject *op, PyObject *number)
{
    WorkerObject *worker = worker_of(op);
    uint64_t task = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred()) {
        return NULL;
    }
    theus_mutex_lock(&worker->lock);
    PyInterpreterState *interpreter = worker->interpreter;
    unsigned long thread = worker->thread;
    bool meant = interpreter != NULL && atomic_load(&worker->task) == task;
    worker->visitors += meant;
    theus_mutex_unlock(&worker->lock);
    if (!meant) {
        Py_RETURN_FALSE;
    }
    PyThreadState *visit = PyThreadState_New(interpreter);
    if (visit != NULL) {
        PyThreadState *here = PyThreadState_Swap(visit); /* waits for the GIL there */
        meant = atomic_load(&worker->task) == task;
        if (meant) {
            (void)PyThreadState_SetAsyncExc(thread, PyExc_KeyboardInterrupt);
        }
        PyThreadState_Clear(visit);
        (void)PyThreadState_Swap(here);
        PyThreadState_Delete(visit);
    }
    theus_mutex_lock(&worker->lock);
    worker->visitors--;
    theus_cond_signal(&worker->left);
    theus_mutex_unlock(&worker->lock);
    return visit == NULL ? PyErr_NoMemory() : PyBool_FromLong(meant);
}

static PyObject *
worker_current(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WorkerObject *worker = worker_of(op);
    uint64_t task = atomic_load(&worker->task), since = atomic_load(&worker->since);
    if (task == 0 || task != atomic_load(&worker->task)) { /* between two: busy, but not for long */
        Py_RETURN_NONE;
    }
    return Py_BuildValue("(Kd)", (unsigned long long)task, (double)since / 1e9);
}

static PyObject *
worker_retire(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    atomic_store(&worker_of(op)->retired, true);
    Py_RETURN_NONE;
}

/* ---- the type --------------------------------------------------------------------------------------- */

static PyObject *
worker_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    module_state *st = module_state_of_type(type);
    PyObject *tasks, *answers;
    if (!PyArg_ParseTuple(args, "OO:InterpreterWorker", &tasks, &answers)) {
        return NULL;
    }
    theus_mailbox *task_box = mailbox_of(st, tasks);
    theus_mailbox *answer_box = task_box == NULL ? NULL : mailbox_of(st, answers);
    WorkerObject *self = answer_box == NULL ? NULL : PyObject_New(WorkerObject, type);
    if (self == NULL) {
        return NULL;
    }
    self->tasks = self->answers = NULL;
    self->begun = false;
    self->interpreter = NULL;
    self->thread = 0;
    self->visitors = 0;
    atomic_init(&self->task, 0);
    atomic_init(&self->since, 0);
    atomic_init(&self->retired, false);
    theus_status status = theus_mutex_init(&self->lock, THEUS_RANK_MAIL, false);
    if (status == THEUS_OK) {
        status = theus_cond_init(&self->left);
        if (status != THEUS_OK) {
            theus_mutex_fini(&self->lock);
        }
    }
    if (status != THEUS_OK) {
        PyObject_Free(self);
        Py_DECREF(type);
        return errors_raise(st, status);
    }
    theus_mailbox_retain(task_box);
    theus_mailbox_retain(answer_box);
    self->tasks = task_box;
    self->answers = answer_box;
    return (PyObject *)self;
}

static void
worker_dealloc(PyObject *op)
{
    WorkerObject *self = worker_of(op);
    PyTypeObject *type = Py_TYPE(op);
    theus_mailbox_release(self->tasks);
    theus_mailbox_release(self->answers);
    theus_cond_fini(&self->left);
    theus_mutex_fini(&self->lock);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyMethodDef worker_methods[] = {
    {"run", worker_run, METH_VARARGS,
     PyDoc_STR("run($self, path, setup, /)\n--\n\n"
               "Lives in an interpreter of its own until the box of tasks gives no more. `path` is sys.path\n"
               "there, joined by newlines, as UTF-8; `setup` is for theus.pools.resident.start().\n"
               "Raises RuntimeError if no interpreter can be made.")},
    {"interrupt", worker_interrupt, METH_O,
     PyDoc_STR("interrupt($self, number, /)\n--\n\n"
               "Raises KeyboardInterrupt in the Python code of that task, if it is the one that runs; says so.\n"
               "Waits for the worker's GIL: for as long as C code keeps that.")},
    {"current", worker_current, METH_NOARGS,
     PyDoc_STR("current($self, /)\n--\n\n(number of the task that runs, time.monotonic() when it began), or None.")},
    {"retire", worker_retire, METH_NOARGS, PyDoc_STR("retire($self, /)\n--\n\nIt ends after the task that it runs.")},
    {0},
};

static PyType_Slot worker_slots[] = {
    {Py_tp_doc, "InterpreterWorker(tasks, answers, /)\n--\n\n"
                "A worker that takes tasks from one Mailbox, in an interpreter of its own, and posts answers to another."},
    {Py_tp_new, worker_new},
    {Py_tp_dealloc, worker_dealloc},
    {Py_tp_methods, worker_methods},
    {0, NULL},
};

static PyType_Spec worker_spec = {
    .name = "theus._theus.InterpreterWorker",
    .basicsize = sizeof(WorkerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = worker_slots,
};

int
add_interp_type(PyObject *module, module_state *st)
{
    return module_add_type(module, &worker_spec, &st->InterpreterWorker_type);
}
