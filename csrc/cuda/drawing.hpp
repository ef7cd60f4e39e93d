// Host side of drawing: tiles, shared memory, and the extra pass for maps that no block can hold.
#pragma once

#include <algorithm>

#include "draw.cuh"
#include "launch.hpp"

namespace fusedcam::cuda {

template <class T>
int64_t draw_bytes(const Drawing& drawing, int64_t more = 0) {
    Carve carve(nullptr);
    carve.take<uint8_t>(more);
    DrawSpace<T>(carve, drawing);
    return carve.bytes();
}

// Small maps go to shared memory while they leave room for four blocks on a multiprocessor.
template <class T>
Drawing plan_drawing(const Frame& frame, Normalization normalize, int64_t maps, const Device& device) {
    Drawing drawing{frame, normalize, true, 1, nullptr, 1};
    // Four blocks a multiprocessor, each with a few rows at least.
    const int64_t busy = (4 * device.multiprocessors + maps - 1) / std::max<int64_t>(1, maps);
    drawing.tiles = std::clamp<int64_t>(busy, 1, (frame.out_height + 3) / 4);
    drawing.range_tiles =
        std::clamp<int64_t>(busy, 1, std::min<int64_t>(32, edge_count(frame.height, frame.out_height)));
    constexpr int64_t roomy = 48 * 1024;
    drawing.staged = frame.pixels() <= roomy / static_cast<int64_t>(sizeof(T)) &&
                     draw_bytes<T>(drawing, palette_bytes) <= std::min(roomy, device.shared_memory);
    return drawing;
}

template <class T>
Output output_of(const ArrayView& out) {
    Output output{out, true};
    const int64_t run = 16 / static_cast<int64_t>(sizeof(T));
    const auto whole = [&](int64_t stride) { return stride % run == 0; };
    output.vector = out.stride(-1) == 1 && reinterpret_cast<uintptr_t>(out.data) % 16 == 0;
    for (int axis = 0; axis + 1 < out.shape.rank; ++axis)
        output.vector = output.vector && (out.extent(axis) == 1 || whole(out.stride(axis)));
    return output;
}

// `count` maps of `heatmap` from the `first` on: their ranges in a pass of their own if `ranges` is given, then
// draw(drawing, grid) for as many at a time as a grid has blocks for.
template <class T, class Draw>
void draw_view(const ArrayView& heatmap, int64_t first, int64_t count, Drawing drawing, Extremes<T>* ranges,
               const Device& device, const Queue& queue, Draw&& draw, int64_t more = 0) {
    if (ranges) {
        Carve carve(nullptr);
        Canvas<T>(carve, drawing.frame, drawing.frame.out_height, true);
        launch(find_ranges<T>, device, queue, {count * drawing.range_tiles, 1, carve.bytes()}, drawing, heatmap, ranges,
               first);
        drawing.ranges = ranges;
    }
    draw(drawing, Grid{count * drawing.tiles, 1, draw_bytes<T>(drawing, more)});
}

// Ranges that a call of resize, colorize or overlay keeps in its workspace.
template <class T>
bool needs_ranges(const Drawing& drawing) {
    return !drawing.staged && drawing.finds_extremes();
}

// The whole of a call that draws finished maps: split into launches of as many maps as a grid has blocks for.
template <class T, class Launch>
void draw_maps(const ArrayView& heatmap, const Frame& frame, Normalization normalize, const Queue& queue, int64_t more,
               Launch&& start) {
    const OnDevice here(queue.device);
    const Device& facts = device(queue.device);
    const int64_t maps = heatmap.count_sub(2);
    const Drawing drawing = plan_drawing<T>(frame, normalize, maps, facts);
    const int64_t together = std::min(maps, most_blocks / std::max(drawing.tiles, drawing.range_tiles));
    auto* ranges = needs_ranges<T>(drawing) ? static_cast<Extremes<T>*>(queue.workspace) : nullptr;
    for (int64_t first = 0; first < maps; first += together)
        draw_view<T>(
            heatmap, first, std::min(together, maps - first), drawing, ranges, facts, queue,
            [&](const Drawing& planned, const Grid& grid) { start(facts, planned, grid, first); }, more);
}

// Bytes of workspace of such a call.
template <class T>
int64_t draw_workspace(const ArrayView& heatmap, const Frame& frame, Normalization normalize, int index) {
    const int64_t maps = heatmap.count_sub(2);
    if (maps == 0) return 0;
    const Drawing drawing = plan_drawing<T>(frame, normalize, maps, device(index));
    return needs_ranges<T>(drawing) ? maps * drawing.range_tiles * static_cast<int64_t>(sizeof(Extremes<T>)) : 0;
}

}  // namespace fusedcam::cuda
