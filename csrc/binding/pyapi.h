/* The Python C API as this binding sees it. Every binding file includes this first, and
 * it is the only place that asks which Python it is compiled for. */
#ifndef THEUS_PYAPI_H
#define THEUS_PYAPI_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdbool.h>
#include <stdint.h>

#if PY_VERSION_HEX < 0x030B0000
#error "theus needs Python 3.11 or newer"
#endif

/* ---- what newer Pythons have, for older ones ------------------------------------ */

#if PY_VERSION_HEX < 0x030C0000

static inline PyObject *
PyErr_GetRaisedException(void)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace != NULL) {
        PyException_SetTraceback(value, trace);
    }
    Py_DECREF(type);
    Py_XDECREF(trace);
    return value;
}

static inline void
PyErr_SetRaisedException(PyObject *error)
{
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(error)), error, PyException_GetTraceback(error));
}

#endif

#if PY_VERSION_HEX < 0x030D0000

static inline int
PyDict_GetItemRef(PyObject *dict, PyObject *key, PyObject **result)
{
    *result = Py_XNewRef(PyDict_GetItemWithError(dict, key));
    if (*result != NULL) {
        return 1;
    }
    return PyErr_Occurred() ? -1 : 0;
}

static inline PyObject *
PyList_GetItemRef(PyObject *list, Py_ssize_t index)
{
    return Py_XNewRef(PyList_GetItem(list, index));
}

