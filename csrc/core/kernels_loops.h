/* The loops of one dtype. kernels.c includes this once for each, with
 *
 *     T               the C type of an element
 *     NAME(verb)      the name of a function of this dtype
 *     TOTAL           INTEGER, FLOAT or COMPLEX: how to sum up
 *
 * and with W alone for integers, the unsigned type to compute in; for others with
 *
 *     ADD(a, b)       a + b, as T
 *     MUL(a, b)       a * b, as T; not for BOOL
 *     EQUAL(a, b)
 *     LEAST(m, a)     whether a takes the place of m as the least so far, and GREATEST(m, a): if elements have an order
 *
 * It undefines them all. Elements need not be aligned, so they are read through U. */

#ifdef W
#define ADD(a, b) ((T)((W)(a) + (W)(b)))
#define MUL(a, b) ((T)((W)(a) * (W)(b)))
#define EQUAL(a, b) ((a) == (b))
#define LEAST(m, a) ((a) < (m))
#define GREATEST(m, a) ((a) > (m))
#endif

#if TOTAL == COMPLEX
typedef T NAME(U); /* is packed */
#else
typedef T NAME(U) __attribute__((aligned(1), may_alias));
#endif
#define U NAME(U)

/* `value` is made of *o, a and b. The first loop is the one that counts: everything side by side, or b a number. */
#define ELEMENTWISE(verb, O, value)                                                                     \
    static void NAME(verb)(char *const p[THEUS_OPERANDS], const int64_t s[THEUS_OPERANDS], int64_t n)   \
    {                                                                                                   \
        bool packed = s[0] == (int64_t)sizeof(O) && s[1] == (int64_t)sizeof(T);                         \
        if (packed && s[2] == (int64_t)sizeof(T)) {                                                     \
            O *out = (O *)p[0];                                                                         \
            const U *x = (const U *)p[1], *y = (const U *)p[2];                                         \
            for (int64_t i = 0; i < n; i++) {                                                           \
                O *o = &out[i];                                                                         \
                const T a = x[i], b = y[i];                                                             \
                *o = (value);                                                                           \
            }                                                                                           \
        }                                                                                               \
        else if (packed && s[2] == 0 && n > 0) {                                                        \
            O *out = (O *)p[0];                                                                         \
            const U *x = (const U *)p[1];                                                               \
            const T b = *(const U *)p[2];                                                               \
            for (int64_t i = 0; i < n; i++) {                                                           \
                O *o = &out[i];                                                                         \
                const T a = x[i];                                                                       \
                *o = (value);                                                                           \
            }                                                                                           \
        }                                                                                               \
        else {                                                                                          \
            for (int64_t i = 0; i < n; i++) {                                                           \
                O *o = (O *)(p[0] + i * s[0]);                                                          \
                const T a = *(const U *)(p[1] + i * s[1]), b = *(const U *)(p[2] + i * s[2]);           \
                *o = (value);                                                                           \
            }                                                                                           \
        }                                                                                               \
    }

ELEMENTWISE(add, U, ADD(a, b))
ELEMENTWISE(equal, uint8_t, EQUAL(a, b))
ELEMENTWISE(not_equal, uint8_t, !EQUAL(a, b))
#ifdef MUL
ELEMENTWISE(scale, U, MUL(a, b))
ELEMENTWISE(axpy, U, ADD(*o, MUL(a, b)))
#endif
#ifdef LEAST
ELEMENTWISE(less, uint8_t, a < b)
ELEMENTWISE(less_equal, uint8_t, a <= b)
ELEMENTWISE(greater_equal, uint8_t, a >= b)
ELEMENTWISE(greater, uint8_t, a > b)
#endif

