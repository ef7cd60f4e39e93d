// resize's derivative on CUDA: through the normalisation, whose extremes share theirs among ties, and the transposed
// interpolation.
#include <algorithm>

#include "launch.hpp"
#include "resize_backward.cuh"

namespace fusedcam::cuda {
namespace {

constexpr int64_t most_workspace = int64_t{64} << 20;  // for several maps at once; a larger one gets what it needs

// Blocks for so many pixels.
int64_t blocks_for(int64_t pixels, int64_t each, int64_t most) {
    return std::clamp<int64_t>((pixels + each - 1) / each, 1, most);
}

template <class T>
class ResizeBackward {
  public:
    // `start` is the workspace; null to find out how much of it there has to be.
    ResizeBackward(const ResizeBackwardCall& call, void* start) {
        const ArrayView& from = call.forward.heatmap;
        const bool volumes = call.forward.volumes();
        plan_.from = {from.extent(-2), from.extent(-1), volumes ? from.extent(-3) : 1};
        plan_.to = call.forward.size;
        plan_.normalize = call.forward.normalize;
        plan_.heatmap = from;
        plan_.of_heatmap = call.of_heatmap;
        plan_.of_result = call.of_result.data;
        maps_ = from.count_sub(volumes ? 3 : 2);
        // The order of sums depends on the size alone, and so their bits.
        plan_.tiles = blocks_for(plan_.pixels(), 4 * threads, 64);
        plan_.row_tiles = blocks_for(plan_.row_pixels(), threads, most_tiles);
        plan_.pixel_tiles = blocks_for(plan_.own_pixels(), threads, most_tiles);
        const int64_t each = plan_.row_pixels() * static_cast<int64_t>(sizeof(double));
        together_ = std::clamp<int64_t>(most_workspace / each, 1, std::max<int64_t>(1, maps_));
        together_ = std::min(together_, most_blocks / std::max({plan_.tiles, plan_.row_tiles, plan_.pixel_tiles}));
        Pieces pieces(start);
        plan_.rows = pieces.take<double>(together_ * plan_.row_pixels());
        if (plan_.normalize.any()) {
            plan_.ranges = pieces.take<MapRange<T>>(together_ * plan_.tiles);
            plan_.extremes = pieces.take<ExtremeSlopes>(together_ * plan_.tiles);
        }
        bytes_ = pieces.bytes();
    }

    int64_t bytes() const { return bytes_; }

    void run(const Queue& queue) const {
        const OnDevice here(queue.device);
        const Device& facts = device(queue.device);
        for (int64_t first = 0; first < maps_; first += together_) {
            const int64_t some = std::min(together_, maps_ - first);
            const auto start = [&](auto kernel, int64_t tiles, int64_t shared_memory = 0) {
                launch(kernel, facts, queue, {some * tiles, 1, shared_memory}, plan_, first);
            };
            if (plan_.normalize.any()) {
                Carve ranges(nullptr), sums(nullptr);
                for (int piece = 0; piece < 2; ++piece) ranges.take<Extremes<T>>(threads / warp);
                sums.take<ExtremeSlopes>(threads / warp);
                start(find_resized_ranges<T>, plan_.tiles, ranges.bytes());
                start(sum_extreme_slopes<T>, plan_.tiles, sums.bytes());
            }
            start(gather_along_rows<T>, plan_.row_tiles);
            start(gather_across_rows<T>, plan_.pixel_tiles);
        }
    }

  private:
    static constexpr int64_t most_tiles = int64_t{1} << 20;

    ResizeSlopes plan_{};
    int64_t maps_ = 0, together_ = 1, bytes_ = 0;
};

bool is_empty(const ResizeBackwardCall& call) { return call.of_heatmap.shape.count() == 0; }

}  // namespace

int64_t workspace(const ResizeBackwardCall& call, int) {
    if (is_empty(call)) return 0;
    if (call.forward.heatmap.dtype == DType::float64) return ResizeBackward<double>(call, nullptr).bytes();
    return ResizeBackward<float>(call, nullptr).bytes();
}

void resize_backward(const ResizeBackwardCall& call, const Queue& queue) {
    if (is_empty(call)) return;
    if (call.forward.heatmap.dtype == DType::float64)
        ResizeBackward<double>(call, queue.workspace).run(queue);
    else
        ResizeBackward<float>(call, queue.workspace).run(queue);
}

}  // namespace fusedcam::cuda
