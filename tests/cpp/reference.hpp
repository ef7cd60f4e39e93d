// Arrays of known memory around them, and Grad-CAM in float64 by its formula.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "array_view.hpp"
#include "check.hpp"
#include "ops.hpp"

namespace test {

using fusedcam::ArrayView;
using fusedcam::DType;
using fusedcam::Shape;

inline Shape shape_of(std::initializer_list<int64_t> extents) {
    Shape shape;
    for (const int64_t extent : extents) shape.append(extent);
    return shape;
}

// An array in memory of exactly its size, so that the sanitizers see every step beyond it. Axes may be laid out in any
// order and run backwards.
class Array {
  public:
    Array(const Shape& shape, DType dtype, bool scrambled = false) : memory_(bytes(shape, dtype)) {
        view_ = fusedcam::dense_view(memory_.data(), shape, dtype);
        if (!scrambled) return;
        std::vector<int> order(static_cast<size_t>(shape.rank));
        for (int axis = 0; axis < shape.rank; ++axis) order[static_cast<size_t>(axis)] = axis;
        std::shuffle(order.begin(), order.end(), random());
        int64_t stride = 1;
        for (const int axis : order) {
            const bool backwards = integer(0, 3) == 0 && shape.extent[axis] > 0;
            view_.strides[axis] = backwards ? -stride : stride;
            if (backwards) view_.data += (shape.extent[axis] - 1) * stride * fusedcam::item_size(dtype);
            stride *= shape.extent[axis];
        }
    }

    const ArrayView& view() const { return view_; }

    std::byte* element(int64_t index) const { return view_.sub(index, 0).data; }
    double get(int64_t index) const {
        double value = 0;
        fusedcam::visit_dtype(view_.dtype, [&](auto type) {
            std::memcpy(&type, element(index), sizeof(type));
            value = fusedcam::widen(type);
        });
        return value;
    }
    // Rounds to the array's dtype; half types are cut off instead, which is as good here.
    void set(int64_t index, double value) {
        const float single = static_cast<float>(value);
        uint32_t bits;
        std::memcpy(&bits, &single, 4);
        const auto put = [&](auto stored) { std::memcpy(element(index), &stored, sizeof(stored)); };
        switch (view_.dtype) {
            case DType::float32: return put(single);
            case DType::float64: return put(value);
            case DType::bfloat16: return put(static_cast<uint16_t>(bits >> 16));
            case DType::float16: {
                const int exponent = static_cast<int>(bits >> 23 & 0xff) - 112;
                const uint32_t magnitude = exponent <= 0    ? 0
                                           : exponent >= 31 ? 0x7c00
                                                            : exponent << 10 | (bits >> 13 & 0x3ff);
                return put(static_cast<uint16_t>((bits >> 16 & 0x8000) | magnitude));
            }
            case DType::uint8: return put(static_cast<uint8_t>(value));
        }
    }
    void fill_normal() {
        for (int64_t i = 0; i < view_.shape.count(); ++i) set(i, normal());
    }
    void fill(double value) {
        for (int64_t i = 0; i < view_.shape.count(); ++i) set(i, value);
    }

  private:
    static size_t bytes(const Shape& shape, DType dtype) {
        return static_cast<size_t>(shape.count() * fusedcam::item_size(dtype));
    }
    std::vector<std::byte> memory_;
    ArrayView view_;
};

using Map = std::vector<double>;

inline double sample(const Map& map, int64_t height, int64_t width, double y, double x) {
    y = std::clamp(y, 0.0, static_cast<double>(height - 1));
    x = std::clamp(x, 0.0, static_cast<double>(width - 1));
    const int64_t y0 = static_cast<int64_t>(y), x0 = static_cast<int64_t>(x);
    const int64_t y1 = std::min(y0 + 1, height - 1), x1 = std::min(x0 + 1, width - 1);
    const double wy = y - static_cast<double>(y0), wx = x - static_cast<double>(x0);
    const auto at = [&](int64_t row, int64_t column) { return map[static_cast<size_t>(row * width + column)]; };
    const double top = at(y0, x0) + wx * (at(y0, x1) - at(y0, x0));
    const double bottom = at(y1, x0) + wx * (at(y1, x1) - at(y1, x0));
    return top + wy * (bottom - top);
}

inline Map resized(const Map& map, int64_t height, int64_t width, fusedcam::Size to) {
    Map result;
    for (int64_t y = 0; y < to.height; ++y)
        for (int64_t x = 0; x < to.width; ++x)
            result.push_back(sample(
                map, height, width,
                (static_cast<double>(y) + 0.5) * static_cast<double>(height) / static_cast<double>(to.height) - 0.5,
                (static_cast<double>(x) + 0.5) * static_cast<double>(width) / static_cast<double>(to.width) - 0.5));
    return result;
}

}  // namespace test
