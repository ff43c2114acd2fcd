/* Kernels for Python: buffers become operands, everything is checked, and the core runs without the GIL.
 *
 * Each operand holds its buffer until the kernel is through, so the memory stays where it is. What other threads write there
 * meanwhile is the caller's affair, as with NumPy. */
#include "kernels.h"

#include "array_format.h"
#include "array_view.h"

#include "../core/kernels.h"

#include <string.h>

enum { ALONE = 4096 }; /* elements from which on other threads may run meanwhile */

typedef struct {
    Py_buffer buffer;    /* .obj is NULL for a number */
    const array_format *format;
    char *data;
    int ndim;
    Py_ssize_t shape[THEUS_DIMS_MAX], strides[THEUS_DIMS_MAX];
    char number[16];
} operand;

static void
operand_end(operand *it)
{
    if (it->buffer.obj != NULL) {
        PyBuffer_Release(&it->buffer);
    }
}

/* Makes an operand of an array. Ended or not, operand_end() may follow. */
static int
operand_of_array(operand *it, PyObject *array, const char *name, bool writable)
{
    it->buffer.obj = NULL;
    if (!PyObject_CheckBuffer(array)) {
        PyErr_Format(PyExc_TypeError, "%s is an array or another buffer of numbers, not %.100R", name, array);
        return -1;
    }
    if (PyObject_GetBuffer(array, &it->buffer, PyBUF_FULL_RO) < 0) {
        it->buffer.obj = NULL;
        return -1;
    }
    const Py_buffer *buffer = &it->buffer;
    if (writable && buffer->readonly) {
        PyErr_Format(PyExc_BufferError, "%s is read-only; give a bytearray, an array.array or what cow() returns", name);
        return -1;
    }
    it->format = array_format_find(buffer->format == NULL ? "B" : buffer->format);
    if (it->format == NULL || it->format->dtype == THEUS_NO_DTYPE || buffer->suboffsets != NULL
        || buffer->ndim > THEUS_DIMS_MAX) {
        PyErr_Format(PyExc_TypeError, "there are no kernels for the elements of %s, of format '%.50s'; they are for integers "
                     "of 8 to 64 bits, float32, float64, complex64, complex128 and bool: convert them with NumPy, in a process",
                     name, buffer->format == NULL ? "B" : buffer->format);
        return -1;
    }
    it->data = buffer->buf;
    it->ndim = buffer->ndim;
    for (int i = 0; i < buffer->ndim; i++) {
        it->shape[i] = buffer->shape[i];
        it->strides[i] = buffer->strides[i];
    }
    return 0;
}

static bool
has_shape_of(const operand *it, const operand *other)
{
    return it->ndim == other->ndim && memcmp(it->shape, other->shape, (size_t)it->ndim * sizeof(it->shape[0])) == 0;
}

/* Another operand beside `like`: an array of the same shape and dtype, or a number of that dtype. */
static int
operand_beside(operand *it, PyObject *given, const char *name, const operand *like)
{
    if (!PyObject_CheckBuffer(given)) {
        it->buffer.obj = NULL;
        it->format = like->format;
        it->data = it->number;
        it->ndim = like->ndim;
        memcpy(it->shape, like->shape, sizeof(it->shape));
        memset(it->strides, 0, sizeof(it->strides));
        return array_item_store(it->format, it->number, given);
    }
    if (operand_of_array(it, given, name, false) < 0) {
        return -1;
    }
    if (it->format->dtype != like->format->dtype || !has_shape_of(it, like)) {
        PyErr_Format(PyExc_ValueError, "%s has other elements or another shape than what it is combined with: %s with %d axes, "
                     "and %s with %d axes", name, it->format->name, it->ndim, like->format->name, like->ndim);
        return -1;
    }
    return 0;
}

