// The interpolation transposed: every pixel gathers, in float64, what it had a part in. Along one set of axes first,
// the rows or those across them, then along the other.
#pragma once

#include <type_traits>

#include "resize_backward.cuh"

namespace fusedcam::cuda {

// How much of output pixel `at` is input pixel x's.
template <class T>
__device__ double weight_in(const Tap<T>& at, int64_t x) {
    const double weight = static_cast<double>(at.weight);
    return at.low == x ? 1 - weight : at.high == x ? weight : 0;
}

// What the output pixels count: the given slopes, through the normalisation.
template <class T>
class OutputSlopes {
  public:
    // By the whole block; has a barrier.
    __device__ OutputSlopes(const ResizeSlopes& plan, int64_t first, int64_t map, const Scratch<T>& scratch)
        : plan_(plan),
          slice_((first + map) * plan.from.depth),
          slopes_(given_slopes<T>(plan, first + map)),
          normalised_(rescale_slopes(plan, map, scratch, true)) {
        if (normalised_.reads()) shares_ = *scratch.shares;
    }
    __device__ double operator()(int64_t line, int64_t x, const Tap<T>& across, const Tap<T>& down,
                                 const Tap<T>& along) const {
        const T value = normalised_.reads() ? sample_slices(plan_.heatmap, slice_, across, down, along) : T(0);
        return normalised_(value, slopes_[line * plan_.to.width + x], shares_);
    }

  private:
    const ResizeSlopes& plan_;
    int64_t slice_;
    const T* slopes_;
    RescaleSlopes<T> normalised_;
    ExtremeSlopes shares_;
};

// What the pixels between count.
template <class T>
class PassedSlopes {
  public:
    __device__ PassedSlopes(const ResizeSlopes& plan, int64_t, int64_t map, const Scratch<T>&)
        : slopes_(plan.passed + map * plan.passed_pixels()), width_(plan.between.width) {}
    __device__ double operator()(int64_t line, int64_t x, const Tap<T>&, const Tap<T>&, const Tap<T>&) const {
        return slopes_[line * width_ + x];
    }

  private:
    const double* slopes_;
    int64_t width_;
};

__device__ inline void store(const ArrayView& to, int64_t offset, double value) {
    switch (to.dtype) {
        case DType::float32: *to.at<float>(offset) = static_cast<float>(value); return;
        case DType::float16: *to.at<Float16>(offset) = narrow<Float16>(static_cast<float>(value)); return;
        case DType::bfloat16: *to.at<BFloat16>(offset) = narrow<BFloat16>(static_cast<float>(value)); return;
        default: *to.at<double>(offset) = value;
    }
}

// Writes all pixels of the block's tile, to `passed` if this is the first of both; `gather(read, at, lane, lanes)` is
// the lane's part of one. Where a pixel reaches far, many threads share it, and add up in an order that depends on the
// sizes alone.
template <class T, bool once, class Gather>
__device__ void write_gathered(const ResizeSlopes& plan, int64_t first, Gather&& gather) {
    Carve carve(shared_memory());
    const Scratch<T> scratch(carve);
    const Gathering& by = once ? plan.once : plan.last;
    const Size& own = once ? plan.between : plan.from;
    const int64_t count = own.depth * own.height * own.width;
    const Tile tile(count, by.tiles);
    const std::conditional_t<once, OutputSlopes<T>, PassedSlopes<T>> read(plan, first, tile.map, scratch);
    const ArrayView& out = plan.of_heatmap;
    const int rank = out.shape.rank, lanes = 1 << by.lane_bits, lane = thread() & (lanes - 1);
    for (int64_t i = tile.begin + (thread() >> by.lane_bits); i < tile.end; i += threads >> by.lane_bits) {
        const Place at(i, own.height, own.width);
        const double sum = group_sum(gather(read, at, lane, lanes), by.lane_bits, scratch.sums);
        if (lane != 0) continue;
        if constexpr (once)
            plan.passed[tile.map * count + i] = sum;
        else
            store(out,
                  out.offset((first + tile.map) * own.depth + at.z, 2) + at.y * out.strides[rank - 2] +
                      at.x * out.strides[rank - 1],
                  sum);
    }
}

// Along rows: `once` from the outputs, else from what was gathered across them before.
template <class T, bool once>
__global__ void __launch_bounds__(threads, resident<T>)
    gather_along_rows(const __grid_constant__ ResizeSlopes plan, int64_t first) {
    write_gathered<T, once>(plan, first, [&](const auto& read, const Place& at, int lane, int lanes) {
        const Size &from = plan.from, &to = plan.to;
        const Tap<T> across = once ? tap_of<T>(at.z, from.depth, to.depth) : Tap<T>{},
                     down = once ? tap_of<T>(at.y, from.height, to.height) : Tap<T>{};
        const Reach reached = reach(at.x, from.width, to.width);
        double sum = 0;
        for (int64_t x = reached.first + lane; x < reached.end; x += lanes) {
            const Tap<T> along = tap_of<T>(x, from.width, to.width);
            const double weight = weight_in(along, at.x);
            if (weight != 0) sum += weight * read(at.line, x, across, down, along);
        }
        return sum;
    });
}

// Across rows, and slices, likewise.
template <class T, bool once>
__global__ void __launch_bounds__(threads, resident<T>)
    gather_across_rows(const __grid_constant__ ResizeSlopes plan, int64_t first) {
    write_gathered<T, once>(plan, first, [&](const auto& read, const Place& at, int lane, int lanes) {
        const Size &from = plan.from, &to = plan.to;
        const Tap<T> along = once ? tap_of<T>(at.x, from.width, to.width) : Tap<T>{};
        const Reach slices = reach(at.z, from.depth, to.depth), lines = reach(at.y, from.height, to.height);
        const int64_t height = lines.end - lines.first, count = (slices.end - slices.first) * height;
        double sum = 0;
        for (int64_t i = lane; i < count; i += lanes) {
            const int64_t slice = quotient(i, height), z = slices.first + slice, y = lines.first + i - slice * height;
            const Tap<T> across = tap_of<T>(z, from.depth, to.depth), down = tap_of<T>(y, from.height, to.height);
            const double weight = weight_in(across, at.z) * weight_in(down, at.y);
            if (weight != 0) sum += weight * read(z * to.height + y, at.x, across, down, along);
        }
        return sum;
    });
}

}  // namespace fusedcam::cuda
