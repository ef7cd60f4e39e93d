// Numbers that carry their slopes along several variables: forward-mode differentiation, by which every rule brings its
// own derivative.
#pragma once

#include "rules.hpp"

namespace fusedcam::rules {

// V is a number or a vector of numbers.
template <class V, int n>
struct Dual {
    V value;
    V slope[n];

    Dual() = default;
    template <class T>
    FUSEDCAM_HD explicit Dual(const T& constant) : value(constant) {
        for (V& one : slope) one = V(0);
    }
    // The variable of that number.
    FUSEDCAM_HD Dual(const V& value, int variable) : value(value) {
        for (int i = 0; i < n; ++i) slope[i] = V(i == variable ? 1 : 0);
    }
};

template <class V, int n>
FUSEDCAM_HD Dual<V, n> operator+(const Dual<V, n>& a, const Dual<V, n>& b) {
    Dual<V, n> result;
    result.value = a.value + b.value;
    for (int i = 0; i < n; ++i) result.slope[i] = a.slope[i] + b.slope[i];
    return result;
}
template <class V, int n>
FUSEDCAM_HD Dual<V, n> operator*(const Dual<V, n>& a, const Dual<V, n>& b) {
    Dual<V, n> result;
    result.value = a.value * b.value;
    for (int i = 0; i < n; ++i) result.slope[i] = a.slope[i] * b.value + a.value * b.slope[i];
    return result;
}
template <class V, int n>
FUSEDCAM_HD Dual<V, n> operator/(const Dual<V, n>& a, const Dual<V, n>& b) {
    Dual<V, n> result;
    result.value = a.value / b.value;
    for (int i = 0; i < n; ++i) result.slope[i] = (a.slope[i] - result.value * b.slope[i]) / b.value;
    return result;
}
// As PyTorch has it, the slope at 0 is 0.
template <class V, int n>
FUSEDCAM_HD Dual<V, n> positive_part(const Dual<V, n>& a) {
    Dual<V, n> result;
    result.value = positive_part(a.value);
    for (int i = 0; i < n; ++i) result.slope[i] = unless_zero(result.value, a.slope[i]);
    return result;
}
template <class V, int n>
FUSEDCAM_HD Dual<V, n> unless_zero(const Dual<V, n>& divisor, const Dual<V, n>& a) {
    Dual<V, n> result;
    result.value = unless_zero(divisor.value, a.value);
    for (int i = 0; i < n; ++i) result.slope[i] = unless_zero(divisor.value, a.slope[i]);
    return result;
}
// A function's slopes from those along its arguments; where an argument does not change, theirs are of no account.
template <class V, int n, int arguments>
FUSEDCAM_HD Dual<V, n> chained(const V& value, const V (&along)[arguments], const Dual<V, n>* const (&of)[arguments]) {
    Dual<V, n> result;
    result.value = value;
    for (int i = 0; i < n; ++i) {
        result.slope[i] = V(0);
        for (int j = 0; j < arguments; ++j)
            result.slope[i] = result.slope[i] + unless_zero(of[j]->slope[i], along[j] * of[j]->slope[i]);
    }
    return result;
}

// g / D with D = 2 + S g + q and q = eps / g^2: (2 + 3 q) / D^2 along g, and -(g / D)^2 along S. q may be infinite.
template <class V, int n, class T>
FUSEDCAM_HD Dual<V, n> plusplus_term(const Dual<V, n>& positive, const Dual<V, n>& sum, T eps) {
    const V g = positive.value, plain = V(T(2)) + sum.value * g, q = V(eps) / (g * g);
    const V divisor = eps == T(0) ? plain : plain + q, inverse = V(T(1)) / divisor, ratio = g * inverse;
    V along = V(T(2)) * inverse;
    if (eps != T(0)) along = along + V(T(3)) / (V(T(1)) + plain / q);
    const V slopes[] = {along * inverse, V(T(0)) - ratio * ratio};
    return unless_zero(Dual<V, n>(divisor), chained(plusplus_term(g, sum.value, eps), slopes, {&positive, &sum}));
}
// p g2 / D with D = 2 g2 + S g3 + eps.
template <class V, int n, class T>
FUSEDCAM_HD Dual<V, n> smooth_plusplus_term(const Dual<V, n>& positive, const Dual<V, n>& second,
                                            const Dual<V, n>& third, const Dual<V, n>& sum, T eps) {
    const V rest = sum.value * third.value + V(eps), divisor = V(T(2)) * second.value + rest;
    const V ratio = second.value / divisor, each = V(T(0)) - positive.value * ratio;
    const V slopes[] = {ratio, positive.value * (rest / divisor / divisor), each * (sum.value / divisor),
                        each * (third.value / divisor)};
    const V value = smooth_plusplus_term(positive.value, second.value, third.value, sum.value, eps);
    return unless_zero(Dual<V, n>(divisor), chained(value, slopes, {&positive, &second, &third, &sum}));
}

// The variables of what a rule adds up, in this order: the gradient or its moments, the activation where the rule reads
// it, the sum of the channel's activations where it takes that.
template <class Rule>
struct Variables {
    static constexpr int activation = Rule::moments;
    static constexpr int total = activation + (Rule::reads_activations ? 1 : 0);
    static constexpr int count = total + (Rule::sums_activations ? 1 : 0);
};

// A rule's term, or product, of one pixel with its slopes.
template <class Rule, class V, class T>
FUSEDCAM_HD Dual<V, Variables<Rule>::count> slopes(const V& a, const V (&g)[Rule::moments], const V& total, T eps) {
    using Variable = Variables<Rule>;
    using D = Dual<V, Variable::count>;
    D gradients[Rule::moments], activation;
    for (int m = 0; m < Rule::moments; ++m) gradients[m] = D(g[m], m);
    if constexpr (Rule::reads_activations) activation = D(a, Variable::activation);
    if constexpr (!Rule::weights)
        return Rule::product(activation, gradients[0]);
    else if constexpr (Rule::sums_activations)
        return Rule::term(activation, gradients, D(total, Variable::total), eps);
    else
        return Rule::term(activation, gradients, D(), eps);
}

// Of a rule of weights: score_p += w A_p, where w comes of the sum of the terms and the sum of the activations.
template <class T>
struct WeightSlopes {
    T weight, by_sum, by_total;
};
template <class Rule, class T>
FUSEDCAM_HD WeightSlopes<T> weight_slopes(T sum, T total, int64_t length, T eps) {
    if constexpr (Rule::averages) {
        return {sum / static_cast<T>(length), T(1) / static_cast<T>(length), T(0)};
    } else {
        using D = Dual<T, 2>;
        const D weight = Rule::weight(D(sum, 0), D(total, 1), D(eps));
        return {weight.value, weight.slope[0], weight.slope[1]};
    }
}

}  // namespace fusedcam::rules