static inline int
PyObject_GetOptionalAttrString(PyObject *object, const char *name, PyObject **result)
{
    *result = PyObject_GetAttrString(object, name);
    if (*result != NULL) {
        return 1;
    }
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

static inline int
PyWeakref_GetRef(PyObject *reference, PyObject **object)
{
    PyObject *there = PyWeakref_GetObject(reference);
    *object = there == Py_None ? NULL : Py_XNewRef(there);
    return there == NULL ? -1 : there != Py_None;
}

#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#define Py_BEGIN_CRITICAL_SECTION2(a, b) {
#define Py_END_CRITICAL_SECTION2() }

#endif

/* ---- what this module promises the interpreter ------------------------------------ */

#if PY_VERSION_HEX >= 0x030C0000
#define THEUS_SLOT_INTERPRETERS \
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#else
#define THEUS_SLOT_INTERPRETERS
#endif

/* Safe without the GIL: see "Free threading" in csrc/README.md. Not on 3.13: what object_try_ref() needs
 * came with 3.14. */
#if PY_VERSION_HEX >= 0x030E0000
#define THEUS_SLOT_GIL {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#elif PY_VERSION_HEX >= 0x030D0000
#define THEUS_SLOT_GIL {Py_mod_gil, Py_MOD_GIL_USED},
#else
#define THEUS_SLOT_GIL
#endif

/* ---- interpreters with a GIL of their own ------------------------------------------- */

/* From 3.13 on: 3.12 has them, and corrupts memory when one of them imports an old module of the library first. */
#if PY_VERSION_HEX >= 0x030D0000
#define THEUS_HAVE_INTERPRETERS 1

/* NULL: *own is attached, in an interpreter of its own, and the caller's thread state is detached. Else what is wrong, and
 * nothing has changed. */
static inline const char *
interpreter_begin(PyThreadState **own)
{
    PyInterpreterConfig config = {
        .use_main_obmalloc = 0,
        .allow_fork = 0,
        .allow_exec = 0,
        .allow_threads = 1,
        .allow_daemon_threads = 0,
        .check_multi_interp_extensions = 1,
        .gil = PyInterpreterConfig_OWN_GIL,
    };
    PyStatus status = Py_NewInterpreterFromConfig(own, &config);
    if (!PyStatus_Exception(status)) {
        return NULL;
    }
    return status.err_msg != NULL ? status.err_msg : "no interpreter can be made";
}
#else
#define THEUS_HAVE_INTERPRETERS 0

static inline const char *
interpreter_begin(PyThreadState **own)
{
    *own = NULL;
    return "interpreters are isolated enough from Python 3.13 on";
}
#endif

/* Before 3.12 the collector runs at any allocation of an object that it tracks; since then, between two instructions. */
#define THEUS_COLLECTS_ANYWHERE (PY_VERSION_HEX < 0x030C0000)

/* Tricks that are safe only because one thread runs at a time: free lists of the module, reuse of
 * an object that nobody else refers to. */
#ifdef Py_GIL_DISABLED
#define THEUS_HAVE_GIL 0
#else
#define THEUS_HAVE_GIL 1
#endif

/* A reference to an object that was found where it may stand without any: its last one may go at this moment, in
 * another thread, and its dealloc waits for a lock that the caller holds. False: there is none to be had. To be
 * allowed once, while the object is new. */
static inline void
object_allow_try_ref(PyObject *object)
{
#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX >= 0x030E0000
    PyUnstable_EnableTryIncRef(object);
#else
    (void)object;
#endif
}

static inline bool
object_try_ref(PyObject *object)
{
#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX >= 0x030E0000
    return PyUnstable_TryIncRef(object) != 0;
#else
    if (Py_REFCNT(object) == 0) { /* a callback of its weak references is what asks */
        return false;
    }
    Py_INCREF(object);
    return true;
#endif
}

/* In dealloc. Without a GIL a weak reference may be taking itself off the list at this moment, in another thread: only
 * the call waits for that. */
#ifdef Py_GIL_DISABLED
#define THEUS_CLEAR_WEAKREFS(object, list) PyObject_ClearWeakRefs(object)
#else
#define THEUS_CLEAR_WEAKREFS(object, list) \
    if ((list) != NULL) {                  \
        PyObject_ClearWeakRefs(object);    \
    }
#endif

/* ---- small things that every file wants --------------------------------------------- */

#define THEUS_FASTCALL(function) ((PyCFunction)(void (*)(void))(function))

/* Py_EnterRecursiveCall for functions that walk nested containers. 3.12 and 3.13 count levels
 * of C without regard to their size, up to 10000: too many for ours, so there each level counts
 * several times. Before that the limit is Python's own, after it the real stack is measured. */
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030E0000
enum { NESTING_WEIGHT = 5 };
#else
enum { NESTING_WEIGHT = 1 };
#endif

static inline void
nesting_leave(void)
{
    for (int i = 0; i < NESTING_WEIGHT; i++) {
        Py_LeaveRecursiveCall();
    }
}

/* 0, or -1 with RecursionError set. `where` continues "maximum recursion depth exceeded". */
static inline int
nesting_enter(const char *where)
{
    for (int i = 0; i < NESTING_WEIGHT; i++) {
        if (Py_EnterRecursiveCall(where)) {
            while (i-- > 0) {
                Py_LeaveRecursiveCall();
            }
            return -1;
        }
    }
    return 0;
}

/* The trashcan, for the dealloc of objects whose release goes through the core: some 1.7 KB of
 * stack per level. It works by a count of levels up to 3.12 (50) and by the real stack from
 * 3.14 on, but by that same count of 10000 in 3.13. */
#if PY_VERSION_HEX >= 0x030D0000 && PY_VERSION_HEX < 0x030E0000
enum { TRASHCAN_WEIGHT = 10 };
#define THEUS_TRASHCAN_BEGIN(object, dealloc)                                        \
    Py_TRASHCAN_BEGIN(object, dealloc)                                               \
    PyThreadState_Get()->c_recursion_remaining -= TRASHCAN_WEIGHT;
#define THEUS_TRASHCAN_END                                         \
    PyThreadState_Get()->c_recursion_remaining += TRASHCAN_WEIGHT; \
    Py_TRASHCAN_END
#else
#define THEUS_TRASHCAN_BEGIN(object, dealloc) Py_TRASHCAN_BEGIN(object, dealloc)
#define THEUS_TRASHCAN_END Py_TRASHCAN_END
#endif

/* The item at `index`, a new reference; NULL without an exception at the end, wherever that is by now. */
static inline PyObject *
list_part(PyObject *list, Py_ssize_t index)
{
    if (index >= PyList_GET_SIZE(list)) {
        return NULL;
    }
    PyObject *part = PyList_GetItemRef(list, index);
    if (part == NULL) {
        PyErr_Clear(); /* IndexError: another thread has made it shorter just now */
    }
    return part;
}

/* PySequence_Fast() of something that other threads may change meanwhile. */
static inline PyObject *
sequence_parts(PyObject *sequence, const char *message)
{
    if (!THEUS_HAVE_GIL && PyList_Check(sequence)) {
        return PyList_AsTuple(sequence);
    }
    return PySequence_Fast(sequence, message);
}

/* The hash of a key. A str that was hashed before keeps its hash; reading that field saves the
 * call. (Atomic, for the thread that may be finding it out; the same instruction.) */
static inline Py_hash_t
object_hash(PyObject *object)
{
    if (PyUnicode_CheckExact(object)) {
        Py_hash_t hash = __atomic_load_n(&((PyASCIIObject *)object)->hash, __ATOMIC_RELAXED);
        if (hash != -1) {
            return hash;
        }
    }
    return PyObject_Hash(object);
}

/* What the type has under this name, or NULL: from its cache, without making an AttributeError. Borrowed; for types
 * that cannot change. */
static inline PyObject *
type_lookup(PyTypeObject *type, PyObject *name)
{
    return _PyType_Lookup(type, name);
}

/* The same for any type: a new reference. */
static inline PyObject *
type_lookup_ref(PyTypeObject *type, PyObject *name)
{
#if PY_VERSION_HEX >= 0x030D0000
    return _PyType_LookupRef(type, name);
#else
    return Py_XNewRef(_PyType_Lookup(type, name));
#endif
}

#endif
