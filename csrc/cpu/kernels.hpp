// The innermost loops, compiled once for every instruction set and chosen when they are first needed. Plain pointers
// only: what an instruction set's file calls must not be shared with the others' code.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>

#include "../dtype.hpp"
#include "../rules.hpp"
#include "../sampling.hpp"

namespace fusedcam::cpu {

constexpr int64_t longest_sum = 1024;  // elements that `pool` adds up: its chains are 32 long
constexpr int64_t folded_pixels = 64;  // of a map that `fold` keeps in registers
constexpr int64_t padding = 16;        // elements that may be written after a row of `widen`, and read after weights

// Channels of one map, dense rows at their steps. The gradients' moments, if a rule has several, are as many arrays.
template <class Element>
struct Channels {
    const Element* activations;
    int64_t activations_step;
    const Element* gradients;
    int64_t gradients_step, moments_step;

    Channels from(int64_t channel) const {
        Channels rest = *this;
        rest.activations += channel * activations_step;
        rest.gradients += channel * gradients_step;
        return rest;
    }
};

// Of elements of one type and sums of T, for all rules. Rows are `step` elements apart.
template <class T, class Element>
struct RowKernels {
    // sums[c] = sum of the first `length` elements of row c.
    void (*sum)(const Element* rows, int64_t step, int64_t count, int64_t length, T* sums);
    // map[p] += weights[c] * rows[c][p] for one channel after the other.
    void (*add)(const Element* rows, int64_t step, int64_t count, int64_t length, const T* weights, T* map);
};

// Of one rule.
template <class T, class Element>
struct RuleKernels {
    // sums[c] = sum of Rule::term over the first `length` pixels of channel c, whose activations sum to totals[c].
    void (*pool)(const Channels<Element>& channels, int64_t count, int64_t length, const T* totals, T eps, T* sums);
    // map[p] += Rule::product for one channel after the other.
    void (*products)(const Channels<Element>& channels, int64_t count, int64_t length, T* map);
    // All for whole channels: map[p] = the sum, with the bits that the others would give.
    void (*fold)(const Channels<Element>& channels, int64_t count, int64_t length, T eps, T* map);
};

// One channel's rows, dense, for what its scores change by.
template <class T>
struct SlopeRows {
    int64_t length;
    const T* activations;
    const T* gradients;  // moment after moment
    const T* scores;     // what a change of each pixel's score counts
    T* of_activations;   // added to
    T* of_gradients;     // as the gradients
};

template <class T, class Element>
struct SumKernels {
    RowKernels<T, Element> rows;
    RuleKernels<T, Element> rules[std::tuple_size_v<rules::All>];
};

// One function for every rule.
template <class T>
struct SlopeKernels {
    void (*rules[std::tuple_size_v<rules::All>])(const SlopeRows<T>& rows, T eps);
};

template <class T>
struct DrawKernels {
    // to[x] = lerp(from[c], from[c + 1], weights[x]) for x from starts[c] to starts[c + 1], for each of `in` cells.
    void (*widen)(const T* from, int64_t in, const int32_t* starts, const T* weights, T* to);
    // out[x] = lerp(low[x], high[x], weight), rescaled unless it is the identity.
    void (*row)(const T* low, const T* high, T weight, const Rescale<T>& rescale, int64_t width, T* out);
    // Adds the same, unscaled, to the extremes.
    void (*extremes)(const T* low, const T* high, T weight, int64_t width, Extremes<T>& range);
};

constexpr int32_t unknown_colour = 256;  // the index of NaN, past the palette's last; black

// A palette, row by row, with four columns so that one is loaded at once, and column by column.
struct Colours {
    uint8_t rows[unknown_colour + 1][4] = {};
    uint8_t planes[3][unknown_colour] = {};
};

struct PaintKernels {
    // The palette's row for each value; whether none of them is NaN.
    bool (*index32)(const float* row, int64_t width, int32_t* index);
    bool (*index64)(const double* row, int64_t width, int32_t* index);
    // out [width, 3] dense, but for the last pixel.
    void (*colour)(const int32_t* index, int64_t width, const Colours& colours, uint8_t* out);
    // The same, out = nearest(rest * image + above); above [257, 4] is the palette times the colour's share.
    void (*blend)(const int32_t* index, int64_t width, const double* above, double rest, const uint8_t* image,
                  uint8_t* out);
    // out = (share * colour + (256 - share) * image) / 256, rounded to nearest, halves up: exact, as blend is where the
    // share is a multiple of 1 / 256. `out` may be `colours`.
    void (*mix)(const uint8_t* colours, const uint8_t* image, int64_t count, int share, uint8_t* out);
};

// Rows of a picture in floats; see stretch.cpp.
template <class T>
struct StretchKernels {
    // row[3 x + c] = colours[index[x]][c] + share * image[3 x + c]; one element more of row is written.
    void (*lay)(const uint8_t* index, int64_t width, const T (*colours)[4], const T* image, T share, T* row);
    // out = 255 * (row / brightest), cut off.
    void (*quantize)(const T* row, int64_t count, T brightest, uint8_t* out);
};

// out[x] = mask[x] * image[x], rounded to the image's type.
struct MaskKernels {
    template <class Element>
    using Multiply = void (*)(const WideOf<Element>* mask, const Element* image, int64_t width, Element* out);
    Multiply<float> float32;
    Multiply<Float16> float16;
    Multiply<BFloat16> bfloat16;
    Multiply<double> float64;

    template <class Element>
    Multiply<Element> multiply() const {
        if constexpr (std::is_same_v<Element, Float16>)
            return float16;
        else if constexpr (std::is_same_v<Element, BFloat16>)
            return bfloat16;
        else if constexpr (std::is_same_v<Element, double>)
            return float64;
        else
            return float32;
    }
};

struct Kernels {
    const char* name;
    SumKernels<float, float> float32;
    SumKernels<float, Float16> float16;
    SumKernels<float, BFloat16> bfloat16;
    SumKernels<double, double> float64;
    SlopeKernels<float> slopes32;
    SlopeKernels<double> slopes64;
    DrawKernels<float> draw32;
    DrawKernels<double> draw64;
    PaintKernels paint;
    MaskKernels mask;
    StretchKernels<float> stretch32;
    StretchKernels<double> stretch64;

    template <class T, class Element>
    const SumKernels<T, Element>& sums() const {
        if constexpr (std::is_same_v<Element, Float16>)
            return float16;
        else if constexpr (std::is_same_v<Element, BFloat16>)
            return bfloat16;
        else if constexpr (std::is_same_v<Element, double>)
            return float64;
        else
            return float32;
    }
    template <class T>
    const SlopeKernels<T>& slopes() const {
        if constexpr (std::is_same_v<T, double>)
            return slopes64;
        else
            return slopes32;
    }
    template <class T>
    const DrawKernels<T>& draw() const {
        if constexpr (std::is_same_v<T, double>)
            return draw64;
        else
            return draw32;
    }
    template <class T>
    const StretchKernels<T>& stretch() const {
        if constexpr (std::is_same_v<T, double>)
            return stretch64;
        else
            return stretch32;
    }
};

// Those that this processor runs, the best first; null past the last.
const Kernels* kernels_of_level(int index);

// The best that this processor runs, or what FUSEDCAM_SIMD names. Throws std::invalid_argument where it names none.
const Kernels& kernels();

}  // namespace fusedcam::cpu
