#include "scene.h"

#include <ctype.h>

enum { TEXT_ROOM = 1 << 16 };

/* ---- text to value and back ------------------------------------------------------------ */

static theus_value parse_value(theus_heap *heap, const char **at);

static void
skip_blanks(const char **at)
{
    while (**at == ' ') {
        ++*at;
    }
}

static uint64_t
parse_number(const char **at)
{
    char *end;
    REQUIRE(isdigit((unsigned char)**at));
    uint64_t number = strtoull(*at, &end, 10);
    *at = end;
    return number;
}

static void
parse_entry(theus_container *edit, const char **at)
{
    theus_heap *heap = edit->heap;
    if (edit->kind == THEUS_LIST) {
        theus_value value = parse_value(heap, at);
        REQUIRE(theus_list_splice(edit, edit->span, 0, &value, 1) == THEUS_OK);
        theus_value_release(heap, value);
        return;
    }
    fake_atom *key = fake_new(parse_number(at));
    theus_value value = THEUS_NONE;
    if (edit->kind == THEUS_MAP) {
        REQUIRE(*(*at)++ == ':');
        value = parse_value(heap, at);
    }
    REQUIRE(theus_container_insert(edit, key->hash, key, value, NULL) == THEUS_OK);
    fake_release(key);
    if (value != THEUS_NONE) {
        theus_value_release(heap, value);
    }
}

static theus_value
parse_value(theus_heap *heap, const char **at)
{
    skip_blanks(at);
    if (isdigit((unsigned char)**at)) {
        return theus_value_of_atom(fake_new(parse_number(at)));
    }
    char open = *(*at)++;
    REQUIRE(open == '{' || open == '[' || open == '(');
    char close = open == '{' ? '}' : open == '[' ? ']' : ')';
    theus_container *edit = new_edit(heap, open == '{'   ? THEUS_MAP
                                           : open == '[' ? THEUS_LIST
                                                         : THEUS_SET);
    for (skip_blanks(at); **at != close; skip_blanks(at)) {
        parse_entry(edit, at);
    }
    ++*at;
    return theus_value_of_container(sealed(edit));
}

theus_value
value_of(theus_heap *heap, const char *text)
{
    theus_value value = parse_value(heap, &text);
    skip_blanks(&text);
    REQUIRE(*text == '\0');
    return value;
}

static uint64_t
id_of(theus_value value)
{
    return ((fake_atom *)theus_value_atom(value))->id;
}

static size_t
show_at(theus_value value, char *text, size_t room)
{
    REQUIRE(room > 32);
    if (theus_value_kind(value) == THEUS_ATOM) {
        return (size_t)sprintf(text, "%llu", (unsigned long long)id_of(value));
    }
    const theus_container *container = theus_value_container(value);
    size_t used = 0;
    text[used++] = " {[("[container->kind];
    theus_cursor cursor;
    void *key;
    theus_value entry;
    theus_cursor_init(&cursor, container, false);
    while (theus_cursor_next(&cursor, NULL, &key, &entry)) {
        if (used > 1) {
            text[used++] = ' ';
        }
        if (container->kind == THEUS_MAP) {
            used +=
                (size_t)sprintf(text + used, "%llu:", (unsigned long long)((fake_atom *)key)->id);
        }
        used += show_at(entry, text + used, room - used);
        REQUIRE(room - used > 32);
    }
    text[used++] = " }])"[container->kind];
    text[used] = '\0';
    return used;
}

void
value_show(theus_value value, char *text, size_t room)
{
    (void)show_at(value, text, room);
}

static bool
shows_as(const theus_container *container, const char *text)
{
    char *shown = malloc(TEXT_ROOM);
    REQUIRE(shown != NULL);
    value_show((theus_value)container | container->kind, shown, TEXT_ROOM);
    bool same = strcmp(shown, text) == 0;
    if (!same) {
        fprintf(stderr, "expected %s\n   found %s\n", text, shown);
    }
    free(shown);
    return same;
}

/* ---- scenes -------------------------------------------------------------------------------- */

void
scene_open_with(scene *scene, const char *text, const theus_store_limits *limits)
{
    REQUIRE(theus_heap_new(&fake_ops, &scene->heap) == THEUS_OK);
    theus_value root = value_of(scene->heap, text);
    theus_container *signals = sealed(new_edit(scene->heap, THEUS_MAP));
    theus_version *first;
    REQUIRE(theus_version_new(NULL, 0, theus_value_container(root), signals, NULL, &first) == THEUS_OK);
    REQUIRE(theus_store_new(scene->heap, first, limits, &scene->store) == THEUS_OK);
    theus_version_release(first);
    theus_container_release(signals);
    theus_value_release(scene->heap, root);
}

