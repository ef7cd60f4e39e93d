// From a small map to output rows: extremes, sampling and stores, the same arithmetic as the CPU's resample.hpp.
#pragma once

#include "../sampling.hpp"
#include "intrinsics.cuh"

namespace fusedcam::cuda {

struct Frame {
    int64_t height, width, out_height, out_width;

    __host__ __device__ int64_t pixels() const { return height * width; }
};

// Rows that a block writes of a map that `blocks` share: from share(rows, block, blocks) to the next one's.
__host__ __device__ inline int64_t share(int64_t rows, int64_t block, int64_t blocks) {
    return rows / blocks * block + (block < rows % blocks ? block : rows % blocks);
}

// The threads of a block walk over places row by row, each to every 256th, without a division at every step.
class Walk {
  public:
    __device__ explicit Walk(int64_t width)
        : width_(static_cast<uint32_t>(width)),
          row_(static_cast<uint32_t>(thread()) / width_),
          column_(static_cast<uint32_t>(thread()) - row_ * width_),
          row_step_(threads / width_),
          column_step_(threads - row_step_ * width_) {}
    __device__ void next() {
        row_ += row_step_;
        column_ += column_step_;
        if (column_ < width_) return;
        column_ -= width_;
        ++row_;
    }
    __device__ uint32_t row() const { return row_; }
    __device__ uint32_t column() const { return column_; }

  private:
    uint32_t width_, row_, column_, row_step_, column_step_;
};

// The taps of one axis at output indices from `first` on, or at the edges of its coarse cells: looked up in shared
// memory where that is not too much of it, since finding one takes divisions.
template <class T, bool edges>
class Taps {
  public:
    __host__ __device__ Taps(Carve& space, int64_t in, int64_t out, int64_t count)
        : in_(in), out_(out), count_(count), table_(in != out && count <= most ? space.take<Entry>(count) : nullptr) {}

    // By the whole block; a barrier has to follow. `count` is at most the constructor's.
    __device__ void fill(int64_t first, int64_t count) {
        first_ = first;
        if (!table_) return;
        for (int64_t i = thread(); i < count; i += threads) {
            const Tap<T> at = found(i);
            table_[i] = {at.low, at.weight};
        }
    }
    __device__ void fill() { fill(0, count_); }

    __device__ Tap<T> operator[](int64_t i) const {
        if (!table_) return found(i);
        const Entry entry = table_[i];
        return {entry.low, entry.low + (entry.weight == T(0) ? 0 : 1), entry.weight};
    }
    __device__ int64_t count() const { return count_; }

  private:
    struct Entry {
        int32_t low;
        T weight;
    };
    static constexpr int64_t most = (edges ? 4 : 12) * 1024 / static_cast<int64_t>(sizeof(Entry));

    __device__ Tap<T> found(int64_t i) const {
        const int64_t x = edges ? edge(i, in_, out_) : first_ + i;
        return in_ == out_ ? still<T>(x) : tap<T>(x, in_, out_);
    }

    int64_t in_, out_, count_, first_ = 0;
    Entry* table_;
};

constexpr int64_t wide_bytes = 24 * 1024;

// Rows of the small map that a block's share of the output lies on, where they are kept widened to the output's width;
// 0 where they are not: they would be too many, or too few of the widened pixels would be read twice.
template <class T>
__host__ __device__ int64_t wide_rows(const Frame& frame, int64_t blocks) {
    if (frame.out_width == frame.width || frame.out_height <= frame.height) return 0;
    const int64_t rows = (frame.out_height + blocks - 1) / blocks;
    const int64_t most = (rows - 1) * frame.height / frame.out_height + 3;
    const int64_t kept = most < frame.height ? most : frame.height;
    return frame.out_width <= wide_bytes / static_cast<int64_t>(sizeof(T)) / kept ? kept : 0;
}

// What a block knows of a map and its share of the output, in shared memory; the same cuts on the host and in the
// kernel.
template <class T>
struct Canvas {
    Taps<T, false> columns, rows;
    Taps<T, true> edge_columns, edge_rows;
    Extremes<T>* scratch;  // one a warp
    T* wide;               // [wide_rows, W'], or null

    __host__ __device__ Canvas(Carve& space, const Frame& frame, int64_t blocks, bool rescaled)
        : columns(space, frame.width, frame.out_width, frame.out_width),
          rows(space, frame.height, frame.out_height, (frame.out_height + blocks - 1) / blocks),
          edge_columns(space, frame.width, frame.out_width, rescaled ? edge_count(frame.width, frame.out_width) : 0),
          edge_rows(space, frame.height, frame.out_height, rescaled ? edge_count(frame.height, frame.out_height) : 0),
          scratch(rescaled ? space.take<Extremes<T>>(threads / warp) : nullptr),
          wide(wide_rows<T>(frame, blocks) ? space.take<T>(wide_rows<T>(frame, blocks) * frame.out_width) : nullptr) {}