/* Where a result of this dtype and the shape of `like` goes: an array like that, or one piece of memory of its size. */
static int
operand_for_result(operand *it, PyObject *out, const operand *like, const array_format *format)
{
    if (operand_of_array(it, out, "out", true) < 0) {
        return -1;
    }
    if (it->format->dtype == format->dtype && has_shape_of(it, like)) {
        return 0;
    }
    Py_ssize_t step = format->size;
    bool flat = it->ndim == 1 && (it->format->dtype == format->dtype || it->format->dtype == THEUS_UINT8)
                && PyBuffer_IsContiguous(&it->buffer, 'C');
    it->ndim = like->ndim;
    for (int i = like->ndim - 1; i >= 0; i--) {
        it->shape[i] = like->shape[i];
        it->strides[i] = step;
        step *= like->shape[i];
    }
    if (!flat || it->buffer.len != step) {
        PyErr_Format(PyExc_ValueError, "out has neither the shape of the result and elements of %s, nor is it one piece of "
                     "memory of %zd bytes", format->name, step);
        return -1;
    }
    it->format = format;
    return 0;
}

/* Whether out and an input share memory; not counted, unless `strict`, if they do it element by element. */
static bool
overlap(const operand *out, const operand *in, bool strict)
{
    int64_t out_low, out_high, low, high;
    if (in->data == in->number
        || (!strict && in->data == out->data && has_shape_of(in, out) && in->format->size == out->format->size
            && memcmp(in->strides, out->strides, (size_t)in->ndim * sizeof(in->strides[0])) == 0)) {
        return false;
    }
    (void)array_extent(out->ndim, out->shape, out->strides, out->format->size, &out_low, &out_high);
    (void)array_extent(in->ndim, in->shape, in->strides, in->format->size, &low, &high);
    return out->data + out_low < in->data + high && in->data + low < out->data + out_high && out_low != out_high && low != high;
}

static int
check_overlap(const operand *out, const operand *in, bool strict)
{
    if (overlap(out, in, strict)) {
        PyErr_SetString(PyExc_ValueError, "out overlaps an input, and is not just the same array; give other memory");
        return -1;
    }
    return 0;
}

/* The elements of the first operand, which the layout is for. */
static int64_t
make_layout(theus_layout *layout, const operand *const operands[], int count)
{
    int64_t elements = 1;
    layout->operands = count;
    layout->ndim = operands[0]->ndim;
    for (int i = 0; i < layout->ndim; i++) {
        layout->shape[i] = operands[0]->shape[i];
        elements *= layout->shape[i];
        for (int k = 0; k < count; k++) {
            layout->strides[k][i] = operands[k]->strides[i];
        }
    }
    theus_layout_simplify(layout);
    return elements;
}

#define RUN(elements, call)                                              \
    do {                                                                 \
        PyThreadState *saved = (elements) < ALONE ? NULL : PyEval_SaveThread(); \
        call;                                                            \
        if (saved != NULL) {                                             \
            PyEval_RestoreThread(saved);                                 \
        }                                                                \
    } while (0)

static int
no_kernel(const char *what, const operand *it)
{
    PyErr_Format(PyExc_TypeError, "elements of %s cannot be %s", it->format->name, what);
    return -1;
}

static const struct {
    const char *name, *what;
    theus_elementwise op;
} operations[] = {
    {"copy", "copied", THEUS_COPY},
    {"add", "added", THEUS_ADD},
    {"scale", "scaled", THEUS_SCALE},
    {"axpy", "multiplied", THEUS_AXPY},
    {"<", "ordered", THEUS_LESS},
    {"<=", "ordered", THEUS_LESS_EQUAL},
    {"==", "compared", THEUS_EQUAL},
    {"!=", "compared", THEUS_NOT_EQUAL},
    {">=", "ordered", THEUS_GREATER_EQUAL},
    {">", "ordered", THEUS_GREATER},
};

