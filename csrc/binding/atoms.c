/* Which Python objects a heap may hold by reference: those that cannot change.
 *
 * Exact types only, since a subclass may add a __dict__; except subclasses of str, bytes and
 * numbers that add nothing to the layout, and members of enums. Functions and classes pass as
 * constants, although Python lets one write to their attributes. Types of the standard library
 * and of Pydantic are looked up when an object of that name first comes by, and only in modules that are
 * loaded: judging an object imports nothing. */
#include "atoms.h"

#include <string.h>

/* ---- types of the standard library and of Pydantic ----------------------------------------------- */

typedef struct {
    const char *module, *name;
    atom_verdict verdict;
} known_type;

static const known_type known[] = {
    {"datetime", "date", ATOM_ACCEPTED},
    {"datetime", "datetime", ATOM_ACCEPTED},
    {"datetime", "time", ATOM_ACCEPTED},
    {"datetime", "timedelta", ATOM_ACCEPTED},
    {"datetime", "timezone", ATOM_ACCEPTED},
    {"zoneinfo", "ZoneInfo", ATOM_ACCEPTED},
    {"decimal", "Decimal", ATOM_ACCEPTED},
    {"fractions", "Fraction", ATOM_ACCEPTED},
    {"uuid", "UUID", ATOM_ACCEPTED},
    {"pathlib", "PurePath", ATOM_ACCEPTED},
    {"pathlib", "PurePosixPath", ATOM_ACCEPTED},
    {"pathlib", "PureWindowsPath", ATOM_ACCEPTED},
    {"pathlib", "Path", ATOM_ACCEPTED},
    {"pathlib", "PosixPath", ATOM_ACCEPTED},
    {"pathlib", "WindowsPath", ATOM_ACCEPTED},
    {"re", "Pattern", ATOM_ACCEPTED},
    {"ipaddress", "IPv4Address", ATOM_ACCEPTED},
    {"ipaddress", "IPv6Address", ATOM_ACCEPTED},
    {"ipaddress", "IPv4Network", ATOM_ACCEPTED},
    {"ipaddress", "IPv6Network", ATOM_ACCEPTED},
    {"ipaddress", "IPv4Interface", ATOM_ACCEPTED},
    {"ipaddress", "IPv6Interface", ATOM_ACCEPTED},
    /* Nothing that these offer changes them, and they hash by what they hold. */
    {"pydantic.types", "SecretStr", ATOM_ACCEPTED},
    {"pydantic.types", "SecretBytes", ATOM_ACCEPTED},
    {"pydantic.types", "ByteSize", ATOM_ACCEPTED},
    {"pydantic_core", "Url", ATOM_ACCEPTED},
    {"pydantic_core", "MultiHostUrl", ATOM_ACCEPTED},
    {"pydantic.networks", "AnyUrl", ATOM_ACCEPTED},
    {"pydantic.networks", "AnyHttpUrl", ATOM_ACCEPTED},
    {"pydantic.networks", "HttpUrl", ATOM_ACCEPTED},
    {"pydantic.networks", "AnyWebsocketUrl", ATOM_ACCEPTED},
    {"pydantic.networks", "WebsocketUrl", ATOM_ACCEPTED},
    {"pydantic.networks", "FileUrl", ATOM_ACCEPTED},
    {"pydantic.networks", "FtpUrl", ATOM_ACCEPTED},
    {"pydantic.networks", "PostgresDsn", ATOM_ACCEPTED},
    {"pydantic.networks", "CockroachDsn", ATOM_ACCEPTED},
    {"pydantic.networks", "AmqpDsn", ATOM_ACCEPTED},
    {"pydantic.networks", "RedisDsn", ATOM_ACCEPTED},
    {"pydantic.networks", "MongoDsn", ATOM_ACCEPTED},
    {"pydantic.networks", "KafkaDsn", ATOM_ACCEPTED},
    {"pydantic.networks", "NatsDsn", ATOM_ACCEPTED},
    {"pydantic.networks", "MySQLDsn", ATOM_ACCEPTED},
    {"pydantic.networks", "MariaDBDsn", ATOM_ACCEPTED},
    {"pydantic.networks", "ClickHouseDsn", ATOM_ACCEPTED},
    {"pydantic.networks", "SnowflakeDsn", ATOM_ACCEPTED},
    {"collections", "OrderedDict", ATOM_AS_DICT},
    {"collections", "defaultdict", ATOM_AS_DICT},
    {"collections", "Counter", ATOM_AS_DICT},
    {"theus.shm_array", "ShmArray", ATOM_PUBLISHED},
};

/* sys.modules[module].name, if it is there. New reference, or NULL; an exception only on
 * failure. */
