// Sums along and across rows of channels, in an order that depends on lengths alone. Included by kernels.cpp.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"
#include "sums.hpp"

namespace fusedcam::cpu {
namespace {

template <class T, class Element>
FUSEDCAM_INLINE T one(Element value) {
    return static_cast<T>(widen(value));
}

// The last, incomplete vector of a row of at least one whole one: its elements in the last lanes, zeros before them.
template <class Rule, class T, class Element>
FUSEDCAM_INLINE Vector<T> gathered_rest(const Element* row, int64_t length, int64_t rest) {
    return last_lanes(rest, Rule::gather(load<T>(row + length - lanes<T>)));
}

// Sum of Rule::gather over a row that fills no vector.
template <class Rule, class T, class Element>
FUSEDCAM_INLINE T short_sum(const Element* row, int64_t length) {
    T sum = T(0);
    for (int64_t i = 0; i < length; ++i) sum += Rule::gather(one<T>(row[i]));
    return sum;
}

// Brings `bytes` that will be read soon towards the cache. They are read while others are: one stream alone does not
// keep the memory busy.
template <int bytes, class Element>
FUSEDCAM_INLINE void fetch(const Element* from) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(reinterpret_cast<const char*>(from) + i);
}

// Sum of Rule::gather over a row, not yet across lanes: four vectors in turn. `full` is its number of whole vectors
// where that is known; negative where it is not, and then as much of another row is fetched.
template <class Rule, class T, int full, class Element>
FUSEDCAM_INLINE Vector<T> row_sum(const Element* row, int64_t length, const Element* other = nullptr) {
    constexpr int L = lanes<T>;
    const int64_t vectors = full >= 0 ? full : length / L, rest = length - vectors * L;
    Vector<T> a(T(0)), b(T(0)), c(T(0)), d(T(0));
    const auto at = [&](int64_t vector) FUSEDCAM_LAMBDA { return Rule::gather(load<T>(row + vector * L)); };
    int64_t v = 0;
    if (vectors >= 4) {
        a = at(0), b = at(1), c = at(2), d = at(3);
        for (v = 4; v + 4 <= vectors; v += 4) {
            if (full < 0 && other) fetch<4 * L* int{sizeof(Element)}>(other + v * L);
            a += at(v), b += at(v + 1), c += at(v + 2), d += at(v + 3);
        }
    }
    if (v < vectors) a += at(v);
    if (v + 1 < vectors) b += at(v + 1);
    if (v + 2 < vectors) c += at(v + 2);
    // The turn is the rest's own, whatever came before.
    if (rest > 0) d += gathered_rest<Rule, T>(row, length, rest);
    return (a + b) + (c + d);
}

template <class Rule, class T, class Element>
void pool(const Element* rows, int64_t step, int64_t count, int64_t length, T* sums) {
    int64_t c = 0;
    if (length < lanes<T>)
        for (; c < count; ++c) sums[c] = short_sum<Rule, T>(rows + c * step, length);
    for (; c + 4 <= count; c += 4) {
        Vector<T> four[4];
        for (int j = 0; j < 4; ++j) four[j] = row_sum<Rule, T, -1>(rows + (c + j) * step, length);
        sums_of(four, sums + c);
    }
    for (; c < count; ++c) sums[c] = sum_of(row_sum<Rule, T, -1>(rows + c * step, length));
}

// The sum over a row of any length, by pieces of longest_sum as the caller of `pool` has them; meanwhile the other row
// is fetched.
template <class Rule, class T, class Element>
FUSEDCAM_INLINE T pooled(const Element* row, int64_t length, const Element* other) {
    PairwiseSum<T> sums;
    sums.reset();
    for (int64_t p = 0; p < length; p += longest_sum) {
        const int64_t piece = length - p < longest_sum ? length - p : longest_sum;
        sums.add(piece < lanes<T> ? short_sum<Rule, T>(row + p, piece)
                                  : sum_of(row_sum<Rule, T, -1>(row + p, piece, other + p)));
    }
    return sums.total();
}

// A map of `full` whole vectors and maybe one more, in registers. The last one's first lanes belong to the one before
// it as well and are not stored.
template <class Rule, class T, int full>
struct SmallMap {
    static constexpr int L = lanes<T>;
    Vector<T> sums[full + 1];
    const int64_t length, rest;

