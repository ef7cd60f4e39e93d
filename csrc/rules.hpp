// One small struct per CAM method: how pooled gradients become a channel's weight and how the weight acts on an
// activation. Included by the CPU's and CUDA's kernels alike.
#pragma once

#include <string_view>
#include <tuple>

#include "dtype.hpp"

namespace fusedcam::rules {

// Grad-CAM (Selvaraju et al. 2017, equations 1 and 2): alpha_c = mean over space of dy/dA_c, L = sum_c alpha_c A_c.
struct GradCam {
    static constexpr std::string_view name = "gradcam";

    // What is averaged over space for one channel.
    template <class T>
    FUSEDCAM_HD static T gather(T gradient) {
        return gradient;
    }
    // alpha_c from that mean.
    template <class T>
    FUSEDCAM_HD static T weight(T mean) {
        return mean;
    }
    // The term of channel c at one pixel.
    template <class T>
    FUSEDCAM_HD static T apply(T activation, T weight) {
        return weight * activation;
    }
};

using All = std::tuple<GradCam>;

// Calls visitor with the rule of that name; false if there is none.
template <class Visitor>
bool visit(std::string_view name, Visitor&& visitor) {
    return std::apply([&](auto... rule) { return ((decltype(rule)::name == name && (visitor(rule), true)) || ...); },
                      All{});
}

// The place of that name in `All`, for kernels, which know methods by number; -1 if there is none.
constexpr int index_of(std::string_view name) {
    return std::apply(
        [&](auto... rule) {
            int index = -1, next = 0;
            ((decltype(rule)::name == name ? void(index = next++) : void(++next)), ...);
            return index;
        },
        All{});
}

// Calls visitor with the rule at that place.
template <int first = 0, class Visitor>
FUSEDCAM_HD void with(int index, Visitor&& visitor) {
    if constexpr (first < static_cast<int>(std::tuple_size_v<All>)) {
        if (index == first)
            visitor(std::tuple_element_t<first, All>{});
        else
            with<first + 1>(index, visitor);
    }
}

}  // namespace fusedcam::rules