void
scene_open(scene *scene, const char *text)
{
    theus_store_limits limits = {.ring_capacity = 8, .history_count = 4};
    scene_open_with(scene, text, &limits);
}

static void
check_nested(const theus_container *container)
{
    CHECK_SOUND(theus_container_check(container, NULL));
    theus_cursor cursor;
    theus_value value;
    theus_cursor_init(&cursor, container, false);
    while (theus_cursor_next(&cursor, NULL, NULL, &value)) {
        if (theus_value_kind(value) != THEUS_ATOM) {
            check_nested(theus_value_container(value));
        }
    }
}

void
scene_check(const scene *scene)
{
    theus_version *version = theus_store_pin(scene->store);
    check_nested(version->root);
    check_nested(version->signals);
    CHECK_SOUND(theus_heap_check(scene->heap));
    theus_version_release(version);
}

void
scene_close(scene *scene)
{
    scene_check(scene);
    theus_store_free(scene->store);
    CHECK_SOUND(theus_heap_check(scene->heap));
    CHECK(owned_atoms(scene->heap) == 0);
    theus_heap_stats stats;
    theus_heap_read_stats(scene->heap, &stats);
    CHECK(stats.containers == 0 && stats.nodes == 0 && stats.bytes == 0);
    theus_heap_free(scene->heap);
    CHECK(fakes_live() == 0);
    CHECK(theus_alloc_live() == 0);
}

bool
scene_is(const scene *scene, const char *text)
{
    theus_version *version = theus_store_pin(scene->store);
    bool same = shows_as(version->root, text);
    theus_version_release(version);
    return same;
}

uint64_t
scene_version(const scene *scene)
{
    theus_store_facts facts;
    theus_store_read_facts(scene->store, &facts);
    return facts.version;
}

/* ---- sessions ------------------------------------------------------------------------------- */

/* Takes over a count of `version`. */
static session *
session_on(const scene *scene, theus_isolation isolation, theus_version *version)
{
    session *made = calloc(1, sizeof(*made));
    REQUIRE(made != NULL);
    theus_txn_begin(&made->txn, scene->store, version, isolation, false);
    theus_version_release(version);
    made->txn.apply = fake_apply;
    made->txn.embedder = scene->heap;
    return made;
}

session *
session_open_at(const scene *scene, theus_isolation isolation, uint64_t number)
{
    theus_version *version;
    REQUIRE(theus_store_at(scene->store, number, &version) == THEUS_OK);
    return session_on(scene, isolation, version);
}

session *
session_open(const scene *scene, theus_isolation isolation)
{
    return session_on(scene, isolation, theus_store_pin(scene->store));
}

theus_outcome
session_commit(session *session)
{
    session->outcome =
        theus_txn_commit(&session->txn, NULL, &session->made, &session->why, &session->status);
    CHECK((session->made != NULL) == (session->outcome == THEUS_COMMITTED));
    CHECK((session->status != THEUS_OK) == (session->outcome == THEUS_COMMIT_FAILED));
    CHECK(theus_txn_enter(&session->txn) == (session->outcome == THEUS_HELD_UP ? THEUS_OK : THEUS_ENDED));
    if (session->outcome == THEUS_HELD_UP) {
        theus_txn_leave(&session->txn);
    }
    return session->outcome;
}

void
session_close(session *session)
{
    theus_txn_abort(&session->txn);
    theus_conflict_fini(&session->why);
    theus_version_release(session->made);
    free(session);
}

void
session_done(session *session)
{
    theus_outcome outcome = session_commit(session);
    if (outcome == THEUS_CONFLICTED) {
        fprintf(stderr, "conflict: %s\n", session->why.what);
    }
    REQUIRE(outcome == THEUS_COMMITTED);
    session_close(session);
}

bool
session_refused(session *session, const char *what, const char *path)
{
    char shown[256] = "";
    size_t used = 0;
    const theus_conflict *why = &session->why;
    bool refused = session_commit(session) == THEUS_CONFLICTED;
    for (uint32_t i = 0; refused && i < why->length; i++) {
        const fake_atom *key = why->path[i].key;
        used += (size_t)snprintf(shown + used, sizeof(shown) - used, i > 0 ? ".%llu" : "%llu",
                                 (unsigned long long)(key != NULL ? key->id : why->path[i].index));
    }
    bool as_said = refused && strcmp(why->what, what) == 0 && strcmp(shown, path) == 0;
    if (!as_said) {
        fprintf(stderr, "expected a conflict of %s at '%s', found %s at '%s'\n", what, path,
                refused ? why->what : "none", shown);
    }
    session_close(session);
    return as_said;
}

