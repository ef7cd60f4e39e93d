// Vectors for the kernels, in as many registers as the instruction set needs: one source for every set, and the same
// bits, since no product is contracted and lanes are added in one order, that of 32 bytes. Where lanes do not meet, the
// vectors may be wider. By the compiler's own vector types;
// what a set has an instruction of its own for stands in one function each.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../dtype.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define FUSEDCAM_INLINE [[gnu::always_inline]] inline
#define FUSEDCAM_LAMBDA __attribute__((always_inline))

namespace fusedcam::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int largest_register = 64;
#elif defined(__AVX2__)
constexpr int largest_register = 32;
#else
constexpr int largest_register = 16;
#endif
constexpr int vector_bytes = 32;
constexpr int widest_bytes = largest_register > vector_bytes ? largest_register : vector_bytes;
template <int bytes>
constexpr int register_bytes = bytes < largest_register ? bytes : largest_register;

template <class T, int bytes = vector_bytes>
constexpr int lanes = bytes / static_cast<int>(sizeof(T));

template <class Lane, int bytes = vector_bytes>
struct Register {
    typedef Lane type __attribute__((vector_size(register_bytes<bytes>)));
};
typedef uint16_t Words __attribute__((vector_size(register_bytes<vector_bytes> / 2)));  // as a register has floats
template <class T>
using IntegerOf = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// One lane after the other, T each.
template <class T, int bytes = vector_bytes>
struct Vector {
    static constexpr int parts = bytes / register_bytes<bytes>;
    using Part = typename Register<T, bytes>::type;
    Part part[parts];

    Vector() = default;
    FUSEDCAM_INLINE explicit Vector(T all) {
        for (Part& one : part) one = all - Part{};  // nothing to compute: x - 0 is x, where 0 + x is not for -0
    }
};

template <class T, int bytes, class Op>
FUSEDCAM_INLINE Vector<T, bytes> each(const Vector<T, bytes>& a, const Vector<T, bytes>& b, Op&& op) {
    Vector<T, bytes> result;
    for (int i = 0; i < result.parts; ++i) result.part[i] = op(a.part[i], b.part[i]);
    return result;
}
template <class T, int bytes>
FUSEDCAM_INLINE Vector<T, bytes> operator+(const Vector<T, bytes>& a, const Vector<T, bytes>& b) {
    return each(a, b, [](auto x, auto y) FUSEDCAM_LAMBDA { return x + y; });
}
template <class T, int bytes>
FUSEDCAM_INLINE Vector<T, bytes> operator-(const Vector<T, bytes>& a, const Vector<T, bytes>& b) {
    return each(a, b, [](auto x, auto y) FUSEDCAM_LAMBDA { return x - y; });
}
template <class T, int bytes>
FUSEDCAM_INLINE Vector<T, bytes> operator*(const Vector<T, bytes>& a, const Vector<T, bytes>& b) {
    return each(a, b, [](auto x, auto y) FUSEDCAM_LAMBDA { return x * y; });
}
template <class T, int bytes>
FUSEDCAM_INLINE Vector<T, bytes> operator/(const Vector<T, bytes>& a, const Vector<T, bytes>& b) {
    return each(a, b, [](auto x, auto y) FUSEDCAM_LAMBDA { return x / y; });
}
template <class T, int bytes>
FUSEDCAM_INLINE Vector<T, bytes>& operator+=(Vector<T, bytes>& a, const Vector<T, bytes>& b) {
    return a = a + b;
}

// a where a is less, else b, as minimum instructions have it: NaN in either is b. And the same of what is greater.
template <class T, int bytes>
FUSEDCAM_INLINE Vector<T, bytes> lesser(const Vector<T, bytes>& a, const Vector<T, bytes>& b) {
    return each(a, b, [](auto x, auto y) FUSEDCAM_LAMBDA { return x < y ? x : y; });
}
template <class T, int bytes>
FUSEDCAM_INLINE Vector<T, bytes> greater(const Vector<T, bytes>& a, const Vector<T, bytes>& b) {
    return each(a, b, [](auto x, auto y) FUSEDCAM_LAMBDA { return x > y ? x : y; });
}

