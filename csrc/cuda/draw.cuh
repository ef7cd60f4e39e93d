// Kernels that bring finished maps onto another grid: as numbers, as colours, blended with an image.
#pragma once

#include "../array_view.hpp"
#include "../colour.hpp"
#include "map.cuh"

namespace fusedcam::cuda {

// How one map is drawn: by `tiles` blocks, each some rows.
struct Drawing {
    Frame frame;
    Normalization normalize;
    bool staged;  // the small map is kept in shared memory
    int64_t tiles;
    const void* ranges;  // Extremes [maps, range_tiles] where they were found before; null: every block finds them
    int64_t range_tiles;

    __host__ __device__ bool finds_extremes() const { return normalize.any() && !ranges; }
};

// Shared memory of a drawing block.
template <class T>
struct DrawSpace {
    T* map;
    Canvas<T> canvas;

    __host__ __device__ DrawSpace(Carve& space, const Drawing& drawing)
        : map(drawing.staged ? space.take<T>(drawing.frame.pixels()) : nullptr),
          canvas(space, drawing.frame, drawing.tiles, drawing.finds_extremes()) {}
};

// `map` counts from the launch's first; `read(y, x)` is a pixel of it, `write` as in for_each_run.
template <class T, class Read, class Write>
__device__ void draw(const Drawing& drawing, Carve& carve, int64_t map, const Read& read, Write&& write) {
    const Frame& frame = drawing.frame;
    DrawSpace<T> space(carve, drawing);
    const int64_t tile = block_x() - map * drawing.tiles, begin = share(frame.out_height, tile, drawing.tiles),
                  end = share(frame.out_height, tile + 1, drawing.tiles);
    space.canvas.fill(begin, end);
    if (drawing.staged)
        for (Walk at(frame.width); at.row() < frame.height; at.next())
            space.map[at.row() * frame.width + at.column()] = read(at.row(), at.column());
    block_barrier();
    const auto pixel = [&](int64_t y, int64_t x) {
        return drawing.staged ? space.map[y * frame.width + x] : read(y, x);
    };
    widen_rows<T>(pixel, frame, space.canvas, begin, end);
    Extremes<T> range;
    if (drawing.finds_extremes()) {
        range = find_extremes<T>(pixel, space.canvas, 0, space.canvas.edge_rows.count());
    } else {
        if (drawing.normalize.any())
            for (int64_t i = 0; i < drawing.range_tiles; ++i)
                range.add(static_cast<const Extremes<T>*>(drawing.ranges)[map * drawing.range_tiles + i]);
        block_barrier();
    }
    for_each_run<T>(pixel, frame, space.canvas, Rescale<T>(drawing.normalize, range), begin, end, write);
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
__global__ void __launch_bounds__(threads, resident<T>)
    resize_maps(const __grid_constant__ Drawing drawing, const __grid_constant__ ArrayView heatmap, int64_t first_map,
                const __grid_constant__ Output output, int64_t first_out) {
    const int64_t map = block_x() / drawing.tiles;
    const Target<T> target = target_of<T>(output, first_out + map);
    Carve carve(shared_memory());
    draw<T>(drawing, carve, map, Heatmap<T>(heatmap, first_map + map),
            [&](int64_t y, int64_t x, const T(&values)[4], int count) { target.write(y, x, values, count); });
}

// ranges [maps, range_tiles], for maps that no block can hold.
template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    find_ranges(const __grid_constant__ Drawing drawing, const __grid_constant__ ArrayView heatmap, Extremes<T>* ranges,
                int64_t first_map) {
    Carve carve(shared_memory());
    Canvas<T> canvas(carve, drawing.frame, drawing.frame.out_height, true);
    canvas.fill(0, 0);
    block_barrier();
    const int64_t map = block_x() / drawing.range_tiles, tile = block_x() - map * drawing.range_tiles,
                  rows = canvas.edge_rows.count();
    const Extremes<T> range =
        find_extremes<T>(Heatmap<T>(heatmap, first_map + map), canvas, share(rows, tile, drawing.range_tiles),
                         share(rows, tile + 1, drawing.range_tiles));
    if (thread() == 0) ranges[block_x()] = range;
}

constexpr int palette_bytes = 256 * 3;

// What colorize and overlay write; an image without data is colorize's.
struct Painting {
    ArrayView image;  // [..., H', W', 3]
    ArrayView out;    // [..., H', W', 3] uint8
    double alpha;
    bool packed;        // out is dense and every run of four pixels lies at a multiple of 4 bytes
    bool image_packed;  // the same of an image of bytes
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

// The image's 12 values under four pixels of a row.
__device__ inline void read_image(const Painting& painting, int64_t offset, int count, double (&below)[12]) {
    const ArrayView& image = painting.image;
    const int rank = image.shape.rank;
    if (painting.image_packed && count == 4) {
        const auto* words = reinterpret_cast<const uint32_t*>(image.at<const uint8_t>(offset));
#pragma unroll
        for (int i = 0; i < 12; ++i) below[i] = brightness(static_cast<uint8_t>(words[i / 4] >> 8 * (i % 4)));
        return;
    }
#pragma unroll
    for (int i = 0; i < 12; ++i)
        below[i] =
            i / 3 < count
                ? brightness_at(image, offset + i / 3 * image.strides[rank - 2] + i % 3 * image.strides[rank - 1])
                : 0;
}

template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
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
                double below[12] = {};
                if (image.data)
                    read_image(painting, from + y * image.strides[rank - 3] + x * image.strides[rank - 2], count,
                               below);
                uint32_t words[3] = {};
                uint8_t* to = out.at<uint8_t>(start + y * out.strides[rank - 3] + x * out.strides[rank - 2]);
                const bool packed = painting.packed && count == 4;
#pragma unroll
                for (int i = 0; i < 12; ++i) {
                    if (i / 3 >= count) break;
                    const uint8_t value = paint(painting, palette, values[i / 3], i % 3, below[i]);
                    if (packed)
                        words[i / 4] |= static_cast<uint32_t>(value) << 8 * (i % 4);
                    else
                        to[i / 3 * out.strides[rank - 2] + i % 3 * out.strides[rank - 1]] = value;
                }
                if (!packed) return;
#pragma unroll
                for (int i = 0; i < 3; ++i) reinterpret_cast<uint32_t*>(to)[i] = words[i];
            });
}

}  // namespace fusedcam::cuda
