/* RecordClass: what is known of one class, and how an attribute is found by way of it. */
#include "records.h"

#include "errors.h"

#include <stddef.h>

/* ---- the object ----------------------------------------------------------------------- */

static int
class_traverse(PyObject *op, visitproc visit, void *arg)
{
    RecordClass *self = (RecordClass *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->cls);
    Py_VISIT(self->view_type);
    Py_VISIT(self->draft_type);
    Py_VISIT(self->plan);
    Py_VISIT(self->fields);
    Py_VISIT(self->on_object);
    Py_VISIT(self->getattr);
    Py_VISIT(self->layout);
    return 0;
}

/* Takes the dead entry of this class out of st->record_classes; not one that was made since. */
static void
forget(RecordClass *self)
{
    PyObject *error = PyErr_GetRaisedException();
    const module_state *st = module_state_of_type(Py_TYPE(self)); /* NULL, and an exception, when the type was cleared */
    if (st == NULL || st->record_classes == NULL) {
        goto done;
    }
    PyObject *address = PyLong_FromVoidPtr(self->cls), *note = NULL, *there = NULL;
    if (address != NULL && PyDict_GetItemRef(st->record_classes, address, &note) == 1) {
        if (PyWeakref_GetRef(note, &there) == 0) {
            (void)PyDict_DelItem(st->record_classes, address);
        }
        Py_XDECREF(there);
        Py_DECREF(note);
    }
    Py_XDECREF(address);
done:
    PyErr_Clear(); /* no memory: the dead entry stays, and is replaced by the next one */
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

static void
class_dealloc(PyObject *op)
{
    RecordClass *self = (RecordClass *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    THEUS_CLEAR_WEAKREFS(op, self->weakrefs);
    forget(self);
    Py_XDECREF((PyObject *)self->view_type);
    Py_XDECREF((PyObject *)self->draft_type);
    Py_XDECREF(self->plan);
    Py_XDECREF(self->fields);
    Py_XDECREF(self->on_object);
    Py_XDECREF(self->getattr);
    Py_XDECREF(self->layout);
    Py_DECREF((PyObject *)self->cls);
    PyObject_GC_Del(op);
    Py_DECREF((PyObject *)type);
}

static PyObject *
class_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<record class of %R>", ((RecordClass *)op)->cls);
}

static PyMemberDef class_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(RecordClass, weakrefs), READONLY, NULL},
    {0},
};

static PyType_Slot class_slots[] = {
    {Py_tp_doc, "What is known of a class of records."},
    {Py_tp_traverse, class_traverse},
    {Py_tp_dealloc, class_dealloc},
    {Py_tp_repr, class_repr},
    {Py_tp_members, class_members},
    {0, NULL},
};

static PyType_Spec class_spec = {
    .name = "theus._theus.RecordClass",
    .basicsize = sizeof(RecordClass),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = class_slots,
};

int
add_record_class_type(PyObject *module, module_state *st)
{
    st->record_key = PyObject_CallNoArgs((PyObject *)&PyBaseObject_Type);
    st->given_key = PyObject_CallNoArgs((PyObject *)&PyBaseObject_Type);
    st->record_classes = PyDict_New();
    if (st->record_key == NULL || st->given_key == NULL || st->record_classes == NULL) {
        return -1;
    }
    return module_add_type(module, &class_spec, &st->RecordClass_type);
}

RecordClass *
record_class_of(const module_state *st, const theus_container *node)
{
    PyObject *first = (PyObject *)theus_value_atom(theus_container_value_at(node, 0));
    return Py_IS_TYPE(first, st->RecordClass_type) ? (RecordClass *)first : NULL;
}

bool
record_classes_equal(const module_state *st, const theus_container *a, const theus_container *b)
{
    if (!record_is(a) && !record_is(b)) {
        return true;
    }
    const RecordClass *left = record_is(a) ? record_class_of(st, a) : NULL;
    const RecordClass *right = record_is(b) ? record_class_of(st, b) : NULL;
    return left != NULL && right != NULL && left->cls == right->cls;
}

/* ---- making one ------------------------------------------------------------------------- */

/* The type of views or drafts gets the special methods of the class, as if they were its own. */
static int
dress_type(PyTypeObject *type, PyTypeObject *cls, PyObject *special)
{
    PyObject *name, *value;
    Py_ssize_t place = 0;
    while (PyDict_Next(special, &place, &name, &value)) {
        if (PyObject_SetAttr((PyObject *)type, name, value) < 0) {
            return -1;
        }
    }
    PyObject *short_name = PyType_GetName(cls), *full_name = PyType_GetQualName(cls);
    int result = -1;
    if (short_name != NULL && full_name != NULL
        && PyObject_SetAttrString((PyObject *)type, "__name__", short_name) == 0
        && PyObject_SetAttrString((PyObject *)type, "__qualname__", full_name) == 0) {
        result = PyObject_SetAttrString((PyObject *)type, "__wrapped__", (PyObject *)cls);
    }
    Py_XDECREF(short_name);
    Py_XDECREF(full_name);
    return result;
}

