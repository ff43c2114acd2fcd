/* Kernels: layouts, the loops for each dtype, and which of them runs. */
#include "kernels.h"

#include <stddef.h>
#include <string.h>

/* ---- sums ------------------------------------------------------------------------------------ */

enum { BLOCK = 128, LANES = 8, DEPTH = 64 };

/* What is summed up so far. Of floats: sums of 2^k blocks, at most one for each k, as the bits of `blocks` say. */
typedef struct {
    __int128 integer;
    bool overflow;
    uint64_t blocks;
    int depth;
    double re[DEPTH], im[DEPTH];
} summing;

static void
summing_integer(summing *sum, __int128 block)
{
    sum->overflow |= __builtin_add_overflow(sum->integer, block, &sum->integer);
}

/* Adds a * b; `is_unsigned`: the words stand for numbers without a sign. */
static inline void
summing_product(summing *sum, int64_t a, int64_t b, bool is_unsigned)
{
    __int128 product;
    if (is_unsigned) {
        unsigned __int128 large = (unsigned __int128)(uint64_t)a * (uint64_t)b;
        sum->overflow |= large >> 127 != 0;
        product = (__int128)(large & ~((unsigned __int128)1 << 127));
    }
    else {
        product = (__int128)a * b;
    }
    summing_integer(sum, product);
}

static inline void
summing_block(summing *sum, double re, double im)
{
    for (uint64_t bits = sum->blocks++; (bits & 1) != 0; bits >>= 1) {
        sum->depth--;
        re += sum->re[sum->depth];
        im += sum->im[sum->depth];
    }
    sum->re[sum->depth] = re;
    sum->im[sum->depth] = im;
    sum->depth++;
}

