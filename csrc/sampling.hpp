// Where a resampled pixel comes from, the one linear interpolation, and the normalisation of a map by its extremes.
// Shared by host and device: whatever reads a map's extremes must see the very bits that are written.
#pragma once

#include <cstdint>
#include <limits>

#include "dtype.hpp"

namespace fusedcam {

enum class Normalize : uint8_t { none, minmax, max };

// Which extremes a map is normalised by, and what is added to what its values are divided by: nothing, or a peer's eps.
struct Normalization {
    Normalize by = Normalize::none;
    double eps = 0;

    FUSEDCAM_HD Normalization(Normalize by = Normalize::none, double eps = 0) : by(by), eps(eps) {}
    FUSEDCAM_HD bool any() const { return by != Normalize::none; }
};

// One output coordinate as two input coordinates and the weight of the second.
template <class T>
struct Tap {
    int32_t low, high;
    T weight;
};

// The tap of an axis that is not resampled.
template <class T>
FUSEDCAM_HD Tap<T> still(int64_t x) {
    return {static_cast<int32_t>(x), static_cast<int32_t>(x), T(0)};
}

// Up to this extent the coordinates' products stay in 32 bits, which divide several times faster. Twice it is exact in
// float32, whose own division then gives the bits of the one in float64 rounded.
constexpr int64_t short_extent = int64_t{1} << 15;

// Half-pixel centres, edges clamped (align_corners=False): the source of x is ((2x + 1) in - out) / (2 out), exact in
// integers. A weight of zero names the same input twice, so that a neighbour's infinity is never multiplied by it.
template <class T>
FUSEDCAM_HD Tap<T> tap(int64_t x, int64_t in, int64_t out) {
    const int64_t numerator = (2 * x + 1) * in - out, denominator = 2 * out;
    const int32_t last = static_cast<int32_t>(in - 1);
    if (numerator <= 0) return {0, 0, T(0)};
    if (in < short_extent && out < short_extent) {
        const uint32_t over = static_cast<uint32_t>(numerator), under = static_cast<uint32_t>(denominator);
        const int32_t low = static_cast<int32_t>(over / under);
        const uint32_t rest = over - static_cast<uint32_t>(low) * under;
        if (low >= last) return {last, last, T(0)};
        if (rest == 0) return {low, low, T(0)};
        return {low, low + 1, static_cast<T>(rest) / static_cast<T>(under)};
    }
    const int32_t low = static_cast<int32_t>(numerator / denominator);
    const int64_t rest = numerator - low * denominator;
    if (low >= last) return {last, last, T(0)};
    if (rest == 0) return {low, low, T(0)};
    return {low, low + 1, static_cast<T>(static_cast<double>(rest) / static_cast<double>(denominator))};
}

// Output indices between which resampling is monotone: where the first input coordinate changes. A map's extremes are
// among the samples at these. Some may come twice.
FUSEDCAM_HD int64_t edge_count(int64_t in, int64_t out) { return out <= 2 * in ? out : 2 * in; }
FUSEDCAM_HD int64_t edge(int64_t i, int64_t in, int64_t out) {
    if (out <= 2 * in) return i;
    // Cell c begins at the least x with (2x + 1) in - out >= 2 c out, and ends before the next one's.
    const int64_t cell = (i + 1) / 2;
    if (cell == 0) return 0;
    if (cell == in) return out - 1;
    const int64_t numerator = (2 * cell + 1) * out - in + 2 * in - 1;
    const int64_t begin = in < short_extent && out < short_extent
                              ? static_cast<int64_t>(static_cast<uint32_t>(numerator) / static_cast<uint32_t>(2 * in))
                              : numerator / (2 * in);
    return i % 2 == 1 ? begin - 1 : begin;
}

// Output indices from `first` to before `end`, among which are all whose taps name input x.
struct Reach {
    int64_t first, end;
};
FUSEDCAM_HD Reach reach(int64_t x, int64_t in, int64_t out) {
    if (in == out) return {x, x + 1};
    // Their sources lie between x - 1 and x + 1, or beyond the map's edge.
    const int64_t below = (2 * x - 1) * out - in, above = (2 * x + 3) * out + in - 1;
    const int64_t end = above / (2 * in);
    return {x == 0 || below <= 0 ? 0 : below / (2 * in), x + 1 == in || end > out ? out : end};
}

// a + w (b - a): monotone in w and exact where a == b, which (1 - w) a + w b is not.
template <class T>
FUSEDCAM_HD T lerp(T a, T b, T weight) {
    const T between = a + weight * (b - a);
    return weight == T(0) ? a : between;
}

// Extremes that keep a NaN once they have seen one; minimum and maximum instructions would drop it.
template <class T>
struct Extremes {
    T low = std::numeric_limits<T>::infinity(), high = -std::numeric_limits<T>::infinity();

