// Arrays in: DLPack's exchange API, NumPy's struct, the buffer protocol, versioned and legacy __dlpack__.
#include "exchange.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "../check.hpp"
#include "backend.hpp"
#include "numpy.hpp"
#include "refusals.hpp"

namespace fusedcam::bind {

using namespace dlpack::devices;

namespace {

PyObject* frameworks = nullptr;

DType dtype_of(const char* op, const char* argument, dlpack::DataType type) {
    if (type.lanes == 1) {
        if (type.code == dlpack::code_float && type.bits == 32) return DType::float32;
        if (type.code == dlpack::code_float && type.bits == 16) return DType::float16;
        if (type.code == dlpack::code_float && type.bits == 64) return DType::float64;
        if (type.code == dlpack::code_bfloat && type.bits == 16) return DType::bfloat16;
        if (type.code == dlpack::code_uint && type.bits == 8) return DType::uint8;
    }
    const char* kind = "an unknown type of ";
    switch (type.code) {
        case dlpack::code_int: kind = "int"; break;
        case dlpack::code_uint: kind = "uint"; break;
        case dlpack::code_float: kind = "float"; break;
        case dlpack::code_complex: kind = "complex"; break;
        case dlpack::code_bool: kind = "bool"; break;
        default: break;
    }
    const std::string lanes = type.lanes == 1 ? "" : text("x", type.lanes);
    refuse_dtype(op, argument, text(type.code == dlpack::code_bool ? "bool" : text(kind, int{type.bits}), lanes));
}

// TensorFlow's __dlpack__ ends the process for elements that are no plain memory.
void refuse_handles(const char* op, const char* argument, PyObject* tensor) {
    PyObject* dtype = PyObject_GetAttrString(tensor, "dtype");
    PyObject* name = dtype ? PyObject_GetAttrString(dtype, "name") : nullptr;
    const char* characters = name ? PyUnicode_AsUTF8(name) : nullptr;
    const std::string found = characters ? characters : pending_error();
    Py_XDECREF(name);
    Py_XDECREF(dtype);
    if (found == "string" || found == "resource" || found == "variant") refuse_dtype(op, argument, found);
}

// Pinned memory is ordinary memory to the CPU, as is that of the other CPU devices that JAX can make; managed memory is
// CUDA's.
Device device_of(int32_t type, int32_t index) {
    if (type == cpu_device || type == pinned_device) return {};
    return {type == managed_device ? cuda_device : type, index};
}

}  // namespace

void set_frameworks(PyObject* module) {
    Py_INCREF(module);
    Py_XSETREF(frameworks, module);
}

PyObject* ask_frameworks(const char* function, PyObject* const* arguments, size_t count) {
    PyObject* found = PyObject_GetAttrString(frameworks, function);
    PyObject* result = found ? PyObject_Vectorcall(found, arguments, count, nullptr) : nullptr;
    Py_XDECREF(found);
    return result;
}

void Borrowed::take(const char* op, const char* argument, PyObject* object) {
    object_ = object;
    framework_ = &framework_of(object);
    if (framework_->refusal) {
        if (framework_->torch) throw Traced{text(op, ": ", argument, " is ", framework_->refusal), true};
        refuse_type(op, ": ", argument, " is ", framework_->refusal);
    }
    switch (framework_->protocol) {
        case Protocol::numpy: return borrow_numpy(op, argument, object, view_);
        case Protocol::exchange: from_exchange(op, argument); break;
        case Protocol::buffer:
            if (!from_buffer(op, argument)) from_dlpack(op, argument);
            break;
        case Protocol::dlpack: from_dlpack(op, argument); break;
        case Protocol::cuda_interface: from_cuda_interface(op, argument); break;
        case Protocol::none:
            refuse_type(op, ": ", argument,
                        " must be an array (torch, NumPy, JAX, CuPy, TensorFlow or anything with "
                        "__dlpack__ or the buffer protocol), not ",
                        type_name(object));
    }
    if (!backend::serves(view_.device)) refuse_device(op, argument);
    if (framework_->immutable) view_.readonly = true;
    if (framework_->torch) check_torch(op, argument);
}

void Borrowed::from_exchange(const char* op, const char* argument) {
    dlpack::Tensor tensor{};
    if (framework_->api->tensor_from_object(object_, &tensor)) refuse_no_memory(op, argument, pending_error());
    from_tensor(op, argument, tensor);
}

void Borrowed::from_tensor(const char* op, const char* argument, const dlpack::Tensor& tensor) {
    if (tensor.rank > max_rank)
        refuse_value(op, ": ", argument, " has ", tensor.rank, " dimensions; accepted are at most ", max_rank);
    view_.dtype = dtype_of(op, argument, tensor.dtype);
    view_.device = device_of(tensor.device.type, tensor.device.index);
    view_.data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
    view_.shape.rank = tensor.rank;
    int64_t dense = 1;
    for (int axis = tensor.rank - 1; axis >= 0; --axis) {
        view_.shape.extent[axis] = tensor.shape[axis];
        view_.strides[axis] = tensor.strides ? tensor.strides[axis] : dense;
        dense *= tensor.shape[axis];
    }
    if (dense == 0) return;
    // Fake and meta tensors, wrapper subclasses and functional wrappers have a shape but no memory.
    if (!tensor.data) refuse_no_memory(op, argument, "it has a shape but no memory");
    if (reinterpret_cast<uintptr_t>(view_.data) % static_cast<size_t>(item_size(view_.dtype)))
        refuse_value(op, ": ", argument, " is not aligned to its item size; pass a contiguous copy");
}

bool Borrowed::from_buffer(const char* op, const char* argument) {
    if (PyObject_GetBuffer(object_, &buffer_, PyBUF_RECORDS_RO)) {
        if (framework_->numpy) refuse_memory(op, argument, object_, pending_error());  // there is no other way in
        PyErr_Clear();
        return false;
    }
    has_buffer_ = true;
    const char* format = buffer_.format ? buffer_.format : "B";
    if (*format == '>' || *format == '!')
        refuse_value(op, ": ", argument, " is not in native byte order; convert it first");
    if (*format == '=' || *format == '@' || *format == '<') ++format;
    const auto is = [&](const char* code) { return !std::strcmp(format, code); };
    if (is("f") || is("d") || is("e") || is("B")) {
        view_.dtype = is("f") ? DType::float32 : is("d") ? DType::float64 : is("e") ? DType::float16 : DType::uint8;
    } else {
        if (framework_->package != "numpy") {  // bfloat16 has no format; __dlpack__ has a code for it
            release();
            return false;
        }
        refuse_dtype(op, argument, text("'", format, "' (a buffer's format)"));
    }
    if (buffer_.ndim > max_rank)
        refuse_value(op, ": ", argument, " has ", buffer_.ndim, " dimensions; accepted are at most ", max_rank);
    view_.data = static_cast<std::byte*>(buffer_.buf);
    view_.readonly = buffer_.readonly;
    Py_ssize_t dense[max_rank];  // ctypes' arrays give no strides even when asked for them
    if (!buffer_.strides) PyBuffer_FillContiguousStrides(buffer_.ndim, buffer_.shape, dense, buffer_.itemsize, 'C');
    if (!set_axes(view_, buffer_.ndim, buffer_.shape, buffer_.strides ? buffer_.strides : dense))
        refuse_value(op, ": ", argument, " is not aligned to its item size; pass a contiguous copy");
    return true;
}

void Borrowed::from_dlpack(const char* op, const char* argument) {
    if (framework_->package == "tensorflow") refuse_handles(op, argument, object_);
    // The device first: an array elsewhere is named in the refusal, and its producer is not asked to synchronise.
    PyObject* place = PyObject_CallMethod(object_, "__dlpack_device__", nullptr);
    int type = cpu_device, index = 0;
    if (!place) {
        if (framework_->protocol == Protocol::buffer) {  // why there was no buffer says more: sharded, deleted
            PyErr_Clear();
            if (!PyObject_GetBuffer(object_, &buffer_, PyBUF_RECORDS_RO)) has_buffer_ = true;
        }
        refuse_memory(op, argument, object_, pending_error());
    }
    if (!PyTuple_Check(place) || !PyArg_ParseTuple(place, "ii", &type, &index)) {
        Py_DECREF(place);
        PyErr_Clear();
        refuse_memory(op, argument, object_, "its __dlpack_device__ does not say where it is");
    }
    Py_DECREF(place);
    view_.device = device_of(type, index);
    if (!backend::serves(view_.device)) return;
    static PyObject* const method = PyUnicode_InternFromString("__dlpack__");
    static PyObject* const both = Py_BuildValue("(ss)", "stream", "max_version");
    static PyObject* const newest = Py_BuildValue("(ii)", 1, 3);
    static PyObject* const only_stream = Py_BuildValue("(s)", "stream");
    static PyObject* const only_version = Py_BuildValue("(s)", "max_version");
    PyObject* stream = view_.device == Device{} ? nullptr : backend::dlpack_stream(*this);
    if (!stream && PyErr_Occurred()) throw PythonError{};
    PyObject* arguments[] = {object_, stream ? stream : newest, newest};
    if (framework_->versioned) capsule_ = PyObject_VectorcallMethod(method, arguments, 1, stream ? both : only_version);
    if (!capsule_ && (!framework_->versioned || PyErr_ExceptionMatches(PyExc_TypeError))) {
        PyErr_Clear();
        capsule_ = PyObject_VectorcallMethod(method, arguments, 1, stream ? only_stream : nullptr);
        // It was the keyword, not the array, unless this fails as well.
        if (capsule_) framework_->versioned = false;
    }
    Py_XDECREF(stream);
    if (!capsule_) refuse_memory(op, argument, object_, pending_error());
    if (PyCapsule_IsValid(capsule_, "dltensor_versioned")) {
        const auto* managed =
            static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(capsule_, "dltensor_versioned"));
        if (managed->version.major != 1)
            refuse_memory(op, argument, object_, text("DLPack version ", managed->version.major, "; 1 is understood"));
        from_tensor(op, argument, managed->tensor);
        view_.readonly = managed->flags & dlpack::flag_read_only;
    } else if (PyCapsule_IsValid(capsule_, "dltensor")) {
        from_tensor(op, argument, static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule_, "dltensor"))->tensor);
        view_.readonly = true;  // it cannot say, so it is not written to
    } else {
        refuse_memory(op, argument, object_, "its __dlpack__ returned no live DLPack capsule");
    }
}

