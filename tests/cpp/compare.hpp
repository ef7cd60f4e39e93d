// Random options and poisoned results, and the comparison with float64 within the error rule of tests/conftest.py.
#pragma once

#include <limits>

#include "reference.hpp"

namespace test {

using namespace fusedcam;

inline constexpr DType floating[] = {DType::float32, DType::float16, DType::bfloat16, DType::float64};

inline DType any_floating() { return floating[integer(0, 3)]; }
inline Size any_size() { return {integer(1, 40), integer(1, 40)}; }
inline Normalization any_normalize() {
    constexpr double eps[] = {0, 0, 1e-7, 0.25};
    return {static_cast<Normalize>(integer(0, 2)), eps[integer(0, 3)]};
}
inline double unit(DType dtype) { return dtype == DType::float64 ? 1e-6 * 0x1p-29 : 1e-6; }
// The order of axes and their direction are chosen at random; all elements are poisoned.
inline Array poisoned(const Shape& shape, DType dtype) {
    Array out(shape, dtype, true);
    out.fill(dtype == DType::uint8 ? 77 : std::numeric_limits<double>::quiet_NaN());
    return out;
}

// |got - expected| within 2d / (range - 2d) + 2^-22 once normalised by the range, d raw.
inline void compare(const Array& out, int64_t map_index, const Map& raw, Normalization normalize, double d,
                    const char* what) {
    const auto [low, high] = std::minmax_element(raw.begin(), raw.end());
    const double offset = normalize.by == Normalize::minmax ? *low : 0, range = *high - offset;
    const int64_t count = static_cast<int64_t>(raw.size());
    for (int64_t p = 0; p < count; ++p) {
        const double got = out.get(map_index * count + p);
        if (!normalize.any()) {
            CHECK(std::abs(got - raw[static_cast<size_t>(p)]) <= d, "%s: %g, expected %g", what, got,
                  raw[static_cast<size_t>(p)]);
        } else if (range <= 64 * d) {
            CHECK(got <= 1 && (normalize.by == Normalize::max || got >= 0), "%s: %g is outside [0, 1]", what, got);
        } else {
            const double expected = (raw[static_cast<size_t>(p)] - offset) / (range + normalize.eps);
            const double bound = (2 * d / (range - 2 * d)) * std::max(1.0, std::abs(expected)) + 0x1p-22;
            CHECK(std::abs(got - expected) <= bound, "%s: %g, expected %g", what, got, expected);
        }
    }
}

// Every map of a call of cam by the formula. `second` holds gradients [N, K, C, H, W] or weights [N, K, C].
inline void compare_cam(const CamCall& call, const Array& activations, const Array& second, bool by_weights,
                        const Array& out) {
    const int64_t N = call.activations.extent(0), C = call.activations.extent(1), H = call.activations.extent(3),
                  W = call.activations.extent(4), K = call.gradients.extent(1);
    const Size size = call.options.size.value_or(Size{H, W});
    for (int64_t n = 0; n < N; ++n)
        for (int64_t k = 0; k < K; ++k) {
            Map map(static_cast<size_t>(H * W)), magnitude = map;
            for (int64_t c = 0; c < C; ++c) {
                const int64_t channel = (n * K + k) * C + c, pooled = by_weights ? 1 : H * W;
                double alpha = 0, mean_size = 0;
                for (int64_t p = 0; p < pooled; ++p) {
                    const double g = second.get(channel * pooled + p);
                    alpha += g / static_cast<double>(pooled);
                    mean_size += std::abs(g) / static_cast<double>(pooled);
                }
                for (int64_t p = 0; p < H * W; ++p) {
                    const double a = activations.get((n * C + c) * H * W + p);
                    map[static_cast<size_t>(p)] += alpha * a;
                    magnitude[static_cast<size_t>(p)] += mean_size * std::abs(a);
                }
            }
            if (call.options.relu)
                for (double& value : map) value = std::max(value, 0.0);
            const double d = unit(activations.view().dtype) * *std::max_element(magnitude.begin(), magnitude.end());
            compare(out, n * K + k, resized(map, H, W, size), call.options.normalize, d, "cam");
        }
}

}  // namespace test
