/* Kernels: arithmetic over arrays of numbers, for interpreters in which NumPy cannot load.
 *
 * An array is a pointer, a dtype, and a shape with strides in bytes, which may be negative, 0 or odd: elements need not be
 * aligned. Kernels do not check memory: the caller says what lies where, and sees that an output overlaps no input, unless
 * both are the same array.
 *
 *     arrays ──▶ one layout for all operands ──▶ runs along its last axis ──▶ a loop for this dtype
 *
 * A layout (theus_layout) has the shape once and strides for each operand. It is made simple before anything runs: axes of
 * length 1 go, axes are sorted so that the last one has the smallest steps, and two that lie end to end in every operand
 * become one; so contiguous arrays of any shape are a single run. A number in the place of an array is an operand whose
 * strides are all 0. The loops are plain C; that for elements side by side is what the compiler vectorises.
 *
 * Rules
 *   - Elementwise results have the dtype of the operands; integers wrap, as in C's unsigned arithmetic.
 *   - Sums and dot products of integers are exact: they are made in 128 bits, and theus_sum and theus_dot say if those
 *     do not suffice.
 *   - Sums and dot products of floats are made in double, pairwise: blocks of up to 128 elements, in eight lanes, and the
 *     sums of the blocks as a binary counter adds up, so the error grows with log n and not with n (Higham, "The accuracy
 *     of floating point summation", 1993).
 *   - The least and the greatest of floats is NaN if one of them is.
 */
#ifndef THEUS_KERNELS_H
#define THEUS_KERNELS_H

#include "dtype.h"

#include <stdbool.h>

enum { THEUS_OPERANDS = 3 };

typedef struct {
    int operands, ndim;
    int64_t shape[THEUS_DIMS_MAX];
    int64_t strides[THEUS_OPERANDS][THEUS_DIMS_MAX];
} theus_layout;

/* Simplifies a layout, as above. Its elements stay the same, and correspond as they did; their order does not stay. */
void theus_layout_simplify(theus_layout *layout);

/* out = a; out = a + b (BOOL: or); out = a * b; out = out + a * b; out = whether a is … b. */
typedef enum {
    THEUS_COPY,
    THEUS_ADD,
    THEUS_SCALE,
    THEUS_AXPY,
    THEUS_LESS,
    THEUS_LESS_EQUAL,
    THEUS_EQUAL,
    THEUS_NOT_EQUAL,
    THEUS_GREATER_EQUAL,
    THEUS_GREATER,
} theus_elementwise;

/* Whether there is such a kernel: BOOL is not scaled, COMPLEX has no order. */
bool theus_elementwise_has(theus_elementwise op, theus_dtype dtype);

/* Operands: out, a, b (COPY: out, a), all of `dtype` but for the out of a comparison, which is BOOL. */
void theus_elementwise_run(theus_elementwise op, theus_dtype dtype, const theus_layout *layout,
                           char *const data[THEUS_OPERANDS]);

typedef enum { THEUS_TOTAL_INTEGER, THEUS_TOTAL_FLOAT, THEUS_TOTAL_COMPLEX } theus_total_kind;

/* A sum; which field counts, says theus_total_kind_of. */
typedef struct {
    __int128 integer;
    double re, im;
    bool overflow; /* of the integer */
} theus_total;

theus_total_kind theus_total_kind_of(theus_dtype dtype);

/* One operand. Nothing gives 0. */
void theus_sum(theus_dtype dtype, const theus_layout *layout, const char *data, theus_total *total);

/* Two operands, not of BOOL: the sum of their products; of complex numbers none is conjugated. */
void theus_dot(theus_dtype dtype, const theus_layout *layout, const char *a, const char *b, theus_total *total);

/* One operand that has elements, not COMPLEX: copies the least, or the greatest, to *out. */
void theus_extreme(theus_dtype dtype, bool greatest, const theus_layout *layout, const char *data, void *out);

/* Operands: out, indices (of an integer dtype), each one axis long or any other shape; a is of one axis. Negative indices
 * count from its end. Elements are `size` bytes. False: *bad is an index outside of a, and out is written in part. */
bool theus_gather(int64_t size, theus_dtype index_dtype, const theus_layout *layout, char *out, const char *indices,
                  const char *a, int64_t a_length, int64_t a_stride, __int128 *bad);

#endif
