// Kernels that bring finished maps onto another grid: as numbers, as colours, blended with an image.
#pragma once

#include "../array_view.hpp"
#include "../colour.hpp"
#include "map.cuh"

namespace fusedcam::cuda {

// How one map is drawn: by `tiles` blocks, each some rows.
struct Drawing {
    Frame frame;
    Normalize normalize;
    bool staged;         // the small map is kept in shared memory
    const void* ranges;  // Extremes of each map where they were found before; null: every block finds them
    int64_t tiles;
};

// Shared memory of a drawing block, apart from the columns' table.
template <class T>
struct DrawSpace {
    T* map;
    Extremes<T>* extremes;

    __host__ __device__ DrawSpace(Carve& space, const Drawing& drawing)
        : map(space.take<T>(drawing.staged ? drawing.frame.pixels() : 0)),
          extremes(space.take<Extremes<T>>(threads / warp)) {}
};

// `map` counts from the launch's first; `read(y, x)` is a pixel of it, `write` as in for_each_run.
template <class T, class Read, class Write>
__device__ void draw(const Drawing& drawing, Carve& carve, int64_t map, const Read& read, Write&& write) {
    const Frame& frame = drawing.frame;
    const DrawSpace<T> space(carve, drawing);
    const Columns<T> columns(frame, carve);
    if (drawing.staged)
        for (int64_t i = thread(); i < frame.pixels(); i += threads) {
            const int64_t y = i / frame.width;
            space.map[i] = read(y, i - y * frame.width);
        }
    block_barrier();
    const auto pixel = [&](int64_t y, int64_t x) {
        return drawing.staged ? space.map[y * frame.width + x] : read(y, x);
    };
    Rescale<T> rescale;
    if (drawing.normalize != Normalize::none)
        rescale =
            Rescale<T>(drawing.normalize, drawing.ranges ? static_cast<const Extremes<T>*>(drawing.ranges)[map]
                                                         : find_extremes<T>(pixel, frame, columns, space.extremes));
    const int64_t tile = block_x() - map * drawing.tiles;
    for_each_run<T>(pixel, frame, columns, rescale, share(frame.out_height, tile, drawing.tiles),
                    share(frame.out_height, tile + 1, drawing.tiles), write);
}

// One pixel of map [..., H, W] of any element type and strides.
template <class T>
class Heatmap {
  public:
    __device__ Heatmap(const ArrayView& view, int64_t map)
        : start_(view.data + view.offset(map, 2) * item_size(view.dtype)),
          row_(view.strides[view.shape.rank - 2]),
          column_(view.strides[view.shape.rank - 1]),
          dtype_(view.dtype) {}
    __device__ T operator()(int64_t y, int64_t x) const {
        const int64_t offset = y * row_ + x * column_;
        switch (dtype_) {
            case DType::float32: return as<float>(offset);
            case DType::float16: return as<Float16>(offset);
            case DType::bfloat16: return as<BFloat16>(offset);
            default: return as<double>(offset);
        }
    }

  private:
    template <class Element>
    __device__ T as(int64_t offset) const {
        return static_cast<T>(widen(reinterpret_cast<const Element*>(start_)[offset]));
    }

