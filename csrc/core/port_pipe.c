/* port_pipe.h for POSIX. */
#include "port_pipe.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

static theus_pipe
failed(void)
{
    return errno == EAGAIN ? THEUS_PIPE_LATER : errno == EINTR ? THEUS_PIPE_SIGNAL : THEUS_PIPE_BROKEN;
}

theus_pipe
theus_pipe_read(int fd, void *to, size_t room, size_t *count)
{
    ssize_t found = read(fd, to, room);
    *count = found > 0 ? (size_t)found : 0;
    return found > 0 ? THEUS_PIPE_DONE : found == 0 ? THEUS_PIPE_END : failed();
}

theus_pipe
theus_pipe_write(int fd, const void *from, size_t size, size_t *count)
{
    ssize_t gone = write(fd, from, size);
    *count = gone > 0 ? (size_t)gone : 0;
    return gone >= 0 ? THEUS_PIPE_DONE : failed();
}

static theus_pipe
poll_one(int fd, short events, int milliseconds)
{
    struct pollfd entry = {.fd = fd, .events = events};
    int ready = poll(&entry, 1, milliseconds);
    return ready > 0 ? THEUS_PIPE_DONE : ready == 0 ? THEUS_PIPE_LATER : failed();
}

theus_pipe
theus_pipe_look(int fd, theus_look *look)
{
    theus_pipe found;
    bool goes_on;
    theus_look_begin(look);
    do {
        found = poll_one(fd, POLLIN, 0); /* which is the pause between two looks, too */
        goes_on = theus_look_goes_on(look);
    } while (found == THEUS_PIPE_LATER && goes_on);
    theus_look_end(look, found == THEUS_PIPE_DONE);
    return found;
}

theus_pipe
theus_pipe_await(int fd, bool to_read)
{
    return poll_one(fd, to_read ? POLLIN : POLLOUT, -1);
}

void
theus_pipe_close(int fd)
{
    (void)close(fd);
}
