/* Footprints: whoever can make another fail meets it, and few others do. */
#include "scene.h"

static void
perform_all(session *tx, const char *const *lines)
{
    for (; *lines != NULL; lines++) {
        perform(tx, *lines);
    }
}

static theus_footprint
footprint_of(session *tx)
{
    theus_footprint footprint;
    REQUIRE(theus_txn_footprint(&tx->txn, NULL, &footprint) == THEUS_OK);
    return footprint;
}

/* Does what the second changes meet what the first relies on? */
static bool
meets(theus_isolation isolation, const char *reader, const char *writer)
{
    scene scene;
    scene_open(&scene, "{1:{2:{3:3 4:4} 5:[6 7] 8:(9)} 10:{11:11}}");
    session *first = session_open(&scene, isolation), *second = session_open(&scene, THEUS_SERIALIZABLE);
    perform_all(first, (const char *const[]){reader, NULL});
    perform_all(second, (const char *const[]){writer, NULL});
    theus_footprint relies = footprint_of(first), changes = footprint_of(second);
    bool met = theus_stripes_meet(&relies.relies, &changes.changes);
    session_close(first);
    session_close(second);
    scene_close(&scene);
    return met;
}

static void
test_places(void)
{
    const theus_isolation full = THEUS_SERIALIZABLE, weak = THEUS_SNAPSHOT;
    CHECK(meets(full, "get 1.2.3", "set 1.2.3 7"));
    CHECK(!meets(full, "get 1.2.3", "set 1.2.4 7")); /* a neighbour */
    CHECK(!meets(full, "get 1.2.3", "set 10.11 7"));
    CHECK(meets(full, "get 1.2.3", "set 1.2 7"));    /* something above */
    CHECK(meets(full, "get 1.2.3", "set 1 7"));
    CHECK(meets(full, "get 1.2.3", "del 1"));
    CHECK(meets(full, "all 1", "set 1.2.3 7"));      /* something below */
    CHECK(meets(full, "all 1.2", "set 1.2.9 7"));
    CHECK(!meets(full, "all 1.2", "set 10.11 7"));
    CHECK(meets(full, "len 1.2", "set 1.2.9 7"));
    CHECK(meets(full, "get 1.2.9", "set 1.2.9 7"));  /* an absence */
    CHECK(!meets(full, "get 1.2.9", "set 1.2.12 7"));
    CHECK(meets(full, "get 1.5.0", "set 1.5.0 9"));
    CHECK(!meets(full, "get 1.5.0", "set 1.5.1 9"));
    CHECK(meets(full, "get 1.5.0", "unshift 1.5 [9]"));
    CHECK(meets(full, "push 1.5 [9]", "push 1.5 [9]"));
    CHECK(meets(full, "in 1.8 9", "exclude 1.8 9"));
    CHECK(meets(full, "clear 1.2", "set 1.2.3 7"));
    CHECK(!meets(full, "set 1.2.3 7", "set 1.2.3 8")); /* blind writes do not conflict, */
    CHECK(meets(weak, "set 1.2.3 7", "set 1.2.3 8"));  /* but the first committer wins */
    CHECK(!meets(weak, "set 1.2.3 7", "set 1.2.4 8"));
    CHECK(meets(full, "set 1.2.3 7", "set 1.2 8"));    /* its place must be there */
}

/* Two paths may share a stripe; how many of a thousand do? */
static void
test_precision(void)
{
    scene scene;
    scene_open(&scene, "{1:{}}");
    session *reader = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(get(reader, "1.0") == ABSENT);
    theus_footprint relies = footprint_of(reader);
    int met = 0;
    for (int i = 1; i <= 1000; i++) {
        char path[16];
        snprintf(path, sizeof(path), "1.%d", i);
        session *writer = session_open(&scene, THEUS_SERIALIZABLE);
        set(writer, path, "5");
        theus_footprint changes = footprint_of(writer);
        met += theus_stripes_meet(&relies.relies, &changes.changes);
        session_close(writer);
    }
    CHECK(met > 0 && met < 50);
    session_close(reader);
    scene_close(&scene);
}

/* The lemma of footprint.h, at random: a conflict is always foretold. */
static void
random_line(unsigned long long *random, char *line, size_t room)
{
    static const char *const maps[] = {"1", "2", "1.1", "1.2", "2.1"};
    const char *map = maps[check_random(random, 5)];
    unsigned key = check_random(random, 3) + 1, value = check_random(random, 9) + 20;
    switch (check_random(random, 12)) {
    case 0:
        snprintf(line, room, "len %s", map);
        break;
    case 1:
        snprintf(line, room, "all %s", map);
        break;
    case 2:
        snprintf(line, room, "del %s.%u", map, key);
        break;
    case 3:
        snprintf(line, room, "set %s {1:%u 2:{1:%u}}", map, value, value);
        break;
    case 4:
        snprintf(line, room, "clear %s", map);
        break;
    case 5:
        snprintf(line, room, "get 3.%u", check_random(random, 2));
        break;
    case 6:
        snprintf(line, room, "%s 3 [%u]", check_random(random, 2) == 0 ? "push" : "unshift", value);
        break;
    case 7:
        snprintf(line, room, "in 4 %u", key);
        break;
    case 8:
        snprintf(line, room, "%s 4 %u", check_random(random, 2) == 0 ? "include" : "exclude", key);
        break;
    case 9:
        snprintf(line, room, "set 3.%u %u", check_random(random, 2), value);
        break;
    case 10:
        snprintf(line, room, "set %s.%u %u", map, key, value);
        break;
    default:
        snprintf(line, room, "get %s.%u", map, key);
    }
}

