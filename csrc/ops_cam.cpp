// The checks of cam and the one form its arrays are brought to; the maps of several layers.
#include <algorithm>

#include "check.hpp"
#include "ops.hpp"
#include "rules.hpp"

namespace fusedcam {
namespace {

// The names of the rules that `fits` accepts, for a message.
template <class Fits>
std::string known_rules(Fits&& fits) {
    std::string known;
    std::apply(
        [&](auto... rule) {
            ((fits(rule) ? void(known += text(known.empty() ? "'" : ", '", rule.name, "'")) : void()), ...);
        },
        rules::All{});
    return known;
}

// weights [N | 1, (K,) C] -> gradients [N, K, C, D, H, W] that are constant over space.
ArrayView weights_as_gradients(const ArrayView& weights, const ArrayView& activations, bool batched, bool& classes) {
    const int64_t N = activations.extent(0), C = activations.extent(1);
    const int plain = batched ? 2 : 1;
    const int rank = weights.shape.rank;
    const bool fits = (rank == plain || rank == plain + 1) && weights.extent(-1) == C &&
                      (!batched || weights.extent(0) == N || weights.extent(0) == 1);
    if (!fits)
        refuse_value(
            "cam: weights have shape ", show(weights.shape), "; for ", batched ? "N = " : "unbatched activations, ",
            batched ? std::to_string(N) + " images of " : "", C, " channels accepted are ",
            batched ? "[N, C], [N, K, C], or 1 in place of N for rows shared by all images" : "[C] and [K, C]");
    classes = rank == plain + 1;
    ArrayView view = weights;
    if (!batched) view.insert_axis(0, 1, 0);
    if (view.extent(0) != N) {
        view.shape.extent[0] = N;
        view.strides[0] = 0;
    }
    if (!classes) view.insert_axis(1, 1, 0);
    for (int axis = 2; axis < 5; ++axis) view.insert_axis(axis + 1, activations.extent(axis), 0);
    return view;
}

ArrayView checked_gradients(const ArrayView& gradients, const ArrayView& activations, const Shape& given, bool batched,
                            const CamOptions& options, int64_t moments, int64_t& moments_step, bool& classes) {
    const int plain = options.layout.inner() + batched;
    ArrayView view = gradients;
    bool fits = view.shape.rank > 0 && (moments == 1 || view.extent(0) == moments);
    if (fits && moments > 1) {
        moments_step = view.strides[0];
        view.remove_axis(0);
    }
    const int rank = view.shape.rank;
    fits = fits && (rank == plain || rank == plain + 1);
    if (fits && options.layout.tokens)  // those that are left out count too
        fits = view.extent(-2) == given.extent[given.rank - 2];
    if (fits) {
        classes = rank == plain + 1;
        view = as_channels("cam", {"gradients", view}, options.layout);
        if (!batched) view.insert_axis(0, 1, 0);
        if (!classes) view.insert_axis(1, 1, 0);
        fits = view.extent(0) == activations.extent(0);
        for (int axis = 1; axis < 5; ++axis) fits = fits && view.extent(axis + 1) == activations.extent(axis);
    }
    if (!fits)
        refuse_value("cam: gradients have shape ", show(gradients.shape), " and activations ", show(given),
                     "; accepted are gradients of the activations' shape, or with K classes ",
                     batched ? "after N" : "in front",
                     moments == 1 ? std::string()
                                  : text("; for '", options.method, "' ", moments,
                                         " such arrays in front of all, the means of the gradients' powers"));
    return view;
}

}  // namespace

CamCall plan_cam(const ArrayView& activations, const ArrayView& second, CamSource source, const CamOptions& options) {
    const Layout& layout = options.layout;
    check_layout("cam", layout);
    int64_t moments = 1;
    bool averages = true, has_eps = false;
    if (!rules::visit(options.method, [&](auto rule) {
            moments = rule.moments;
            averages = rule.averages;
            has_eps = rule.has_eps;
        }))
        refuse_value("cam: method is ", quoted(options.method), "; accepted: ", known_rules([](auto) { return true; }));
    if (source == CamSource::weights && options.method != rules::GradCam::name)
        refuse_value("cam: method is ", quoted(options.method), "; weights are the channels' own, accepted with '",
                     rules::GradCam::name, "' alone");
    check_eps("cam", "eps", options.normalize.eps);
    check_eps("cam", "weight_eps", options.weight_eps);
    if (options.weight_eps != 0 && !has_eps)
        refuse_value("cam: weight_eps is ", options.weight_eps, ", but '", options.method,
                     "' divides by nothing; accepted with ", known_rules([](auto rule) { return rule.has_eps; }));
    check_floating("cam", {"activations", activations});
    check_alike("cam", {"activations", activations}, {source == CamSource::weights ? "weights" : "gradients", second});

    CamCall call;
    call.options = options;
    const int rank = activations.shape.rank;
    const bool batched = rank == layout.inner() + 1;
    if (!batched && rank != layout.inner())
        refuse_value("cam: activations have shape ", show(activations.shape), "; accepted is ", layout.shape(true),
                     " or ", layout.shape(false));
    call.activations = as_channels("cam", {"activations", activations}, layout);
    if (!batched) call.activations.insert_axis(0, 1, 0);

    bool classes = false;
    if (source == CamSource::gradients)
        call.gradients = checked_gradients(second, call.activations, activations.shape, batched, options, moments,
                                           call.moments_step, classes);
    else
        call.gradients = weights_as_gradients(second, call.activations, batched, classes);

    const int64_t N = call.activations.extent(0), C = call.activations.extent(1), K = call.gradients.extent(1);
    if (C == 0)
        refuse_value("cam: activations of shape ", show(activations.shape), " have no channels; C must be at least 1");
    const Size own = size_of_channels(call.activations);
    check_spatial_extent("cam", {"activations", activations}, own, layout.spatial);
    call.size = options.size.value_or(own);
    check_size("cam", call.size, layout.spatial);

    if (batched) call.result.append(N);
    if (classes) call.result.append(K);
    append(call.result, call.size, layout.spatial);
    // A class costs another pass over the activations, though not over memory; constant gradients are read once.
    const bool constant = averages && call.gradients.strides[4] == 0 && call.gradients.strides[5] == 0;
    const double channels = static_cast<double>(N) * static_cast<double>(C);
    const double pixels =
                     static_cast<double>(own.depth) * static_cast<double>(own.height) * static_cast<double>(own.width),
                 classes_each = static_cast<double>(K);
    const double reads = channels * pixels * std::max(1.0, classes_each) +
                         channels * classes_each * static_cast<double>(moments) * (constant ? 1 : pixels);
    call.work = reads * static_cast<double>(item_size(activations.dtype)) +
                check_fits("cam", call.result, result_dtype(activations.dtype),
                           working_bytes(own, call.size, activations.dtype), activations.device);
    // Expanded arrays may have more elements than memory has bytes.
    if (channels * pixels > max_elements)
        refuse_value("cam: activations of shape ", show(activations.shape), " have more than 2**56 elements");
    return call;
}

FuseCall plan_fuse(const ArrayView* layers, int count, Fuse by, std::optional<Size> size, Normalization normalize,
                   int64_t spatial) {
    FuseCall call;
    call.count = count;
    call.by = by;
    call.normalize = normalize;
    call.spatial = spatial;
    Size largest{1, 1};
    double working = 0;
    for (int i = 0; i < count; ++i) {
        call.layers[i] = as_maps(layers[i], spatial);
        const Size own = call.size_of_layer(i);
        largest = {std::max(largest.height, own.height), std::max(largest.width, own.width),
                   std::max(largest.depth, own.depth)};
    }
    call.size = size.value_or(largest);
    for (int i = 0; i < count; ++i) working += working_bytes(call.size_of_layer(i), call.size, layers[i].dtype);
    call.result = layers[0].shape;
    call.result.rank -= static_cast<int>(spatial);
    append(call.result, call.size, spatial);
    const double bytes = check_fits("cam", call.result, layers[0].dtype, working, layers[0].device);
    call.work = bytes * (count + 2);
    return call;
}

}  // namespace fusedcam
