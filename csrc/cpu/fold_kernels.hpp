// What the rules do with channels, on the sums of row_kernels.hpp. Included by kernels.cpp.
#pragma once

#include "row_kernels.hpp"

namespace fusedcam::cpu {
namespace {

// A rule's terms along one channel.
template <class Rule, class T, class Element>
struct Terms {
    const Element *activations, *gradients;
    int64_t moments_step;
    T total, eps;

    FUSEDCAM_INLINE Vector<T> at(int64_t p) const {
        Vector<T> g[Rule::moments], a(T(0));
        for (int m = 0; m < Rule::moments; ++m) g[m] = load<T>(gradients + m * moments_step + p);
        if constexpr (Rule::reads_activations) a = load<T>(activations + p);
        return Rule::term(a, g, Vector<T>(total), eps);
    }
    FUSEDCAM_INLINE T one_at(int64_t p) const {
        T g[Rule::moments], a = T(0);
        for (int m = 0; m < Rule::moments; ++m) g[m] = one<T>(gradients[m * moments_step + p]);
        if constexpr (Rule::reads_activations) a = one<T>(activations[p]);
        return Rule::term(a, g, total, eps);
    }
    FUSEDCAM_INLINE Terms from(int64_t p) const { return {activations + p, gradients + p, moments_step, total, eps}; }
};

template <class Rule, class T, class Element>
FUSEDCAM_INLINE Terms<Rule, T, Element> terms(const Channels<Element>& channels, int64_t c, T total, T eps) {
    return {channels.activations + c * channels.activations_step, channels.gradients + c * channels.gradients_step,
            channels.moments_step, total, eps};
}

template <class T, class Element>
FUSEDCAM_INLINE Elements<T, Element> activations_of(const Channels<Element>& channels, int64_t c) {
    return {channels.activations + c * channels.activations_step};
}

template <class Rule, class T>
FUSEDCAM_INLINE T weight_of(T sum, T total, int64_t length, T eps) {
    if constexpr (Rule::averages)
        return sum / static_cast<T>(length);
    else
        return Rule::weight(sum, total, eps);
}

// A rule's products along one channel.
template <class Rule, class T, class Element>
FUSEDCAM_INLINE Vector<T> product(const Element* activations, const Element* gradients) {
    return Rule::product(load<T>(activations), load<T>(gradients));
}

// ---- Any rows ----

template <class Rule, class T, class Element>
void pool(const Channels<Element>& channels, int64_t count, int64_t length, const T* totals, T eps, T* sums) {
    const Channels<Element> all = channels;
    sum_rows<T>([&](int64_t c)
                    FUSEDCAM_LAMBDA { return terms<Rule>(all, c, Rule::sums_activations ? totals[c] : T(0), eps); },
                count, length, sums);
}

template <class Rule, class T, int together, class Element>
FUSEDCAM_INLINE void add_products(const Channels<Element>& channels, int64_t length, T* map) {
    const Element *a = channels.activations, *g = channels.gradients;
    const int64_t over_a = channels.activations_step, over_g = channels.gradients_step;
    add_together<T, together>(
        length, map,
        [&](int j, int64_t p) FUSEDCAM_LAMBDA { return product<Rule, T>(a + j * over_a + p, g + j * over_g + p); },
        [&](int j, int64_t p)
            FUSEDCAM_LAMBDA { return Rule::product(one<T>(a[j * over_a + p]), one<T>(g[j * over_g + p])); },
        [](int64_t) FUSEDCAM_LAMBDA {});
}

template <class Rule, class T, class Element>
void products(const Channels<Element>& channels, int64_t count, int64_t length, T* map) {
    if (with_vectors<T>(length, [&](auto full) FUSEDCAM_LAMBDA {
            SmallMap<T, full()> sums(length);
            sums.read(map);
            const Element *a = channels.activations, *g = channels.gradients;
            for (int64_t c = 0; c < count; ++c, a += channels.activations_step, g += channels.gradients_step)
                sums.add([&](int64_t p) FUSEDCAM_LAMBDA { return product<Rule, T>(a + p, g + p); });
            sums.write(map);
        }))
        return;
    int64_t c = 0;
    for (; c + 4 <= count; c += 4) add_products<Rule, T, 4>(channels.from(c), length, map);
    for (; c < count; ++c) add_products<Rule, T, 1>(channels.from(c), length, map);
}

// ---- Whole channels ----

// The sums of four channels' activations, of `full` whole vectors and maybe one more.
template <class T, int full, class Element>
FUSEDCAM_INLINE void total_four(const Channels<Element>& channels, int64_t c, int64_t length, T (&totals)[4]) {
    Vector<T> four[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) four[j] = row_sum<T, full>(activations_of<T>(channels, c + j), length);
    sums_of(four, totals);
}

// The weights of four channels, without eps; meanwhile(j) is called after the j-th.
template <class Rule, class T, int full, class Element, class Meanwhile>
FUSEDCAM_INLINE void weigh_four(const Channels<Element>& channels, int64_t c, int64_t length, const T (&totals)[4],
                                T (&weights)[4], Meanwhile&& meanwhile) {
    Vector<T> four[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        four[j] = row_sum<T, full>(terms<Rule>(channels, c + j, totals[j], T(0)), length);
        meanwhile(j);
    }
    sums_of(four, weights);
    for (int j = 0; j < 4; ++j) weights[j] = weight_of<Rule>(weights[j], totals[j], length, T(0));
}

template <class Rule, class T, int full, class Element>
FUSEDCAM_INLINE T weigh_one(const Channels<Element>& channels, int64_t c, int64_t length) {
    T total = T(0);
    if constexpr (Rule::sums_activations) total = sum_of(row_sum<T, full>(activations_of<T>(channels, c), length));
    const T sum = sum_of(row_sum<T, full>(terms<Rule>(channels, c, total, T(0)), length));
    return weight_of<Rule>(sum, total, length, T(0));
}

// Four channels are weighed and, one by one, the four before them added; where terms wait for their channel's sum, the
// four after them are summed too. A sum across lanes and a division take long to come, and the processor has other work
// meanwhile.
template <class Rule, class T, int full, class Element>
void fold_small(const Channels<Element>& channels, int64_t count, int64_t length, T* map) {
    constexpr bool waits = Rule::sums_activations && !Rule::reads_activations;
    SmallMap<T, full> sums(length);
    const auto add = [&](int64_t c, T weight)
                         FUSEDCAM_LAMBDA { sums.add_row(activations_of<T>(channels, c).row, weight); };
    const auto total = [&](int64_t c, T(&totals)[4]) FUSEDCAM_LAMBDA {
        if (Rule::sums_activations && c + 4 <= count) total_four<T, full>(channels, c, length, totals);
    };
    T totals[4] = {}, next[4];
    total(0, totals);
    if (count >= 4) weigh_four<Rule, T, full>(channels, 0, length, totals, next, [](int) FUSEDCAM_LAMBDA {});
    if constexpr (waits) total(4, totals);
    int64_t c = 0;
    for (; c + 8 <= count; c += 4) {
        T weights[4], own[4];
        for (int j = 0; j < 4; ++j) weights[j] = next[j], own[j] = totals[j];
        if constexpr (waits)
            total(c + 8, totals);
        else
            total(c + 4, own);
        weigh_four<Rule, T, full>(channels, c + 4, length, own, next,
                                  [&](int j) FUSEDCAM_LAMBDA { add(c + j, weights[j]); });
    }
    if (c + 4 <= count) {
        for (int j = 0; j < 4; ++j) add(c + j, next[j]);
        c += 4;
    }
    for (; c < count; ++c) add(c, weigh_one<Rule, T, full>(channels, c, length));
    sums.write(map);
}

// Small maps of what is asked for rarely, by the kernels for any rows: a loop for every size would make much code.
template <class Rule, class T, class Element>
void fold_in_turns(const Channels<Element>& channels, int64_t count, int64_t length, T eps, T* map) {
    constexpr int64_t together = 16;
    T totals[together] = {}, weights[together];
    for (int64_t c = 0; c < count; c += together) {
        const Channels<Element> some = channels.from(c);
        const int64_t turn = count - c < together ? count - c : together;
        if constexpr (Rule::sums_activations) sum(some.activations, some.activations_step, turn, length, totals);
        pool<Rule>(some, turn, length, totals, eps, weights);
        for (int64_t j = 0; j < turn; ++j) weights[j] = weight_of<Rule>(weights[j], totals[j], length, eps);
        add(some.activations, some.activations_step, turn, length, weights, map);
    }
}

// The weight of one channel of any length. What is read next is fetched meanwhile.
template <class Rule, class T, class Element>
FUSEDCAM_INLINE T weigh(const Channels<Element>& channels, int64_t c, int64_t length, T eps) {
    const Elements<T, Element> activations = activations_of<T>(channels, c);
    T total = T(0);
    if constexpr (Rule::sums_activations)
        total = whole_sum<T>(activations, length, channels.gradients + c * channels.gradients_step);
    const T sum = whole_sum<T>(terms<Rule>(channels, c, total, eps), length, activations.row);
    return weight_of<Rule>(sum, total, length, eps);
}

template <class Rule, class T, class Element>
void fold_large(const Channels<Element>& channels, int64_t count, int64_t length, T eps, T* map) {
    constexpr int together = 8;
    int64_t c = 0;
    for (; c + together <= count; c += together) {
        const auto some = channels.from(c), next = channels.from(c + together);
        T weights[together];
        for (int j = 0; j < together; ++j) weights[j] = weigh<Rule>(some, j, length, eps);
        const Element* ahead = Rule::sums_activations ? next.activations : next.gradients;  // what is read first
        add_rows<T, together>(some.activations, some.activations_step, length, weights, map,
                              c + 2 * together <= count ? ahead : nullptr);
    }
    for (; c < count; ++c) {
        const T weight = weigh<Rule>(channels, c, length, eps);
        add_rows<T, 1>(activations_of<T>(channels, c).row, channels.activations_step, length, &weight, map);
    }
}

template <class Rule, class T, class Element>
void fold(const Channels<Element>& given, int64_t count, int64_t length, T eps, T* map) {
    const Channels<Element> channels = given;
    if constexpr (Rule::weights && Rule::moments == 1)
        if ((!Rule::has_eps || eps == T(0)) && with_vectors<T>(length, [&](auto full) FUSEDCAM_LAMBDA {
                fold_small<Rule, T, full()>(channels, count, length, map);
            }))
            return;
    for (int64_t p = 0; p < length; ++p) map[p] = T(0);
    if constexpr (!Rule::weights)
        products<Rule, T>(channels, count, length, map);
    else if (Rule::has_eps && length < longest_small<T>)
        fold_in_turns<Rule>(channels, count, length, eps, map);
    else
        fold_large<Rule>(channels, count, length, eps, map);
}

template <class T, class Element, class Rule>
constexpr RuleKernels<T, Element> rule_kernels = [] {
    RuleKernels<T, Element> made{nullptr, nullptr, fold<Rule, T, Element>};
    if constexpr (Rule::weights)
        made.pool = pool<Rule, T, Element>;
    else
        made.products = products<Rule, T, Element>;
    return made;
}();

}  // namespace
}  // namespace fusedcam::cpu
