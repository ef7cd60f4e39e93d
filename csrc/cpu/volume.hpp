// Volumes on their way to the output grid: every slice as a map, then between the slices.
#pragma once

#include "resample.hpp"

namespace fusedcam::cpu {

template <class T>
class Volume {
  public:
    // volume [D, H, W], dense; the work is shared out over threads if `parallel`.
    Volume(const Grid<T>& grid, const T* volume, bool parallel)
        : grid_(grid), plane_(grid.y.out * grid.x.out), parallel_(parallel), slices_(volume) {
        if (grid.x.identity && grid.y.identity) return;
        resampled_ = std::make_unique_for_overwrite<T[]>(static_cast<size_t>(grid.z.in * plane_));
        slices_ = resampled_.get();
        for_ranges(grid.z.in, [&](int64_t begin, int64_t end) {
            Workspace space(Workspace::bytes<T>(grid.wide_size()));
            T* wide = space.take<T>(grid.wide_size());
            for (int64_t z = begin; z < end; ++z) {
                const Resampled<T> map(grid, volume + z * grid.y.in * grid.x.in, wide);
                for (int64_t y = 0; y < grid.y.out; ++y)
                    map.row(y, Rescale<T>{}, resampled_.get() + z * plane_ + y * grid.x.out);
            }
        });
    }

    // Between two slices every pixel is monotone, so its extremes lie where the slices change.
    Rescale<T> rescale(Normalization mode) const {
        if (!mode.any()) return {};
        Extremes<T> range;
        const Axis<T>& z = grid_.z;
        for (int64_t i = 0; i < z.edge_count(); ++i) {
            const Tap<T> at = z[z.edge(i)];
            kernels_.extremes(slices_ + at.low * plane_, slices_ + at.high * plane_, at.weight, plane_, range);
        }
        return {mode, range};
    }

    // Into the volume of out [..., D', H', W'] that begins at that offset.
    void write(const Rescale<T>& rescale, const ArrayView& out, int64_t offset) const {
        for_ranges(grid_.z.out * grid_.y.out, [&](int64_t begin, int64_t end) {
            const int64_t width = grid_.x.out, step = out.stride(-1);
            Workspace space(Workspace::bytes<T>(width));
            T* buffer = space.take<T>(width);
            for (int64_t line = begin; line < end; ++line) {
                const int64_t z = line / grid_.y.out, y = line - z * grid_.y.out;
                T* to = out.at<T>(offset + z * out.stride(-3) + y * out.stride(-2));
                row(z, y, rescale, step == 1 ? to : buffer);
                if (step != 1)
                    for (int64_t x = 0; x < width; ++x) to[x * step] = buffer[x];
            }
        });
    }

    // Row y of slice z, rescaled.
    void row(int64_t z, int64_t y, const Rescale<T>& rescale, T* to) const {
        const int64_t width = grid_.x.out;
        if (rescale.constant) {
            std::fill_n(to, width, rescale.fill);
            return;
        }
        const Tap<T> at = grid_.z[z];
        kernels_.row(slices_ + at.low * plane_ + y * width, slices_ + at.high * plane_ + y * width, at.weight, rescale,
                     width, to);
    }

  private:
    template <class Body>
    void for_ranges(int64_t count, Body&& body) const {
        if (parallel_)
            parallel_ranges(count, body);
        else
            body(int64_t{0}, count);
    }

    const Grid<T>& grid_;
    const int64_t plane_;
    const bool parallel_;
    std::unique_ptr<T[]> resampled_;
    const T* slices_;  // [D, H', W']
    const DrawKernels<T>& kernels_ = kernels().template draw<T>();
};

}  // namespace fusedcam::cpu
