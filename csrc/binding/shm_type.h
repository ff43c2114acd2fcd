/* Shared memory of an engine as Python objects. What makes arrays of it is Python: theus/heavy.py, theus/shm_array.py. */
#ifndef THEUS_SHM_TYPE_H
#define THEUS_SHM_TYPE_H

#include "module_state.h"

#include "../core/shm_loans.h"

int add_shm_block_type(PyObject *module, module_state *st);

int add_shm_loan_type(PyObject *module, module_state *st);

/* A SharedBlock that takes over a lease, or a loan, also where it fails. */
PyObject *shm_block_of_lease(module_state *st, theus_block *block);
PyObject *shm_block_of_loan(module_state *st, theus_loan *loan);

/* As errors_raise(); NO_ROOM is a HeavyMemoryError: what was to be mapped could not be, as the refusal says. */
PyObject *shm_raise(const module_state *st, theus_status status, const theus_refusal *refusal);

/* Methods of SharedBlock; `of` is its object. */
PyObject *shm_lend(PyObject *of, const theus_block *block, PyObject *args);
PyObject *shm_loans(const theus_block *block);

/* What names a block to other processes of this machine. */
typedef struct {
    char magic[4];
    uint32_t slot, generation;
    theus_arena_name arena;
} block_token;

_Static_assert(sizeof(block_token) == 36, "a token has no padding");

block_token shm_token_of(const theus_block *block);

/* Functions of the module. */
PyObject *module_borrow_block(PyObject *module, PyObject *token);
PyObject *module_take_loan(PyObject *module, PyObject *token);
PyObject *module_place_in_block(PyObject *module, PyObject *array);
PyObject *module_token_in_block(PyObject *module, PyObject *array);
PyObject *module_forget_arenas(PyObject *module, PyObject *ignored);
PyObject *module_count_leases(PyObject *module, PyObject *ignored);
PyObject *module_recover_leases(PyObject *module, PyObject *ignored);
PyObject *module_system_memory(PyObject *module, PyObject *ignored);
PyObject *module_process_memory(PyObject *module, PyObject *ignored);
PyObject *module_process_blocks(PyObject *module, PyObject *ignored);
PyObject *module_limit_process(PyObject *module, PyObject *args);
PyObject *module_sweep_shared(PyObject *module, PyObject *args);
PyObject *module_shared_folder(PyObject *module, PyObject *ignored);
PyObject *module_open_ledger(PyObject *module, PyObject *ignored);
PyObject *module_hide_arenas(PyObject *module, PyObject *ignored);

/* Reads THEUS_SHM_DIR and THEUS_SPILL_DIR, once per process. */
void shm_choose_folder(void);

#endif
