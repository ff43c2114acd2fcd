/* Elements of arrays: formats and items. */
#include "array_format.h"

#include <string.h>

static const array_format formats[] = {
    {"?", "bool", "b1", '?', 1, THEUS_BOOL},
    {"b", "int8", "i1", 'b', 1, THEUS_INT8},
    {"h", "int16", "i2", 'h', 2, THEUS_INT16},
    {"i", "int32", "i4", 'i', 4, THEUS_INT32},
    {"q", "int64", "i8", 'q', 8, THEUS_INT64},
    {"B", "uint8", "u1", 'B', 1, THEUS_UINT8},
    {"H", "uint16", "u2", 'H', 2, THEUS_UINT16},
    {"I", "uint32", "u4", 'I', 4, THEUS_UINT32},
    {"Q", "uint64", "u8", 'Q', 8, THEUS_UINT64},
    {"e", "float16", "f2", 'e', 2, THEUS_NO_DTYPE},
    {"f", "float32", "f4", 'f', 4, THEUS_FLOAT32},
    {"d", "float64", "f8", 'd', 8, THEUS_FLOAT64},
    {"Zf", "complex64", "c8", 'F', 8, THEUS_COMPLEX64},
    {"Zd", "complex128", "c16", 'D', 16, THEUS_COMPLEX128},
    /* The same integers by the names of C; found by these letters only. */
    {"l", "int64", "", 'l', 8, THEUS_INT64},
    {"L", "uint64", "", 'L', 8, THEUS_UINT64},
};

_Static_assert(sizeof(long) == 8 && sizeof(int) == 4 && sizeof(short) == 2, "the letters say these sizes");

static const bool is_little_endian = PY_LITTLE_ENDIAN;

const array_format *
array_format_find(const char *name)
{
    char order = name[0];
    bool ordered = order != '\0' && strchr("<>=|@", order) != NULL;
    if (ordered && order == (is_little_endian ? '>' : '<')) {
        return NULL; /* bytes the other way round */
    }
    name += ordered;
    for (size_t i = 0; i < Py_ARRAY_LENGTH(formats); i++) {
        const array_format *it = &formats[i];
        bool by_letter = strcmp(name, it->format) == 0 || (name[0] == it->code && name[1] == '\0');
        /* With a byte order, "l" has the size that the struct module gives it: 4. */
        if ((by_letter && !(ordered && order != '@' && (it->code == 'l' || it->code == 'L')))
            || (it->kind[0] != '\0' && strcmp(name, it->kind) == 0)
            || (!ordered && strcmp(name, it->name) == 0)) {
            return it;
        }
    }
    return NULL;
}

#define LOAD(type, variable)                    \
    type variable;                              \
    memcpy(&variable, data, sizeof(variable))

PyObject *
array_item_load(const array_format *format, const char *data)
{
#define LOAD_INTEGER(which, type, make)       \
    case which: {                             \
        LOAD(type, number);                   \
        return make(number);                  \
    }
    switch (format->dtype) {
    case THEUS_BOOL:
        return PyBool_FromLong(*data != 0);
        LOAD_INTEGER(THEUS_INT8, int8_t, PyLong_FromLong)
        LOAD_INTEGER(THEUS_INT16, int16_t, PyLong_FromLong)
        LOAD_INTEGER(THEUS_INT32, int32_t, PyLong_FromLong)
        LOAD_INTEGER(THEUS_INT64, int64_t, PyLong_FromLongLong)
        LOAD_INTEGER(THEUS_UINT8, uint8_t, PyLong_FromUnsignedLong)
        LOAD_INTEGER(THEUS_UINT16, uint16_t, PyLong_FromUnsignedLong)
        LOAD_INTEGER(THEUS_UINT32, uint32_t, PyLong_FromUnsignedLong)
        LOAD_INTEGER(THEUS_UINT64, uint64_t, PyLong_FromUnsignedLongLong)
        LOAD_INTEGER(THEUS_FLOAT32, float, PyFloat_FromDouble)
        LOAD_INTEGER(THEUS_FLOAT64, double, PyFloat_FromDouble)
    case THEUS_COMPLEX64: {
        LOAD(theus_complex64, number);
        return PyComplex_FromDoubles(number.re, number.im);
    }
    case THEUS_COMPLEX128: {
        LOAD(theus_complex128, number);
        return PyComplex_FromDoubles(number.re, number.im);
    }
    case THEUS_NO_DTYPE:
        break;
    }
#undef LOAD_INTEGER
    double half = PyFloat_Unpack2(data, is_little_endian);
    return half == -1.0 && PyErr_Occurred() ? NULL : PyFloat_FromDouble(half);
}

static int
does_not_fit(const array_format *format, PyObject *number)
{
    PyErr_Format(PyExc_OverflowError, "%R does not fit into %s", number, format->name);
    return -1;
}

static int
store_integer(const array_format *format, char *data, PyObject *number)
{
    PyObject *index = PyNumber_Index(number);
    if (index == NULL) {
        return -1;
    }
    bool has_sign = format->kind[0] != 'u' && format->code != 'L';
    int bits = 8 * format->size, overflow = 0;
    unsigned long long word;
    bool fits;
    if (has_sign) {
        long long value = PyLong_AsLongLongAndOverflow(index, &overflow);
        int64_t most = INT64_MAX >> (64 - bits);
        fits = overflow == 0 && value <= most && value >= -most - 1;
        word = (unsigned long long)value;
    }
    else {
        word = PyLong_AsUnsignedLongLong(index);
        if (word == (unsigned long long)-1 && PyErr_Occurred()) {
            PyErr_Clear(); /* too large, or below 0 */
            fits = false;
        }
        else {
            fits = bits == 64 || word >> bits == 0;
        }
    }
    Py_DECREF(index);
    if (!fits) {
        return does_not_fit(format, number);
    }
    memcpy(data, is_little_endian ? (char *)&word : (char *)&word + 8 - format->size, format->size);
    return 0;
}

int
array_item_store(const array_format *format, char *data, PyObject *number)
{
    if (format->dtype == THEUS_BOOL) {
        int truth = PyObject_IsTrue(number);
        if (truth >= 0) {
            *data = (char)truth;
        }
        return truth < 0 ? -1 : 0;
    }
    if (format->dtype == THEUS_COMPLEX64 || format->dtype == THEUS_COMPLEX128) {
        Py_complex value = PyComplex_AsCComplex(number);
        if (value.real == -1.0 && PyErr_Occurred()) {
            return -1;
        }
        if (format->dtype == THEUS_COMPLEX64) {
            theus_complex64 item = {(float)value.real, (float)value.imag};
            memcpy(data, &item, sizeof(item));
        }
        else {
            theus_complex128 item = {value.real, value.imag};
            memcpy(data, &item, sizeof(item));
        }
        return 0;
    }
    if (format->dtype == THEUS_FLOAT32 || format->dtype == THEUS_FLOAT64 || format->dtype == THEUS_NO_DTYPE) {
        double value = PyFloat_AsDouble(number);
        if (value == -1.0 && PyErr_Occurred()) {
            return -1;
        }
        if (format->dtype == THEUS_FLOAT64) {
            memcpy(data, &value, sizeof(value));
            return 0;
        }
        if (format->dtype == THEUS_FLOAT32) {
            float item = (float)value;
            memcpy(data, &item, sizeof(item));
            return 0;
        }
        return PyFloat_Pack2(value, data, is_little_endian);
    }
    return store_integer(format, data, number);
}
