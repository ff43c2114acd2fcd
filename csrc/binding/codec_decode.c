/* From bytes to values, which may come from anybody. The format is drawn in codec.h. */
#include "codec.h"

#include "errors.h"
#include "freeze.h"

#include <string.h>

typedef struct {
    module_state *st;
    PyObject *extend;  /* borrowed; None: nothing is extended */
    PyObject *buffers; /* borrowed; a tuple or list, or NULL */
    const unsigned char *start, *at, *end;
    /* Parts that begun containers still have to get, one byte each at least. So what is allocated for all of them
     * together stays within a few words for each byte, however they are nested. Never more than is left. */
    size_t promised;
    int depth;
    PyObject *keys; /* owned: a list of those that have a number; NULL before the first */
} reader;

static PyObject *read_value(reader *r);

/* ---- bytes -------------------------------------------------------------------------------------- */

/* CodecError at `at`. NULL. */
static PyObject *
wrong(const reader *r, const unsigned char *at, const char *what)
{
    PyObject *error = PyObject_CallFunction(r->st->CodecError, "sn", what, (Py_ssize_t)(at - r->start));
    if (error != NULL) {
        PyErr_SetObject(r->st->CodecError, error);
        Py_DECREF(error);
    }
    return NULL;
}

static int
read_number(reader *r, uint64_t *number)
{
    const unsigned char *from = r->at;
    uint64_t found = 0;
    for (int shift = 0; r->at < r->end; shift += 7) {
        unsigned char byte = *r->at++;
        if (shift == 63 && byte > 1) {
            wrong(r, from, "a number has more than 64 bits");
            return -1;
        }
        found |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *number = found;
            return 0;
        }
    }
    wrong(r, from, "the data end within a number");
    return -1;
}

/* Bytes that the next size can be about: the rest belongs to what containers were promised. */
static size_t
unpromised(const reader *r)
{
    size_t left = (size_t)(r->end - r->at);
    return left < r->promised ? 0 : left - r->promised;
}

/* A size or count that what is left can hold, `each` bytes for one. -1 with an exception set. */
static Py_ssize_t
read_size(reader *r, size_t each)
{
    const unsigned char *from = r->at;
    uint64_t size;
    if (read_number(r, &size) < 0) {
        return -1;
    }
    if (size > unpromised(r) / each) {
        wrong(r, from, "a size goes beyond the end of the data");
        return -1;
    }
    return (Py_ssize_t)size;
}

/* The count of a container that begins. -1 with an exception set. */
static Py_ssize_t
read_count(reader *r, size_t each)
{
    Py_ssize_t count = read_size(r, each);
    if (count > 0) {
        r->promised += (size_t)count * each;
    }
    return count;
}

/* One that was promised. */
static PyObject *
read_part(reader *r)
{
    r->promised--;
    return read_value(r);
}

/* The content that a size stands before. NULL with an exception set. */
static const char *
read_sized(reader *r, Py_ssize_t *size)
{
    *size = read_size(r, 1);
    if (*size < 0) {
        return NULL;
    }
    const char *content = (const char *)r->at;
    r->at += *size;
    return content;
}

/* ---- numbers and texts ------------------------------------------------------------------------------ */

static PyObject *
read_int(reader *r)
{
    uint64_t number;
    if (read_number(r, &number) < 0) {
        return NULL;
    }
    return PyLong_FromLongLong((long long)((number >> 1) ^ (0 - (number & 1))));
}

static PyObject *
read_big_int(reader *r)
{
    Py_ssize_t size;
    const char *content = read_sized(r, &size);
    if (content == NULL) {
        return NULL;
    }
    PyObject *convert = PyObject_GetAttrString((PyObject *)&PyLong_Type, "from_bytes"), *result = NULL;
    PyObject *args = Py_BuildValue("y#s", content, size, "little"), *options = Py_BuildValue("{sO}", "signed", Py_True);
    if (convert != NULL && args != NULL && options != NULL) {
        result = PyObject_Call(convert, args, options);
    }
    Py_XDECREF(convert);
    Py_XDECREF(args);
    Py_XDECREF(options);
    return result;
}

