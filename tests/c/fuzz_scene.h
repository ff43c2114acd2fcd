/* What the fuzzers of shared memory share: an arena made by hand, byte by byte as shm_layout.h draws it, so that this process can be
 * its borrower (whatever it opens came from outside), and damage at random. */
#ifndef THEUS_FUZZ_SCENE_H
#define THEUS_FUZZ_SCENE_H

#include "zone_scene.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SLOWER = 5 };
#else
enum { SLOWER = 1 };
#endif

enum { CAPACITY = 64, BLOCKS = 16, DATA_BYTES = 64 * 1024, BLOCK_BYTES = 1000 };

extern unsigned long long chance;

typedef struct {
    char *control, *data;
    uint64_t control_size;
    int control_fd, data_fd;
    theus_slots slots;
    theus_loan_record *loans; /* it has some if it lends */
    theus_arena_name name;
    char *as_made; /* a copy of the control file */
} arena_files;

bool is_named(void);

/* One file, which nobody can find yet. memory: mapped there, if it is not NULL. */
int file_new(theus_file_kind kind, bool lends, uint64_t size, char **memory);

/* Blocks 0 to 15 are full of their number + 1. */
arena_files files_new(bool lends);
void files_free(arena_files *it);

/* The control file as it was made. */
void restore(arena_files *it);

/* Numbers at which programs go wrong. */
uint64_t odd_number(void);

void damage_bytes(char *memory, size_t size);
void damage_number(char *memory, size_t size);

/* Everything that a lease gives can be looked at. */
uint64_t look_at(const theus_block *block);

#endif
