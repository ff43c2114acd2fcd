/* Mailboxes and letters as Python objects. Each interpreter has objects of its own for the same box. */
#ifndef THEUS_MAIL_TYPE_H
#define THEUS_MAIL_TYPE_H

#include "module_state.h"

#include "../core/mailbox.h"

/* An object for a box, with a reference to it of its own. */
PyObject *mailbox_object(module_state *st, theus_mailbox *box);

/* The box of an object, borrowed; NULL with TypeError set, if it is none. */
theus_mailbox *mailbox_of(const module_state *st, PyObject *object);

/* (kind, number, body, buffers) of a letter, for whose reference this answers from now on. `body` is bytes if it is small,
 * else, as each of the buffers, a writable memoryview that keeps the letter. */
PyObject *letter_content(module_state *st, theus_letter *letter);

#endif
