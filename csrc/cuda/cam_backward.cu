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

bool sums_channels(const CamSlopes& plan) {
    bool sums = false;
    rules::with(plan.rule, [&](auto rule) { sums = rule.weights; });
    return sums && plan.classes > 0;
}

template <class T>
int64_t workspace_of(const CamSlopes& plan) {
    if (!sums_channels(plan)) return 0;
    return plan.images * plan.classes * plan.channels * static_cast<int64_t>(sizeof(ChannelSlopes<T>));
}

template <class Element>
void run(const CamSlopes& plan, const Queue& queue) {
    using T = WideOf<Element>;
    const OnDevice here(queue.device);
    const Device& facts = device(queue.device);
    auto* sums = static_cast<ChannelSlopes<T>*>(queue.workspace);
    if (sums_channels(plan)) {
        Carve carve(nullptr);
        if (plan.lane_bits > 5) carve.take<T>(threads / warp);
        const int64_t each = threads >> plan.lane_bits, count = plan.images * plan.classes * plan.channels;
        for (int64_t first = 0; first < count; first += most_blocks * each) {
            const int64_t some = std::min(most_blocks * each, count - first);
            launch(sum_cam_slopes<Element, T>, facts, queue, {(some + each - 1) / each, 1, carve.bytes()}, plan, sums,
                   first);
        }
    }
    const int64_t tiles = (plan.channels * plan.pixels + written - 1) / written, together = most_blocks / tiles;
    for (int64_t first = 0; first < plan.images; first += together)
        launch(write_cam_slopes<Element, T>, facts, queue, {std::min(together, plan.images - first) * tiles}, plan,
               sums, tiles, first);
}

}  // namespace

int64_t workspace(const CamBackwardCall& call, int) {
    if (call.of_activations.shape.count() == 0) return 0;
    const CamSlopes plan = plan_slopes(call);
    return call.forward.activations.dtype == DType::float64 ? workspace_of<double>(plan) : workspace_of<float>(plan);
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
