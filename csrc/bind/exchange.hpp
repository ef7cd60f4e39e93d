// A framework's array as an ArrayView, and an ArrayView's memory as a framework's array. Nothing is copied.
#pragma once

#include <Python.h>

#include <string>

#include "../array_view.hpp"
#include "framework.hpp"

namespace fusedcam::bind {

// Thrown where an argument lies on a CUDA device, which is the other module's. No words yet: as a rule nothing is
// refused.
struct Elsewhere {
    const char* argument;
    Device device;
};

// The memory of one argument, for as long as this lives. The caller's reference keeps the object itself alive.
class Borrowed {
  public:
    Borrowed() {}  // not `= default`, by which the delegation below would clear 270 bytes first
    // Delegates, so that what take() holds already when it refuses is released by the destructor.
    Borrowed(const char* op, const char* argument, PyObject* object) : Borrowed() { take(op, argument, object); }
    ~Borrowed() { release(); }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;

    explicit operator bool() const { return object_ != nullptr; }
    const ArrayView& view() const { return view_; }
    PyObject* object() const { return object_; }
    Framework& framework() const { return *framework_; }

    void take(const char* op, const char* argument, PyObject* object);
    // Refuses an array of another framework.
    void must_match(const char* op, const char* argument, const Borrowed& first, const char* first_argument) const;

  private:
    void from_exchange(const char* op, const char* argument);
    bool from_buffer(const char* op, const char* argument);
    void from_dlpack(const char* op, const char* argument);
    void from_cuda_interface(const char* op, const char* argument);
    void from_tensor(const char* op, const char* argument, const dlpack::Tensor& tensor);
    void check_torch(const char* op, const char* argument) const;
    [[noreturn]] void refuse_no_memory(const char* op, const char* argument, const std::string& reason) const;
    [[noreturn]] void refuse_device(const char* op, const char* argument) const;
    void release() {
        if (has_buffer_) PyBuffer_Release(&buffer_);
        has_buffer_ = false;
        Py_CLEAR(capsule_);
    }

    PyObject* object_ = nullptr;
    Framework* framework_ = nullptr;
    ArrayView view_;
    Py_buffer buffer_;
    bool has_buffer_ = false;
    PyObject* capsule_ = nullptr;
};

// Memory for a result, given to the framework of `like` once it is filled. result_cpu.cpp and result_cuda.cpp have each
// module's.
class Result {
  public:
    Result(const Borrowed& like, const Shape& shape, DType dtype);
    ~Result();
    Result(const Result&) = delete;
    Result& operator=(const Result&) = delete;

    const ArrayView& view() const { return view_; }
    // The array as the framework's own object (a new reference), or null with a Python error set.
    PyObject* release();

  private:
    const Borrowed& like_;
    ArrayView view_;
    PyObject* array_ = nullptr;                  // NumPy's
    dlpack::ManagedVersioned* block_ = nullptr;  // every other framework's
};

// python/fusedcam/_frameworks.py's functions for what a framework has to be asked in Python: from_numpy(array, like) on
// the CPU; empty(like, shape, dtype), from_capsule(capsule, legacy, device, like) and stream(like) on CUDA.
void set_frameworks(PyObject* module);
// The result of the one of that name: a new reference. Throws PythonError.
PyObject* ask_frameworks(const char* function, PyObject* const* arguments, size_t count);

}  // namespace fusedcam::bind