static PyObject *
loaded_attribute(const char *module, const char *name)
{
    PyObject *module_name = PyUnicode_FromString(module);
    if (module_name == NULL) {
        return NULL;
    }
    PyObject *found = NULL, *loaded = PyImport_GetModule(module_name);
    Py_DECREF(module_name);
    if (loaded != NULL) {
        (void)PyObject_GetOptionalAttrString(loaded, name, &found);
        Py_DECREF(loaded);
    }
    return found;
}

static const char *
short_name(PyTypeObject *type)
{
    const char *dot = strrchr(type->tp_name, '.');
    return dot != NULL ? dot + 1 : type->tp_name;
}

static atom_verdict
judge_known_type(PyTypeObject *type)
{
    const char *name = short_name(type);
    for (size_t i = 0; i < Py_ARRAY_LENGTH(known); i++) {
        if (strcmp(known[i].name, name) != 0) {
            continue;
        }
        PyObject *candidate = loaded_attribute(known[i].module, name);
        if (candidate == NULL && PyErr_Occurred()) {
            return ATOM_FAILED;
        }
        Py_XDECREF(candidate);
        if (candidate == (PyObject *)type) {
            return known[i].verdict;
        }
    }
    return ATOM_REFUSED;
}

/* What is known of a type: Py_True (atoms), Py_False (mappings to copy as dicts), Py_Ellipsis (what
 * is published), Py_None (a metaclass of enums), borrowed from the state; NULL if nothing, or on failure. A class whose
 * metaclass has an equality of its own is never looked up: that would run its code. */
static PyObject *
known_note(const module_state *st, PyTypeObject *type)
{
    PyTypeObject *meta = Py_TYPE(type);
    if (meta->tp_hash != PyType_Type.tp_hash
        || meta->tp_richcompare != PyType_Type.tp_richcompare) {
        return NULL;
    }
    PyObject *note;
    if (PyDict_GetItemRef(st->known_types, (PyObject *)type, &note) > 0) {
        Py_DECREF(note); /* one of four immortals */
    }
    return note;
}

/* ---- families of types ---------------------------------------------------------------- */

/* A subclass of an immutable builtin that can hold nothing more than the builtin does. */
static bool
is_bare_subclass(PyTypeObject *type)
{
    PyTypeObject *const bases[] = {&PyUnicode_Type, &PyLong_Type, &PyFloat_Type, &PyBytes_Type,
                                   &PyComplex_Type};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(bases); i++) {
        if (PyType_IsSubtype(type, bases[i])) {
            return type->tp_dictoffset == 0 && type->tp_basicsize == bases[i]->tp_basicsize;
        }
    }
    return false;
}

