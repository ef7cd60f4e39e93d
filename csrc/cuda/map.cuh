// From a small map to output rows: extremes, sampling and stores, the same arithmetic as the CPU's resample.hpp.
#pragma once

#include "../sampling.hpp"
#include "intrinsics.cuh"

namespace fusedcam::cuda {

struct Frame {
    int64_t height, width, out_height, out_width;

    __host__ __device__ int64_t pixels() const { return height * width; }
};

constexpr int64_t widest_table = 2048;  // columns whose taps are kept in shared memory

// The taps of every output column: 64-bit divisions once a block instead of once a pixel.
template <class T>
class Columns {
  public:
    struct Entry {
        int low;
        T weight;
    };

    __host__ __device__ static bool tabled(const Frame& frame) {
        return frame.out_width != frame.width && frame.out_width <= widest_table;
    }
    __host__ __device__ static Entry* take(const Frame& frame, Carve& space) {
        return tabled(frame) ? space.take<Entry>(frame.out_width) : nullptr;
    }
    // Filled by the whole block; a barrier has to follow.
    __device__ Columns(const Frame& frame, Carve& space)
        : in_(frame.width), out_(frame.out_width), table_(take(frame, space)) {
        if (!table_) return;
        for (int64_t x = thread(); x < out_; x += threads) {
            const Tap<T> at = tap<T>(x, in_, out_);
            table_[x] = {static_cast<int>(at.low), at.weight};
        }
    }
    __device__ Tap<T> operator[](int64_t x) const {
        if (in_ == out_) return {x, x, T(0)};
        if (!table_) return tap<T>(x, in_, out_);
        const Entry entry = table_[x];
        return {entry.low, entry.low + (entry.weight == T(0) ? 0 : 1), entry.weight};
    }

  private:
    int64_t in_, out_;
    Entry* table_;
};

template <class T>
__device__ Tap<T> row_tap(const Frame& frame, int64_t y) {
    if (frame.height == frame.out_height) return {y, y, T(0)};
    return tap<T>(y, frame.height, frame.out_height);
}

// One output pixel; `map(y, x)` reads the small map. First along the row, then across, as the CPU does.
template <class T, class Map>
__device__ T sample(const Map& map, const Tap<T>& y, const Tap<T>& x) {
    const T low = lerp(map(y.low, x.low), map(y.low, x.high), x.weight);
    if (y.weight == T(0)) return low;
    return lerp(low, lerp(map(y.high, x.low), map(y.high, x.high), x.weight), y.weight);
}

// The extremes of one resampled map, in every thread. `scratch` has room for one entry a warp.
template <class T, class Map>
__device__ Extremes<T> find_extremes(const Map& map, const Frame& frame, const Columns<T>& columns,
                                     Extremes<T>* scratch) {
    const int64_t across = edge_count(frame.width, frame.out_width), down = edge_count(frame.height, frame.out_height);
    Extremes<T> range;
    for (int64_t i = thread(); i < across * down; i += threads) {
        const int64_t y = i / across;
        range.add(sample(map, row_tap<T>(frame, edge(y, frame.height, frame.out_height)),
                         columns[edge(i - y * across, frame.width, frame.out_width)]));
    }
#pragma unroll
    for (int lanes = warp / 2; lanes > 0; lanes /= 2) {
        Extremes<T> other;
        other.low = shuffle_xor(range.low, lanes);
        other.high = shuffle_xor(range.high, lanes);
        range.add(other);
    }
    if (thread() % warp == 0) scratch[thread() / warp] = range;
    block_barrier();
    for (int i = 0; i < threads / warp; ++i) range.add(scratch[i]);
    return range;
}

// Calls write(y, x, values, count) for runs of up to four neighbouring pixels of the rows [begin, end), rescaled. A
// run of four begins at a multiple of four.
template <class T, class Map, class Write>
__device__ void for_each_run(const Map& map, const Frame& frame, const Columns<T>& columns, const Rescale<T>& rescale,
                             int64_t begin, int64_t end, Write&& write) {
    const int64_t runs = (frame.out_width + 3) / 4;
    for (int64_t i = thread(); i < (end - begin) * runs; i += threads) {
        const int64_t row = i / runs, y = begin + row, x = (i - row * runs) * 4;
        const int count = frame.out_width - x < 4 ? static_cast<int>(frame.out_width - x) : 4;
        const Tap<T> down = row_tap<T>(frame, y);
        T values[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            values[j] = rescale.fill;
            if (j >= count || rescale.constant) continue;
            const T value = sample(map, down, columns[x + j]);
            values[j] = rescale.identity ? value : rescale(value);
        }
        write(y, x, values, count);
    }
}

// Where the rows of one map go; strides in elements.
template <class T>
struct Target {
    T* data;
    int64_t row, column;
    bool vector;  // every run of four lies at a multiple of 16 bytes

    __device__ void write(int64_t y, int64_t x, const T (&values)[4], int count) const {
        T* to = data + y * row + x * column;
        if (vector && count == 4) {
            struct alignas(16) Run {
                T value[16 / sizeof(T)];
            };
            constexpr int each = 16 / sizeof(T);
#pragma unroll
            for (int i = 0; i < 4 / each; ++i) {
                Run run;
#pragma unroll
                for (int j = 0; j < each; ++j) run.value[j] = values[i * each + j];
                *reinterpret_cast<Run*>(to + i * each) = run;
            }
            return;
        }
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (j < count) to[j * column] = values[j];
    }
};

// Rows that a block writes of a map that `blocks` share.
__host__ __device__ inline int64_t share(int64_t rows, int64_t block, int64_t blocks) {
    return rows / blocks * block + (block < rows % blocks ? block : rows % blocks);
}

}  // namespace fusedcam::cuda
