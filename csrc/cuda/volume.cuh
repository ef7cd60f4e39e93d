// Volumes onto another grid: every output pixel from the maps of two slices, the same arithmetic as the CPU's
// volume.hpp.
#pragma once

#include "draw.cuh"

namespace fusedcam::cuda {

// How volumes are drawn: extremes by `range_tiles` blocks each, pixels by `tiles`.
struct VolumeDrawing {
    Frame frame;
    int64_t depth, out_depth;
    Normalization normalize;
    int64_t tiles, range_tiles;
    const void* ranges;  // Extremes [volumes, range_tiles]
};

template <class T>
__device__ Tap<T> tap_of(int64_t x, int64_t in, int64_t out) {
    return in == out ? still<T>(x) : tap<T>(x, in, out);
}

// One pixel of a volume whose slices are maps of [..., D, H, W].
template <class T>
__device__ T sample_volume(const VolumeDrawing& drawing, const ArrayView& view, int64_t volume, int64_t z, int64_t y,
                           int64_t x) {
    const Frame& frame = drawing.frame;
    const Tap<T> across = tap_of<T>(z, drawing.depth, drawing.out_depth),
                 down = tap_of<T>(y, frame.height, frame.out_height),
                 along = tap_of<T>(x, frame.width, frame.out_width);
    const int64_t first = volume * drawing.depth;
    const T low = sample(Heatmap<T>(view, first + across.low), down, along);
    if (across.weight == T(0)) return low;
    return lerp(low, sample(Heatmap<T>(view, first + across.high), down, along), across.weight);
}

// ranges [volumes, range_tiles]
template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    find_volume_ranges(const __grid_constant__ VolumeDrawing drawing, const __grid_constant__ ArrayView view,
                       Extremes<T>* ranges, int64_t first) {
    Carve carve(shared_memory());
    auto* scratch = carve.take<Extremes<T>>(threads / warp);
    const Frame& frame = drawing.frame;
    const int64_t volume = block_x() / drawing.range_tiles, tile = block_x() - volume * drawing.range_tiles;
    const int64_t columns = edge_count(frame.width, frame.out_width), rows = edge_count(frame.height, frame.out_height),
                  places = columns * rows * edge_count(drawing.depth, drawing.out_depth);
    Extremes<T> range;
    for (int64_t i = share(places, tile, drawing.range_tiles) + thread();
         i < share(places, tile + 1, drawing.range_tiles); i += threads) {
        const int64_t line = i / columns, z = line / rows;
        range.add(sample_volume<T>(drawing, view, first + volume, edge(z, drawing.depth, drawing.out_depth),
                                   edge(line - z * rows, frame.height, frame.out_height),
                                   edge(i - line * columns, frame.width, frame.out_width)));
    }
    range = block_extremes(range, scratch);
    if (thread() == 0) ranges[block_x()] = range;
}

template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    resize_volumes(const __grid_constant__ VolumeDrawing drawing, const __grid_constant__ ArrayView view, int64_t first,
                   const __grid_constant__ ArrayView out, int64_t first_out) {
    const Frame& frame = drawing.frame;
    const int64_t volume = block_x() / drawing.tiles, tile = block_x() - volume * drawing.tiles;
    Extremes<T> range;
    if (drawing.normalize.any())
        for (int64_t i = 0; i < drawing.range_tiles; ++i)
            range.add(static_cast<const Extremes<T>*>(drawing.ranges)[volume * drawing.range_tiles + i]);
    const Rescale<T> rescale(drawing.normalize, range);
    const int64_t pixels = drawing.out_depth * frame.out_height * frame.out_width,
                  last = share(pixels, tile + 1, drawing.tiles);
    T* const to = out.at<T>(out.offset(first_out + volume, 3));
    const int rank = out.shape.rank;
    for (int64_t i = share(pixels, tile, drawing.tiles) + thread(); i < last; i += threads) {
        const int64_t line = i / frame.out_width, z = line / frame.out_height, x = i - line * frame.out_width,
                      y = line - z * frame.out_height;
        T value = rescale.fill;
        if (!rescale.constant) {
            value = sample_volume<T>(drawing, view, first + volume, z, y, x);
            if (!rescale.identity) value = rescale(value);
        }
        to[z * out.strides[rank - 3] + y * out.strides[rank - 2] + x * out.strides[rank - 1]] = value;
    }
}

}  // namespace fusedcam::cuda
