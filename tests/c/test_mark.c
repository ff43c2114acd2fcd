/* Marked containers: the mark goes with every edit, and what is written in one is shown to `admit` before it is stored. */
#include "scene.h"

/* ---- the mark -------------------------------------------------------------------------- */

static theus_container *
marked(theus_heap *heap, const char *text, uint8_t mark)
{
    theus_value value = value_of(heap, text);
    theus_container *sealed = theus_value_container(value), *edit;
    REQUIRE(theus_edit_begin(sealed, &edit) == THEUS_OK);
    theus_container_mark(edit, mark);
    REQUIRE(theus_edit_seal(edit) == THEUS_OK);
    theus_container_release(sealed);
    return edit;
}

static void
test_the_mark_is_handed_on(void)
{
    scene scene;
    scene_open(&scene, "{}");
    theus_value plain = value_of(scene.heap, "{1:1}");
    CHECK(theus_value_container(plain)->mark == 0);
    theus_container *base = marked(scene.heap, "{1:1 2:2 3:3 4:4 5:5}", 6), *with, *edit;
    CHECK(base->mark == 6);
    REQUIRE(theus_container_with(base, 0, plain, &with) == THEUS_OK);
    CHECK(with->mark == 6);
    REQUIRE(theus_edit_begin(base, &edit) == THEUS_OK);
    for (uint32_t pos = 0; pos < 4; pos++) { /* so many holes that the seal compacts */
        fake_atom *key = theus_container_key_at(edit, pos);
        REQUIRE(theus_container_remove(edit, key->hash, pos) == THEUS_OK);
    }
    REQUIRE(theus_edit_seal(edit) == THEUS_OK);
    CHECK(edit->mark == 6 && edit->span == 1);
    theus_container_release(edit);
    theus_container_release(with);
    theus_container_release(base);
    theus_value_release(scene.heap, plain);
    scene_close(&scene);
}

/* ---- admission ------------------------------------------------------------------------- */

/* What the fake embedder was asked, and what it answers. */
static struct {
    int asked;
    int refuse_at;       /* the how manyth is refused; 0: none */
    char shown[8][256];   /* contents, in the order of the questions */
    bool normalises;     /* stores 99 under 1 of every map that it is shown */
    const scene *other;  /* commits "3.1" = 7 there when it is asked for the first time */
} judge;

static int
fake_admit(void *ctx, theus_cell *cell, theus_container *made, theus_container **out)
{
    theus_heap *heap = ctx;
    CHECK(made->edit == 0 && cell->txn->committing);
    if (judge.asked < 8) {
        value_show(theus_value_of_container(made), judge.shown[judge.asked], sizeof(judge.shown[0]));
    }
    judge.asked++;
    if (judge.asked == judge.refuse_at) {
        return -1;
    }
    if (judge.other != NULL && judge.asked == 1) {
        commit_set(judge.other, "3.1", "7");
    }
    if (!judge.normalises) {
        theus_container_retain(made);
        *out = made;
        return 0;
    }
    theus_value value = value_of(heap, "99");
    theus_status status = theus_container_with(made, 0, value, out);
    theus_value_release(heap, value);
    return status == THEUS_OK ? 0 : -1;
}

static session *
open_judged(const scene *scene)
{
    session *tx = session_open(scene, THEUS_SERIALIZABLE);
    tx->txn.admit = fake_admit;
    tx->txn.embedder = scene->heap;
    return tx;
}

/* Stores a marked map at the key `to` of the root. */
static void
put_marked(const scene *scene, const char *to, const char *text, uint8_t mark)
{
    session *tx = session_open(scene, THEUS_SERIALIZABLE);
    set(tx, to, "0");
    theus_container *value = marked(scene->heap, text, mark);
    theus_cell *root = tx->txn.root;
    for (uint32_t pos = 0; pos < root->now->span; pos++) {
        fake_atom *key = theus_container_key_at(root->now, pos);
        if (key != NULL && key->id == (uint64_t)strtoul(to, NULL, 10)) {
            REQUIRE(theus_cell_put(root, pos, theus_value_of_container(value)) == THEUS_OK);
        }
    }
    theus_container_release(value);
    session_done(tx);
}

static void
open_marked(scene *scene)
{
    memset(&judge, 0, sizeof(judge));
    scene_open(scene, "{1:1}");
    put_marked(scene, "3", "{1:1 2:{5:5}}", THEUS_MARK_ADMIT | 2);
    put_marked(scene, "4", "{1:1}", THEUS_MARK_ADMIT);
    put_marked(scene, "5", "{1:1}", 2);
}