/* 1, 0, or -1: whether sys.modules[module].name is a class and `object` an instance of it. */
static int
is_instance_of(PyObject *object, const char *module, const char *name)
{
    PyObject *class = loaded_attribute(module, name);
    if (class == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    int yes = PyType_Check(class) && PyObject_TypeCheck(object, (PyTypeObject *)class);
    Py_DECREF(class);
    return yes;
}

/* Only a class with a metaclass of its own can be an enum: most need no look-up. For the usual
 * metaclass the answer is noted, by a None where classes of atoms have a bool. */
static int
is_enum(module_state *st, PyTypeObject *type)
{
    PyObject *meta = (PyObject *)Py_TYPE(type);
    if (meta == (PyObject *)&PyType_Type) {
        return 0;
    }
    if (known_note(st, Py_TYPE(type)) == Py_None) {
        return 1;
    }
    PyObject *enum_meta = loaded_attribute("enum", "EnumMeta");
    if (enum_meta == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    int yes =
        PyType_Check(enum_meta) && PyObject_TypeCheck((PyObject *)type, (PyTypeObject *)enum_meta);
    if (meta == enum_meta && PyDict_SetItem(st->known_types, meta, Py_None) < 0) {
        yes = -1;
    }
    Py_DECREF(enum_meta);
    return yes;
}

/* NumPy's scalars are immutable, but for records, which are windows on an array. */
static int
is_numpy_scalar(PyObject *object)
{
    if (strncmp(Py_TYPE(object)->tp_name, "numpy.", 6) != 0) {
        return 0;
    }
    int scalar = is_instance_of(object, "numpy", "generic");
    if (scalar != 1) {
        return scalar;
    }
    int record = is_instance_of(object, "numpy", "void");
    return record < 0 ? -1 : !record;
}

static bool
is_constant_callable(PyObject *object)
{
    if (PyFunction_Check(object)) {
        return true;
    }
    if (!PyCFunction_CheckExact(object)) {
        return false;
    }
    PyObject *self = PyCFunction_GET_SELF(object); /* borrowed; [].append leads to a list */
    return self == NULL || PyModule_Check(self);
}

/* For types that nothing is known of; the cheap questions first. */
static atom_verdict
judge_type(module_state *st, PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    int yes = is_enum(st, type);
    if (yes == 0) {
        yes = is_bare_subclass(type);
    }
    if (yes == 0) {
        yes = is_numpy_scalar(object);
    }
    if (yes != 0) {
        return yes < 0 ? ATOM_FAILED : ATOM_ACCEPTED;
    }
    atom_verdict verdict = judge_known_type(type);
    if (verdict > ATOM_REFUSED) {
        PyObject *note = verdict == ATOM_ACCEPTED ? Py_True : verdict == ATOM_AS_DICT ? Py_False : Py_Ellipsis;
        if (PyDict_SetItem(st->known_types, (PyObject *)type, note) < 0) {
            return ATOM_FAILED;
        }
    }
    return verdict;
}

atom_verdict
atom_judge(module_state *st, PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if (type == st->Opaque_type || type == &PyComplex_Type || type == &PyRange_Type
        || object == Py_Ellipsis || object == Py_NotImplemented || PyType_Check(object)
        || is_constant_callable(object)) {
        return ATOM_ACCEPTED;
    }
    if (type == &PyDictProxy_Type || type == st->HeavyRoot_type) {
        return ATOM_AS_DICT;
    }
    if (type == st->ArrayView_type) {
        return ATOM_PUBLISHED;
    }
    PyObject *note = known_note(st, type);
    if (note != NULL) {
        return note == Py_True ? ATOM_ACCEPTED : note == Py_False ? ATOM_AS_DICT : ATOM_PUBLISHED;
    }
    if (PyErr_Occurred()) {
        return ATOM_FAILED;
    }
    return judge_type(st, object);
}

/* ---- advice ------------------------------------------------------------------------------ */

typedef struct {
    const char *attribute; /* of the type */
    const char *advice;
} type_mark;

#define OR_OPAQUE \
    ", or theus.Opaque(value) to keep the object itself and vouch that it does not change"

static const type_mark marks[] = {
    {"__attrs_attrs__", "store attrs.asdict(value)" OR_OPAQUE},
    {"get_secret_value", "what it hides may be anything; store value.get_secret_value(), or a SecretStr" OR_OPAQUE},
    {"__array_interface__", "store engine.heavy.put(key, value), value.tolist() or bytes(value)" OR_OPAQUE},
    {"__array__", "store its plain values, such as a list or bytes" OR_OPAQUE},
    {"fileno", "it is a handle on something outside; store its path, or what it holds" OR_OPAQUE},
    {"__next__", "an iterator is used up by reading; store list(value)"},
    {"__await__", "await it, and store the result"},
};

static const char *
builtin_advice(module_state *st, PyObject *object)
{
    if (object == st->DELETE || object == st->MISSING) {
        return "DELETE and MISSING are marks, not values; DELETE removes a path when it is given "
               "as the whole value for that path";
    }
    if (PyByteArray_Check(object) || PyMemoryView_Check(object)) {
        return "store bytes(value)" OR_OPAQUE;
    }
    if (PyDict_Check(object)) {
        return "store dict(value)" OR_OPAQUE;
    }
    if (PyList_Check(object)) {
        return "store list(value)" OR_OPAQUE;
    }
    if (PyTuple_Check(object)) {
        return "store tuple(value), or give the class empty __slots__";
    }
    if (PyAnySet_Check(object)) {
        return "store set(value)" OR_OPAQUE;
    }
    if (PyUnicode_Check(object)) {
        return "its class can hold attributes; store str(value), or give the class empty __slots__";
    }
    if (PyLong_Check(object)) {
        return "its class can hold attributes; store int(value), or give the class empty __slots__";
    }
    if (PyFloat_Check(object)) {
        return "its class can hold attributes; store float(value), or give the class empty "
               "__slots__";
    }
    return NULL;
}

const char *
atom_advice(module_state *st, PyObject *object)
{
    const char *advice = builtin_advice(st, object);
    PyObject *type = (PyObject *)Py_TYPE(object);
    for (size_t i = 0; advice == NULL && i < Py_ARRAY_LENGTH(marks); i++) {
        PyObject *found;
        if (PyObject_GetOptionalAttrString(type, marks[i].attribute, &found) < 0) {
            PyErr_Clear(); /* a metaclass that refuses the question: it has no such mark */
        }
        if (found != NULL) {
            Py_DECREF(found);
            advice = marks[i].advice;
        }
    }
    if (advice != NULL) {
        return advice;
    }
    if (PyObject_CheckBuffer(object)) {
        return "store bytes(value) or list(value)" OR_OPAQUE;
    }
    if (Py_TYPE(object)->tp_as_mapping != NULL && PyObject_HasAttrString(type, "keys")) {
        return "store dict(value)" OR_OPAQUE;
    }
    if (Py_TYPE(object)->tp_iter != NULL) {
        return "store list(value)" OR_OPAQUE;
    }
    return "store plain data (dict, list, str, numbers ...)" OR_OPAQUE;
}
