/* Elements of arrays: their formats by every name that is in use, and items as Python numbers. */
#ifndef THEUS_ARRAY_FORMAT_H
#define THEUS_ARRAY_FORMAT_H

#include "pyapi.h"

#include "../core/dtype.h"

typedef struct {
    const char *format;   /* as buffers say it (PEP 3118) */
    const char *name;     /* as people say it: "float64" */
    const char *kind;     /* as array interfaces say it, without the byte order: "f8" */
    char code;            /* NumPy's letter */
    uint8_t size;         /* bytes */
    theus_dtype dtype;    /* for the kernels; THEUS_NO_DTYPE: they have none */
} array_format;

/* The format of this name: "d", "Zd", "<f8", "float64". NULL if we have none of the kind: no exception is set. */
const array_format *array_format_find(const char *name);

/* The number at `data`, which need not be aligned. */
PyObject *array_item_load(const array_format *format, const char *data);

/* Writes a number there: TypeError for what is none of the kind, OverflowError for what does not fit. */
int array_item_store(const array_format *format, char *data, PyObject *number);

#endif
