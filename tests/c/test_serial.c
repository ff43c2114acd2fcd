/* Is what was committed serializable? Random transactions run interleaved and write down what they did and saw.
 * Since commit order is version order, the check is a replay: a transaction that became version v is repeated alone, on a
 * naive model of version v - 1, and must see the same and leave the real version v. One that changed nothing must
 * see the same on the version it pinned. A snapshot transaction sees its pinned version, and no place that it wrote
 * has changed since. */
#include "naive.h"

/* ---- the engine does one ------------------------------------------------------------------------------------ */

enum { OPS_MAX = 60, SIZE_MAX_COPIED = 60 };

typedef struct {
    session *session;
    bool uses_saves; /* or else handles: a model that keeps both would be no naive one */
    theus_cell *handles[HANDLES];
    theus_savepoint *saves[SAVES_MAX];
    int depth;
    uint64_t pinned;
    int count;
    op ops[OPS_MAX];
} worker;

static theus_find
look(theus_cell *cell, uint64_t id, bool logged, uint32_t *pos, theus_value *value)
{
    if (cell->now->kind == THEUS_LIST) {
        if (id >= cell->now->count) {
            theus_cell_read_shape(cell);
            return THEUS_ABSENT;
        }
        *pos = (uint32_t)id;
        *value = theus_container_value_at(cell->now, *pos);
        REQUIRE(!logged || theus_cell_read(cell, *pos, value) == THEUS_OK);
        return THEUS_FOUND;
    }
    fake_atom *key = fake_new(id);
    theus_find found = logged ? theus_cell_lookup(cell, NULL, id, key, pos, value)
                              : theus_cell_probe(cell, NULL, id, key, pos, value);
    fake_release(key);
    REQUIRE(found != THEUS_FIND_FAILED);
    return found;
}

/* What is on the way logs nothing, unless `logged`; what is not there does. */
static theus_cell *
engine_walk(worker *worker, const op *op, bool logged)
{
    theus_cell *cell = op->from < 0 ? worker->session->txn.root : worker->handles[op->from];
    for (uint32_t i = 0; i < op->parts; i++) {
        uint32_t pos;
        theus_value value;
        if (look(cell, op->path[i], logged, &pos, &value) == THEUS_ABSENT
            || theus_value_kind(value) == THEUS_ATOM) {
            (void)look(cell, op->path[i], true, &pos, &value);
            return NULL;
        }
        REQUIRE(theus_cell_enter(cell, pos, &cell) == THEUS_OK);
    }
    return cell;
}

static node *
frozen(theus_cell *cell)
{
    theus_container *content;
    REQUIRE(theus_cell_freeze(cell, &content) == THEUS_OK);
    node *tree = node_of_value(theus_value_of_container(content));
    theus_container_release(content);
    return tree;
}

static int64_t
engine_store_value(theus_cell *cell, const op *op, theus_value value)
{
    bool is_list = cell->now->kind == THEUS_LIST;
    if (is_list && op->key >= cell->now->count) {
        theus_cell_read_shape(cell);
        return false;
    }
    if (is_list) {
        REQUIRE(theus_cell_put(cell, (uint32_t)op->key, value) == THEUS_OK);
    }
    else {
        fake_atom *key = fake_new(op->key);
        REQUIRE(theus_cell_store(cell, NULL, op->key, key, value) == THEUS_OK);
        fake_release(key);
    }
    return is_list ? true : DONE;
}

static int64_t
engine_store(theus_cell *cell, const op *op)
{
    theus_heap *heap = cell->now->heap;
    theus_value value = value_of_node(heap, op->value);
    int64_t seen = engine_store_value(cell, op, value);
    theus_value_release(heap, value);
    return seen;
}

/* Part of the frozen root, itself: containers become shared between places. */
static int64_t
engine_copy(worker *worker, theus_cell *cell, op *op)
{
    theus_container *content;
    REQUIRE(theus_cell_freeze(worker->session->txn.root, &content) == THEUS_OK);
    op->seen_tree = node_of_value(theus_value_of_container(content));
    int64_t seen;
    if (content->count == 0 || node_size(op->seen_tree) > SIZE_MAX_COPIED) {
        seen = engine_store(cell, op);
    }
    else {
        uint32_t pos = theus_container_nth(content, op->drop % content->count);
        theus_value part = theus_container_value_at(content, pos);
        op->value = node_of_value(part);
        seen = engine_store_value(cell, op, part);
    }
    theus_container_release(content);
    return seen;
}

static int64_t
engine_defer(theus_cell *cell, const op *op)
{
    fake_atom *key = fake_new(op->key), *operand = fake_new(op->value->id);
    REQUIRE(theus_cell_defer(cell, THEUS_ADD, op->key, key, 0, theus_value_of_atom(operand), NULL)
            == THEUS_OK);
    fake_release(key);
    fake_release(operand);
    return DONE;
}

