/* The back-off: its bounds, and that it is spread over all of them. */
#include "check.h"
#include "conflict.h"

enum { MICROSECOND = 1000, CAP = 2000 * MICROSECOND };

/* The longest wait for a body and a number of failures: random bits can ask for no more. */
static uint64_t
longest(uint64_t body_ns, uint32_t failures)
{
    uint64_t most = 0;
    for (uint64_t bits = 0; bits < 4096; bits++) {
        uint64_t wait = theus_backoff_ns(body_ns, failures, bits * 0x9E3779B97F4A7C15u);
        most = wait > most ? wait : most;
    }
    return most;
}

static int
near(uint64_t value, uint64_t bound)
{
    return value <= bound && value >= bound - bound / 64;
}

int
main(void)
{
    CHECK(near(longest(10 * MICROSECOND, 0), 10 * MICROSECOND));
    CHECK(near(longest(10 * MICROSECOND, 1), 20 * MICROSECOND)); /* doubles, */
    CHECK(near(longest(10 * MICROSECOND, 5), 320 * MICROSECOND));
    CHECK(near(longest(10 * MICROSECOND, 6), 320 * MICROSECOND)); /* but not for ever, */
    CHECK(near(longest(10 * MICROSECOND, UINT32_MAX), 320 * MICROSECOND));
    CHECK(near(longest(500 * MICROSECOND, 5), CAP)); /* and never beyond the cap */
    CHECK(near(longest(CAP * 100, 0), CAP));
    CHECK(near(longest(UINT64_MAX, UINT32_MAX), CAP));
    CHECK(near(longest(0, 0), MICROSECOND)); /* a body that took no time is taken for a short one */

    enum { SHARES = 10, DRAWS = 10000, BODY = 100 * MICROSECOND };
    int shares[SHARES] = {0};
    unsigned long long random = 42;
    for (int i = 0; i < DRAWS; i++) {
        uint64_t bits =
            (uint64_t)check_random(&random, 1u << 31) << 31 ^ check_random(&random, 1u << 31);
        shares[theus_backoff_ns(BODY, 2, bits) * SHARES / (4 * BODY + 1)]++;
    }
    for (int i = 0; i < SHARES; i++) { /* full jitter: every tenth of the span as often */
        CHECK(shares[i] > DRAWS / SHARES * 8 / 10 && shares[i] < DRAWS / SHARES * 12 / 10);
    }
    CHECK(theus_backoff_ns(BODY, 0, 0) == 0);
    return check_result();
}
