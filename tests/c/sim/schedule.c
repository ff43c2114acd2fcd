#include "schedule.h"

#include "points.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>

#include "../check.h"
#include "port.h"

enum {
    STACK_BYTES = 256 * 1024,
    POINTS_MAX = 1 << 16, /* of one run; more are a livelock */
    SWITCHES_SHOWN = 60,
    PCT_DEPTH = 3,
    RANDOM_RUNS = 400, /* of each random way */
    DEEPER = 20,
    ALLOCATIONS = 80, /* more than any thread's share of a run makes */
    START_NS = 1000000000,
};

typedef enum { BOUNDED, PCT, WALK, FAILING, WAYS } way;

static const char *const way_names[WAYS] = {"bounded", "pct", "walk", "failing"};

/* What the scheduler keeps in the memory of a pthread_mutex_t. */
typedef struct {
    int holder; /* thread + 1, or 0 */
} sim_mutex;

_Static_assert(sizeof(sim_mutex) <= sizeof(pthread_mutex_t), "a mutex has room for ours");

typedef struct {
    ucontext_t context;
    bool done;
    const sim_mutex *wants;       /* waits for this lock, */
    const pthread_cond_t *awaits; /* or for this signal, */
    uint64_t until_ns;            /* until then; 0: no limit */
    bool sleeps;                  /* or only for the time to pass */
    bool late;                    /* the time has come before the signal */
    uint32_t held_ranks; /* what port_posix.c knows of the thread, while another one runs */
    unsigned priority;   /* pct */
} thread_state;

typedef struct {
    uint32_t point;
    int from, to;
    const char *site; /* what `from` was about to do */
} switch_note;

/* A place where the bounded search chose: which alternative, of how many, and the preemptions
 * spent before. */
typedef struct {
    uint8_t chosen, count, spent;
    bool free; /* the thread could not go on: a switch costs nothing */
} choice;

static struct {
    const sim_scene *scene;
    way way;
    uint64_t seed;
    bool running;
    int current;
    uint64_t now_ns;
    uint32_t points;
    uint64_t all_points; /* of all runs of the scene */
    ucontext_t main;
    thread_state threads[SIM_THREADS];
    unsigned long long random;
    unsigned lowest; /* pct: priorities below it are not taken */
    uint32_t lower_at[PCT_DEPTH];
    uint32_t usual_points; /* of a run without preemptions */
    choice choices[POINTS_MAX];
    uint32_t depth, prefix; /* choices made; of these, given */
    switch_note notes[SWITCHES_SHOWN];
    uint32_t switches;
} sim;

/* ---- telling ------------------------------------------------------------------------------- */

static void
tell_schedule(void)
{
    if (sim.scene == NULL) {
        return;
    }
    fprintf(stderr, "scene %s, %s, run %llu; the last switches:\n", sim.scene->name,
            way_names[sim.way], (unsigned long long)sim.seed);
    uint32_t first = sim.switches > SWITCHES_SHOWN ? sim.switches - SWITCHES_SHOWN : 0;
    for (uint32_t i = first; i < sim.switches; i++) {
        const switch_note *note = &sim.notes[i % SWITCHES_SHOWN];
        fprintf(stderr, "  point %5u: thread %d before %s -> thread %d\n", note->point, note->from,
                note->site, note->to);
    }
}

static void
give_up(const char *why)
{
    fprintf(stderr, "%s\n", why);
    exit(1); /* tell_schedule() runs at exit */
}

/* ---- choosing ------------------------------------------------------------------------------ */

static bool
can_run(const thread_state *thread)
{
    return !thread->done && thread->awaits == NULL && !thread->sleeps
           && (thread->wants == NULL || thread->wants->holder == 0);
}

/* Those who can go on, the current one first. */
static int
runnable(int *out)
{
    int count = 0;
    if (can_run(&sim.threads[sim.current])) {
        out[count++] = sim.current;
    }
    for (int i = 0; i < sim.scene->threads; i++) {
        if (i != sim.current && can_run(&sim.threads[i])) {
            out[count++] = i;
        }
    }
    return count;
}