/* ---- paths ----------------------------------------------------------------------------------- */

/* Where key or index `id` stands in a cell: FOUND or ABSENT. */
static theus_find
step(theus_cell *cell, uint64_t id, bool logged, uint32_t *pos, theus_value *value)
{
    if (cell->now->kind == THEUS_LIST) {
        if (cell->deferred != NULL) {
            REQUIRE(theus_cell_settle(cell, NULL) == THEUS_OK);
        }
        if (id >= cell->now->count) {
            theus_cell_read_shape(cell);
            return THEUS_ABSENT;
        }
        *pos = (uint32_t)id;
        if (logged) {
            REQUIRE(theus_cell_read(cell, *pos, value) == THEUS_OK);
        }
        return THEUS_FOUND;
    }
    fake_atom *key = fake_new(id);
    theus_find found = logged ? theus_cell_lookup(cell, NULL, key->hash, key, pos, value)
                              : theus_cell_probe(cell, NULL, key->hash, key, pos, value);
    REQUIRE(found != THEUS_FIND_FAILED);
    fake_release(key);
    return found;
}

/* The cell that holds the last part, and that part. */
static theus_cell *
cell_above(session *session, const char *path, uint64_t *last)
{
    theus_cell *cell = session->txn.root;
    for (;;) {
        *last = parse_number(&path);
        if (*path == '\0') {
            return cell;
        }
        REQUIRE(*path++ == '.');
        uint32_t pos;
        theus_value value;
        REQUIRE(step(cell, *last, false, &pos, &value) == THEUS_FOUND);
        REQUIRE(theus_cell_enter(cell, pos, &cell) == THEUS_OK);
    }
}

theus_cell *
cell_at(session *session, const char *path)
{
    if (*path == '\0') {
        return session->txn.root;
    }
    uint64_t last;
    uint32_t pos;
    theus_value value;
    theus_cell *cell = cell_above(session, path, &last);
    REQUIRE(step(cell, last, false, &pos, &value) == THEUS_FOUND);
    REQUIRE(theus_cell_enter(cell, pos, &cell) == THEUS_OK);
    return cell;
}

int64_t
get(session *session, const char *path)
{
    uint64_t last;
    uint32_t pos;
    theus_value value;
    theus_cell *cell = cell_above(session, path, &last);
    if (step(cell, last, true, &pos, &value) == THEUS_ABSENT) {
        return ABSENT;
    }
    return theus_value_kind(value) == THEUS_ATOM ? (int64_t)id_of(value) : NESTED;
}

bool
contains(session *session, const char *path, uint64_t element)
{
    uint32_t pos;
    theus_value value;
    return step(cell_at(session, path), element, true, &pos, &value) == THEUS_FOUND;
}

uint32_t
length_of(session *session, const char *path)
{
    theus_cell *cell = cell_at(session, path);
    theus_cell_read_shape(cell);
    return cell->now->count;
}

bool
reads_as(session *session, const char *path, const char *text)
{
    theus_container *content;
    REQUIRE(theus_cell_freeze(cell_at(session, path), &content) == THEUS_OK);
    bool same = shows_as(content, text);
    theus_container_release(content);
    return same;
}

void
set(session *session, const char *path, const char *text)
{
    uint64_t last;
    theus_cell *cell = cell_above(session, path, &last);
    theus_value value = value_of(cell->now->heap, text);
    if (cell->now->kind == THEUS_LIST) {
        REQUIRE(theus_cell_put(cell, (uint32_t)last, value) == THEUS_OK);
    }
    else {
        fake_atom *key = fake_new(last);
        REQUIRE(theus_cell_store(cell, NULL, key->hash, key, value) == THEUS_OK);
        fake_release(key);
    }
    theus_value_release(cell->now->heap, value);
}

static void
remove_if_there(theus_cell *cell, uint64_t id)
{
    uint32_t pos;
    theus_value value;
    if (step(cell, id, true, &pos, &value) == THEUS_FOUND) {
        REQUIRE((cell->now->kind == THEUS_LIST ? theus_cell_splice(cell, pos, 1, NULL, 0)
                                               : theus_cell_remove(cell, id, pos))
                == THEUS_OK);
    }
}

void
discard(session *session, const char *path)
{
    uint64_t last;
    theus_cell *cell = cell_above(session, path, &last);
    remove_if_there(cell, last);
}

void
include(session *session, const char *path, uint64_t element)
{
    fake_atom *atom = fake_new(element);
    REQUIRE(theus_cell_store(cell_at(session, path), NULL, atom->hash, atom, THEUS_NONE)
            == THEUS_OK);
    fake_release(atom);
}

