// resize on the CPU: a map onto another grid, normalised by the extremes of what is written.
#include "resample.hpp"

namespace fusedcam::cpu {
namespace {

template <class T>
void run(const ResizeCall& call) {
    for_each_map<T>(call.heatmap, {call.out.extent(-2), call.out.extent(-1)}, call.normalize, call.work,
                    [&](int64_t index, const Resampled<T>& map, const Rescale<T>& rescale, int64_t begin, int64_t end,
                        T* row) { write_rows(map, rescale, call.out, call.out.offset(index, 2), begin, end, row); });
}

}  // namespace

void resize(const ResizeCall& call) {
    if (call.result.count() == 0) return;
    if (call.heatmap.dtype == DType::float64)
        run<double>(call);
    else
        run<float>(call);
}

}  // namespace fusedcam::cpu
