// Reads [C, H, W] of any element type and strides as rows of T, one a channel: in place where it is dense, else
// through a small buffer. The kernels see rows only, so their arithmetic and its order are the same for every layout.
#pragma once

#include <algorithm>

#include "../array_view.hpp"

namespace fusedcam::cpu {

constexpr int64_t tile_channels = 16;
constexpr int64_t tile_pixels = 1024;

// Rows of T, `step` elements apart.
template <class T>
struct Rows {
    const T* first;
    int64_t step;

    const T* operator[](int64_t row) const { return first + row * step; }
};

template <class T>
class TileReader {
  public:
    static constexpr int64_t buffer_size = tile_channels * tile_pixels;

    // array [..., C, H, W]
    explicit TileReader(const ArrayView& array)
        : array_(array),
          width_(array.extent(-1)),
          over_channels_(array.stride(-3)),
          over_height_(array.stride(-2)),
          over_width_(array.stride(-1)),
          in_place_(array.dtype == (sizeof(T) == 8 ? DType::float64 : DType::float32) &&
                    (width_ == 1 || over_width_ == 1) && (array.extent(-2) == 1 || over_height_ == width_)) {}

    // Whether rows are read where they lie; if not, `load` needs a buffer of buffer_size.
    bool in_place() const { return in_place_; }

    // Pixels [begin, begin + length) of `count` channels, the first of them at the offset `first`.
    Rows<T> load(int64_t first, int64_t count, int64_t begin, int64_t length, T* buffer) const {
        if (in_place_) return {array_.at<T>(first + begin), over_channels_};
        visit_dtype(array_.dtype,
                    [&](auto element) { gather<decltype(element)>(first, count, begin, length, buffer); });
        return {buffer, tile_pixels};
    }

  private:
    template <class Element>
    [[gnu::noinline]] void gather(int64_t first, int64_t count, int64_t begin, int64_t length, T* buffer) const {
        const int64_t over_channels = over_channels_, over_width = over_width_;
        for (int64_t done = 0; done < length;) {
            const int64_t h = (begin + done) / width_, w = (begin + done) % width_;
            const int64_t run = std::min(length - done, width_ - w);
            const Element* from = array_.at<Element>(first + h * over_height_ + w * over_width);
            T* to = buffer + done;
            if (over_width == 1) {
                for (int64_t c = 0; c < count; ++c)
                    for (int64_t i = 0; i < run; ++i)
                        to[c * tile_pixels + i] = static_cast<T>(widen(from[c * over_channels + i]));
            } else {  // the channels are the closer neighbours, or nothing is
                for (int64_t i = 0; i < run; ++i)
                    for (int64_t c = 0; c < count; ++c)
                        to[c * tile_pixels + i] = static_cast<T>(widen(from[c * over_channels + i * over_width]));
            }
            done += run;
        }
    }

    const ArrayView& array_;
    const int64_t width_, over_channels_, over_height_, over_width_;
    const bool in_place_;
};

}  // namespace fusedcam::cpu
