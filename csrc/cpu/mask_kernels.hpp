// A row of an image times a row of a mask. Included by kernels.cpp.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace fusedcam::cpu {
namespace {

template <class Element>
void multiply(const WideOf<Element>* mask, const Element* image, int64_t width, Element* out) {
    for (int64_t x = 0; x < width; ++x)
        out[x] = narrow<Element>(mask[x] * static_cast<WideOf<Element>>(widen(image[x])));
}

constexpr MaskKernels mask_kernels{multiply<float>, multiply<Float16>, multiply<BFloat16>, multiply<double>};

}  // namespace
}  // namespace fusedcam::cpu
