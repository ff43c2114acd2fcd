/* theus._theus: puts the types together. */
#include "absent.h"
#include "account.h"
#include "admin.h"
#include "codec.h"
#include "context.h"
#include "delta.h"
#include "draft.h"
#include "errors.h"
#include "freeze.h"
#include "heavy_root.h"
#include "interrupt.h"
#include "kernels.h"
#include "line.h"
#include "records.h"
#include "scope.h"
#include "shm_type.h"
#include "steps.h"
#include "txn_type.h"

/* ---- types -------------------------------------------------------------------------- */

int
module_add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **slot)
{
    *slot = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *slot == NULL ? -1 : PyModule_AddType(module, *slot);
}

int
module_register_abc(module_state *st, PyTypeObject *type, const char *abstract)
{
    PyObject *base = PyObject_GetAttrString(st->abc, abstract);
    if (base == NULL) {
        return -1;
    }
    PyObject *registered = PyObject_CallMethod(base, "register", "O", type);
    Py_DECREF(base);
    Py_XDECREF(registered);
    return registered == NULL ? -1 : 0;
}

/* ---- life ------------------------------------------------------------------------------ */

static int
module_exec(PyObject *module)
{
    static int (*const add[])(PyObject *, module_state *) = {
        add_heap_type,        add_opaque_types,    add_iterator_type,     add_frozen_dict_type,
        add_frozen_list_type, add_frozen_set_type, add_frozen_view_types, add_mutation_type,
        add_record_class_type, add_record_types,   add_state_type,        add_home_type,
        add_txn_type,         add_draft_types,     add_scope_types,       add_context_type,
        add_engine_type,      add_cursor_type,     add_turn_types,        add_outgoing_types,
        add_shm_types,        add_heavy_root_type, add_absent,          add_mail_types,
        add_interp_type,      add_array_view_type, add_line_type,         add_promise_type,
    };
    module_state *st = module_state_of(module);
    st->module = module;
    st->recycles = THEUS_HAVE_GIL;
    st->known_types = PyDict_New();
    /* The module itself, not collections.abc: it is loaded already, its alias would load a
     * package. */
    st->abc = PyImport_ImportModule("_collections_abc");
    if (st->known_types == NULL || st->abc == NULL || errors_import(st) < 0) {
        return -1;
    }
    for (size_t i = 0; i < Py_ARRAY_LENGTH(add); i++) {
        if (add[i](module, st) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *st = module_state_of(module);
#define VISIT_FIELD(type, name) Py_VISIT(st->name);
    THEUS_STATE_FIELDS(VISIT_FIELD)
#undef VISIT_FIELD
    return 0;
}

static int
module_clear(PyObject *module)
{
    module_state *st = module_state_of(module);
    st->recycles = false;
    handle_drop_free_list(st);
    txn_drop_free_list(st);
    draft_drop_free_list(st);
#define CLEAR_FIELD(type, name) Py_CLEAR(st->name);
    THEUS_STATE_FIELDS(CLEAR_FIELD)
#undef CLEAR_FIELD
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear((PyObject *)module);
}

static PyMethodDef module_methods[] = {
    {"frozen_content", module_frozen_content, METH_O,
     PyDoc_STR("frozen_content($module, value, /)\n--\n\nThe content of a draft, or of a view of one, frozen; any other value itself.")},
    {"is_record", module_is_record, METH_O,
     PyDoc_STR("is_record($module, value, /)\n--\n\nWhether a value is a view or a draft of a record.")},
    {"record_store", THEUS_FASTCALL(module_record_store), METH_FASTCALL,
     PyDoc_STR("record_store($module, draft, name, value, new, /)\n--\n\n"
               "Stores an attribute without asking the class, and says so; a new one only if told to.")},
    {"record_discard", THEUS_FASTCALL(module_record_discard), METH_FASTCALL,
     PyDoc_STR("record_discard($module, draft, name, /)\n--\n\nRemoves an attribute; says whether there was one.")},
    {"freeze", module_freeze, METH_O,
     PyDoc_STR("freeze($module, value, /)\n--\n\n"
               "The immutable form of a value: dict to FrozenDict, list to FrozenList, set to "
               "FrozenSet,\n"
               "at any depth; what cannot change comes back as it is.")},
    {"thaw", module_thaw, METH_O,
     PyDoc_STR(
         "thaw($module, value, /)\n--\n\n"
         "The builtin form of a frozen value, at any depth, independent of what it came from.")},
    {"open_context", THEUS_FASTCALL(module_open_context), METH_FASTCALL,
     PyDoc_STR("open_context($module, transaction, plan, scope, bound, args, kwargs, /)\n--\n\n"
               "A context by hand. From here on the transaction lets pass what `scope` declares,\n"
               "within what it let pass before, and commits only what `bound` lets be written.\n"
               "None: no contract.")},
    {"run_body", THEUS_FASTCALL(module_run_body), METH_FASTCALL,
     PyDoc_STR("run_body($module, transaction, plan, scope, bound, args, kwargs, function, /)\n--\n\n"
               "function(context, *args, **kwargs) with a context of its own, as by open_context(), and\n"
               "close_context() after it.")},
    {"start_body", THEUS_FASTCALL(module_start_body), METH_FASTCALL,
     PyDoc_STR("start_body($module, transaction, plan, scope, bound, args, kwargs, function, /)\n--\n\n"
               "(context, function(context, *args, **kwargs)), of a coroutine function: who has awaited\n"
               "the call closes the context.")},
    {"abandon", module_abandon, METH_O,
     PyDoc_STR("abandon($module, transaction, /)\n--\n\n"
               "Ends a transaction without a trace, from any thread. Its body goes on and is\n"
               "refused everything; if the body is just inside one of its operations, the\n"
               "transaction stays open.")},
    {"close_context", THEUS_FASTCALL(module_close_context), METH_FASTCALL,
     PyDoc_STR("close_context($module, context, error, /)\n--\n\n"
               "Ends a body that has returned (None) or raised: from here on the transaction lets\n"
               "pass what `bound` declares. Raises ContractViolationError if a write was refused\n"
               "in a body that has returned, or (FrozenError) in one that has raised.")},
    {"open_admin", THEUS_FASTCALL(module_open_admin), METH_FASTCALL,
     PyDoc_STR("open_admin($module, context, reason, /)\n--\n\n"
               "Until close_admin(context) the zones do not bind what this context does; see theus.admin.")},
    {"close_admin", module_close_admin, METH_O,
     PyDoc_STR("close_admin($module, context, /)\n--\n\nEnds the admin scope of a context, if it has one.")},
    {"account", module_account, METH_O,
     PyDoc_STR("account($module, transaction, /)\n--\n\n"
               "What the body of an open transaction has seen and done, as plain values for repeat().")},
    {"repeat", THEUS_FASTCALL(module_repeat), METH_FASTCALL,
     PyDoc_STR("repeat($module, transaction, account, /)\n--\n\n"
               "Sees and does in a transaction what an account says. Nothing is held against the guard here;\n"
               "the commit holds what was written against the contract.")},
    {"rehearse", THEUS_FASTCALL(module_rehearse), METH_FASTCALL,
     PyDoc_STR("rehearse($module, engine, roots, version, run, isolation, process, hides, /)\n--\n\n"
               "An open transaction on a version of these roots that the engine does not have, for a body whose\n"
               "account is repeated in another engine. It ends as a with block that raises.")},
    {"container_changes", THEUS_FASTCALL(module_container_changes), METH_FASTCALL,
     PyDoc_STR("container_changes($module, old, new, limit, /)\n--\n\n"
               "What leads from one version of a container to a later one, as a list of tuples: see delta.h.\n"
               "None if that cannot be told, or is more than `limit` changes.")},
    {"is_same", THEUS_FASTCALL(module_is_same), METH_FASTCALL,
     PyDoc_STR("is_same($module, a, b, /)\n--\n\n"
               "Whether both are the very same: one object, or views of one container of a state.")},
    {"encode", THEUS_FASTCALL(module_encode), METH_FASTCALL,
     PyDoc_STR("encode($module, value, extend=None, buffers=None, large=0, /)\n--\n\n"
               "A value as bytes. `extend(part)` gives (code, value) for what is neither plain nor a\n"
               "container. Content of at least `large` bytes goes to the list `buffers`, if there is one.")},
    {"encode_frame", THEUS_FASTCALL(module_encode_frame), METH_FASTCALL,
     PyDoc_STR("encode_frame($module, kind, number, value, extend=None, buffers=None, large=0, /)\n--\n\n"
               "encode() behind a header for the wire: see theus.pools.wire.")},
    {"bracket", THEUS_FASTCALL(module_bracket), METH_FASTCALL,
     PyDoc_STR("bracket($module, enter, leave, fn, /, *args)\n--\n\n"
               "fn(*args) between enter() and leave(), whatever fn raises. NotImplemented if enter() gives False: then\n"
               "nothing else is called. If the two are of C, no signal handler comes between them and fn.")},
    {"apart", THEUS_FASTCALL(module_apart), METH_FASTCALL,
     PyDoc_STR("apart($module, lock, fn, /, *args)\n--\n\n"
               "fn(*args) without that RLock, which this thread holds, and has again afterwards as often as before.")},
    {"on_error", THEUS_FASTCALL(module_on_error), METH_FASTCALL,
     PyDoc_STR("on_error($module, alarm, fn, /, *args)\n--\n\n"
               "fn(*args). If that raises, alarm() is called first, and what it raises itself is dropped.")},
    {"drop_first", THEUS_FASTCALL(module_drop_first), METH_FASTCALL,
     PyDoc_STR("drop_first($module, deque, item, /)\n--\n\n"
               "Takes the first one off if it is this object. False: it is another one, or there is none.")},
    {"decode", THEUS_FASTCALL(module_decode), METH_FASTCALL,
     PyDoc_STR("decode($module, data, extend=None, buffers=None, /)\n--\n\n"
               "The value that encode() has written. `extend(code, value)` gives what was extended,\n"
               "`buffers` is a tuple of what went there. Raises CodecError for data that encode() did not write.")},
    {"borrow_block", module_borrow_block, METH_O,
     PyDoc_STR("borrow_block($module, token, /)\n--\n\n"
               "The block of shared memory that the token of a SharedBlock names, in this process or another.\n"
               "Raises StaleArrayError if it is gone, BadTokenError if there never was one, HeavyMemoryError if\n"
               "it cannot be mapped.")},
    {"take_loan", module_take_loan, METH_O,
     PyDoc_STR("take_loan($module, token, /)\n--\n\n"
               "The range that the token of a SharedLoan names, writable: for whoever comes first.\n"
               "Raises StaleArrayError for others, and when it is over; BadTokenError if there never was one,\n"
               "HeavyMemoryError if it cannot be mapped: then it can still be taken.")},
    {"place_in_block", module_place_in_block, METH_O,
     PyDoc_STR("place_in_block($module, array, /)\n--\n\n"
               "(block, offset): the SharedBlock in which all data of an array lie, and where they\n"
               "begin; or None.")},
    {"token_in_block", module_token_in_block, METH_O,
     PyDoc_STR("token_in_block($module, array, /)\n--\n\n"
               "(token, offset) of the block in which all data of an array lie, if other processes may\n"
               "borrow it; or None.")},
    {"count_leases", module_count_leases, METH_NOARGS,
     PyDoc_STR("count_leases($module, /)\n--\n\n"
               "How many blocks of shared memory this process looks at, its own and others'.")},
    {"forget_arenas", module_forget_arenas, METH_NOARGS,
     PyDoc_STR("forget_arenas($module, /)\n--\n\n"
               "Unmaps the borrowed shared memory that no array of this process lies in any more. It\n"
               "is kept otherwise, so that the next array from there costs no system call.")},
    {"recover_leases", module_recover_leases, METH_NOARGS,
     PyDoc_STR("recover_leases($module, /)\n--\n\n"
               "Ends the leases that dead processes had on this process's shared memory; how many.")},
    {"sweep_shared", module_sweep_shared, METH_VARARGS,
     PyDoc_STR("sweep_shared($module, folder, remove, /)\n--\n\n"
               "What lies in a folder of named shared memory; what dead owners left is removed, if\n"
               "`remove`. A list of (name, why, removed, bytes, pid, session, time made); see theus.registry.")},
    {"shared_folder", module_shared_folder, METH_NOARGS,
     PyDoc_STR("shared_folder($module, /)\n--\n\nThe folder of named shared memory; empty if THEUS_SHM_DIR is no absolute path.")},
    {"open_ledger", module_open_ledger, METH_NOARGS,
     PyDoc_STR("open_ledger($module, /)\n--\n\n"
               "(descriptor, name) of a new file in the folder of named shared memory: segments whose\n"
               "names are written there, a line each, are removed after this process was killed.")},
    {"hide_arenas", module_hide_arenas, METH_NOARGS,
     PyDoc_STR("hide_arenas($module, /)\n--\n\n"
               "Takes the names of this process's shared memory away, as its end does: nobody else\n"
               "finds it from now on.")},
    {"kernel_elementwise", module_kernel_elementwise, METH_VARARGS,
     PyDoc_STR("kernel_elementwise($module, operation, out, a, b=None, /)\n--\n\nSee theus.kernels, as for the other kernels.")},
    {"kernel_sum", module_kernel_sum, METH_O, PyDoc_STR("kernel_sum($module, a, /)\n--\n\nThe sum of all elements.")},
    {"kernel_dot", module_kernel_dot, METH_VARARGS, PyDoc_STR("kernel_dot($module, a, b, /)\n--\n\nThe sum of all products.")},
    {"kernel_extreme", module_kernel_extreme, METH_VARARGS,
     PyDoc_STR("kernel_extreme($module, a, greatest, /)\n--\n\nThe least element, or the greatest.")},
    {"kernel_gather", module_kernel_gather, METH_VARARGS,
     PyDoc_STR("kernel_gather($module, out, a, indices, /)\n--\n\nElements of a by their indices.")},
    {"interrupt_thread", module_interrupt_thread, METH_VARARGS,
     PyDoc_STR("interrupt_thread($module, ident, exception, /)\n--\n\n"
               "Raises an exception, given by its class, in the thread with this number as soon as it runs\n"
               "Python code, in place of one that was not raised yet. Says whether there is such a thread.")},
    {"system_memory", module_system_memory, METH_NOARGS,
     PyDoc_STR("system_memory($module, /)\n--\n\n"
               "(total, room): the bytes that this process may use, and those that are left, by the\n"
               "system's own figures and the limits of its cgroups and of its address space.")},
    {"process_memory", module_process_memory, METH_NOARGS,
     PyDoc_STR("process_memory($module, /)\n--\n\n"
               "What all zones of this process have together: (soft, hard, used, peak, births, deaths, bytes\n"
               "born, bytes dead, blocks, bytes), the last two by a walk of the slot tables.")},
    {"process_blocks", module_process_blocks, METH_NOARGS,
     PyDoc_STR("process_blocks($module, /)\n--\n\nAll blocks that this process owns, as SharedZone.blocks().")},
    {"limit_process", module_limit_process, METH_VARARGS,
     PyDoc_STR("limit_process($module, soft, hard, first, /)\n--\n\n"
               "Sets the quota of this process, in bytes; 0: none. If `first`, unless that was done already.")},
    {0},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    /* clang-format off */
    THEUS_SLOT_INTERPRETERS
    THEUS_SLOT_GIL
    {0, NULL},
    /* clang-format on */
};

PyModuleDef theus_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "theus._theus",
    .m_doc = "The C side of theus: containers, state, transactions, engine.",
    .m_size = sizeof(module_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__theus(void);

PyMODINIT_FUNC
PyInit__theus(void)
{
    return PyModuleDef_Init(&theus_module);
}
