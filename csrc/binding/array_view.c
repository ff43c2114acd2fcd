/* ArrayView: making one, its buffer, its facts, its type. */
#include "array_view.h"

#include <stddef.h>

ArrayView *
array_view_new(PyTypeObject *type, PyObject *memory, const array_format *format, char *data, int ndim,
               const Py_ssize_t *shape, const Py_ssize_t *strides)
{
    ArrayView *self = (ArrayView *)type->tp_alloc(type, 2 * ndim);
    if (self != NULL) {
        self->memory = Py_NewRef(memory);
        self->format = format;
        self->data = data;
        self->ndim = ndim;
        self->readonly = PyMemoryView_GET_BUFFER(memory)->readonly != 0;
        for (int i = 0; i < ndim; i++) {
            self->dims[i] = shape[i];
            self->dims[ndim + i] = strides[i];
        }
    }
    return self;
}

bool
array_extent(int ndim, const Py_ssize_t *shape, const Py_ssize_t *strides, Py_ssize_t itemsize, int64_t *low,
             int64_t *high)
{
    bool empty = false, good = true;
    *low = *high = 0;
    for (int i = 0; i < ndim; i++) {
        int64_t reach, *end;
        empty = empty || shape[i] == 0;
        good = good && !__builtin_mul_overflow((int64_t)shape[i] - 1, (int64_t)strides[i], &reach);
        if (good) {
            end = reach < 0 ? low : high;
            good = !__builtin_add_overflow(*end, reach, end);
        }
    }
    good = good && !__builtin_add_overflow(*high, (int64_t)itemsize, high);
    if (empty) {
        *low = *high = 0;
    }
    return good;
}

/* Elements, or -1 if there are more than can be counted. */
static Py_ssize_t
element_count(int ndim, const Py_ssize_t *shape)
{
    Py_ssize_t count = 1;
    bool too_many = false;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] == 0) {
            return 0;
        }
        too_many = too_many || __builtin_mul_overflow(count, shape[i], &count);
    }
    return too_many ? -1 : count;
}

/* ---- making one --------------------------------------------------------------------------------- */

/* A tuple of ints, or one int, as `count` numbers; -1 with an exception. */
static int
read_numbers(PyObject *given, const char *what, Py_ssize_t *numbers)
{
    if (PyLong_Check(given)) {
        numbers[0] = PyLong_AsSsize_t(given);
        return numbers[0] == -1 && PyErr_Occurred() ? -1 : 1;
    }
    if (!PyTuple_Check(given) || PyTuple_GET_SIZE(given) > THEUS_DIMS_MAX) {
        PyErr_Format(PyExc_TypeError, "%s is a tuple of at most %d ints, not %.100R", what, THEUS_DIMS_MAX, given);
        return -1;
    }
    int count = (int)PyTuple_GET_SIZE(given);
    for (int i = 0; i < count; i++) {
        numbers[i] = PyNumber_AsSsize_t(PyTuple_GET_ITEM(given, i), PyExc_OverflowError);
        if (numbers[i] == -1 && PyErr_Occurred()) {
            return -1;
        }
    }
    return count;
}

/* Strides of elements that lie side by side; false if there are too many. */
static bool
packed_strides(int ndim, const Py_ssize_t *shape, Py_ssize_t itemsize, Py_ssize_t *strides)
{
    Py_ssize_t step = itemsize;
    for (int i = ndim - 1; i >= 0; i--) {
        strides[i] = step;
        if (__builtin_mul_overflow(step, shape[i] > 0 ? shape[i] : 1, &step)) {
            return false;
        }
    }
    return true;
}