    FUSEDCAM_HD void add(T value) {
        low = (value < low || value != value) ? value : low;
        high = (value > high || value != value) ? value : high;
    }
    FUSEDCAM_HD void add(const Extremes& other) {
        low = (other.low < low || other.low != other.low) ? other.low : low;
        high = (other.high > high || other.high != other.high) ? other.high : high;
    }
};

// value -> clamp((value - offset) / divisor), or a constant for a map that has no range.
template <class T>
struct Rescale {
    bool identity = true, constant = false, divides = false;
    T fill = T(0), offset = T(0), divisor = T(1), factor = T(1), floor = -std::numeric_limits<T>::infinity();

    FUSEDCAM_HD Rescale() {}
    FUSEDCAM_HD Rescale(Normalization mode, Extremes<T> range) {
        if (!mode.any()) return;
        identity = false;
        const bool minmax = mode.by == Normalize::minmax;
        offset = minmax ? range.low : T(0);
        divisor = range.high - offset + static_cast<T>(mode.eps);
        floor = minmax ? T(0) : floor;
        if (range.low != range.low || range.high != range.high) {
            constant = true;
            fill = std::numeric_limits<T>::quiet_NaN();
        } else if (!(range.high > offset)) {
            constant = true;
        }
        // A product takes a fraction of a division's time. Its factor is the reciprocal, or the next number above where
        // divisor * factor would stay below 1: so the maximum becomes exactly 1, and no value errs by more than 1.5
        // units in its last place. Near the ends of the exponents, where there is no reciprocal, it is a division, and
        // so it is with an eps, as its peer has it.
        factor = T(1) / divisor;
        if (divisor * factor < T(1)) factor = above(factor);
        divides = mode.eps != 0 || !(divisor > T(1e-30) && divisor < T(1e30));
    }

    // Interior samples may exceed the extremes by a rounding, hence the clamp. Comparisons are written so that NaN
    // passes.
    FUSEDCAM_HD T operator()(T value) const {
        const T from_offset = value - offset;
        const T scaled = divides ? from_offset / divisor : from_offset * factor;
        const T capped = scaled > T(1) ? T(1) : scaled;
        return capped < floor ? floor : capped;
    }

  private:
    // The next number above a positive one.
    FUSEDCAM_HD static float above(float value) { return std::bit_cast<float>(std::bit_cast<uint32_t>(value) + 1); }
    FUSEDCAM_HD static double above(double value) { return std::bit_cast<double>(std::bit_cast<uint64_t>(value) + 1); }
};

// What a scalar changes by with a map's extremes, summed over its pixels, and how many of them are extreme.
struct ExtremeSlopes {
    double of_low = 0, of_high = 0, lows = 0, highs = 0;

    FUSEDCAM_HD void add(const ExtremeSlopes& other) {
        of_low += other.of_low;
        of_high += other.of_high;
        lows += other.lows;
        highs += other.highs;
    }
    // Equal extremes have equal parts, as PyTorch's amax gives them.
    FUSEDCAM_HD void share() {
        of_low = lows > 0 ? of_low / lows : 0;
        of_high = highs > 0 ? of_high / highs : 0;
    }
};

// h = (v - low) / divisor, or v / divisor; what it changes by with v, where the extremes are among the v. `range` is
// that of all values, which may exceed those that `rescale` was made from by a rounding.
template <class T>
class RescaleSlopes {
  public:
    FUSEDCAM_HD RescaleSlopes(Normalization mode, const Rescale<T>& rescale, const Extremes<T>& range)
        : rescale_(rescale), range_(range), minmax_(mode.by == Normalize::minmax) {}

    // Whether values have to be known.
    FUSEDCAM_HD bool reads() const { return !rescale_.identity && !rescale_.constant; }
    // Of maps that are read.
    FUSEDCAM_HD void add(T value, T slope, ExtremeSlopes& sums) const {
        const double h =
            (static_cast<double>(value) - static_cast<double>(rescale_.offset)) / static_cast<double>(rescale_.divisor);
        sums.of_high += static_cast<double>(slope) * h;
        sums.highs += value == range_.high;
        if (!minmax_) return;
        sums.of_low += static_cast<double>(slope) * (1 - h);
        sums.lows += value == range_.low;
    }
    // `shares` are all pixels' sums, shared.
    FUSEDCAM_HD double operator()(T value, T slope, const ExtremeSlopes& shares) const {
        if (rescale_.identity) return slope;
        if (rescale_.constant) return rescale_.fill;  // 0 for a map without range, else NaN
        double result = slope;
        if (value == range_.high) result -= shares.of_high;
        if (minmax_ && value == range_.low) result -= shares.of_low;
        return result / static_cast<double>(rescale_.divisor);
    }

  private:
    Rescale<T> rescale_;
    Extremes<T> range_;
    bool minmax_;
};

}  // namespace fusedcam
