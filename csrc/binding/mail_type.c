/* theus._theus.Mailbox, Letter: bytes between interpreters. core/mailbox.h says how. */
#include "mail_type.h"

#include "errors.h"

#include <string.h>

enum {
    COPIED = 16 * 1024,   /* up to here a body is copied into bytes: cheaper than a view and its owner */
    AT_ONCE = 64,         /* letters that take() gives in one go, so that the first of them need not wait for long */
    PARTS_ON_STACK = 16,
};

/* Python's signal handlers run in the thread that waits, and nothing else wakes it for them: so it looks up in between. */
static const uint64_t signal_ns = 50 * 1000 * 1000;

/* ---- letters --------------------------------------------------------------------------------- */

/* What the sender keeps, to call it back; or whose memory the receiver's views lie in. */
typedef struct {
    PyObject_HEAD
    theus_letter *letter; /* a reference */
} LetterObject;

static PyObject *
letter_object(module_state *st, theus_letter *letter) /* takes over the reference, also if it fails */
{
    LetterObject *self = PyObject_New(LetterObject, st->Letter_type);
    if (self == NULL) {
        theus_letter_release(letter);
        return NULL;
    }
    self->letter = letter;
    return (PyObject *)self;
}

static void
letter_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    theus_letter_release(((LetterObject *)op)->letter);
    PyObject_Free(op);
    Py_DECREF(type);
}

static PyObject *
letter_recall(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(theus_letter_recall(((LetterObject *)op)->letter));
}

static PyObject *
letter_recalled(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(theus_letter_place_of(((LetterObject *)op)->letter) == THEUS_LETTER_RECALLED);
}

static PyObject *
letter_taken(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(theus_letter_place_of(((LetterObject *)op)->letter) == THEUS_LETTER_TAKEN);
}

/* All parts in one piece: the views of parts are slices of it. Nobody but the taker sees the content. */
static int
letter_get_buffer(PyObject *op, Py_buffer *view, int flags)
{
    theus_letter *letter = ((LetterObject *)op)->letter;
    if (theus_letter_place_of(letter) != THEUS_LETTER_TAKEN || letter->parts == 0) {
        PyErr_SetString(PyExc_BufferError, "a letter shows its content to the one who has taken it");
        view->obj = NULL;
        return -1;
    }
    char *first = letter->part[0].content;
    size_t last = letter->parts - 1;
    size_t size = (size_t)(letter->part[last].content + letter->part[last].size - first);
    return PyBuffer_FillInfo(view, op, first, (Py_ssize_t)size, 0, flags);
}

static PyMethodDef letter_methods[] = {
    {"recall", letter_recall, METH_NOARGS,
     PyDoc_STR("recall($self, /)\n--\n\nTrue if nobody has taken it: then nobody will. True only once.")},
    {0},
};

static PyGetSetDef letter_getset[] = {
    {"taken", letter_taken, NULL, PyDoc_STR("Whether somebody has taken it."), NULL},
    {"recalled", letter_recalled, NULL, PyDoc_STR("Whether somebody has called it back."), NULL},
    {0},
};

static PyType_Slot letter_slots[] = {
    {Py_tp_doc, "A letter that was posted."},
    {Py_tp_dealloc, letter_dealloc},
    {Py_tp_methods, letter_methods},
    {Py_tp_getset, letter_getset},
    {Py_bf_getbuffer, letter_get_buffer},
    {0, NULL},
};

