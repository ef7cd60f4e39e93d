// ArrayView: where an array lies and how it is laid out. Owns nothing; the only array type below the binding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <utility>

#include "dtype.hpp"

namespace fusedcam {

constexpr int max_rank = 8;

// DLPack's device type and index; 1 is the CPU, 2 is CUDA.
struct Device {
    int32_t type = 1;
    int32_t index = 0;
    bool operator==(const Device&) const = default;
};

// Of extents and strides only the first `rank` are set: clearing the others would show in the time of a small call.
struct Shape {
    int rank = 0;
    int64_t extent[max_rank];

    int64_t operator[](int axis) const { return extent[axis < 0 ? rank + axis : axis]; }
    void append(int64_t value) { extent[rank++] = value; }
    int64_t count() const {
        int64_t product = 1;
        for (int axis = 0; axis < rank; ++axis) product *= extent[axis];
        return product;
    }
    bool operator==(const Shape& other) const {
        if (rank != other.rank) return false;
        for (int axis = 0; axis < rank; ++axis)
            if (extent[axis] != other.extent[axis]) return false;
        return true;
    }
};

struct ArrayView {
    std::byte* data = nullptr;
    Shape shape;
    int64_t strides[max_rank];  // in elements
    DType dtype = DType::float32;
    Device device;
    bool readonly = false;

    int64_t extent(int axis) const { return shape[axis]; }
    int64_t stride(int axis) const { return strides[axis < 0 ? shape.rank + axis : axis]; }

    // The element at `offset` elements from the start.
    template <class Element>
    FUSEDCAM_HD Element* at(int64_t offset = 0) const {
        return reinterpret_cast<Element*>(data) + offset;
    }

    // Where the sub-array of the last `inner` axes at one row-major index into the axes before them begins, in
    // elements.
    FUSEDCAM_HD int64_t offset(int64_t index, int inner) const {
        int64_t sum = 0;
        for (int axis = shape.rank - inner - 1; index > 0; --axis) {
            sum += index % shape.extent[axis] * strides[axis];
            index /= shape.extent[axis];
        }
        return sum;
    }

    // That sub-array.
    ArrayView sub(int64_t index, int inner) const {
        const int leading = shape.rank - inner;
        ArrayView view;
        view.data = data + offset(index, inner) * item_size(dtype);
        view.dtype = dtype;
        view.device = device;
        view.readonly = readonly;
        view.shape.rank = inner;
        for (int axis = 0; axis < inner; ++axis) {
            view.shape.extent[axis] = shape.extent[leading + axis];
            view.strides[axis] = strides[leading + axis];
        }
        return view;
    }

    // How many such sub-arrays there are.
    int64_t count_sub(int inner) const {
        int64_t product = 1;
        for (int axis = 0; axis + inner < shape.rank; ++axis) product *= shape.extent[axis];
        return product;
    }

    void insert_axis(int position, int64_t extent, int64_t stride) {
        for (int axis = shape.rank; axis > position; --axis) {
            shape.extent[axis] = shape.extent[axis - 1];
            strides[axis] = strides[axis - 1];
        }
        shape.extent[position] = extent;
        strides[position] = stride;
        shape.rank += 1;
    }

    void remove_axis(int position) {
        for (int axis = position; axis + 1 < shape.rank; ++axis) {
            shape.extent[axis] = shape.extent[axis + 1];
            strides[axis] = strides[axis + 1];
        }
        shape.rank -= 1;
    }

    void move_axis(int from, int to) {
        const int64_t extent = shape.extent[from], stride = strides[from];
        remove_axis(from);
        insert_axis(to, extent, stride);
    }

    // First and one past the last byte that elements occupy; equal for an empty array.
    std::pair<const std::byte*, const std::byte*> bytes() const {
        const std::byte *low = data, *high = data;
        if (shape.count() == 0) return {low, high};
        for (int axis = 0; axis < shape.rank; ++axis) {
            const int64_t reach = (shape.extent[axis] - 1) * strides[axis] * item_size(dtype);
            (reach < 0 ? low : high) += reach;
        }
        return {low, high + item_size(dtype)};
    }
};

inline ArrayView dense_view(void* data, const Shape& shape, DType dtype, Device device = {}) {
    ArrayView view;
    view.data = static_cast<std::byte*>(data);
    view.shape = shape;
    view.dtype = dtype;
    view.device = device;
    int64_t stride = 1;
    for (int axis = shape.rank - 1; axis >= 0; --axis) {
        view.strides[axis] = stride;
        stride *= shape.extent[axis];
    }
    return view;
}

}  // namespace fusedcam
