// See refusals.hpp.
#include "refusals.hpp"

#include <algorithm>

#include "../check.hpp"

namespace fusedcam::bind {

std::string pending_error() {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject* words = value ? PyObject_Str(value) : nullptr;
    const char* characters = words ? PyUnicode_AsUTF8(words) : nullptr;
    std::string result = characters ? characters : "no reason given";
    Py_XDECREF(words);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    PyErr_Clear();
    return result.substr(0, whole_characters(result, std::min<size_t>(result.find('\n'), 200)));
}

std::string no_memory(const char* op, const char* argument, PyObject* object, const std::string& reason) {
    return text(op, ": cannot read the memory of ", argument, ", a ", type_name(object), " (", reason,
                "); pass a dense array that holds its values");
}
void refuse_memory(const char* op, const char* argument, PyObject* object, const std::string& reason) {
    refuse_type(no_memory(op, argument, object, reason));
}

}  // namespace fusedcam::bind
