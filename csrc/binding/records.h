/* Records: instances of dataclasses and Pydantic models in a heap.
 *
 *     map, marked RECORD        key              value
 *                         pos 0 st->record_key   RecordClass: the class, and what was found out about it
 *                        (pos 1 st->given_key    frozenset: Pydantic's model_fields_set)
 *                         ...   "total"          fields and other attributes of the instance, by name
 *
 * So a record is a map like any other to the core: versions, conflicts by field, diff and drafts need nothing new. The hidden
 * entries come first and are never removed, so their positions stand. Their keys are private objects which no path can
 * name; whoever walks the entries of a map by himself leaves out keys that are no str when the map is a record. A mark on
 * the container, next to its kind, tells in one load whether a map is a record.
 *
 * What Python sees is a Record (view) or a DraftRecord. Each class gets two types of its own, made here: so that they can
 * have exactly the special methods which the class has, and the interpreter finds `len`, `+`, `with`, == where it looks
 * for them. `__class__` says the user's class: isinstance(), super() and match follow it. An attribute is looked
 * for among the entries, then in the class, with descriptors bound to the view; so methods and properties
 * run on the view as they are.
 *
 * What is special to dataclasses or to Pydantic is said in Python, by a plan (theus/records.py): which attributes an instance
 * has, how to make one, how the class validates. A written record is shown to its class at commit (record_admit), on the
 * content that would be published, without a lock, and again if others have committed meanwhile: so it holds however
 * transactions meet, and two that write different fields still do not conflict. */
#ifndef THEUS_RECORDS_H
#define THEUS_RECORDS_H

#include "draft.h"

/* theus_container.mark of a record; with THEUS_MARK_ADMIT if its class validates. */
enum { MARK_RECORD = 2 };

/* What is known of a class. Immutable; one is alive per class unless its fields were changed. */
struct RecordClass {
    PyObject_HEAD
    PyTypeObject *cls;        /* the user's class */
    PyTypeObject *view_type;  /* theus Record for it */
    PyTypeObject *draft_type;
    PyObject *plan;           /* theus.records.Plan */
    PyObject *fields;         /* frozenset: names that are assigned without asking the class */
    PyObject *on_object;      /* frozenset: methods that run on to_object() */
    PyObject *getattr;        /* the class's own __getattr__, or None */
    PyObject *layout;         /* what describes its fields; another object there: the class has changed */
    bool validates;
    bool counts_given;        /* Pydantic: has the entry of st->given_key */
    PyObject *weakrefs;
};

static inline bool
record_is(const theus_container *node)
{
    return (node->mark & MARK_RECORD) != 0;
}

/* The class of a record. Borrowed. NULL once the collector has cleared its heap. */
RecordClass *record_class_of(const module_state *st, const theus_container *node);

/* ---- record_class.c ------------------------------------------------------------------- */

/* What to do with an instance of `type`: 1 and *record (new reference); 0 if it is no class of records; -1 with an
 * exception set. A class of records that cannot be taken: 0, and *advice (new reference) says why. */
int record_class_find(module_state *st, PyTypeObject *type, RecordClass **record, PyObject **advice);

/* The record of an instance, sealed; the caller owns it. */
int record_freeze(HeapObject *heap, RecordClass *record, PyObject *object, const freeze_path *at, theus_value *out);

/* The instance that a record stands for, independent at any depth. New reference. */
PyObject *record_thaw(HeapObject *heap, const theus_container *node);

/* Are both records of one class? Such are compared field by field. */
bool record_classes_equal(const module_state *st, const theus_container *a, const theus_container *b);

/* A theus_admit_fn: validates, and gives what the class makes of the content. */
int record_admit(void *ctx, theus_cell *cell, theus_container *made, theus_container **out);

/* tp_new of views and drafts: `type(view)(...)`, as methods write it, makes an instance of the class. */
PyObject *record_new(PyTypeObject *type, PyObject *args, PyObject *kwargs);

/* ---- attributes by way of the class, for views and drafts (record_class.c) -------------- */

/* __x: what the interpreter and libraries ask for, and the type of views answers before the record does. */
static inline bool
record_name_is_special(PyObject *name)
{
    return PyUnicode_GET_LENGTH(name) > 4 && PyUnicode_READ_CHAR(name, 0) == '_'
           && PyUnicode_READ_CHAR(name, 1) == '_';
}

/* Has the type of views or drafts itself this attribute: __class__, __reduce_ex__, to_object ...? 1, 0, -1. */
int record_type_answers(PyObject *self, PyObject *name);

/* What to_object() gives for a view or draft. New reference. */
PyObject *record_to_object(PyObject *self);
PyObject *record_method_to_object(PyObject *self, PyObject *ignored);
PyObject *record_method_reduce(PyObject *self, PyObject *protocol); /* pickles as the instance */

/* What the class has under `name`, bound to `self`: methods, properties. New reference; AttributeError. */
PyObject *record_class_getattr(RecordClass *record, PyObject *self, PyObject *name);

/* Pydantic's model_fields_set as a frozenset, or None for other classes. Borrowed. */
PyObject *record_given(const RecordClass *record, const theus_container *node);

/* {name: value} of the entries of a record in order: as views, or thawed. New reference. */
PyObject *record_values(HeapObject *heap, const theus_container *node, bool thawed);

/* __dict__, __pydantic_extra__ and the like; `values` is stolen and may be NULL. New reference. */
PyObject *record_part(RecordClass *record, const char *name, PyObject *values, PyObject *given);

/* __dir__: names of the class and of the entries. `values` as above. */
PyObject *record_dir(const RecordClass *record, PyObject *values);

/* ---- types ------------------------------------------------------------------------------ */

/* record_view.c, record_draft.c: the type for one class, without the class's special methods. New reference. */
PyTypeObject *record_view_type_new(PyObject *module);
PyTypeObject *record_draft_type_new(PyObject *module);

/* record_draft.c: draft_map_store() where the map is a record: the attribute `key` is assigned, as the class allows. */
int record_draft_set(TxnObject *txn, theus_cell *cell, ScopeObject *scope, PyObject *key, PyObject *value);
/* The same for deletion, which the caller has held against the guard. */
int record_draft_delete(TxnObject *txn, theus_cell *cell, PyObject *key);
/* May an operation be deferred on this key? 0, or -1 with an exception set. */
int record_draft_may_defer(TxnObject *txn, theus_cell *cell, PyObject *key);

/* _theus.is_record, _theus.record_store, _theus.record_discard */
PyObject *module_is_record(PyObject *module, PyObject *object);
PyObject *module_record_store(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *module_record_discard(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
