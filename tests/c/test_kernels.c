/* Kernels over random layouts, each beside a reference that knows one element at a time.
 *
 * Every operand has memory of its own, of exactly the bytes that it needs, so that a sanitizer sees a step too far. What
 * lies between the elements of an output is compared, too: nothing else is written. Floats are halves of small numbers,
 * whose sums and products are exact in any order; NaN and infinity are where nothing is computed.
 *
 *     test_kernels [ROUNDS] */
#include "check.h"

#include "kernels.h"

#include <math.h>

static unsigned long long chance = 20240607;

static unsigned
below(unsigned limit)
{
    return check_random(&chance, limit);
}

/* ---- one element ----------------------------------------------------------------------------- */

static const int64_t size_of[] = {
#define SIZE(name, type) sizeof(type),
    THEUS_DTYPE_LIST(SIZE)
#undef SIZE
};

static const bool has_no_sign[THEUS_NO_DTYPE] = {
    [THEUS_BOOL] = true,   [THEUS_UINT8] = true,  [THEUS_UINT16] = true,
    [THEUS_UINT32] = true, [THEUS_UINT64] = true,
};

/* Of integers and BOOL the first field counts, of floats `re`. */
typedef struct {
    __int128 integer;
    double re, im;
} number;

static number
number_load(theus_dtype dtype, const char *at)
{
    int64_t word = 0;
    theus_complex64 c64;
    theus_complex128 c128;
    float f32;
    double f64;
    switch (dtype) {
    case THEUS_FLOAT32:
        memcpy(&f32, at, sizeof(f32));
        return (number){.re = (double)f32};
    case THEUS_FLOAT64:
        memcpy(&f64, at, sizeof(f64));
        return (number){.re = f64};
    case THEUS_COMPLEX64:
        memcpy(&c64, at, sizeof(c64));
        return (number){.re = (double)c64.re, .im = (double)c64.im};
    case THEUS_COMPLEX128:
        memcpy(&c128, at, sizeof(c128));
        return (number){.re = c128.re, .im = c128.im};
    default: { /* the bytes of an integer, the lowest one first */
        int bits = 8 * (int)size_of[dtype];
        memcpy(&word, at, (size_t)size_of[dtype]);
        __int128 wide = (uint64_t)word;
        bool negative = !has_no_sign[dtype] && (wide >> (bits - 1) & 1) != 0;
        return (number){.integer = negative ? wide - ((__int128)1 << bits) : wide};
    }
    }
}

static void
number_store(theus_dtype dtype, char *at, number value)
{
    uint64_t word = (uint64_t)value.integer;
    theus_complex64 c64 = {(float)value.re, (float)value.im};
    theus_complex128 c128 = {value.re, value.im};
    float f32 = (float)value.re;
    switch (dtype) {
    case THEUS_FLOAT32: memcpy(at, &f32, sizeof(f32)); break;
    case THEUS_FLOAT64: memcpy(at, &value.re, sizeof(value.re)); break;
    case THEUS_COMPLEX64: memcpy(at, &c64, sizeof(c64)); break;
    case THEUS_COMPLEX128: memcpy(at, &c128, sizeof(c128)); break;
    default: memcpy(at, &word, (size_t)size_of[dtype]); break;
    }
}

typedef enum { PLAIN, WILD } nature;

static double
random_float(nature nature)
{
    static const double wild[] = {NAN, INFINITY, -INFINITY, -0.0, 0.0, 1e30};
    return nature == WILD && below(4) == 0 ? wild[below(6)] : ((double)below(33) - 16.0) / 2.0;
}

/* Plain: integers of 32 bits, or of as many as there are. Wild: all bits, the ends of the range, and ties. */
static number
random_number(theus_dtype dtype, nature nature)
{
    static const int64_t wild[] = {0, 1, -1, INT64_MIN, INT64_MAX, 0x80, 0x7fff, INT32_MIN};
    number value = {.re = random_float(nature), .im = random_float(nature)};
    if (dtype == THEUS_BOOL) {
        value.integer = below(2);
    }
    else if (nature == WILD) {
        value.integer = below(2) ? wild[below(8)] : (int64_t)below(1u << 31) << below(33);
    }
    else {
        value.integer = (int32_t)(below(1u << 31) << 1);
        value.integer = has_no_sign[dtype] ? (uint32_t)value.integer : value.integer;
    }
    return value;
}

