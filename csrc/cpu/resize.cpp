// resize on the CPU: a map onto another grid, normalised by the extremes of what is written.
#include "volume.hpp"

namespace fusedcam::cpu {
namespace {

template <class T>
void resize_volumes(const ResizeCall& call) {
    const ArrayView& from = call.heatmap;
    const Size own{from.extent(-2), from.extent(-1), from.extent(-3)};
    const Grid<T> grid(own, call.size);
    const int64_t pixels = own.height * own.width;
    const bool parallel = call.work >= serial_below;
    const auto volume = std::make_unique_for_overwrite<T[]>(static_cast<size_t>(own.depth * pixels));
    for (int64_t index = 0; index < from.count_sub(3); ++index) {
        for (int64_t z = 0; z < own.depth; ++z) load_map(from.sub(index * own.depth + z, 2), volume.get() + z * pixels);
        const Volume<T> resampled(grid, volume.get(), parallel);
        resampled.write(resampled.rescale(call.normalize), call.out, call.out.offset(index, 3));
    }
}

template <class T>
void run(const ResizeCall& call) {
    if (call.volumes()) return resize_volumes<T>(call);
    const ArrayView out = call.maps();
    for_each_map<T>(call.heatmap, call.size, call.normalize, call.work,
                    [&](int64_t index, const Resampled<T>& map, const Rescale<T>& rescale, int64_t begin, int64_t end,
                        T* row) { write_rows(map, rescale, out, out.offset(index, 2), begin, end, row); });
}

}  // namespace

void resize(const ResizeCall& call) {
    if (call.result.count() == 0) return;
    if (call.heatmap.dtype == DType::float64)
        run<double>(call);
    else
        run<float>(call);
}

}  // namespace fusedcam::cpu
