/* What the tests of zones share: a zone of either backend, short forms that end the test where they fail, a child. */
#ifndef THEUS_ZONE_SCENE_H
#define THEUS_ZONE_SCENE_H

#include "check.h"
#include "shm_zone.h"

#define KIB ((uint64_t)1024)
#define MIB ((uint64_t)1024 * 1024)

/* Where the named files of these tests lie, with six more letters. */
#define ZONE_FOLDER "/dev/shm/theus-test-"

/* Calls `test` on both backends: what it says is true of both, and nothing is left in the folder. */
void zone_on_both_backends(void (*test)(void));

theus_backend zone_backend(void); /* whose turn it is */
theus_zone *zone_new(uint64_t limit);

/* Ends the program with 77 where there is no such memory. */
theus_block alloc_of(theus_zone *zone, const char *label, uint64_t size);

/* Of a block that is given back at once. */
theus_status alloc_status(theus_zone *zone, const char *label, uint64_t size, theus_refusal *refusal);

uint64_t zone_figure(theus_zone *zone, size_t offset);
#define FIGURE(zone, name) zone_figure((zone), offsetof(theus_zone_figures, name))

bool is_filled(const theus_block *block, char with);

/* Runs `body` in a child and says how it ended: its exit status, or -signal. */
int in_child(void (*body)(void *arg), void *arg);

#endif
