/* What a pool does at its end of the wire: tasks go from its queue to a worker, answers come back to their tasks. Each is
 * one call, and no code of Python runs in it: so a task is always in one place, whatever a signal handler raises. */
#include "line.h"

#include "errors.h"
#include "promise.h"

#include <string.h>

enum { FIRST_ROOM = 4096 };

#define NAMES(X) X(frame) X(future) X(number) X(append) X(pop) X(popleft)

int
line_intern_names(module_state *st)
{
#define INTERN(name)                                                            \
    if ((st->name_##name = PyUnicode_InternFromString(#name)) == NULL) {        \
        return -1;                                                              \
    }
    NAMES(INTERN)
#undef INTERN
    return 0;
}

static double
seconds_now(void)
{
    return (double)theus_clock_fine_ns() * 1e-9; /* as time.monotonic() */
}

/* ---- deques ------------------------------------------------------------------------------------- */

static int
append(const module_state *st, PyObject *deque, PyObject *item)
{
    PyObject *done = PyObject_CallMethodOneArg(deque, st->name_append, item);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int
append_number(const module_state *st, PyObject *deque, Py_ssize_t number)
{
    PyObject *item = PyLong_FromSsize_t(number);
    int result = item == NULL ? -1 : append(st, deque, item);
    Py_XDECREF(item);
    return result;
}

/* Neither fails for a deque that has something. */
static void
drop(PyObject *deque, PyObject *method)
{
    PyObject *item = PyObject_CallMethodNoArgs(deque, method);
    if (item == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(item);
}

/* The first packet has one task less. */
static void
count_down(const module_state *st, PyObject *packets)
{
    PyObject *first = PySequence_GetItem(packets, 0);
    long left = first == NULL ? -1 : PyLong_AsLong(first);
    PyObject *less = left > 1 ? PyLong_FromLong(left - 1) : NULL; /* small ints are there already */
    if (less == NULL || PySequence_SetItem(packets, 0, less) < 0) {
        drop(packets, st->name_popleft);
    }
    PyErr_Clear();
    Py_XDECREF(less);
    Py_XDECREF(first);
}

/* ---- tasks out ------------------------------------------------------------------------------------ */

/* Adds the frame of a task to a packet if it fits and the task begins: 1, or 0; -1 with an exception set. */
static int
add_frame(const module_state *st, PyObject *task, char *packet, size_t *size, bool *fits)
{
    PyObject *frame = PyObject_GetAttr(task, st->name_frame);
    PyObject *future = frame == NULL ? NULL : PyObject_GetAttr(task, st->name_future);
    int added = -1;
    *fits = true;
    if (future != NULL && !PyBytes_CheckExact(frame)) {
        PyErr_Format(PyExc_TypeError, "the frame of a task is bytes, not %R", frame);
    }
    else if (future != NULL) {
        size_t length = (size_t)PyBytes_GET_SIZE(frame);
        *fits = length <= LINE_PACKET - *size;
        added = *fits ? promise_begin(st, future) : 0;
        if (added > 0) {
            memcpy(packet + *size, PyBytes_AS_STRING(frame), length);
            *size += length;
        }
    }
    Py_XDECREF(future);
    Py_XDECREF(frame);
    return added;
}

/* Puts that many tasks from the front of the queue behind `sent`, and leaves them in the queue. */
static int
copy_over(const module_state *st, PyObject *queue, Py_ssize_t count, PyObject *sent, PyObject *packets)
{
    Py_ssize_t copied = 0;
    for (; copied < count; copied++) {
        PyObject *task = PySequence_GetItem(queue, copied);
        int done = task == NULL ? -1 : append(st, sent, task);
        Py_XDECREF(task);
        if (done < 0) {
            break;
        }
    }
    if (copied == count && append_number(st, packets, count) == 0) {
        return 0;
    }
    PyObject *error = PyErr_GetRaisedException();
    while (copied-- > 0) {
        drop(sent, st->name_pop);
    }
    PyErr_SetRaisedException(error);
    return -1;
}

PyObject *
line_post(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    LineObject *line = line_of(op);
    const module_state *st = module_state_of_type(Py_TYPE(op));
    if (errors_check_count("post", count, 4, 4) < 0) {
        return NULL;
    }
    PyObject *queue = args[0], *sent = args[2], *packets = args[3];
    Py_ssize_t most = PyLong_AsSsize_t(args[1]), length = PySequence_Size(queue), before = PySequence_Size(sent);
    if (PyErr_Occurred()) {
        return NULL;
    }
    char packet[LINE_PACKET];
    size_t size = 0, gone;
    Py_ssize_t tasks = 0;
    bool fits = true;
    for (int added = 1; added > 0 && tasks < most && tasks < length; tasks += added) {
        PyObject *task = PySequence_GetItem(queue, tasks);
        added = task == NULL ? -1 : add_frame(st, task, packet, &size, &fits);
        Py_XDECREF(task);
        if (added < 0) {
            return NULL;
        }
    }
    if (tasks == 0) {
        return fits ? PyLong_FromLong(-1) : PyErr_Format(PyExc_ValueError, "a frame has %d bytes at the most", LINE_PACKET);
    }
    if (copy_over(st, queue, tasks, sent, packets) < 0) {
        return NULL;
    }
    theus_pipe done = theus_pipe_write(line->out, packet, size, &gone);
    int error = errno;
    if (done == THEUS_PIPE_DONE && before == 0) {
        line->since = seconds_now();
    }
    for (Py_ssize_t i = 0; i < tasks; i++) {
        done == THEUS_PIPE_DONE ? drop(queue, st->name_popleft) : drop(sent, st->name_pop);
    }
    if (done != THEUS_PIPE_DONE) {
        drop(packets, st->name_pop);
        tasks = 0; /* they have begun, and go with one of the next packets */
    }
    if (done == THEUS_PIPE_BROKEN) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromSsize_t(tasks);
}

/* ---- answers in ------------------------------------------------------------------------------------- */

/* Room for one more read at least. */
static int
make_room(LineObject *line)
{
    if (line->room - line->held >= FIRST_ROOM / 2) {
        return 0;
    }
    size_t room = line->room == 0 ? FIRST_ROOM : 2 * line->room;
    char *rest = PyMem_Realloc(line->rest, room);
    if (rest == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    line->rest = rest;
    line->room = room;
    return 0;
}

static void
drop_rest(LineObject *line)
{
    PyMem_Free(line->rest);
    line->rest = NULL;
    line->held = line->room = 0;
}

typedef struct {
    const module_state *st;
    PyObject *sender, *sent, *packets, *arrived; /* borrowed */
    Py_ssize_t frames, answers;
} delivery;

/* The first of `sent`, new, if that is its number; else NULL, and an exception only if something is wrong. */
static PyObject *
task_of(const delivery *to, uint64_t number)
{
    if (PySequence_Size(to->sent) < 1) {
        return NULL;
    }
    PyObject *task = PySequence_GetItem(to->sent, 0);
    PyObject *its = task == NULL ? NULL : PyObject_GetAttr(task, to->st->name_number);
    if (its == NULL || PyLong_AsUnsignedLongLong(its) != number) {
        Py_CLEAR(task);
    }
    Py_XDECREF(its);
    return task;
}

/* One frame goes to its task. 0, or -1: then nothing has changed. */
static int
deliver(delivery *to, const line_frame *frame)
{
    bool answer = frame->kind >= LINE_VALUE && frame->kind <= LINE_LAST_ANSWER;
    PyObject *task = answer ? task_of(to, frame->number) : NULL;
    if (answer && task == NULL) {
        return PyErr_Occurred() ? -1 : 0; /* its task was taken off the list: it ended otherwise */
    }
    PyObject *entry = Py_BuildValue("(OOiy#)", to->sender, answer ? task : Py_None, (int)frame->kind, frame->body,
                                    (Py_ssize_t)frame->size);
    int result = entry == NULL ? -1 : append(to->st, to->arrived, entry);
    if (result == 0 && answer) {
        drop(to->sent, to->st->name_popleft);
        count_down(to->st, to->packets);
        to->answers++;
    }
    Py_XDECREF(entry);
    Py_XDECREF(task);
    return result;
}

/* Takes the whole frames out of `rest`. What fails leaves the others for the next time. */
static int
take_undisturbed(LineObject *line, delivery *to)
{
    const char *at = line->rest, *taken = at, *end = at + line->held;
    line_frame frame;
    int result = 0;
    if (line->held == 0) {
        return 0;
    }
    while (result == 0 && line_next(&at, end, &frame) && (result = deliver(to, &frame)) == 0) {
        taken = at;
        to->frames++;
    }
    line->held = (size_t)(end - taken);
    memmove(line->rest, taken, line->held);
    if (line->held == 0 && line->room > LINE_LONGEST) {
        drop_rest(line); /* one long frame is no reason to keep so much */
    }
    return result;
}

static int
take_frames(LineObject *line, delivery *to)
{
#if THEUS_COLLECTS_ANYWHERE
    /* What it finalizes may collect frames, too, and move `rest`. */
    int collects = PyGC_Disable();
    int result = take_undisturbed(line, to);
    if (collects) {
        PyGC_Enable();
    }
    return result;
#else
    return take_undisturbed(line, to);
#endif
}

static void
note_pace(LineObject *line, Py_ssize_t answers)
{
    double now = seconds_now();
    line->pace += 0.3 * ((now - line->since) / (double)answers - line->pace);
    line->since = now;
    line->answered += (unsigned long long)answers;
}

PyObject *
line_collect(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    LineObject *line = line_of(op);
    if (errors_check_count("collect", count, 4, 4) < 0) {
        return NULL;
    }
    delivery to = {module_state_of_type(Py_TYPE(op)), args[0], args[1], args[2], args[3], 0, 0};
    theus_pipe done = THEUS_PIPE_DONE;
    int result = 0;
    while (done == THEUS_PIPE_DONE && to.frames == 0 && result == 0) { /* again, if it was a part of a long frame */
        size_t found = 0;
        if ((result = make_room(line)) == 0) {
            done = theus_pipe_read(line->in, line->rest + line->held, line->room - line->held, &found);
            line->held += found;
            if (done == THEUS_PIPE_BROKEN) {
                PyErr_SetFromErrno(PyExc_OSError);
                result = -1;
            }
            else if (found == 0 || line->held < line->room || line->held >= LINE_LONGEST) { /* else there may be more */
                result = take_frames(line, &to);
            }
        }
    }
    if (to.answers > 0) {
        note_pace(line, to.answers);
    }
    return result < 0 ? NULL : PyLong_FromSsize_t(to.frames);
}

PyObject *
line_look(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LineObject *line = line_of(op);
    theus_pipe found = THEUS_PIPE_LATER;
    if (theus_look_pays(&line->look)) {
        Py_BEGIN_ALLOW_THREADS
        found = theus_pipe_look(line->in, &line->look);
        Py_END_ALLOW_THREADS
    }
    return PyBool_FromLong(found == THEUS_PIPE_DONE);
}
