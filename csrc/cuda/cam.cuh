// The kernels of cam: one launch where clusters are at hand, else partial sums to a workspace and a second kernel.
#pragma once

#include "draw.cuh"
#include "fold.cuh"

namespace fusedcam::cuda {

// What becomes of a summed map.
struct Finish {
    Frame frame;
    NanPolicy nan;
    bool relu;
    Normalize normalize;
    int* not_finite;  // set for nan="raise"; null otherwise
};

template <class T>
__device__ T finished(const Finish& finish, T score) {
    if (finish.nan != NanPolicy::propagate && !(score - score == T(0))) {  // infinity and NaN
        if (finish.not_finite) *finish.not_finite = 1;
        score = T(0);
    }
    return finish.relu && score < T(0) ? T(0) : score;
}

template <class T>
struct DenseMap {
    const T* data;
    int64_t width;
    __device__ T operator()(int64_t y, int64_t x) const { return data[y * width + x]; }
};

// Shared memory of `cam_cluster`, the same cuts on the host and in the kernel.
template <class T>
struct ClusterSpace {
    T *weights, *columns, *map;
    Extremes<T>* extremes;

    __host__ __device__ ClusterSpace(Carve& space, const FoldPlan& plan)
        : weights(space.take<T>(plan.part_channels())),
          columns(space.take<T>(plan.columns)),
          map(space.take<T>(plan.pixels)),
          extremes(space.take<Extremes<T>>(threads / warp)) {}
};

// One cluster a map, one part of the channels a block (where the parts are no power of two, some blocks only draw):
// fold, exchange the sums, draw. Every block combines its share of the pixels and hands it to all others, so after the
// second barrier no block reads another's memory and may end.
template <class Element, class T, int quad>
__global__ void __launch_bounds__(threads, 2)
    cam_cluster(const __grid_constant__ FoldPlan plan, const __grid_constant__ Finish finish,
                const __grid_constant__ Output output, int64_t first_map) {
    Carve carve(shared_memory());
    const ClusterSpace<T> space(carve, plan);
    const Frame& frame = finish.frame;
    const Columns<T> columns(frame, carve);
    const int rank = cluster_rank(), size = cluster_size();
    const int64_t map = first_map + block_x() / size;
    if (rank < plan.parts) fold<Element, T, quad>(plan, map, rank, space.weights, space.columns);
    cluster_barrier();
    const int64_t begin = share(plan.pixels, rank, size), end = share(plan.pixels, rank + 1, size);
    for (int64_t pixel = begin + thread(); pixel < end; pixel += threads) {
        const T score = combine<T, tree_levels>(plan, pixel, [&](int64_t part, int64_t index) {
            return in_block(space.columns, static_cast<int>(part))[index];
        });
        const T value = finished(finish, score);
        for (int other = 0; other < size; ++other) in_block(space.map, other)[pixel] = value;
    }
    cluster_barrier();
    const DenseMap<T> small{space.map, frame.width};
    Rescale<T> rescale;
    if (finish.normalize != Normalize::none)
        rescale = Rescale<T>(finish.normalize, find_extremes<T>(small, frame, columns, space.extremes));
    const Target<T> target = target_of<T>(output, map);
    for_each_run<T>(small, frame, columns, rescale, share(frame.out_height, rank, size),
                    share(frame.out_height, rank + 1, size),
                    [&](int64_t y, int64_t x, const T(&values)[4], int count) { target.write(y, x, values, count); });
}

// columns [maps, parts, columns], one block a part.
template <class Element, class T, int quad>
__global__ void __launch_bounds__(threads, 2)
    cam_partial(const __grid_constant__ FoldPlan plan, T* columns, int64_t first_map) {
    Carve carve(shared_memory());
    T* weights = carve.take<T>(plan.part_channels());
    const int64_t map = block_x() / plan.parts, part = block_x() - map * plan.parts;
    fold<Element, T, quad>(plan, first_map + map, part, weights, columns + block_x() * plan.columns);
}

// The second launch: every block combines the whole small map, which is not large, and draws its rows.
template <class T>
__global__ void __launch_bounds__(threads, 2)
    cam_draw(const __grid_constant__ FoldPlan plan, const __grid_constant__ Finish finish,
             const __grid_constant__ Drawing drawing, const __grid_constant__ Output output, const T* columns,
             int64_t first_map) {
    const int64_t map = block_x() / drawing.tiles;
    const T* from = columns + map * plan.parts * plan.columns;
    const auto read = [&](int64_t y, int64_t x) {
        return finished(finish, combine<T, many_levels>(plan, y * plan.width + x, [&](int64_t part, int64_t index) {
                            return from[part * plan.columns + index];
                        }));
    };
    const Target<T> target = target_of<T>(output, first_map + map);
    Carve carve(shared_memory());
    draw<T>(drawing, carve, map, read,
            [&](int64_t y, int64_t x, const T(&values)[4], int count) { target.write(y, x, values, count); });
}

// maps [maps, H, W] from those columns, for maps too large to be kept in shared memory.
template <class T>
__global__ void __launch_bounds__(threads, 2)
    cam_finish(const __grid_constant__ FoldPlan plan, const __grid_constant__ Finish finish, const T* columns, T* maps,
               int64_t count) {
    for (int64_t i = block_x() * threads + thread(); i < count * plan.pixels; i += blocks_x() * threads) {
        const int64_t map = i / plan.pixels;
        const T score = combine<T, many_levels>(plan, i - map * plan.pixels, [&](int64_t part, int64_t index) {
            return columns[(map * plan.parts + part) * plan.columns + index];
        });
        maps[i] = finished(finish, score);
    }
}

}  // namespace fusedcam::cuda
