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
    const uint64_t away_ns = 20 * 1000, least_ns = 1000 * 1000, most_ns = 1000 * 1000 * 1000;
    uint64_t begun = theus_clock_fine_ns(), now = begun, last;
    bool away = false;
    theus_pipe found;
    do {
        found = poll_one(fd, POLLIN, 0); /* which is the pause between two looks, too */
        last = now;
        now = theus_clock_fine_ns();
        away |= now - last > away_ns; /* that was not the system call */
    } while (found == THEUS_PIPE_LATER && now - begun < look->look_ns);
    if (found == THEUS_PIPE_DONE && !away) {
        look->pause_ns /= 2;
        return found;
    }
    look->pause_ns = look->pause_ns < least_ns / 4 ? least_ns : look->pause_ns > most_ns / 4 ? most_ns : 4 * look->pause_ns;
    look->paused_until = now + look->pause_ns;
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
