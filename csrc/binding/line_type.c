/* The ends of the wire as objects; line.h says who does what. */
#include "line.h"

#include "errors.h"

#include <string.h>

static PyObject *
os_error(void)
{
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* ---- frames ------------------------------------------------------------------------------------- */

static uint64_t
read_little(const char *at, int bytes)
{
    uint64_t found = 0;
    for (int i = bytes; i-- > 0;) {
        found = found << 8 | (unsigned char)at[i];
    }
    return found;
}

static void
write_little(char *at, int bytes, uint64_t value)
{
    for (int i = 0; i < bytes; i++, value >>= 8) {
        at[i] = (char)(unsigned char)value;
    }
}

bool
line_next(const char **at, const char *end, line_frame *frame)
{
    if (end - *at < LINE_HEADER) {
        return false;
    }
    size_t size = (size_t)read_little(*at, 4);
    if ((size_t)(end - *at) - LINE_HEADER < size) {
        return false;
    }
    *frame = (line_frame){(uint8_t)(*at)[4], read_little(*at + 5, 8), *at + LINE_HEADER, size};
    *at += LINE_HEADER + size;
    return true;
}

PyObject *
line_frame_of(module_state *st, uint8_t kind, uint64_t number, PyObject *value, const codec_way *way)
{
    PyObject *data = codec_write(st, value, way, LINE_HEADER);
    if (data == NULL) {
        return NULL;
    }
    size_t size = (size_t)PyBytes_GET_SIZE(data) - LINE_HEADER;
    if (size > UINT32_MAX && way->buffers == NULL) { /* with buffers, the caller looks at the size */
        Py_DECREF(data);
        PyErr_SetString(PyExc_OverflowError, "a value of 4 GiB is too long for a frame");
        return NULL;
    }
    char *header = PyBytes_AS_STRING(data);
    write_little(header, 4, size);
    header[4] = (char)kind;
    write_little(header + 5, 8, number);
    return data;
}

PyObject *
module_encode_frame(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    codec_way way;
    if (errors_check_count("encode_frame", count, 3, 6) < 0 || codec_way_from(&way, args + 3, count - 3) < 0) {
        return NULL;
    }
    unsigned long kind = PyLong_AsUnsignedLong(args[0]);
    unsigned long long number = PyErr_Occurred() ? 0 : PyLong_AsUnsignedLongLong(args[1]);
    return PyErr_Occurred() ? NULL : line_frame_of(module_state_of(module), (uint8_t)kind, number, args[2], &way);
}

/* ---- the worker's end ------------------------------------------------------------------------------ */

/* Signals wait until the frame is whole: what follows half a frame is lost. */
static theus_pipe
write_all(int fd, const char *data, size_t size)
{
    theus_pipe done = THEUS_PIPE_DONE;
    while (size > 0 && done != THEUS_PIPE_BROKEN) {
        size_t count;
        done = theus_pipe_write(fd, data, size, &count);
        data += count;
        size -= count;
        if (done == THEUS_PIPE_LATER) {
            done = theus_pipe_await(fd, false);
        }
    }
    return done;
}

int
line_answer(LineObject *line, const char *data, size_t size)
{
    int error = 0;
    /* A process that a task has forked: its frames and the worker's would mix, and the lock may be held for ever. */
    if (line->epoch != theus_process_epoch()) {
        return 0;
    }
    Py_BEGIN_ALLOW_THREADS
    (void)PyThread_acquire_lock(line->answering, WAIT_LOCK);
    if (write_all(line->out, data, size) == THEUS_PIPE_BROKEN) {
        error = errno;
    }
    PyThread_release_lock(line->answering);
    Py_END_ALLOW_THREADS
    if (error != 0) {
        errno = error;
        (void)os_error();
        return -1;
    }
    return 0;
}

static PyObject *
line_answer_py(PyObject *op, PyObject *data)
{
    if (!PyBytes_CheckExact(data)) {
        return PyErr_Format(PyExc_TypeError, "answer() takes bytes, not %R", data);
    }
    if (line_answer(line_of(op), PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data)) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- the pool's end ---------------------------------------------------------------------------------- */

static PyObject *
line_send(PyObject *op, PyObject *frames)
{
    char packet[LINE_PACKET];
    size_t size = 0, count;
    if (!PyList_CheckExact(frames)) {
        return PyErr_Format(PyExc_TypeError, "send() takes a list, not %R", frames);
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(frames); i++) {
        PyObject *frame = PyList_GET_ITEM(frames, i);
        if (!PyBytes_CheckExact(frame) || (size_t)PyBytes_GET_SIZE(frame) > LINE_PACKET - size) {
            return PyErr_Format(PyExc_ValueError, "frames of a packet are bytes, %d in all", LINE_PACKET);
        }
        memcpy(packet + size, PyBytes_AS_STRING(frame), (size_t)PyBytes_GET_SIZE(frame));
        size += (size_t)PyBytes_GET_SIZE(frame);
    }
    theus_pipe done = theus_pipe_write(line_of(op)->out, packet, size, &count);
    return done == THEUS_PIPE_BROKEN ? os_error() : PyBool_FromLong(done == THEUS_PIPE_DONE);
}

static PyObject *
line_hang_up(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LineObject *line = line_of(op);
    if (line->out >= 0) {
        theus_pipe_close(line->out);
        line->out = -1;
    }
    Py_RETURN_NONE;
}

static PyObject *
line_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LineObject *line = line_of(op);
    if (line->in >= 0) {
        theus_pipe_close(line->in);
        line->in = -1;
    }
    return line_hang_up(op, NULL);
}

/* ---- the type ------------------------------------------------------------------------------------------ */

static PyObject *
line_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    int in, out;
    double look;
    if (!PyArg_ParseTuple(args, "iid:Line", &in, &out, &look)) {
        return NULL;
    }
    PyThread_type_lock lock = PyThread_allocate_lock();
    if (lock == NULL) {
        return PyErr_NoMemory();
    }
    LineObject *self = PyObject_New(LineObject, type);
    if (self == NULL) {
        PyThread_free_lock(lock);
        return NULL;
    }
    self->in = in;
    self->out = out;
    self->look = (theus_look){.look_ns = look > 0 ? (uint64_t)(look * 1e9) : 0};
    self->answering = lock;
    self->rest = NULL;
    self->held = self->room = 0;
    self->answered = 0;
    self->since = 0.0;
    self->pace = 1.0;
    self->epoch = theus_process_epoch();
    return (PyObject *)self;
}