/* From now on nobody changes the type, as those that C makes in one go: with another __new__ or __getattribute__ it would
 * give objects that are no views. Nobody else has seen it yet. */
static void
type_freeze(PyTypeObject *type)
{
    type->tp_flags |= Py_TPFLAGS_IMMUTABLETYPE;
    PyType_Modified(type);
}

static int
make_types(RecordClass *self, const module_state *st)
{
    PyObject *special = PyObject_GetAttrString(self->plan, "special");
    if (special == NULL) {
        return -1;
    }
    int result = -1;
    self->view_type = record_view_type_new(st->module);
    self->draft_type = self->view_type == NULL ? NULL : record_draft_type_new(st->module);
    if (self->draft_type != NULL && dress_type(self->view_type, self->cls, special) == 0
        && dress_type(self->draft_type, self->cls, special) == 0) {
        type_freeze(self->view_type);
        type_freeze(self->draft_type);
        result = 0;
    }
    Py_DECREF(special);
    return result;
}

static int
read_flag(PyObject *plan, const char *name, bool *out)
{
    PyObject *value = PyObject_GetAttrString(plan, name);
    int yes = value == NULL ? -1 : PyObject_IsTrue(value);
    Py_XDECREF(value);
    *out = yes == 1;
    return yes < 0 ? -1 : 0;
}

