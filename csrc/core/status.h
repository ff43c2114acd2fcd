/* Every failure of the core, once: name, number, text.
 *
 * An expected outcome (not found, conflict, lost swap) is not a failure and has
 * an enum of its own where it happens. Only binding/errors.c turns a status into
 * an exception. */
#ifndef THEUS_STATUS_H
#define THEUS_STATUS_H

#define THEUS_MUST_CHECK __attribute__((warn_unused_result))

/* FOREIGN: a callback (key equality, hashing, a resolver) failed and left its
 * own error with the caller, who must report that one.
 * CHANGED: a callback re-entered and changed the structure it was called for. */
#define THEUS_STATUS_LIST(X)                                                  \
    X(OK, 0, "ok")                                                            \
    X(NOMEM, -1, "out of memory")                                             \
    X(FOREIGN, -2, "a callback failed")                                       \
    X(CHANGED, -3, "the structure changed while a callback ran")              \
    X(TOO_BIG, -4, "more entries than a container can hold")                  \
    X(ENDED, -5, "the transaction has ended")                                 \
    X(BUSY, -6, "the transaction is in use by another thread")                \
    X(FORKED, -7, "the transaction belongs to the parent process")            \
    X(READ_ONLY, -8, "the transaction is read-only")                          \
    X(GONE, -9, "this version is no longer in the history")                   \
    X(FUTURE, -10, "this version does not exist yet")                         \
    X(BAD_PATH, -11, "the path does not lead to a container of that kind")    \
    X(LATE, -12, "the write timeout passed while the commit was tried")       \
    X(TOO_DEEP, -13, "containers are nested more than 2000 deep here: keep the data flatter") \
    X(FULL, -14, "the ring has no room for another commit record")           \
    X(UNREAD, -15, "no reader is attached to the ring of commit records")    \
    X(NO_ROOM, -16, "the system has no room for more shared memory")         \
    X(REFUSED, -17, "the system refuses shared memory to this process")      \
    X(UNSUPPORTED, -18, "this system has no shared memory of this kind: choose another backend (THEUS_SHM_BACKEND) or MemoryClass") \
    X(BAD_TOKEN, -19, "this is no token of a shared array")                  \
    X(STALE, -20, "the shared array is gone: its owner has freed it, or has ended")                               \
    X(BORROWED, -21, "the shared array belongs to another process: only that one can free it")         \
    X(CROWDED, -22, "63 processes look at this shared memory already")        \
    X(NO_FILES, -23, "no file descriptor is left for shared memory: close files, or raise the limit (ulimit -n)") \
    X(NO_FOLDER, -24, "named shared memory needs a folder that this user can write: /dev/shm, or what THEUS_SHM_DIR names; memory of the kind FILE: /var/tmp, or THEUS_SPILL_DIR") \
    X(OVER, -25, "this loan is over, or somebody has taken it: have the rows lent once more")          \
    X(LENT, -26, "others may still write to ranges of the shared array")

typedef enum {
#define THEUS_STATUS_ENUM(name, number, text) THEUS_##name = number,
    THEUS_STATUS_LIST(THEUS_STATUS_ENUM)
#undef THEUS_STATUS_ENUM
} theus_status;

const char *theus_status_text(theus_status status);

#endif
