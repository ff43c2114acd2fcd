/* Threads of a scene that stand for processes, of which thread 0 may die: it stops for ever at a step that the core names
 * (THEUS_SHM_STEP stands behind each write that others can see, so there are no other deaths). For scenes of one file each. */
#ifndef THEUS_SIM_MORTAL_H
#define THEUS_SIM_MORTAL_H

#include <setjmp.h>
#include <string.h>

#include "schedule.h"

static struct {
    const char *step; /* where thread 0 dies; NULL: nowhere */
    bool mortal, dead;
    jmp_buf end;
} death;

static int
me(void)
{
    return (int)sim_self() - 1;
}

/* For theus_shm_at_step, and where a scene has steps of its own. */
static void
die_at_step(const char *step)
{
    if (death.mortal && me() == 0 && death.step != NULL && strcmp(step, death.step) == 0) {
        longjmp(death.end, 1);
    }
}

/* Runs the part of thread 0 until its end or its death. False: it has died. */
static bool
lives_through(void (*part)(void))
{
    if (setjmp(death.end) == 0) {
        death.mortal = true;
        part();
        death.mortal = false;
        return true;
    }
    death.mortal = false;
    death.dead = true;
    return false;
}

static void
begin_mortal(const char *step)
{
    death.step = step;
    death.mortal = death.dead = false;
}

#endif
