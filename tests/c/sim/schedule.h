/* A deterministic scheduler: threads that are coroutines of one real thread, and who goes on is
 * chosen here.
 *
 *     scene      open()  ->  bodies, interleaved  ->  close(), which checks what they have left
 *     schedule   at each switch point (switch.h): stay, or go on with another thread
 *
 * Every run of a scene with the same choices does the same, so a schedule can be repeated, and
 * schedules can be counted:
 *
 *     bounded   all schedules with at most n preemptions (switches where the thread could have
 *               gone on): few are enough for most bugs (Musuvathi and Qadeer, 2007)
 *     pct       random priorities, lowered at d - 1 random points: meets a bug of depth d, among
 *               n threads and k points, with probability 1 / (n * k^(d-1)) (Burckhardt, 2010)
 *     walk      at each point another thread with a small probability
 *     failing   as walk, and one allocation of the run, by a random number, fails
 *
 * What this does not show: orders that a weak memory model allows and no interleaving has.
 * Those are for the thread sanitizer.
 *
 * Time stands still while somebody can go on, but for a pause, which is a nanosecond; when all wait, it goes
 * to the earliest deadline.
 * When all wait and there is no deadline, that is a deadlock. A check that fails ends the
 * program and prints the switches that led to it. */
#ifndef THEUS_SIM_SCHEDULE_H
#define THEUS_SIM_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

enum { SIM_THREADS = 4 };

typedef struct {
    const char *name;
    int threads;
    int preemptions;   /* bound of the exhaustive part */
    const void *about; /* for open() */
    /* open and close are not scheduled, and no allocation fails in them; body is called once per
     * thread. close checks what the run has left. */
    void (*open)(const void *about);
    void (*body)(int thread);
    void (*close)(void);
} sim_scene;

/* Explores scenes in all four ways and prints a line of what was done for each. The program's
 * arguments:
 *
 *     (none)            all scenes, in seconds
 *     SCENE             one scene
 *     SCENE WAY RUN     repeats one run, as a failure names it
 *     deep ...          the same with one preemption more and 20 times as many random runs: minutes */
void sim_explore(const sim_scene *scenes, int count, int argc, char **argv);

/* A switch point of a test's own: where an embedder's code runs. */
void sim_point(const char *site);

/* Is an allocation of this run meant to fail? Bodies that cannot go on may then give up. */
bool sim_memory_fails(void);

#endif
