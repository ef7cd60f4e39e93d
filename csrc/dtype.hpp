// Element types, their conversion to the type sums are kept in, and the only switch over them.
#pragma once

#include <bit>
#include <cstdint>
#include <stdexcept>
#include <type_traits>

// Always inline on the host: the same functions are compiled for several instruction sets, and none may be called from
// code for another.
#if defined(__CUDACC__)
#define FUSEDCAM_HD __host__ __device__ __forceinline__
#else
#define FUSEDCAM_HD [[gnu::always_inline]] inline
#endif

namespace fusedcam {

enum class DType : uint8_t { float32, float16, bfloat16, float64, uint8 };

struct Float16 {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

constexpr int64_t item_size(DType dtype) {
    switch (dtype) {
        case DType::float32: return 4;
        case DType::float64: return 8;
        case DType::uint8: return 1;
        default: return 2;
    }
}

constexpr const char* name(DType dtype) {
    switch (dtype) {
        case DType::float32: return "float32";
        case DType::float16: return "float16";
        case DType::bfloat16: return "bfloat16";
        case DType::float64: return "float64";
        default: return "uint8";
    }
}

constexpr bool is_floating(DType dtype) { return dtype != DType::uint8; }

// Sums of float64 stay float64; everything else is summed, resampled and returned in float32.
constexpr DType result_dtype(DType dtype) { return dtype == DType::float64 ? DType::float64 : DType::float32; }

FUSEDCAM_HD float widen(float value) { return value; }
FUSEDCAM_HD double widen(double value) { return value; }
FUSEDCAM_HD float widen(uint8_t value) { return static_cast<float>(value); }
FUSEDCAM_HD float widen(BFloat16 value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

// Branch-free, so that loops over it vectorise. Subnormals take their value from a subtraction of two normal
// numbers: torch.set_flush_denormal(True) would otherwise turn them into zeros.
FUSEDCAM_HD float widen(Float16 value) {
    const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
    const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
    const uint32_t exponent = magnitude & 0x0f800000u;
    const uint32_t normal = magnitude + (112u << 23);
    const uint32_t special = magnitude + (224u << 23);  // infinity and NaN
    const uint32_t subnormal =
        std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude + (113u << 23)) - std::bit_cast<float>(113u << 23));
    const uint32_t finite = exponent == 0 ? subnormal : normal;
    return std::bit_cast<float>(sign | (exponent == 0x0f800000u ? special : finite));
}

// The type that elements are computed with.
template <class Element>
using WideOf = std::conditional_t<std::is_same_v<Element, double>, double, float>;

// To the nearest element, ties to even; beyond the largest it is infinity. NaN keeps its upper bits and becomes quiet.
// Branch-free, as widen.
template <class Element>
FUSEDCAM_HD Element narrow(WideOf<Element> value) {
    if constexpr (std::is_same_v<Element, BFloat16>) {
        const uint32_t bits = std::bit_cast<uint32_t>(value), rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
        return {static_cast<uint16_t>(value != value ? (bits >> 16 | 0x40u) : rounded)};
    } else if constexpr (std::is_same_v<Element, Float16>) {
        const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
        const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
        // The sum's last place is that of float16's subnormals.
        const uint32_t subnormal =
            std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - std::bit_cast<uint32_t>(0.5f);
        const uint32_t finite = magnitude < (113u << 23) ? subnormal : normal;
        const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u | (magnitude >> 13 & 0x3ffu) : 0x7c00u;
        const uint32_t all = magnitude >= (143u << 23) ? special : finite;
        return {static_cast<uint16_t>((bits >> 16 & 0x8000u) | all)};
    } else {
        return value;
    }
}

// Calls visitor with a value of the C++ type that dtype names.
template <class Visitor>
decltype(auto) visit_dtype(DType dtype, Visitor&& visitor) {
    switch (dtype) {
        case DType::float32: return visitor(float{});
        case DType::float16: return visitor(Float16{});
        case DType::bfloat16: return visitor(BFloat16{});
        case DType::float64: return visitor(double{});
        case DType::uint8: return visitor(uint8_t{});
    }
    throw std::logic_error("fusedcam: unknown dtype");
}

}  // namespace fusedcam
