// The public functions in C's fast calling convention, and `address` for the tests; ready to be added to a module.
#pragma once

#include <Python.h>

namespace fusedcam::bind {

// Ends with an empty entry, as PyModule_AddFunctions wants it.
extern PyMethodDef entries[];

// Of cam.cpp; the other ops' are entries.cpp's own.
PyObject* cam(PyObject* module, PyObject* const* values, Py_ssize_t positional, PyObject* keywords);

// The function that finds the other module's op by its name, for arrays elsewhere; it returns the op, or in words why
// there is none.
void set_other_module(PyObject* function);

}  // namespace fusedcam::bind
