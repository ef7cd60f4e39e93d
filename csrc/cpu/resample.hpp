// One small map on its way to the output grid: axis tables made once, extremes from the edges of the coarse cells,
// rows on demand. Every op that resamples goes through here, so they agree to the bit.
#pragma once

#include <algorithm>
#include <memory>

#include "../ops.hpp"
#include "../sampling.hpp"
#include "kernels.hpp"
#include "threads.hpp"
#include "workspace.hpp"

namespace fusedcam::cpu {

// The taps of one axis, and the output indices at which a coarse cell begins or ends.
template <class T>
class Axis {
  public:
    Axis(int64_t in, int64_t out) : in(in), out(out), identity(in == out), by_cells(!identity && out >= 4 * in) {
        if (!identity) fill();
    }

    Tap<T> operator[](int64_t x) const {
        if (identity) return still<T>(x);
        const T weight = weights_[x];
        return {lows_[x], lows_[x] + (weight == T(0) ? 0 : 1), weight};
    }
    int64_t edge_count() const { return fusedcam::edge_count(in, out); }
    int64_t edge(int64_t i) const { return out <= 2 * in ? i : edges_[i]; }
    // The first index whose tap begins at each input, and the end.
    const int32_t* starts() const { return starts_.get(); }
    const T* weights() const { return weights_.get(); }

    const int64_t in, out;
    const bool identity;
    const bool by_cells;  // long runs of outputs lie between the same two inputs

  private:
    template <class Entry>
    static auto make(int64_t count) {
        return std::make_unique_for_overwrite<Entry[]>(static_cast<size_t>(count));
    }

    // As `tap` for one index after the other: the same integers, by steps instead of divisions.
    [[gnu::noinline]] void fill() {
        lows_ = make<int32_t>(out);
        weights_ = make<T>(out + padding);
        const int64_t under = 2 * out, whole = 2 * in / under, part = 2 * in % under;
        int64_t low = in >= out ? (in - out) / under : -((out - in + under - 1) / under);
        int64_t rest = in - out - low * under;
        const bool shorter = in < short_extent && out < short_extent;
        for (int64_t x = 0; x < out; ++x) {
            const bool inside = low >= 0 && low < in - 1;
            lows_[x] = static_cast<int32_t>(std::clamp<int64_t>(low, 0, in - 1));
            const T weight =
                shorter ? static_cast<T>(static_cast<int32_t>(rest)) / static_cast<T>(static_cast<int32_t>(under))
                        : static_cast<T>(static_cast<double>(rest) / static_cast<double>(under));
            weights_[x] = inside ? weight : T(0);
            low += whole;
            rest += part;
            if (rest >= under) {
                rest -= under;
                ++low;
            }
        }
        std::fill_n(weights_.get() + out, padding, T(0));
        if (by_cells) {
            starts_ = make<int32_t>(in + 1);
            int64_t x = 0;
            for (int64_t cell = 0; cell <= in; ++cell) {
                while (x < out && lows_[x] < cell) ++x;
                starts_[cell] = static_cast<int32_t>(x);
            }
        }
        if (out <= 2 * in) return;
        edges_ = make<int64_t>(edge_count());
        for (int64_t i = 0; i < edge_count(); ++i) edges_[i] = fusedcam::edge(i, in, out);
    }

    std::unique_ptr<int32_t[]> lows_, starts_;
    std::unique_ptr<T[]> weights_;
    std::unique_ptr<int64_t[]> edges_;
};

template <class T>
struct Grid {
    Grid(const Size& from, const Size& to)
        : z(from.depth, to.depth), y(from.height, to.height), x(from.width, to.width) {}

    // Elements of the buffer that `Resampled` widens a map into: its rows, and their values at the edges of cells.
    int64_t wide_size() const { return x.identity ? 0 : y.in * (x.out + edge_columns()) + padding; }
    // Columns at which widened rows are looked at for extremes, apart from the rows; none where it is all of them.
    int64_t edge_columns() const { return x.out > 2 * x.in ? x.edge_count() : 0; }
    // Elements of the buffer that `row` may write.
    int64_t row_size() const { return x.out; }

    Axis<T> z, y, x;
};

template <class T>
class Resampled {
  public:
    // map [H, W], dense; wide has room for grid.wide_size() elements.
    Resampled(const Grid<T>& grid, const T* map, T* wide) : grid_(grid), wide_(grid.x.identity ? map : wide) {
        const Axis<T>& x = grid.x;
        if (x.identity) return;
        for (int64_t y = 0; y < grid.y.in; ++y) {
            const T* from = map + y * x.in;
            T* to = wide + y * x.out;
            if (x.by_cells)
                kernels_.widen(from, x.in, x.starts(), x.weights(), to);
            else
                for (int64_t i = 0; i < x.out; ++i) {
                    const Tap<T> at = x[i];
                    to[i] = lerp(from[at.low], from[at.high], at.weight);
                }
        }
        const int64_t columns = grid.edge_columns();
        T* to = wide + grid.y.in * x.out + padding;
        edges_ = columns ? to : nullptr;
        for (int64_t y = 0; y < grid.y.in; ++y)
            for (int64_t j = 0; j < columns; ++j) *to++ = wide[y * x.out + x.edge(j)];
    }