/* What is wrong with a shape, an offset and strides in a memory of so many bytes; NULL: nothing. */
static const char *
misfit(Py_ssize_t size, Py_ssize_t itemsize, int ndim, const Py_ssize_t *shape, Py_ssize_t offset, int given,
       Py_ssize_t *strides)
{
    int64_t low, high;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0) {
            return "no axis is shorter than 0";
        }
    }
    if (given >= 0 && given != ndim) {
        return "there is one stride for each axis";
    }
    if (element_count(ndim, shape) < 0 || (given < 0 && !packed_strides(ndim, shape, itemsize, strides))) {
        return "there are too many elements";
    }
    bool good = array_extent(ndim, shape, strides, itemsize, &low, &high);
    if (!good || offset < 0 || offset > size || low < -offset || high > size - offset) {
        return "it would reach beyond the memory";
    }
    return NULL;
}

static PyObject *
view_make(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"buffer", "shape", "format", "offset", "strides", NULL};
    PyObject *buffer, *shape_given, *strides_given = Py_None;
    const char *format_name;
    Py_ssize_t offset = 0, shape[THEUS_DIMS_MAX], strides[THEUS_DIMS_MAX];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOs|nO:ArrayView", names, &buffer, &shape_given, &format_name,
                                     &offset, &strides_given)) {
        return NULL;
    }
    const array_format *format = array_format_find(format_name);
    if (format == NULL) {
        PyErr_Format(PyExc_TypeError, "an ArrayView holds no elements of format '%.50s'; give numbers of this machine, or "
                     "work on such arrays with NumPy, in a process", format_name);
        return NULL;
    }
    int ndim = read_numbers(shape_given, "shape", shape);
    int given = ndim < 0 || strides_given == Py_None ? -1 : read_numbers(strides_given, "strides", strides);
    if (ndim < 0 || PyErr_Occurred()) {
        return NULL;
    }
    PyObject *memory = PyMemoryView_FromObject(buffer);
    if (memory == NULL) {
        return NULL;
    }
    ArrayView *self = NULL;
    const Py_buffer *all = PyMemoryView_GET_BUFFER(memory);
    const char *wrong = PyBuffer_IsContiguous(all, 'C')
                            ? misfit(all->len, format->size, ndim, shape, offset, given, strides)
                            : "its memory is not in one piece";
    if (wrong != NULL) {
        PyErr_Format(PyExc_ValueError, "no array of %s with shape %R, offset %zd and strides %R lies in %zd bytes: %s",
                     format->name, shape_given, offset, strides_given, all->len, wrong);
    }
    else {
        self = array_view_new(type, memory, format, (char *)all->buf + offset, ndim, shape, strides);
    }
    Py_DECREF(memory);
    return (PyObject *)self;
}

static int
view_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(view_of(op)->memory);
    return 0;
}

static void
view_dealloc(PyObject *op)
{
    ArrayView *self = view_of(op);
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    THEUS_CLEAR_WEAKREFS(op, self->weakrefs);
    Py_XDECREF(self->memory);
    type->tp_free(op);
    Py_DECREF(type);
}

/* ---- the buffer ----------------------------------------------------------------------------------- */

/* Whether all elements lie side by side, the last axis (C) or the first one (Fortran) innermost. */
static bool
is_packed(const ArrayView *self, bool fortran)
{
    Py_ssize_t step = self->format->size;
    for (int k = 0; k < self->ndim; k++) {
        int i = fortran ? k : self->ndim - 1 - k;
        if (self->dims[i] == 0) {
            return true;
        }
        if (self->dims[i] != 1 && strides_of(self)[i] != step) {
            return false;
        }
        step *= self->dims[i];
    }
    return true;
}