/* Steals plan. */
static RecordClass *
class_new(module_state *st, PyTypeObject *cls, PyObject *plan)
{
    RecordClass *self = PyObject_GC_New(RecordClass, st->RecordClass_type);
    if (self == NULL) {
        Py_DECREF(plan);
        return NULL;
    }
    self->cls = (PyTypeObject *)Py_NewRef((PyObject *)cls);
    self->view_type = self->draft_type = NULL;
    self->weakrefs = NULL;
    self->plan = plan;
    self->fields = PyObject_GetAttrString(plan, "fields");
    self->on_object = self->fields == NULL ? NULL : PyObject_GetAttrString(plan, "on_object");
    self->getattr = self->on_object == NULL ? NULL : PyObject_GetAttrString(plan, "own_getattr");
    self->layout = self->getattr == NULL ? NULL : PyObject_GetAttrString(plan, "layout");
    PyObject_GC_Track(self);
    if (self->layout == NULL || read_flag(plan, "validates", &self->validates) < 0
        || read_flag(plan, "counts_given", &self->counts_given) < 0 || make_types(self, st) < 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return self;
}

/* ---- finding one ------------------------------------------------------------------------ */

/* Are the fields of the class still those that were found? 1, 0, -1. */
static int
is_current(const RecordClass *self)
{
    PyObject *layout;
    const char *name = self->counts_given ? "__pydantic_fields__" : "__dataclass_fields__";
    int found = PyObject_GetOptionalAttrString((PyObject *)self->cls, name, &layout);
    if (found == 1) {
        found = layout == self->layout;
        Py_DECREF(layout);
    }
    return found;
}

/* The one that is alive for the class at this address: 1, 0, -1. */
static int
find_known(const module_state *st, PyObject *address, RecordClass **record)
{
    PyObject *note, *there = NULL;
    int found = PyDict_GetItemRef(st->record_classes, address, &note);
    if (found <= 0) {
        return found;
    }
    found = PyWeakref_GetRef(note, &there);
    Py_DECREF(note);
    if (found == 1) {
        *record = (RecordClass *)there;
        found = is_current(*record);
        if (found != 1) {
            Py_DECREF(there);
        }
    }
    return found;
}

/* The plan, an advice, or None. New reference. */
static PyObject *
describe(PyTypeObject *cls)
{
    PyObject *records = PyImport_ImportModule("theus.records");
    PyObject *plan = records == NULL ? NULL : PyObject_CallMethod(records, "describe", "O", cls);
    Py_XDECREF(records);
    return plan;
}

int
record_class_find(module_state *st, PyTypeObject *cls, RecordClass **record, PyObject **advice)
{
    *advice = NULL;
    if ((cls->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0) {
        return 0; /* no class statement made it */
    }
    PyObject *address = PyLong_FromVoidPtr(cls);
    int found = address == NULL ? -1 : find_known(st, address, record);
    if (found == 0) {
        PyObject *plan = describe(cls);
        if (plan == NULL) {
            found = -1;
        }
        else if (plan == Py_None) {
            Py_DECREF(plan);
        }
        else if (PyUnicode_Check(plan)) {
            *advice = plan;
        }
        else {
            *record = class_new(st, cls, plan);
            PyObject *note = *record == NULL ? NULL : PyWeakref_NewRef((PyObject *)*record, NULL);
            found = note == NULL || PyDict_SetItem(st->record_classes, address, note) < 0 ? -1 : 1;
            Py_XDECREF(note);
            if (found < 0) {
                Py_XDECREF((PyObject *)*record);
            }
        }
    }
    Py_XDECREF(address);
    return found;
}

PyObject *
record_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *cls = PyObject_GetAttrString((PyObject *)type, "__wrapped__");
    PyObject *made = cls == NULL ? NULL : PyObject_Call(cls, args, kwargs);
    Py_XDECREF(cls);
    return made;
}

/* ---- attributes ------------------------------------------------------------------------- */

int
record_type_answers(PyObject *self, PyObject *name)
{
    return PyDict_Contains(Py_TYPE(self)->tp_dict, name);
}

/* A method that reads the whole instance by itself runs on one. New reference. */
static PyObject *
bind_on_object(PyObject *self, PyObject *name)
{
    PyObject *object = record_to_object(self);
    PyObject *method = object == NULL ? NULL : PyObject_GetAttr(object, name);
    Py_XDECREF(object);
    return method;
}

/* What the class has under the name, bound; NULL without an exception if it has nothing. */
static PyObject *
class_attribute(RecordClass *record, PyObject *self, PyObject *name)
{
    PyObject *attribute = type_lookup_ref(record->cls, name), *bound = NULL;
    if (attribute == NULL) {
        return NULL;
    }
    int whole = PySet_Contains(record->on_object, name);
    descrgetfunc bind = Py_TYPE(attribute)->tp_descr_get;
    if (whole == 1) {
        bound = bind_on_object(self, name);
    }
    else if (whole == 0 && bind == NULL) {
        return attribute;
    }
    else if (whole == 0 && !Py_IS_TYPE(attribute, &PyMemberDescr_Type)) { /* (an empty slot, then) */
        bound = bind(attribute, self, (PyObject *)record->cls);
    }
    Py_DECREF(attribute);
    return bound;
}

static PyObject *
no_attribute(const RecordClass *record, PyObject *self, PyObject *name)
{
    PyObject *class_name = PyType_GetName(record->cls);
    PyObject *message =
        class_name == NULL ? NULL : PyUnicode_FromFormat("%R object has no attribute %R", class_name, name);
    PyObject *args = message == NULL ? NULL : PyTuple_Pack(1, message);
    PyObject *kwargs = args == NULL ? NULL : Py_BuildValue("{sOsO}", "name", name, "obj", self);
    PyObject *error = kwargs == NULL ? NULL : PyObject_Call(PyExc_AttributeError, args, kwargs);
    if (error != NULL) {
        PyErr_SetObject(PyExc_AttributeError, error);
    }
    Py_XDECREF(class_name);
    Py_XDECREF(message);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    Py_XDECREF(error);
    return NULL;
}

PyObject *
record_class_getattr(RecordClass *record, PyObject *self, PyObject *name)
{
    PyObject *value = class_attribute(record, self, name);
    if (value == NULL && !PyErr_Occurred()) {
        int own = record_type_answers(self, name); /* to_object(), unless the class has one of its own */
        if (own != 0) {
            return own < 0 ? NULL : PyObject_GenericGetAttr(self, name);
        }
        if (record->getattr == Py_None) {
            return no_attribute(record, self, name);
        }
    }
    if (value != NULL || record->getattr == Py_None
        || (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_AttributeError))) {
        return value;
    }
    PyErr_Clear();
    return PyObject_CallFunctionObjArgs(record->getattr, self, name, NULL);
}

PyObject *
record_part(RecordClass *record, const char *name, PyObject *values, PyObject *given)
{
    return values == NULL ? NULL : PyObject_CallMethod(record->plan, "part", "sNO", name, values, given);
}

PyObject *
record_dir(const RecordClass *record, PyObject *values)
{
    PyObject *names = values == NULL ? NULL : PyObject_Dir((PyObject *)record->cls);
    PyObject *all = names == NULL ? NULL : PySet_New(names);
    PyObject *key, *value, *list = NULL;
    Py_ssize_t place = 0;
    while (all != NULL && PyDict_Next(values, &place, &key, &value)) {
        if (PySet_Add(all, key) < 0) {
            Py_CLEAR(all);
        }
    }
    if (all != NULL) {
        list = PySequence_List(all);
    }
    Py_XDECREF(all);
    Py_XDECREF(names);
    Py_XDECREF(values);
    return list;
}
