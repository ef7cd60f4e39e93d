// The kernels of resize's derivative up to the transposed interpolation, which is gather.cuh's: the extremes of what
// was written, and what a scalar changes by with them.
#pragma once

#include "sums.cuh"
#include "volume.cuh"

namespace fusedcam::cuda {

// One of the two transpositions: blocks that share a map, and 2 to the power of lane_bits threads that add up a pixel.
struct Gathering {
    int64_t tiles;
    int lane_bits;
};

// Of a map, seen as a volume of one slice, or a volume. Workspace is that of the maps of one launch.
struct ResizeSlopes {
    Size from, to;
    Size between;  // of the map that is resampled on some axes alone
    Normalization normalize;
    int64_t tiles;                  // blocks that share a map's outputs
    Gathering once, last;           // from the outputs to `between`, and on to the map
    ArrayView heatmap, of_heatmap;  // [..., H, W], the slices of volumes among the leading axes
    const std::byte* of_result;     // [maps, D', H', W'], dense
    void* ranges;                   // MapRange [maps, tiles]
    ExtremeSlopes* extremes;        // [maps, tiles]
    double* passed;                 // [maps, between], what a change of each of its pixels counts

    __host__ __device__ int64_t pixels() const { return to.depth * to.height * to.width; }
    __host__ __device__ int64_t passed_pixels() const { return between.depth * between.height * between.width; }
};

// Extremes at the edges of cells, by which a map is normalised, and of all its pixels, which they may miss by a
// rounding.
template <class T>
struct MapRange {
    Extremes<T> edges, all;
};

// Shared memory of each of these kernels: one a warp, and what all blocks of a map found.
template <class T>
struct Scratch {
    Extremes<T>*edges, *all;
    ExtremeSlopes* extremes;
    double* sums;
    MapRange<T>* range;
    ExtremeSlopes* shares;

    __host__ __device__ explicit Scratch(Carve& carve)
        : edges(carve.take<Extremes<T>>(threads / warp)),
          all(carve.take<Extremes<T>>(threads / warp)),
          extremes(carve.take<ExtremeSlopes>(threads / warp)),
          sums(carve.take<double>(threads / warp)),
          range(carve.take<MapRange<T>>(1)),
          shares(carve.take<ExtremeSlopes>(1)) {}
};

// The pixels of a map that the block has to do with, of so many that `tiles` blocks share.
struct Tile {
    int64_t map, begin, end;

    __device__ Tile(int64_t pixels, int64_t tiles) : map(quotient(block_x(), tiles)) {
        const int64_t tile = block_x() - map * tiles;
        begin = share(pixels, tile, tiles);
        end = share(pixels, tile + 1, tiles);
    }
};

// One dimension after the other: pixel i of a grid whose last axes have these extents.
struct Place {
    int64_t line, z, y, x;

    __device__ Place(int64_t i, int64_t height, int64_t width)
        : line(quotient(i, width)), z(quotient(line, height)), y(line - z * height), x(i - line * width) {}
};

template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    find_resized_ranges(const __grid_constant__ ResizeSlopes plan, int64_t first) {
    Carve carve(shared_memory());
    const Scratch<T> scratch(carve);
    const Size &from = plan.from, &to = plan.to;
    const int64_t columns = edge_count(from.width, to.width), rows = edge_count(from.height, to.height);
    const Tile edges(columns * rows * edge_count(from.depth, to.depth), plan.tiles), all(plan.pixels(), plan.tiles);
    const auto value = [&](int64_t z, int64_t y, int64_t x) {
        return sample_volume<T>(from, to, plan.heatmap, first + all.map, z, y, x);
    };
    MapRange<T> range;
    for (int64_t i = edges.begin + thread(); i < edges.end; i += threads) {
        const Place at(i, rows, columns);
        range.edges.add(value(edge(at.z, from.depth, to.depth), edge(at.y, from.height, to.height),
                              edge(at.x, from.width, to.width)));
    }
    for (int64_t i = all.begin + thread(); i < all.end; i += threads) {
        const Place at(i, to.height, to.width);
        range.all.add(value(at.z, at.y, at.x));
    }
    range.edges = block_extremes(range.edges, scratch.edges);
    range.all = block_extremes(range.all, scratch.all);
    if (thread() == 0) static_cast<MapRange<T>*>(plan.ranges)[block_x()] = range;
}

__device__ inline ExtremeSlopes warp_sums(const ExtremeSlopes& sums) {
    return {warp_sum(sums.of_low), warp_sum(sums.of_high), warp_sum(sums.lows), warp_sum(sums.highs)};
}

// How a map's values change by those before its normalisation. What the map's blocks found is read once a block, by one
// warp; `summed`: the extremes' slopes as well, to `shares`. Has a barrier.
template <class T>
__device__ RescaleSlopes<T> rescale_slopes(const ResizeSlopes& plan, int64_t map, const Scratch<T>& scratch,
                                           bool summed) {
    if (!plan.normalize.any()) return {plan.normalize, {}, {}};
    if (thread() < warp) {
        const auto* ranges = static_cast<const MapRange<T>*>(plan.ranges) + map * plan.tiles;
        MapRange<T> range;
        ExtremeSlopes shares;
        for (int64_t i = thread(); i < plan.tiles; i += warp) {
            range.edges.add(ranges[i].edges);
            range.all.add(ranges[i].all);
            if (summed) shares.add(plan.extremes[map * plan.tiles + i]);
        }
        range = {warp_extremes(range.edges), warp_extremes(range.all)};
        if (summed) shares = warp_sums(shares);
        shares.share();
        if (thread() == 0) {
            *scratch.range = range;
            *scratch.shares = shares;
        }
    }
    block_barrier();
    return {plan.normalize, Rescale<T>(plan.normalize, scratch.range->edges), scratch.range->all};
}

template <class T>
__device__ const T* given_slopes(const ResizeSlopes& plan, int64_t map) {
    return reinterpret_cast<const T*>(plan.of_result) + map * plan.pixels();
}

template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    sum_extreme_slopes(const __grid_constant__ ResizeSlopes plan, int64_t first) {
    Carve carve(shared_memory());
    const Scratch<T> scratch(carve);
    const Tile tile(plan.pixels(), plan.tiles);
    const RescaleSlopes<T> normalised = rescale_slopes(plan, tile.map, scratch, false);
    const T* slopes = given_slopes<T>(plan, first + tile.map);
    ExtremeSlopes sums;
    if (normalised.reads())
        for (int64_t i = tile.begin + thread(); i < tile.end; i += threads) {
            const Place at(i, plan.to.height, plan.to.width);
            normalised.add(sample_volume<T>(plan.from, plan.to, plan.heatmap, first + tile.map, at.z, at.y, at.x),
                           slopes[i], sums);
        }
    sums = warp_sums(sums);
    if (thread() % warp == 0) scratch.extremes[thread() / warp] = sums;
    block_barrier();
    if (thread() != 0) return;
    for (int i = 1; i < threads / warp; ++i) sums.add(scratch.extremes[i]);
    plan.extremes[block_x()] = sums;
}

}  // namespace fusedcam::cuda