/* (operation, out, a, b): a is an array, b an array or a number; of "copy" there is no b, and a may be a number. */
PyObject *
module_kernel_elementwise(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *name;
    PyObject *out_given, *a_given, *b_given = Py_None;
    operand out = {.buffer.obj = NULL}, a = {.buffer.obj = NULL}, b = {.buffer.obj = NULL};
    PyObject *result = NULL;
    size_t which = 0;
    if (!PyArg_ParseTuple(args, "sOO|O:kernel_elementwise", &name, &out_given, &a_given, &b_given)) {
        return NULL;
    }
    while (which < Py_ARRAY_LENGTH(operations) && strcmp(operations[which].name, name) != 0) {
        which++;
    }
    if (which == Py_ARRAY_LENGTH(operations)) {
        PyErr_Format(PyExc_ValueError, "there is no operation '%.50s'; there are < <= == != >= >", name);
        return NULL;
    }
    theus_elementwise op = operations[which].op;
    bool fills = op == THEUS_COPY && !PyObject_CheckBuffer(a_given);
    if (fills ? operand_of_array(&out, out_given, "out", true) < 0 || operand_beside(&a, a_given, "a", &out) < 0
              : operand_of_array(&a, a_given, "a", false) < 0) {
        goto done;
    }
    if (!theus_elementwise_has(op, a.format->dtype)) {
        (void)no_kernel(operations[which].what, &a);
        goto done;
    }
    if (!fills
        && operand_for_result(&out, out_given, &a, op >= THEUS_LESS ? array_format_find("?") : a.format) < 0) {
        goto done;
    }
    if (op != THEUS_COPY && operand_beside(&b, b_given, "b", &a) < 0) {
        goto done;
    }
    if (check_overlap(&out, &a, false) < 0 || (op != THEUS_COPY && check_overlap(&out, &b, false) < 0)) {
        goto done;
    }
    theus_layout layout;
    char *const data[THEUS_OPERANDS] = {out.data, a.data, b.data};
    int64_t elements = make_layout(&layout, (const operand *const[]){&out, &a, &b}, op == THEUS_COPY ? 2 : 3);
    RUN(elements, theus_elementwise_run(op, a.format->dtype, &layout, data));
    result = Py_NewRef(out_given);
done:
    operand_end(&out);
    operand_end(&a);
    operand_end(&b);
    return result;
}

static PyObject *
integer_of(__int128 number)
{
    if (number == (int64_t)number) {
        return PyLong_FromLongLong((int64_t)number);
    }
    PyObject *high = PyLong_FromLongLong((int64_t)(number >> 64)), *low = PyLong_FromUnsignedLongLong((uint64_t)number);
    PyObject *bits = PyLong_FromLong(64), *shifted = NULL, *result = NULL;
    if (high != NULL && low != NULL && bits != NULL && (shifted = PyNumber_Lshift(high, bits)) != NULL) {
        result = PyNumber_Or(shifted, low);
    }
    Py_XDECREF(high);
    Py_XDECREF(low);
    Py_XDECREF(bits);
    Py_XDECREF(shifted);
    return result;
}

static PyObject *
total_of(const theus_total *total, theus_dtype dtype)
{
    switch (theus_total_kind_of(dtype)) {
    case THEUS_TOTAL_FLOAT:
        return PyFloat_FromDouble(total->re);
    case THEUS_TOTAL_COMPLEX:
        return PyComplex_FromDoubles(total->re, total->im);
    case THEUS_TOTAL_INTEGER:
        break;
    }
    if (total->overflow) {
        PyErr_SetString(PyExc_OverflowError, "the sum does not fit into 128 bits");
        return NULL;
    }
    return integer_of(total->integer);
}

PyObject *
module_kernel_sum(PyObject *Py_UNUSED(module), PyObject *array)
{
    operand a;
    PyObject *result = NULL;
    if (operand_of_array(&a, array, "a", false) == 0) {
        theus_layout layout;
        theus_total total;
        int64_t elements = make_layout(&layout, (const operand *const[]){&a}, 1);
        RUN(elements, theus_sum(a.format->dtype, &layout, a.data, &total));
        result = total_of(&total, a.format->dtype);
    }
    operand_end(&a);
    return result;
}