/* What `op` makes of out, a and b. */
static number
combined(theus_elementwise op, number out, number a, number b)
{
    bool less = a.integer < b.integer || a.re < b.re;
    bool equal = a.integer == b.integer && a.re == b.re && a.im == b.im;
    bool greater = a.integer > b.integer || a.re > b.re;
    number product = {
        .integer = (__int128)((unsigned __int128)a.integer * (unsigned __int128)b.integer),
        .re = a.re * b.re - a.im * b.im,
        .im = a.re * b.im + a.im * b.re,
    };
    switch (op) {
    case THEUS_COPY: return a;
    case THEUS_ADD: return (number){a.integer + b.integer, a.re + b.re, a.im + b.im};
    case THEUS_SCALE: return product;
    case THEUS_AXPY:
        return (number){(__int128)((unsigned __int128)out.integer + (unsigned __int128)product.integer),
                        out.re + product.re, out.im + product.im};
    case THEUS_LESS: return (number){.integer = less};
    case THEUS_LESS_EQUAL: return (number){.integer = less || equal};
    case THEUS_EQUAL: return (number){.integer = equal};
    case THEUS_NOT_EQUAL: return (number){.integer = !equal};
    case THEUS_GREATER_EQUAL: return (number){.integer = greater || equal};
    case THEUS_GREATER: return (number){.integer = greater};
    }
    return out;
}

/* ---- random arrays ------------------------------------------------------------------------------ */

/* The memory of one operand, and its first element in it. */
typedef struct {
    char *memory, *first;
    size_t size;
} place;

static void
random_shape(theus_layout *layout)
{
    layout->ndim = (int)below(5);
    for (int i = 0; i < layout->ndim; i++) {
        layout->shape[i] = below(5);
    }
    if (layout->ndim > 0 && below(4) == 0) { /* more than a block */
        layout->shape[below((unsigned)layout->ndim)] = below(700);
    }
}

static int64_t
count_of(const theus_layout *layout)
{
    int64_t count = 1;
    for (int i = 0; i < layout->ndim; i++) {
        count *= layout->shape[i];
    }
    return count;
}

/* Where element `index` of operand k lies, from its first one. */
static int64_t
offset_of(const theus_layout *layout, int k, int64_t index)
{
    int64_t offset = 0;
    for (int i = layout->ndim - 1; i >= 0; i--) {
        offset += index % layout->shape[i] * layout->strides[k][i];
        index /= layout->shape[i];
    }
    return offset;
}

/* Strides for operand k in any order of the axes, packed or with gaps of any size, forwards or back; an input may have
 * axes, or all of them, on which it does not move. Elements are `size` bytes. */
static place
random_place(theus_layout *layout, int k, int64_t size)
{
    bool packed = below(2), is_input = k > 0, still = is_input && below(4) == 0;
    int first_axis = layout->ndim > 0 ? (int)below((unsigned)layout->ndim) : 0;
    int64_t step = size, low = 0, high = size;
    for (int n = 0; n < layout->ndim; n++) {
        int i = packed ? layout->ndim - 1 - n : (first_axis + n) % layout->ndim;
        int64_t gap = packed ? 0 : (int64_t)below(3) * (below(2) ? size : 1);
        int64_t stride = (packed || below(2) ? 1 : -1) * (step + gap);
        stride = still || (is_input && !packed && below(4) == 0) ? 0 : stride;
        layout->strides[k][i] = stride;
        if (layout->shape[i] > 0) {
            int64_t reach = (layout->shape[i] - 1) * stride;
            *(reach < 0 ? &low : &high) += reach;
            step = (step + gap) * layout->shape[i];
        }
    }
    int64_t odd = below(2);
    place place = {.size = (size_t)(count_of(layout) == 0 ? odd : high - low + odd)};
    place.memory = malloc(place.size > 0 ? place.size : 1);
    REQUIRE(place.memory != NULL);
    memset(place.memory, 0x5a, place.size);
    place.first = place.memory + odd + (count_of(layout) == 0 ? 0 : -low);
    return place;
}

static void
fill(const theus_layout *layout, int k, const place *place, theus_dtype dtype, nature nature)
{
    for (int64_t i = 0, count = count_of(layout); i < count; i++) {
        number_store(dtype, place->first + offset_of(layout, k, i), random_number(dtype, nature));
    }
}

static number
element(const theus_layout *layout, int k, const place *place, theus_dtype dtype, int64_t i)
{
    return number_load(dtype, place->first + offset_of(layout, k, i));
}

/* ---- each kernel beside its reference --------------------------------------------------------------- */