static int
choose_bounded(const int *able, int count, bool free)
{
    if (count == 1) {
        return able[0];
    }
    choice *here = &sim.choices[sim.depth];
    if (sim.depth < sim.prefix) {
        if (here->count != count || here->free != free) {
            give_up("the same choices led somewhere else: the scene is not deterministic");
        }
    }
    else {
        uint8_t spent = 0;
        if (sim.depth > 0) {
            const choice *last = here - 1;
            spent = (uint8_t)(last->spent + (!last->free && last->chosen != 0));
        }
        *here = (choice){.chosen = 0, .count = (uint8_t)count, .spent = spent, .free = free};
    }
    sim.depth++;
    return able[here->chosen];
}

static int
choose_by_priority(const int *able, int count)
{
    for (int i = 0; i < PCT_DEPTH - 1; i++) {
        if (sim.lower_at[i] == sim.points) {
            sim.threads[sim.current].priority = sim.lowest--;
        }
    }
    int best = able[0];
    for (int i = 1; i < count; i++) {
        if (sim.threads[able[i]].priority > sim.threads[best].priority) {
            best = able[i];
        }
    }
    return best;
}

static int
choose(const int *able, int count)
{
    bool free = able[0] != sim.current;
    switch (sim.way) {
    case BOUNDED:
        return choose_bounded(able, count, free);
    case PCT:
        return choose_by_priority(able, count);
    default:
        if (free || check_random(&sim.random, 12) == 0) {
            return able[check_random(&sim.random, (unsigned)count)];
        }
        return able[0];
    }
}

/* ---- switching ----------------------------------------------------------------------------- */

/* All wait: time goes on to the earliest deadline. */
static void
pass_time(void)
{
    uint64_t next = 0;
    for (int i = 0; i < sim.scene->threads; i++) {
        uint64_t until = sim.threads[i].done ? 0 : sim.threads[i].until_ns;
        if (until != 0 && (next == 0 || until < next)) {
            next = until;
        }
    }
    if (next == 0) {
        give_up("deadlock: everybody waits");
    }
    sim.now_ns = next > sim.now_ns ? next : sim.now_ns;
    for (int i = 0; i < sim.scene->threads; i++) {
        thread_state *thread = &sim.threads[i];
        if (thread->until_ns != 0 && thread->until_ns <= sim.now_ns) {
            thread->late = thread->awaits != NULL;
            thread->awaits = NULL;
            thread->sleeps = false;
            thread->until_ns = 0;
        }
    }
}

static bool
all_done(void)
{
    for (int i = 0; i < sim.scene->threads; i++) {
        if (!sim.threads[i].done) {
            return false;
        }
    }
    return true;
}

/* Lets the thread go on that is chosen; back when the caller is. */
static void
reschedule(const char *site)
{
    int able[SIM_THREADS], count;
    if (++sim.points >= POINTS_MAX) {
        give_up("a run without an end");
    }
    while ((count = runnable(able)) == 0) {
        if (all_done()) {
            return;
        }
        pass_time();
    }
    int before = sim.current, next = choose(able, count);
    if (next == before) {
        return;
    }
    sim.notes[sim.switches++ % SWITCHES_SHOWN] = (switch_note){sim.points, before, next, site};
    sim.current = next;
    sim.threads[before].held_ranks = theus_swap_held_ranks(sim.threads[next].held_ranks);
    swapcontext(&sim.threads[before].context, &sim.threads[next].context);
}

void
sim_point(const char *site)
{
    if (sim.running) {
        reschedule(site);
    }
}

static void
thread_main(void)
{
    sim.scene->body(sim.current);
    sim.threads[sim.current].done = true;
    reschedule("the end");
    /* Only the last one comes back. */
    sim.running = false;
    setcontext(&sim.main);
}

/* ---- locks, signals, time ------------------------------------------------------------------ */

static sim_mutex *
mutex_of(pthread_mutex_t *mutex)
{
    return (sim_mutex *)(void *)mutex;
}

int
sim_mutex_init(pthread_mutex_t *mutex)
{
    memset(mutex, 0, sizeof(*mutex));
    return 0;
}

