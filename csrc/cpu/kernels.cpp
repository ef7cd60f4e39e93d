// Compiled once for every instruction set, as `FUSEDCAM_LEVEL`. Everything but the table is this file's own: a function
// that another file has too could be taken from here by the linker and run where there are no such instructions.
#include "draw_kernels.hpp"
#include "fold_kernels.hpp"
#include "mask_kernels.hpp"
#include "paint_kernels.hpp"
#include "row_kernels.hpp"
#include "slope_kernels.hpp"
#include "stretch_kernels.hpp"

#define FUSEDCAM_QUOTED(name) #name
#define FUSEDCAM_NAME(name) FUSEDCAM_QUOTED(name)

namespace fusedcam::cpu {
namespace {

template <class T, class Element, class... Rules>
constexpr SumKernels<T, Element> sum_kernels(const std::tuple<Rules...>*) {
    return {row_kernels<T, Element>, {rule_kernels<T, Element, Rules>...}};
}

template <class T, class... Rules>
constexpr SlopeKernels<T> slope_kernels(const std::tuple<Rules...>*) {
    return {{slopes<Rules, T>...}};
}

constexpr Kernels make() {
    constexpr const rules::All* all = nullptr;
    Kernels made{};
    made.name = FUSEDCAM_NAME(FUSEDCAM_LEVEL);
    made.float32 = sum_kernels<float, float>(all);
    made.float16 = sum_kernels<float, Float16>(all);
    made.bfloat16 = sum_kernels<float, BFloat16>(all);
    made.float64 = sum_kernels<double, double>(all);
    made.slopes32 = slope_kernels<float>(all);
    made.slopes64 = slope_kernels<double>(all);
    made.draw32 = draw_kernels<float>;
    made.draw64 = draw_kernels<double>;
    made.paint = paint_kernels;
    made.mask = mask_kernels;
    made.stretch32 = stretch_kernels<float>;
    made.stretch64 = stretch_kernels<double>;
    return made;
}

}  // namespace

namespace FUSEDCAM_LEVEL {
extern constinit const Kernels table;
constinit const Kernels table = make();
}  // namespace FUSEDCAM_LEVEL

}  // namespace fusedcam::cpu
