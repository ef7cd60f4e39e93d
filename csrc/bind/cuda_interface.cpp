// Arrays in by __cuda_array_interface__, for frameworks that have no DLPack (Numba).
#include <cstring>

#include "../check.hpp"
#include "backend.hpp"
#include "numpy.hpp"
#include "refusals.hpp"

namespace fusedcam::bind {

using namespace dlpack::devices;

void Borrowed::from_cuda_interface(const char* op, const char* argument) {
    PyObject* interface = PyObject_GetAttrString(object_, "__cuda_array_interface__");
    if (!interface || !PyDict_Check(interface)) {
        Py_XDECREF(interface);
        refuse_memory(op, argument, object_, PyErr_Occurred() ? pending_error() : "no __cuda_array_interface__");
    }
    capsule_ = interface;  // kept for as long as the memory is used
    view_.device = {cuda_device, 0};
    if (!backend::serves(view_.device)) return;
    const auto item = [&](const char* key) { return PyDict_GetItemString(interface, key); };  // borrowed
    const char* type = item("typestr") ? PyUnicode_AsUTF8(item("typestr")) : nullptr;
    const auto is = [&](const char* code) { return type && !std::strcmp(type, code); };
    if (is("<f4") || is("<f8") || is("<f2") || is("|u1"))
        view_.dtype = is("<f4")   ? DType::float32
                      : is("<f8") ? DType::float64
                      : is("<f2") ? DType::float16
                                  : DType::uint8;
    else
        refuse_dtype(op, argument, type ? type : "unknown");
    if (item("mask") && item("mask") != Py_None)
        refuse_type(op, ": ", argument, " is a masked array, whose mask would be lost; pass it without one");
    PyObject *shape = item("shape"), *data = item("data"), *steps = item("strides");
    const bool whole =
        shape && PyTuple_Check(shape) && data && PyTuple_Check(data) && PyTuple_GET_SIZE(data) == 2 &&
        (!steps || steps == Py_None || (PyTuple_Check(steps) && PyTuple_GET_SIZE(steps) == PyTuple_GET_SIZE(shape)));
    if (!whole || PyTuple_GET_SIZE(shape) > max_rank)
        refuse_memory(op, argument, object_, "its __cuda_array_interface__ has no usable shape, data or strides");
    view_.data = static_cast<std::byte*>(PyLong_AsVoidPtr(PyTuple_GET_ITEM(data, 0)));
    view_.readonly = PyObject_IsTrue(PyTuple_GET_ITEM(data, 1));
    const int rank = static_cast<int>(PyTuple_GET_SIZE(shape));
    Py_ssize_t extents[max_rank], bytes[max_rank], dense = item_size(view_.dtype);
    for (int axis = rank - 1; axis >= 0; --axis) {
        extents[axis] = PyLong_AsSsize_t(PyTuple_GET_ITEM(shape, axis));
        bytes[axis] = steps && steps != Py_None ? PyLong_AsSsize_t(PyTuple_GET_ITEM(steps, axis)) : dense;
        dense *= extents[axis];
    }
    if (PyErr_Occurred()) refuse_memory(op, argument, object_, pending_error());
    for (int axis = 0; axis < rank; ++axis)
        if (extents[axis] < 0)
            refuse_memory(op, argument, object_, "its __cuda_array_interface__ has a negative extent");
    if (!set_axes(view_, rank, extents, bytes))
        refuse_value(op, ": ", argument, " is not aligned to its item size; pass a contiguous copy");
    if (view_.shape.count() == 0) return;
    if (!view_.data) refuse_memory(op, argument, object_, "it has a shape but no memory");
    view_.device.index = backend::device_of_memory(view_.data);
    // The stream of work on the memory that may not be done yet.
    PyObject* stream = item("stream");
    if (!stream || stream == Py_None) return;
    void* producer = PyLong_AsVoidPtr(stream);
    if (PyErr_Occurred() || !producer)
        refuse_memory(op, argument, object_, "its __cuda_array_interface__ names no usable stream");
    backend::follow(*this, producer);
}

}  // namespace fusedcam::bind