static void
line_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    LineObject *line = line_of(op);
    if (line->epoch == theus_process_epoch()) { /* a forked child has said what it closes */
        Py_DECREF(line_close(op, NULL));
    }
    PyThread_free_lock(line->answering);
    PyMem_Free(line->rest);
    PyObject_Free(op);
    Py_DECREF(type);
}

static PyObject *
line_reads(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(line_of(op)->in);
}

static PyObject *
line_writes(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(line_of(op)->out);
}

static PyMethodDef line_methods[] = {
    {"send", line_send, METH_O,
     PyDoc_STR("send($self, frames, /)\n--\n\nOne packet with some frames; False if there is no room for it now.")},
    {"post", THEUS_FASTCALL(line_post), METH_FASTCALL,
     PyDoc_STR("post($self, queue, most, sent, packets, /)\n--\n\n"
               "Begins tasks from the front of the deque `queue`, `most` at the most, sends them in one packet, and\n"
               "moves them to the end of the deque `sent`; their number goes to the end of `packets`. How many:\n"
               "0 if there is no room for a packet now, -1 if the first one does not begin: it was cancelled.")},
    {"collect", THEUS_FASTCALL(line_collect), METH_FASTCALL,
     PyDoc_STR("collect($self, sender, sent, packets, arrived, /)\n--\n\n"
               "Appends (sender, task, kind, body) for each frame that is there to the deque `arrived`. The task of an\n"
               "answer is the first of `sent`, and leaves it; an answer to another one is dropped; the task of a frame\n"
               "that is no answer is None. It does not wait for the rest of a frame. How many frames there were.")},
    {"look", line_look, METH_NOARGS,
     PyDoc_STR("look($self, /)\n--\n\n"
               "Waits a moment for something to read, if that pays. False: there was nothing.")},
    {"answer", line_answer_py, METH_O, PyDoc_STR("answer($self, data, /)\n--\n\nWrites a whole frame, waiting for room.")},
    {"serve", line_serve, METH_O, PyDoc_STR("serve($self, desk, /)\n--\n\nRuns tasks until the other side hangs up; see theus.pools.worker.")},
    {"hang_up", line_hang_up, METH_NOARGS, PyDoc_STR("hang_up($self, /)\n--\n\nNothing more is sent: the other side sees the end.")},
    {"close", line_close, METH_NOARGS, PyDoc_STR("close($self, /)\n--\n\nCloses both descriptors.")},
    {0},
};

static PyGetSetDef line_getset[] = {
    {"reads", line_reads, NULL, PyDoc_STR("The descriptor that it reads from; -1 when it is closed."), NULL},
    {"writes", line_writes, NULL, PyDoc_STR("The descriptor that it writes to; -1 when it is closed."), NULL},
    {0},
};

static PyMemberDef line_members[] = {
    {"answered", T_ULONGLONG, offsetof(LineObject, answered), READONLY, PyDoc_STR("Tasks whose answers were collected.")},
    {"since", T_DOUBLE, offsetof(LineObject, since), 0,
     PyDoc_STR("When the worker came to the first task of `sent`, as far as we can know, by time.monotonic().")},
    {"pace", T_DOUBLE, offsetof(LineObject, pace), 0,
     PyDoc_STR("Seconds that its last tasks took, newer ones counting more.")},
    {0},
};

static PyType_Slot line_slots[] = {
    {Py_tp_doc, "Line(reads, writes, look, /)\n--\n\n"
                "One end of the wire between a process pool and a worker; takes over two descriptors, of which the\n"
                "first does not block. Before it sleeps it looks for `look` seconds."},
    {Py_tp_new, line_new},
    {Py_tp_dealloc, line_dealloc},
    {Py_tp_methods, line_methods},
    {Py_tp_getset, line_getset},
    {Py_tp_members, line_members},
    {0, NULL},
};

static PyType_Spec line_spec = {
    .name = "theus._theus.Line",
    .basicsize = sizeof(LineObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = line_slots,
};

int
add_line_type(PyObject *module, module_state *st)
{
    if (line_intern_names(st) < 0) {
        return -1;
    }
    return module_add_type(module, &line_spec, &st->Line_type);
}
