/* Functions of the module over arrays of numbers; theus/kernels.py says what they promise. */
#ifndef THEUS_BINDING_KERNELS_H
#define THEUS_BINDING_KERNELS_H

#include "pyapi.h"

PyObject *module_kernel_elementwise(PyObject *module, PyObject *args);
PyObject *module_kernel_sum(PyObject *module, PyObject *array);
PyObject *module_kernel_dot(PyObject *module, PyObject *args);
PyObject *module_kernel_extreme(PyObject *module, PyObject *args);
PyObject *module_kernel_gather(PyObject *module, PyObject *args);

#endif
