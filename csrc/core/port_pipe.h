/* Pipes between processes, as the ends of a wire need them. The descriptors are the caller's; those that are read do not
 * block. Signals are told, not hidden: an interpreter runs its handlers in the thread that waits. */
#ifndef THEUS_PORT_PIPE_H
#define THEUS_PORT_PIPE_H

#include "look.h"

typedef enum {
    THEUS_PIPE_DONE,   /* some bytes went; or may go now */
    THEUS_PIPE_LATER,  /* nothing is there, there is no room, or the time has passed */
    THEUS_PIPE_SIGNAL, /* a signal came first */
    THEUS_PIPE_END,    /* there is no writer any more, and nothing of what it wrote */
    THEUS_PIPE_BROKEN, /* errno says why */
} theus_pipe;

THEUS_MUST_CHECK theus_pipe theus_pipe_read(int fd, void *to, size_t room, size_t *count);
THEUS_MUST_CHECK theus_pipe theus_pipe_write(int fd, const void *from, size_t size, size_t *count);

/* Looks until there is something to read: LATER when the time for that is over. */
THEUS_MUST_CHECK theus_pipe theus_pipe_look(int fd, theus_look *look);

/* Sleeps until there is something to read (the end, too), or room to write. */
THEUS_MUST_CHECK theus_pipe theus_pipe_await(int fd, bool to_read);

void theus_pipe_close(int fd);

#endif
