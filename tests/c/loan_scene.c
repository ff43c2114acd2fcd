/* See loan_scene.h. */
#include "loan_scene.h"

theus_block
alloc_lending(theus_zone *zone, uint64_t size)
{
    theus_block block;
    theus_refusal refusal;
    theus_status status = theus_zone_alloc(zone, "x", 1, size, THEUS_ZEROED | THEUS_LENDING, &block, &refusal);
    if (status == THEUS_UNSUPPORTED || status == THEUS_REFUSED) {
        exit(77); /* no memfd here */
    }
    REQUIRE(status == THEUS_OK);
    CHECK_SOUND(theus_zone_check(zone));
    return block;
}

theus_loan_name
offer(const theus_block *block, uint64_t from, uint64_t size)
{
    theus_loan_name name = {0};
    theus_loan_facts other;
    CHECK(theus_loan_offer(block, from, size, &name, &other) == THEUS_LENDS);
    return name;
}

theus_lending
answer_to(const theus_block *block, uint64_t from, uint64_t size)
{
    theus_loan_name name;
    theus_loan_facts other;
    theus_lending answer = theus_loan_offer(block, from, size, &name, &other);
    if (answer == THEUS_LENDS) {
        CHECK(theus_loan_recall(block, name));
        theus_loan_forget(block, name);
    }
    return answer;
}

theus_status
take(const theus_block *block, theus_loan_name name, theus_loan **loan)
{
    theus_arena_name arena;
    theus_arena_name_of(block->arena, &arena);
    return theus_loan_take(&arena, block->slot, block->generation, name, loan, NULL);
}

theus_loan_state
state_of(const theus_block *block, theus_loan_name name)
{
    return theus_loan_look(block, name).state;
}