int
sim_mutex_fini(pthread_mutex_t *mutex)
{
    if (mutex_of(mutex)->holder != 0) {
        give_up("a lock was destroyed while it was held");
    }
    return 0;
}

static void
mutex_get(sim_mutex *mutex, const char *site)
{
    thread_state *me = &sim.threads[sim.current];
    if (mutex->holder == sim.current + 1) {
        give_up("a thread took a lock twice");
    }
    while (mutex->holder != 0) {
        me->wants = mutex;
        reschedule(site);
    }
    me->wants = NULL;
    mutex->holder = sim.current + 1;
}

int
sim_mutex_lock(pthread_mutex_t *mutex, const char *site)
{
    if (sim.running) {
        reschedule(site);
        mutex_get(mutex_of(mutex), site);
    }
    return 0;
}

int
sim_mutex_unlock(pthread_mutex_t *mutex, const char *site)
{
    if (sim.running) {
        mutex_of(mutex)->holder = 0;
        reschedule(site);
    }
    return 0;
}

int
sim_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until,
              const char *site)
{
    thread_state *me = &sim.threads[sim.current];
    mutex_of(mutex)->holder = 0;
    me->awaits = cond;
    me->until_ns =
        until == NULL ? 0 : (uint64_t)until->tv_sec * 1000000000u + (uint64_t)until->tv_nsec;
    me->late = false;
    reschedule(site);
    mutex_get(mutex_of(mutex), site);
    return me->late ? ETIMEDOUT : 0;
}

int
sim_cond_signal(pthread_cond_t *cond, bool all, const char *site)
{
    for (int i = 0; i < sim.scene->threads; i++) {
        if (sim.running && sim.threads[i].awaits == cond) {
            sim.threads[i].awaits = NULL;
            sim.threads[i].until_ns = 0;
            if (!all) {
                break;
            }
        }
    }
    sim_point(site);
    return 0;
}

int
sim_clock(struct timespec *now)
{
    now->tv_sec = (time_t)(sim.now_ns / 1000000000u);
    now->tv_nsec = (long)(sim.now_ns % 1000000000u);
    return 0;
}

int
sim_sleep(const struct timespec *wait, const char *site)
{
    thread_state *me = &sim.threads[sim.current];
    uint64_t ns = wait == NULL ? 1 : (uint64_t)wait->tv_sec * 1000000000u + (uint64_t)wait->tv_nsec;
    if (sim.running) {
        me->sleeps = true;
        me->until_ns = sim.now_ns + ns;
        reschedule(site);
    }
    return 0;
}

void
sim_pause(void)
{
    sim.now_ns++;
}

pthread_t
sim_self(void)
{
    return (pthread_t)(sim.current + 1);
}

bool
sim_memory_fails(void)
{
    return sim.way == FAILING;
}

/* ---- runs ---------------------------------------------------------------------------------- */

static void
thread_start(thread_state *thread)
{
    static char stacks[SIM_THREADS][STACK_BYTES];
    memset(thread, 0, sizeof(*thread));
    thread->priority = SIM_THREADS + 1 + check_random(&sim.random, 1000);
    REQUIRE(getcontext(&thread->context) == 0);
    thread->context.uc_stack.ss_sp = stacks[thread - sim.threads];
    thread->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&thread->context, thread_main, 0);
}

/* One schedule. Ends the program if a check fails. */
static void
run_once(const sim_scene *scene, way way, uint64_t seed)
{
    sim.way = way;
    sim.seed = seed;
    sim.random = (seed + 1) * 0x9E3779B97F4A7C15u;
    sim.points = sim.depth = sim.switches = 0;
    sim.now_ns = START_NS;
    sim.lowest = SIM_THREADS;
    (void)check_random(&sim.random, 2);
    scene->open(scene->about);
    for (int i = 0; i < PCT_DEPTH - 1; i++) {
        sim.lower_at[i] = 1 + check_random(&sim.random, sim.usual_points + 1);
    }
    for (int i = 0; i < scene->threads; i++) {
        thread_start(&sim.threads[i]);
    }
    int all[SIM_THREADS] = {0, 1, 2, 3};
    sim.current = way == BOUNDED ? choose_bounded(all, scene->threads, true)
                                 : (int)check_random(&sim.random, (unsigned)scene->threads);
    if (way == FAILING) {
        theus_alloc_fail_at(1 + (long)check_random(&sim.random, ALLOCATIONS));
    }
    sim.running = true;
    swapcontext(&sim.main, &sim.threads[sim.current].context);
    theus_alloc_fail_at(-1);
    (void)theus_swap_held_ranks(0);
    sim.all_points += sim.points;
    sim.current = 0;
    scene->close();
    if (check_result() != 0) {
        exit(1);
    }
}

