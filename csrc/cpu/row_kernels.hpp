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

// What is summed along a row: here its elements. `at` gives a vector of them, `one_at` a single one.
template <class T, class Element>
struct Elements {
    const Element* row;

    FUSEDCAM_INLINE Vector<T> at(int64_t p) const { return load<T>(row + p); }
    FUSEDCAM_INLINE T one_at(int64_t p) const { return one<T>(row[p]); }
    FUSEDCAM_INLINE Elements from(int64_t p) const { return {row + p}; }
};

// Brings `bytes` that will be read soon towards the cache. They are read while others are: one stream alone does not
// keep the memory busy.
template <int bytes, class Element>
FUSEDCAM_INLINE void fetch(const Element* from) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(reinterpret_cast<const char*>(from) + i);
}

// A sum over a row that fills no vector.
template <class T, class Summand>
FUSEDCAM_INLINE T short_sum(const Summand& summand, int64_t length) {
    T sum = T(0);
    for (int64_t i = 0; i < length; ++i) sum += summand.one_at(i);
    return sum;
}

// A sum over a row, not yet across lanes: four vectors in turn. `full` is its number of whole vectors where that is
// known; negative where it is not, and then as much of another row is fetched.
template <class T, int full, class Summand, class Element = T>
FUSEDCAM_INLINE Vector<T> row_sum(const Summand& summand, int64_t length, const Element* other = nullptr) {
    constexpr int L = lanes<T>;
    const int64_t vectors = full >= 0 ? full : length / L, rest = length - vectors * L;
    Vector<T> a(T(0)), b(T(0)), c(T(0)), d(T(0));
    const auto at = [&](int64_t vector) FUSEDCAM_LAMBDA { return summand.at(vector * L); };
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
    // The last, incomplete vector has its elements in the last lanes and zeros before them. Its turn is its own,
    // whatever came before.
    if (rest > 0) d += last_lanes(rest, summand.at(length - L));
    return (a + b) + (c + d);
}

// Of rows of any length; `summand(c)` is that of row c.
template <class T, class SummandOf>
FUSEDCAM_INLINE void sum_rows(SummandOf&& summand, int64_t count, int64_t length, T* sums) {
    int64_t c = 0;
    if (length < lanes<T>)
        for (; c < count; ++c) sums[c] = short_sum<T>(summand(c), length);
    for (; c + 4 <= count; c += 4) {
        Vector<T> four[4];
        for (int j = 0; j < 4; ++j) four[j] = row_sum<T, -1>(summand(c + j), length);
        sums_of(four, sums + c);
    }
    for (; c < count; ++c) sums[c] = sum_of(row_sum<T, -1>(summand(c), length));
}

// Of a row of any length, by pieces of longest_sum, as the callers of `sum` and `pool` have them; meanwhile the other
// row is fetched.
template <class T, class Summand, class Element>
FUSEDCAM_INLINE T whole_sum(const Summand& summand, int64_t length, const Element* other) {
    PairwiseSum<T> sums;
    sums.reset();
    for (int64_t p = 0; p < length; p += longest_sum) {
        const int64_t piece = length - p < longest_sum ? length - p : longest_sum;
        sums.add(piece < lanes<T> ? short_sum<T>(summand.from(p), piece)
                                  : sum_of(row_sum<T, -1>(summand.from(p), piece, other + p)));
    }
    return sums.total();
}

// A map of `full` whole vectors and maybe one more, in registers. The last one's first lanes belong to the one before
// it as well and are not stored.
template <class T, int full>
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
    // at(p) gives what is added from pixel p on.
    template <class At>
    FUSEDCAM_INLINE void add(At&& at) {
#pragma GCC unroll 9
        for (int v = 0; v < full; ++v) sums[v] += at(v * L);
        if (rest > 0) sums[full] += at(length - L);
    }
    template <class Element>
    FUSEDCAM_INLINE void add_row(const Element* row, T weight) {
        const Vector<T> all(weight);
        add([&](int64_t p) FUSEDCAM_LAMBDA { return all * load<T>(row + p); });
    }
    FUSEDCAM_INLINE void write(T* map) const {
#pragma GCC unroll 9
        for (int v = 0; v < full; ++v) store(map + v * L, sums[v]);
        T last[L];
        store(last, sums[full]);
        for (int64_t i = L - rest; i < L; ++i) map[length - L + i] = last[i];
    }
};

