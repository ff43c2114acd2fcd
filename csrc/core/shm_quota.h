/* May so much more be used? A pure function of four numbers, apart from everything that acts on its answer. All limits are decided by
 * it: those of a prefix, a zone and a process, of its address space, and of what the system has left. */
#ifndef THEUS_SHM_QUOTA_H
#define THEUS_SHM_QUOTA_H

#include <stdint.h>

typedef enum {
    THEUS_ADMIT,
    THEUS_ADMIT_TIDY, /* yes, but it is beyond the soft limit: give back first what nobody uses */
    THEUS_REJECT,     /* it would be beyond the hard limit */
} theus_admission;

/* 0 as a limit: there is none. Exact at the limits, and no sum can overflow. */
static inline theus_admission
theus_quota_decide(uint64_t used, uint64_t asked, uint64_t soft, uint64_t hard)
{
    if (hard != 0 && (used > hard || asked > hard - used)) {
        return THEUS_REJECT;
    }
    return soft != 0 && (used > soft || asked > soft - used) ? THEUS_ADMIT_TIDY : THEUS_ADMIT;
}

/* The same of what somebody has left, `spare` of which is not for us. */
static inline theus_admission
theus_room_decide(uint64_t room, uint64_t spare, uint64_t asked)
{
    return room == 0 ? THEUS_REJECT : theus_quota_decide(spare, asked, 0, room);
}

#endif
