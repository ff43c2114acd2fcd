/* See fuzz_scene.h. */
#define _GNU_SOURCE

#include "fuzz_scene.h"

#include <unistd.h>

unsigned long long chance = 23;

/* ---- an arena made by hand ------------------------------------------------------------------ */

bool
is_named(void)
{
    return zone_backend() == THEUS_NAMED;
}

int
file_new(theus_file_kind kind, bool lends, uint64_t size, char **memory)
{
    int fd;
    bool is_data = kind == THEUS_FILE_DATA;
    const char *data_label = lends ? "theus-lent" : "theus-data";
    theus_status status = is_named() ? theus_name_create(theus_files_folder(), is_data && !lends, size, &fd)
                                     : theus_shm_create(is_data ? data_label : "theus-control", false, size, &fd);
    if (status == THEUS_UNSUPPORTED || status == THEUS_REFUSED) {
        exit(77); /* no memfd here */
    }
    REQUIRE(status == THEUS_OK);
    if (memory != NULL) {
        REQUIRE(theus_shm_map(fd, 0, size, THEUS_MAP_WRITE, (void **)memory) == THEUS_OK);
    }
    return fd;
}

static void
give_name(const arena_files *it, theus_file_kind kind, int fd)
{
    REQUIRE(theus_name_give(fd, theus_files_folder(), theus_file_name_of(&it->name, kind).text) == THEUS_OK);
}

static void
take_name(const arena_files *it, theus_file_kind kind)
{
    REQUIRE(theus_name_remove(theus_files_folder(), theus_file_name_of(&it->name, kind).text));
}

arena_files
files_new(bool lends)
{
    arena_files it = {.control_size = theus_shm_control_size(CAPACITY, lends)};
    it.control_fd = file_new(THEUS_FILE_CONTROL, lends, it.control_size, &it.control);
    it.data_fd = file_new(THEUS_FILE_DATA, lends, DATA_BYTES, &it.data);
    theus_shm_header *header = (theus_shm_header *)it.control;
    header->format = THEUS_SHM_FORMAT;
    header->capacity = CAPACITY;
    header->fingerprint = THEUS_SHM_FINGERPRINT;
    header->control_size = it.control_size;
    header->data_size = DATA_BYTES;
    header->pid = it.name.pid = theus_process_id();
    header->control_fd = it.name.control_fd = is_named() ? THEUS_BY_NAME : it.control_fd;
    header->data_fd = it.data_fd;
    header->memory = THEUS_MEMORY_SHARED;
    for (int i = 0; i < 16; i++) {
        header->id[i] = it.name.id[i] = (unsigned char)(100 + i);
    }
    header->id[15] = it.name.id[15] = (unsigned char)(114 + lends);
    strcpy(header->session, "fuzz");
    theus_slots_open(&it.slots, it.control, CAPACITY);
    it.loans = (theus_loan_record *)(it.control + theus_shm_loans_at(CAPACITY));
    theus_slots_init(&it.slots);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        uint32_t slot, generation;
        REQUIRE(theus_slot_claim(&it.slots, THEUS_SHM_OWNER, &slot, &generation) && slot == i && generation == 1);
        it.slots.slots[i].offset = i * 1024;
        it.slots.slots[i].size = BLOCK_BYTES;
        it.slots.slots[i].extent = 1024;
        memset(it.data + (size_t)i * 1024, (int)i + 1, BLOCK_BYTES);
        theus_slot_publish(&it.slots, i);
    }
    atomic_store(&header->magic, THEUS_SHM_MAGIC);
    REQUIRE(theus_byte_try_lock(it.control_fd, THEUS_SHM_OWNER));
    if (is_named()) {
        give_name(&it, THEUS_FILE_CONTROL, it.control_fd);
        give_name(&it, THEUS_FILE_DATA, it.data_fd);
    }
    else {
        REQUIRE(theus_shm_seal(it.control_fd, false) == THEUS_OK && theus_shm_seal(it.data_fd, !lends) == THEUS_OK);
    }
    it.as_made = malloc(it.control_size);
    REQUIRE(it.as_made != NULL);
    memcpy(it.as_made, it.control, it.control_size);
    return it;
}

void
files_free(arena_files *it)
{
    theus_arenas_forget();
    if (is_named()) {
        take_name(it, THEUS_FILE_CONTROL);
        take_name(it, THEUS_FILE_DATA);
    }
    theus_shm_unmap(it->control, it->control_size);
    theus_shm_unmap(it->data, DATA_BYTES);
    theus_shm_close(it->control_fd);
    theus_shm_close(it->data_fd);
    free(it->as_made);
}

void
restore(arena_files *it)
{
    memcpy(it->control, it->as_made, it->control_size);
}

/* Numbers at which programs go wrong. */
uint64_t
odd_number(void)
{
    static const uint64_t numbers[] = {0, 1, 63, 64, 65, 128, 1u << 24, (1u << 24) + 64, INT32_MAX, UINT32_MAX,
                                       (uint64_t)UINT32_MAX + 1, DATA_BYTES - 1, DATA_BYTES, DATA_BYTES + 1, INT64_MAX,
                                       (uint64_t)INT64_MAX + 1, UINT64_MAX - 63, UINT64_MAX};
    unsigned i = check_random(&chance, sizeof(numbers) / sizeof(numbers[0]) + 1);
    if (i < sizeof(numbers) / sizeof(numbers[0])) {
        return numbers[i];
    }
    return (uint64_t)check_random(&chance, 1u << 31) << check_random(&chance, 34);
}

void
damage_bytes(char *memory, size_t size)
{
    for (unsigned i = 1 + check_random(&chance, 8); i > 0; i--) {
        memory[check_random(&chance, (unsigned)size)] ^= (char)(1 + check_random(&chance, 255));
    }
}

void
damage_number(char *memory, size_t size)
{
    uint64_t number = odd_number();
    memcpy(memory, &number, size);
}

/* Everything that a lease gives can be looked at. */
uint64_t
look_at(const theus_block *block)
{
    const volatile char *data = theus_block_data(block);
    REQUIRE(block->size <= DATA_BYTES && block->offset <= DATA_BYTES - block->size);
    return block->size == 0 ? 0 : (uint64_t)(data[0] + data[block->size / 2] + data[block->size - 1]);
}
