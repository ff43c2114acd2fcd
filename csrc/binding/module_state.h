/* What one interpreter's copy of the module owns. Filled by exec, constant afterwards. */
#ifndef THEUS_MODULE_STATE_H
#define THEUS_MODULE_STATE_H

#include "pyapi.h"

typedef struct HandleObject HandleObject;
typedef struct TxnObject TxnObject;
typedef struct active_txns active_txns;
typedef struct RecordClass RecordClass;

/* Exception classes, by their names in theus.errors. errors.c expands this list too. */
#define THEUS_ERROR_FIELDS(X)     \
    X(PyObject, BadTokenError)    \
    X(PyObject, BorrowedArrayError) \
    X(PyObject, ClosedError)      \
    X(PyObject, CodecError)       \
    X(PyObject, ConflictError)    \
    X(PyObject, ContextError)     \
    X(PyObject, ContractViolationError) \
    X(PyObject, FrozenError)      \
    X(PyObject, PathError)        \
    X(PyObject, RecordError)      \
    X(PyObject, RingFullError)    \
    X(PyObject, StaleArrayError)  \
    X(PyObject, TransactionError) \
    X(PyObject, UnfreezableError) \
    X(PyObject, MergeError) \
    X(PyObject, VersionError)     \
    X(PyObject, WriteTimeoutError)

/* Each owned reference once: (C type, name). The struct, traverse and clear expand this list. */
#define THEUS_STATE_FIELDS(X)                                                               \
    X(PyTypeObject, Heap_type)                                                              \
    X(PyTypeObject, ArrayView_type)                                                         \
    X(PyTypeObject, FrozenDict_type)                                                        \
    X(PyTypeObject, FrozenList_type)                                                        \
    X(PyTypeObject, FrozenSet_type)                                                         \
    X(PyTypeObject, FrozenKeys_type)                                                        \
    X(PyTypeObject, FrozenValues_type)                                                      \
    X(PyTypeObject, FrozenItems_type)                                                       \
    X(PyTypeObject, Iterator_type)                                                          \
    X(PyTypeObject, FrozenDictMutation_type)                                                \
    X(PyTypeObject, Opaque_type)                                                            \
    X(PyTypeObject, Sentinel_type)                                                          \
    X(PyObject, MISSING)                                                                    \
    X(PyObject, DELETE)                                                                     \
    X(PyObject, abc)               /* the module _collections_abc */                        \
    X(PyObject, frozen_dict_names) /* dict: attributes that no key can hide */              \
    X(PyObject, known_types)       /* dict: what atoms.c has found out about exact types */ \
    X(PyTypeObject, DraftDict_type)                                                         \
    X(PyTypeObject, DraftList_type)                                                         \
    X(PyTypeObject, DraftSet_type)                                                          \
    X(PyTypeObject, DraftKeys_type)                                                         \
    X(PyTypeObject, DraftValues_type)                                                       \
    X(PyTypeObject, DraftItems_type)                                                        \
    X(PyTypeObject, DraftIterator_type)                                                     \
    X(PyTypeObject, Wildcard_type)                                                          \
    X(PyTypeObject, Scope_type)                                                             \
    X(PyTypeObject, Context_type)                                                           \
    X(PyTypeObject, Outbox_type)                                                            \
    X(PyTypeObject, Signal_type)                                                            \
    X(PyObject, signal_name) /* str: the root below which outputs are topics */             \
    X(PyObject, outbox_name) /* str: where messages are said to be, in errors */            \
    X(PyObject, root_aliases) /* dict: old names of roots -> names */                       \
    X(PyTypeObject, RecordClass_type)                                                       \
    X(PyObject, record_key)     /* key of the hidden first entry of a record: its class */  \
    X(PyObject, given_key)      /* key of the second, of Pydantic models */                 \
    X(PyObject, record_classes) /* dict: address of a class -> weak reference */            \
    X(PyTypeObject, CommitRecord_type)                                                      \
    X(PyTypeObject, Change_type)                                                            \
    X(PyTypeObject, MetaLogEntry_type)                                                      \
    X(PyTypeObject, State_type)                                                             \
    X(PyTypeObject, Transaction_type)                                                       \
    X(PyTypeObject, Ready_type)                                                             \
    X(PyTypeObject, Waiter_type)                                                            \
    X(PyTypeObject, Turn_type)                                                              \
    X(PyTypeObject, Engine_type)                                                            \
    X(PyTypeObject, HeavyRoot_type)                                                         \
    X(PyTypeObject, SharedZone_type)                                                        \
    X(PyTypeObject, SharedBlock_type)                                                       \
    X(PyTypeObject, SharedLoan_type)                                                        \
    X(PyTypeObject, RecordCursor_type)                                                      \
    X(PyTypeObject, Letter_type)                                                            \
    X(PyTypeObject, Mailbox_type)                                                           \
    X(PyTypeObject, InterpreterWorker_type)                                                 \
    X(PyTypeObject, Line_type)                                                              \
    X(PyTypeObject, Promise_type)                                                           \
    X(PyObject, name_frame) /* these: str; see line_steps.c */                              \
    X(PyObject, name_future)                                                                \
    X(PyObject, name_number)                                                                \
    X(PyObject, name_append)                                                                \
    X(PyObject, name_pop)                                                                   \
    X(PyObject, name_popleft)                                                               \
    X(PyObject, parse_path) /* theus.paths.parse_path, once a path came as text */          \
    X(PyTypeObject, Home_type)                                                              \
    X(PyObject, home)       /* ContextVar: see home.h */                                    \
    THEUS_ERROR_FIELDS(X)

