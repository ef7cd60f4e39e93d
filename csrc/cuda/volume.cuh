// Volumes onto another grid: every output pixel from the maps of two slices, the same arithmetic as the CPU's
// volume.hpp.
#pragma once

#include "../layout.hpp"
#include "draw.cuh"

namespace fusedcam::cuda {

// How volumes are drawn: extremes by `range_tiles` blocks each, pixels by `tiles`.
struct VolumeDrawing {
    Size from, to;
    Normalization normalize;
    int64_t tiles, range_tiles;
    const void* ranges;  // Extremes [volumes, range_tiles]
};

template <class T>
__device__ Tap<T> tap_of(int64_t x, int64_t in, int64_t out) {
    return in == out ? still<T>(x) : tap<T>(x, in, out);
}

// One pixel of a volume whose slices are maps of [..., D, H, W], from the `first` on.
template <class T>
__device__ T sample_slices(const ArrayView& view, int64_t first, const Tap<T>& across, const Tap<T>& down,
                           const Tap<T>& along) {
    const T low = sample(Heatmap<T>(view, first + across.low), down, along);
    if (across.weight == T(0)) return low;
    return lerp(low, sample(Heatmap<T>(view, first + across.high), down, along), across.weight);
}

// The same of a volume of size `from`, on the grid `to`.
template <class T>
__device__ T sample_volume(const Size& from, const Size& to, const ArrayView& view, int64_t volume, int64_t z,
                           int64_t y, int64_t x) {
    return sample_slices(view, volume * from.depth, tap_of<T>(z, from.depth, to.depth),
                         tap_of<T>(y, from.height, to.height), tap_of<T>(x, from.width, to.width));
}

// ranges [volumes, range_tiles]
template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    find_volume_ranges(const __grid_constant__ VolumeDrawing drawing, const __grid_constant__ ArrayView view,
                       Extremes<T>* ranges, int64_t first) {
    Carve carve(shared_memory());
    auto* scratch = carve.take<Extremes<T>>(threads / warp);
    const Size &from = drawing.from, &to = drawing.to;
    const int64_t volume = block_x() / drawing.range_tiles, tile = block_x() - volume * drawing.range_tiles;
    const int64_t columns = edge_count(from.width, to.width), rows = edge_count(from.height, to.height),
                  places = columns * rows * edge_count(from.depth, to.depth);
    Extremes<T> range;
    for (int64_t i = share(places, tile, drawing.range_tiles) + thread();
         i < share(places, tile + 1, drawing.range_tiles); i += threads) {
        const int64_t line = i / columns, z = line / rows;
        range.add(sample_volume<T>(drawing.from, drawing.to, view, first + volume, edge(z, from.depth, to.depth),
                                   edge(line - z * rows, from.height, to.height),
                                   edge(i - line * columns, from.width, to.width)));
    }
    range = block_extremes(range, scratch);
    if (thread() == 0) ranges[block_x()] = range;
}

template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    resize_volumes(const __grid_constant__ VolumeDrawing drawing, const __grid_constant__ ArrayView view, int64_t first,
                   const __grid_constant__ ArrayView out, int64_t first_out) {
    const Size& to = drawing.to;
    const int64_t volume = block_x() / drawing.tiles, tile = block_x() - volume * drawing.tiles;
    Extremes<T> range;
    if (drawing.normalize.any())
        for (int64_t i = 0; i < drawing.range_tiles; ++i)
            range.add(static_cast<const Extremes<T>*>(drawing.ranges)[volume * drawing.range_tiles + i]);
    const Rescale<T> rescale(drawing.normalize, range);
    const int64_t pixels = to.depth * to.height * to.width, last = share(pixels, tile + 1, drawing.tiles);
    T* const start = out.at<T>(out.offset(first_out + volume, 3));
    const int rank = out.shape.rank;
    for (int64_t i = share(pixels, tile, drawing.tiles) + thread(); i < last; i += threads) {
        const int64_t line = i / to.width, z = line / to.height, x = i - line * to.width, y = line - z * to.height;
        T value = rescale.fill;
        if (!rescale.constant) {
            value = sample_volume<T>(drawing.from, drawing.to, view, first + volume, z, y, x);
            if (!rescale.identity) value = rescale(value);
        }
        start[z * out.strides[rank - 3] + y * out.strides[rank - 2] + x * out.strides[rank - 1]] = value;
    }
}

}  // namespace fusedcam::cuda
