// NumPy's C interface, as far as it is needed; numpy.cpp alone includes its headers.
#pragma once

#include <Python.h>

#include <bit>

#include "../array_view.hpp"

namespace fusedcam::bind {

// Once, when the module is loaded. False with a Python error set.
bool import_numpy();

bool is_numpy(PyTypeObject* type);

// Takes over extents and strides in bytes. False when elements are not aligned to their size.
inline bool set_axes(ArrayView& view, int rank, const Py_ssize_t* extents, const Py_ssize_t* byte_strides) {
    const int shift = std::countr_zero(static_cast<uint64_t>(item_size(view.dtype)));
    int64_t all = reinterpret_cast<intptr_t>(view.data);
    view.shape.rank = rank;
    for (int axis = 0; axis < rank; ++axis) {
        view.shape.extent[axis] = extents[axis];
        view.strides[axis] = byte_strides[axis] >> shift;
        all |= extents[axis] > 1 ? byte_strides[axis] : 0;
    }
    return !(all & (item_size(view.dtype) - 1)) || view.shape.count() == 0;
}

// Sets `view` to the memory of an array. `op` and `argument` name it in refusals.
void borrow_numpy(const char* op, const char* argument, PyObject* array, ArrayView& view);

// A new array of its own memory, to be filled; null with a Python error set. bfloat16, which is not NumPy's own, is
// that of the array `like`.
PyObject* new_numpy(const Shape& shape, DType dtype, PyObject* like, void** data);

// A new array over memory that `owner` (stolen, also on failure) keeps alive. bfloat16 as uint16, of the same bits.
PyObject* wrap_numpy(const ArrayView& view, PyObject* owner);

}  // namespace fusedcam::bind
