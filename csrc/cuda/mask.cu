// mask on CUDA: resampled, normalised and multiplied with the image, the mask never written.
#include "drawing.hpp"
#include "mask.cuh"

namespace fusedcam::cuda {
namespace {

Frame frame_of(const MaskCall& call) {
    return {call.heatmap.extent(2), call.heatmap.extent(3), call.image.extent(2), call.image.extent(3)};
}

// Whether four pixels of a row are neighbours, and lie at a multiple of their size wherever they begin at one of four.
bool in_runs(const ArrayView& picture) {
    const int64_t size = item_size(picture.dtype), run = size < 4 ? 8 : 16;
    bool all = picture.stride(-1) == 1 && reinterpret_cast<uintptr_t>(picture.data) % static_cast<size_t>(run) == 0;
    for (int axis = 0; axis + 1 < picture.shape.rank; ++axis)
        all = all && (picture.extent(axis) == 1 || picture.stride(axis) * size % run == 0);
    return all;
}

template <class T>
void run(const MaskCall& call, const Queue& queue) {
    const Masking masking{call.image,          call.noise,       call.out, call.heatmap.extent(1),
                          in_runs(call.image), in_runs(call.out)};
    draw_maps<T>(call.heatmap, frame_of(call), call.normalize, queue, 0,
                 [&](const Device& facts, const Drawing& drawing, const Grid& grid, int64_t first) {
                     launch(mask_maps<T>, facts, queue, grid, drawing, call.heatmap, masking, first);
                 });
}

}  // namespace

int64_t workspace(const MaskCall& call, int index) {
    if (call.heatmap.dtype == DType::float64)
        return draw_workspace<double>(call.heatmap, frame_of(call), call.normalize, index);
    return draw_workspace<float>(call.heatmap, frame_of(call), call.normalize, index);
}

void mask(const MaskCall& call, const Queue& queue) {
    if (call.result.count() == 0) return;
    if (call.heatmap.dtype == DType::float64)
        run<double>(call, queue);
    else
        run<float>(call, queue);
}

}  // namespace fusedcam::cuda
