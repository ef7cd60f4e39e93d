// overlay and colorize on the CPU: each row is resampled, normalised, coloured and blended while it is in cache, so
// that no map of the picture's size exists.
#include "../colour.hpp"
#include "resample.hpp"

namespace fusedcam::cpu {
namespace {

template <class T>
void colour_row(const T* row, const ColorizeCall& call, const ArrayView& out, int64_t y) {
    uint8_t* to = out.at<uint8_t>(y * out.strides[0]);
    for (int64_t x = 0; x < out.extent(1); ++x, to += out.strides[1]) {
        const bool known = row[x] == row[x];
        const uint8_t* colour = call.palette[known ? colour_index(row[x]) : 0];
        for (int c = 0; c < 3; ++c) to[c * out.strides[2]] = known ? colour[c] : 0;
    }
}

template <class T, class Element>
void blend_row(const T* row, const OverlayCall& call, const ArrayView& image, const ArrayView& out, int64_t y) {
    const double share = call.alpha, rest = 1 - call.alpha;
    const Element* from = image.at<Element>(y * image.strides[0]);
    uint8_t* to = out.at<uint8_t>(y * out.strides[0]);
    for (int64_t x = 0; x < out.extent(1); ++x, from += image.strides[1], to += out.strides[1]) {
        const bool known = row[x] == row[x];
        const uint8_t* colour = call.palette[known ? colour_index(row[x]) : 0];
        for (int c = 0; c < 3; ++c) {
            const double below = brightness(from[c * image.strides[2]]);
            to[c * out.strides[2]] = nearest(known ? rest * below + share * static_cast<double>(colour[c]) : below);
        }
    }
}

template <class T>
void run(const ColorizeCall& call) {
    for_each_map<T>(
        call.heatmap, {call.out.extent(-3), call.out.extent(-2)}, call.normalize, call.work,
        [&](int64_t index, const Resampled<T>& map, const Rescale<T>& rescale, int64_t begin, int64_t end, T* row) {
            const ArrayView out = call.out.sub(index, 3);
            for (int64_t y = begin; y < end; ++y) {
                map.row(y, rescale, row);
                colour_row(row, call, out, y);
            }
        });
}

template <class T>
void run(const OverlayCall& call) {
    for_each_map<T>(
        call.heatmap, {call.out.extent(-3), call.out.extent(-2)}, call.normalize, call.work,
        [&](int64_t index, const Resampled<T>& map, const Rescale<T>& rescale, int64_t begin, int64_t end, T* row) {
            const ArrayView image = call.image.sub(index, 3), out = call.out.sub(index, 3);
            visit_dtype(image.dtype, [&](auto element) {
                for (int64_t y = begin; y < end; ++y) {
                    map.row(y, rescale, row);
                    blend_row<T, decltype(element)>(row, call, image, out, y);
                }
            });
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
