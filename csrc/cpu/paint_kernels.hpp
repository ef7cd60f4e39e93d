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
// colour_index of eight values at once: rounded in float32, which may be off by one where 255 v is near a half, and put
// right by the sign of 255 v - (k +- 1/2), which a fused multiplication and addition has exactly.
FUSEDCAM_INLINE __m256i indices(__m256 value, __m256i* known) {
    const __m256 one = _mm256_set1_ps(1), half = _mm256_set1_ps(0.5f), scale = _mm256_set1_ps(255);
    *known = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_EQ_OQ));
    const __m256 bounded = _mm256_min_ps(_mm256_max_ps(value, _mm256_setzero_ps()), one);  // NaN becomes 0
    const __m256i first = _mm256_cvttps_epi32(_mm256_fmadd_ps(bounded, scale, half));
    const __m256 place = _mm256_cvtepi32_ps(first);
    const __m256 above = _mm256_fmsub_ps(bounded, scale, _mm256_add_ps(place, half)),
                 below = _mm256_fmsub_ps(bounded, scale, _mm256_sub_ps(place, half));
    const __m256i more = _mm256_castps_si256(_mm256_cmp_ps(above, _mm256_setzero_ps(), _CMP_GE_OQ)),
                  less = _mm256_castps_si256(_mm256_cmp_ps(below, _mm256_setzero_ps(), _CMP_LT_OQ));
    const __m256i found = _mm256_add_epi32(_mm256_sub_epi32(first, more), less);
    return _mm256_blendv_epi8(_mm256_set1_epi32(unknown_colour), found, *known);
}
#endif

template <class T>
bool index_row(const T* row, int64_t width, int32_t* index) {
    int64_t x = 0;
    bool all_known = true;
#if defined(__AVX2__) && defined(__FMA__)
    if constexpr (sizeof(T) == 4) {
        __m256i known, every = _mm256_set1_epi32(-1);
        for (; x + 8 <= width; x += 8) {
            const __m256i found = indices(_mm256_loadu_ps(row + x), &known);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(index + x), found);
            every = _mm256_and_si256(every, known);
        }
        all_known = _mm256_movemask_epi8(every) == -1;
    }
#endif
    for (; x < width; ++x) {
        index[x] = index_of(row[x]);
        all_known &= row[x] == row[x];
    }
    return all_known;
}

// More bytes are written than pixels have; they are the next ones', which come next. The last pixel is the caller's.
void colour_row(const int32_t* index, int64_t width, const uint8_t* palette, uint8_t* out) {
    const auto colour = [&](int64_t x) FUSEDCAM_LAMBDA {
        return uint64_t{load_as<uint32_t>(palette + 4 * static_cast<size_t>(index[x]))};
    };
    int64_t x = 0;
    for (; x + 3 < width; x += 2) {  // eight bytes for six
        const uint64_t two = colour(x) | colour(x + 1) << 24;
        std::memcpy(out + 3 * x, &two, 8);
    }
    for (; x + 1 < width; ++x) std::memcpy(out + 3 * x, palette + 4 * static_cast<size_t>(index[x]), 4);
}

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
