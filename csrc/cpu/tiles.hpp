// Reads [C, D, H, W] of any element type and strides as dense rows, one a channel: where they lie and of their own
// type, or through a small buffer of T. The kernels see rows only, so their arithmetic and its order are the same for
// every layout.
#pragma once

#include <algorithm>

#include "../array_view.hpp"

namespace fusedcam::cpu {

constexpr int64_t tile_channels = 16;
constexpr int64_t tile_pixels = 1024;

template <class T>
class TileReader {
  public:
    static constexpr int64_t buffer_size = tile_channels * tile_pixels;

    // array [..., C, D, H, W], of float64 if T is double
    explicit TileReader(const ArrayView& array)
        : array_(array),
          width_(array.extent(-1)),
          height_(array.extent(-2)),
          over_channels_(array.stride(-4)),
          over_depth_(array.extent(-3) == 1 ? 0 : array.stride(-3)),
          over_height_(array.stride(-2)),
          over_width_(array.stride(-1)),
          in_place_((width_ == 1 || over_width_ == 1) && (height_ == 1 || over_height_ == width_) &&
                    (array.extent(-3) == 1 || over_depth_ == height_ * width_)) {}

    // Whether rows are read where they lie; if not, `load` needs a buffer of buffer_size and takes at most
    // tile_channels.
    bool in_place() const { return in_place_; }
    int64_t pixels() const { return array_.extent(-3) * height_ * width_; }

    // Calls visitor(rows, step) with pixels [begin, begin + length) of `count` channels, the first of them at the
    // offset `first`.
    template <class Visitor>
    void load(int64_t first, int64_t count, int64_t begin, int64_t length, T* buffer, Visitor&& visitor) const {
        with_element([&](auto element) {
            using Element = decltype(element);
            if (in_place_) return visitor(array_.at<const Element>(first + begin), over_channels_);
            gather<Element>(first, count, begin, length, buffer);
            visitor(static_cast<const T*>(buffer), tile_pixels);
        });
    }
    // The same into `buffer`, wherever they lie; of one channel any number of them.
    void copy(int64_t first, int64_t count, int64_t begin, int64_t length, T* buffer) const {
        with_element([&](auto element) { gather<decltype(element)>(first, count, begin, length, buffer); });
    }

    // Calls visitor with a value of the elements' type.
    template <class Visitor>
    void with_element(Visitor&& visitor) const {
        if constexpr (sizeof(T) == 8)
            visitor(double{});
        else if (array_.dtype == DType::float16)
            visitor(Float16{});
        else if (array_.dtype == DType::bfloat16)
            visitor(BFloat16{});
        else
            visitor(float{});
    }

  private:
    template <class Element>
    [[gnu::noinline]] void gather(int64_t first, int64_t count, int64_t begin, int64_t length, T* buffer) const {
        const int64_t over_channels = over_channels_, over_width = over_width_;
        for (int64_t done = 0; done < length;) {
            const int64_t line = (begin + done) / width_, w = (begin + done) % width_;
            const int64_t z = over_depth_ ? line / height_ : 0, y = over_depth_ ? line - z * height_ : line;
            const int64_t run = std::min(length - done, width_ - w);
            const Element* from = array_.at<Element>(first + z * over_depth_ + y * over_height_ + w * over_width);
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
    const int64_t width_, height_, over_channels_, over_depth_, over_height_, over_width_;
    const bool in_place_;
};

}  // namespace fusedcam::cpu
