// Rows of values to rows of colours, alone or blended with an image's. Included by kernels.cpp.
#pragma once

#include "../colour.hpp"
#include "kernels.hpp"
#include "simd.hpp"

namespace fusedcam::cpu {
namespace {

template <class T>
FUSEDCAM_INLINE int32_t index_of(T value) {
    const int32_t found = colour_index(value);
    return value == value ? found : unknown_colour;
}

#if defined(__AVX2__) && defined(__FMA__)
// colour_index of some values at once: the whole part of 255 v + 1/2, which a fused multiplication and addition rounds
// once. To nearest, that may reach the next whole number where the sum is just below it, never one below, so the sign
// of 255 v - (k - 1/2) puts it right; downwards it cannot.
#if defined(__AVX512VBMI__)
constexpr int indexed = 16;
FUSEDCAM_INLINE bool store_indices(const float* from, int32_t* to) {
    const __m512 value = _mm512_loadu_ps(from), zero = _mm512_setzero_ps();
    const __m512 bounded = _mm512_min_ps(_mm512_max_ps(value, zero), _mm512_set1_ps(1));  // NaN becomes 0
    const __m512 sum = _mm512_fmadd_round_ps(bounded, _mm512_set1_ps(255), _mm512_set1_ps(0.5f),
                                             _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    const __mmask16 unknown = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i found = _mm512_cvttps_epi32(sum);
    _mm512_storeu_si512(to, _mm512_mask_blend_epi32(unknown, found, _mm512_set1_epi32(unknown_colour)));
    return unknown == 0;
}
#else
constexpr int indexed = 8;
FUSEDCAM_INLINE bool store_indices(const float* from, int32_t* to) {
    const __m256 value = _mm256_loadu_ps(from), half = _mm256_set1_ps(0.5f), scale = _mm256_set1_ps(255);
    const __m256i known = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_EQ_OQ));
    const __m256 bounded = _mm256_min_ps(_mm256_max_ps(value, _mm256_setzero_ps()), _mm256_set1_ps(1));
    const __m256i first = _mm256_cvttps_epi32(_mm256_fmadd_ps(bounded, scale, half));
    const __m256 below = _mm256_fmsub_ps(bounded, scale, _mm256_sub_ps(_mm256_cvtepi32_ps(first), half));
    const __m256i less = _mm256_castps_si256(_mm256_cmp_ps(below, _mm256_setzero_ps(), _CMP_LT_OQ));
    const __m256i found = _mm256_add_epi32(first, less);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_blendv_epi8(_mm256_set1_epi32(unknown_colour), found, known));
    return _mm256_movemask_epi8(known) == -1;
}
#endif
#endif

template <class T>
bool index_row(const T* row, int64_t width, int32_t* index) {
    int64_t x = 0;
    bool all_known = true;
#if defined(__AVX2__) && defined(__FMA__)
    if constexpr (sizeof(T) == 4)
        for (; x + indexed <= width; x += indexed) all_known &= store_indices(row + x, index + x);
#endif
    for (; x < width; ++x) {
        index[x] = index_of(row[x]);
        all_known &= row[x] == row[x];
    }
    return all_known;
}

#if defined(__AVX512VBMI__)
// Where each byte of 64 packed pixels comes from: red and green, then blue, in the place of its own pixel.
struct Packing {
    alignas(64) uint8_t pixel[3][64];  // for green, counted on from red's last
    uint64_t blue[3];
};
constexpr Packing packing = [] {
    Packing made{};
    for (int i = 0; i < 192; ++i) {
        made.pixel[i / 64][i % 64] = static_cast<uint8_t>(i / 3 + (i % 3 == 1 ? 64 : 0));
        if (i % 3 == 2) made.blue[i / 64] |= uint64_t{1} << i % 64;
    }
    return made;
}();