static void
test_only_what_was_written_is_shown(void)
{
    scene scene;
    open_marked(&scene);
    session *tx = open_judged(&scene);
    set(tx, "1", "2");
    set(tx, "5.1", "2");
    CHECK(get(tx, "4.1") == 1);
    session_done(tx);
    CHECK(judge.asked == 0);

    tx = open_judged(&scene);
    set(tx, "3.2.5", "6"); /* below it counts */
    CHECK(tx->txn.asks);
    session_done(tx);
    CHECK(judge.asked == 1 && strcmp(judge.shown[0], "{1:1 2:{5:6}}") == 0);
    CHECK(scene_is(&scene, "{1:2 3:{1:1 2:{5:6}} 4:{1:1} 5:{1:2}}"));

    tx = open_judged(&scene);
    add(tx, "4.1", 10); /* what is deferred has been applied by then */
    session_done(tx);
    CHECK(judge.asked == 2 && strcmp(judge.shown[1], "{1:11}") == 0);
    scene_close(&scene);
}

static void
test_the_answer_takes_the_place(void)
{
    scene scene;
    open_marked(&scene);
    judge.normalises = true;
    session *tx = open_judged(&scene);
    set(tx, "4.1", "5");
    session_done(tx);
    CHECK(scene_is(&scene, "{1:1 3:{1:1 2:{5:5}} 4:{1:99} 5:{1:1}}"));
    scene_close(&scene);
}

static void
test_a_refusal_publishes_nothing(void)
{
    scene scene;
    open_marked(&scene);
    uint64_t version = scene_version(&scene);
    judge.refuse_at = 2;
    session *tx = open_judged(&scene);
    set(tx, "1", "5");
    set(tx, "3.1", "5");
    set(tx, "4.1", "5");
    CHECK(session_commit(tx) == THEUS_COMMIT_FAILED && tx->status == THEUS_FOREIGN);
    session_close(tx);
    CHECK(judge.asked == 2 && scene_version(&scene) == version);
    scene_close(&scene);
}

static void
test_after_a_rebase_it_is_asked_again(void)
{
    scene scene;
    open_marked(&scene);
    judge.other = &scene;
    session *tx = open_judged(&scene);
    set(tx, "3.2.5", "6");
    session_done(tx);
    CHECK(judge.asked == 2 && strcmp(judge.shown[0], "{1:1 2:{5:6}}") == 0);
    CHECK(strcmp(judge.shown[1], "{1:7 2:{5:6}}") == 0);
    CHECK(scene_is(&scene, "{1:1 3:{1:7 2:{5:6}} 4:{1:1} 5:{1:1}}"));
    scene_close(&scene);
}

static void
test_content_that_is_taken_elsewhere_is_shown_first(void)
{
    scene scene;
    open_marked(&scene);
    judge.normalises = true;
    session *tx = open_judged(&scene);
    theus_container *content;
    char text[256];
    REQUIRE(theus_cell_admitted(cell_at(tx, "4"), NULL, &content) == THEUS_OK);
    CHECK(judge.asked == 0); /* not written */
    theus_container_release(content);
    set(tx, "4.1", "5");
    REQUIRE(theus_cell_admitted(tx->txn.root, NULL, &content) == THEUS_OK);
    value_show(theus_value_of_container(content), text, sizeof(text));
    CHECK(judge.asked == 1 && strcmp(text, "{1:1 3:{1:1 2:{5:5}} 4:{1:99} 5:{1:1}}") == 0);
    theus_container_release(content);
    CHECK(get(tx, "4.1") == 5); /* the body goes on with what it wrote */
    judge.refuse_at = 2;
    CHECK(theus_cell_admitted(cell_at(tx, "4"), NULL, &content) == THEUS_FOREIGN);
    CHECK(!tx->txn.committing);
    session_done(tx);
    CHECK(judge.asked == 3);
    scene_close(&scene);
}

static void
test_every_allocation_fails_in_turn(void)
{
    scene scene;
    open_marked(&scene);
    judge.normalises = true;
    long failures = 0;
    for (long n = 1;; n++) {
        session *tx = open_judged(&scene);
        set(tx, "3.2.5", "6");
        set(tx, "4.1", "8");
        theus_alloc_fail_at(n);
        theus_outcome outcome = session_commit(tx);
        theus_alloc_fail_at(-1);
        scene_check(&scene);
        session_close(tx);
        if (outcome == THEUS_COMMITTED) {
            break;
        }
        CHECK(outcome == THEUS_COMMIT_FAILED);
        failures++;
    }
    CHECK(failures > 3);
    CHECK(scene_is(&scene, "{1:1 3:{1:99 2:{5:6}} 4:{1:99} 5:{1:1}}"));
    scene_close(&scene);
}

int
main(void)
{
    test_the_mark_is_handed_on();
    test_only_what_was_written_is_shown();
    test_the_answer_takes_the_place();
    test_a_refusal_publishes_nothing();
    test_after_a_rebase_it_is_asked_again();
    test_content_that_is_taken_elsewhere_is_shown_first();
    test_every_allocation_fails_in_turn();
    return check_result();
}