// x where it is not less than 0, else 0. Of a comparison with 0 the compiler would make two instructions.
#if defined(__x86_64__)
FUSEDCAM_INLINE __m128 not_below_zero(__m128 x) { return _mm_max_ps(__m128{}, x); }
FUSEDCAM_INLINE __m128d not_below_zero(__m128d x) { return _mm_max_pd(__m128d{}, x); }
#if defined(__AVX__)
FUSEDCAM_INLINE __m256 not_below_zero(__m256 x) { return _mm256_max_ps(__m256{}, x); }
FUSEDCAM_INLINE __m256d not_below_zero(__m256d x) { return _mm256_max_pd(__m256d{}, x); }
#endif
#if defined(__AVX512F__)
FUSEDCAM_INLINE __m512 not_below_zero(__m512 x) { return _mm512_max_ps(__m512{}, x); }
FUSEDCAM_INLINE __m512d not_below_zero(__m512d x) { return _mm512_max_pd(__m512d{}, x); }
#endif
#else
template <class Part>
FUSEDCAM_INLINE Part not_below_zero(Part x) {
    return x < 0 ? Part{} : x;
}
#endif
// The rules' functions of vectors.
template <class T, int bytes>
FUSEDCAM_INLINE Vector<T, bytes> positive_part(const Vector<T, bytes>& value) {
    return each(value, value, [](auto x, auto) FUSEDCAM_LAMBDA { return not_below_zero(x); });
}
template <class T, int bytes>
FUSEDCAM_INLINE Vector<T, bytes> unless_zero(const Vector<T, bytes>& divisor, const Vector<T, bytes>& value) {
    return each(divisor, value, [](auto x, auto y) FUSEDCAM_LAMBDA { return x == T(0) ? decltype(y){} : y; });
}
// a where `weight` is zero, else b.
template <class T, int bytes>
FUSEDCAM_INLINE Vector<T, bytes> where_zero(const Vector<T, bytes>& weight, const Vector<T, bytes>& a,
                                            const Vector<T, bytes>& b) {
    Vector<T, bytes> result;
    for (int i = 0; i < result.parts; ++i) result.part[i] = weight.part[i] == T(0) ? a.part[i] : b.part[i];
    return result;
}
// Whether any lane is NaN.
template <class T, int bytes>
FUSEDCAM_INLINE bool any_nan(const Vector<T, bytes>& value) {
    typename Register<IntegerOf<T>, bytes>::type found{};
    for (int i = 0; i < value.parts; ++i) found |= value.part[i] != value.part[i];
    IntegerOf<T> all = 0;
    for (int i = 0; i < lanes<T, register_bytes<bytes>>; ++i) all |= found[i];
    return all != 0;
}