static int
view_get_buffer(PyObject *op, Py_buffer *view, int flags)
{
    ArrayView *self = view_of(op);
    const char *refused = NULL;
    bool in_order = is_packed(self, false);
    view->obj = NULL;
    if ((flags & PyBUF_WRITABLE) == PyBUF_WRITABLE && self->readonly) {
        refused = "this array is read-only; cow() gives one that can be written";
    }
    else if (((flags & PyBUF_STRIDES) != PyBUF_STRIDES || (flags & PyBUF_C_CONTIGUOUS) == PyBUF_C_CONTIGUOUS)
             && !in_order) {
        refused = "the elements of this array do not lie side by side; tobytes() copies them together";
    }
    else if ((flags & PyBUF_F_CONTIGUOUS) == PyBUF_F_CONTIGUOUS && !is_packed(self, true)) {
        refused = "this array is not in Fortran's order";
    }
    else if ((flags & PyBUF_ANY_CONTIGUOUS) == PyBUF_ANY_CONTIGUOUS && !in_order && !is_packed(self, true)) {
        refused = "the elements of this array do not lie side by side; tobytes() copies them together";
    }
    if (refused != NULL) {
        PyErr_SetString(PyExc_BufferError, refused);
        return -1;
    }
    view->obj = Py_NewRef(op);
    view->buf = self->data;
    view->itemsize = self->format->size;
    view->len = element_count(self->ndim, self->dims) * view->itemsize;
    view->readonly = self->readonly;
    view->ndim = (flags & PyBUF_ND) == PyBUF_ND ? self->ndim : 1;
    view->format = (flags & PyBUF_FORMAT) == PyBUF_FORMAT ? (char *)self->format->format : NULL;
    bool has_axes = self->ndim > 0; /* without any, the protocol has neither shape nor strides */
    view->shape = has_axes && (flags & PyBUF_ND) == PyBUF_ND ? self->dims : NULL;
    view->strides = has_axes && (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? self->dims + self->ndim : NULL;
    view->suboffsets = NULL;
    view->internal = NULL;
    return 0;
}

static PyObject *
view_tobytes(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBytes_FromObject(op);
}

/* ---- what Python adds ------------------------------------------------------------------------------------- */

/* theus.array_view.<name>(view) */
static PyObject *
call_python(PyObject *op, const char *name)
{
    PyObject *module = PyImport_ImportModule("theus.array_view");
    PyObject *result = module == NULL ? NULL : PyObject_CallMethod(module, name, "O", op);
    Py_XDECREF(module);
    return result;
}

static PyObject *
view_info(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return call_python(op, "about");
}

static PyObject *
view_cow(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return call_python(op, "writable_copy");
}

static PyObject *
view_published(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return call_python(op, "published");
}

static PyObject *
view_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return call_python(op, "reduced");
}

/* ---- facts ---------------------------------------------------------------------------------------------- */

static PyObject *
tuple_of(int count, const Py_ssize_t *numbers)
{
    PyObject *tuple = PyTuple_New(count);
    for (int i = 0; tuple != NULL && i < count; i++) {
        PyObject *number = PyLong_FromSsize_t(numbers[i]);
        if (number == NULL) {
            Py_CLEAR(tuple);
        }
        else {
            PyTuple_SET_ITEM(tuple, i, number);
        }
    }
    return tuple;
}

static PyObject *
view_shape(PyObject *op, void *Py_UNUSED(closure))
{
    return tuple_of(view_of(op)->ndim, view_of(op)->dims);
}

static PyObject *
view_strides(PyObject *op, void *Py_UNUSED(closure))
{
    return tuple_of(view_of(op)->ndim, strides_of(view_of(op)));
}

static PyObject *
view_format(PyObject *op, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(view_of(op)->format->format);
}

static PyObject *
view_dtype(PyObject *op, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(view_of(op)->format->name);
}

static PyObject *
view_itemsize(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(view_of(op)->format->size);
}

static PyObject *
view_ndim(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(view_of(op)->ndim);
}

static PyObject *
view_size(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(element_count(view_of(op)->ndim, view_of(op)->dims));
}

static PyObject *
view_nbytes(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(element_count(view_of(op)->ndim, view_of(op)->dims) * view_of(op)->format->size);
}

static PyObject *
view_readonly(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(view_of(op)->readonly);
}

static PyObject *
view_address(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromVoidPtr(view_of(op)->data);
}

static PyObject *
view_base(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(PyMemoryView_GET_BASE(view_of(op)->memory));
}

static PyObject *
view_repr(PyObject *op)
{
    PyObject *shape = view_shape(op, NULL);
    PyObject *text = shape == NULL ? NULL
                                   : PyUnicode_FromFormat("<ArrayView: %s %R%s>", view_of(op)->format->name, shape,
                                                          view_of(op)->readonly ? ", read-only" : "");
    Py_XDECREF(shape);
    return text;
}