// x86 processors without AVX2 are from before 2013: a loop for every size of small maps, which gives the same bits as
// the loops for any size, would only make their code larger, and double the time that it takes to compile it.
#if defined(__x86_64__) && !defined(__AVX2__)
constexpr bool loop_for_every_size = false;
#else
constexpr bool loop_for_every_size = true;
#endif

// Maps of fewer elements fit into registers.
template <class T>
constexpr int64_t longest_small = (folded_pixels / lanes<T> < 8 ? folded_pixels / lanes<T> : 8) * lanes<T> + lanes<T>;

// Calls visitor with the number of whole vectors, at compile time; false if they are none or too many for registers.
template <class T, int full = 1, class Visitor>
FUSEDCAM_INLINE bool with_vectors(int64_t length, Visitor&& visitor) {
    if constexpr (loop_for_every_size && (full + 1) * lanes<T> <= longest_small<T>) {
        if (length / lanes<T> == full) {
            visitor(std::integral_constant<int, full>{});
            return true;
        }
        return with_vectors<T, full + 1>(length, visitor);
    }
    return false;
}

// map[p] += at(j, p) for `together` channels at once, which spares the map's loads and stores; one_at(j, p) is for
// single pixels. meanwhile(p) is called before the pixels from p on.
template <class T, int together, class At, class OneAt, class Meanwhile>
FUSEDCAM_INLINE void add_together(int64_t length, T* map, At&& at, OneAt&& one_at, Meanwhile&& meanwhile) {
    constexpr int L = lanes<T>;
    int64_t p = 0;
    for (; p + L <= length; p += L) {
        meanwhile(p);
        Vector<T> sum = load<T>(map + p);
#pragma GCC unroll 8
        for (int j = 0; j < together; ++j) sum += at(j, p);
        store(map + p, sum);
    }
    const int64_t rest = length - p;
    if (rest > 0 && length >= L) {
        Vector<T> sum = load<T>(map + length - L);
#pragma GCC unroll 8
        for (int j = 0; j < together; ++j) sum += last_lanes(rest, at(j, length - L));
        store(map + length - L, sum);
    } else {
        for (; p < length; ++p)
            for (int j = 0; j < together; ++j) map[p] += one_at(j, p);
    }
}

// Weighted rows. `ahead`, if there is one, is fetched meanwhile, as much as is read.
template <class T, int together, class Element>
FUSEDCAM_INLINE void add_rows(const Element* rows, int64_t step, int64_t length, const T* weights, T* map,
                              const Element* ahead = nullptr) {
    Vector<T> all[together];
    for (int j = 0; j < together; ++j) all[j] = Vector<T>(weights[j]);
    add_together<T, together>(
        length, map, [&](int j, int64_t p) FUSEDCAM_LAMBDA { return all[j] * load<T>(rows + j * step + p); },
        [&](int j, int64_t p) FUSEDCAM_LAMBDA { return weights[j] * one<T>(rows[j * step + p]); },
        [&](int64_t p) FUSEDCAM_LAMBDA {
            if (ahead) fetch<together * lanes<T>* int{sizeof(Element)}>(ahead + p * together);
        });
}

template <class T, class Element>
void sum(const Element* rows, int64_t step, int64_t count, int64_t length, T* sums) {
    sum_rows<T>([&](int64_t c) FUSEDCAM_LAMBDA { return Elements<T, Element>{rows + c * step}; }, count, length, sums);
}

template <class T, class Element>
void add(const Element* rows, int64_t step, int64_t count, int64_t length, const T* weights, T* map) {
    if (with_vectors<T>(length, [&](auto full) FUSEDCAM_LAMBDA {
            SmallMap<T, full()> sums(length);
            sums.read(map);
            for (int64_t c = 0; c < count; ++c) sums.add_row(rows + c * step, weights[c]);
            sums.write(map);
        }))
        return;
    int64_t c = 0;
    for (; c + 8 <= count; c += 8) add_rows<T, 8>(rows + c * step, step, length, weights + c, map);
    for (; c + 4 <= count; c += 4) add_rows<T, 4>(rows + c * step, step, length, weights + c, map);
    for (; c < count; ++c) add_rows<T, 1>(rows + c * step, step, length, weights + c, map);
}

template <class T, class Element>
constexpr RowKernels<T, Element> row_kernels{sum<T, Element>, add<T, Element>};

}  // namespace
}  // namespace fusedcam::cpu
