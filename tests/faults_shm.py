"""The faults of shared memory, for tests/faults.py: (name, file, old, new) as there."""

from __future__ import annotations

FAULTS = [
    # ---- the slot table
    (
        "a slot is claimed whoever has it",
        "shm_slots.c",
        "    if (theus_slot_state_of(seen) != THEUS_SLOT_FREE) {\n        return false;",
        "    if (theus_slot_state_of(seen) == THEUS_SLOT_WORN) {\n        return false;",
    ),
    (
        "a generation is given twice",
        "shm_slots.c",
        "uint32_t next = theus_slot_generation_of(seen) + 1;",
        "uint32_t next = theus_slot_generation_of(seen) | 1;",
    ),
    (
        "a slot without a hint is lost",
        "shm_slots.c",
        "        if (!found && try_claim(",
        "        if (!found && table->capacity == 0 && try_claim(",
    ),
    (
        "the word is looked at before the lease is set",
        "shm_slots.c",
        "    atomic_fetch_or(&slot->leases, (uint64_t)1 << who);\n"
        '    THEUS_SHM_STEP("lease set");\n'
        "    uint64_t seen = atomic_load(&slot->word);\n",
        "    uint64_t seen = atomic_load(&slot->word);\n"
        "    atomic_fetch_or(&slot->leases, (uint64_t)1 << who);\n"
        '    THEUS_SHM_STEP("lease set");\n',
    ),
    (
        "a refused lease stays",
        "shm_slots.c",
        "    atomic_fetch_and(&slot->leases, ~((uint64_t)1 << who));\n    return theus",
        "    return theus",
    ),
    (
        "a slot is recycled under a lease",
        "shm_slots.c",
        "        || atomic_load(&slot->leases) != 0) {",
        "        ) {",
    ),
    (
        "a slot that is worn out is given again",
        "shm_slots.c",
        "bool worn = generation == UINT32_MAX;",
        "bool worn = false;",
    ),
    (
        "the leases of the dead stay",
        "shm_slots.c",
        "memory_order_relaxed) >> who & 1) {",
        "memory_order_relaxed) >> who & 2) {",
    ),
    (
        "what a dead claimer had published stays",
        "shm_slots.c",
        '        (void)theus_slot_retire(table, i, generation);\n        THEUS_SHM_STEP("reaping");',
        '        THEUS_SHM_STEP("reaping");',
    ),
    (
        "the living are reaped, too",
        "shm_slots.c",
        "|| theus_slot_claimer_of(seen) != who) {",
        ") {",
    ),
    # ---- blocks
    (
        "where a borrowed block lies is believed",
        "shm_block.c",
        "    return block->size <= arena->data_size && block->offset <= arena->data_size - block->size;",
        "    return true;",
    ),
    (
        "an older name is good while its slot is held",
        "shm_block.c",
        "    if (tenant != generation || theus",
        "    if (theus",
    ),
    (
        "a retired block can still be leased by who holds it",
        "shm_block.c",
        "    if (tenant != generation || theus_slot_state_of(word) != THEUS_SLOT_LIVE) {",
        "    if (tenant != generation) {",
    ),
    (
        "a borrower publishes what its owner has not",
        "shm_block.c",
        "    if (!theus_block_is_owned(block) && !theus_block_is_published(block)) {",
        "    if (block->arena == NULL) {",
    ),
    # ---- arenas
    (
        "the number of slots is believed",
        "shm_arena.c",
        "        || theus_shm_control_size(*capacity, theus_shm_id_lends(name->id)) != arena->control_size) {",
        ") {",
    ),
    (
        "another arena is as good",
        "shm_arena.c",
        "    bool same = memcmp(header->id, name->id, sizeof(name->id)) == 0;",
        "    bool same = name != NULL;",
    ),
    (
        "the dead are not looked for",
        "shm_arena.c",
        "        if ((holders >> number & 1) != 0) {",
        "        if ((holders >> number & 2) != 0) {",
    ),
    (
        "who looks is taken for dead",
        "shm_arena.c",
        "    if (theus_byte_is_locked(arena->control_fd, number) || !theus_byte_try_lock(arena->control_fd, door_of(number))) {\n"
        "        return 0;\n    }\n"
        "    uint32_t leases = theus_byte_is_locked(arena->control_fd, number) ? 0 : clear_up(arena, number);",
        "    if (!theus_byte_try_lock(arena->control_fd, door_of(number))) {\n        return 0;\n    }\n"
        "    uint32_t leases = clear_up(arena, number);",
    ),
    (
        "a child inherits views without leases",
        "shm_process.c",
        "            atomic_fetch_or(&arena->slots.slots[i].leases, (uint64_t)1 << arena->child);\n",
        "",
    ),
    # ---- zones, ranges, files
    (
        "an older array shines through",
        "shm_zone.c",
        "at.dirty > 0) {",
        "at.dirty > size) {",
    ),
    (
        "what others look at is forgotten",
        "shm_zone.c",
        "            arena->lingering[kept++] = index;\n",
        "            kept += arena->lingering_count == 1;\n",
    ),
    (
        "two ranges are not merged",
        "shm_runs.c",
        "before != NULL && before->offset + before->size == offset;",
        "before != NULL && before->offset + before->size == offset && extent > 64;",
    ),
    (
        "large blocks lie anywhere",
        "shm_runs.c",
        "    return extent < PAGED_FROM ? 0 : (PAGE - run->offset % PAGE) % PAGE;",
        "    return extent < PAGE ? 0 : 0;",
    ),
    (
        "a file that can shrink is opened",
        "port_shm.c",
        "    if (seals < 0 || (seals & needed) != needed ||",
        "    if (seals < 0 ||",
    ),
    (
        "a number that is locked is free",
        "port_shm.c",
        "    return fcntl(fd, F_OFD_SETLK, &lock) == 0;",
        "    return fcntl(fd, F_OFD_SETLK, &lock) == 0 || byte > 2;",
    ),
    # ---- limits
    (
        "the quota of the process is a zone's",
        "shm_quota.c",
        "theus_quota_decide(totals->used, extent, totals->soft, totals->hard);",
        "theus_quota_decide(0, extent, totals->soft, totals->hard);",
    ),
    (
        "what outlives its zone counts no more",
        "shm_births.c",
        "    process_uncharge_locked(tenant->extent);\n    if (arena->zone != NULL) {\n",
        "    if (arena->zone != NULL) {\n        process_uncharge_locked(tenant->extent);\n",
    ),
    (
        "a child goes on with its parent's totals",
        "shm_process.c",
        "    process.totals = (theus_process_totals){\n        .soft",
        "    (void)(theus_process_totals){\n        .soft",
    ),
    (
        "the whole address space is used up",
        "shm_quota.c",
        "__builtin_add_overflow(asked, control + SPARE_ROOM, &asked)",
        "__builtin_add_overflow(asked, control, &asked)",
    ),
    (
        "an arena is halved below what is to lie there",
        "shm_quota.c",
        "size = half > least ? half : least;",
        "size = half;",
    ),
    (
        "what cannot be shown is published",
        "shm_block.c",
        "    if (status == THEUS_OK && theus_block_is_owned(block)) {",
        "    if (theus_block_is_owned(block)) {",
    ),
    # ---- kinds of memory
    (
        "a block gets memory that nobody asked for",
        "shm_zone.c",
        "    if (wanted->memory != arena->memory || wanted->lending",
        "    if (wanted->lending",
    ),
    (
        "what is to be pinned is not",
        "shm_zone.c",
        "    if (status == THEUS_OK && arena->memory == THEUS_MEMORY_PINNED) {",
        "    if (status != THEUS_OK && arena->memory == THEUS_MEMORY_PINNED) {",
    ),
    # ---- files with names
    (
        "a dead owner's arena is opened",
        "shm_arena.c",
        "closed) == 0 && theus_byte_is_locked(arena->control_fd, THEUS_SHM_OWNER) ?",
        "closed) == 0 ?",
    ),
    (
        "a child keeps its parent's mapping, and with it the lock",
        "shm_process.c",
        "        theus_shm_remap(arena->child_fd, 0, arena->header, arena->control_size, THEUS_MAP_WRITE);",
        "",
    ),
    (
        "a child's exit takes its parent's names away",
        "shm_process.c",
        "        if (theus_arena_is_owned(it)) {\n            (void)theus_files_hide",
        "        if (it != NULL) {\n            (void)theus_files_hide",
    ),
    (
        "the living are swept",
        "shm_sweep.c",
        "theus_byte_is_locked(control, THEUS_SHM_OWNER) ? THEUS_LEFT_ALIVE : THEUS_LEFT_DEAD",
        "theus_byte_is_locked(control, THEUS_SHM_OWNER + 1) ? THEUS_LEFT_ALIVE : THEUS_LEFT_DEAD",
    ),
    (
        "data without a control file are left",
        "shm_sweep.c",
        "        left->removed = theus_name_remove(its->folder, name);\n",
        "        left->removed = false;\n",
    ),
    (
        "a ledger goes before what stands in it",
        "shm_sweep.c",
        "        remove = false; /* what",
        "        /* what",
    ),
    (
        "the first arena sweeps nothing",
        "shm_zone.c",
        "zone->backend == THEUS_NAMED && !zone->swept;",
        "zone->backend == THEUS_NAMED && zone->swept;",
    ),
    (
        "data can be opened for writing",
        "shm_files.c",
        "theus_name_create(places.named.path, !kind.lends, data_size, data)",
        "theus_name_create(places.named.path, false, data_size, data)",
    ),
    # ---- loans
    (
        "a range is lent twice",
        "shm_loans.c",
        "if (overlaps && is_out(",
        "if (overlaps && from > size && is_out(",
    ),
    (
        "a dead taker keeps his range",
        "shm_loans.c",
        "    else if (!theus_byte_is_locked(arena->control_fd, *taker)) {",
        "    else if (arena->loans == NULL) {",
    ),
    (
        "who gets a dead one's number leaves his loans",
        "shm_arena.c",
        "            (void)clear_up(arena, number);\n",
        "            (void)theus_slots_reap(&arena->slots, number);\n",
    ),
    (
        "whoever gets a dead one's number hides his death",
        "shm_arena.c",
        "        if (atomic_load(&theus_arena_participant(arena, number)->pid) != 0) { /* it left something */",
        "        if (theus_byte_try_lock(fd, number)) {",
    ),
    (
        "who buries takes the number",
        "shm_arena.c",
        "!theus_byte_try_lock(arena->control_fd, door_of(number))) {\n        return 0;\n    }\n"
        "    uint32_t leases = theus_byte_is_locked(arena->control_fd, number) ? 0 : clear_up(arena, number);\n"
        "    theus_byte_unlock(arena->control_fd, door_of(number));",
        "!theus_byte_try_lock(arena->control_fd, number)) {\n        return 0;\n    }\n"
        "    uint32_t leases = clear_up(arena, number);\n"
        "    theus_byte_unlock(arena->control_fd, number);",
    ),
    (
        "what is behind a door is taken",
        "shm_arena.c",
        "        result = one == BUSY ? BUSY : result;\n",
        "",
    ),
    (
        "who may not map anew can write as before",
        "port_shm.c",
        "        (void)mprotect(memory, (size_t)size, protection);",
        "        (void)protection;",
    ),
    (
        "a loan is offered before it is described",
        "shm_lendings.c",
        "    atomic_store_explicit(&record->from, range->from, memory_order_relaxed);\n",
        "    atomic_store(&record->word, theus_lending_word(generation, THEUS_LOAN_OFFERED, 0));\n"
        '    THEUS_SHM_STEP("loan offered");\n'
        "    atomic_store_explicit(&record->from, range->from, memory_order_relaxed);\n",
    ),
    (
        "a loan is taken by whoever comes",
        "shm_lendings.c",
        "    bool taken = step(record, theus_lending_word(generation, THEUS_LOAN_OFFERED, 0), THEUS",
        "    bool taken = generation != 0 && step(record, atomic_load(&record->word), THEUS",
    ),
    (
        "the loans of the living are broken, too",
        "shm_lendings.c",
        "THEUS_LOAN_TAKEN && theus_lending_taker_of(seen) == who) {",
        "THEUS_LOAN_TAKEN && who != THEUS_PARTICIPANTS) {",
    ),
    (
        "what is recalled can be taken",
        "shm_lendings.c",
        "    return step(record, theus_lending_word(generation, THEUS_LOAN_OFFERED, 0), THEUS_LOAN_RECALLED, 0);",
        "    return theus_lending_state_of(atomic_load(&record->word)) == THEUS_LOAN_OFFERED && generation > 0;",
    ),
    (
        "where there is room, an arena lends",
        "shm_arena.c",
        "    arena->loan_count = theus_shm_id_lends(name->id) ? THEUS_SHM_LOANS : 0;",
        "    arena->loan_count = 8;",
    ),
    (
        "what is over can be written",
        "shm_loans.c",
        'loan->mapped, THEUS_MAP_READ);\n    THEUS_SHM_STEP("loan read-only");',
        'loan->mapped, THEUS_MAP_WRITE);\n    THEUS_SHM_STEP("loan read-only");',
    ),
    (
        "a child inherits a loan",
        "shm_loans.c",
        "loan->mapped, THEUS_MAP_READ);\n        loan->mine = false;",
        "loan->mapped, THEUS_MAP_WRITE);\n        loan->mine = false;",
    ),
    (
        "where a lent range lies is believed",
        "shm_loans.c",
        "    return fits ? THEUS_OK : THEUS_BAD_TOKEN;",
        "    return fits || loan != NULL ? THEUS_OK : THEUS_BAD_TOKEN;",
    ),
    (
        "the owner is taken for a dead taker",
        "shm_loans.c",
        " || *taker == THEUS_SHM_OWNER) {",
        ") {",
    ),
    (
        "a lent block is published",
        "shm_block.c",
        "block->generation) > 0;",
        "block->generation) > THEUS_PARTICIPANTS;",
    ),
    (
        "a taker maps pages of other blocks",
        "shm_zone.c",
        "        wanted.extent = whole_pages(wanted.extent, THEUS_SHM_PAGE);",
        "        wanted.extent += 0;",
    ),
]
