#include "naive.h"

/* ---- trees ----------------------------------------------------------------------------------- */

static char arena[64 << 20];
static size_t arena_used;

void
arena_reset(void)
{
    arena_used = 0;
}

static void *
arena_take(size_t size)
{
    size = (size + 15) & ~(size_t)15;
    REQUIRE(arena_used + size <= sizeof(arena));
    void *memory = arena + arena_used;
    arena_used += size;
    return memory;
}

node *
node_new(int kind, uint64_t id)
{
    node *made = arena_take(sizeof(*made));
    *made = (node){.kind = kind, .id = id};
    return made;
}

void
node_insert(node *parent, uint32_t at, uint64_t key, node *item)
{
    if (parent->count == parent->room) {
        uint32_t room = parent->room * 2 + 4;
        uint64_t *keys = arena_take(room * sizeof(*keys));
        node **items = arena_take(room * sizeof(*items));
        if (parent->count > 0) {
            memcpy(keys, parent->keys, parent->count * sizeof(*keys));
            memcpy(items, parent->items, parent->count * sizeof(*items));
        }
        parent->keys = keys;
        parent->items = items;
        parent->room = room;
    }
    memmove(parent->keys + at + 1, parent->keys + at, (parent->count - at) * sizeof(uint64_t));
    memmove(parent->items + at + 1, parent->items + at, (parent->count - at) * sizeof(node *));
    parent->keys[at] = key;
    parent->items[at] = item;
    parent->count++;
}

void
node_remove(node *parent, uint32_t at)
{
    parent->count--;
    memmove(parent->keys + at, parent->keys + at + 1, (parent->count - at) * sizeof(uint64_t));
    memmove(parent->items + at, parent->items + at + 1, (parent->count - at) * sizeof(node *));
}

uint32_t
node_find(const node *parent, uint64_t key)
{
    if (parent->kind == THEUS_LIST) {
        return key < parent->count ? (uint32_t)key : parent->count;
    }
    uint32_t i = 0;
    while (i < parent->count && parent->keys[i] != key) {
        i++;
    }
    return i;
}

node *
node_of_value(theus_value value)
{
    if (theus_value_kind(value) == THEUS_ATOM) {
        return node_new(THEUS_ATOM, ((fake_atom *)theus_value_atom(value))->id);
    }
    const theus_container *container = theus_value_container(value);
    node *made = node_new(container->kind, 0);
    theus_cursor cursor;
    void *key;
    theus_value item;
    theus_cursor_init(&cursor, container, false);
    while (theus_cursor_next(&cursor, NULL, &key, &item)) {
        node_insert(made, made->count, key == NULL ? 0 : ((fake_atom *)key)->id,
                    node_of_value(item));
    }
    return made;
}

node *
node_copy(const node *from)
{
    node *made = node_new(from->kind, from->id);
    for (uint32_t i = 0; i < from->count; i++) {
        node_insert(made, i, from->keys[i], node_copy(from->items[i]));
    }
    return made;
}

bool
node_equal(const node *a, const node *b)
{
    if (a->kind != b->kind || a->id != b->id || a->count != b->count) {
        return false;
    }
    for (uint32_t i = 0; i < a->count; i++) {
        uint32_t at = a->kind == THEUS_LIST ? i : node_find(b, a->keys[i]);
        if (at == b->count || !node_equal(a->items[i], b->items[at])) {
            return false;
        }
    }
    return true;
}

uint32_t
node_size(const node *tree)
{
    uint32_t size = 1;
    for (uint32_t i = 0; i < tree->count; i++) {
        size += node_size(tree->items[i]);
    }
    return size;
}

theus_value
value_of_node(theus_heap *heap, const node *tree)
{
    if (tree->kind == THEUS_ATOM) {
        return theus_value_of_atom(fake_new(tree->id));
    }
    theus_container *edit = new_edit(heap, (theus_kind)tree->kind);
    for (uint32_t i = 0; i < tree->count; i++) {
        theus_value item = value_of_node(heap, tree->items[i]);
        if (tree->kind == THEUS_LIST) {
            REQUIRE(theus_list_splice(edit, i, 0, &item, 1) == THEUS_OK);
        }
        else {
            fake_atom *key = fake_new(tree->keys[i]);
            REQUIRE(theus_container_insert(edit, key->id, key, item, NULL) == THEUS_OK);
            fake_release(key);
        }
        theus_value_release(heap, item);
    }
    return theus_value_of_container(sealed(edit));
}