    // The tables for the rows [begin, end); a barrier has to follow.
    __device__ void fill(int64_t begin, int64_t end) {
        columns.fill();
        rows.fill(begin, end - begin);
        edge_columns.fill();
        edge_rows.fill();
    }
};

// One output pixel; `map(y, x)` reads the small map. First along the row, then across, as the CPU does.
template <class T, class Map>
__device__ T sample(const Map& map, const Tap<T>& y, const Tap<T>& x) {
    const T low = lerp(map(y.low, x.low), map(y.low, x.high), x.weight);
    if (y.weight == T(0)) return low;
    return lerp(low, lerp(map(y.high, x.low), map(y.high, x.high), x.weight), y.weight);
}

// Those of all lanes of a warp, in every lane.
template <class T>
__device__ Extremes<T> warp_extremes(Extremes<T> range) {
#pragma unroll
    for (int lanes = warp / 2; lanes > 0; lanes /= 2) {
        Extremes<T> other;
        other.low = shuffle_xor(range.low, lanes);
        other.high = shuffle_xor(range.high, lanes);
        range.add(other);
    }
    return range;
}

// Those of all the block's threads, in every thread. Has a barrier; `scratch` has room for one a warp.
template <class T>
__device__ Extremes<T> block_extremes(Extremes<T> range, Extremes<T>* scratch) {
    range = warp_extremes(range);
    if (thread() % warp == 0) scratch[thread() / warp] = range;
    block_barrier();
    for (int i = 0; i < threads / warp; ++i) range.add(scratch[i]);
    return range;
}

// The extremes of one resampled map over the edge rows [begin, end), in every thread. Has a barrier.
template <class T, class Map>
__device__ Extremes<T> find_extremes(const Map& map, const Canvas<T>& canvas, int64_t begin, int64_t end) {
    Extremes<T> range;
    for (Walk at(canvas.edge_columns.count()); at.row() < end - begin; at.next())
        range.add(sample(map, canvas.edge_rows[begin + at.row()], canvas.edge_columns[at.column()]));
    return block_extremes(range, canvas.scratch);
}

// The small map's rows under the output rows [begin, end), widened; a barrier has to follow.
template <class T, class Map>
__device__ void widen_rows(const Map& map, const Frame& frame, const Canvas<T>& canvas, int64_t begin, int64_t end) {
    if (!canvas.wide || begin == end) return;
    const int32_t first = canvas.rows[0].low, last = canvas.rows[end - begin - 1].high;
    for (Walk at(frame.out_width); static_cast<int32_t>(at.row()) <= last - first; at.next()) {
        const Tap<T> x = canvas.columns[at.column()];
        const int32_t y = first + static_cast<int32_t>(at.row());
        canvas.wide[at.row() * frame.out_width + at.column()] = lerp(map(y, x.low), map(y, x.high), x.weight);
    }
}

// Four neighbouring elements, as wide as one instruction reads or writes.
template <class T>
struct alignas(16) Run {
    T value[16 / sizeof(T)];
};

// Four elements of a row; all at once where they lie at a multiple of 16 bytes.
template <class T>
__device__ void read_run(const T* from, bool aligned, int count, T (&values)[4]) {
    if (aligned) {
        constexpr int each = 16 / sizeof(T);
#pragma unroll
        for (int i = 0; i < 4 / each; ++i) {
            const Run<T> run = reinterpret_cast<const Run<T>*>(from)[i];
#pragma unroll
            for (int j = 0; j < each; ++j) values[i * each + j] = run.value[j];
        }
        return;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) values[j] = j < count ? from[j] : T(0);
}

// Calls write(y, x, values, count) for runs of up to four neighbouring pixels of the rows [begin, end), rescaled. A
// run of four begins at a multiple of four.
template <class T, class Map, class Write>
__device__ void for_each_run(const Map& map, const Frame& frame, const Canvas<T>& canvas, const Rescale<T>& rescale,
                             int64_t begin, int64_t end, Write&& write) {
    const bool aligned = frame.out_width % 4 == 0;
    const int32_t first = canvas.wide && begin < end ? canvas.rows[0].low : 0;
    for (Walk at((frame.out_width + 3) / 4); at.row() < end - begin; at.next()) {
        const int64_t x = int64_t{at.column()} * 4;
        const int count = frame.out_width - x < 4 ? static_cast<int>(frame.out_width - x) : 4;
        const Tap<T> down = canvas.rows[at.row()];
        T values[4];
        if (canvas.wide) {
            T high[4];
            read_run(canvas.wide + (down.low - first) * frame.out_width + x, aligned, count, values);
            read_run(canvas.wide + (down.high - first) * frame.out_width + x, aligned, count, high);
#pragma unroll
            for (int j = 0; j < 4; ++j) values[j] = lerp(values[j], high[j], down.weight);
        } else {
#pragma unroll
            for (int j = 0; j < 4; ++j) values[j] = j < count ? sample(map, down, canvas.columns[x + j]) : T(0);
        }
        if (rescale.constant) {
#pragma unroll
            for (int j = 0; j < 4; ++j) values[j] = rescale.fill;
        } else if (!rescale.identity) {
#pragma unroll
            for (int j = 0; j < 4; ++j) values[j] = rescale(values[j]);
        }
        write(begin + at.row(), x, values, count);
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
            constexpr int each = 16 / sizeof(T);
#pragma unroll
            for (int i = 0; i < 4; i += each) store_16(to + i, values + i);
            return;
        }
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (j < count) to[j * column] = values[j];
    }
};

}  // namespace fusedcam::cuda