static void
elementwise_round(theus_elementwise op, theus_dtype dtype)
{
    bool compares = op >= THEUS_LESS;
    theus_dtype out_dtype = compares ? THEUS_BOOL : dtype;
    theus_layout layout = {.operands = op == THEUS_COPY ? 2 : 3};
    nature nature = compares || op == THEUS_COPY || theus_total_kind_of(dtype) == THEUS_TOTAL_INTEGER ? WILD : PLAIN;
    place places[THEUS_OPERANDS] = {{NULL, NULL, 0}};
    char *data[THEUS_OPERANDS] = {NULL};
    random_shape(&layout);
    for (int k = 0; k < layout.operands; k++) {
        theus_dtype of_k = k == 0 ? out_dtype : dtype;
        places[k] = random_place(&layout, k, size_of[of_k]);
        fill(&layout, k, &places[k], of_k, nature);
        data[k] = places[k].first;
    }
    bool in_place = out_dtype == dtype && below(4) == 0;
    int input = in_place ? 0 : 1;
    if (in_place) {
        memcpy(layout.strides[1], layout.strides[0], sizeof(layout.strides[1]));
        data[1] = data[0];
    }

    place wanted = {.memory = malloc(places[0].size + 1), .size = places[0].size};
    REQUIRE(wanted.memory != NULL);
    memcpy(wanted.memory, places[0].memory, wanted.size);
    wanted.first = wanted.memory + (places[0].first - places[0].memory);
    for (int64_t i = 0, count = count_of(&layout); i < count; i++) {
        number out = element(&layout, 0, &places[0], out_dtype, i), a = element(&layout, input, &places[input], dtype, i);
        number b = op == THEUS_COPY ? a : element(&layout, 2, &places[2], dtype, i), result;
        result = combined(op, out, a, b);
        if (dtype == THEUS_BOOL && op == THEUS_ADD) {
            result.integer = a.integer != 0 || b.integer != 0;
        }
        number_store(out_dtype, wanted.first + offset_of(&layout, 0, i), result);
    }

    theus_layout simple = layout;
    theus_layout_simplify(&simple);
    theus_elementwise_run(op, dtype, &simple, data);
    CHECK(memcmp(places[0].memory, wanted.memory, wanted.size) == 0);
    free(wanted.memory);
    for (int k = 0; k < layout.operands; k++) {
        free(places[k].memory);
    }
}

/* What theus_sum says of operand 0, and theus_dot of both. */
static void
total_round(theus_dtype dtype)
{
    bool whole = theus_total_kind_of(dtype) == THEUS_TOTAL_INTEGER, has_dot = dtype != THEUS_BOOL;
    theus_layout layout = {.operands = 2}, simple;
    place a, b;
    number sum = {0}, dot = {0};
    theus_total total;
    random_shape(&layout);
    a = random_place(&layout, 0, size_of[dtype]);
    b = random_place(&layout, 1, size_of[dtype]);
    fill(&layout, 1, &b, dtype, PLAIN);
    for (int k = has_dot; k >= 0; k--) {
        fill(&layout, 0, &a, dtype, whole && k == 0 ? WILD : PLAIN);
        sum = dot = (number){0};
        for (int64_t i = 0, count = count_of(&layout); i < count; i++) {
            number x = element(&layout, 0, &a, dtype, i), y = element(&layout, 1, &b, dtype, i);
            sum = combined(THEUS_ADD, sum, sum, x);
            dot = combined(THEUS_AXPY, dot, x, y);
        }
        simple = layout;
        simple.operands = k + 1;
        theus_layout_simplify(&simple);
        if (k == 1) {
            theus_dot(dtype, &simple, a.first, b.first, &total);
        }
        else {
            theus_sum(dtype, &simple, a.first, &total);
        }
        number wanted = k == 1 ? dot : sum;
        CHECK(!total.overflow);
        CHECK(whole ? total.integer == wanted.integer : total.re == wanted.re && total.im == wanted.im);
    }
    free(a.memory);
    free(b.memory);
}

static void
extreme_round(theus_dtype dtype, bool greatest)
{
    theus_layout layout = {.operands = 1};
    random_shape(&layout);
    place a = random_place(&layout, 0, size_of[dtype]);
    int64_t count = count_of(&layout);
    fill(&layout, 0, &a, dtype, below(2) ? WILD : PLAIN);
    if (count > 0) {
        char out[16];
        number wanted = element(&layout, 0, &a, dtype, 0);
        for (int64_t i = 1; i < count; i++) {
            number x = element(&layout, 0, &a, dtype, i);
            bool better = combined(greatest ? THEUS_GREATER : THEUS_LESS, wanted, x, wanted).integer != 0;
            wanted = better || isnan(x.re) ? x : wanted;
            if (isnan(wanted.re)) {
                break;
            }
        }
        theus_layout simple = layout;
        theus_layout_simplify(&simple);
        theus_extreme(dtype, greatest, &simple, a.first, out);
        number found = number_load(dtype, out);
        CHECK(found.integer == wanted.integer);
        CHECK(found.re == wanted.re || (isnan(found.re) && isnan(wanted.re)));
    }
    free(a.memory);
}

