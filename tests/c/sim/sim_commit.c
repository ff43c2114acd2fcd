/* The commit protocol, schedule by schedule: is every tiny history serializable, and is nothing
 * leaked?
 *
 * A body is a script. What it saw and wrote is kept, and after the run each transaction that
 * became version v is repeated alone on a flat model of version v - 1, as the core's own
 * argument goes (commit.c): a serializable one must see the same, a snapshot one must find the
 * places it wrote as they were at its snapshot; every attempt, also one that failed, must have
 * seen its snapshot. Then the model must be what the store holds. */
#include "schedule.h"

#include "../scene.h"

enum { STEPS = 8, ATTEMPTS = 6, KEYS = 8, RECORDS = SIM_THREADS * ATTEMPTS };

typedef enum { GET, LEN, SET, PUT, DEL, ADD, SAVE, BACK } verb;

static const char *const verbs[] = {"get", "len", "set", "put", "del", "add", "save", "back"};

/* Two levels: key `top`, or the entry `sub` of the map at `top`; sub 0: none. */
typedef struct {
    verb verb;
    int top, sub;
    int64_t seen; /* by GET and LEN; by DEL: was it there? */
    int64_t made; /* by SET, PUT (the one entry of the new map) and ADD */
} step_note;

typedef struct {
    theus_isolation isolation;
    uint64_t floor, snapshot;
    uint64_t version; /* 0: none */
    bool nothing;     /* its commit succeeded and changed nothing */
    int count;
    step_note steps[STEPS];
} attempt_note;

/* What the threads of a scene do: "kind tries: step; step; ...", and how many versions are kept. */
typedef struct {
    const char *start;
    const char *scripts[SIM_THREADS];
    uint32_t history;
} play;

static const play *current_play;
static scene stage;
static attempt_note records[RECORDS];
static int record_count;
static uint64_t known;  /* newest version that some commit has told of */
static int64_t numbers; /* what SET and PUT store: each number once */

/* ---- the model ----------------------------------------------------------------------------- */

typedef struct {
    int64_t top[KEYS];       /* ABSENT, NESTED or a number */
    int64_t sub[KEYS][KEYS]; /* ABSENT or a number */
} model;

static void
model_clear_sub(model *model, int top)
{
    for (int i = 0; i < KEYS; i++) {
        model->sub[top][i] = ABSENT;
    }
}

static model
model_of(const theus_version *version)
{
    model made;
    theus_cursor cursor, inner;
    void *key, *inner_key;
    theus_value value, inner_value;
    for (int i = 0; i < KEYS; i++) {
        made.top[i] = ABSENT;
        model_clear_sub(&made, i);
    }
    theus_cursor_init(&cursor, version->root, false);
    while (theus_cursor_next(&cursor, NULL, &key, &value)) {
        uint64_t top = ((fake_atom *)key)->id;
        if (theus_value_kind(value) == THEUS_ATOM) {
            made.top[top] = (int64_t)((fake_atom *)theus_value_atom(value))->id;
            continue;
        }
        made.top[top] = NESTED;
        theus_cursor_init(&inner, theus_value_container(value), false);
        while (theus_cursor_next(&inner, NULL, &inner_key, &inner_value)) {
            made.sub[top][((fake_atom *)inner_key)->id] =
                (int64_t)((fake_atom *)theus_value_atom(inner_value))->id;
        }
    }
    return made;
}

static int64_t *
model_place(model *model, const step_note *step)
{
    return step->sub == 0 ? &model->top[step->top] : &model->sub[step->top][step->sub];
}

static int64_t
model_length(const model *model, int top)
{
    int64_t count = 0;
    for (int i = 0; i < KEYS; i++) {
        count += model->sub[top][i] != ABSENT;
    }
    return count;
}

/* Does a step on the model. False: the body saw something else there. */
static bool
model_step(model *model, const step_note *step)
{
    int64_t *place = model_place(model, step);
    if (step->sub != 0 && model->top[step->top] != NESTED) {
        return false;
    }
    switch (step->verb) {
    case GET:
        return *place == step->seen;
    case LEN:
        return model->top[step->top] == NESTED && model_length(model, step->top) == step->seen;
    case SET:
        *place = step->made;
        return true;
    case PUT:
        *place = NESTED;
        model_clear_sub(model, step->top);
        model->sub[step->top][1] = step->made;
        return true;
    case DEL:
        if ((*place != ABSENT) != (step->seen != 0)) {
            return false;
        }
        *place = ABSENT;
        return true;
    case ADD:
        *place = (*place == ABSENT ? 0 : *place) + step->made;
        return true;
    default:
        return true;
    }
}

