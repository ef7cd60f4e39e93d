// The kernels of resize's derivative: the extremes of what was written, what they count, and the interpolation
// transposed. Every pixel gathers, in float64, what it had a part in: along rows first, then across them.
#pragma once

#include "sums.cuh"
#include "volume.cuh"

namespace fusedcam::cuda {

// Of a map, seen as a volume of one slice, or a volume. Workspace is that of the maps of one launch.
struct ResizeSlopes {
    Size from, to;
    Normalization normalize;
    int64_t tiles;                   // blocks that share a map on the output's grid
    int64_t row_tiles, pixel_tiles;  // the same on that of the rows, and on the map's own
    ArrayView heatmap, of_heatmap;   // [..., H, W], the slices of volumes among the leading axes
    const std::byte* of_result;      // [maps, D', H', W'], dense
    void* ranges;                    // MapRange [maps, tiles]
    ExtremeSlopes* extremes;         // [maps, tiles]
    double* rows;                    // [maps, D', H', W]

    __host__ __device__ int64_t pixels() const { return to.depth * to.height * to.width; }
    __host__ __device__ int64_t row_pixels() const { return to.depth * to.height * from.width; }
    __host__ __device__ int64_t own_pixels() const { return from.depth * from.height * from.width; }
};

// Extremes at the edges of cells, by which a map is normalised, and of all its pixels, which they may miss by a
// rounding.
template <class T>
struct MapRange {
    Extremes<T> edges, all;
};

// One dimension after the other: pixel i of a grid whose last axes have these extents.
struct Place {
    int64_t line, z, y, x;