/* ---- repeating operations ---------------------------------------------------------------------- */

int64_t
seen_of(int kind, uint64_t id)
{
    return kind == THEUS_ATOM ? (int64_t)id : 1000000 + kind;
}

static node *
model_walk(replayed *state, const op *op)
{
    node *at = op->from < 0 ? state->root : state->handles[op->from];
    for (uint32_t i = 0; i < op->parts && at != NULL; i++) {
        uint32_t found = node_find(at, op->path[i]);
        at = at->kind == THEUS_SET || found == at->count || at->items[found]->kind == THEUS_ATOM
                 ? NULL
                 : at->items[found];
    }
    return at;
}

static void
model_store(node *at, uint64_t key, node *value)
{
    uint32_t found = node_find(at, key);
    if (found < at->count) {
        at->items[found] = value;
    }
    else if (at->kind == THEUS_MAP) {
        node_insert(at, at->count, key, value);
    }
}

static int64_t
model_change(node *at, const op *op)
{
    uint32_t found = node_find(at, op->key);
    bool there = found < at->count;
    switch (op->kind) {
    case OP_GET:
        return there ? seen_of(at->items[found]->kind, at->items[found]->id) : NOTHING_THERE;
    case OP_SET:
    case OP_SAME:
    case OP_COPY:
        if (at->kind == THEUS_SET && !there) {
            node_insert(at, at->count, op->key, node_new(THEUS_ATOM, op->key));
        }
        else if (at->kind != THEUS_SET) {
            model_store(at, op->key, node_copy(op->value));
        }
        return at->kind == THEUS_LIST ? there : DONE;
    case OP_DISCARD:
        if (there) {
            node_remove(at, found);
        }
        return there;
    case OP_LENGTH:
        return at->count;
    case OP_ADD: {
        uint64_t before = there && at->items[found]->kind == THEUS_ATOM ? at->items[found]->id : 0;
        model_store(at, op->key, node_new(THEUS_ATOM, before + op->value->id));
        return DONE;
    }
    case OP_CLEAR:
        at->count = 0;
        return DONE;
    case OP_SPLICE:
        for (uint32_t i = 0; i < op->drop && op->key < at->count; i++) {
            node_remove(at, (uint32_t)op->key);
        }
        node_insert(at, (uint32_t)op->key, 0, node_copy(op->value));
        return DONE;
    case OP_REVERSE:
        for (uint32_t i = 0; i < at->count / 2; i++) {
            node *item = at->items[i];
            at->items[i] = at->items[at->count - 1 - i];
            at->items[at->count - 1 - i] = item;
        }
        return DONE;
    default:
        return DONE;
    }
}

bool
kind_fits(op_kind op, int kind)
{
    switch (op) {
    case OP_SPLICE:
    case OP_REVERSE:
        return kind == THEUS_LIST;
    case OP_ADD:
        return kind == THEUS_MAP;
    case OP_SAME:
    case OP_COPY:
        return kind != THEUS_SET;
    default:
        return true;
    }
}

/* Savepoints: true if it was one of them. */
static bool
model_save(replayed *state, op_kind kind)
{
    switch (kind) {
    case OP_SAVE:
        state->saves[state->depth++] = node_copy(state->root);
        return true;
    case OP_RELEASE:
        state->depth--;
        return true;
    case OP_ROLLBACK:
        state->root = state->saves[--state->depth];
        return true;
    default:
        return false;
    }
}

bool
model_do(replayed *state, const op *op)
{
    if (model_save(state, op->kind)) {
        return true;
    }
    node *at = model_walk(state, op);
    if (at == NULL) {
        return op->seen == NO_CONTAINER;
    }
    if (!kind_fits(op->kind, at->kind)) {
        return op->seen == WRONG_KIND;
    }
    if (op->kind == OP_HOLD) {
        state->handles[op->handle] = at;
    }
    bool same =
        op->seen_tree == NULL || node_equal(op->seen_tree, op->kind == OP_COPY ? state->root : at);
    return model_change(at, op) == op->seen && same;
}
