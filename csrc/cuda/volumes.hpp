// Host side of drawing volumes.
#pragma once

#include <algorithm>

#include "launch.hpp"
#include "volume.cuh"

namespace fusedcam::cuda {

inline VolumeDrawing plan_volumes(const Size& from, const Size& to, Normalization normalize, int64_t volumes,
                                  const Device& device) {
    VolumeDrawing drawing{from, to, normalize, 1, 1, nullptr};
    const int64_t busy = (8 * device.multiprocessors + volumes - 1) / std::max<int64_t>(1, volumes),
                  each = 4 * threads;  // pixels that are worth a block
    const auto blocks = [&](int64_t pixels) { return std::clamp<int64_t>(busy, 1, (pixels + each - 1) / each); };
    drawing.tiles = blocks(to.depth * to.height * to.width);
    drawing.range_tiles =
        std::min<int64_t>(32, blocks(edge_count(from.depth, to.depth) * edge_count(from.height, to.height) *
                                     edge_count(from.width, to.width)));
    return drawing;
}

template <class T>
int64_t range_count(const VolumeDrawing& drawing, int64_t volumes) {
    return drawing.normalize.any() ? volumes * drawing.range_tiles : 0;
}

// `count` volumes of view [..., D, H, W] from `first` on, to those of out [..., D', H', W'] from `first_out` on;
// `ranges` has room for range_count of them.
template <class T>
void draw_volumes(VolumeDrawing drawing, const ArrayView& view, int64_t first, const ArrayView& out, int64_t first_out,
                  int64_t count, Extremes<T>* ranges, const Device& device, const Queue& queue) {
    const int64_t together = most_blocks / std::max(drawing.tiles, drawing.range_tiles);
    for (int64_t done = 0; done < count; done += together) {
        const int64_t some = std::min(together, count - done);
        if (drawing.normalize.any()) {
            Carve carve(nullptr);
            carve.take<Extremes<T>>(threads / warp);
            launch(find_volume_ranges<T>, device, queue, {some * drawing.range_tiles, 1, carve.bytes()}, drawing, view,
                   ranges, first + done);
            drawing.ranges = ranges;
        }
        launch(resize_volumes<T>, device, queue, {some * drawing.tiles}, drawing, view, first + done, out,
               first_out + done);
    }
}

}  // namespace fusedcam::cuda
