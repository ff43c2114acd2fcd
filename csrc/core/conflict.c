/* Back-off after conflicts. */
#include "conflict.h"

enum {
    BODY_FLOOR_NS = 1000,
    CAP_NS = 2 * 1000 * 1000,
    DOUBLINGS_MAX = 5,
};

uint64_t
theus_backoff_ns(uint64_t body_ns, uint32_t failures, uint64_t random)
{
    uint64_t body = body_ns < BODY_FLOOR_NS ? BODY_FLOOR_NS : body_ns;
    if (body > CAP_NS) {
        body = CAP_NS; /* before it is multiplied */
    }
    uint64_t span = body << (failures < DOUBLINGS_MAX ? failures : DOUBLINGS_MAX);
    if (span > CAP_NS) {
        span = CAP_NS;
    }
    return random % (span + 1);
}
