/* Looking before sleeping: it costs a processor and saves the wake-up, which on a machine at rest is dearer than all the
 * rest of a short message. On a busy one looking is worse than useless: who has looked has had its share of the processor
 * when the message comes, and waits behind everybody else, while a sleeper would go first; and where both sides have one
 * processor between them, the other one cannot even begin before the look is over. So it has to pay: after each look that
 * was in vain, or in which others got the processor, there is none for a time, four times as long as the last time; one
 * that paid halves that.
 *
 *     theus_look_begin(&look);
 *     do { ... } while (nothing there && theus_look_goes_on(&look));
 *     theus_look_end(&look, something there);
 *
 * One thread at a time. */
#ifndef THEUS_LOOK_H
#define THEUS_LOOK_H

#include "port.h"

typedef struct {
    uint64_t look_ns; /* how long; 0: never */
    uint64_t pause_ns;
    uint64_t paused_until; /* by theus_clock_fine_ns() */
    /* of the look that is under way: */
    uint64_t begun, last;
    bool away; /* others got the processor */
} theus_look;

static inline bool
theus_look_pays(const theus_look *look)
{
    return look->look_ns > 0 && (look->pause_ns == 0 || theus_clock_fine_ns() >= look->paused_until);
}

static inline void
theus_look_begin(theus_look *look)
{
    look->begun = look->last = theus_clock_fine_ns();
    look->away = false;
}

/* After each glance, which takes a few microseconds at the most. */
static inline bool
theus_look_goes_on(theus_look *look)
{
    const uint64_t away_ns = 20 * 1000;
    uint64_t now = theus_clock_fine_ns();
    look->away |= now - look->last > away_ns;
    look->last = now;
    return now - look->begun < look->look_ns;
}

static inline void
theus_look_end(theus_look *look, bool found)
{
    const uint64_t least_ns = 1000 * 1000, most_ns = 1000 * 1000 * 1000;
    if (found && !look->away) {
        look->pause_ns /= 2;
        return;
    }
    look->pause_ns = look->pause_ns < least_ns / 4 ? least_ns : look->pause_ns > most_ns / 4 ? most_ns : 4 * look->pause_ns;
    look->paused_until = look->last + look->pause_ns;
}

#endif
