/* Pipes between processes, as the ends of a wire need them. The descriptors are the caller's; those that are read do not
 * block. Signals are told, not hidden: an interpreter runs its handlers in the thread that waits. */
#ifndef THEUS_PORT_PIPE_H
#define THEUS_PORT_PIPE_H

#include "port.h"

typedef enum {
    THEUS_PIPE_DONE,   /* some bytes went; or may go now */
    THEUS_PIPE_LATER,  /* nothing is there, there is no room, or the time has passed */
    THEUS_PIPE_SIGNAL, /* a signal came first */
    THEUS_PIPE_END,    /* there is no writer any more, and nothing of what it wrote */
    THEUS_PIPE_BROKEN, /* errno says why */
} theus_pipe;

THEUS_MUST_CHECK theus_pipe theus_pipe_read(int fd, void *to, size_t room, size_t *count);
THEUS_MUST_CHECK theus_pipe theus_pipe_write(int fd, const void *from, size_t size, size_t *count);

/* Looking before sleeping, which costs a processor and saves the wake-up: on a machine at rest that is dearer than all
 * the rest of a short message. On a busy one looking is worse than useless: who has looked has had its share of the
 * processor when the message comes, and waits behind everybody else, while a sleeper would go first. So it has to pay:
 * after each look that was in vain, or in which others got the processor, there is none for a time, four times as long
 * as the last time; one that paid halves that. */
typedef struct {
    uint64_t look_ns; /* how long; 0: never */
    uint64_t pause_ns;
    uint64_t paused_until; /* by theus_clock_fine_ns() */
} theus_look;

static inline bool
theus_look_pays(const theus_look *look)
{
    return look->look_ns > 0 && (look->pause_ns == 0 || theus_clock_fine_ns() >= look->paused_until);
}

/* Looks until there is something to read: LATER when the time for that is over. */
THEUS_MUST_CHECK theus_pipe theus_pipe_look(int fd, theus_look *look);

/* Sleeps until there is something to read (the end, too), or room to write. */
THEUS_MUST_CHECK theus_pipe theus_pipe_await(int fd, bool to_read);

void theus_pipe_close(int fd);

#endif
