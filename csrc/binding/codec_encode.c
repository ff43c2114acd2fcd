/* From values to bytes. The format is drawn in codec.h. */
#include "codec.h"

#include "errors.h"
#include "handle.h"

#include <string.h>

enum {
    FIRST_ROOM = 512, /* on the C stack: most values need no other */
    KEY_PLACES = 128, /* keys that are recognised again, by their address */
};

typedef struct {
    module_state *st;
    PyObject *extend;  /* borrowed; None: what is not covered is refused */
    PyObject *buffers; /* borrowed; a list, or NULL */
    Py_ssize_t large;
    char *data; /* `first`, or allocated */
    size_t size, room;
    int depth;
    bool frozen;   /* what holds this value is frozen when it is decoded, and with it all of its parts */
    uint32_t keys; /* that have a number */
    /* Owned: a key that has died meanwhile would leave its address to another one. */
    PyObject *key[KEY_PLACES];
    uint32_t number[KEY_PLACES];
    char first[FIRST_ROOM];
} writer;

static int write_value(writer *w, PyObject *object);

/* ---- bytes ------------------------------------------------------------------------------------ */

static int
make_room(writer *w, size_t more)
{
    if (more > (size_t)PY_SSIZE_T_MAX - w->size) {
        PyErr_NoMemory();
        return -1;
    }
    size_t room = w->size + more + w->room; /* doubles, at least */
    char *data = room > (size_t)PY_SSIZE_T_MAX ? NULL : PyMem_Malloc(room);
    if (data == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(data, w->data, w->size);
    if (w->data != w->first) {
        PyMem_Free(w->data);
    }
    w->data = data;
    w->room = room;
    return 0;
}

/* Where the next `size` bytes go; NULL with MemoryError set. They count as written. */
static inline char *
reserve(writer *w, size_t size)
{
    if (size > w->room - w->size && make_room(w, size) < 0) {
        return NULL;
    }
    char *at = w->data + w->size;
    w->size += size;
    return at;
}

static inline int
write_byte(writer *w, int byte)
{
    char *at = reserve(w, 1);
    if (at == NULL) {
        return -1;
    }
    *at = (char)byte;
    return 0;
}

static int
write_number(writer *w, int tag, uint64_t number)
{
    char *at = reserve(w, 11); /* a tag, and ten groups of seven bits */
    if (at == NULL) {
        return -1;
    }
    char *end = at;
    *end++ = (char)tag;
    while (number >= 0x80) {
        *end++ = (char)(number | 0x80);
        number >>= 7;
    }
    *end++ = (char)number;
    w->size -= (size_t)(at + 11 - end);
    return 0;
}

static int
write_sized(writer *w, int tag, const char *content, size_t size)
{
    if (write_number(w, tag, size) < 0) {
        return -1;
    }
    char *at = reserve(w, size);
    if (at == NULL) {
        return -1;
    }
    memcpy(at, content, size);
    return 0;
}

/* ---- numbers and texts --------------------------------------------------------------------------- */

static int
write_big_int(writer *w, PyObject *object)
{
    PyObject *bits = PyObject_CallMethod(object, "bit_length", NULL);
    size_t size = bits == NULL ? (size_t)-1 : PyLong_AsSize_t(bits);
    Py_XDECREF(bits);
    if (size == (size_t)-1 && PyErr_Occurred()) {
        return -1;
    }
    PyObject *args = Py_BuildValue("ns", (Py_ssize_t)(size / 8 + 1), "little");
    PyObject *options = Py_BuildValue("{sO}", "signed", Py_True);
    PyObject *convert = PyObject_GetAttrString(object, "to_bytes"), *bytes = NULL;
    if (args != NULL && options != NULL && convert != NULL) {
        bytes = PyObject_Call(convert, args, options);
    }
    Py_XDECREF(args);
    Py_XDECREF(options);
    Py_XDECREF(convert);
    int result = -1;
    if (bytes != NULL) {
        result = write_sized(w, CODEC_BIG_INT, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
        Py_DECREF(bytes);
    }
    return result;
}

static int
write_int(writer *w, PyObject *object)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow != 0) {
        return write_big_int(w, object);
    }
    if (number >= 0 && number < CODEC_SHORT_STR - CODEC_SMALL_INT) {
        return write_byte(w, CODEC_SMALL_INT + (int)number);
    }
    return write_number(w, CODEC_INT, ((uint64_t)number << 1) ^ (uint64_t)(number >> 63));
}

