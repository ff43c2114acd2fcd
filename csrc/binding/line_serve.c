/* What a worker process does all day: read a packet, run its tasks, write each result at once. */
#include "line.h"

#include "errors.h"

#include <string.h>

/* What a worker calls of Python, as attributes of its desk:
 *
 *     restore(code, content), extend(part)   for decode and encode
 *     resolve(name)                          the function of a task by its name
 *     run(kind, number, body)                does with any other frame what there is to do
 *     fail(number, error)                    answers a task with what it has raised
 *     unreadable(number, error)              answers one whose call could not be decoded
 *     enclose(number, data, buffers)         answers with a value that does not go through the pipe in one piece
 *     large                                  bytes from which on a buffer goes beside the value */
#define DESK_FIELDS(X) X(restore) X(extend) X(resolve) X(run) X(fail) X(unreadable) X(enclose)

typedef struct {
    module_state *st;
    Py_ssize_t large;
#define DESK_MEMBER(name) PyObject *name;
    DESK_FIELDS(DESK_MEMBER)
#undef DESK_MEMBER
} theus_desk;

static void
desk_close(theus_desk *desk)
{
#define DESK_CLEAR(name) Py_CLEAR(desk->name);
    DESK_FIELDS(DESK_CLEAR)
#undef DESK_CLEAR
}

static int
desk_open(theus_desk *desk, module_state *st, PyObject *object)
{
    *desk = (theus_desk){.st = st};
#define DESK_GET(name)                                                                   \
    if ((desk->name = PyObject_GetAttrString(object, #name)) == NULL) {                  \
        return -1;                                                                       \
    }
    DESK_FIELDS(DESK_GET)
#undef DESK_GET
    PyObject *large = PyObject_GetAttrString(object, "large");
    desk->large = large == NULL ? -1 : PyLong_AsSsize_t(large);
    Py_XDECREF(large);
    return PyErr_Occurred() ? -1 : 0;
}

/* Tells Python about a task, with the exception that is set. 0, or -1 with another one set. */
static int
tell(PyObject *method, uint64_t number)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *told = PyObject_CallFunction(method, "KO", (unsigned long long)number, error);
    Py_DECREF(error);
    Py_XDECREF(told);
    return told == NULL ? -1 : 0;
}

/* The value of a call, (name or [callable], args, kwargs); it steals the reference to it. NULL with the task's exception. */
static PyObject *
called(const theus_desk *desk, PyObject *call)
{
    PyObject *name, *args, *kwargs, *function, *value;
    if (!PyArg_ParseTuple(call, "OO!O!:call", &name, &PyTuple_Type, &args, &PyDict_Type, &kwargs)) {
        Py_DECREF(call);
        return NULL;
    }
    function = PyTuple_CheckExact(name) ? PyObject_CallOneArg(desk->resolve, name) : PySequence_GetItem(name, 0);
    value = function == NULL ? NULL : PyObject_Call(function, args, kwargs);
    Py_XDECREF(function);
    Py_DECREF(call); /* before the value travels: a __del__ of an argument runs in its task */
    return value;
}

/* Writes the value of a task. 0, or -1 with an exception set: of the pipe, then *sent, or because it cannot travel. */
static int
send_value(LineObject *line, const theus_desk *desk, uint64_t number, PyObject *value, bool *sent)
{
    int result = -1;
    PyObject *buffers = PyList_New(0);
    codec_way way = {desk->extend, buffers, desk->large};
    PyObject *data = buffers == NULL ? NULL : line_frame_of(desk->st, LINE_VALUE, number, value, &way);
    if (data != NULL && PyList_GET_SIZE(buffers) == 0 && PyBytes_GET_SIZE(data) <= LINE_LONGEST) {
        *sent = true;
        result = line_answer(line, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data));
    }
    else if (data != NULL) {
        PyObject *done = PyObject_CallFunction(desk->enclose, "KOO", (unsigned long long)number, data, buffers);
        result = done == NULL ? -1 : 0;
        Py_XDECREF(done);
    }
    Py_XDECREF(data);
    Py_XDECREF(buffers);
    return result;
}

static int
run_call(LineObject *line, const theus_desk *desk, const line_frame *frame)
{
    uint64_t number = frame->number;
    PyObject *call = codec_read(desk->st, frame->body, frame->size, desk->restore, NULL);
    if (call == NULL) {
        return tell(desk->unreadable, number);
    }
    PyObject *value = called(desk, call);
    if (value == NULL) {
        return tell(desk->fail, number);
    }
    bool sent = false;
    int result = send_value(line, desk, number, value, &sent);
    if (result < 0 && !sent && PyErr_ExceptionMatches(PyExc_Exception)) {
        result = tell(desk->fail, number);
    }
    Py_DECREF(value);
    return result;
}

static int
run_packet(LineObject *line, const theus_desk *desk, const char *packet, size_t size)
{
    const char *at = packet, *end = packet + size;
    line_frame frame;
    while (line_next(&at, end, &frame)) {
        if (frame.kind == LINE_CALL) {
            if (run_call(line, desk, &frame) < 0) {
                return -1;
            }
            continue;
        }
        PyObject *done = PyObject_CallFunction(desk->run, "iKy#", (int)frame.kind, (unsigned long long)frame.number,
                                               frame.body, (Py_ssize_t)frame.size);
        if (done == NULL) {
            return -1;
        }
        Py_DECREF(done);
    }
    return 0;
}

PyObject *
line_serve(PyObject *op, PyObject *object)
{
    LineObject *line = (LineObject *)op;
    theus_desk desk;
    char packet[LINE_PACKET];
    theus_pipe found = THEUS_PIPE_LATER;
    int running = desk_open(&desk, module_state_of_type(Py_TYPE(op)), object);
    while (running == 0 && found != THEUS_PIPE_END) {
        size_t size;
        found = theus_pipe_read(line->in, packet, sizeof(packet), &size);
        if (found == THEUS_PIPE_LATER) {
            Py_BEGIN_ALLOW_THREADS
            found = theus_look_pays(&line->look) ? theus_pipe_look(line->in, &line->look) : THEUS_PIPE_LATER;
            if (found == THEUS_PIPE_LATER) {
                found = theus_pipe_await(line->in, true);
            }
            Py_END_ALLOW_THREADS
        }
        if (found == THEUS_PIPE_BROKEN) {
            PyErr_SetFromErrno(PyExc_OSError);
            running = -1;
        }
        else {
            running = size > 0 ? run_packet(line, &desk, packet, size) : PyErr_CheckSignals();
        }
    }
    desk_close(&desk);
    if (running < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
