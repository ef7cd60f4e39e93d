// resize on CUDA: a map onto another grid, normalised by the extremes of what is written.
#include "drawing.hpp"

namespace fusedcam::cuda {
namespace {

Frame frame_of(const ResizeCall& call) {
    return {call.heatmap.extent(-2), call.heatmap.extent(-1), call.result[-2], call.result[-1]};
}

template <class T>
void run(const ResizeCall& call, const Queue& queue) {
    draw_maps<T>(call.heatmap, frame_of(call), call.normalize, queue, 0,
                 [&](const Device& facts, const Drawing& drawing, const Grid& grid, int64_t first) {
                     launch(resize_maps<T>, facts, queue, grid, drawing, call.heatmap, first, output_of<T>(call.out),
                            first);
                 });
}

}  // namespace

int64_t workspace(const ResizeCall& call, int index) {
    if (call.heatmap.dtype == DType::float64)
        return draw_workspace<double>(call.heatmap, frame_of(call), call.normalize, index);
    return draw_workspace<float>(call.heatmap, frame_of(call), call.normalize, index);
}

void resize(const ResizeCall& call, const Queue& queue) {
    if (call.result.count() == 0) return;
    if (call.heatmap.dtype == DType::float64)
        run<double>(call, queue);
    else
        run<float>(call, queue);
}

}  // namespace fusedcam::cuda
