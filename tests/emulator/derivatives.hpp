// How derivatives are compared: within what rounding costs, and with finite differences.
#pragma once

#include "calls.hpp"

namespace test {

// Within `loose` times what rounding costs where values are of the size of the largest, or of what cancelled out to
// them, and half a step of the type.
inline void check_close(const Array& got, const Array& exact, double loose, const char* what, int round,
                        double cancelled = 1e-3) {
    const DType dtype = got.view().dtype;
    const double step = dtype == DType::float16 ? 0x1p-11 : dtype == DType::bfloat16 ? 0x1p-8 : 0;
    double largest = cancelled;
    for (int64_t i = 0; i < exact.view().shape.count(); ++i)
        if (std::isfinite(exact.get(i))) largest = std::max(largest, std::abs(exact.get(i)));
    for (int64_t i = 0; i < exact.view().shape.count(); ++i) {
        const double wanted = exact.get(i), value = got.get(i);
        const double allowed = loose * unit(dtype) * largest + step * std::abs(wanted) + (step > 0 ? 0x1p-24 : 0);
        CHECK(value == wanted || std::abs(value - wanted) <= allowed || (std::isnan(value) && std::isnan(wanted)),
              "%s, %s, round %d, element %d: %g, expected %g", what, name(dtype), round, int(i), value, wanted);
    }
}

// What `count` changes by with every element of `array`.
template <class Count>
Array differences(Array& array, Count&& count) {
    constexpr double step = 1e-5;
    Array found(array.view().shape, DType::float64);
    for (int64_t i = 0; i < array.view().shape.count(); ++i) {
        const double value = array.get(i);
        array.set(i, value + step);
        const double above = count();
        array.set(i, value - step);
        found.set(i, (above - count()) / (2 * step));
        array.set(i, value);
    }
    return found;
}

}  // namespace test
