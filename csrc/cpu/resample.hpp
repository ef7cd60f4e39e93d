// One small map on its way to the output grid: axis tables made once, extremes from the edges of the coarse cells,
// rows on demand. Every op that resamples goes through here, so they agree to the bit.
#pragma once

#include <algorithm>
#include <memory>

#include "../ops.hpp"
#include "../sampling.hpp"
#include "threads.hpp"
#include "workspace.hpp"

namespace fusedcam::cpu {

// The taps of one axis, and the output indices at which a coarse cell begins or ends.
template <class T>
class Axis {
  public:
    Axis(int64_t in, int64_t out) : in(in), out(out), identity(in == out) {
        if (!identity) fill();
    }

    Tap<T> operator[](int64_t x) const { return identity ? still<T>(x) : taps_[x]; }
    int64_t edge_count() const { return identity ? out : edge_count_; }
    int64_t edge(int64_t i) const { return identity ? i : edges_[i]; }

    const int64_t in, out;
    const bool identity;

  private:
    [[gnu::noinline]] void fill() {
        taps_ = std::make_unique_for_overwrite<Tap<T>[]>(static_cast<size_t>(out));
        for (int64_t x = 0; x < out; ++x) taps_[x] = tap<T>(x, in, out);
        edge_count_ = fusedcam::edge_count(in, out);
        edges_ = std::make_unique_for_overwrite<int64_t[]>(static_cast<size_t>(edge_count_));
        for (int64_t i = 0; i < edge_count_; ++i) edges_[i] = fusedcam::edge(i, in, out);
    }

    std::unique_ptr<Tap<T>[]> taps_;
    std::unique_ptr<int64_t[]> edges_;
    int64_t edge_count_ = 0;
};

template <class T>
struct Grid {
    Grid(Size from, Size to) : y(from.height, to.height), x(from.width, to.width) {}

    // Elements of the buffer that `Resampled` widens a map into.
    int64_t wide_size() const { return x.identity ? 0 : y.in * x.out; }
    // Elements of the buffer that `row` may write.
    int64_t row_size() const { return x.out; }

    Axis<T> y, x;
};

template <class T>
class Resampled {
  public:
    // map [H, W], dense; wide has room for grid.wide_size() elements.
    Resampled(const Grid<T>& grid, const T* map, T* wide) : grid_(grid), wide_(grid.x.identity ? map : wide) {
        if (grid.x.identity) return;
        for (int64_t y = 0; y < grid.y.in; ++y) {
            const T* from = map + y * grid.x.in;
            T* to = wide + y * grid.x.out;
            for (int64_t x = 0; x < grid.x.out; ++x) {
                const Tap<T> at = grid.x[x];
                to[x] = lerp(from[at.low], from[at.high], at.weight);
            }
        }
    }

    // Within a coarse cell the interpolation is monotone along either axis, so its extremes lie at the cell's edges;
    // the small map's own extremes need not be reached by any output pixel.
    Extremes<T> extremes() const {
        Extremes<T> range;
        const Axis<T>&x = grid_.x, &y = grid_.y;
        for (int64_t i = 0; i < y.edge_count(); ++i) {
            const Tap<T> at = y[y.edge(i)];
            const T *low = wide_ + at.low * x.out, *high = wide_ + at.high * x.out;
            for (int64_t j = 0; j < x.edge_count(); ++j) {
                const int64_t column = x.edge(j);
                range.add(lerp(low[column], high[column], at.weight));
            }
        }
        return range;
    }

    Rescale<T> rescale(Normalize mode) const {
        return mode == Normalize::none ? Rescale<T>{} : Rescale<T>(mode, extremes());
    }

    // Output row y, rescaled, in `row` [W'].
    void row(int64_t y, const Rescale<T>& rescale, T* __restrict row) const {
        const int64_t width = grid_.x.out;
        if (rescale.constant) {
            std::fill_n(row, width, rescale.fill);
            return;
        }
        const Tap<T> at = grid_.y[y];
        const T *low = wide_ + at.low * width, *high = wide_ + at.high * width;
        const Rescale<T> scale = rescale;
        if (at.weight == T(0)) {
            if (scale.identity)
                std::copy_n(low, width, row);
            else
                for (int64_t x = 0; x < width; ++x) row[x] = scale(low[x]);
            return;
        }
        for (int64_t x = 0; x < width; ++x) row[x] = lerp(low[x], high[x], at.weight);
        if (scale.identity) return;
        for (int64_t x = 0; x < width; ++x) row[x] = scale(row[x]);
    }

  private:
    const Grid<T>& grid_;
    const T* wide_;
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
void for_each_map(const ArrayView& heatmap, Size to, Normalize mode, double work, Draw&& draw) {
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