static inline double
lanes_total(const double lane[LANES])
{
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

static void
summing_end(const summing *sum, theus_total *total)
{
    double re = 0.0, im = 0.0;
    for (int i = sum->depth - 1; i >= 0; i--) { /* the small ones first */
        re += sum->re[i];
        im += sum->im[i];
    }
    *total = (theus_total){.integer = sum->integer, .re = re, .im = im, .overflow = sum->overflow};
}

/* ---- loops ----------------------------------------------------------------------------------- */

/* One run: n elements from p[k] on, s[k] bytes apart. */
typedef struct {
    void (*elementwise[THEUS_GREATER + 1])(char *const p[THEUS_OPERANDS], const int64_t s[THEUS_OPERANDS], int64_t n);
    void (*sum)(const char *a, int64_t sa, int64_t n, summing *sum);
    void (*dot)(const char *a, int64_t sa, const char *b, int64_t sb, int64_t n, summing *sum);
    void (*extreme)(const char *a, int64_t sa, int64_t n, bool greatest, void *so_far);
    size_t size;
} loops;

#define INTEGER 1
#define FLOAT 2
#define COMPLEX 3

#define T uint8_t
#define NAME(verb) verb##_bool
#define ADD(a, b) ((uint8_t)((a) | (b)))
#define EQUAL(a, b) (!(a) == !(b))
#define LEAST(m, a) ((a) < (m))
#define GREATEST(m, a) ((a) > (m))
#define TOTAL INTEGER
#include "kernels_loops.h"

/* W is so wide that nothing is promoted to int. */
#define T int8_t
#define W uint32_t
#define NAME(verb) verb##_int8
#define TOTAL INTEGER
#include "kernels_loops.h"

#define T int16_t
#define W uint32_t
#define NAME(verb) verb##_int16
#define TOTAL INTEGER
#include "kernels_loops.h"

#define T int32_t
#define W uint32_t
#define NAME(verb) verb##_int32
#define TOTAL INTEGER
#include "kernels_loops.h"

#define T int64_t
#define W uint64_t
#define NAME(verb) verb##_int64
#define TOTAL INTEGER
#include "kernels_loops.h"

#define T uint8_t
#define W uint32_t
#define NAME(verb) verb##_uint8
#define TOTAL INTEGER
#include "kernels_loops.h"

#define T uint16_t
#define W uint32_t
#define NAME(verb) verb##_uint16
#define TOTAL INTEGER
#include "kernels_loops.h"

#define T uint32_t
#define W uint32_t
#define NAME(verb) verb##_uint32
#define TOTAL INTEGER
#include "kernels_loops.h"

#define T uint64_t
#define W uint64_t
#define NAME(verb) verb##_uint64
#define TOTAL INTEGER
#include "kernels_loops.h"

/* NaN takes every place and gives none back. */
#define T float
#define NAME(verb) verb##_float32
#define ADD(a, b) ((a) + (b))
#define MUL(a, b) ((a) * (b))
#define EQUAL(a, b) ((a) == (b))
#define LEAST(m, a) ((a) < (m) || (a) != (a))
#define GREATEST(m, a) ((a) > (m) || (a) != (a))
#define TOTAL FLOAT
#include "kernels_loops.h"

#define T double
#define NAME(verb) verb##_float64
#define ADD(a, b) ((a) + (b))
#define MUL(a, b) ((a) * (b))
#define EQUAL(a, b) ((a) == (b))
#define LEAST(m, a) ((a) < (m) || (a) != (a))
#define GREATEST(m, a) ((a) > (m) || (a) != (a))
#define TOTAL FLOAT
#include "kernels_loops.h"

static inline theus_complex64
multiplied_complex64(theus_complex64 a, theus_complex64 b)
{
    return (theus_complex64){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

static inline theus_complex64
added_complex64(theus_complex64 a, theus_complex64 b)
{
    return (theus_complex64){a.re + b.re, a.im + b.im};
}

static inline theus_complex128
multiplied_complex128(theus_complex128 a, theus_complex128 b)
{
    return (theus_complex128){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

static inline theus_complex128
added_complex128(theus_complex128 a, theus_complex128 b)
{
    return (theus_complex128){a.re + b.re, a.im + b.im};
}

#define T theus_complex64
#define NAME(verb) verb##_complex64
#define ADD(a, b) added_complex64(a, b)
#define MUL(a, b) multiplied_complex64(a, b)
#define EQUAL(a, b) ((a).re == (b).re && (a).im == (b).im)
#define TOTAL COMPLEX
#include "kernels_loops.h"

#define T theus_complex128
#define NAME(verb) verb##_complex128
#define ADD(a, b) added_complex128(a, b)
#define MUL(a, b) multiplied_complex128(a, b)
#define EQUAL(a, b) ((a).re == (b).re && (a).im == (b).im)
#define TOTAL COMPLEX
#include "kernels_loops.h"

static const loops *const loops_of[THEUS_NO_DTYPE] = {
    [THEUS_BOOL] = &loops_bool,           [THEUS_INT8] = &loops_int8,
    [THEUS_INT16] = &loops_int16,         [THEUS_INT32] = &loops_int32,
    [THEUS_INT64] = &loops_int64,         [THEUS_UINT8] = &loops_uint8,
    [THEUS_UINT16] = &loops_uint16,       [THEUS_UINT32] = &loops_uint32,
    [THEUS_UINT64] = &loops_uint64,       [THEUS_FLOAT32] = &loops_float32,
    [THEUS_FLOAT64] = &loops_float64,     [THEUS_COMPLEX64] = &loops_complex64,
    [THEUS_COMPLEX128] = &loops_complex128,
};

/* ---- layouts --------------------------------------------------------------------------------- */

static int64_t
absolute(int64_t stride)
{
    return stride < 0 ? -stride : stride;
}

/* Whether axis i has smaller steps than axis j. The first operand decides, that is the one which is written. */
static bool
is_inside(const theus_layout *layout, int i, int j)
{
    for (int k = 0; k < layout->operands; k++) {
        int64_t a = absolute(layout->strides[k][i]), b = absolute(layout->strides[k][j]);
        if (a != b) {
            return a < b;
        }
    }
    return false;
}

static void
move_axis(theus_layout *layout, int to, int from)
{
    layout->shape[to] = layout->shape[from];
    for (int k = 0; k < layout->operands; k++) {
        layout->strides[k][to] = layout->strides[k][from];
    }
}

static void
swap_axes(theus_layout *layout, int i, int j)
{
    int64_t shape = layout->shape[i];
    layout->shape[i] = layout->shape[j];
    layout->shape[j] = shape;
    for (int k = 0; k < layout->operands; k++) {
        int64_t stride = layout->strides[k][i];
        layout->strides[k][i] = layout->strides[k][j];
        layout->strides[k][j] = stride;
    }
}

/* Whether axis `inner`, walked through, ends where the next step of axis `outer` begins: in every operand. */
static bool
is_end_to_end(const theus_layout *layout, int outer, int inner)
{
    for (int k = 0; k < layout->operands; k++) {
        if (layout->strides[k][outer] != layout->strides[k][inner] * layout->shape[inner]) {
            return false;
        }
    }
    return true;
}

void
theus_layout_simplify(theus_layout *layout)
{
    int ndim = 0;
    for (int i = 0; i < layout->ndim; i++) {
        if (layout->shape[i] == 0) {
            layout->ndim = 1;
            move_axis(layout, 0, i);
            return;
        }
        if (layout->shape[i] != 1) {
            move_axis(layout, ndim++, i);
        }
    }
    layout->ndim = ndim;
    for (int i = 1; i < ndim; i++) {
        for (int j = i; j > 0 && is_inside(layout, j - 1, j); j--) {
            swap_axes(layout, j - 1, j);
        }
    }
    for (int i = ndim - 2; i >= 0; i--) {
        if (is_end_to_end(layout, i, i + 1)) {
            layout->shape[i] *= layout->shape[i + 1];
            for (int k = 0; k < layout->operands; k++) {
                layout->strides[k][i] = layout->strides[k][i + 1];
            }
            for (int j = i + 1; j + 1 < layout->ndim; j++) {
                move_axis(layout, j, j + 1);
            }
            layout->ndim--;
        }
    }
}

/* All runs of a layout, one after the other. */
typedef struct {
    const theus_layout *layout;
    int64_t at[THEUS_DIMS_MAX];
    char *p[THEUS_OPERANDS];
    int64_t s[THEUS_OPERANDS]; /* within a run */
    int64_t n;                 /* elements of a run */
} walk;

/* False if there is no run. */
static bool
walk_begin(walk *walk, const theus_layout *layout, char *const data[])
{
    int last = layout->ndim - 1;
    walk->layout = layout;
    walk->n = last < 0 ? 1 : layout->shape[last];
    for (int k = 0; k < THEUS_OPERANDS; k++) {
        walk->p[k] = k < layout->operands ? data[k] : NULL;
        walk->s[k] = k < layout->operands && last >= 0 ? layout->strides[k][last] : 0;
    }
    for (int i = 0; i < last; i++) {
        walk->at[i] = 0;
    }
    return walk->n > 0;
}

static bool
walk_next(walk *walk)
{
    const theus_layout *layout = walk->layout;
    for (int i = layout->ndim - 2; i >= 0; i--) {
        bool more = ++walk->at[i] < layout->shape[i];
        int64_t steps = more ? 1 : 1 - layout->shape[i];
        for (int k = 0; k < layout->operands; k++) {
            walk->p[k] += steps * layout->strides[k][i];
        }
        if (more) {
            return true;
        }
        walk->at[i] = 0;
    }
    return false;
}

/* ---- what is called ----------------------------------------------------------------------------- */

bool
theus_elementwise_has(theus_elementwise op, theus_dtype dtype)
{
    return loops_of[dtype]->elementwise[op] != NULL;
}

void
theus_elementwise_run(theus_elementwise op, theus_dtype dtype, const theus_layout *layout,
                      char *const data[THEUS_OPERANDS])
{
    walk walk;
    for (bool more = walk_begin(&walk, layout, data); more; more = walk_next(&walk)) {
        loops_of[dtype]->elementwise[op](walk.p, walk.s, walk.n);
    }
}

theus_total_kind
theus_total_kind_of(theus_dtype dtype)
{
    switch (dtype) {
    case THEUS_FLOAT32:
    case THEUS_FLOAT64:
        return THEUS_TOTAL_FLOAT;
    case THEUS_COMPLEX64:
    case THEUS_COMPLEX128:
        return THEUS_TOTAL_COMPLEX;
    default:
        return THEUS_TOTAL_INTEGER;
    }
}

void
theus_sum(theus_dtype dtype, const theus_layout *layout, const char *data, theus_total *total)
{
    summing sum = {.integer = 0, .depth = 0};
    walk walk;
    for (bool more = walk_begin(&walk, layout, (char *const[]){(char *)data}); more; more = walk_next(&walk)) {
        loops_of[dtype]->sum(walk.p[0], walk.s[0], walk.n, &sum);
    }
    summing_end(&sum, total);
}

void
theus_dot(theus_dtype dtype, const theus_layout *layout, const char *a, const char *b, theus_total *total)
{
    summing sum = {.integer = 0, .depth = 0};
    walk walk;
    for (bool more = walk_begin(&walk, layout, (char *const[]){(char *)a, (char *)b}); more; more = walk_next(&walk)) {
        loops_of[dtype]->dot(walk.p[0], walk.s[0], walk.p[1], walk.s[1], walk.n, &sum);
    }
    summing_end(&sum, total);
}

void
theus_extreme(theus_dtype dtype, bool greatest, const theus_layout *layout, const char *data, void *out)
{
    walk walk;
    memcpy(out, data, loops_of[dtype]->size);
    for (bool more = walk_begin(&walk, layout, (char *const[]){(char *)data}); more; more = walk_next(&walk)) {
        loops_of[dtype]->extreme(walk.p[0], walk.s[0], walk.n, greatest, out);
    }
}

/* ---- gather ----------------------------------------------------------------------------------- */

static __int128
index_at(theus_dtype dtype, const char *p)
{
#define INDEX_CASE(which, type)       \
    case which: {                     \
        type index;                   \
        memcpy(&index, p, sizeof(index)); \
        return index;                 \
    }
    switch (dtype) {
        INDEX_CASE(THEUS_INT8, int8_t)
        INDEX_CASE(THEUS_INT16, int16_t)
        INDEX_CASE(THEUS_INT32, int32_t)
        INDEX_CASE(THEUS_INT64, int64_t)
        INDEX_CASE(THEUS_UINT8, uint8_t)
        INDEX_CASE(THEUS_UINT16, uint16_t)
        INDEX_CASE(THEUS_UINT32, uint32_t)
        INDEX_CASE(THEUS_UINT64, uint64_t)
    default:
        return INT64_MAX; /* outside of everything */
    }
#undef INDEX_CASE
}

static inline void
copy_element(char *to, const char *from, int64_t size)
{
    switch (size) { /* a constant size is an instruction or two */
    case 1: memcpy(to, from, 1); break;
    case 2: memcpy(to, from, 2); break;
    case 4: memcpy(to, from, 4); break;
    case 8: memcpy(to, from, 8); break;
    default: memcpy(to, from, (size_t)size); break;
    }
}

bool
theus_gather(int64_t size, theus_dtype index_dtype, const theus_layout *layout, char *out, const char *indices,
             const char *a, int64_t a_length, int64_t a_stride, __int128 *bad)
{
    walk walk;
    for (bool more = walk_begin(&walk, layout, (char *const[]){out, (char *)indices}); more; more = walk_next(&walk)) {
        for (int64_t i = 0; i < walk.n; i++) {
            __int128 asked = index_at(index_dtype, walk.p[1] + i * walk.s[1]);
            __int128 index = asked < 0 ? asked + a_length : asked;
            if (index < 0 || index >= a_length) {
                *bad = asked;
                return false;
            }
            copy_element(walk.p[0] + i * walk.s[0], a + (int64_t)index * a_stride, size);
        }
    }
    return true;
}