static PyType_Spec letter_spec = {
    .name = "theus._theus.Letter",
    .basicsize = sizeof(LetterObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = letter_slots,
};

static PyObject *
part_of(PyObject *whole, const theus_letter *letter, uint32_t index)
{
    Py_ssize_t at = letter->part[index].content - letter->part[0].content;
    return PySequence_GetSlice(whole, at, at + (Py_ssize_t)letter->part[index].size);
}

PyObject *
letter_content(module_state *st, theus_letter *letter)
{
    PyObject *object = NULL, *whole = NULL, *body = NULL, *buffers = NULL, *result = NULL;
    if (letter->parts == 1 && letter->part[0].size <= COPIED) {
        result = Py_BuildValue("(IKy#O)", (unsigned)letter->kind, (unsigned long long)letter->number,
                               letter->part[0].content, (Py_ssize_t)letter->part[0].size, Py_None);
        theus_letter_release(letter);
        return result;
    }
    object = letter_object(st, letter);
    whole = object == NULL ? NULL : PyMemoryView_FromObject(object);
    body = whole == NULL ? NULL : part_of(whole, letter, 0);
    buffers = body == NULL ? NULL : PyTuple_New(letter->parts - 1);
    if (buffers == NULL) {
        goto done;
    }
    for (uint32_t i = 1; i < letter->parts; i++) {
        PyObject *part = part_of(whole, letter, i);
        if (part == NULL) {
            goto done;
        }
        PyTuple_SET_ITEM(buffers, i - 1, part);
    }
    result = Py_BuildValue("(IKOO)", (unsigned)letter->kind, (unsigned long long)letter->number, body, buffers);
done:
    Py_XDECREF(object);
    Py_XDECREF(whole);
    Py_XDECREF(body);
    Py_XDECREF(buffers);
    return result;
}

/* ---- boxes -------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    theus_mailbox *box; /* a reference */
} MailboxObject;

static theus_mailbox *
box_of(PyObject *op)
{
    return ((MailboxObject *)op)->box;
}

PyObject *
mailbox_object(module_state *st, theus_mailbox *box)
{
    MailboxObject *self = PyObject_New(MailboxObject, st->Mailbox_type);
    if (self != NULL) {
        theus_mailbox_retain(box);
        self->box = box;
    }
    return (PyObject *)self;
}

theus_mailbox *
mailbox_of(const module_state *st, PyObject *object)
{
    if (Py_TYPE(object) != st->Mailbox_type) {
        PyErr_Format(PyExc_TypeError, "a Mailbox is needed, not %R", object);
        return NULL;
    }
    return box_of(object);
}

static PyObject *
box_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    module_state *st = module_state_of_type(type);
    double spin = 0;
    if (!PyArg_ParseTuple(args, "|d:Mailbox", &spin)) {
        return NULL;
    }
    theus_mailbox *box;
    theus_status status = theus_mailbox_new(spin > 0 ? (uint64_t)(spin * 1e9) : 0, &box);
    if (status != THEUS_OK) {
        return errors_raise(st, status);
    }
    PyObject *self = mailbox_object(st, box);
    theus_mailbox_release(box);
    return self;
}

static void
box_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    theus_mailbox_release(box_of(op));
    PyObject_Free(op);
    Py_DECREF(type);
}

/* A letter with copies of the contents of `count` buffers. */
static theus_letter *
letter_from(uint32_t kind, uint64_t number, PyObject *const *sources, size_t count)
{
    Py_buffer on_stack[PARTS_ON_STACK], *views = on_stack;
    size_t sizes_on_stack[PARTS_ON_STACK] = {0}, *sizes = sizes_on_stack;
    theus_letter *letter = NULL;
    size_t open = 0;
    if (count > PARTS_ON_STACK) {
        views = PyMem_New(Py_buffer, count);
        sizes = PyMem_New(size_t, count);
        if (views == NULL || sizes == NULL) {
            PyErr_NoMemory();
            goto done;
        }
    }
    for (; open < count; open++) {
        if (PyObject_GetBuffer(sources[open], &views[open], PyBUF_FULL_RO) < 0) {
            goto done;
        }
        sizes[open] = (size_t)views[open].len;
    }
    letter = theus_letter_new(kind, number, (uint32_t)count, sizes);
    if (letter == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        if (PyBuffer_ToContiguous(letter->part[i].content, &views[i], views[i].len, 'C') < 0) {
            theus_letter_release(letter);
            letter = NULL;
            goto done;
        }
    }
done:
    while (open > 0) {
        PyBuffer_Release(&views[--open]);
    }
    if (views != on_stack) {
        PyMem_Free(views);
    }
    if (sizes != sizes_on_stack) {
        PyMem_Free(sizes);
    }
    return letter;
}