static int
write_double(writer *w, double number)
{
    uint64_t bits;
    memcpy(&bits, &number, sizeof(bits));
    char *at = reserve(w, sizeof(bits));
    if (at == NULL) {
        return -1;
    }
    for (int i = 0; i < 8; i++) {
        at[i] = (char)(bits >> (8 * i));
    }
    return 0;
}

static int
write_complex(writer *w, PyObject *object)
{
    Py_complex number = PyComplex_AsCComplex(object);
    return write_byte(w, CODEC_COMPLEX) < 0 || write_double(w, number.real) < 0 ? -1 : write_double(w, number.imag);
}

static int
write_text(writer *w, int tag, PyObject *text)
{
    if (PyUnicode_IS_COMPACT_ASCII(text)) {
        size_t size = (size_t)PyUnicode_GET_LENGTH(text);
        const char *content = (const char *)PyUnicode_1BYTE_DATA(text);
        if (tag != CODEC_STR || size > 0xff - CODEC_SHORT_STR) {
            return write_sized(w, tag, content, size);
        }
        char *at = reserve(w, size + 1);
        if (at == NULL) {
            return -1;
        }
        *at = (char)(CODEC_SHORT_STR + (int)size);
        memcpy(at + 1, content, size);
        return 0;
    }
    /* Not PyUnicode_AsUTF8: it keeps what it makes, for as long as the text lives. */
    PyObject *bytes = PyUnicode_AsEncodedString(text, "utf-8", "surrogatepass");
    if (bytes == NULL) {
        return -1;
    }
    int result = write_sized(w, tag, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
    Py_DECREF(bytes);
    return result;
}

static int
write_key(writer *w, PyObject *key)
{
    if (!PyUnicode_CheckExact(key)) {
        return write_value(w, key);
    }
    size_t place = ((uintptr_t)key >> 5) % KEY_PLACES;
    if (w->key[place] == key) {
        return write_number(w, CODEC_KEY_AGAIN, w->number[place]);
    }
    if (w->keys >= CODEC_KEYS) {
        return write_text(w, CODEC_STR, key);
    }
    Py_XSETREF(w->key[place], Py_NewRef(key));
    w->number[place] = w->keys++;
    return write_text(w, CODEC_KEY, key);
}

/* ---- buffers ---------------------------------------------------------------------------------------- */

static int
write_content(writer *w, int tag, PyObject *object, const char *content, Py_ssize_t size)
{
    if (w->buffers == NULL || size < w->large) {
        return write_sized(w, tag, content, (size_t)size);
    }
    if (write_byte(w, CODEC_BUFFER) < 0 || write_number(w, tag, (uint64_t)PyList_GET_SIZE(w->buffers)) < 0) {
        return -1;
    }
    return PyList_Append(w->buffers, object);
}

static int
write_memoryview(writer *w, PyObject *object)
{
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_CONTIG_RO) == 0) {
        int result = write_content(w, CODEC_MEMORYVIEW, object, view.buf, view.len);
        PyBuffer_Release(&view);
        return result;
    }
    PyErr_Clear(); /* not in one piece: its content is */
    PyObject *bytes = PyObject_CallMethod(object, "tobytes", NULL);
    if (bytes == NULL) {
        return -1;
    }
    int result = write_content(w, CODEC_MEMORYVIEW, bytes, PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes));
    Py_DECREF(bytes);
    return result;
}

static int
write_bytearray(writer *w, PyObject *object)
{
    Py_buffer view; /* held, so that no other thread can resize it meanwhile */
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    int result = write_content(w, CODEC_BYTEARRAY, object, view.buf, view.len);
    PyBuffer_Release(&view);
    return result;
}

/* ---- containers --------------------------------------------------------------------------------------- */

static int
changed_size(const char *what)
{
    PyErr_Format(PyExc_RuntimeError, "a %s changed its size while it was being encoded", what);
    return -1;
}

static int
write_tuple(writer *w, PyObject *tuple)
{
    Py_ssize_t size = PyTuple_GET_SIZE(tuple);
    int result = write_number(w, CODEC_TUPLE, (uint64_t)size);
    for (Py_ssize_t i = 0; i < size && result == 0; i++) {
        result = write_value(w, PyTuple_GET_ITEM(tuple, i));
    }
    return result;
}

