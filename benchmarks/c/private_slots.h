/* The slot table as one thread alone would have it: see private_slots.c. Include it after shm_slots.h. */
#ifndef PRIVATE_SLOTS_H
#define PRIVATE_SLOTS_H

void private_slots_open(theus_slots *table, void *control, uint32_t capacity);
void private_slots_init(theus_slots *table);
bool private_slot_claim(theus_slots *table, uint32_t who, uint32_t *index, uint32_t *generation);
void private_slot_publish(theus_slots *table, uint32_t index);
bool private_slot_retire(theus_slots *table, uint32_t index, uint32_t generation);
bool private_slot_recycle(theus_slots *table, uint32_t index, uint32_t generation);
theus_lease private_slot_lease(theus_slots *table, uint32_t index, uint32_t generation, uint32_t who);
bool private_slot_unlease(theus_slots *table, uint32_t index, uint32_t who);

#endif