/* Elements of any size, which are numbered by their first byte. */
static void
gather_round(theus_dtype index_dtype)
{
    int64_t size = (int64_t)1 << below(5), length = 1 + below(100), step = (below(2) ? 1 : -1) * (size + below(3));
    theus_layout layout = {.operands = 2};
    random_shape(&layout);
    place out = random_place(&layout, 0, size), indices = random_place(&layout, 1, size_of[index_dtype]);
    char *a = malloc((size_t)(length * (size + 2)));
    REQUIRE(a != NULL);
    char *first = step < 0 ? a - (length - 1) * step : a;
    for (int64_t i = 0; i < length; i++) {
        memset(first + i * step, (int)(i + 1), (size_t)size);
    }
    int64_t count = count_of(&layout), bad_one = count > 0 && below(4) == 0 ? (int64_t)below((unsigned)count) : -1;
    const int64_t outside[] = {length, 120, -length - 1, -120};
    for (int64_t i = 0; i < count; i++) {
        __int128 index = (__int128)below((unsigned)length) - (!has_no_sign[index_dtype] && below(2) ? length : 0);
        index = i == bad_one ? outside[below(has_no_sign[index_dtype] ? 2 : 4)] : index;
        number_store(index_dtype, indices.first + offset_of(&layout, 1, i), (number){.integer = index});
    }
    bool wanted = true;
    for (int64_t i = 0; i < count; i++) { /* an input that does not move has overwritten some of them */
        __int128 index = element(&layout, 1, &indices, index_dtype, i).integer;
        wanted = wanted && index >= -length && index < length;
    }

    __int128 bad = 0;
    theus_layout simple = layout;
    theus_layout_simplify(&simple);
    bool found = theus_gather(size, index_dtype, &simple, out.first, indices.first, first, length, step, &bad);
    CHECK(found == wanted);
    CHECK(found || bad >= length || bad < -length);
    for (int64_t i = 0; found && i < count; i++) {
        __int128 index = element(&layout, 1, &indices, index_dtype, i).integer;
        const char *at = out.first + offset_of(&layout, 0, i);
        for (int64_t byte = 0; byte < size; byte++) {
            CHECK(at[byte] == (char)((index < 0 ? index + length : index) + 1));
        }
    }
    free(out.memory);
    free(indices.memory);
    free(a);
}

static void
test_random_layouts(long rounds)
{
    for (long round = 0; round < rounds; round++) {
        theus_dtype dtype = (theus_dtype)below(THEUS_NO_DTYPE), index = (theus_dtype)(THEUS_INT8 + below(8));
        theus_elementwise op = (theus_elementwise)below(THEUS_GREATER + 1);
        if (theus_elementwise_has(op, dtype)) {
            elementwise_round(op, dtype);
        }
        total_round(dtype);
        if (theus_elementwise_has(THEUS_LESS, dtype)) {
            extreme_round(dtype, below(2));
        }
        gather_round(index);
    }
}

/* ---- what random layouts do not show -------------------------------------------------------------------- */

static void
test_which_there_are(void)
{
    for (int dtype = 0; dtype < THEUS_NO_DTYPE; dtype++) {
        bool is_complex = theus_total_kind_of((theus_dtype)dtype) == THEUS_TOTAL_COMPLEX;
        for (int op = 0; op <= THEUS_GREATER; op++) {
            bool orders = op >= THEUS_LESS && op != THEUS_EQUAL && op != THEUS_NOT_EQUAL;
            bool multiplies = op == THEUS_SCALE || op == THEUS_AXPY;
            bool wanted = !(is_complex && orders) && !(dtype == THEUS_BOOL && multiplies);
            CHECK(theus_elementwise_has((theus_elementwise)op, (theus_dtype)dtype) == wanted);
        }
    }
}