static int
read_double(reader *r, double *number)
{
    if (r->end - r->at < 8) {
        wrong(r, r->at, "the data end within a float");
        return -1;
    }
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) {
        bits |= (uint64_t)*r->at++ << (8 * i);
    }
    memcpy(number, &bits, sizeof(bits));
    return 0;
}

static PyObject *
read_complex(reader *r)
{
    Py_complex number;
    if (read_double(r, &number.real) < 0 || read_double(r, &number.imag) < 0) {
        return NULL;
    }
    return PyComplex_FromCComplex(number);
}

static PyObject *
text_of(reader *r, const char *content, Py_ssize_t size)
{
    PyObject *text = PyUnicode_DecodeUTF8(content, size, "surrogatepass");
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        return wrong(r, (const unsigned char *)content, "a text is no UTF-8");
    }
    return text;
}

static PyObject *
read_text(reader *r)
{
    Py_ssize_t size;
    const char *content = read_sized(r, &size);
    return content == NULL ? NULL : text_of(r, content, size);
}

static PyObject *
read_new_key(reader *r)
{
    const unsigned char *from = r->at;
    if (r->keys == NULL) {
        r->keys = PyList_New(0);
    }
    if (r->keys == NULL) {
        return NULL;
    }
    if (PyList_GET_SIZE(r->keys) >= CODEC_KEYS) {
        return wrong(r, from, "too many keys have a number");
    }
    PyObject *text = read_text(r);
    if (text != NULL && PyList_Append(r->keys, text) < 0) {
        Py_CLEAR(text);
    }
    return text;
}

static PyObject *
read_known_key(reader *r)
{
    const unsigned char *from = r->at;
    uint64_t number;
    if (read_number(r, &number) < 0) {
        return NULL;
    }
    if (r->keys == NULL || number >= (uint64_t)PyList_GET_SIZE(r->keys)) {
        return wrong(r, from, "no key has this number");
    }
    return PyList_GetItemRef(r->keys, (Py_ssize_t)number);
}

/* ---- buffers -------------------------------------------------------------------------------------------- */

static PyObject *
content_of(reader *r, int tag, PyObject *buffer)
{
    switch (tag) {
    case CODEC_BYTES:
        return PyBytes_FromObject(buffer);
    case CODEC_BYTEARRAY:
        return PyByteArray_FromObject(buffer);
    case CODEC_MEMORYVIEW:
        return PyMemoryView_FromObject(buffer);
    default:
        return wrong(r, r->at, "no buffer is of this kind");
    }
}

static PyObject *
read_buffer(reader *r)
{
    const unsigned char *from = r->at;
    if (r->at == r->end) {
        return wrong(r, from, "the data end within a buffer");
    }
    int tag = *r->at++;
    uint64_t number;
    if (read_number(r, &number) < 0) {
        return NULL;
    }
    if (r->buffers == NULL || number >= (uint64_t)PySequence_Fast_GET_SIZE(r->buffers)) {
        return wrong(r, from, "no buffer with this number came along");
    }
    PyObject *buffer = PySequence_GetItem(r->buffers, (Py_ssize_t)number);
    PyObject *content = buffer == NULL ? NULL : content_of(r, tag, buffer);
    Py_XDECREF(buffer);
    return content;
}

static PyObject *
read_inline_view(reader *r)
{
    Py_ssize_t size;
    const char *content = read_sized(r, &size);
    PyObject *array = content == NULL ? NULL : PyByteArray_FromStringAndSize(content, size);
    PyObject *view = array == NULL ? NULL : PyMemoryView_FromObject(array);
    Py_XDECREF(array);
    return view;
}

/* ---- containers --------------------------------------------------------------------------------------------- */