// The first `count` of 64 lanes.
FUSEDCAM_INLINE uint64_t first_lanes(int64_t count) {
    return count <= 0 ? 0 : count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// The palette stays in twelve registers, in which 64 pixels are looked up at once.
void colour_row(const int32_t* index, int64_t width, const Colours& colours, uint8_t* out) {
    __m512i table[3][4], from[3];
    for (int c = 0; c < 3; ++c) {
        for (int i = 0; i < 4; ++i) table[c][i] = _mm512_loadu_si512(colours.planes[c] + 64 * i);
        from[c] = _mm512_load_si512(packing.pixel[c]);
    }
    const auto colour = [&](int64_t x, auto whole) FUSEDCAM_LAMBDA {
        const int64_t count = width - x;
        __m128i low[4];
        uint64_t known = 0;
        for (int i = 0; i < 4; ++i) {
            const auto mask = static_cast<__mmask16>(whole ? 0xffff : first_lanes(count - 16 * i));
            const __m512i found = _mm512_maskz_loadu_epi32(mask, index + x + 16 * i);
            low[i] = _mm512_cvtepi32_epi8(found);
            known |= uint64_t{_mm512_testn_epi32_mask(found, _mm512_set1_epi32(unknown_colour))} << 16 * i;
        }
        const __m512i at = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i(low[1], low[0])),
                                              _mm256_set_m128i(low[3], low[2]), 1);
        __m512i plane[3];
        for (int c = 0; c < 3; ++c) {
            const __m512i lower = _mm512_permutex2var_epi8(table[c][0], at, table[c][1]),
                          upper = _mm512_permutex2var_epi8(table[c][2], at, table[c][3]);
            plane[c] = _mm512_maskz_mov_epi8(known, _mm512_mask_blend_epi8(_mm512_movepi8_mask(at), lower, upper));
        }
        for (int i = 0; i < 3; ++i) {
            const __m512i red_green = _mm512_permutex2var_epi8(plane[0], from[i], plane[1]);
            const __m512i packed = _mm512_mask_permutexvar_epi8(red_green, packing.blue[i], from[i], plane[2]);
            uint8_t* to = out + 3 * x + 64 * i;
            if (whole)
                _mm512_storeu_si512(to, packed);
            else
                _mm512_mask_storeu_epi8(to, first_lanes(3 * count - 64 * i), packed);
        }
    };
    int64_t x = 0;
    for (; x + 64 <= width; x += 64) colour(x, std::true_type{});
    if (x < width) colour(x, std::false_type{});
}
#else
// More bytes are written than pixels have; they are the next ones', which come next. The last pixel is the caller's.
void colour_row(const int32_t* index, int64_t width, const Colours& colours, uint8_t* out) {
    const auto colour = [&](int64_t x) FUSEDCAM_LAMBDA { return load_as<uint32_t>(colours.rows[index[x]]); };
    int64_t x = 0;
    for (; x + 3 < width; x += 2) {  // eight bytes for six
        const uint64_t two = uint64_t{colour(x)} | uint64_t{colour(x + 1)} << 24;
        std::memcpy(out + 3 * x, &two, 8);
    }
    for (; x + 1 < width; ++x) std::memcpy(out + 3 * x, colours.rows[index[x]], 4);
}
#endif

// As colour.hpp's nearest, for a pixel's three values and a fourth that is not used.
FUSEDCAM_INLINE uint32_t blended(uint32_t image, const double* above, double rest) {
#if defined(__AVX2__)
    const __m256d below = _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(static_cast<int>(image))));
    const __m256d value = _mm256_add_pd(_mm256_mul_pd(_mm256_set1_pd(rest), below), _mm256_loadu_pd(above));
    const __m128i whole = _mm256_cvttpd_epi32(_mm256_add_pd(value, _mm256_set1_pd(0.5)));
    const __m128i words = _mm_packus_epi32(whole, whole);
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_packus_epi16(words, words)));
#else
    uint32_t all = 0;
    for (int c = 0; c < 3; ++c) {
        const double below = static_cast<double>(image >> 8 * c & 0xff);
        all |= static_cast<uint32_t>(nearest(rest * below + above[c])) << 8 * c;
    }
    return all;
#endif
}

void blend_row(const int32_t* index, int64_t width, const double* above, double rest, const uint8_t* image,
               uint8_t* out) {
    for (int64_t x = 0; x + 1 < width; ++x) {
        const uint32_t value = blended(load_as<uint32_t>(image + 3 * x), above + 4 * index[x], rest);
        std::memcpy(out + 3 * x, &value, 4);
    }
}

void mix_row(const uint8_t* colours, const uint8_t* image, int64_t count, int share, uint8_t* out) {
    if (share == 128) {  // an average, for which there is an instruction
        for (int64_t i = 0; i < count; ++i) out[i] = static_cast<uint8_t>((colours[i] + image[i] + 1) >> 1);
        return;
    }
    const auto of_colour = static_cast<uint16_t>(share), of_image = static_cast<uint16_t>(256 - share);
    for (int64_t i = 0; i < count; ++i)
        out[i] = static_cast<uint8_t>(static_cast<uint16_t>(of_colour * colours[i] + of_image * image[i] + 128) >> 8);
}

constexpr PaintKernels paint_kernels{index_row<float>, index_row<double>, colour_row, blend_row, mix_row};

}  // namespace
}  // namespace fusedcam::cpu
