/* Values as bytes: what travels between a pool and its workers, and what can be stored.
 *
 *     C5 01                                        mark of the format, version
 *     tag [size or number] [content] ...           one value; containers hold values
 *
 * Sizes and numbers are little-endian groups of seven bits, the last one without its high bit. The commonest values
 * are one byte and their content: 40..7f are the ints 0..63, 80..ff are texts of up to 127 bytes of UTF-8.
 *
 * What the tags below do not cover goes through a callable of the caller, which gives (code, value): EXTENDED, the
 * code, and that value. So this file knows shapes, and theus/pools/codec.py knows classes: which of those are
 * accepted, and whether pickle is among them, is for the caller to say.
 *
 * Keys of dicts come again and again in a list of dicts. A text as a key is written once per call: KEY gives it the
 * next number, KEY_AGAIN is that number. There is no other sharing: a value is a tree. One that contains itself ends
 * at the limit of nesting, with RecursionError.
 *
 * Out of band: with a list for them, bytes, bytearrays and memoryviews of at least `large` bytes are put there
 * instead, and BUFFER holds their number.
 *
 * The decoder believes nothing. Every size is compared with what is left before anything is allocated (a part takes
 * at least one byte), nesting is bounded, and what is wrong is a CodecError that names the offset. It runs no code
 * but the caller's callable, hashing and comparing of keys. */
#ifndef THEUS_CODEC_H
#define THEUS_CODEC_H

#include "module_state.h"

enum { CODEC_MARK = 0xC5, CODEC_VERSION = 1 };

typedef enum {
    CODEC_NONE = 0x00,
    CODEC_FALSE = 0x01,
    CODEC_TRUE = 0x02,
    CODEC_INT = 0x03,        /* number: 0, -1, 1, -2 ... as 0, 1, 2, 3 */
    CODEC_BIG_INT = 0x04,    /* size, two's complement, little-endian */
    CODEC_FLOAT = 0x05,      /* eight bytes, little-endian */
    CODEC_COMPLEX = 0x06,    /* twice that */
    CODEC_STR = 0x07,        /* size, UTF-8 in which surrogates stand as they are */
    CODEC_BYTES = 0x08,      /* size, content */
    CODEC_BYTEARRAY = 0x09,
    CODEC_MEMORYVIEW = 0x0a, /* its bytes; comes back over a bytearray */
    CODEC_TUPLE = 0x0b,      /* count, parts */
    CODEC_LIST = 0x0c,
    CODEC_SET = 0x0d,
    CODEC_FROZENSET = 0x0e,
    CODEC_DICT = 0x0f,       /* count, then key and value by turns */
    CODEC_FROZEN_DICT = 0x10, /* a dict, list or set follows: these are frozen afterwards */
    CODEC_FROZEN_LIST = 0x11,
    CODEC_FROZEN_SET = 0x12,
    CODEC_KEY = 0x13,        /* as STR */
    CODEC_KEY_AGAIN = 0x14,  /* number */
    CODEC_EXTENDED = 0x15,   /* number, one value */
    CODEC_BUFFER = 0x16,     /* BYTES, BYTEARRAY or MEMORYVIEW, number */
    CODEC_SMALL_INT = 0x40,
    CODEC_SHORT_STR = 0x80,
} codec_tag;

enum {
    CODEC_DEPTH = 1000,   /* levels of nesting: what a state holds, too */
    CODEC_KEYS = 1 << 16, /* keys that get a number */
};

/* What a value is written with; all borrowed. */
typedef struct {
    PyObject *extend;  /* None: nothing is extended */
    PyObject *buffers; /* a list, or NULL */
    Py_ssize_t large;
} codec_way;

/* (extend, buffers, large) as encode() has them, some of which are not given: -1 with an exception set. */
int codec_way_from(codec_way *way, PyObject *const *args, Py_ssize_t count);

/* Bytes: `before` zeroes (64 at most) for the caller to fill, then the value. */
PyObject *codec_write(module_state *st, PyObject *value, const codec_way *way, size_t before);

/* `extend` may be None, `buffers` (a tuple) NULL; both borrowed. `data` stays for as long as this takes. */
PyObject *codec_read(module_state *st, const void *data, size_t size, PyObject *extend, PyObject *buffers);

/* _theus.encode and _theus.decode */
PyObject *module_encode(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *module_decode(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