static void
NAME(copy)(char *const p[THEUS_OPERANDS], const int64_t s[THEUS_OPERANDS], int64_t n)
{
    if (s[0] == (int64_t)sizeof(T) && s[1] == (int64_t)sizeof(T)) {
        memmove(p[0], p[1], (size_t)n * sizeof(T));
        return;
    }
    if (s[0] == (int64_t)sizeof(T) && s[1] == 0 && n > 0) {
        U *out = (U *)p[0];
        const T a = *(const U *)p[1];
        for (int64_t i = 0; i < n; i++) {
            out[i] = a;
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        *(U *)(p[0] + i * s[0]) = *(const U *)(p[1] + i * s[1]);
    }
}

/* Sums of one run, in blocks. `b` is NULL for a plain sum. */
#define X(i) (*(const U *)(a + (i) * sa))
#define Y(i) (*(const U *)(b + (i) * sb))

static void
NAME(sum)(const char *a, int64_t sa, int64_t n, summing *sum)
{
    for (int64_t left = n; left > 0;) {
        int64_t m = left < BLOCK ? left : BLOCK;
#if TOTAL == INTEGER
        /* A block of what is at most 32 bits wide fits into 64. */
        if (sizeof(T) < 8) {
            int64_t block = 0;
            if (sa == (int64_t)sizeof(T)) {
                const U *x = (const U *)a;
                for (int64_t i = 0; i < m; i++) {
                    block += (int64_t)x[i];
                }
            }
            else {
                for (int64_t i = 0; i < m; i++) {
                    block += (int64_t)X(i);
                }
            }
            summing_integer(sum, block);
        }
        else {
            __int128 block = 0;
            for (int64_t i = 0; i < m; i++) {
                block += X(i);
            }
            summing_integer(sum, block);
        }
#elif TOTAL == FLOAT
        double lane[LANES] = {0};
        int64_t i = 0;
        if (sa == (int64_t)sizeof(T)) {
            const U *x = (const U *)a;
            for (; i + LANES <= m; i += LANES) {
                for (int k = 0; k < LANES; k++) {
                    lane[k] += x[i + k];
                }
            }
        }
        for (; i < m; i++) {
            lane[i % LANES] += X(i);
        }
        summing_block(sum, lanes_total(lane), 0.0);
#else
        double re[2] = {0}, im[2] = {0};
        for (int64_t i = 0; i < m; i++) {
            re[i % 2] += X(i).re;
            im[i % 2] += X(i).im;
        }
        summing_block(sum, re[0] + re[1], im[0] + im[1]);
#endif
        a += m * sa;
        left -= m;
    }
}

#ifdef MUL
static void
NAME(dot)(const char *a, int64_t sa, const char *b, int64_t sb, int64_t n, summing *sum)
{
    for (int64_t left = n; left > 0;) {
        int64_t m = left < BLOCK ? left : BLOCK;
#if TOTAL == INTEGER
        if (sizeof(T) < 4) {
            int64_t block = 0;
            for (int64_t i = 0; i < m; i++) {
                block += (int64_t)X(i) * (int64_t)Y(i);
            }
            summing_integer(sum, block);
        }
        else {
            for (int64_t i = 0; i < m; i++) {
                summing_product(sum, (int64_t)X(i), (int64_t)Y(i), (T)-1 > 0 && sizeof(T) == 8);
            }
        }
#elif TOTAL == FLOAT
        double lane[LANES] = {0};
        int64_t i = 0;
        if (sa == (int64_t)sizeof(T) && sb == (int64_t)sizeof(T)) {
            const U *x = (const U *)a, *y = (const U *)b;
            for (; i + LANES <= m; i += LANES) {
                for (int k = 0; k < LANES; k++) {
                    lane[k] += (double)x[i + k] * (double)y[i + k];
                }
            }
        }
        for (; i < m; i++) {
            lane[i % LANES] += (double)X(i) * (double)Y(i);
        }
        summing_block(sum, lanes_total(lane), 0.0);
#else
        double re = 0.0, im = 0.0;
        for (int64_t i = 0; i < m; i++) {
            const T x = X(i), y = Y(i);
            re += (double)x.re * y.re - (double)x.im * y.im;
            im += (double)x.re * y.im + (double)x.im * y.re;
        }
        summing_block(sum, re, im);
#endif
        a += m * sa;
        b += m * sb;
        left -= m;
    }
}
#endif

#ifdef LEAST
static void
NAME(extreme)(const char *a, int64_t sa, int64_t n, bool greatest, void *so_far)
{
    T m;
    memcpy(&m, so_far, sizeof(m));
    if (sa == (int64_t)sizeof(T)) {
        const U *x = (const U *)a;
        if (greatest) {
            for (int64_t i = 0; i < n; i++) {
                m = GREATEST(m, x[i]) ? x[i] : m;
            }
        }
        else {
            for (int64_t i = 0; i < n; i++) {
                m = LEAST(m, x[i]) ? x[i] : m;
            }
        }
    }
    else {
        for (int64_t i = 0; i < n; i++) {
            m = (greatest ? GREATEST(m, X(i)) : LEAST(m, X(i))) ? X(i) : m;
        }
    }
    memcpy(so_far, &m, sizeof(m));
}
#endif

static const loops NAME(loops) = {
    .elementwise =
        {
            [THEUS_COPY] = NAME(copy),
            [THEUS_ADD] = NAME(add),
            [THEUS_EQUAL] = NAME(equal),
            [THEUS_NOT_EQUAL] = NAME(not_equal),
#ifdef MUL
            [THEUS_SCALE] = NAME(scale),
            [THEUS_AXPY] = NAME(axpy),
#endif
#ifdef LEAST
            [THEUS_LESS] = NAME(less),
            [THEUS_LESS_EQUAL] = NAME(less_equal),
            [THEUS_GREATER_EQUAL] = NAME(greater_equal),
            [THEUS_GREATER] = NAME(greater),
#endif
        },
    .sum = NAME(sum),
#ifdef MUL
    .dot = NAME(dot),
#endif
#ifdef LEAST
    .extreme = NAME(extreme),
#endif
    .size = sizeof(T),
};

#undef X
#undef Y
#undef U
#undef ELEMENTWISE
#undef T
#undef W
#undef NAME
#undef ADD
#undef MUL
#undef EQUAL
#undef LEAST
#undef GREATEST
#undef TOTAL