/* All steps of an attempt; savepoints are copies of the model. False: something seen differs. */
static bool
model_run(model *state, const attempt_note *note, bool compare)
{
    model saved = *state;
    bool same = true;
    for (int i = 0; i < note->count; i++) {
        const step_note *step = &note->steps[i];
        if (step->verb == SAVE) {
            saved = *state;
        }
        else if (step->verb == BACK) {
            *state = saved;
        }
        else {
            same = model_step(state, step) && same;
        }
    }
    return same || !compare;
}

static bool
model_equal(const model *a, const model *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

/* ---- judging a run ------------------------------------------------------------------------- */

static void
tell(const char *what, const attempt_note *note)
{
    fprintf(stderr, "%s: snapshot %llu, version %llu:", what, (unsigned long long)note->snapshot,
            (unsigned long long)note->version);
    for (int i = 0; i < note->count; i++) {
        const step_note *step = &note->steps[i];
        fprintf(stderr, " %s %d.%d saw %lld made %lld;", verbs[step->verb], step->top, step->sub,
                (long long)step->seen, (long long)step->made);
    }
    fprintf(stderr, "\n");
    CHECK(!"serializable");
}

static bool
is_undone(const attempt_note *note, int at)
{
    bool saved = false, undone = false;
    for (int i = 0; i < note->count; i++) {
        saved = saved || (i < at && note->steps[i].verb == SAVE);
        undone = undone || (i > at && note->steps[i].verb == BACK);
    }
    return saved && undone;
}

/* First committer wins: nothing that it wrote has changed between its snapshot and the version
 * before its own. */
static bool
writes_are_first(const attempt_note *note, model *then, model *now)
{
    for (int i = 0; i < note->count; i++) {
        const step_note *step = &note->steps[i];
        if (!is_undone(note, i) && (step->verb == SET || step->verb == PUT || step->verb == DEL)
            && *model_place(then, step) != *model_place(now, step)) {
            return false;
        }
    }
    return true;
}

static void
judge(void)
{
    model versions[RECORDS + 1];
    theus_version *newest = theus_store_pin(stage.store);
    theus_value root = value_of(stage.heap, current_play->start);
    theus_version first = {.root = theus_value_container(root)};
    versions[0] = model_of(&first);
    theus_value_release(stage.heap, root);
    for (uint64_t version = 1; version <= newest->number; version++) {
        const attempt_note *writer = NULL;
        for (int i = 0; i < record_count; i++) {
            if (records[i].version == version) {
                CHECK(writer == NULL); /* a version is one commit's */
                writer = &records[i];
            }
        }
        REQUIRE(writer != NULL);
        versions[version] = versions[version - 1];
        bool snapshot = writer->isolation == THEUS_SNAPSHOT;
        if (!model_run(&versions[version], writer, !snapshot)) {
            tell("not what version - 1 shows", writer);
        }
        if (snapshot
            && !writes_are_first(writer, &versions[writer->snapshot], &versions[version - 1])) {
            tell("an update was lost", writer);
        }
    }
    for (int i = 0; i < record_count; i++) {
        const attempt_note *note = &records[i];
        CHECK(note->floor <= note->snapshot);
        CHECK(note->version == 0 || note->version > note->snapshot);
        model alone = versions[note->snapshot];
        if (!model_run(&alone, note, true)) {
            tell("not what its snapshot shows", note);
        }
        if (note->nothing && !model_equal(&alone, &versions[note->snapshot])) {
            tell("changed something and made no version", note);
        }
    }
    model real = model_of(newest);
    CHECK(model_equal(&real, &versions[newest->number]));
    theus_version_release(newest);
}

/* ---- bodies -------------------------------------------------------------------------------- */

/* The cell above the place of a step: OK, or NOMEM. */
static theus_status
cell_of(session *tx, const step_note *step, theus_cell **cell)
{
    *cell = tx->txn.root;
    if (step->sub == 0 && step->verb != LEN) {
        return THEUS_OK;
    }
    uint32_t pos;
    theus_value value;
    fake_atom *key = fake_new((uint64_t)step->top);
    theus_find found = theus_cell_probe(*cell, NULL, key->hash, key, &pos, &value);
    fake_release(key);
    REQUIRE(found != THEUS_FIND_FAILED || tx->txn.find_status == THEUS_NOMEM);
    if (found == THEUS_FIND_FAILED) {
        return THEUS_NOMEM;
    }
    REQUIRE(found == THEUS_FOUND && theus_value_kind(value) == THEUS_MAP);
    return theus_cell_enter(*cell, pos, cell);
}

static theus_status
do_store(theus_cell *cell, const step_note *step, fake_atom *key)
{
    theus_heap *heap = cell->now->heap;
    fake_atom *number = fake_new((uint64_t)step->made);
    theus_value value = theus_value_of_atom(number);
    theus_container *map = NULL;
    theus_status status = THEUS_OK;
    if (step->verb == PUT) {
        fake_atom *one = fake_new(1);
        status = theus_container_new(heap, THEUS_MAP, &map);
        if (status == THEUS_OK) {
            status = theus_container_insert(map, one->hash, one, value, NULL);
            status = status == THEUS_OK ? theus_edit_seal(map) : status;
            value = (theus_value)map | THEUS_MAP;
        }
        else {
            map = NULL;
        }
        fake_release(one);
    }
    if (status == THEUS_OK && step->verb == ADD) {
        status = theus_cell_defer(cell, THEUS_ADD, key->hash, key, 0, value, NULL);
    }
    else if (status == THEUS_OK) {
        status = theus_cell_store(cell, NULL, key->hash, key, value);
    }
    if (map != NULL) {
        theus_container_release(map);
    }
    fake_release(number);
    return status;
}

static theus_status
do_look(session *tx, theus_cell *cell, step_note *step, fake_atom *key)
{
    uint32_t pos;
    theus_value value;
    theus_find found = theus_cell_lookup(cell, NULL, key->hash, key, &pos, &value);
    if (found == THEUS_FIND_FAILED) {
        return tx->txn.find_status;
    }
    if (step->verb == DEL) {
        step->seen = found == THEUS_FOUND;
        return found == THEUS_FOUND ? theus_cell_remove(cell, key->hash, pos) : THEUS_OK;
    }
    step->seen = found == THEUS_ABSENT ? ABSENT
                 : theus_value_kind(value) != THEUS_ATOM
                     ? NESTED
                     : (int64_t)((fake_atom *)theus_value_atom(value))->id;
    return THEUS_OK;
}

static theus_status
do_step(session *tx, step_note *step)
{
    theus_savepoint *savepoint;
    theus_cell *cell;
    if (step->verb == SAVE) {
        return theus_txn_save(&tx->txn, &savepoint);
    }
    if (step->verb == BACK) {
        theus_savepoint_rollback(tx->txn.savepoint);
        return THEUS_OK;
    }
    theus_status status = cell_of(tx, step, &cell);
    if (status != THEUS_OK) {
        return status;
    }
    if (step->verb == LEN) {
        theus_cell_read_shape(cell);
        step->seen = cell->now->count;
        return THEUS_OK;
    }
    fake_atom *key = fake_new((uint64_t)(step->sub != 0 ? step->sub : step->top));
    status = step->verb == GET || step->verb == DEL ? do_look(tx, cell, step, key)
                                                    : do_store(cell, step, key);
    fake_release(key);
    return status;
}

/* "verb top[.sub]", up to the next ';'. NULL at the end. */
static const char *
parse_step(const char *line, step_note *step)
{
    char word[8];
    int used;
    if (*line == '\0') {
        return NULL;
    }
    REQUIRE(sscanf(line, " %7[a-z]%n", word, &used) == 1);
    *step = (step_note){0};
    while (strcmp(verbs[step->verb], word) != 0) {
        step->verb++;
        REQUIRE(step->verb <= BACK);
    }
    line += used;
    if (sscanf(line, " %d%n", &step->top, &used) == 1) {
        line += used;
        if (*line == '.') {
            REQUIRE(sscanf(line, ".%d%n", &step->sub, &used) == 1);
            line += used;
        }
    }
    if (step->verb == SET || step->verb == PUT) {
        step->made = ++numbers;
    }
    else if (step->verb == ADD) {
        step->made = 1000;
    }
    return line + (*line == ';');
}

/* One attempt. True: done, committed or out of memory; false: a conflict, try again. */
static bool
attempt(const char *script, char kind)
{
    REQUIRE(record_count < RECORDS);
    attempt_note *note = &records[record_count++];
    *note = (attempt_note){.isolation =
                               kind == 'n' || kind == 'c' ? THEUS_SNAPSHOT : THEUS_SERIALIZABLE,
                           .floor = known};
    session *tx = calloc(1, sizeof(*tx));
    REQUIRE(tx != NULL);
    theus_version *version = theus_store_pin(stage.store);
    theus_txn_begin(&tx->txn, stage.store, version, note->isolation, false);
    note->snapshot = version->number;
    theus_version_release(version);
    tx->txn.apply = fake_apply;
    tx->txn.embedder = stage.heap;
    tx->txn.pledged = kind == 'c';
    theus_status status = THEUS_OK;
    step_note step;
    while (status == THEUS_OK && (script = parse_step(script, &step)) != NULL) {
        status = do_step(tx, &step);
        if (status == THEUS_OK) {
            REQUIRE(note->count < STEPS);
            note->steps[note->count++] = step;
        }
    }
    REQUIRE(status == THEUS_OK || (status == THEUS_NOMEM && sim_memory_fails()));
    bool over = true;
    if (status == THEUS_OK) {
        theus_outcome outcome = theus_txn_commit(&tx->txn, NULL, &tx->made, &tx->why, &status);
        REQUIRE(outcome != THEUS_COMMIT_FAILED || (status == THEUS_NOMEM && sim_memory_fails()));
        note->nothing = outcome == THEUS_UNCHANGED;
        over = outcome != THEUS_CONFLICTED;
        if (outcome == THEUS_COMMITTED) {
            note->version = tx->made->number;
            known = known > note->version ? known : note->version;
        }
    }
    session_close(tx);
    return over;
}

static void
play_body(int thread)
{
    const char *line = current_play->scripts[thread];
    int tries = line[1] - '0';
    REQUIRE(strchr("snc", line[0]) != NULL && tries > 0 && tries <= ATTEMPTS && line[2] == ':');
    while (tries-- > 0 && !attempt(line + 3, line[0])) {
    }
}

static void
on_equal(void *ctx, fake_atom *a, fake_atom *b)
{
    (void)ctx;
    (void)a;
    (void)b;
    sim_point("equality of keys"); /* foreign code: may run as long as it likes */
}

static void
play_open(const void *about)
{
    current_play = about;
    theus_store_limits limits = {.ring_capacity = 2, .history_count = current_play->history};
    record_count = 0;
    known = 0;
    numbers = 10;
    fakes.on_equal = on_equal;
    scene_open_with(&stage, current_play->start, &limits);
}

static void
play_close(void)
{
    fakes.on_equal = NULL;
    judge();
    scene_close(&stage); /* leaks, and the walkers of check.c */
}

/* ---- the scenes ---------------------------------------------------------------------------- */

#define PLAY(...) &(const play){__VA_ARGS__}, play_open, play_body, play_close

/* s: serializable, n: snapshot, c: as compare-and-swap; then how often it tries. */
static const sim_scene scenes[] = {
    {"two writers of one key", 2, 2, PLAY("{1:1}", {"s3:get 1; set 1", "s3:get 1; set 1"}, 4)},
    {"write skew", 2, 2, PLAY("{1:1 2:2}", {"s3:get 1; set 2", "s3:get 2; set 1"}, 4)},
    {"write skew under snapshot", 2, 2,
     PLAY("{1:1 2:2}", {"n3:get 1; set 2", "n3:get 2; set 1; set 2"}, 4)},
    {"ancestor and descendant", 2, 2,
     PLAY("{1:1 2:{1:1 2:2}}", {"s3:get 2.1; set 2.2", "s3:get 1; put 2"}, 4)},
    {"ancestor, descendant, snapshot", 2, 2,
     PLAY("{1:1 2:{1:1 2:2}}", {"n3:set 2.1; set 2.3", "n3:put 2; set 1"}, 4)},
    {"phantom by length", 2, 2,
     PLAY("{1:1 2:{1:1 2:2}}", {"s3:len 2; set 1", "s3:get 1; set 2.3"}, 4)},
    {"phantom by absence", 2, 2,
     PLAY("{1:1 2:{1:1}}", {"s3:get 2.3; set 1", "s3:set 2.3; del 2.1"}, 4)},
    {"deferred adds", 2, 2, PLAY("{1:1 2:2}", {"s3:add 1; get 2", "s3:add 1; set 2"}, 4)},
    {"compare and swap", 2, 2, PLAY("{1:1 2:2}", {"c1:set 1", "s3:get 1; set 1; set 2"}, 4)},
    {"a savepoint rolled back", 2, 2,
     PLAY("{1:1 2:2 3:3}", {"s3:get 1; save; get 2; set 2; back; set 3", "s3:get 3; set 2"}, 1)},
    {"three on one key", 3, 1,
     PLAY("{1:1}", {"s4:get 1; set 1", "n4:get 1; set 1", "s4:add 1"}, 2)},
    {"three, one an ancestor", 3, 1,
     PLAY("{1:1 2:{1:1}}", {"s4:get 2.1; set 1", "s4:put 2", "s4:get 1; set 2.1"}, 2)},
};

int
main(int argc, char **argv)
{
    sim_explore(scenes, sizeof(scenes) / sizeof(scenes[0]), argc, argv);
    return check_result();
}
