/* An engine in small, for tests of versions and transactions: a heap and a store, sessions that read and write by
 * path, and values written down as text.
 *
 *     text   7   {1:7 2:{3:8}}   [7 8 {1:9}]   (7 8)         atom, map, list, set; numbers are ids of atoms
 *     path   "2.3"                                           keys and list indexes; "" is the root
 *
 * Atoms are made where they are needed and belong to the containers alone. A short form that fails ends the test;
 * tests that are about failures call the functions of txn.h on session.txn. */
#ifndef THEUS_SCENE_H
#define THEUS_SCENE_H

#include "cell.h"
#include "check.h"
#include "fakes.h"

typedef struct {
    theus_heap *heap;
    theus_store *store;
} scene;

/* Version 0 is `text`, a map. The default limits: a ring of 8, a history of 4. */
void scene_open(scene *scene, const char *text);
void scene_open_with(scene *scene, const char *text, const theus_store_limits *limits);
/* All structures of the current version, and the heap. */
void scene_check(const scene *scene);
/* Checks, closes, and counts: no atom, no allocation is left. */
void scene_close(scene *scene);
/* Is the current version `text`, in this order? Says what it is if not. */
bool scene_is(const scene *scene, const char *text);
uint64_t scene_version(const scene *scene);

/* A sealed value; the caller owns it. */
theus_value value_of(theus_heap *heap, const char *text);
/* Writes a value down; `text` has `room` bytes. */
void value_show(theus_value value, char *text, size_t room);

/* ---- sessions ----------------------------------------------------------------------- */

typedef struct {
    theus_txn txn;
    theus_outcome outcome;
    theus_status status;
    theus_conflict why;
    theus_version *made;
} session;

session *session_open(const scene *scene, theus_isolation isolation);
session *session_open_at(const scene *scene, theus_isolation isolation, uint64_t version);
theus_outcome session_commit(session *session);
/* Ends it if it has not ended, and frees it. */
void session_close(session *session);
/* Commits and closes: COMMITTED, or the test ends. */
void session_done(session *session);
/* Commits, and closes: CONFLICTED with this path and this `what`? */
bool session_refused(session *session, const char *what, const char *path);

/* The cell at a path. Logs nothing. */
theus_cell *cell_at(session *session, const char *path);

enum { ABSENT = -1, NESTED = -2 };

int64_t get(session *session, const char *path); /* the id, ABSENT or NESTED; logged */
bool contains(session *session, const char *path, uint64_t element); /* of a set; logged */
uint32_t length_of(session *session, const char *path);              /* logs the shape */
bool reads_as(session *session, const char *path, const char *text); /* freezes: logs all */

void set(session *session, const char *path, const char *text); /* blind */
void discard(session *session, const char *path); /* looks up, and removes what is there */
void include(session *session, const char *path, uint64_t element); /* of a set; blind */
void exclude(session *session, const char *path, uint64_t element); /* of a set; looks up */
void append(session *session, const char *path, const char *text);
void splice(session *session, const char *path, uint32_t start, uint32_t drop, const char *text);
void add(session *session, const char *path, uint64_t number); /* deferred */
void send(session *session, uint64_t topic, uint64_t payload); /* a signal */

/* One of the steps above, written down: a verb, a path, and what the verb needs.
 *   get P    len P    all P    in P e    set P text    del P    clear P    push P [..]    unshift P [..]
 *   include P e    exclude P e */
void perform(session *session, const char *line);

/* One committed write, by somebody else: sets, or discards if text is NULL. */
void commit_set(const scene *scene, const char *path, const char *text);

/* What fake sessions defer: ADD adds ids, APPEND appends to a list, MERGE takes the larger id. */
int fake_apply(void *ctx, const theus_application *what, theus_value *out);

#endif