/* Lists and tuples are made at their full size. What restores their parts may be code of anybody, which must not find them
 * half empty: the collector does not know them before they are whole. */
static PyObject *
read_sequence(reader *r, bool tuple)
{
    Py_ssize_t count = read_count(r, 1);
    PyObject *sequence = count < 0 ? NULL : tuple ? PyTuple_New(count) : PyList_New(count);
    if (sequence == NULL || count == 0) {
        return sequence;
    }
    PyObject_GC_UnTrack(sequence);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *part = read_part(r);
        if (part == NULL) {
            Py_DECREF(sequence);
            return NULL;
        }
        if (tuple) {
            PyTuple_SET_ITEM(sequence, i, part);
        }
        else {
            PyList_SET_ITEM(sequence, i, part);
        }
    }
    PyObject_GC_Track(sequence);
    return sequence;
}

static PyObject *
read_set(reader *r, bool frozen)
{
    Py_ssize_t count = read_count(r, 1);
    PyObject *set = count < 0 ? NULL : frozen ? PyFrozenSet_New(NULL) : PySet_New(NULL);
    while (set != NULL && count-- > 0) {
        PyObject *part = read_part(r);
        if (part == NULL || PySet_Add(set, part) < 0) {
            Py_CLEAR(set);
        }
        Py_XDECREF(part);
    }
    return set;
}

