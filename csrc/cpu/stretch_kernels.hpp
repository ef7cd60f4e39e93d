// Rows of stretch.cpp, in the order of operations that pytorch-grad-cam has in NumPy. Included by kernels.cpp.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace fusedcam::cpu {
namespace {

template <class T>
void lay_row(const uint8_t* index, int64_t width, const T (*colours)[4], const T* image, T share, T* row) {
    for (int64_t x = 0; x < width; ++x) std::memcpy(row + 3 * x, colours[index[x]], 4 * sizeof(T));
    for (int64_t i = 0; i < 3 * width; ++i) row[i] = row[i] + share * image[i];
}

// Cut off, and what does not fit into a byte loses its upper bits.
template <class T>
void quantize_row(const T* row, int64_t count, T brightest, uint8_t* out) {
    for (int64_t i = 0; i < count; ++i)
        out[i] = static_cast<uint8_t>(static_cast<int32_t>(T(255) * (row[i] / brightest)));
}

template <class T>
constexpr StretchKernels<T> stretch_kernels{lay_row<T>, quantize_row<T>};

}  // namespace
}  // namespace fusedcam::cpu
