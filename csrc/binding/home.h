/* Homes: where transactions begin, so that whoever is started inside a body can be told from whoever was there before.
 *
 *     context of a task         its value of the ContextVar     a child that is started there inherits
 *     before any transaction    (none)                          nothing
 *     async with a: ...         (H1)                            (H1)
 *       async with b: ...       (H2, H1)                        (H2, H1)      b: of another engine, or detached
 *     async with a: ...         (H3)                            (H3)
 *
 * A home stands for a stretch of one context, and its transactions count themselves in (active.h). The value that a context
 * has is a tuple: the home of its newest transaction, then those that had one open when that home was made, of the context
 * itself and of those that it was copied from. So nobody is a child who has not inherited a home that a transaction
 * is open at, and a tuple is no longer than so many transactions were open around it, however many have been.
 *
 * Invariant: while a transaction is open, each context that is copied from its own, or from a copy of that, inherits its home.
 * What may break it is only that a home with something open is left out when a tuple is made; one without is left out
 * for good, since who has inherited it was started before whatever begins there later.
 *
 * The other half, that whoever was there before has not inherited the home, needs a fresh home for each transaction: to
 * set a ContextVar costs as much as a fifth of a small one. So a home is used again where that makes no difference, or hardly any:
 *
 *     async with, run_async    never: other tasks run during its body
 *     run, with                in the same visit: from when a thread enters the context until it leaves it, or enters
 *                              another. Tasks that were started before come to run when their parent has waited,
 *                              which ends the visit
 *     the same, where threads  in the same visit, as long as there is no younger thread than this one. (Where threads
 *     inherit the context      begin in a copy of their starter's context: sys.flags.thread_inherit_context, the default
 *                              without a GIL)
 *
 * So a context that was copied by hand, or for a thread, between two synchronous transactions of one visit is taken for a child
 * of the second one when it is entered during that; and so is a task during a plain `with` that awaits something. */
#ifndef THEUS_HOME_H
#define THEUS_HOME_H

#include "module_state.h"

#include <stdatomic.h>

typedef struct {
    PyObject_HEAD
    const void *context;    /* address, to be compared and not followed: the context may be gone */
    uint64_t visit;
    _Atomic(uint32_t) open; /* transactions begun at it, of any engine, that stand in a list of open ones */
} HomeObject;

/* This thread, with the contextvars context that it runs in. Each asyncio task runs in one of its own, so thread and context
 * together name the task. A thread that never set a variable has none yet: one is made, so that it keeps the same
 * identity when a body sets its first. NULL only for lack of memory: then tasks of this thread look alike, and join. */
PyThreadState *running_thread(void);

/* The homes of a transaction that begins in this thread, which running_thread() gave: a tuple, its own first. New reference. */
PyObject *home_begin(module_state *st, const PyThreadState *thread, bool is_async);

/* The homes of whoever asks, newest first: a tuple, or None. New reference. */
PyObject *home_chain(module_state *st);

static inline Py_ssize_t
home_chain_length(PyObject *chain)
{
    return chain == Py_None ? 0 : PyTuple_GET_SIZE(chain);
}

/* Borrowed. Of a tuple, not None. */
static inline HomeObject *
home_newest(PyObject *chain)
{
    return (HomeObject *)PyTuple_GET_ITEM(chain, 0);
}

/* One more transaction is open at it, or one fewer. */
static inline void
home_count(HomeObject *home, uint32_t change)
{
#if THEUS_HAVE_GIL
    uint32_t open = atomic_load_explicit(&home->open, memory_order_relaxed);
    atomic_store_explicit(&home->open, open + change, memory_order_relaxed);
#else
    atomic_fetch_add_explicit(&home->open, change, memory_order_relaxed);
#endif
}

#endif
