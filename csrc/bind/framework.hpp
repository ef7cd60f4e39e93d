// What is known about an array type: whose it is and by which protocol its memory is reached. Found once a type.
#pragma once

#include <Python.h>

#include <string>

#include "dlpack.hpp"

namespace fusedcam::bind {

// A Python error is set; nothing to add.
struct PythonError {};

// Thrown where a PyTorch tensor or number stands for something that a kernel cannot compute with: it requires grad, has
// a dispatch of its own, or is traced and has no memory or value. fusedcam.torch.op has the call then; what is said
// here stands if not.
struct Traced {
    std::string words;
    bool type = false;  // a TypeError, else a ValueError
};

enum class Protocol : uint8_t { none, exchange, numpy, buffer, dlpack, cuda_interface };

struct Framework {
    PyTypeObject* type = nullptr;
    Protocol protocol = Protocol::none;
    const dlpack::ExchangeApi* api = nullptr;
    std::string package;            // "torch", "numpy", "jaxlib", ...: the package the type comes from
    bool numpy = false;             // a NumPy array, or a plain buffer, for which NumPy arrays come out
    bool torch = false;             // a torch.Tensor or a subclass
    bool plain_torch = false;       // exactly torch.Tensor or torch.nn.Parameter
    bool immutable = false;         // JAX and TensorFlow never let their arrays be written
    bool versioned = true;          // __dlpack__ takes max_version; cleared when it turns out not to
    const char* refusal = nullptr;  // why arrays of this type are not taken, if they are not
};

// The entry for the type of `object`; lives as long as the process or, once the table is full, until the next call.
Framework& framework_of(PyObject* object);

// Same framework: the same package, or both without one of their own (buffers and NumPy).
bool same_framework(const Framework& first, const Framework& second);

// torch's own say about a tensor, by its C methods.
bool torch_requires_grad(const Framework& framework, PyObject* tensor);
bool torch_grad_enabled();
bool torch_negative(const Framework& framework, PyObject* tensor);
// Tells autograd that the tensor was written to, so that a graph that has saved it refuses to use it.
void torch_note_write(PyObject* tensor);

}  // namespace fusedcam::bind
