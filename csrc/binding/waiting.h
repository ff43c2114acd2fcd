/* Waiting for an engine: for its next commit, or for room in its ring.
 *
 * A listener of core/bell.h is here a callable without arguments. It is called once, after what it waits for has
 * happened, by the thread that made it happen, with no lock held. Threads pass the release() of a lock that they then
 * acquire: that detaches them from the interpreter, and Ctrl-C gets through. Event loops pass a function that ends in
 * call_soon_threadsafe(). Nobody polls, and no thread is made. */
#ifndef THEUS_WAITING_H
#define THEUS_WAITING_H

#include "module_state.h"

#include "../core/bell.h"

/* Adds a listener: 0, or -1 with MemoryError. */
int waiting_listen(theus_bell *bell, PyObject *wake);
/* Removes it, by identity; false if it is not there: it was called, or will be. */
bool waiting_unlisten(theus_bell *bell, PyObject *wake);

/* Calls a callable that somebody waits for: 0, or -1 with its exception. If that is an interrupt (no Exception: it came
 * from outside and struck just here) it is called again, since it may not have done its work. */
int waiting_call(PyObject *wake);
/* For the exception of a listener where none can go on: an interrupt is raised by the next Python code of this thread,
 * anything else is reported as unraisable. */
void waiting_defer(PyObject *reporter);

/* Calls all listeners, whatever one of them raises: 0, or -1 with the first exception. */
int waiting_call_all(theus_bell *bell);

/* The usual way to ring: costs one load when nobody waits. */
static inline int
waiting_ring(theus_bell *bell)
{
    return theus_bell_awaited(bell) ? waiting_call_all(bell) : 0;
}

/* The same where no exception can go on: see waiting_defer(). Keeps the current exception. */
void waiting_ring_quietly(theus_bell *bell, PyObject *reporter);

/* Waits until ready(arg) gives other than 0, and returns that: 1, or -1 with an exception, also that of a signal handler.
 * 0 if limit_ns have passed (UINT64_MAX: no limit). ready runs in this thread, attached, once before the first wait and
 * after each ring. */
int waiting_until(theus_bell *bell, int (*ready)(void *arg), void *arg, uint64_t limit_ns);

/* A lock that is held, so that whoever acquires it waits for its release. New reference. */
PyObject *waiting_new_lock(void);
/* Waits, detached, for the release or for limit_ns: 0, or -1 with what a signal handler raised. */
int waiting_acquire(PyObject *lock, uint64_t limit_ns);

/* Does this thread run an asyncio event loop, which must not be blocked? 1, 0 or -1. */
int waiting_would_block_loop(void);

#endif