static int64_t
engine_splice(theus_cell *cell, op *op)
{
    uint32_t count = cell->now->count;
    theus_cell_read_shape(cell); /* the bounds below depend on it */
    op->key = op->key > count ? count : op->key;
    op->drop = op->drop > count - op->key ? count - (uint32_t)op->key : op->drop;
    theus_value value = value_of_node(cell->now->heap, op->value);
    REQUIRE(theus_cell_splice(cell, (uint32_t)op->key, op->drop, &value, 1) == THEUS_OK);
    theus_value_release(cell->now->heap, value);
    return DONE;
}

static int64_t
engine_reverse(theus_cell *cell)
{
    uint32_t order[256], count = cell->now->count;
    REQUIRE(count <= 256);
    theus_cell_read_shape(cell);
    for (uint32_t i = 0; i < count; i++) {
        order[i] = count - 1 - i;
    }
    REQUIRE(theus_cell_permute(cell, order) == THEUS_OK);
    return DONE;
}

static int64_t
engine_change(worker *worker, theus_cell *cell, op *op)
{
    uint32_t pos;
    theus_value value;
    switch (op->kind) {
    case OP_GET:
        return look(cell, op->key, true, &pos, &value) == THEUS_ABSENT
                   ? NOTHING_THERE
                   : seen_of(theus_value_kind(value),
                             theus_value_kind(value) == THEUS_ATOM
                                 ? ((fake_atom *)theus_value_atom(value))->id
                                 : 0);
    case OP_COPY:
        return engine_copy(worker, cell, op);
    case OP_SET:
        return engine_store(cell, op);
    case OP_SAME: /* the very word that is there: the body knows it from somewhere, and does not depend on it */
        if (look(cell, op->key, false, &pos, &value) == THEUS_ABSENT
            || theus_cell_child_at(cell, pos) != NULL) {
            return engine_store(cell, op);
        }
        op->value = node_of_value(value);
        REQUIRE(theus_cell_put(cell, pos, value) == THEUS_OK);
        return cell->now->kind == THEUS_LIST ? true : DONE;
    case OP_DISCARD:
        if (look(cell, op->key, true, &pos, &value) == THEUS_ABSENT) {
            return false;
        }
        REQUIRE((cell->now->kind == THEUS_LIST ? theus_cell_splice(cell, pos, 1, NULL, 0)
                                               : theus_cell_remove(cell, op->key, pos))
                == THEUS_OK);
        return true;
    case OP_LENGTH:
        theus_cell_read_shape(cell);
        return cell->now->count;
    case OP_FREEZE:
        op->seen_tree = frozen(cell);
        return DONE;
    case OP_ADD:
        return engine_defer(cell, op);
    case OP_CLEAR:
        REQUIRE(theus_cell_clear(cell) == THEUS_OK);
        return DONE;
    case OP_SPLICE:
        return engine_splice(cell, op);
    case OP_REVERSE:
        return engine_reverse(cell);
    default:
        worker->handles[op->handle] = cell;
        return DONE;
    }
}

/* Does it, and notes in the operation what was seen. */
static void
engine_do(worker *worker, op *op)
{
    theus_txn *txn = &worker->session->txn;
    op->seen = DONE;
    switch (op->kind) {
    case OP_SAVE:
        REQUIRE(theus_txn_save(txn, &worker->saves[worker->depth++]) == THEUS_OK);
        return;
    case OP_RELEASE:
        theus_savepoint_release(worker->saves[--worker->depth]);
        return;
    case OP_ROLLBACK:
        theus_savepoint_rollback(worker->saves[--worker->depth]);
        return;
    default:
        break;
    }
    /* Who holds a container, or finds it to be of the wrong kind, knows its kind. */
    theus_cell *cell = engine_walk(worker, op, op->kind == OP_HOLD);
    if (cell == NULL) {
        op->seen = NO_CONTAINER;
        return;
    }
    if (!kind_fits(op->kind, cell->now->kind)) {
        (void)engine_walk(worker, op, true);
        op->seen = WRONG_KIND;
        return;
    }
    if (op->kind != OP_ADD && cell->deferred != NULL) {
        REQUIRE(theus_cell_settle(cell, NULL) == THEUS_OK);
    }
    op->seen = engine_change(worker, cell, op);
}

/* ADD, where a container may be in the way. */
static int
apply_add(void *ctx, const theus_application *what, theus_value *out)
{
    theus_application one = *what;
    if (what->old != THEUS_NONE && theus_value_kind(what->old) != THEUS_ATOM) {
        one.old = THEUS_NONE;
    }
    return fake_apply(ctx, &one, out);
}