static PyObject *
read_dict(reader *r)
{
    Py_ssize_t count = read_count(r, 2);
    PyObject *dict = count < 0 ? NULL : PyDict_New();
    while (dict != NULL && count-- > 0) {
        PyObject *key = read_part(r);
        PyObject *value = key == NULL ? NULL : read_part(r);
        if (value == NULL || PyDict_SetItem(dict, key, value) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return dict;
}

static PyObject *
read_frozen(reader *r, int of)
{
    const unsigned char *from = r->at;
    if (r->at == r->end || *r->at != of) {
        return wrong(r, from, "what is frozen here is not of its kind");
    }
    PyObject *content = read_value(r);
    PyObject *frozen = content == NULL ? NULL : freeze_object(r->st, content);
    Py_XDECREF(content);
    return frozen;
}

static PyObject *
read_extended(reader *r)
{
    const unsigned char *from = r->at;
    uint64_t code;
    if (read_number(r, &code) < 0) {
        return NULL;
    }
    if (r->extend == Py_None) {
        return wrong(r, from, "only plain values are expected here");
    }
    PyObject *value = read_value(r);
    PyObject *number = value == NULL ? NULL : PyLong_FromUnsignedLongLong(code);
    PyObject *result = NULL;
    if (number != NULL) {
        PyObject *args[] = {number, value};
        result = PyObject_Vectorcall(r->extend, args, 2, NULL);
    }
    Py_XDECREF(value);
    Py_XDECREF(number);
    return result;
}

/* ---- any value ------------------------------------------------------------------------------------------------ */

static PyObject *
read_nested(reader *r, int tag)
{
    switch (tag) {
    case CODEC_TUPLE:
    case CODEC_LIST:
        return read_sequence(r, tag == CODEC_TUPLE);
    case CODEC_SET:
    case CODEC_FROZENSET:
        return read_set(r, tag == CODEC_FROZENSET);
    case CODEC_DICT:
        return read_dict(r);
    case CODEC_FROZEN_DICT:
        return read_frozen(r, CODEC_DICT);
    case CODEC_FROZEN_LIST:
        return read_frozen(r, CODEC_LIST);
    case CODEC_FROZEN_SET:
        return read_frozen(r, CODEC_SET);
    case CODEC_EXTENDED:
        return read_extended(r);
    default:
        return wrong(r, r->at - 1, "no value begins with this byte");
    }
}

static PyObject *
read_scalar(reader *r, int tag)
{
    Py_ssize_t size;
    const char *content;
    double number;
    switch (tag) {
    case CODEC_NONE:
        return Py_NewRef(Py_None);
    case CODEC_FALSE:
    case CODEC_TRUE:
        return PyBool_FromLong(tag == CODEC_TRUE);
    case CODEC_INT:
        return read_int(r);
    case CODEC_BIG_INT:
        return read_big_int(r);
    case CODEC_FLOAT:
        return read_double(r, &number) < 0 ? NULL : PyFloat_FromDouble(number);
    case CODEC_COMPLEX:
        return read_complex(r);
    case CODEC_STR:
        return read_text(r);
    case CODEC_KEY:
        return read_new_key(r);
    case CODEC_KEY_AGAIN:
        return read_known_key(r);
    case CODEC_BYTES:
        content = read_sized(r, &size);
        return content == NULL ? NULL : PyBytes_FromStringAndSize(content, size);
    case CODEC_BYTEARRAY:
        content = read_sized(r, &size);
        return content == NULL ? NULL : PyByteArray_FromStringAndSize(content, size);
    case CODEC_MEMORYVIEW:
        return read_inline_view(r);
    default:
        return read_buffer(r);
    }
}

static PyObject *
read_value(reader *r)
{
    if (r->at == r->end) {
        return wrong(r, r->at, "the data end where a value should begin");
    }
    int tag = *r->at++;
    if (tag >= CODEC_SHORT_STR) {
        Py_ssize_t size = tag - CODEC_SHORT_STR;
        if ((size_t)size > unpromised(r)) {
            return wrong(r, r->at - 1, "a size goes beyond the end of the data");
        }
        r->at += size;
        return text_of(r, (const char *)r->at - size, size);
    }
    if (tag >= CODEC_SMALL_INT) {
        return PyLong_FromLong(tag - CODEC_SMALL_INT);
    }
    if (tag < CODEC_TUPLE || tag == CODEC_KEY || tag == CODEC_KEY_AGAIN || tag == CODEC_BUFFER) {
        return read_scalar(r, tag);
    }
    if (r->depth == CODEC_DEPTH) {
        return wrong(r, r->at - 1, "values are nested too deep");
    }
    if (nesting_enter(" while a value was being decoded") < 0) {
        return NULL;
    }
    r->depth++;
    PyObject *result = read_nested(r, tag);
    r->depth--;
    nesting_leave();
    return result;
}

static PyObject *
read_message(reader *r)
{
    if (r->end - r->at < 2 || r->at[0] != CODEC_MARK) {
        return wrong(r, r->at, "these are no encoded data");
    }
    if (r->at[1] != CODEC_VERSION) {
        return wrong(r, r->at + 1, "another version of theus has written this");
    }
    r->at += 2;
    PyObject *value = read_value(r);
    if (value != NULL && r->at != r->end) {
        Py_DECREF(value);
        return wrong(r, r->at, "something follows the value");
    }
    return value;
}

PyObject *
codec_read(module_state *st, const void *data, size_t size, PyObject *extend, PyObject *buffers)
{
    reader r = {
        .st = st,
        .extend = extend,
        .buffers = buffers,
        .start = data,
        .at = data,
        .end = (const unsigned char *)data + size,
    };
    PyObject *value = read_message(&r);
    Py_XDECREF(r.keys);
    return value;
}

PyObject *
module_decode(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (errors_check_count("decode", count, 1, 3) < 0) {
        return NULL;
    }
    PyObject *buffers = count > 2 && args[2] != Py_None ? args[2] : NULL;
    if (buffers != NULL && !PyTuple_CheckExact(buffers)) {
        return PyErr_Format(PyExc_TypeError, "buffers is a tuple or None, not %R", buffers);
    }
    Py_buffer data;
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *extend = count > 1 ? args[1] : Py_None;
    PyObject *value = codec_read(module_state_of(module), data.buf, (size_t)data.len, extend, buffers);
    PyBuffer_Release(&data);
    return value;
}
