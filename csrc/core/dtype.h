/* What the elements of arrays of numbers are. */
#ifndef THEUS_DTYPE_H
#define THEUS_DTYPE_H

#include <stdint.h>

/* Name, C type. BOOL is a byte, 0 or 1. */
#define THEUS_DTYPE_LIST(X)           \
    X(BOOL, uint8_t)                  \
    X(INT8, int8_t)                   \
    X(INT16, int16_t)                 \
    X(INT32, int32_t)                 \
    X(INT64, int64_t)                 \
    X(UINT8, uint8_t)                 \
    X(UINT16, uint16_t)               \
    X(UINT32, uint32_t)               \
    X(UINT64, uint64_t)               \
    X(FLOAT32, float)                 \
    X(FLOAT64, double)                \
    X(COMPLEX64, theus_complex64)     \
    X(COMPLEX128, theus_complex128)

typedef enum {
#define THEUS_DTYPE_ENUM(name, type) THEUS_##name,
    THEUS_DTYPE_LIST(THEUS_DTYPE_ENUM)
#undef THEUS_DTYPE_ENUM
    THEUS_NO_DTYPE, /* also their number */
} theus_dtype;

/* Elements of arrays, which need not be aligned. */
typedef struct __attribute__((packed, may_alias)) {
    float re, im;
} theus_complex64;

typedef struct __attribute__((packed, may_alias)) {
    double re, im;
} theus_complex128;

enum { THEUS_DIMS_MAX = 64 }; /* axes of an array: as many as NumPy has */

#endif