static PyMethodDef view_methods[] = {
    {"tolist", array_view_tolist, METH_NOARGS, PyDoc_STR("tolist($self, /)\n--\n\nThe numbers, in lists of lists.")},
    {"tobytes", view_tobytes, METH_NOARGS, PyDoc_STR("tobytes($self, /)\n--\n\nThe elements side by side, the last axis innermost.")},
    {"info", view_info, METH_NOARGS,
     PyDoc_STR("info($self, /)\n--\n\nWhere the data are, as ShmArray.info() says it.")},
    {"cow", view_cow, METH_NOARGS,
     PyDoc_STR("cow($self, /)\n--\n\nThe same content, writable: pages that are written become this process's own.\n"
               "Raises ValueError if the data do not lie in shared memory.")},
    {"_published", view_published, METH_NOARGS, NULL},
    {"__reduce__", view_reduce, METH_NOARGS, NULL},
    {0},
};

static PyGetSetDef view_getset[] = {
    {"shape", view_shape, NULL, PyDoc_STR("The length of each axis."), NULL},
    {"strides", view_strides, NULL, PyDoc_STR("The bytes from one element of an axis to the next one."), NULL},
    {"format", view_format, NULL, PyDoc_STR("What an element is, as the struct module says it: \"d\"; complex: \"Zd\"."), NULL},
    {"dtype", view_dtype, NULL, PyDoc_STR("What an element is, as NumPy says it: \"float64\"."), NULL},
    {"itemsize", view_itemsize, NULL, PyDoc_STR("The bytes of an element."), NULL},
    {"ndim", view_ndim, NULL, PyDoc_STR("The number of axes."), NULL},
    {"size", view_size, NULL, PyDoc_STR("The number of elements."), NULL},
    {"nbytes", view_nbytes, NULL, PyDoc_STR("The bytes of all elements."), NULL},
    {"readonly", view_readonly, NULL, PyDoc_STR("Whether nothing can be written through it."), NULL},
    {"address", view_address, NULL, PyDoc_STR("Where the first element is mapped in this process."), NULL},
    {"base", view_base, NULL, PyDoc_STR("What the memory belongs to."), NULL},
    {0},
};

static PyMemberDef view_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ArrayView, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot view_slots[] = {
    {Py_tp_doc, "ArrayView(buffer, shape, format, offset=0, strides=None)\n--\n\n"
                "An array of numbers over the memory of `buffer`, for where NumPy cannot load.\n\n"
                "`format` is that of an element (\"d\", \"float64\"), `shape` the length of each axis, `offset` and\n"
                "`strides` are in bytes; without strides the elements lie side by side. Indexing gives numbers,\n"
                "or views of the same memory. NumPy, where it loads, takes one without a copy. Any thread may use\n"
                "it. Raises ValueError if it would reach beyond the memory, TypeError for other elements."},
    {Py_tp_new, view_make},
    {Py_tp_dealloc, view_dealloc},
    {Py_tp_traverse, view_traverse},
    {Py_tp_repr, view_repr},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_richcompare, array_view_compare},
    {Py_tp_methods, view_methods},
    {Py_tp_members, view_members},
    {Py_tp_getset, view_getset},
    {Py_sq_item, array_view_item},
    {Py_mp_length, array_view_length},
    {Py_mp_subscript, array_view_subscript},
    {Py_mp_ass_subscript, array_view_assign},
    {Py_bf_getbuffer, view_get_buffer},
    {0, NULL},
};

static PyType_Spec view_spec = {
    .name = "theus._theus.ArrayView",
    .basicsize = offsetof(ArrayView, dims),
    .itemsize = sizeof(Py_ssize_t),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = view_slots,
};

int
add_array_view_type(PyObject *module, module_state *st)
{
    return module_add_type(module, &view_spec, &st->ArrayView_type);
}
