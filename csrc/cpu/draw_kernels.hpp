// From a small map to output rows. Included by kernels.cpp.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace fusedcam::cpu {
namespace {

// As sampling.hpp's lerp, lane by lane.
template <class T, int bytes>
FUSEDCAM_INLINE Vector<T, bytes> lerp_lanes(const Vector<T, bytes>& a, const Vector<T, bytes>& b,
                                            const Vector<T, bytes>& weight) {
    return where_zero(weight, a, a + weight * (b - a));
}

template <class T>
void widen_row(const T* from, int64_t in, const int32_t* starts, const T* weights, T* to) {
    constexpr int L = lanes<T, widest_bytes>;
    static_assert(L <= padding);
    for (int64_t cell = 0; cell < in; ++cell) {
        const Vector<T, widest_bytes> a(from[cell]), b(from[cell + 1 < in ? cell + 1 : cell]);
        // What is written too far belongs to the next cell, which comes next.
        for (int64_t x = starts[cell]; x < starts[cell + 1]; x += L)
            store(to + x, lerp_lanes(a, b, load<T, widest_bytes>(weights + x)));
    }
}

// How a row's values are rescaled, known when it is compiled.
enum class By { nothing, factor, divisor };

// As Rescale's, lane by lane. NaN passes.
template <By by, class T, int bytes>
FUSEDCAM_INLINE Vector<T, bytes> rescaled(const Vector<T, bytes>& value, const Rescale<T>& rescale) {
    using V = Vector<T, bytes>;
    if constexpr (by == By::nothing) return value;
    const V from_offset = value - V(rescale.offset);
    const V scaled = by == By::divisor ? from_offset / V(rescale.divisor) : from_offset * V(rescale.factor);
    return greater(V(rescale.floor), lesser(V(T(1)), scaled));
}

template <By by, bool between, class T>
FUSEDCAM_INLINE void blend(const T* low, const T* high, T weight, Rescale<T> rescale, int64_t width, T* out) {
    int64_t x = 0;
    const auto vectors = [&](auto bytes) FUSEDCAM_LAMBDA {
        constexpr int L = lanes<T, bytes()>;
        for (; x + L <= width; x += L) {
            auto value = load<T, bytes()>(low + x);
            if (between) value = value + Vector<T, bytes()>(weight) * (load<T, bytes()>(high + x) - value);
            store(out + x, rescaled<by>(value, rescale));
        }
    };
    vectors(std::integral_constant<int, widest_bytes>{});
    if (widest_bytes > vector_bytes) vectors(std::integral_constant<int, vector_bytes>{});
    for (; x < width; ++x) {
        const T value = between ? lerp(low[x], high[x], weight) : low[x];
        out[x] = by == By::nothing ? value : rescale(value);
    }
}

template <By by, class T>
FUSEDCAM_INLINE void blend_any(const T* low, const T* high, T weight, const Rescale<T>& rescale, int64_t width,
                               T* out) {
    if (weight == T(0))
        blend<by, false>(low, high, weight, rescale, width, out);
    else
        blend<by, true>(low, high, weight, rescale, width, out);
}

template <class T>
void draw_row(const T* low, const T* high, T weight, const Rescale<T>& rescale, int64_t width, T* out) {
    if (rescale.identity)
        blend_any<By::nothing>(low, high, weight, rescale, width, out);
    else if (rescale.divides)
        blend_any<By::divisor>(low, high, weight, rescale, width, out);
    else
        blend_any<By::factor>(low, high, weight, rescale, width, out);
}

template <class T>
void add_extremes(const T* low, const T* high, T weight, int64_t width, Extremes<T>& range) {
    if (width < lanes<T>) {  // and without what many lanes cost at the end
        for (int64_t x = 0; x < width; ++x) range.add(lerp(low[x], high[x], weight));
        return;
    }
    Vector<T> least(range.low), most(range.high), trace(T(0));
    int64_t x = 0;
    for (; x + lanes<T> <= width; x += lanes<T>) {
        const Vector<T> a = load<T>(low + x);
        const Vector<T> value = weight == T(0) ? a : a + Vector<T>(weight) * (load<T>(high + x) - a);
        least = lesser(value, least);
        most = greater(value, most);
        trace += value - value;  // NaN once a value was, or infinite
    }
    T ends[2][lanes<T>];
    store(ends[0], least);
    store(ends[1], most);
    for (int i = 0; i < lanes<T>; ++i) {
        range.low = ends[0][i] < range.low ? ends[0][i] : range.low;
        range.high = ends[1][i] > range.high ? ends[1][i] : range.high;
    }
    int64_t again = any_nan(trace) ? 0 : x;  // one by one, where a minimum may have lost a NaN
    for (; again < width; ++again) range.add(lerp(low[again], high[again], weight));
}

template <class T>
constexpr DrawKernels<T> draw_kernels{widen_row<T>, draw_row<T>, add_extremes<T>};

}  // namespace
}  // namespace fusedcam::cpu