    FUSEDCAM_INLINE explicit SmallMap(int64_t length) : length(length), rest(length - full * L) {
        for (Vector<T>& one : sums) one = Vector<T>(T(0));
    }

    FUSEDCAM_INLINE void read(const T* map) {
#pragma GCC unroll 9
        for (int v = 0; v < full; ++v) sums[v] = load<T>(map + v * L);
        if (rest > 0) sums[full] = load<T>(map + length - L);
    }
    template <class Element>
    FUSEDCAM_INLINE void add(const Element* row, T weight) {
        const Vector<T> all(weight);
#pragma GCC unroll 9
        for (int v = 0; v < full; ++v) sums[v] += Rule::apply(load<T>(row + v * L), all);
        if (rest > 0) sums[full] += Rule::apply(load<T>(row + length - L), all);
    }
    FUSEDCAM_INLINE void write(T* map) const {
#pragma GCC unroll 9
        for (int v = 0; v < full; ++v) store(map + v * L, sums[v]);
        T last[L];
        store(last, sums[full]);
        for (int64_t i = L - rest; i < L; ++i) map[length - L + i] = last[i];
    }
};

// The weights of four channels.
template <class Rule, class T, int full, class Element>
FUSEDCAM_INLINE void pool_four(const Element* gradients, int64_t step, int64_t length, T (&weights)[4]) {
    Vector<T> four[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) four[j] = row_sum<Rule, T, full>(gradients + j * step, length);
    sums_of(four, weights);
    for (int j = 0; j < 4; ++j) weights[j] = Rule::weight(weights[j] / static_cast<T>(length));
}

// Four channels are pooled before the four before them are added: a sum across lanes takes long to come, and the
// processor has other work meanwhile.
template <class Rule, class T, int full, class Element>
void fold_small(const Element* activations, int64_t activations_step, const Element* gradients, int64_t gradients_step,
                int64_t count, int64_t length, T* map) {
    SmallMap<Rule, T, full> sums(length);
    T next[4];
    if (count >= 4) pool_four<Rule, T, full>(gradients, gradients_step, length, next);
    int64_t c = 0;
    for (; c + 4 <= count; c += 4) {
        T weights[4];
        for (int j = 0; j < 4; ++j) weights[j] = next[j];
        if (c + 8 <= count)
            pool_four<Rule, T, full>(gradients + (c + 4) * gradients_step, gradients_step, length, next);
        for (int j = 0; j < 4; ++j) sums.add(activations + (c + j) * activations_step, weights[j]);
    }
    for (; c < count; ++c) {
        const T sum = sum_of(row_sum<Rule, T, full>(gradients + c * gradients_step, length));
        sums.add(activations + c * activations_step, Rule::weight(sum / static_cast<T>(length)));
    }
    sums.write(map);
}

template <class Rule, class T, int full, class Element>
void add_small(const Element* rows, int64_t step, int64_t count, int64_t length, const T* weights, T* map) {
    SmallMap<Rule, T, full> sums(length);
    sums.read(map);
    for (int64_t c = 0; c < count; ++c) sums.add(rows + c * step, weights[c]);
    sums.write(map);
}

// `together` channels at once, which spares the map's loads and stores. `ahead`, if there is one, is fetched meanwhile,
// as much as is read.
template <class Rule, class T, int together, class Element>
FUSEDCAM_INLINE void add_rows(const Element* rows, int64_t step, int64_t length, const T* weights, T* map,
                              const Element* ahead = nullptr) {
    constexpr int L = lanes<T>;
    Vector<T> all[together];
    for (int j = 0; j < together; ++j) all[j] = Vector<T>(weights[j]);
    int64_t p = 0;
    for (; p + L <= length; p += L) {
        if (ahead) fetch<together * L* int{sizeof(Element)}>(ahead + p * together);
        Vector<T> sum = load<T>(map + p);
#pragma GCC unroll 8
        for (int j = 0; j < together; ++j) sum += Rule::apply(load<T>(rows + j * step + p), all[j]);
        store(map + p, sum);
    }
    const int64_t rest = length - p;
    if (rest > 0 && length >= L) {
        Vector<T> sum = load<T>(map + length - L);
#pragma GCC unroll 8
        for (int j = 0; j < together; ++j)
            sum += last_lanes(rest, Rule::apply(load<T>(rows + j * step + length - L), all[j]));
        store(map + length - L, sum);
    } else {
        for (; p < length; ++p)
            for (int j = 0; j < together; ++j) map[p] += Rule::apply(one<T>(rows[j * step + p]), weights[j]);
    }
}

template <class Rule, class T, class Element>
void add_large(const Element* rows, int64_t step, int64_t count, int64_t length, const T* weights, T* map) {
    int64_t c = 0;
    for (; c + 8 <= count; c += 8) add_rows<Rule, T, 8>(rows + c * step, step, length, weights + c, map);
    for (; c + 4 <= count; c += 4) add_rows<Rule, T, 4>(rows + c * step, step, length, weights + c, map);
    for (; c < count; ++c) add_rows<Rule, T, 1>(rows + c * step, step, length, weights + c, map);
}

// Calls visitor with the number of whole vectors, at compile time; false if they are none or too many for registers.
template <class T, int full = 1, class Visitor>
FUSEDCAM_INLINE bool with_vectors(int64_t length, Visitor&& visitor) {
    if constexpr (full <= folded_pixels / lanes<T> && full <= 8) {
        if (length / lanes<T> == full) {
            visitor(std::integral_constant<int, full>{});
            return true;
        }
        return with_vectors<T, full + 1>(length, visitor);
    }
    return false;
}

template <class Rule, class T, class Element>
void add(const Element* rows, int64_t step, int64_t count, int64_t length, const T* weights, T* map) {
    if (!with_vectors<T>(length, [&](auto full) FUSEDCAM_LAMBDA {
            add_small<Rule, T, full()>(rows, step, count, length, weights, map);
        }))
        add_large<Rule, T>(rows, step, count, length, weights, map);
}

template <class Rule, class T, class Element>
void fold(const Element* activations, int64_t activations_step, const Element* gradients, int64_t gradients_step,
          int64_t count, int64_t length, T* map) {
    if (with_vectors<T>(length, [&](auto full) FUSEDCAM_LAMBDA {
            fold_small<Rule, T, full()>(activations, activations_step, gradients, gradients_step, count, length, map);
        }))
        return;
    for (int64_t p = 0; p < length; ++p) map[p] = T(0);
    constexpr int together = 8;
    int64_t c = 0;
    for (; c + together <= count; c += together) {
        const Element *a = activations + c * activations_step, *g = gradients + c * gradients_step;
        T weights[together];
        for (int j = 0; j < together; ++j)
            weights[j] = Rule::weight(pooled<Rule, T>(g + j * gradients_step, length, a + j * activations_step) /
                                      static_cast<T>(length));
        const bool more = c + 2 * together <= count;
        add_rows<Rule, T, together>(a, activations_step, length, weights, map,
                                    more ? g + together * gradients_step : nullptr);
    }
    for (; c < count; ++c) {
        const Element* a = activations + c * activations_step;
        const T weight =
            Rule::weight(pooled<Rule, T>(gradients + c * gradients_step, length, a) / static_cast<T>(length));
        add_rows<Rule, T, 1>(a, activations_step, length, &weight, map);
    }
}

template <class T, class Element, class Rule>
constexpr RowKernels<T, Element> row_kernels{pool<Rule, T, Element>, add<Rule, T, Element>, fold<Rule, T, Element>};

}  // namespace
}  // namespace fusedcam::cpu
