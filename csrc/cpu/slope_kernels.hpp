// What a rule's scores change by with activations and gradients, along one channel. Included by kernels.cpp.
#pragma once

#include "../slopes.hpp"
#include "fold_kernels.hpp"

namespace fusedcam::cpu {
namespace {

// A number or a vector of them.
template <class V, class T>
FUSEDCAM_INLINE V read(const T* from) {
    if constexpr (std::is_same_v<V, T>)
        return *from;
    else
        return load<T>(from);
}

template <class Rule, class V, class T>
FUSEDCAM_INLINE auto slopes_at(const SlopeRows<T>& rows, int64_t p, const V& total, T eps) {
    V g[Rule::moments], a(T(0));
    for (int m = 0; m < Rule::moments; ++m) g[m] = read<V>(rows.gradients + m * rows.length + p);
    if constexpr (Rule::reads_activations) a = read<V>(rows.activations + p);
    return rules::slopes<Rule>(a, g, total, eps);
}

// The slopes of a channel's terms along the sum of its activations.
template <class Rule, class T>
struct SlopesAlongTotal {
    const SlopeRows<T>& rows;
    int64_t first;
    T total, eps;

    static constexpr int variable = rules::Variables<Rule>::total;
    FUSEDCAM_INLINE Vector<T> at(int64_t p) const {
        return slopes_at<Rule>(rows, first + p, Vector<T>(total), eps).slope[variable];
    }
    FUSEDCAM_INLINE T one_at(int64_t p) const { return slopes_at<Rule>(rows, first + p, total, eps).slope[variable]; }
    FUSEDCAM_INLINE SlopesAlongTotal from(int64_t p) const { return {rows, first + p, total, eps}; }
};

// Products of two rows.
template <class T>
struct Inner {
    const T *first, *second;

    FUSEDCAM_INLINE Vector<T> at(int64_t p) const { return load<T>(first + p) * load<T>(second + p); }
    FUSEDCAM_INLINE T one_at(int64_t p) const { return first[p] * second[p]; }
    FUSEDCAM_INLINE Inner from(int64_t p) const { return {first + p, second + p}; }
};

// One function each for all rules, which would else be compiled with every one of them.
template <class T>
[[gnu::noinline]] T inner(const T* first, const T* second, int64_t length) {
    return whole_sum<T>(Inner<T>{first, second}, length, first);
}
template <class T>
[[gnu::noinline]] T sum_of_row(const T* row, int64_t length) {
    return whole_sum<T>(Elements<T, T>{row}, length, row);
}

// Calls at(p, V) with every p that a vector begins at, then with those of the rest, for which V is a number.
template <class T, class At>
FUSEDCAM_INLINE void for_pixels(int64_t length, At&& at) {
    int64_t p = 0;
    for (; p + lanes<T> <= length; p += lanes<T>) at(p, Vector<T>{});
    for (; p < length; ++p) at(p, T(0));
}
template <class T>
FUSEDCAM_INLINE void write(T* to, T value) {
    *to = value;
}
template <class T>
FUSEDCAM_INLINE void write(T* to, const Vector<T>& value) {
    store(to, value);
}

template <class Rule, class T>
void slopes(const SlopeRows<T>& given, T eps) {
    using Variable = rules::Variables<Rule>;
    const SlopeRows<T> rows = given;
    const int64_t length = rows.length;
    if constexpr (Rule::weights) {
        const auto sum_of_all = [&](const auto& summand)
                                    FUSEDCAM_LAMBDA { return whole_sum<T>(summand, length, rows.activations); };
        T total = T(0), along_total = T(0);
        if constexpr (Rule::sums_activations) {
            total = sum_of_row(rows.activations, length);
            along_total = sum_of_all(SlopesAlongTotal<Rule, T>{rows, 0, total, eps});
        }
        const T sum = sum_of_all(Terms<Rule, T, T>{rows.activations, rows.gradients, length, total, eps});
        const rules::WeightSlopes<T> weight = rules::weight_slopes<Rule>(sum, total, length, eps);
        const T product = inner(rows.activations, rows.scores, length), common = product * weight.by_sum;
        const T even = product * (weight.by_sum * along_total + weight.by_total);
        for_pixels<T>(length, [&](int64_t p, auto kind) FUSEDCAM_LAMBDA {
            using V = decltype(kind);
            const auto pixel = slopes_at<Rule>(rows, p, V(total), eps);
            V activation = read<V>(rows.of_activations + p) + V(weight.weight) * read<V>(rows.scores + p);
            if constexpr (Rule::reads_activations)
                activation = activation + V(common) * pixel.slope[Variable::activation];
            if constexpr (Rule::sums_activations) activation = activation + V(even);
            write(rows.of_activations + p, activation);
            for (int m = 0; m < Rule::moments; ++m)
                write(rows.of_gradients + m * length + p, V(common) * pixel.slope[m]);
        });
    } else {
        for_pixels<T>(length, [&](int64_t p, auto kind) FUSEDCAM_LAMBDA {
            using V = decltype(kind);
            const auto pixel = slopes_at<Rule>(rows, p, V(T(0)), eps);
            const V scores = read<V>(rows.scores + p);
            write(rows.of_activations + p,
                  read<V>(rows.of_activations + p) + scores * pixel.slope[Variable::activation]);
            write(rows.of_gradients + p, scores * pixel.slope[0]);
        });
    }
}

}  // namespace
}  // namespace fusedcam::cpu
