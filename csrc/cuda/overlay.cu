// overlay and colorize on CUDA: resampled, normalised, coloured and blended into bytes, the float map never written.
#include <cstring>

#include "drawing.hpp"

namespace fusedcam::cuda {
namespace {

template <class Call>
Frame frame_of(const Call& call) {
    return {call.heatmap.extent(-2), call.heatmap.extent(-1), call.result[-3], call.result[-2]};
}

// Whether four pixels of a row are three words wherever they begin at a multiple of four.
bool in_words(const ArrayView& picture) {
    bool all = picture.dtype == DType::uint8 && picture.stride(-1) == 1 && picture.stride(-2) == 3 &&
               reinterpret_cast<uintptr_t>(picture.data) % 4 == 0;
    for (int axis = 0; axis < picture.shape.rank - 2; ++axis)
        all = all && (picture.extent(axis) == 1 || picture.stride(axis) % 4 == 0);
    return all;
}

template <class Call>
Painting painting_of(const Call& call) {
    Painting painting{};
    if constexpr (requires { call.image; }) {
        painting.image = call.image;
        painting.alpha = call.alpha;
    }
    painting.out = call.out;
    std::memcpy(painting.palette, call.palette, sizeof painting.palette);
    painting.packed = in_words(painting.out);
    painting.image_packed = painting.image.data && in_words(painting.image);
    return painting;
}

template <class T, class Call>
void run(const Call& call, const Queue& queue) {
    const Painting painting = painting_of(call);
    draw_maps<T>(call.heatmap, frame_of(call), call.normalize, queue, palette_bytes,
                 [&](const Device& facts, const Drawing& drawing, const Grid& grid, int64_t first) {
                     launch(paint_maps<T>, facts, queue, grid, drawing, call.heatmap, painting, first);
                 });
}

template <class Call>
void paint_call(const Call& call, const Queue& queue) {
    if (call.result.count() == 0) return;
    if (call.heatmap.dtype == DType::float64)
        run<double>(call, queue);
    else
        run<float>(call, queue);
}

template <class Call>
int64_t workspace_of(const Call& call, int index) {
    if (call.heatmap.dtype == DType::float64)
        return draw_workspace<double>(call.heatmap, frame_of(call), call.normalize, index);
    return draw_workspace<float>(call.heatmap, frame_of(call), call.normalize, index);
}

}  // namespace

int64_t workspace(const ColorizeCall& call, int index) { return workspace_of(call, index); }
int64_t workspace(const OverlayCall& call, int index) { return workspace_of(call, index); }

void colorize(const ColorizeCall& call, const Queue& queue) { paint_call(call, queue); }
void overlay(const OverlayCall& call, const Queue& queue) { paint_call(call, queue); }

}  // namespace fusedcam::cuda