void Borrowed::check_torch(const char* op, const char* argument) const {
    if (torch_requires_grad(*framework_, object_) && torch_grad_enabled())
        throw Traced{text(op, ": ", argument, " requires grad, and nothing here has a derivative; pass ", argument,
                          ".detach(), or call under torch.no_grad()")};
    if (torch_negative(*framework_, object_))
        refuse_value(op, ": ", argument, " has its negative bit set, so its memory holds the values' opposites; pass ",
                     argument, ".resolve_neg()");
}

void Borrowed::refuse_no_memory(const char* op, const char* argument, const std::string& reason) const {
    if (framework_->torch) throw Traced{no_memory(op, argument, object_, reason), true};
    refuse_memory(op, argument, object_, reason);
}

void Borrowed::refuse_device(const char* op, const char* argument) const {
    if (view_.device.type == cuda_device) throw Elsewhere{argument, view_.device};
    refuse_value(op, ": ", argument, " is on ", show(view_.device),
                 "; fusedcam has kernels for the CPU and CUDA alone; pass a copy on the CPU");
}

void Borrowed::must_match(const char* op, const char* argument, const Borrowed& first,
                          const char* first_argument) const {
    if (!same_framework(*framework_, *first.framework_))
        refuse_type(op, ": ", first_argument, " is a ", type_name(first.object_), " but ", argument, " is a ",
                    type_name(object_), "; pass both from one framework");
}

}  // namespace fusedcam::bind
