/* What the tests of loans share, beside zone_scene.h. */
#ifndef THEUS_LOAN_SCENE_H
#define THEUS_LOAN_SCENE_H

#include "shm_loans.h"
#include "zone_scene.h"

/* A block of which ranges can be lent, zeroed. */
theus_block alloc_lending(theus_zone *zone, uint64_t size);

/* Has to succeed. */
theus_loan_name offer(const theus_block *block, uint64_t from, uint64_t size);

/* What an offer would be answered; it is taken back. */
theus_lending answer_to(const theus_block *block, uint64_t from, uint64_t size);

theus_status take(const theus_block *block, theus_loan_name name, theus_loan **loan);
theus_loan_state state_of(const theus_block *block, theus_loan_name name);

#endif