static int
write_list(writer *w, PyObject *list)
{
    Py_ssize_t size = PyList_GET_SIZE(list);
    int result = write_number(w, CODEC_LIST, (uint64_t)size);
    for (Py_ssize_t i = 0; i < size && result == 0; i++) {
        PyObject *part = list_part(list, i);
        result = part == NULL ? changed_size("list") : write_value(w, part);
        Py_XDECREF(part);
    }
    return result;
}

static int
write_dict(writer *w, PyObject *dict)
{
    Py_ssize_t place = 0, size;
    PyObject *key, *value;
    int result;
    Py_BEGIN_CRITICAL_SECTION(dict);
    size = PyDict_GET_SIZE(dict);
    result = write_number(w, CODEC_DICT, (uint64_t)size);
    Py_ssize_t left = size;
    while (result == 0 && PyDict_Next(dict, &place, &key, &value)) {
        Py_INCREF(key);
        Py_INCREF(value);
        result = write_key(w, key);
        if (result == 0) {
            result = write_value(w, value);
        }
        Py_DECREF(key);
        Py_DECREF(value);
        if (result == 0 && (--left < 0 || PyDict_GET_SIZE(dict) != size)) {
            result = changed_size("dict");
        }
    }
    if (result == 0 && left != 0) {
        result = changed_size("dict");
    }
    Py_END_CRITICAL_SECTION();
    return result;
}

/* `count` values of an iterable, which it may not outlive. */
static int
write_iterable(writer *w, int tag, PyObject *iterable, Py_ssize_t count)
{
    PyObject *iterator = count < 0 ? NULL : PyObject_GetIter(iterable), *part;
    if (iterator == NULL) {
        return -1;
    }
    int result = write_number(w, tag, (uint64_t)count);
    while (result == 0 && (part = PyIter_Next(iterator)) != NULL) {
        result = count-- > 0 ? write_value(w, part) : changed_size("set");
        Py_DECREF(part);
    }
    Py_DECREF(iterator);
    if (result < 0 || PyErr_Occurred()) {
        return -1;
    }
    return count == 0 ? 0 : changed_size("set");
}

static int
write_set(writer *w, PyObject *set)
{
    if (PyFrozenSet_CheckExact(set)) {
        return write_iterable(w, CODEC_FROZENSET, set, PySet_GET_SIZE(set));
    }
    /* Without a GIL another thread may change it between two elements: then a copy is taken. */
    PyObject *stable = THEUS_HAVE_GIL ? Py_NewRef(set) : PyFrozenSet_New(set);
    int result = stable == NULL ? -1 : write_iterable(w, CODEC_SET, stable, PySet_GET_SIZE(stable));
    Py_XDECREF(stable);
    return result;
}

static int
write_frozen_dict(writer *w, HandleObject *handle)
{
    theus_cursor cursor;
    void *key;
    theus_value value;
    int result = write_number(w, CODEC_DICT, handle->node->count);
    theus_cursor_init(&cursor, handle->node, false);
    while (result == 0 && theus_cursor_next(&cursor, NULL, &key, &value)) {
        PyObject *part = handle_wrap(handle->heap, value);
        w->frozen = false; /* a key needs its hash at once */
        result = part == NULL ? -1 : write_key(w, key);
        w->frozen = true;
        if (result == 0) {
            result = write_value(w, part);
        }
        Py_XDECREF(part);
    }
    return result;
}

static int
write_frozen(writer *w, theus_kind kind, PyObject *object)
{
    static const codec_tag tags[] = {[THEUS_MAP] = CODEC_FROZEN_DICT, [THEUS_LIST] = CODEC_FROZEN_LIST,
                                     [THEUS_SET] = CODEC_FROZEN_SET};
    if (!w->frozen && write_byte(w, tags[kind]) < 0) {
        return -1;
    }
    if (kind == THEUS_MAP) {
        return write_frozen_dict(w, handle_of(object));
    }
    w->frozen = kind == THEUS_LIST;
    return write_iterable(w, kind == THEUS_LIST ? CODEC_LIST : CODEC_SET, object, PyObject_Size(object));
}

/* ---- any value ------------------------------------------------------------------------------------------ */

static int
write_extended(writer *w, PyObject *object)
{
    if (w->extend == Py_None) {
        PyErr_Format(PyExc_TypeError, "a %s cannot be encoded", Py_TYPE(object)->tp_name);
        return -1;
    }
    PyObject *pair = PyObject_CallOneArg(w->extend, object);
    if (pair == NULL) {
        return -1;
    }
    int result = -1;
    if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2) {
        PyErr_SetString(PyExc_TypeError, "extend() must return (code, value)");
    }
    else {
        unsigned long code = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(pair, 0));
        if (!PyErr_Occurred() && write_number(w, CODEC_EXTENDED, code) == 0) {
            result = write_value(w, PyTuple_GET_ITEM(pair, 1));
        }
    }
    Py_DECREF(pair);
    return result;
}

