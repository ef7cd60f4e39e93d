// The maps of several layers as one on CUDA: every output pixel from all of them.
#include "volumes.hpp"

namespace fusedcam::cuda {
namespace {

struct Layers {
    int count;
    Fuse by;
    Size size;
    Size sizes[FuseCall::most];
    ArrayView views[FuseCall::most];
};

template <class T>
__device__ T fused(const Layers& layers, int64_t map, int64_t pixel) {
    const int64_t line = pixel / layers.size.width, z = line / layers.size.height, x = pixel - line * layers.size.width,
                  y = line - z * layers.size.height;
    T all = T(0);
    for (int i = 0; i < layers.count; ++i) {
        const T value = sample_volume<T>(layers.sizes[i], layers.size, layers.views[i], map, z, y, x);
        if (i == 0)
            all = value;
        else if (layers.by == Fuse::mean)
            all += value;
        else if (layers.by == Fuse::product)
            all *= value;
        else
            all = value > all || value != value ? value : all;
    }
    return layers.by == Fuse::mean ? all / static_cast<T>(layers.count) : all;
}

// ranges [maps, range_tiles]
template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    find_fused_ranges(const __grid_constant__ Layers layers, int64_t range_tiles, Extremes<T>* ranges, int64_t first) {
    Carve carve(shared_memory());
    auto* scratch = carve.take<Extremes<T>>(threads / warp);
    const int64_t map = block_x() / range_tiles, tile = block_x() - map * range_tiles,
                  pixels = layers.size.depth * layers.size.height * layers.size.width,
                  last = share(pixels, tile + 1, range_tiles);
    Extremes<T> range;
    for (int64_t i = share(pixels, tile, range_tiles) + thread(); i < last; i += threads)
        range.add(fused<T>(layers, first + map, i));
    range = block_extremes(range, scratch);
    if (thread() == 0) ranges[block_x()] = range;
}

template <class T>
__global__ void __launch_bounds__(threads, resident<T>)
    fuse_maps(const __grid_constant__ Layers layers, Normalization normalize, int64_t tiles, const Extremes<T>* ranges,
              int64_t range_tiles, const __grid_constant__ ArrayView out, int64_t first) {
    const int64_t map = block_x() / tiles, tile = block_x() - map * tiles;
    Extremes<T> range;
    if (normalize.any())
        for (int64_t i = 0; i < range_tiles; ++i) range.add(ranges[map * range_tiles + i]);
    const Rescale<T> rescale(normalize, range);
    const Size& size = layers.size;
    const int64_t pixels = size.depth * size.height * size.width, last = share(pixels, tile + 1, tiles);
    T* const start = out.at<T>(out.offset(first + map, 3));
    const int rank = out.shape.rank;
    for (int64_t i = share(pixels, tile, tiles) + thread(); i < last; i += threads) {
        const int64_t line = i / size.width, z = line / size.height, x = i - line * size.width,
                      y = line - z * size.height;
        T value = rescale.fill;
        if (!rescale.constant) {
            value = fused<T>(layers, first + map, i);
            if (!rescale.identity) value = rescale(value);
        }
        start[z * out.strides[rank - 3] + y * out.strides[rank - 2] + x * out.strides[rank - 1]] = value;
    }
}

// [..., H, W] with a depth of 1.
ArrayView with_depth(ArrayView view, bool volumes) {
    if (!volumes) view.insert_axis(view.shape.rank - 2, 1, 0);
    return view;
}

int64_t maps_of(const FuseCall& call) { return call.layers[0].count_sub(call.volumes() ? 3 : 2); }

VolumeDrawing plan_of(const FuseCall& call, const Device& device) {
    return plan_volumes(call.size, call.size, call.normalize, maps_of(call), device);
}

template <class T>
void run(const FuseCall& call, const Queue& queue) {
    const OnDevice here(queue.device);
    const Device& facts = device(queue.device);
    const VolumeDrawing drawing = plan_of(call, facts);
    Layers layers{call.count, call.by, call.size, {}, {}};
    for (int i = 0; i < call.count; ++i) {
        layers.sizes[i] = call.size_of_layer(i);
        layers.views[i] = with_depth(call.layers[i], call.volumes());
    }
    const ArrayView out = with_depth(call.maps(), call.volumes());
    auto* ranges = static_cast<Extremes<T>*>(queue.workspace);
    const int64_t maps = maps_of(call), together = most_blocks / std::max(drawing.tiles, drawing.range_tiles);
    for (int64_t first = 0; first < maps; first += together) {
        const int64_t some = std::min(together, maps - first);
        if (call.normalize.any()) {
            Carve carve(nullptr);
            carve.take<Extremes<T>>(threads / warp);
            launch(find_fused_ranges<T>, facts, queue, {some * drawing.range_tiles, 1, carve.bytes()}, layers,
                   drawing.range_tiles, ranges, first);
        }
        launch(fuse_maps<T>, facts, queue, {some * drawing.tiles}, layers, call.normalize, drawing.tiles, ranges,
               drawing.range_tiles, out, first);
    }
}

}  // namespace

int64_t workspace(const FuseCall& call, int index) {
    if (call.result.count() == 0) return 0;
    const int64_t each = call.layers[0].dtype == DType::float64 ? sizeof(Extremes<double>) : sizeof(Extremes<float>);
    return range_count<float>(plan_of(call, device(index)), maps_of(call)) * each;
}

void fuse(const FuseCall& call, const Queue& queue) {
    if (call.result.count() == 0) return;
    if (call.layers[0].dtype == DType::float64)
        run<double>(call, queue);
    else
        run<float>(call, queue);
}

}  // namespace fusedcam::cuda
