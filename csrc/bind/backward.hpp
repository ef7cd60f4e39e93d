// The ops' derivatives.
#pragma once

#include <Python.h>

namespace fusedcam::bind {

// Ends with an empty entry, as PyModule_AddFunctions wants it.
extern PyMethodDef backward_entries[];

}  // namespace fusedcam::bind
