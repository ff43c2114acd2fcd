/* Declared paths: a tuple of keys and wildcards.
 *
 * A scope is the set of the *rests* that are alive at its place: what is left of each declared path there, with the
 * rights that its end gives. See scope.h. */
#ifndef THEUS_PATTERN_H
#define THEUS_PATTERN_H

#include "module_state.h"

typedef enum { LITERAL, ANY_KEY, ANY_DEPTH, GLOB } segment_kind;

segment_kind pattern_kind(const module_state *st, PyObject *segment);

/* Does the first segment of a rest stand for `key`? NULL: for a key that no path names. 1, 0 or -1. */
int pattern_matches(const module_state *st, PyObject *segment, PyObject *key);

/* The rests of a scope to be, and the rights that are complete already. */
typedef struct {
    PyObject *found; /* owned dict with a rest as key: each once, in the order in which they were declared */
    uint8_t here;
} rest_set;

static inline uint8_t
rest_rights(PyObject *rest)
{
    return (uint8_t)PyLong_AsLong(PyTuple_GET_ITEM(rest, 0));
}

static inline PyObject *
rest_path(PyObject *rest)
{
    return PyTuple_GET_ITEM(rest, 1);
}

/* Adds a rest, each once. One that begins with "**" also adds what follows it, since "**" may stand
 * for no segment at all; at the end it stands for at least one. 0 or -1. */
int rests_add(const module_state *st, rest_set *set, uint8_t rights, PyObject *path);
/* The rests as a tuple, without those whose rights are complete. New reference. */
PyObject *rests_finish(rest_set *set);

int add_wildcard_type(PyObject *module, module_state *st);

#endif