/* What holds others, or runs code of others: a level of nesting. */
static int
write_nested(writer *w, PyObject *object)
{
    if (PyTuple_CheckExact(object)) {
        return write_tuple(w, object); /* frozen parts are frozen within a tuple, too */
    }
    theus_kind kind = record_view_check(object) ? THEUS_ATOM : handle_kind(w->st, object);
    if (kind != THEUS_ATOM) {
        return write_frozen(w, kind, object);
    }
    w->frozen = false;
    if (PyDict_CheckExact(object)) {
        return write_dict(w, object);
    }
    if (PyList_CheckExact(object)) {
        return write_list(w, object);
    }
    if (PySet_CheckExact(object) || PyFrozenSet_CheckExact(object)) {
        return write_set(w, object);
    }
    return write_extended(w, object);
}

static int
write_value(writer *w, PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if (type == &PyUnicode_Type) {
        return write_text(w, CODEC_STR, object);
    }
    if (type == &PyLong_Type) {
        return write_int(w, object);
    }
    if (type == &PyFloat_Type) {
        return write_byte(w, CODEC_FLOAT) < 0 ? -1 : write_double(w, PyFloat_AS_DOUBLE(object));
    }
    if (object == Py_None || type == &PyBool_Type) {
        return write_byte(w, object == Py_None ? CODEC_NONE : object == Py_True ? CODEC_TRUE : CODEC_FALSE);
    }
    if (type == &PyBytes_Type) {
        return write_content(w, CODEC_BYTES, object, PyBytes_AS_STRING(object), PyBytes_GET_SIZE(object));
    }
    if (type == &PyByteArray_Type) {
        return write_bytearray(w, object);
    }
    if (type == &PyComplex_Type) {
        return write_complex(w, object);
    }
    if (type == &PyMemoryView_Type) {
        return write_memoryview(w, object);
    }
    if (++w->depth > CODEC_DEPTH) {
        PyErr_Format(PyExc_RecursionError, "the value is nested more than %d levels deep", CODEC_DEPTH);
        return -1;
    }
    if (nesting_enter(" while a value was being encoded") < 0) {
        return -1;
    }
    bool frozen = w->frozen;
    int result = write_nested(w, object);
    w->frozen = frozen;
    nesting_leave();
    w->depth--;
    return result;
}

PyObject *
codec_write(module_state *st, PyObject *value, const codec_way *way, size_t before)
{
    writer w;
    w.st = st;
    w.extend = way->extend;
    w.buffers = way->buffers;
    w.large = way->large;
    w.data = w.first;
    w.size = before + 2;
    w.room = FIRST_ROOM;
    w.depth = 0;
    w.frozen = false;
    w.keys = 0;
    memset(w.key, 0, sizeof(w.key));
    memset(w.first, 0, before);
    w.first[before] = (char)CODEC_MARK;
    w.first[before + 1] = CODEC_VERSION;

    PyObject *result = NULL;
    if (write_value(&w, value) == 0) {
        result = PyBytes_FromStringAndSize(w.data, (Py_ssize_t)w.size);
    }
    if (w.data != w.first) {
        PyMem_Free(w.data);
    }
    for (int i = 0; w.keys > 0 && i < KEY_PLACES; i++) {
        Py_XDECREF(w.key[i]);
    }
    return result;
}

int
codec_way_from(codec_way *way, PyObject *const *args, Py_ssize_t count)
{
    way->extend = count > 0 ? args[0] : Py_None;
    way->buffers = count > 1 && args[1] != Py_None ? args[1] : NULL;
    way->large = count > 2 ? PyLong_AsSsize_t(args[2]) : 0;
    if (PyErr_Occurred()) {
        return -1;
    }
    if (way->buffers != NULL && !PyList_CheckExact(way->buffers)) {
        PyErr_Format(PyExc_TypeError, "buffers is a list or None, not %R", way->buffers);
        return -1;
    }
    return 0;
}

PyObject *
module_encode(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    codec_way way;
    if (errors_check_count("encode", count, 1, 4) < 0 || codec_way_from(&way, args + 1, count - 1) < 0) {
        return NULL;
    }
    return codec_write(module_state_of(module), args[0], &way, 0);
}