void
exclude(session *session, const char *path, uint64_t element)
{
    remove_if_there(cell_at(session, path), element);
}

void
splice(session *session, const char *path, uint32_t start, uint32_t drop, const char *text)
{
    theus_cell *cell = cell_at(session, path);
    theus_heap *heap = cell->now->heap;
    theus_value values[16], list = value_of(heap, text);
    const theus_container *items = theus_value_container(list);
    REQUIRE(items->kind == THEUS_LIST && items->count <= 16);
    for (uint32_t i = 0; i < items->count; i++) {
        values[i] = theus_container_value_at(items, i);
    }
    REQUIRE(theus_cell_splice(cell, start, drop, values, items->count) == THEUS_OK);
    theus_value_release(heap, list);
}

void
append(session *session, const char *path, const char *text)
{
    splice(session, path, cell_at(session, path)->now->count, 0, text);
}

void
add(session *session, const char *path, uint64_t number)
{
    uint64_t last;
    theus_cell *cell = cell_above(session, path, &last);
    fake_atom *operand = fake_new(number);
    fake_atom *key = cell->now->kind == THEUS_LIST ? NULL : fake_new(last);
    REQUIRE(theus_cell_defer(cell, THEUS_ADD, last, key, (uint32_t)last,
                             theus_value_of_atom(operand), NULL)
            == THEUS_OK);
    fake_release(operand);
    if (key != NULL) {
        fake_release(key);
    }
}

void
send(session *session, uint64_t topic, uint64_t payload)
{
    fake_atom *key = fake_new(topic), *value = fake_new(payload);
    REQUIRE(theus_txn_attach(&session->txn, THEUS_SIGNALS, key, theus_value_of_atom(value))
            == THEUS_OK);
    fake_release(key);
    fake_release(value);
}

void
perform(session *tx, const char *line)
{
    char verb[16], path[32];
    const char *rest = line + strcspn(line, " ");
    snprintf(verb, sizeof(verb), "%.*s", (int)(rest - line), line);
    rest += *rest == ' ';
    size_t length = strcspn(rest, " ");
    snprintf(path, sizeof(path), "%.*s", (int)length, rest);
    rest += length + (rest[length] == ' ');
#define IS(name) (strcmp(verb, name) == 0)
    if (IS("get")) {
        (void)get(tx, path);
    }
    else if (IS("len")) {
        (void)length_of(tx, path);
    }
    else if (IS("all")) {
        theus_container *content;
        REQUIRE(theus_cell_freeze(cell_at(tx, path), &content) == THEUS_OK);
        theus_container_release(content);
    }
    else if (IS("in")) {
        (void)contains(tx, path, strtoull(rest, NULL, 10));
    }
    else if (IS("set")) {
        set(tx, path, rest);
    }
    else if (IS("del")) {
        discard(tx, path);
    }
    else if (IS("clear")) {
        REQUIRE(theus_cell_clear(cell_at(tx, path)) == THEUS_OK);
    }
    else if (IS("push")) {
        append(tx, path, rest);
    }
    else if (IS("unshift")) {
        splice(tx, path, 0, 0, rest);
    }
    else if (IS("include")) {
        include(tx, path, strtoull(rest, NULL, 10));
    }
    else {
        REQUIRE(IS("exclude"));
        exclude(tx, path, strtoull(rest, NULL, 10));
    }
#undef IS
}

void
commit_set(const scene *scene, const char *path, const char *text)
{
    session *other = session_open(scene, THEUS_SERIALIZABLE);
    if (text != NULL) {
        set(other, path, text);
    }
    else {
        discard(other, path);
    }
    session_done(other);
}

/* ---- deferred operations ------------------------------------------------------------------------ */

int
fake_apply(void *ctx, const theus_application *what, theus_value *out)
{
    theus_value old = what->old, operand = what->operand;
    if (what->kind == THEUS_APPEND) {
        theus_container *edit;
        theus_status status = old == THEUS_NONE
                                  ? theus_container_new(ctx, THEUS_LIST, &edit)
                                  : theus_edit_begin(theus_value_container(old), &edit);
        if (status != THEUS_OK) {
            return -1;
        }
        status = theus_list_splice(edit, edit->span, 0, &operand, 1);
        if (status == THEUS_OK) {
            status = theus_edit_seal(edit);
        }
        if (status != THEUS_OK) {
            theus_container_release(edit);
            return -1;
        }
        *out = theus_value_of_container(edit);
        return 0;
    }
    uint64_t before = old == THEUS_NONE ? 0 : id_of(old), number = id_of(operand);
    uint64_t after = what->kind == THEUS_ADD ? before + number : before > number ? before : number;
    *out = theus_value_of_atom(fake_new(after));
    return 0;
}
