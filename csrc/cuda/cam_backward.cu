// cam's derivative on CUDA: every class's sums over a channel, then both derivatives, each written once.
#include <algorithm>

#include "cam_backward.cuh"
#include "launch.hpp"

namespace fusedcam::cuda {
namespace {

Planes planes_of(const ArrayView& view, int first) {
    Planes planes;
    planes.data = view.data;
    planes.image = view.stride(0);
    planes.map = first == 2 ? view.stride(1) : 0;
    planes.channel = view.stride(first);
    planes.slice = view.stride(first + 1);
    planes.row = view.stride(first + 2);
    planes.column = view.stride(first + 3);
    return planes;
}

// Whether pixel p lies at p times the stride of W.
bool is_flat(const ArrayView& view, int first) {
    const int64_t height = view.extent(first + 2), width = view.extent(first + 3), column = view.stride(first + 3);
    return (height == 1 || view.stride(first + 2) == width * column) &&
           (view.extent(first + 1) == 1 || view.stride(first + 1) == height * width * column);
}

// Whether all pixels lie at one place.
bool is_even(const ArrayView& view, int first) {
    bool even = true;
    for (int axis = first + 1; axis < first + 4; ++axis)
        even = even && (view.extent(axis) == 1 || view.stride(axis) == 0);
    return even;
}

// A part has enough pixels that adding up the parts costs little beside it.
constexpr int64_t part_pixels = int64_t{1} << 14, most_parts = 1024;

CamSlopes plan_slopes(const CamBackwardCall& call) {
    const ArrayView &a = call.forward.activations, &g = call.forward.gradients;
    CamSlopes plan{};
    plan.images = a.extent(0);
    plan.classes = g.extent(1);
    plan.channels = a.extent(1);
    plan.height = a.extent(3);
    plan.width = a.extent(4);
    plan.pixels = a.extent(2) * plan.height * plan.width;
    plan.rule = rules::index_of(call.forward.options.method);
    // The sums' order depends on the number of pixels alone.
    while (plan.lane_bits < 5 && plan.pixels > int64_t{8} << plan.lane_bits) ++plan.lane_bits;
    if (plan.pixels > 2048) plan.lane_bits = 8;
    static_assert(1 << 8 == threads);
    plan.parts = std::clamp<int64_t>((plan.pixels + part_pixels - 1) / part_pixels, 1, most_parts);
    plan.flat = is_flat(a, 1) && is_flat(g, 2) && is_flat(call.of_activations, 1) && is_flat(call.of_gradients, 2);
    rules::with(plan.rule, [&](auto rule) { plan.even = rule.moments == 1 && is_even(call.of_gradients, 2); });
    plan.of_weights = call.of_weights;
    plan.eps = call.forward.options.weight_eps;
    plan.scores = call.scores.data;
    plan.activations = planes_of(a, 1);
    plan.gradients = planes_of(g, 2);
    plan.gradients.moment = call.forward.moments_step;
    plan.of_activations = planes_of(call.of_activations, 1);
    plan.of_gradients = planes_of(call.of_gradients, 2);
    plan.of_gradients.moment = call.of_moments_step;
    const auto distance = [](int64_t stride) { return stride < 0 ? -stride : stride; };
    const Planes& to = plan.of_activations;
    plan.by_channel = distance(to.channel) < distance(plan.width == 1 ? to.row : to.column);
    return plan;
}

// What the workspace is cut into; `bytes` is its size.
template <class T>
CamSums<T> cut(const CamSlopes& plan, void* start, int64_t& bytes) {
    CamSums<T> sums{};
    Pieces pieces(start);
    const int64_t count = plan.images * plan.classes * plan.channels;
    rules::with(plan.rule, [&](auto rule) {
        if (!rule.weights || count == 0) return;
        sums.channels = pieces.take<ChannelSlopes<decltype(rule), T>>(count);
        if (plan.parts == 1) return;
        sums.parts = pieces.take<PartSums<T>>(count * plan.parts);
        if (rule.sums_activations) sums.totals = pieces.take<T>(count * plan.parts);
    });
    bytes = pieces.bytes();
    return sums;
}

template <class Element>
void run(const CamSlopes& plan, const Queue& queue) {
    using T = WideOf<Element>;
    const OnDevice here(queue.device);
    const Device& facts = device(queue.device);
    int64_t bytes = 0;
    const CamSums<T> sums = cut<T>(plan, queue.workspace, bytes);
    if (sums.channels) {
        Carve carve(nullptr);
        if (plan.lane_bits > 5) carve.take<T>(threads / warp);
        constexpr int64_t warps = threads / warp;
        const int64_t each = threads >> plan.lane_bits, count = plan.images * plan.classes * plan.channels,
                      together = most_blocks / plan.parts / warps * warps * each;
        for (int64_t first = 0; first < count; first += together) {
            const int64_t some = std::min(together, count - first);
            const auto add_up = [&](bool totals) {
                launch(sum_cam_slopes<Element, T>, facts, queue,
                       {(some * plan.parts + each - 1) / each, 1, carve.bytes()}, plan, sums, first, totals);
            };
            if (sums.totals) add_up(true);
            add_up(false);
            if (sums.parts) launch(combine_cam_parts<T>, facts, queue, {(some + warps - 1) / warps}, plan, sums, first);
        }
    }
    const int64_t tiles = (plan.channels * plan.pixels + written - 1) / written, together = most_blocks / tiles;
    for (int64_t first = 0; first < plan.images; first += together)
        launch(write_cam_slopes<Element, T>, facts, queue, {std::min(together, plan.images - first) * tiles}, plan,
               sums.channels, tiles, first);
}

}  // namespace

int64_t workspace(const CamBackwardCall& call, int) {
    if (call.of_activations.shape.count() == 0) return 0;
    const CamSlopes plan = plan_slopes(call);
    int64_t bytes = 0;
    if (call.forward.activations.dtype == DType::float64)
        cut<double>(plan, nullptr, bytes);
    else
        cut<float>(plan, nullptr, bytes);
    return bytes;
}

void cam_backward(const CamBackwardCall& call, const Queue& queue) {
    if (call.of_activations.shape.count() == 0) return;  // without classes they are zero
    const CamSlopes plan = plan_slopes(call);
    switch (call.forward.activations.dtype) {
        case DType::float32: return run<float>(plan, queue);
        case DType::float16: return run<Float16>(plan, queue);
        case DType::bfloat16: return run<BFloat16>(plan, queue);
        default: return run<double>(plan, queue);
    }
}

}  // namespace fusedcam::cuda
