// Compiled once for every instruction set, as `FUSEDCAM_LEVEL`. Everything but the table is this file's own: a function
// that another file has too could be taken from here by the linker and run where there are no such instructions.
#include "draw_kernels.hpp"
#include "mask_kernels.hpp"
#include "paint_kernels.hpp"
#include "row_kernels.hpp"
#include "stretch_kernels.hpp"

#define FUSEDCAM_QUOTED(name) #name
#define FUSEDCAM_NAME(name) FUSEDCAM_QUOTED(name)

namespace fusedcam::cpu {
namespace {

template <class T, class Element, class... Rules>
constexpr void fill(RowKernels<T, Element> (&table)[Kernels::rules], const std::tuple<Rules...>*) {
    int at = 0;
    ((table[at++] = row_kernels<T, Element, Rules>), ...);
}

constexpr Kernels make() {
    constexpr const rules::All* all = nullptr;
    Kernels made{};
    made.name = FUSEDCAM_NAME(FUSEDCAM_LEVEL);
    fill(made.float32, all);
    fill(made.float16, all);
    fill(made.bfloat16, all);
    fill(made.float64, all);
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