/* To the next schedule within the bound. False: that was the last one. */
static bool
next_choices(int preemptions)
{
    while (sim.depth > 0) {
        choice *last = &sim.choices[sim.depth - 1];
        if (last->chosen + 1 < last->count && (last->free || last->spent < preemptions)) {
            last->chosen++;
            sim.prefix = sim.depth;
            return true;
        }
        sim.depth--;
    }
    return false;
}

/* Every schedule with at most so many preemptions. The number of schedules. */
static uint64_t
run_bounded(const sim_scene *scene, int preemptions, uint64_t stop_after)
{
    uint64_t runs = 0;
    sim.prefix = 0;
    do {
        run_once(scene, BOUNDED, runs++);
    } while (runs != stop_after && next_choices(preemptions));
    return runs;
}

static double
seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Counts the points of a run in which nobody is interrupted. */
static void
scene_begin(const sim_scene *scene)
{
    sim.scene = scene;
    (void)run_bounded(scene, 0, 1);
    sim.usual_points = sim.points;
    sim.all_points = 0;
}

static uint64_t all_runs, all_points; /* of the program */

static void
explore_one(const sim_scene *scene, bool deep)
{
    double began = seconds();
    int preemptions = scene->preemptions + deep;
    int runs = deep ? RANDOM_RUNS * DEEPER : RANDOM_RUNS;
    scene_begin(scene);
    uint64_t bounded = run_bounded(scene, preemptions, UINT64_MAX);
    for (way way = PCT; way < WAYS; way++) {
        for (int run = 0; run < runs; run++) {
            run_once(scene, way, (uint64_t)run);
        }
    }
    printf("%-32s %d threads, %3u points: all %8llu schedules of <= %d preemptions; %d each of pct (depth %d), "
           "walk, failing; %llu points in %.1f s\n",
           scene->name, scene->threads, sim.usual_points, (unsigned long long)bounded, preemptions, runs,
           PCT_DEPTH, (unsigned long long)sim.all_points, seconds() - began);
    all_runs += bounded + (uint64_t)runs * (WAYS - PCT);
    all_points += sim.all_points;
    sim.scene = NULL;
}

static void
repeat_one(const sim_scene *scene, bool deep, const char *name, uint64_t run)
{
    scene_begin(scene);
    if (strcmp(name, way_names[BOUNDED]) == 0) {
        (void)run_bounded(scene, scene->preemptions + deep, run + 1);
    }
    for (way way = PCT; way < WAYS; way++) {
        if (strcmp(name, way_names[way]) == 0) {
            run_once(scene, way, run);
        }
    }
    sim.scene = NULL;
}

void
sim_explore(const sim_scene *scenes, int count, int argc, char **argv)
{
    bool deep = argc > 1 && strcmp(argv[1], "deep") == 0;
    int given = argc - 1 - deep;
    char **words = argv + 1 + deep;
    double began = seconds();
    atexit(tell_schedule);
    for (int i = 0; i < count; i++) {
        bool wanted = given == 0 || strcmp(words[0], scenes[i].name) == 0;
        if (wanted && given == 3) {
            repeat_one(&scenes[i], deep, words[1], strtoull(words[2], NULL, 10));
        }
        else if (wanted) {
            explore_one(&scenes[i], deep);
        }
    }
    printf("%llu schedules, %llu points, %.1f s\n", (unsigned long long)all_runs,
           (unsigned long long)all_points, seconds() - began);
}
