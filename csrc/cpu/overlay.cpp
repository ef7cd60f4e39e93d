// overlay and colorize on the CPU: each row is resampled, normalised, coloured and blended while it is in cache, so
// that no map of the picture's size exists.
#include <cmath>
#include <cstring>

#include "../colour.hpp"
#include "resample.hpp"

namespace fusedcam::cpu {
namespace {

// One row of the picture from the indices of its colours, by the kernels where it lies densely and is made of bytes.
template <class T>
class Painter {
  public:
    explicit Painter(const ColorizeCall& call) { take(call.palette); }
    explicit Painter(const OverlayCall& call) : rest_(1 - call.alpha), share_(call.alpha), blends_(true) {
        mixes_ = 256 * share_ == std::floor(256 * share_);
        take(call.palette);
        for (int i = 0; i < 256; ++i)
            for (int c = 0; c < 3; ++c) above_[i][c] = share_ * static_cast<double>(call.palette[i][c]);
    }

    // Bytes of scratch memory a row of that width takes.
    static size_t bytes(int64_t width) {
        return Workspace::bytes<int32_t>(width) + 2 * Workspace::bytes<uint8_t>(3 * width);
    }

    // out [W', 3] and, to blend, image [W', 3], at any strides.
    void paint(const T* row, const ArrayView& image, const ArrayView& out, int64_t y, Workspace& space) const {
        const int64_t width = out.extent(1);
        auto* index = space.take<int32_t>(width);
        auto *dense_image = space.take<uint8_t>(3 * width), *dense_out = space.take<uint8_t>(3 * width);
        bool all_known = false;
        if constexpr (sizeof(T) == 8)
            all_known = kernels_.index64(row, width, index);
        else
            all_known = kernels_.index32(row, width, index);
        uint8_t* to = out.at<uint8_t>(y * out.strides[0]);
        const bool packed = out.strides[1] == 3 && out.strides[2] == 1;
        uint8_t* whole = packed ? to : dense_out;
        if (!blends_) {
            colour(index, width, whole);
        } else if (image.dtype == DType::uint8) {
            const uint8_t* from = image.at<uint8_t>(y * image.strides[0]);
            if (image.strides[1] != 3 || image.strides[2] != 1) from = gather(from, image, dense_image);
            if (mixes_) {
                colour(index, width, whole);
                kernels_.mix(whole, from, 3 * width, static_cast<int>(256 * share_), whole);
            } else {
                kernels_.blend(index, width, &above_[0][0], rest_, from, whole);
                blend(index, from, 3, 1, width - 1, width, whole);
            }
            for (int64_t x = 0; x < width && !all_known; ++x)
                if (index[x] == unknown_colour) std::memcpy(whole + 3 * x, from + 3 * x, 3);
        } else {
            visit_dtype(image.dtype, [&](auto element) {
                const auto* from = image.at<decltype(element)>(y * image.strides[0]);
                blend(index, from, image.strides[1], image.strides[2], 0, width, whole);
            });
        }
        if (!packed)
            for (int64_t x = 0; x < width; ++x)
                for (int c = 0; c < 3; ++c) to[x * out.strides[1] + c * out.strides[2]] = whole[3 * x + c];
    }

  private:
    void take(Palette palette) {
        for (int i = 0; i < 256; ++i)
            for (int c = 0; c < 3; ++c) colours_.rows[i][c] = colours_.planes[c][i] = palette[i][c];
    }

    void colour(const int32_t* index, int64_t width, uint8_t* out) const {
        kernels_.colour(index, width, colours_, out);
        std::memcpy(out + 3 * (width - 1), colours_.rows[index[width - 1]], 3);
    }

    // Pixels [begin, end) of an image of any kind into a dense row.
    template <class Element>
    void blend(const int32_t* index, const Element* image, int64_t step, int64_t colour_step, int64_t begin,
               int64_t end, uint8_t* out) const {
        for (int64_t x = begin; x < end; ++x)
            for (int c = 0; c < 3; ++c) {
                const double below = brightness(image[x * step + c * colour_step]);
                const bool known = index[x] != unknown_colour;
                out[3 * x + c] = nearest(known ? rest_ * below + above_[index[x]][c] : below);
            }
    }

    static const uint8_t* gather(const uint8_t* from, const ArrayView& image, uint8_t* row) {
        for (int c = 0; c < 3; ++c)
            for (int64_t x = 0; x < image.extent(1); ++x)
                row[3 * x + c] = from[x * image.strides[1] + c * image.strides[2]];
        return row;
    }

    const PaintKernels& kernels_ = kernels().paint;
    const double rest_ = 0, share_ = 0;
    const bool blends_ = false;
    bool mixes_ = false;  // the shares are multiples of 1 / 256, so that whole numbers blend exactly
    Colours colours_;
    double above_[unknown_colour + 1][4] = {};  // the palette times its share
};

template <class T, class Call>
void run(const Call& call) {
    const Painter<T> painter(call);
    const int64_t width = call.out.extent(-2);
    for_each_map<T>(
        call.heatmap, {call.out.extent(-3), width}, call.normalize, call.work,
        [&](int64_t index, const Resampled<T>& map, const Rescale<T>& rescale, int64_t begin, int64_t end, T* row) {
            const ArrayView out = call.out.sub(index, 3);
            ArrayView image;
            if constexpr (requires { call.image; }) image = call.image.sub(index, 3);
            Workspace space(Painter<T>::bytes(width));
            for (int64_t y = begin; y < end; ++y) {
                map.row(y, rescale, row);
                space.reset();
                painter.paint(row, image, out, y, space);
            }
        });
}

template <class Call>
void draw(const Call& call) {
    if (call.result.count() == 0) return;
    if (call.heatmap.dtype == DType::float64)
        run<double>(call);
    else
        run<float>(call);
}

}  // namespace

void colorize(const ColorizeCall& call) { draw(call); }
void overlay(const OverlayCall& call) { draw(call); }

}  // namespace fusedcam::cpu