/* Contiguous arrays are one run, whatever their shape and the order of their axes; a gap makes two axes. */
static void
test_layouts_get_simple(void)
{
    theus_layout rows = {2, 3, {2, 3, 4}, {{96, 32, 8}, {48, 16, 4}}};
    theus_layout columns = {2, 3, {4, 3, 2}, {{8, 32, 96}, {4, 16, 48}}};
    theus_layout broken = {2, 3, {2, 3, 4}, {{96, 32, 8}, {64, 16, 4}}};
    theus_layout empty = {1, 3, {2, 0, 4}, {{1, 2, 3}}};
    theus_layout point = {1, 0, {0}, {{0}}};
    theus_layout_simplify(&rows);
    CHECK(rows.ndim == 1 && rows.shape[0] == 24 && rows.strides[0][0] == 8 && rows.strides[1][0] == 4);
    theus_layout_simplify(&columns);
    CHECK(columns.ndim == 1 && columns.shape[0] == 24 && columns.strides[0][0] == 8 && columns.strides[1][0] == 4);
    theus_layout_simplify(&broken);
    CHECK(broken.ndim == 2 && broken.shape[0] == 2 && broken.shape[1] == 12 && broken.strides[1][0] == 64);
    theus_layout_simplify(&empty);
    CHECK(empty.ndim == 1 && empty.shape[0] == 0);
    theus_layout_simplify(&point);
    CHECK(point.ndim == 0);

    theus_layout deep = {.operands = 1, .ndim = THEUS_DIMS_MAX};
    uint8_t bytes[1 << 10];
    theus_total total;
    for (int i = 0; i < THEUS_DIMS_MAX; i++) { /* ten axes with a step are among those of length 1 */
        deep.shape[i] = i % 6 == 3 && i < 60 ? 2 : 1;
        deep.strides[0][i] = deep.shape[i] == 2 ? 1 << (i / 6) : 12345;
    }
    memset(bytes, 3, sizeof(bytes));
    theus_layout_simplify(&deep);
    CHECK(deep.ndim == 1 && deep.shape[0] == 1 << 10);
    theus_sum(THEUS_UINT8, &deep, (const char *)bytes, &total);
    CHECK(total.integer == 3 << 10);
}

/* Totals of integers are exact up to 128 bits, and said to be none beyond. */
static void
test_large_totals(void)
{
    static const uint64_t large[] = {UINT64_MAX, UINT64_MAX}, half[] = {(uint64_t)1 << 63, (uint64_t)1 << 63};
    static const int64_t least[] = {INT64_MIN, INT64_MIN};
    theus_layout one = {2, 1, {1}, {{8}, {8}}}, two = {2, 1, {2}, {{8}, {8}}};
    theus_total total;
    theus_dot(THEUS_INT64, &one, (const char *)least, (const char *)least, &total);
    CHECK(!total.overflow && total.integer == (__int128)1 << 126);
    theus_dot(THEUS_INT64, &two, (const char *)least, (const char *)least, &total);
    CHECK(total.overflow);
    theus_dot(THEUS_UINT64, &one, (const char *)half, (const char *)half, &total);
    CHECK(!total.overflow && total.integer == (__int128)1 << 126);
    theus_dot(THEUS_UINT64, &two, (const char *)half, (const char *)half, &total);
    CHECK(total.overflow);
    theus_dot(THEUS_UINT64, &one, (const char *)large, (const char *)large, &total);
    CHECK(total.overflow);
    two.operands = 1;
    theus_sum(THEUS_UINT64, &two, (const char *)large, &total);
    CHECK(!total.overflow && total.integer == 2 * (__int128)UINT64_MAX);
}

/* The error of a sum grows with the logarithm of the number of its terms: at most 16 additions in a lane, 3 over the lanes
 * and 13 over the blocks, and each of them rounds by 2^-53. One after the other there would be a million of them. */
static void
test_floats_are_summed_pairwise(void)
{
    enum { MANY = 1 << 20 };
    const double wanted = 0.1 * MANY; /* exact: a power of two */
    double *numbers = malloc(MANY * sizeof(double)), *ones = malloc(MANY * sizeof(double));
    REQUIRE(numbers != NULL && ones != NULL);
    for (long i = 0; i < MANY; i++) {
        numbers[i] = 0.1;
        ones[i] = 1.0;
    }
    theus_layout layout = {2, 1, {MANY}, {{8}, {8}}};
    theus_total sum, dot;
    theus_dot(THEUS_FLOAT64, &layout, (const char *)numbers, (const char *)ones, &dot);
    layout.operands = 1;
    theus_sum(THEUS_FLOAT64, &layout, (const char *)numbers, &sum);
    CHECK(fabs(sum.re - wanted) <= wanted * 32 * 0x1p-53);
    CHECK(dot.re == sum.re);
    free(numbers);
    free(ones);
}

int
main(int argc, char **argv)
{
    test_which_there_are();
    test_layouts_get_simple();
    test_large_totals();
    test_floats_are_summed_pairwise();
    test_random_layouts(argc > 1 ? atol(argv[1]) : 4000);
    return check_result();
}