PyObject *
module_kernel_dot(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *a_given, *b_given, *result = NULL;
    operand a = {.buffer.obj = NULL}, b = {.buffer.obj = NULL};
    if (!PyArg_ParseTuple(args, "OO:kernel_dot", &a_given, &b_given)) {
        return NULL;
    }
    if (operand_of_array(&a, a_given, "a", false) < 0 || operand_beside(&b, b_given, "b", &a) < 0) {
        goto done;
    }
    if (!theus_elementwise_has(THEUS_SCALE, a.format->dtype)) {
        (void)no_kernel("multiplied", &a);
        goto done;
    }
    theus_layout layout;
    theus_total total;
    int64_t elements = make_layout(&layout, (const operand *const[]){&a, &b}, 2);
    RUN(elements, theus_dot(a.format->dtype, &layout, a.data, b.data, &total));
    result = total_of(&total, a.format->dtype);
done:
    operand_end(&a);
    operand_end(&b);
    return result;
}

PyObject *
module_kernel_extreme(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *a_given, *result = NULL;
    operand a = {.buffer.obj = NULL};
    int greatest;
    if (!PyArg_ParseTuple(args, "Op:kernel_extreme", &a_given, &greatest) || operand_of_array(&a, a_given, "a", false) < 0) {
        goto done;
    }
    if (!theus_elementwise_has(THEUS_LESS, a.format->dtype)) {
        (void)no_kernel("ordered", &a);
        goto done;
    }
    theus_layout layout;
    char found[16];
    int64_t elements = make_layout(&layout, (const operand *const[]){&a}, 1);
    if (elements == 0) {
        PyErr_Format(PyExc_ValueError, "an array without elements has no %s", greatest ? "greatest" : "least");
        goto done;
    }
    RUN(elements, theus_extreme(a.format->dtype, greatest, &layout, a.data, found));
    result = array_item_load(a.format, found);
done:
    operand_end(&a);
    return result;
}

/* (out, a, indices) */
PyObject *
module_kernel_gather(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *out_given, *a_given, *indices_given, *result = NULL;
    operand out = {.buffer.obj = NULL}, a = {.buffer.obj = NULL}, indices = {.buffer.obj = NULL};
    if (!PyArg_ParseTuple(args, "OOO:kernel_gather", &out_given, &a_given, &indices_given)
        || operand_of_array(&a, a_given, "a", false) < 0
        || operand_of_array(&indices, indices_given, "indices", false) < 0) {
        goto done;
    }
    if (a.ndim != 1 || theus_total_kind_of(indices.format->dtype) != THEUS_TOTAL_INTEGER
        || indices.format->dtype == THEUS_BOOL) {
        PyErr_Format(PyExc_TypeError, "gather takes elements of an array of one axis by integers, not of %d axes by %s", a.ndim,
                     indices.format->name);
        goto done;
    }
    if (operand_for_result(&out, out_given, &indices, a.format) < 0 || check_overlap(&out, &a, true) < 0
        || check_overlap(&out, &indices, false) < 0) {
        goto done;
    }
    theus_layout layout;
    __int128 bad = 0;
    bool good;
    int64_t elements = make_layout(&layout, (const operand *const[]){&out, &indices}, 2);
    RUN(elements, good = theus_gather(a.format->size, indices.format->dtype, &layout, out.data, indices.data, a.data,
                                      a.shape[0], a.strides[0], &bad));
    if (good) {
        result = Py_NewRef(out_given);
    }
    else {
        PyObject *number = integer_of(bad);
        if (number != NULL) {
            PyErr_Format(PyExc_IndexError, "index %R is not in an array of %zd elements", number, a.shape[0]);
            Py_DECREF(number);
        }
    }
done:
    operand_end(&out);
    operand_end(&a);
    operand_end(&indices);
    return result;
}
