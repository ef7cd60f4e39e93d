// Reading of Python arguments, and the messages for those that do not fit.
#include "arguments.hpp"

#include <memory>
#include <string>

namespace fusedcam::bind {
namespace {

std::string shown(PyObject* value) {
    PyObject* words = PyObject_Repr(value);
    const char* characters = words ? PyUnicode_AsUTF8(words) : nullptr;
    std::string result = characters ? characters : "?";
    Py_XDECREF(words);
    PyErr_Clear();
    if (result.size() > 80) result = text(std::string_view(result).substr(0, whole_characters(result, 77)), "...");
    return text(result, " (", Py_TYPE(value)->tp_name, ")");
}

}  // namespace

Signature::Signature(const char* op, int positional, int required, std::initializer_list<const char*> list)
    : op(op), positional(positional), required(required) {
    for (const char* name : list) {
        names[static_cast<size_t>(count)] = name;
        interned[static_cast<size_t>(count++)] = PyUnicode_InternFromString(name);
    }
}

int Signature::find(PyObject* keyword) const {
    for (int i = 0; i < count; ++i)
        if (interned[static_cast<size_t>(i)] == keyword) return i;
    for (int i = 0; i < count; ++i)  // a keyword that was not interned
        if (PyUnicode_CompareWithASCIIString(keyword, names[static_cast<size_t>(i)]) == 0) return i;
    return -1;
}

Arguments::Arguments(const Signature& signature, PyObject* const* values, Py_ssize_t positional, PyObject* keywords)
    : signature_(signature) {
    if (positional > signature.positional)
        refuse_type(signature.op, "() takes at most ", signature.positional, " positional arguments, ", positional,
                    " were given; pass the others by name");
    for (Py_ssize_t i = 0; i < positional; ++i) values_[static_cast<size_t>(i)] = values[i];
    const Py_ssize_t named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
    for (Py_ssize_t i = 0; i < named; ++i) {
        PyObject* keyword = PyTuple_GET_ITEM(keywords, i);
        const int index = signature.find(keyword);
        if (index < 0) refuse_type(signature.op, "() got an unexpected keyword argument ", shown(keyword));
        if (values_[static_cast<size_t>(index)])
            refuse_type(signature.op, "() got ", signature.names[static_cast<size_t>(index)], " twice");
        values_[static_cast<size_t>(index)] = values[positional + i];
    }
    for (int i = 0; i < signature.required; ++i)
        if (!values_[static_cast<size_t>(i)])
            refuse_type(signature.op, "() misses the argument ", signature.names[static_cast<size_t>(i)]);
}

std::string Arguments::refusal(int index, const char* accepted) const {
    const auto at = static_cast<size_t>(index);
    return text(signature_.op, ": ", signature_.names[at], " is ", shown(values_[at]), "; accepted is ", accepted);
}

void Arguments::refuse(int index, const char* accepted, bool type) const {
    const std::string message = refusal(index, accepted);
    if (type) refuse_type(message);
    refuse_value(message);
}

bool Arguments::read_boolean(int index) const {
    PyObject* value = raw(index);
    if (value != Py_True && value != Py_False) refuse(index, "True or False", true);
    return value == Py_True;
}

int64_t Arguments::read_integer(int index) const {
    PyObject* value = raw(index);
    if (PyBool_Check(value) || !PyIndex_Check(value)) refuse(index, "an int", true);
    const Py_ssize_t number = PyNumber_AsSsize_t(value, PyExc_OverflowError);
    if (number == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        refuse(index, "a smaller int", false);
    }
    return number;
}

double Arguments::number(int index) const {
    PyObject* value = raw(index);
    const double number = PyBool_Check(value) || PyUnicode_Check(value) ? -1.0 : PyFloat_AsDouble(value);
    if (number == -1.0 && (PyErr_Occurred() || PyBool_Check(value) || PyUnicode_Check(value))) {
        PyErr_Clear();
        refuse(index, "a number", true);
    }
    return number;
}

std::string_view Arguments::read_string(int index) const {
    PyObject* value = raw(index);
    Py_ssize_t length = 0;
    const char* characters = PyUnicode_Check(value) ? PyUnicode_AsUTF8AndSize(value, &length) : nullptr;
    if (!characters) {
        PyErr_Clear();
        refuse(index, "a string", true);
    }
    return {characters, static_cast<size_t>(length)};
}

size_t Arguments::choice(int index, const std::string_view* accepted, size_t count) const {
    const std::string_view value = read_string(index);
    for (size_t i = 0; i < count; ++i)
        if (accepted[i] == value) return i;
    std::string all;
    for (size_t i = 0; i < count; ++i) all += text(i ? ", '" : "'", accepted[i], "'");
    refuse(index, all.c_str(), false);
}

Normalize Arguments::read_normalize(int index) const {
    PyObject* value = raw(index);
    if (value == Py_None) return Normalize::none;
    if (!PyUnicode_Check(value)) refuse(index, "'minmax', 'max' or None", true);
    const std::string_view name = read_string(index);
    if (name == "minmax") return Normalize::minmax;
    if (name == "max") return Normalize::max;
    refuse(index, "'minmax', 'max' or None", false);
}

int64_t Arguments::extent(int index, PyObject* value) const {
    // An extent that is traced: its number would be this run's, and what is traced would hold for no other.
    if (!PyLong_Check(value) && std::string_view(Py_TYPE(value)->tp_name) == "SymInt")
        throw Traced{refusal(index, "an int or (height, width)"), true};
    if (PyBool_Check(value) || !PyIndex_Check(value)) refuse(index, "an int or (height, width)", true);
    const Py_ssize_t number = PyNumber_AsSsize_t(value, PyExc_OverflowError);
    if (number == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        refuse(index, "an int or (height, width), each from 1 to 2**31 - 1", false);
    }
    return number;
}

std::optional<Extents> Arguments::extents(int index, const char* accepted) const {
    PyObject* value = get(index);
    if (!value) return std::nullopt;
    Extents result;
    const bool tuple = PyTuple_Check(value);
    if (!tuple && !PyList_Check(value)) {
        result.value[0] = extent(index, value);
        return result;
    }
    const Py_ssize_t count = tuple ? PyTuple_GET_SIZE(value) : PyList_GET_SIZE(value);
    if (count < 1 || count > 3) refuse(index, accepted, false);
    // An item's __index__ may change the list, so all are held first.
    const auto release = [](PyObject* item) { Py_DECREF(item); };
    std::unique_ptr<PyObject, decltype(release)> items[3];
    for (Py_ssize_t i = 0; i < count; ++i)
        items[i].reset(Py_NewRef(tuple ? PyTuple_GET_ITEM(value, i) : PyList_GET_ITEM(value, i)));
    for (Py_ssize_t i = 0; i < count; ++i) result.value[result.count++] = extent(index, items[i].get());
    return result;
}

std::optional<Size> Arguments::size(int index, int64_t spatial) const {
    const char* accepted = spatial == 1   ? "an int or (length,)"
                           : spatial == 2 ? "an int or (height, width)"
                                          : "an int or (depth, height, width)";
    const std::optional<Extents> found = extents(index, accepted);
    if (!found) return std::nullopt;
    if (found->count && found->count != spatial) refuse(index, accepted, false);
    return size_of(*found, spatial);
}

}  // namespace fusedcam::bind
