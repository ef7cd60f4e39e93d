// The checks of every op and the one form its arrays are brought to. Nothing here knows a backend.
#include "ops.hpp"

#include <algorithm>
#include <limits>

#include "check.hpp"
#include "rules.hpp"

namespace fusedcam {
namespace {

// Beyond this counts of bytes would.
constexpr double max_elements = static_cast<double>(int64_t{1} << 56);

void check_eps(const char* op, const char* name, double eps) {
    if (!(eps >= 0 && eps < std::numeric_limits<float>::max()))
        refuse_value(op, ": ", name, " is ", eps, "; accepted is a finite number of at least 0");
}

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

Size own_size(const ArrayView& heatmap, int64_t spatial = 2) {
    return {heatmap.extent(-2), heatmap.extent(-1), spatial > 2 ? heatmap.extent(-3) : 1};
}

double bytes(const ArrayView& view) {
    double product = static_cast<double>(item_size(view.dtype));
    for (int axis = 0; axis < view.shape.rank; ++axis) product *= static_cast<double>(view.shape.extent[axis]);
    return product;
}

ArrayView checked_heatmap(const char* op, const ArrayView& heatmap) {
    if (heatmap.shape.rank < 2)
        refuse_value(op, ": heatmap has shape ", show(heatmap.shape),
                     "; accepted is [..., H, W], at least two dimensions");
    check_floating(op, {"heatmap", heatmap});
    check_spatial_extent(op, {"heatmap", heatmap}, own_size(heatmap));
    if (bytes(heatmap) > max_elements)
        refuse_value(op, ": heatmap of shape ", show(heatmap.shape), " takes more than 2**56 bytes");
    return heatmap;
}

// What resampling takes beside its result, at most: for each output row and column where it comes from, the map widened
// along its rows, and a volume's slices, resampled each.
double working_bytes(Size from, Size to, DType dtype) {
    if (from == to) return 0;
    const double rows = static_cast<double>(to.height), columns = static_cast<double>(to.width);
    const double slices = from.depth * to.depth == 1 ? 0 : static_cast<double>(from.depth) * rows;
    return 32 * (rows + columns + static_cast<double>(to.depth)) + static_cast<double>(item_size(result_dtype(dtype))) *
                                                                       columns *
                                                                       (static_cast<double>(from.height + 1) + slices);
}

Shape with_size(const Shape& shape, Size size) {
    Shape result = shape;
    result.extent[shape.rank - 2] = size.height;
    result.extent[shape.rank - 1] = size.width;
    return result;
}

Shape with_colour(const Shape& shape) {
    Shape result = shape;
    if (result.rank == max_rank)
        refuse_value("colorize: heatmap has ", max_rank, " dimensions; accepted are at most ", max_rank - 1);
    result.append(3);
    return result;
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

ResizeCall plan_resize(const ArrayView& heatmap, Size size, Normalization normalize, int64_t spatial) {
    check_eps("resize", "eps", normalize.eps);
    if (heatmap.shape.rank < spatial)
        refuse_value("resize: heatmap has shape ", show(heatmap.shape), "; accepted is ",
                     spatial == 1   ? "[..., L], at least one dimension, for a size of one extent"
                     : spatial == 2 ? "[..., H, W], at least two dimensions"
                                    : "[..., D, H, W], at least three dimensions, for a size of three extents");
    ResizeCall call;
    call.heatmap = checked_heatmap("resize", as_maps(heatmap, spatial));
    const Size own = own_size(call.heatmap, spatial);
    if (spatial == 3) check_spatial_extent("resize", {"heatmap", heatmap}, own, spatial);
    check_size("resize", size, spatial);
    call.result = heatmap.shape;
    call.result.rank -= static_cast<int>(spatial);
    append(call.result, size, spatial);
    call.normalize = normalize;
    call.spatial = spatial;
    call.size = size;
    call.work = bytes(heatmap) + check_fits("resize", call.result, result_dtype(heatmap.dtype),
                                            working_bytes(own, size, heatmap.dtype), heatmap.device);
    return call;
}

ColorizeCall plan_colorize(const ArrayView& heatmap, Palette palette, std::optional<Size> size, Normalize normalize) {
    ColorizeCall call;
    call.heatmap = checked_heatmap("colorize", heatmap);
    const Size target = size.value_or(own_size(heatmap));
    check_size("colorize", target);
    call.result = with_colour(with_size(heatmap.shape, target));
    call.palette = palette;
    call.normalize = normalize;
    call.work =
        bytes(heatmap) + 2 * check_fits("colorize", call.result, DType::uint8,
                                        working_bytes(own_size(heatmap), target, heatmap.dtype), heatmap.device);
    return call;
}

OverlayCall plan_overlay(const ArrayView& image, const ArrayView& heatmap, Palette palette, double alpha,
                         Normalize normalize) {
    OverlayCall call;
    call.heatmap = checked_heatmap("overlay", heatmap);
    if (heatmap.shape.rank > 3)
        refuse_value("overlay: heatmap has shape ", show(heatmap.shape), "; accepted is [H, W] or [N, H, W]");
    if (!(alpha >= 0 && alpha <= 1)) refuse_value("overlay: alpha is ", alpha, "; accepted is 0 to 1");
    if (!(image.device == heatmap.device))
        refuse_value("overlay: image is on ", show(image.device), " but heatmap is on ", show(heatmap.device),
                     "; both must be on the same device");
    const int batch = heatmap.shape.rank - 2;
    const int plain = image.shape.rank - batch;
    bool fits = plain == 2 || plain == 3;
    if (fits && batch) fits = image.extent(0) == heatmap.extent(0);
    call.image = image;
    if (fits && plain == 2) call.image.insert_axis(batch + 2, 1, 0);
    const auto colours = [](int64_t extent) { return extent == 1 || extent == 3; };
    if (fits && plain == 3 && !colours(image.extent(-1))) {
        fits = colours(image.extent(-3));
        if (fits) call.image.move_axis(batch, batch + 2);
    }
    if (!fits)
        refuse_value("overlay: image has shape ", show(image.shape), " and heatmap ", show(heatmap.shape), "; for ",
                     batch ? "a batched heatmap accepted are [N, H, W], [N, H, W, 1 or 3] and [N, 1 or 3, H, W]"
                           : "a single heatmap accepted are [H, W], [H, W, 1 or 3] and [1 or 3, H, W]");
    if (call.image.extent(-1) == 1) {
        call.image.shape.extent[batch + 2] = 3;
        call.image.strides[batch + 2] = 0;
    }
    check_spatial_extent("overlay", {"image", image}, {call.image.extent(-3), call.image.extent(-2)});
    call.result = call.image.shape;
    call.palette = palette;
    call.alpha = alpha;
    call.normalize = normalize;
    const Size target{call.image.extent(-3), call.image.extent(-2)};
    call.work =
        bytes(heatmap) + 4 * check_fits("overlay", call.result, DType::uint8,
                                        working_bytes(own_size(heatmap), target, heatmap.dtype), heatmap.device);
    return call;
}

}  // namespace fusedcam
