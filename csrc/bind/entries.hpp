// The public functions in C's fast calling convention, and `address` for the tests; ready to be added to a module.
#pragma once

#include <Python.h>

namespace fusedcam::bind {

// Ends with an empty entry, as PyModule_AddFunctions wants it.
extern PyMethodDef entries[];

}  // namespace fusedcam::bind
