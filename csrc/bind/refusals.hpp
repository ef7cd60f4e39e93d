// Refusals of an array's memory, in Python's words where Python has some.
#pragma once

#include <Python.h>

#include <string>

namespace fusedcam::bind {

inline const char* type_name(PyObject* object) { return Py_TYPE(object)->tp_name; }

// The text of the pending Python error, shortened to its first line; the error is cleared.
std::string pending_error();

// In words: what cannot be read.
std::string no_memory(const char* op, const char* argument, PyObject* object, const std::string& reason);
[[noreturn]] void refuse_memory(const char* op, const char* argument, PyObject* object, const std::string& reason);

}  // namespace fusedcam::bind