    // Within a coarse cell the interpolation is monotone along either axis, so its extremes lie at the cell's edges;
    // the small map's own extremes need not be reached by any output pixel.
    Extremes<T> extremes() const {
        Extremes<T> range;
        const Axis<T>& y = grid_.y;
        const T* rows = edges_ ? edges_ : wide_;
        const int64_t width = edges_ ? grid_.edge_columns() : grid_.x.out;
        for (int64_t i = 0; i < y.edge_count(); ++i) {
            const Tap<T> at = y[y.edge(i)];
            kernels_.extremes(rows + at.low * width, rows + at.high * width, at.weight, width, range);
        }
        return range;
    }

    Rescale<T> rescale(Normalization mode) const { return mode.any() ? Rescale<T>(mode, extremes()) : Rescale<T>{}; }

    // Output row y, rescaled, in `row` [W'].
    void row(int64_t y, const Rescale<T>& rescale, T* row) const {
        const int64_t width = grid_.x.out;
        if (rescale.constant) {
            std::fill_n(row, width, rescale.fill);
            return;
        }
        const Tap<T> at = grid_.y[y];
        kernels_.row(wide_ + at.low * width, wide_ + at.high * width, at.weight, rescale, width, row);
    }

  private:
    const Grid<T>& grid_;
    const T* wide_;
    const T* edges_ = nullptr;  // [H, edge_columns]
    const DrawKernels<T>& kernels_ = kernels().template draw<T>();
};

// heatmap [H, W] of any type and strides -> map [H, W], dense.
template <class T>
void load_map(const ArrayView& heatmap, T* map) {
    visit_dtype(heatmap.dtype, [&](auto element) {
        using Element = decltype(element);
        const int64_t height = heatmap.extent(0), width = heatmap.extent(1), step = heatmap.strides[1];
        for (int64_t y = 0; y < height; ++y) {
            const Element* from = heatmap.at<Element>(y * heatmap.strides[0]);
            T* to = map + y * width;
            for (int64_t x = 0; x < width; ++x) to[x] = static_cast<T>(widen(from[x * step]));
        }
    });
}

// Rows [begin, end) of one resampled map into the map of out [..., H', W'] at that offset.
template <class T>
void write_rows(const Resampled<T>& map, const Rescale<T>& rescale, const ArrayView& out, int64_t offset, int64_t begin,
                int64_t end, T* buffer) {
    const int64_t width = out.extent(-1), over_height = out.stride(-2), step = out.stride(-1);
    for (int64_t y = begin; y < end; ++y) {
        T* to = out.at<T>(offset + y * over_height);
        map.row(y, rescale, step == 1 ? to : buffer);
        if (step != 1)
            for (int64_t x = 0; x < width; ++x) to[x * step] = buffer[x];
    }
}

// Resamples every map of heatmap [..., H, W] and calls draw(index, map, rescale, first row, last row, row buffer [W']),
// shared out over maps, or over the rows of each map when there are fewer maps than threads.
template <class T, class Draw>
void for_each_map(const ArrayView& heatmap, Size to, Normalization mode, double work, Draw&& draw) {
    const Grid<T> grid({heatmap.extent(-2), heatmap.extent(-1)}, to);
    const int64_t pixels = heatmap.extent(-2) * heatmap.extent(-1), maps = heatmap.count_sub(2);
    const size_t row_bytes = Workspace::bytes<T>(grid.row_size());
    const size_t map_bytes = Workspace::bytes<T>(pixels) + Workspace::bytes<T>(grid.wide_size());
    const int threads = work < serial_below ? 1 : thread_count();

    const auto whole_maps = [&](int64_t begin, int64_t end) {
        Workspace space(map_bytes + row_bytes);
        T *small = space.take<T>(pixels), *wide = space.take<T>(grid.wide_size()),
          *row = space.take<T>(grid.row_size());
        for (int64_t index = begin; index < end; ++index) {
            load_map(heatmap.sub(index, 2), small);
            const Resampled<T> map(grid, small, wide);
            draw(index, map, map.rescale(mode), int64_t{0}, to.height, row);
        }
    };
    if (threads == 1) return whole_maps(0, maps);
    if (maps >= threads) return parallel_ranges(maps, whole_maps);

    Workspace space(map_bytes);
    T *small = space.take<T>(pixels), *wide = space.take<T>(grid.wide_size());
    for (int64_t index = 0; index < maps; ++index) {
        load_map(heatmap.sub(index, 2), small);
        const Resampled<T> map(grid, small, wide);
        const Rescale<T> rescale = map.rescale(mode);
        parallel_ranges(to.height, [&](int64_t begin, int64_t end) {
            Workspace rows(row_bytes);
            draw(index, map, rescale, begin, end, rows.take<T>(grid.row_size()));
        });
    }
}

}  // namespace fusedcam::cpu
