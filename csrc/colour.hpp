// A value's colour and its blending with a pixel, for host and device alike.
#pragma once

#include "dtype.hpp"

namespace fusedcam {

// Nearest row of a 256-row colour map; what lies outside [0, 1] is clamped. value is not NaN. In float64, since in
// float32 the sum would round up what is just below a half.
template <class T>
FUSEDCAM_HD int colour_index(T value) {
    const T bounded = value > T(1) ? T(1) : (value > T(0) ? value : T(0));
    return static_cast<int>(static_cast<double>(bounded) * 255.0 + 0.5);
}

// A pixel of the image on the scale of 0 to 255; floats are meant to lie in [0, 1] and are clamped to it.
FUSEDCAM_HD double brightness(uint8_t value) { return static_cast<double>(value); }
template <class Element>
FUSEDCAM_HD double brightness(Element value) {
    const double wide = static_cast<double>(widen(value));
    return 255.0 * (wide > 1.0 ? 1.0 : (wide > 0.0 ? wide : 0.0));
}

FUSEDCAM_HD uint8_t nearest(double value) { return static_cast<uint8_t>(value + 0.5); }

}  // namespace fusedcam
