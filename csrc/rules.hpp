// One small struct per CAM method. Included by the CPU's and CUDA's kernels alike.
//
// A rule of weights gives a channel c one weight and adds weight_c A_c. It says what is summed over the channel's
// pixels for it (`term`), from the activation a, the gradient g (or its moments) and, where the rule sums activations,
// their sum over the channel. The weight is that sum's mean where the rule averages, else what `weight` makes of it. A
// rule of products has no weight: it adds `product` of every pixel.
//
// V is a number or a vector of numbers; positive_part and friends are found beside it.
#pragma once

#include <string_view>
#include <tuple>
#include <type_traits>

#include "dtype.hpp"

namespace fusedcam::rules {

// The ReLU that keeps NaN.
template <class T>
FUSEDCAM_HD std::enable_if_t<std::is_floating_point_v<T>, T> positive_part(T value) {
    return value < T(0) ? T(0) : value;
}
// `value` where the divisor is not zero; zero where it is.
template <class T>
FUSEDCAM_HD std::enable_if_t<std::is_floating_point_v<T>, T> unless_zero(T divisor, T value) {
    return divisor == T(0) ? T(0) : value;
}

// What Grad-CAM++ and Smooth Grad-CAM++ divide, apart from their rules: slopes.hpp has slopes of its own for them,
// since the quotient rule's would be lost in float32, to the difference of nearly equal numbers and to eps / g^3.
template <class V, class T>
FUSEDCAM_HD V plusplus_term(const V& positive, const V& sum, T eps) {
    V divisor = V(T(2)) + sum * positive;
    if (eps == T(0)) return unless_zero(divisor, positive / divisor);
    divisor = divisor + V(eps) / (positive * positive);
    return unless_zero(positive, unless_zero(divisor, positive / divisor));
}
template <class V, class T>
FUSEDCAM_HD V smooth_plusplus_term(const V& positive, const V& second, const V& third, const V& sum, T eps) {
    const V divisor = V(T(2)) * second + sum * third + V(eps);
    return unless_zero(divisor, positive * (second / divisor));
}

// What rules of weights have unless they say otherwise.
struct Weights {
    static constexpr bool weights = true;
    static constexpr bool averages = true;            // the weight is the mean of the terms
    static constexpr bool sums_activations = false;   // `term` takes their sum over the channel
    static constexpr bool reads_activations = false;  // `term` takes the pixel's own
    static constexpr int moments = 1;                 // arrays of gradients
    static constexpr bool has_eps = false;
};
struct Products {
    static constexpr bool weights = false, averages = false, sums_activations = false, reads_activations = true;
    static constexpr int moments = 1;
    static constexpr bool has_eps = false;
};

// Grad-CAM (Selvaraju et al. 2017, equations 1 and 2): alpha_c = mean over space of dy/dA_c, L = sum_c alpha_c A_c.
struct GradCam : Weights {
    static constexpr std::string_view name = "gradcam";

    template <class V, class T>
    FUSEDCAM_HD static V term(const V&, const V (&g)[1], const V&, T) {
        return g[0];
    }
};

// Grad-CAM++ (Chattopadhay et al. 2018, for scores exp(S)): w_c = sum of alpha relu(g), alpha = g^2 / (2 g^2 + sum(A)
// g^3), which for g > 0 makes g / (2 + sum(A) g); a pixel whose denominator is 0 counts 0. Other packages' eps in the
// denominator of alpha is eps / g^2 in this one.
struct GradCamPlusPlus : Weights {
    static constexpr std::string_view name = "gradcam++";
    static constexpr bool averages = false, sums_activations = true, has_eps = true;

    template <class V, class T>
    FUSEDCAM_HD static V term(const V&, const V (&g)[1], const V& sum, T eps) {
        return plusplus_term(positive_part(g[0]), sum, eps);
    }
    template <class T>
    FUSEDCAM_HD static T weight(T sum, T, T) {
        return sum;
    }
};

// Smooth Grad-CAM++ (Omeiza et al. 2019): as Grad-CAM++, each power of g its mean over noisy inputs.
struct SmoothGradCamPlusPlus : Weights {
    static constexpr std::string_view name = "smoothgradcam++";
    static constexpr bool averages = false, sums_activations = true, has_eps = true;
    static constexpr int moments = 3;

    template <class V, class T>
    FUSEDCAM_HD static V term(const V&, const V (&g)[3], const V& sum, T eps) {
        return smooth_plusplus_term(positive_part(g[0]), g[1], g[2], sum, eps);
    }
    template <class T>
    FUSEDCAM_HD static T weight(T sum, T, T) {
        return sum;
    }
};

// XGrad-CAM (Fu et al. 2020): w_c = sum of g A / sum(A); a channel whose activations sum to 0 counts 0.
struct XGradCam : Weights {
    static constexpr std::string_view name = "xgradcam";
    static constexpr bool averages = false, sums_activations = true, reads_activations = true, has_eps = true;

    template <class V, class T>
    FUSEDCAM_HD static V term(const V& a, const V (&g)[1], const V&, T) {
        return g[0] * a;
    }
    template <class T>
    FUSEDCAM_HD static T weight(T sum, T activations, T eps) {
        return unless_zero(activations + eps, sum / (activations + eps));
    }
};

// HiResCAM (Draelos and Carin 2020): L = sum_c g A.
struct HiResCam : Products {
    static constexpr std::string_view name = "hirescam";

    template <class V>
    FUSEDCAM_HD static V product(const V& a, const V& g) {
        return g * a;
    }
};

// LayerCAM (Jiang et al. 2021): L = sum_c relu(g) A.
struct LayerCam : Products {
    static constexpr std::string_view name = "layercam";

    template <class V>
    FUSEDCAM_HD static V product(const V& a, const V& g) {
        return positive_part(g) * a;
    }
};

// Element-wise Grad-CAM, as pytorch-grad-cam has it: L = sum_c relu(g A).
struct GradCamElementWise : Products {
    static constexpr std::string_view name = "gradcam_elementwise";

    template <class V>
    FUSEDCAM_HD static V product(const V& a, const V& g) {
        return positive_part(g * a);
    }
};

// Grad-CAM+ (Lerma and Lucas 2022): Grad-CAM with the positive gradients alone, alpha_c = mean over space of relu(g).
struct GradCamPlus : Weights {
    static constexpr std::string_view name = "gradcam+";

    template <class V, class T>
    FUSEDCAM_HD static V term(const V&, const V (&g)[1], const V&, T) {
        return positive_part(g[0]);
    }
};

using All = std::tuple<GradCam, GradCamPlusPlus, SmoothGradCamPlusPlus, XGradCam, HiResCam, LayerCam,
                       GradCamElementWise, GradCamPlus>;

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