/* A step that does not fit what stands there is left out: is there a container to work on? */
static bool
fits(session *tx, const char *line)
{
    char verb[16], path[32];
    if (sscanf(line, "%15s %31s", verb, path) != 2) {
        return false;
    }
    bool whole = strcmp(verb, "len") == 0 || strcmp(verb, "all") == 0 || strcmp(verb, "clear") == 0;
    char *last = strrchr(path, '.');
    if (!whole && last != NULL && path[0] < '3') {
        *last = '\0';
    }
    for (char *dot = path; (dot = strchr(dot, '.')) != NULL; dot++) {
        *dot = '\0';
        bool nested = get(tx, path) == NESTED;
        *dot = '.';
        if (!nested) {
            return false;
        }
    }
    return path[0] >= '3' || (!whole && strcmp(verb, "set") == 0 && last == NULL) || get(tx, path) == NESTED;
}

static void
perform_some(session *tx, unsigned long long *random, int count)
{
    for (int i = 0; i < count; i++) {
        char line[64];
        random_line(random, line, sizeof(line));
        if (fits(tx, line)) {
            perform(tx, line);
        }
    }
}

static void
test_lemma(void)
{
    unsigned long long random = 7;
    int conflicts = 0, spared = 0;
    for (int round = 0; round < 4000; round++) {
        scene scene;
        scene_open(&scene, "{1:{1:{1:1 2:2} 2:{3:3}} 2:{1:{1:1} 2:2} 3:[1 2 3] 4:(1 2)}");
        theus_isolation isolation = round % 2 == 0 ? THEUS_SERIALIZABLE : THEUS_SNAPSHOT;
        session *loser = session_open(&scene, isolation), *winner = session_open(&scene, THEUS_SERIALIZABLE);
        perform_some(loser, &random, 4);
        set(loser, "9", "9"); /* so that its reads are validated */
        perform_some(winner, &random, 2);
        set(winner, "8", "8"); /* so that there is a commit */
        theus_footprint relies = footprint_of(loser), changes = footprint_of(winner);
        bool met = theus_stripes_meet(&relies.relies, &changes.changes);
        session_done(winner);
        if (session_commit(loser) == THEUS_CONFLICTED) {
            conflicts++;
            CHECK(met);
        }
        else {
            spared += !met;
        }
        session_close(loser);
        scene_close(&scene);
    }
    CHECK(conflicts > 200 && spared > 200);
}

static void
test_foreign_hash(void)
{
    scene scene;
    scene_open(&scene, "{1:{2:2}}");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(get(tx, "1.2") == 2);
    theus_footprint footprint;
    fakes.fail_hash = 1;
    CHECK(theus_txn_footprint(&tx->txn, NULL, &footprint) == THEUS_FOREIGN);
    fakes.fail_hash = 0;
    session_close(tx);
    scene_close(&scene);
}

/* Beyond THEUS_FOOTPRINT_DEPTH a path counts as its beginning, on both sides. */
static void
test_depth(void)
{
    enum { DEEP = 40 };
    char text[DEEP * 4 + 8] = "", path[DEEP * 2 + 8] = "1";
    for (int i = 0; i < DEEP; i++) {
        strcat(text, "{1:");
        strcat(path, i == 0 ? "" : ".1");
    }
    strcat(text, "5");
    for (int i = 0; i < DEEP; i++) {
        strcat(text, "}");
    }
    scene scene;
    scene_open(&scene, text);
    for (int depth = 1; depth < DEEP; depth++) {
        session *reader = session_open(&scene, THEUS_SERIALIZABLE);
        session *writer = session_open(&scene, THEUS_SERIALIZABLE);
        CHECK(get(reader, path) == 5);
        char above[sizeof(path)];
        strcpy(above, path);
        above[depth * 2 - 1] = '\0';
        set(writer, above, "6");
        theus_footprint relies = footprint_of(reader), changes = footprint_of(writer);
        CHECK(theus_stripes_meet(&relies.relies, &changes.changes));
        session_close(writer);
        session_close(reader);
    }
    scene_close(&scene);
}

int
main(void)
{
    test_places();
    test_precision();
    test_lemma();
    test_foreign_hash();
    test_depth();
    return check_result();
}
