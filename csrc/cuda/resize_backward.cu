// resize's derivative on CUDA: through the normalisation, whose extremes share theirs among ties, and the transposed
// interpolation.
#include <algorithm>

#include "gather.cuh"
#include "launch.hpp"

namespace fusedcam::cuda {
namespace {

constexpr int64_t most_workspace = int64_t{64} << 20;  // for several maps at once; a larger one gets what it needs

// Blocks for so many pixels.
int64_t blocks_for(int64_t pixels, int64_t each, int64_t most) {
    return std::clamp<int64_t>((pixels + each - 1) / each, 1, most);
}

// No input pixel of an axis reaches more outputs.
int64_t longest_reach(int64_t in, int64_t out) { return in == out ? 1 : std::min(out, (2 * out - 1) / in + 3); }

// Threads for pixels that gather up to so many terms each: one, a warp or the block. It depends on the size alone, as
// the order of sums does, and so their bits.
Gathering plan_gathering(int64_t pixels, int64_t terms) {
    constexpr int64_t each = 64, most_tiles = 4096;
    Gathering by{};
    by.lane_bits = terms > each * warp ? 8 : terms > each ? 5 : 0;
    by.tiles = blocks_for(pixels, threads >> by.lane_bits, most_tiles);
    return by;
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
        const Size &own = plan_.from, &to = plan_.to;
        // Whatever is gathered last, what passes between is never more than the inputs or the outputs are: rows grow
        // and lines become fewer, or the other way round.
        across_first_ = own.width > to.width && to.depth * to.height > own.depth * own.height;
        plan_.between = across_first_ ? Size{own.height, to.width, own.depth} : Size{to.height, own.width, to.depth};
        plan_.tiles = blocks_for(plan_.pixels(), 4 * threads, 256);
        const int64_t along = longest_reach(own.width, to.width),
                      across = longest_reach(own.height, to.height) * longest_reach(own.depth, to.depth),
                      passed = plan_.passed_pixels();
        plan_.once = plan_gathering(passed, across_first_ ? across : along);
        plan_.last = plan_gathering(own.depth * own.height * own.width, across_first_ ? along : across);
        const int64_t each = passed * static_cast<int64_t>(sizeof(double));
        together_ = std::clamp<int64_t>(most_workspace / each, 1, std::max<int64_t>(1, maps_));
        together_ = std::min(together_, most_blocks / std::max({plan_.tiles, plan_.once.tiles, plan_.last.tiles}));
        Pieces pieces(start);
        plan_.passed = pieces.take<double>(together_ * passed);
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
            Carve carve(nullptr);
            const Scratch<T> scratch(carve);
            const auto start = [&](auto kernel, int64_t tiles) {
                launch(kernel, facts, queue, {some * tiles, 1, carve.bytes()}, plan_, first);
            };
            if (plan_.normalize.any()) {
                start(find_resized_ranges<T>, plan_.tiles);
                start(sum_extreme_slopes<T>, plan_.tiles);
            }
            if (across_first_) {
                start(gather_across_rows<T, true>, plan_.once.tiles);
                start(gather_along_rows<T, false>, plan_.last.tiles);
            } else {
                start(gather_along_rows<T, true>, plan_.once.tiles);
                start(gather_across_rows<T, false>, plan_.last.tiles);
            }
        }
    }

  private:
    ResizeSlopes plan_{};
    bool across_first_ = false;
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
