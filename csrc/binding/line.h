/* theus._theus.Line: one end of the wire between a process pool and one of its workers.
 *
 *     pool                                   worker
 *     ────                                   ──────
 *     send(frames)     ──packets──▶          serve(desk): decode, call, encode, again and again
 *     collect(...)     ◀──a stream──         answer(data): what is not the value of a task
 *
 *     frame = size of the body, four bytes; kind, one; number of the task, eight; body        (little-endian)
 *
 * theus/pools/wire.py says what the kinds are and why tasks go in packets. This file is the quick way for what nearly
 * all tasks are: a CALL whose body has arrived in one piece, answered by a VALUE. For everything else it calls Python.
 * Whatever the function of a task may do, it is called once, and answered once.
 *
 * Each side looks for a moment before it sleeps, as long as that pays: look.h says when it does.
 *
 * Who may call what: `answer` any thread, for it waits for its turn; the others one thread at a time, which is for the
 * caller to see to (the pool's lock for `send` and `post`, that and the turn of its pump for `collect`, the turn alone for
 * `look`). A Line owns its two descriptors. close() and hang_up() are of those callers, so nobody uses a number that is
 * another file's.
 *
 * post() and collect() are steps: a task is in the pool's queue, with the worker, or has arrived, and no signal handler
 * that raises in the main thread finds it between two of these (steps.c). */
#ifndef THEUS_LINE_H
#define THEUS_LINE_H

#include "codec.h"

#include "../core/port_pipe.h"

enum {
    LINE_HEADER = 13,
    LINE_PACKET = 4096,            /* PIPE_BUF of Linux: written and read as one, or not at all */
    LINE_LONGEST = 64 * 1024,      /* the longest frame of a result that goes through the pipe */
    LINE_CALL = 1, LINE_VALUE = 4, LINE_LAST_ANSWER = 8, /* kinds; wire.py has all of them. Answers begin with VALUE */
};

typedef struct {
    PyObject_HEAD
    int in, out;               /* -1: closed */
    theus_look look;
    uint64_t epoch;            /* of the process that made it */
    PyThread_type_lock answering; /* held while a frame is written */
    char *rest;                /* what has come of the stream and is no whole frame yet */
    size_t held, room;
    unsigned long long answered;
    double since, pace;
} LineObject;

typedef struct {
    uint8_t kind;
    uint64_t number;
    const char *body;
    size_t size;
} line_frame;

/* The next frame of what lies from *at on; false if there is no whole one. */
bool line_next(const char **at, const char *end, line_frame *frame);

/* Bytes of a whole frame, new; NULL with an exception set. */
PyObject *line_frame_of(module_state *st, uint8_t kind, uint64_t number, PyObject *value, const codec_way *way);

/* Writes all of it, in its turn; nothing in a process that was forked since. 0, or -1 with an exception set. */
int line_answer(LineObject *line, const char *data, size_t size);

static inline LineObject *
line_of(PyObject *op)
{
    return (LineObject *)op;
}

/* Line.post(), collect(), look() */
PyObject *line_post(PyObject *op, PyObject *const *args, Py_ssize_t count);
PyObject *line_collect(PyObject *op, PyObject *const *args, Py_ssize_t count);
PyObject *line_look(PyObject *op, PyObject *ignored);

/* The names that these use. */
int line_intern_names(module_state *st);

/* Line.serve(desk) */
PyObject *line_serve(PyObject *op, PyObject *desk);

/* _theus.encode_frame() */
PyObject *module_encode_frame(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