static PyObject *
box_post(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    module_state *st = module_state_of_type(Py_TYPE(op));
    if (errors_check_count("post", count, 3, 4) < 0) {
        return NULL;
    }
    unsigned long kind = PyLong_AsUnsignedLong(args[0]);
    unsigned long long number = kind == (unsigned long)-1 && PyErr_Occurred() ? 0 : PyLong_AsUnsignedLongLong(args[1]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    theus_letter *letter;
    if (count == 3 || args[3] == Py_None || (PyList_CheckExact(args[3]) && PyList_GET_SIZE(args[3]) == 0)) {
        letter = letter_from((uint32_t)kind, number, &args[2], 1);
    }
    else {
        PyObject *parts = PySequence_List(args[3]); /* of our own: nobody changes it meanwhile */
        if (parts == NULL || PyList_Insert(parts, 0, args[2]) < 0) {
            Py_XDECREF(parts);
            return NULL;
        }
        letter = letter_from((uint32_t)kind, number, ((PyListObject *)parts)->ob_item,
                             (size_t)PyList_GET_SIZE(parts));
        Py_DECREF(parts);
    }
    if (letter == NULL) {
        return NULL;
    }
    theus_letter_retain(letter);
    PyObject *posted = letter_object(st, letter);
    if (posted == NULL) {
        theus_letter_release(letter);
        return NULL;
    }
    theus_mailbox_post(box_of(op), letter);
    return posted;
}

/* Seconds as nanoseconds; None is without an end. 0, or -1 with an exception set. */
static int
nanoseconds(PyObject *object, uint64_t *ns)
{
    if (object == Py_None) {
        *ns = UINT64_MAX;
        return 0;
    }
    double seconds = PyFloat_AsDouble(object);
    if (seconds == -1 && PyErr_Occurred()) {
        return -1;
    }
    *ns = !(seconds > 0) ? 0 : seconds >= 1e9 ? UINT64_MAX : (uint64_t)(seconds * 1e9);
    return 0;
}

/* Adds what is in a letter to a list. If there is no memory for that, it lies in the box again. */
static int
add_content(module_state *st, PyObject *found, theus_mailbox *box, theus_letter *letter)
{
    theus_letter_retain(letter);
    PyObject *content = letter_content(st, letter);
    if (content != NULL && PyList_Append(found, content) == 0) {
        Py_DECREF(content);
        theus_letter_release(letter);
        return 0;
    }
    Py_XDECREF(content);
    theus_mailbox_return(box, letter);
    return -1;
}

/* Appends to a list of the caller, not to one that it returns: an exception of a signal handler would drop that on its way. */
static PyObject *
box_take(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    module_state *st = module_state_of_type(Py_TYPE(op));
    theus_mailbox *box = box_of(op);
    uint64_t left;
    if (errors_check_count("take", count, 2, 2) < 0 || nanoseconds(args[1], &left) < 0) {
        return NULL;
    }
    if (!PyList_CheckExact(args[0])) {
        return PyErr_Format(PyExc_TypeError, "take() appends to a list, not to %R", args[0]);
    }
    theus_letter *letter = NULL;
    theus_take took = theus_mailbox_take(box, 0, &letter);
    while (took == THEUS_TAKE_NOTHING && left > 0) {
        uint64_t slice = left < signal_ns ? left : signal_ns, begun = theus_clock_fine_ns();
        Py_BEGIN_ALLOW_THREADS
        took = theus_mailbox_take(box, slice, &letter);
        Py_END_ALLOW_THREADS
        uint64_t past = theus_clock_fine_ns() - begun;
        left = left == UINT64_MAX ? left : past < left ? left - past : 0;
        if (took == THEUS_TAKE_NOTHING && PyErr_CheckSignals() < 0) {
            return NULL;
        }
    }
    for (int taken = 1; took == THEUS_TAKE_LETTER; taken++) {
        if (add_content(st, args[0], box, letter) < 0) {
            return NULL;
        }
        took = taken < AT_ONCE ? theus_mailbox_take(box, 0, &letter) : THEUS_TAKE_NOTHING;
    }
    Py_RETURN_NONE;
}

static PyObject *
box_watch(PyObject *op, PyObject *timeout)
{
    uint64_t left;
    if (nanoseconds(timeout, &left) < 0) {
        return NULL;
    }
    bool called;
    Py_BEGIN_ALLOW_THREADS
    called = theus_mailbox_watch(box_of(op), left);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(called);
}

static PyObject *
box_attend(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    theus_mailbox_attend(box_of(op));
    Py_RETURN_NONE;
}

static PyObject *
box_leave(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    theus_mailbox_leave(box_of(op));
    Py_RETURN_NONE;
}

static PyObject *
box_open(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    theus_mailbox_set(box_of(op), THEUS_BOX_OPEN);
    Py_RETURN_NONE;
}

static PyObject *
box_drain(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    theus_mailbox_set(box_of(op), THEUS_BOX_DRAINING);
    Py_RETURN_NONE;
}

static PyObject *
box_hold(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    theus_mailbox_set(box_of(op), THEUS_BOX_HELD);
    Py_RETURN_NONE;
}

static PyObject *
box_ring(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    theus_mailbox_ring(box_of(op));
    Py_RETURN_NONE;
}

static PyObject *
box_empty(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    theus_letter *letter = theus_mailbox_empty(box_of(op));
    Py_ssize_t count = 0;
    while (letter != NULL) {
        theus_letter *next = letter->next;
        theus_letter_release(letter);
        letter = next;
        count++;
    }
    return PyLong_FromSsize_t(count);
}

static PyObject *
box_waiting(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(atomic_load_explicit(&box_of(op)->waiting, memory_order_acquire));
}

static PyMethodDef box_methods[] = {
    {"post", THEUS_FASTCALL(box_post), METH_FASTCALL,
     PyDoc_STR("post($self, kind, number, body, buffers=None, /)\n--\n\n"
               "Copies a body, and a list of buffers, into a Letter that the next taker gets.")},
    {"take", THEUS_FASTCALL(box_take), METH_FASTCALL,
     PyDoc_STR("take($self, found, timeout, /)\n--\n\n"
               "Appends (kind, number, body, buffers) of some letters to the list `found`: none if the\n"
               "time (in seconds; None: no limit) has passed, somebody rang, or the box is not open.")},
    {"watch", box_watch, METH_O,
     PyDoc_STR("watch($self, timeout, /)\n--\n\n"
               "True once there are letters and nobody attends; False if the time has passed, or somebody rang.")},
    {"attend", box_attend, METH_NOARGS, PyDoc_STR("attend($self, /)\n--\n\nUntil leave(), watch() sleeps: the caller sees to the letters.")},
    {"leave", box_leave, METH_NOARGS, PyDoc_STR("leave($self, /)\n--\n\nEnds one attend().")},
    {"open", box_open, METH_NOARGS, PyDoc_STR("open($self, /)\n--\n\nTakers get letters, as in a new box.")},
    {"drain", box_drain, METH_NOARGS, PyDoc_STR("drain($self, /)\n--\n\nTakers get what is there, and then go.")},
    {"hold", box_hold, METH_NOARGS, PyDoc_STR("hold($self, /)\n--\n\nTakers go at once; what is there stays.")},
    {"ring", box_ring, METH_NOARGS, PyDoc_STR("ring($self, /)\n--\n\nWho takes, and who watches, looks up: now, or when it next would wait.")},
    {"empty", box_empty, METH_NOARGS, PyDoc_STR("empty($self, /)\n--\n\nDrops all letters; how many there were.")},
    {0},
};

static PyGetSetDef box_getset[] = {
    {"waiting", box_waiting, NULL, PyDoc_STR("The number of letters, with those that were called back and not passed yet."), NULL},
    {0},
};

static PyType_Slot box_slots[] = {
    {Py_tp_doc, "Mailbox(spin=0.0, /)\n--\n\n"
                "Letters between the interpreters of this process. A taker looks for `spin` seconds before it sleeps,\n"
                "if that pays."},
    {Py_tp_new, box_new},
    {Py_tp_dealloc, box_dealloc},
    {Py_tp_methods, box_methods},
    {Py_tp_getset, box_getset},
    {0, NULL},
};

static PyType_Spec box_spec = {
    .name = "theus._theus.Mailbox",
    .basicsize = sizeof(MailboxObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = box_slots,
};

int
add_mail_types(PyObject *module, module_state *st)
{
    if (module_add_type(module, &letter_spec, &st->Letter_type) < 0) {
        return -1;
    }
    return module_add_type(module, &box_spec, &st->Mailbox_type);
}
