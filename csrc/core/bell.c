/* The list behind a bell. */
#include "bell.h"

theus_status
theus_bell_init(theus_bell *bell, bool serial)
{
    atomic_init(&bell->waiting, 0);
    bell->first = NULL;
    return theus_mutex_init(&bell->lock, THEUS_RANK_BELL, serial);
}

void
theus_bell_fini(theus_bell *bell)
{
    theus_mutex_fini(&bell->lock);
}

theus_status
theus_bell_add(theus_bell *bell, void *who)
{
    theus_listener *listener = theus_alloc(sizeof(*listener));
    if (listener == NULL) {
        return THEUS_NOMEM;
    }
    listener->who = who;
    listener->epoch = theus_process_epoch();
    theus_mutex_lock(&bell->lock);
    listener->next = bell->first;
    bell->first = listener;
    atomic_fetch_add_explicit(&bell->waiting, 1, memory_order_relaxed);
    theus_mutex_unlock(&bell->lock);
    return THEUS_OK;
}

void *
theus_bell_remove(theus_bell *bell, bool (*same)(void *arg, void *who), void *arg)
{
    void *who = NULL;
    theus_mutex_lock(&bell->lock);
    theus_listener **link = &bell->first;
    while (*link != NULL && !same(arg, (*link)->who)) {
        link = &(*link)->next;
    }
    theus_listener *found = *link;
    if (found != NULL) {
        who = found->who;
        *link = found->next;
        atomic_fetch_sub_explicit(&bell->waiting, 1, memory_order_relaxed);
    }
    theus_mutex_unlock(&bell->lock);
    theus_free(found);
    return who;
}

theus_listener *
theus_bell_take(theus_bell *bell)
{
    theus_mutex_lock(&bell->lock);
    theus_listener *newest = bell->first, *oldest = NULL;
    bell->first = NULL;
    atomic_store_explicit(&bell->waiting, 0, memory_order_relaxed);
    theus_mutex_unlock(&bell->lock);
    while (newest != NULL) {
        theus_listener *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

int
theus_bell_visit(theus_bell *bell, int (*visit)(void *who, void *arg), void *arg)
{
    for (theus_listener *it = bell->first; it != NULL; it = it->next) {
        int stopped = visit(it->who, arg);
        if (stopped != 0) {
            return stopped;
        }
    }
    return 0;
}