enum { FREE_HANDLES = 64, FREE_TXNS = 8, FREE_DRAFTS = 32 };

typedef struct {
#define THEUS_STATE_MEMBER(type, name) type *name;
    THEUS_STATE_FIELDS(THEUS_STATE_MEMBER)
#undef THEUS_STATE_MEMBER

    PyObject *module;     /* borrowed: the module that this state lies in */
    bool threads_inherit; /* new threads begin in a copy of the context of whoever starts them */

    /* Dead objects kept for reuse: memory only, they own nothing. Guarded by the GIL, and off
     * without one; off again from module_clear on, because freeing one asks its type for its
     * layout. */
    bool recycles;
    int free_handle_count;
    HandleObject *free_handles[FREE_HANDLES];
    int free_txn_count;
    TxnObject *free_txns[FREE_TXNS];
    int free_draft_count;
    void *free_drafts[FREE_DRAFTS]; /* DraftObject */
} module_state;

extern PyModuleDef theus_module;

static inline module_state *
module_state_of(PyObject *module)
{
    return (module_state *)PyModule_GetState(module);
}

/* The state behind a type of this module. None of them can be subclassed, so Py_TYPE(object)
 * is the type that was defined here. */
static inline module_state *
module_state_of_type(PyTypeObject *type)
{
    return (module_state *)PyType_GetModuleState(type);
}

/* Makes a type from `spec`, stores it in *slot (a field of the state) and adds it to the module
 * under the last part of its name. */
int module_add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **slot);

/* Registers a type with an abstract class of collections.abc, by name. */
int module_register_abc(module_state *st, PyTypeObject *type, const char *abstract);

/* One per type or group of types, called in this order by module.c. */
int add_heap_type(PyObject *module, module_state *st);
int add_outgoing_types(PyObject *module, module_state *st);
int add_opaque_types(PyObject *module, module_state *st);
int add_iterator_type(PyObject *module, module_state *st);
int add_frozen_dict_type(PyObject *module, module_state *st);
int add_frozen_list_type(PyObject *module, module_state *st);
int add_frozen_set_type(PyObject *module, module_state *st);
int add_frozen_view_types(PyObject *module, module_state *st);
int add_mutation_type(PyObject *module, module_state *st);
int add_record_class_type(PyObject *module, module_state *st);
int add_record_types(PyObject *module, module_state *st);
int add_state_type(PyObject *module, module_state *st);
int add_home_type(PyObject *module, module_state *st);
int add_txn_type(PyObject *module, module_state *st);
int add_engine_type(PyObject *module, module_state *st);
int add_cursor_type(PyObject *module, module_state *st);
int add_turn_types(PyObject *module, module_state *st);
int add_shm_types(PyObject *module, module_state *st);
int add_mail_types(PyObject *module, module_state *st);
int add_interp_type(PyObject *module, module_state *st);
int add_line_type(PyObject *module, module_state *st);
int add_promise_type(PyObject *module, module_state *st);
int add_array_view_type(PyObject *module, module_state *st);

#endif