/* ---- random programs --------------------------------------------------------------------------------- */

enum { WORKERS = 4, COMMITS = 60, KEYS = 5 };

static unsigned long long randomness;
static node *versions[COMMITS + 1]; /* the real ones, as trees */
static uint64_t rebases, conflicts; /* of all runs: there must be both */

static uint32_t
below(uint32_t bound)
{
    return check_random(&randomness, bound);
}

static node *
random_value(int depth)
{
    uint32_t sort = below(depth > 0 ? 10 : 6);
    if (sort < 6) {
        return node_new(THEUS_ATOM, below(1000));
    }
    node *made = node_new(sort < 8 ? THEUS_MAP : sort == 8 ? THEUS_LIST : THEUS_SET, 0);
    for (uint64_t key = 0; key < KEYS; key++) {
        if (below(2) == 0) {
            node_insert(made, made->count, key,
                        made->kind == THEUS_SET ? node_new(THEUS_ATOM, key)
                                                : random_value(depth - 1));
        }
    }
    return made;
}

static op_kind
random_kind(const worker *worker, theus_isolation level)
{
    static const op_kind often[] = {
        OP_GET,  OP_GET,  OP_GET,    OP_GET,    OP_GET,      OP_SET,     OP_SET,     OP_SET,
        OP_SET,  OP_SET,  OP_SAME,   OP_SAME,   OP_DISCARD,  OP_DISCARD, OP_DISCARD, OP_ADD,
        OP_ADD,  OP_ADD,  OP_LENGTH, OP_SPLICE, OP_SPLICE,   OP_REVERSE, OP_FREEZE,  OP_CLEAR,
        OP_COPY, OP_HOLD, OP_HOLD,   OP_SAVE,   OP_ROLLBACK, OP_RELEASE};
    for (;;) {
        op_kind kind = often[below(sizeof(often) / sizeof(often[0]))];
        bool possible = kind == OP_HOLD   ? !worker->uses_saves
                        : kind == OP_SAVE ? worker->uses_saves && worker->depth < SAVES_MAX
                        : kind == OP_RELEASE || kind == OP_ROLLBACK ? worker->depth > 0
                        : kind == OP_ADD                            ? level == THEUS_SERIALIZABLE
                        : kind == OP_FREEZE || kind == OP_COPY      ? below(4) == 0
                                                                    : true;
        if (possible) {
            return kind;
        }
    }
}

static op *
random_op(worker *worker, theus_isolation level)
{
    op *op = &worker->ops[worker->count++];
    memset(op, 0, sizeof(*op));
    op->kind = random_kind(worker, level);
    op->from = (int)below(HANDLES * 2);
    if (op->from >= HANDLES || worker->handles[op->from] == NULL) {
        op->from = -1;
    }
    op->parts = below(PATH_MAX_PARTS + 1);
    for (uint32_t i = 0; i < op->parts; i++) {
        op->path[i] = below(KEYS);
    }
    op->key = below(KEYS);
    op->drop = below(3);
    op->handle = (int)below(HANDLES);
    op->value = op->kind == OP_ADD ? node_new(THEUS_ATOM, 1 + below(9)) : random_value(2);
    return op;
}

/* ---- the verdicts ---------------------------------------------------------------------------------------- */

/* Repeats all of it on a copy of `start`; false, and says where, if it sees something else. */
static bool
replay_on(const worker *worker, const node *start, replayed *state)
{
    *state = (replayed){.root = node_copy(start)};
    for (int i = 0; i < worker->count; i++) {
        if (!model_do(state, &worker->ops[i])) {
            fprintf(stderr, "operation %d of %d, kind %d, saw %lld\n", i, worker->count,
                    worker->ops[i].kind, (long long)worker->ops[i].seen);
            return false;
        }
    }
    return true;
}

/* A snapshot: no place it wrote has changed, and its writes stand on what was there. */
typedef struct {
    const node *pinned, *seen; /* what it began with, and what it made of that */
    const node *before;        /* the version it was committed on */
    node *result;              /* that, with its writes */
    bool changed;
} snapshot_run;

static const node *
node_at(const node *at, const theus_segment *path, uint32_t length)
{
    for (uint32_t i = 0; i < length && at != NULL; i++) {
        uint64_t key = path[i].key != NULL ? ((fake_atom *)path[i].key)->id : path[i].index;
        uint32_t found = node_find(at, key);
        at = found == at->count ? NULL : at->items[found];
    }
    return at;
}