    __device__ Place(int64_t i, int64_t height, int64_t width)
        : line(i / width), z(line / height), y(line - z * height), x(i - line * width) {}
};

template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    find_resized_ranges(const __grid_constant__ ResizeSlopes plan, int64_t first) {
    Carve carve(shared_memory());
    auto* edge_scratch = carve.take<Extremes<T>>(threads / warp);
    auto* scratch = carve.take<Extremes<T>>(threads / warp);
    const Size &from = plan.from, &to = plan.to;
    const int64_t map = block_x() / plan.tiles, tile = block_x() - map * plan.tiles;
    const int64_t columns = edge_count(from.width, to.width), rows = edge_count(from.height, to.height),
                  edges = columns * rows * edge_count(from.depth, to.depth), pixels = plan.pixels();
    const auto value = [&](int64_t z, int64_t y, int64_t x) {
        return sample_volume<T>(from, to, plan.heatmap, first + map, z, y, x);
    };
    MapRange<T> range;
    for (int64_t i = share(edges, tile, plan.tiles) + thread(); i < share(edges, tile + 1, plan.tiles); i += threads) {
        const Place at(i, rows, columns);
        range.edges.add(value(edge(at.z, from.depth, to.depth), edge(at.y, from.height, to.height),
                              edge(at.x, from.width, to.width)));
    }
    for (int64_t i = share(pixels, tile, plan.tiles) + thread(); i < share(pixels, tile + 1, plan.tiles);
         i += threads) {
        const Place at(i, to.height, to.width);
        range.all.add(value(at.z, at.y, at.x));
    }
    range.edges = block_extremes(range.edges, edge_scratch);
    range.all = block_extremes(range.all, scratch);
    if (thread() == 0) static_cast<MapRange<T>*>(plan.ranges)[block_x()] = range;
}

// How a map's values change by those before its normalisation.
template <class T>
__device__ RescaleSlopes<T> rescale_slopes(const ResizeSlopes& plan, int64_t map) {
    MapRange<T> range;
    if (plan.normalize.any())
        for (int64_t i = 0; i < plan.tiles; ++i) {
            const auto& part = static_cast<const MapRange<T>*>(plan.ranges)[map * plan.tiles + i];
            range.edges.add(part.edges);
            range.all.add(part.all);
        }
    return {plan.normalize, Rescale<T>(plan.normalize, range.edges), range.all};
}

template <class T>
__device__ const T* given_slopes(const ResizeSlopes& plan, int64_t map) {
    return reinterpret_cast<const T*>(plan.of_result) + map * plan.pixels();
}

template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    sum_extreme_slopes(const __grid_constant__ ResizeSlopes plan, int64_t first) {
    Carve carve(shared_memory());
    auto* scratch = carve.take<ExtremeSlopes>(threads / warp);
    const int64_t map = block_x() / plan.tiles, tile = block_x() - map * plan.tiles, pixels = plan.pixels();
    const RescaleSlopes<T> normalised = rescale_slopes<T>(plan, map);
    const T* slopes = given_slopes<T>(plan, first + map);
    ExtremeSlopes sums;
    if (normalised.reads())
        for (int64_t i = share(pixels, tile, plan.tiles) + thread(); i < share(pixels, tile + 1, plan.tiles);
             i += threads) {
            const Place at(i, plan.to.height, plan.to.width);
            normalised.add(sample_volume<T>(plan.from, plan.to, plan.heatmap, first + map, at.z, at.y, at.x), slopes[i],
                           sums);
        }
    sums = {warp_sum(sums.of_low), warp_sum(sums.of_high), warp_sum(sums.lows), warp_sum(sums.highs)};
    if (thread() % warp == 0) scratch[thread() / warp] = sums;
    block_barrier();
    if (thread() != 0) return;
    for (int i = 1; i < threads / warp; ++i) sums.add(scratch[i]);
    plan.extremes[block_x()] = sums;
}

// How much of output pixel `at` is input pixel x's.
template <class T>
__device__ double weight_in(const Tap<T>& at, int64_t x) {
    const double weight = static_cast<double>(at.weight);
    return at.low == x ? 1 - weight : at.high == x ? weight : 0;
}

// rows = what a change of every pixel counts of the map resampled along y and z alone.
template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    gather_along_rows(const __grid_constant__ ResizeSlopes plan, int64_t first) {
    const Size &from = plan.from, &to = plan.to;
    const int64_t map = block_x() / plan.row_tiles, tile = block_x() - map * plan.row_tiles, count = plan.row_pixels();
    const RescaleSlopes<T> normalised = rescale_slopes<T>(plan, map);
    const bool reads = normalised.reads();
    ExtremeSlopes shares;
    if (reads)
        for (int64_t i = 0; i < plan.tiles; ++i) shares.add(plan.extremes[map * plan.tiles + i]);
    shares.share();
    for (int64_t i = share(count, tile, plan.row_tiles) + thread(); i < share(count, tile + 1, plan.row_tiles);
         i += threads) {
        const Place at(i, to.height, from.width);
        const Tap<T> across = tap_of<T>(at.z, from.depth, to.depth), down = tap_of<T>(at.y, from.height, to.height);
        const T* slopes = given_slopes<T>(plan, first + map) + at.line * to.width;
        const Reach reached = reach(at.x, from.width, to.width);
        double sum = 0;
        for (int64_t x = reached.first; x < reached.end; ++x) {
            const Tap<T> along = tap_of<T>(x, from.width, to.width);
            const double weight = weight_in(along, at.x);
            if (weight == 0) continue;
            const T value = reads ? sample_slices(plan.heatmap, (first + map) * from.depth, across, down, along) : T(0);
            sum += weight * normalised(value, slopes[x], shares);
        }
        plan.rows[map * count + i] = sum;
    }
}

__device__ inline void store(const ArrayView& to, int64_t offset, double value) {
    switch (to.dtype) {
        case DType::float32: *to.at<float>(offset) = static_cast<float>(value); return;
        case DType::float16: *to.at<Float16>(offset) = narrow<Float16>(static_cast<float>(value)); return;
        case DType::bfloat16: *to.at<BFloat16>(offset) = narrow<BFloat16>(static_cast<float>(value)); return;
        default: *to.at<double>(offset) = value;
    }
}

template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    gather_across_rows(const __grid_constant__ ResizeSlopes plan, int64_t first) {
    const Size &from = plan.from, &to = plan.to;
    const ArrayView& out = plan.of_heatmap;
    const int64_t map = block_x() / plan.pixel_tiles, tile = block_x() - map * plan.pixel_tiles,
                  count = plan.own_pixels();
    const double* rows = plan.rows + map * plan.row_pixels();
    for (int64_t i = share(count, tile, plan.pixel_tiles) + thread(); i < share(count, tile + 1, plan.pixel_tiles);
         i += threads) {
        const Place at(i, from.height, from.width);
        const Reach slices = reach(at.z, from.depth, to.depth), lines = reach(at.y, from.height, to.height);
        double sum = 0;
        for (int64_t z = slices.first; z < slices.end; ++z) {
            const double across = weight_in(tap_of<T>(z, from.depth, to.depth), at.z);
            if (across == 0) continue;
            for (int64_t y = lines.first; y < lines.end; ++y) {
                const double down = weight_in(tap_of<T>(y, from.height, to.height), at.y);
                if (down != 0) sum += across * down * rows[(z * to.height + y) * from.width + at.x];
            }
        }
        const int rank = out.shape.rank;
        store(out,
              out.offset((first + map) * from.depth + at.z, 2) + at.y * out.strides[rank - 2] +
                  at.x * out.strides[rank - 1],
              sum);
    }
}

}  // namespace fusedcam::cuda
