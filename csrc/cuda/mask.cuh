// The kernel of mask: a map is resampled, normalised and multiplied with its image in registers.
#pragma once

#include "draw.cuh"

namespace fusedcam::cuda {

struct Masking {
    ArrayView image;    // [N, C, H', W']
    ArrayView noise;    // [N, M, H', W'], or without data
    ArrayView out;      // [..., C, H', W']
    int64_t maps;       // M
    bool image_vector;  // every run of four lies at a multiple of its own size
    bool out_vector;
};

// Four neighbouring elements, as wide as one instruction reads or writes.
template <class Element>
struct alignas(sizeof(Element) < 4 ? 8 : 16) Four {
    Element value[4];
};

template <class T, class Element>
__device__ void multiply(const Masking& masking, int64_t from, int64_t to, const T (&mask)[4], int count) {
    const ArrayView &image = masking.image, &out = masking.out;
    const int rank = out.shape.rank;
    const int64_t channels = image.shape.extent[1], over_image = image.strides[1], image_step = image.strides[3],
                  over_out = out.strides[rank - 3], out_step = out.strides[rank - 1];
    for (int64_t c = 0; c < channels; ++c) {
        const auto* pixels = image.at<const Element>(from + c * over_image);
        auto* place = out.at<Element>(to + c * over_out);
        Four<Element> run;
        if (masking.image_vector && count == 4) {
            run = *reinterpret_cast<const Four<Element>*>(pixels);
        } else {
#pragma unroll
            for (int j = 0; j < 4; ++j) run.value[j] = pixels[j < count ? j * image_step : 0];
        }
#pragma unroll
        for (int j = 0; j < 4; ++j)
            run.value[j] = narrow<Element>(static_cast<WideOf<Element>>(mask[j]) *
                                           static_cast<WideOf<Element>>(wide(run.value[j])));
        if (masking.out_vector && count == 4) {
            *reinterpret_cast<Four<Element>*>(place) = run;
        } else {
#pragma unroll
            for (int j = 0; j < 4; ++j)
                if (j < count) place[j * out_step] = run.value[j];
        }
    }
}

template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    mask_maps(const __grid_constant__ Drawing drawing, const __grid_constant__ ArrayView heatmap,
              const __grid_constant__ Masking masking, int64_t first_map) {
    const int64_t map = block_x() / drawing.tiles, index = first_map + map;
    const ArrayView &image = masking.image, &noise = masking.noise, &out = masking.out;
    const int rank = out.shape.rank;
    const int64_t from = index / masking.maps * image.strides[0], start = out.offset(index, 3),
                  added = noise.data ? noise.offset(index, 2) : 0;
    Carve carve(shared_memory());
    draw<T>(drawing, carve, map, Heatmap<T>(heatmap, index), [&](int64_t y, int64_t x, const T(&values)[4], int count) {
        T mask[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            mask[j] = values[j];
            if (noise.data && j < count)
                mask[j] += noise.at<const T>(added + y * noise.strides[2])[(x + j) * noise.strides[3]];
        }
        const int64_t pixel = from + y * image.strides[2] + x * image.strides[3],
                      place = start + y * out.strides[rank - 2] + x * out.strides[rank - 1];
        switch (image.dtype) {
            case DType::float32: return multiply<T, float>(masking, pixel, place, mask, count);
            case DType::float16: return multiply<T, Float16>(masking, pixel, place, mask, count);
            case DType::bfloat16: return multiply<T, BFloat16>(masking, pixel, place, mask, count);
            default: return multiply<T, double>(masking, pixel, place, mask, count);
        }
    });
}

}  // namespace fusedcam::cuda