template <class To, class From>
FUSEDCAM_INLINE To bits_as(const From& value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    std::memcpy(&result, &value, sizeof result);
    return result;
}
template <class V>
FUSEDCAM_INLINE V load_as(const void* from) {
    V value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// As dtype.hpp's widen of float16.
template <class Bits, class Floats>
FUSEDCAM_INLINE Floats widened_half(Bits bits) {
    const Bits magnitude = (bits & 0x7fffu) << 13, exponent = magnitude & 0x0f800000u;
    const Bits subnormal =
        bits_as<Bits>(bits_as<Floats>(magnitude + (113u << 23)) - bits_as<Floats>(Bits{} + (113u << 23)));
    const Bits is_subnormal = bits_as<Bits>(exponent == 0), is_special = bits_as<Bits>(exponent == 0x0f800000u);
    const Bits finite = (is_subnormal & subnormal) | (~is_subnormal & (magnitude + (112u << 23)));
    const Bits all = (is_special & (magnitude + (224u << 23))) | (~is_special & finite);
    return bits_as<Floats>((bits & 0x8000u) << 16 | all);
}

// A vector of T from as many elements, converted in registers.
template <class T, int bytes = vector_bytes, class Element>
FUSEDCAM_INLINE Vector<T, bytes> load(const Element* from) {
    if constexpr (std::is_same_v<Element, T>) {
        return load_as<Vector<T, bytes>>(from);
    } else {
        static_assert(sizeof(Element) == 2 && sizeof(T) == 4 && bytes == vector_bytes);
        constexpr int parts = Vector<T>::parts, each = lanes<T> / parts;
        using Floats = typename Register<float>::type;
        using Bits = typename Register<uint32_t>::type;
        Vector<T> result;
        for (int i = 0; i < parts; ++i) {
            const Words words = load_as<Words>(from + i * each);
#if defined(__AVX2__) && defined(__F16C__)
            const __m128i given = bits_as<__m128i>(words);
            if constexpr (std::is_same_v<Element, Float16>)
                result.part[i] = bits_as<Floats>(_mm256_cvtph_ps(given));
            else
                result.part[i] = bits_as<Floats>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(given), 16));
            continue;
#endif
            const Bits bits = __builtin_convertvector(words, Bits);
            if constexpr (std::is_same_v<Element, BFloat16>)
                result.part[i] = bits_as<Floats>(bits << 16);
            else
                result.part[i] = widened_half<Bits, Floats>(bits);
        }
        return result;
    }
}
template <class T, int bytes>
FUSEDCAM_INLINE void store(T* to, const Vector<T, bytes>& value) {
    std::memcpy(to, &value, sizeof value);
}

// The last `count` lanes of `value`, zeros before them, also where `value` is NaN.
template <class T>
FUSEDCAM_INLINE Vector<T> last_lanes(int64_t count, const Vector<T>& value) {
    using Lanes = IntegerOf<T>;
    using Part = typename Register<Lanes>::type;
    struct Table {
        Lanes lane[2 * lanes<T>];
    };
    static constexpr Table table = [] {
        Table made{};
        for (int i = lanes<T>; i < 2 * lanes<T>; ++i) made.lane[i] = -1;
        return made;
    }();
    Vector<T> result;
    for (int i = 0; i < result.parts; ++i) {
        const Part mask = load_as<Part>(table.lane + count + i * (lanes<T> / result.parts));
        result.part[i] = bits_as<typename Vector<T>::Part>(mask & bits_as<Part>(value.part[i]));
    }
    return result;
}

// Sums of the lanes: of halves, then quarters, then neighbours. Of four vectors at once.
FUSEDCAM_INLINE void sums_of(const Vector<float> (&values)[4], float* sums) {
    typedef float Four __attribute__((vector_size(16)));
    Four four[4];
    for (int i = 0; i < 4; ++i) {
        Four half[2];
        std::memcpy(half, &values[i], sizeof half);
        four[i] = half[0] + half[1];
    }
    const Four a = __builtin_shufflevector(four[0], four[1], 0, 4, 1, 5),
               b = __builtin_shufflevector(four[0], four[1], 2, 6, 3, 7),
               c = __builtin_shufflevector(four[2], four[3], 0, 4, 1, 5),
               d = __builtin_shufflevector(four[2], four[3], 2, 6, 3, 7);
    const Four ab = a + b, cd = c + d;  // of the first, of the second; then the other halves
    const Four first = __builtin_shufflevector(ab, cd, 0, 1, 4, 5),
               second = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    const Four all = first + second;
    std::memcpy(sums, &all, sizeof all);
}
FUSEDCAM_INLINE void sums_of(const Vector<double> (&values)[4], double* sums) {
    for (int i = 0; i < 4; ++i) {
        double lane[4];
        std::memcpy(lane, &values[i], sizeof lane);
        sums[i] = (lane[0] + lane[2]) + (lane[1] + lane[3]);
    }
}
template <class T>
FUSEDCAM_INLINE T sum_of(const Vector<T>& value) {
    T sums[4];
    sums_of({value, value, value, value}, sums);
    return sums[0];
}

}  // namespace
}  // namespace fusedcam::cpu
