// resize on CUDA: a map onto another grid, normalised by the extremes of what is written.
#include "drawing.hpp"
#include "volumes.hpp"

namespace fusedcam::cuda {
namespace {

Frame frame_of(const ResizeCall& call) {
    return {call.heatmap.extent(-2), call.heatmap.extent(-1), call.size.height, call.size.width};
}

VolumeDrawing volumes_of(const ResizeCall& call, const Device& device) {
    const ArrayView& from = call.heatmap;
    return plan_volumes({from.extent(-2), from.extent(-1), from.extent(-3)}, call.size, call.normalize,
                        from.count_sub(3), device);
}

template <class T>
void run(const ResizeCall& call, const Queue& queue) {
    if (call.volumes()) {
        const OnDevice here(queue.device);
        const Device& facts = device(queue.device);
        draw_volumes<T>(volumes_of(call, facts), call.heatmap, 0, call.out, 0, call.heatmap.count_sub(3),
                        static_cast<Extremes<T>*>(queue.workspace), facts, queue);
        return;
    }
    const Output out = output_of<T>(call.maps());
    draw_maps<T>(call.heatmap, frame_of(call), call.normalize, queue, 0,
                 [&](const Device& facts, const Drawing& drawing, const Grid& grid, int64_t first) {
                     launch(resize_maps<T>, facts, queue, grid, drawing, call.heatmap, first, out, first);
                 });
}

template <class T>
int64_t workspace_of(const ResizeCall& call, int index) {
    if (!call.volumes()) return draw_workspace<T>(call.heatmap, frame_of(call), call.normalize, index);
    return range_count<T>(volumes_of(call, device(index)), call.heatmap.count_sub(3)) *
           static_cast<int64_t>(sizeof(Extremes<T>));
}

}  // namespace

int64_t workspace(const ResizeCall& call, int index) {
    if (call.result.count() == 0) return 0;
    if (call.heatmap.dtype == DType::float64) return workspace_of<double>(call, index);
    return workspace_of<float>(call, index);
}

void resize(const ResizeCall& call, const Queue& queue) {
    if (call.result.count() == 0) return;
    if (call.heatmap.dtype == DType::float64)
        run<double>(call, queue);
    else
        run<float>(call, queue);
}

}  // namespace fusedcam::cuda
