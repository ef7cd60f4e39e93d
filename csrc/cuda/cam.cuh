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
    Normalization normalize;
    int* not_finite;  // set for nan="raise"; null otherwise
};

template <class T>
__device__ T finished(const Finish& finish, T score) {
    if (finish.nan != NanPolicy::propagate && !(score - score == T(0))) {  // infinity and NaN
        if (finish.not_finite) set_flag(finish.not_finite);
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

constexpr int64_t read_by_all = 256;        // pixels of a map that every block of a cluster combines for itself
constexpr int64_t most_own_samples = 4096;  // of a map's edges that every block looks at for itself

// Shared memory of `cam_cluster`, the same cuts on the host and in the kernel.
template <class T>
struct ClusterSpace {
    FoldSpace<T> fold;
    T *sums, *map;
    Extremes<T>* ranges;  // one a block
    Canvas<T> canvas;

    __host__ __device__ ClusterSpace(Carve& space, const FoldPlan& plan, const Finish& finish, int64_t size)
        : fold(space, plan),
          sums(space.take<T>(plan.pixels)),
          map(space.take<T>(plan.pixels)),
          ranges(space.take<Extremes<T>>(cluster_parts)),
          canvas(space, finish.frame, size, finish.normalize.any()) {}
};

// One cluster a map, one part of the channels a block (where the parts are no power of two, some blocks only draw):
// fold, exchange the sums, draw. Small maps every block combines for itself. Of larger ones it combines its share of
// the pixels and hands them to all others, and of many samples at edges it looks at its share. No block ends while
// another may read its memory.
template <class Element, class T, int quad>
__global__ void __launch_bounds__(threads, resident<T>)
    cam_cluster(const __grid_constant__ FoldPlan plan, const __grid_constant__ Finish finish,
                const __grid_constant__ Output output, int64_t first_map) {
    // What is found out here is found out again below: kept meanwhile, it would not fit into registers.
    if (const int part = cluster_rank(); part < plan.parts) {
        Carve carve(shared_memory());
        const ClusterSpace<T> space(carve, plan, finish, cluster_size());
        fold<Element, T, quad>(plan, first_map + block_x() / cluster_size(), part, space.fold, space.sums);
    }
    cluster_arrive();
    Carve carve(shared_memory());
    const int rank = cluster_rank(), size = cluster_size();
    ClusterSpace<T> space(carve, plan, finish, size);
    const Frame& frame = finish.frame;
    const int64_t map = first_map + block_x() / size, begin = share(frame.out_height, rank, size),
                  end = share(frame.out_height, rank + 1, size);
    space.canvas.fill(begin, end);
    cluster_wait();
    const auto combined = [&](int64_t pixel) {
        return finished(finish,
                        combine<T, tree_levels>(plan, [&](int part) { return in_block(space.sums, part)[pixel]; }));
    };
    const bool by_all = plan.pixels <= read_by_all;
    if (by_all) {
        for (int64_t pixel = thread(); pixel < plan.pixels; pixel += threads) space.map[pixel] = combined(pixel);
        block_barrier();
        cluster_arrive();
    } else {
        const int64_t last = share(plan.pixels, rank + 1, size);
        for (int64_t pixel = share(plan.pixels, rank, size) + thread(); pixel < last; pixel += threads) {
            const T value = combined(pixel);
            for (int other = 0; other < size; ++other) in_block(space.map, other)[pixel] = value;
        }
        cluster_barrier();
    }
    const DenseMap<T> small{space.map, frame.width};
    widen_rows<T>(small, frame, space.canvas, begin, end);
    Extremes<T> range;
    if (!finish.normalize.any()) {
        block_barrier();
    } else {
        const int64_t rows = space.canvas.edge_rows.count();
        if (by_all || size == 1 || rows * space.canvas.edge_columns.count() <= most_own_samples) {
            range = find_extremes<T>(small, space.canvas, 0, rows);
        } else {
            const Extremes<T> own =
                find_extremes<T>(small, space.canvas, share(rows, rank, size), share(rows, rank + 1, size));
            if (thread() < size) in_block(space.ranges, thread())[rank] = own;
            cluster_barrier();
            for (int other = 0; other < size; ++other) range.add(space.ranges[other]);
        }
    }
    const Target<T> target = target_of<T>(output, map);
    for_each_run<T>(small, frame, space.canvas, Rescale<T>(finish.normalize, range), begin, end,
                    [&](int64_t y, int64_t x, const T(&values)[4], int count) { target.write(y, x, values, count); });
    if (by_all) cluster_wait();
}

// sums [maps, parts, H*W], one block a part.
template <class Element, class T, int quad>
__global__ void __launch_bounds__(threads, resident<T>)
    cam_partial(const __grid_constant__ FoldPlan plan, T* sums, int64_t first_map) {
    Carve carve(shared_memory());
    const FoldSpace<T> space(carve, plan);
    const int64_t map = block_x() / plan.parts, part = block_x() - map * plan.parts;
    fold<Element, T, quad>(plan, first_map + map, part, space, sums + block_x() * plan.pixels);
}

// One pixel of the map whose parts' sums these are.
template <class T>
__device__ T combined(const FoldPlan& plan, const Finish& finish, const T* sums, int64_t pixel) {
    return finished(finish,
                    combine<T, many_levels>(plan, [&](int64_t part) { return sums[part * plan.pixels + pixel]; }));
}

// The second launch: every block combines the whole small map, which is not large, and draws its rows.
template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    cam_draw(const __grid_constant__ FoldPlan plan, const __grid_constant__ Finish finish,
             const __grid_constant__ Drawing drawing, const __grid_constant__ Output output, const T* sums,
             int64_t first_map) {
    const int64_t map = block_x() / drawing.tiles;
    const T* from = sums + map * plan.parts * plan.pixels;
    const Target<T> target = target_of<T>(output, first_map + map);
    Carve carve(shared_memory());
    draw<T>(
        drawing, carve, map, [&](int64_t y, int64_t x) { return combined<T>(plan, finish, from, y * plan.width + x); },
        [&](int64_t y, int64_t x, const T(&values)[4], int count) { target.write(y, x, values, count); });
}

// maps [maps, H, W] from those sums, for maps too large to be kept in shared memory.
template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    cam_finish(const __grid_constant__ FoldPlan plan, const __grid_constant__ Finish finish, const T* sums, T* maps,
               int64_t count) {
    for (int64_t i = block_x() * threads + thread(); i < count * plan.pixels; i += blocks_x() * threads) {
        const int64_t map = i / plan.pixels;
        maps[i] = combined<T>(plan, finish, sums + map * plan.parts * plan.pixels, i - map * plan.pixels);
    }
}

}  // namespace fusedcam::cuda