    const std::byte* start_;
    int64_t row_, column_;
    DType dtype_;
};

// The result's maps: [..., H', W'] at any strides.
struct Output {
    ArrayView view;
    bool vector;  // as Target's
};

template <class T>
__device__ Target<T> target_of(const Output& output, int64_t map) {
    const ArrayView& view = output.view;
    const int rank = view.shape.rank;
    return {view.at<T>(view.offset(map, 2)), view.strides[rank - 2], view.strides[rank - 1], output.vector};
}

template <class T>
__global__ void __launch_bounds__(threads, 2)
    resize_maps(const __grid_constant__ Drawing drawing, const __grid_constant__ ArrayView heatmap, int64_t first_map,
                const __grid_constant__ Output output, int64_t first_out) {
    const int64_t map = block_x() / drawing.tiles;
    const Target<T> target = target_of<T>(output, first_out + map);
    Carve carve(shared_memory());
    draw<T>(drawing, carve, map, Heatmap<T>(heatmap, first_map + map),
            [&](int64_t y, int64_t x, const T(&values)[4], int count) { target.write(y, x, values, count); });
}

// ranges [maps], one block a map: for maps that no block can hold.
template <class T>
__global__ void __launch_bounds__(threads, 2)
    find_ranges(const __grid_constant__ Drawing drawing, const __grid_constant__ ArrayView heatmap, Extremes<T>* ranges,
                int64_t first_map) {
    Carve carve(shared_memory());
    const DrawSpace<T> space(carve, drawing);
    const Columns<T> columns(drawing.frame, carve);
    block_barrier();
    const Heatmap<T> map(heatmap, first_map + block_x());
    const Extremes<T> range = find_extremes<T>(map, drawing.frame, columns, space.extremes);
    if (thread() == 0) ranges[block_x()] = range;
}

constexpr int palette_bytes = 256 * 3;

// What colorize and overlay write; an image without data is colorize's.
struct Painting {
    ArrayView image;  // [..., H', W', 3]
    ArrayView out;    // [..., H', W', 3] uint8
    double alpha;
    bool packed;  // out is dense and every run of four pixels lies at a multiple of 4 bytes
    uint8_t palette[palette_bytes];
};

template <class T>
__device__ uint8_t paint(const Painting& painting, const uint8_t* palette, T value, int colour, double below) {
    const bool known = value == value;
    const uint8_t above = known ? palette[3 * colour_index(value) + colour] : uint8_t{0};
    if (!painting.image.data) return above;
    return nearest(known ? (1 - painting.alpha) * below + painting.alpha * static_cast<double>(above) : below);
}

__device__ inline double brightness_at(const ArrayView& image, int64_t offset) {
    switch (image.dtype) {
        case DType::float32: return brightness(image.at<const float>()[offset]);
        case DType::float16: return brightness(image.at<const Float16>()[offset]);
        case DType::bfloat16: return brightness(image.at<const BFloat16>()[offset]);
        case DType::float64: return brightness(image.at<const double>()[offset]);
        default: return brightness(image.at<const uint8_t>()[offset]);
    }
}

template <class T>
__global__ void __launch_bounds__(threads, 2)
    paint_maps(const __grid_constant__ Drawing drawing, const __grid_constant__ ArrayView heatmap,
               const __grid_constant__ Painting painting, int64_t first_map) {
    const int64_t map = block_x() / drawing.tiles;
    const ArrayView &out = painting.out, &image = painting.image;
    const int rank = out.shape.rank;
    const int64_t start = out.offset(first_map + map, 3), from = image.data ? image.offset(first_map + map, 3) : 0;
    Carve carve(shared_memory());
    // Every thread looks up another row: parameters would be read one thread after the other.
    auto* palette = carve.take<uint8_t>(palette_bytes);
    for (int i = thread(); i < palette_bytes; i += threads) palette[i] = painting.palette[i];  // draw has the barrier
    draw<T>(drawing, carve, map, Heatmap<T>(heatmap, first_map + map),
            [&](int64_t y, int64_t x, const T(&values)[4], int count) {
                uint32_t words[3] = {};
                uint8_t* to = out.at<uint8_t>(start + y * out.strides[rank - 3] + x * out.strides[rank - 2]);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    if (j >= count) break;
#pragma unroll
                    for (int c = 0; c < 3; ++c) {
                        double below = 0;
                        if (image.data)
                            below = brightness_at(image, from + y * image.strides[rank - 3] +
                                                             (x + j) * image.strides[rank - 2] +
                                                             c * image.strides[rank - 1]);
                        const uint8_t value = paint(painting, palette, values[j], c, below);
                        if (painting.packed && count == 4)
                            words[(3 * j + c) / 4] |= static_cast<uint32_t>(value) << 8 * ((3 * j + c) % 4);
                        else
                            to[j * out.strides[rank - 2] + c * out.strides[rank - 1]] = value;
                    }
                }
                if (!painting.packed || count != 4) return;
#pragma unroll
                for (int i = 0; i < 3; ++i) reinterpret_cast<uint32_t*>(to)[i] = words[i];
            });
}

}  // namespace fusedcam::cuda