static int
snapshot_op(void *arg, theus_op_kind kind, const theus_segment *path, uint32_t length)
{
    snapshot_run *run = arg;
    const node *old = node_at(run->pinned, path, length),
               *there = node_at(run->before, path, length);
    run->changed |= (old == NULL) != (there == NULL) || (old != NULL && !node_equal(old, there));
    const node *now = node_at(run->seen, path, length);
    CHECK(now != NULL || kind == THEUS_OP_DELETE); /* (what was removed may have come back) */
    if (run->changed) {
        return 1;
    }
    if (length == 0) {
        run->result = node_copy(now);
        return 0;
    }
    node *parent = (node *)node_at(run->result, path, length - 1);
    if (parent == NULL) {
        run->changed = true;
        return 1;
    }
    uint64_t key = path[length - 1].key != NULL ? ((fake_atom *)path[length - 1].key)->id
                                                : path[length - 1].index;
    uint32_t found = node_find(parent, key);
    if (found < parent->count && parent->kind == THEUS_LIST) {
        parent->items[found] = node_copy(now);
        return 0;
    }
    if (found < parent->count) {
        node_remove(parent, found);
    }
    if (now != NULL) {
        node_insert(parent, parent->count, key, node_copy(now));
    }
    return 0;
}

static void
finish(worker *worker, theus_isolation level, uint64_t newest)
{
    session *session = worker->session;
    replayed alone;
    REQUIRE(replay_on(worker, versions[worker->pinned], &alone)); /* own reads, always */
    snapshot_run snapshot = {.pinned = versions[worker->pinned],
                             .seen = alone.root,
                             .before = versions[newest],
                             .result = node_copy(versions[newest])};
    if (level == THEUS_SNAPSHOT) {
        snapshot.changed |= theus_txn_operations(&session->txn, snapshot_op, &snapshot) != 0;
    }
    theus_outcome outcome = session_commit(session);
    REQUIRE(outcome != THEUS_COMMIT_FAILED);
    if (outcome == THEUS_UNCHANGED) {
        REQUIRE(node_equal(alone.root, versions[worker->pinned]));
    }
    if (outcome == THEUS_COMMITTED) {
        REQUIRE(session->made->number == newest + 1);
        versions[newest + 1] = node_of_value(theus_value_of_container(session->made->root));
        if (level == THEUS_SERIALIZABLE) {
            REQUIRE(replay_on(worker, versions[newest], &alone));
            REQUIRE(node_equal(alone.root, versions[newest + 1]));
        }
        else {
            REQUIRE(!snapshot.changed && node_equal(snapshot.result, versions[newest + 1]));
        }
    }
    if (outcome == THEUS_CONFLICTED) {
        REQUIRE(worker->pinned < newest);
    }
    session_close(session);
    worker->session = NULL;
}

static void
run(theus_isolation level, unsigned long long seed)
{
    static worker workers[WORKERS];
    scene scene;
    memset(workers, 0, sizeof(workers));
    randomness = seed * 2654435761u + 1;
    scene_open_with(&scene,
                    "{0:{0:0 1:{0:0 1:1 2:2} 2:2 3:[0 1]} 1:[0 1 {0:0 1:1} 3] 2:(0 1 2) 3:3}",
                    &(theus_store_limits){.ring_capacity = 4, .history_count = 3});
    theus_version *first = theus_store_pin(scene.store);
    versions[0] = node_of_value(theus_value_of_container(first->root));
    theus_version_release(first);
    while (scene_version(&scene) < COMMITS) {
        worker *worker = &workers[below(WORKERS)];
        if (worker->session == NULL) {
            memset(worker, 0, sizeof(*worker));
            worker->session = session_open(&scene, level);
            worker->session->txn.apply = apply_add;
            worker->pinned = scene_version(&scene);
            worker->uses_saves = below(2) == 0;
        }
        else if (worker->count == OPS_MAX || below(10) == 0) {
            finish(worker, level, scene_version(&scene));
        }
        else {
            engine_do(worker, random_op(worker, level));
        }
    }
    scene_check(&scene);
    for (int i = 0; i < WORKERS; i++) {
        if (workers[i].session != NULL) {
            session_close(workers[i].session);
        }
    }
    theus_counters *counters = theus_store_counters(scene.store);
    rebases += counters->rebases;
    conflicts += counters->conflicts;
    scene_close(&scene);
    arena_reset();
}

int
main(int count, char **arguments)
{
    unsigned long long from = count > 1 ? strtoull(arguments[1], NULL, 10) : 1;
    unsigned long long until = count > 2 ? strtoull(arguments[2], NULL, 10) : from + 150;
    for (unsigned long long seed = from; seed < until; seed++) {
        run(seed % 3 == 0 ? THEUS_SNAPSHOT : THEUS_SERIALIZABLE, seed);
        if (check_result() != 0) {
            fprintf(stderr, "seed %llu\n", seed);
            return 1;
        }
    }
    CHECK(rebases > (until - from) * COMMITS / 20 && conflicts > (until - from) * COMMITS / 20);
    return check_result();
}
