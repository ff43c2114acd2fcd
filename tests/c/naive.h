/* A naive model of an engine: trees of plain arrays, operations written down with what came of them, and the
 * repetition of an operation on a tree. Slow and simple; what it says is what ought to be. */
#ifndef THEUS_NAIVE_H
#define THEUS_NAIVE_H

#include "scene.h"

/* ---- trees, in an arena -------------------------------------------------------------------- */

typedef struct node {
    int kind;    /* theus_kind */
    uint64_t id; /* of an atom */
    uint32_t count, room;
    uint64_t *keys;
    struct node **items;
} node;

void arena_reset(void); /* forgets every tree */

node *node_new(int kind, uint64_t id);
void node_insert(node *parent, uint32_t at, uint64_t key, node *item);
void node_remove(node *parent, uint32_t at);
uint32_t node_find(const node *parent, uint64_t key); /* key or index; count: not there */
node *node_copy(const node *from);
node *node_of_value(theus_value value);
theus_value value_of_node(theus_heap *heap, const node *tree); /* counted */
bool node_equal(const node *a, const node *b);                 /* whatever the order of keys */
uint32_t node_size(const node *tree);

/* ---- operations ------------------------------------------------------------------------------ */

enum { PATH_MAX_PARTS = 3, HANDLES = 3, SAVES_MAX = 4 };

typedef enum {
    OP_GET,     /* looks a key or index up */
    OP_SET,     /* stores blindly */
    OP_SAME,    /* stores the very word that is there */
    OP_DISCARD, /* looks up, removes */
    OP_LENGTH,
    OP_FREEZE, /* reads all of it */
    OP_ADD,    /* deferred */
    OP_CLEAR,
    OP_SPLICE,
    OP_REVERSE,
    OP_COPY, /* freezes the root, stores a part of it */
    OP_HOLD, /* remembers a container */
    OP_SAVE, /* savepoints */
    OP_RELEASE,
    OP_ROLLBACK,
} op_kind;

/* One operation on the container at `path`, from the root or from a container held since an OP_HOLD. */
typedef struct {
    op_kind kind;
    int from; /* handle, or -1: the root */
    uint32_t parts;
    uint64_t path[PATH_MAX_PARTS];
    uint64_t key; /* in that container */
    uint32_t drop;
    int handle;      /* OP_HOLD: the one it sets */
    node *value;     /* to store */
    int64_t seen;    /* a number that says what was found */
    node *seen_tree; /* or all of it; NULL: no such look */
} op;

enum { NOTHING_THERE = -1, NO_CONTAINER = -2, WRONG_KIND = -3, DONE = -4 };

int64_t seen_of(int kind, uint64_t id);
bool kind_fits(op_kind op, int kind);

/* ---- repeating them ----------------------------------------------------------------------------- */

typedef struct {
    node *root;
    node *handles[HANDLES];
    node *saves[SAVES_MAX];
    int depth;
} replayed;

/* Repeats one operation; is what it sees the same? */
bool model_do(replayed *state, const op *op);

#endif
