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

void check_size(const char* op, Size size) {
    const auto bad = [](int64_t extent) { return extent < 1 || extent >= max_extent; };
    if (bad(size.height) || bad(size.width))
        refuse_value(op, ": size is (", size.height, ", ", size.width,
                     "); height and width must be from 1 to 2**31 - 1");
}

void check_eps(const char* op, Normalization normalize) {
    if (!(normalize.eps >= 0 && normalize.eps < std::numeric_limits<float>::max()))
        refuse_value(op, ": eps is ", normalize.eps, "; accepted is a finite number of at least 0");
}

Size own_size(const ArrayView& heatmap) { return {heatmap.extent(-2), heatmap.extent(-1)}; }

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
    check_spatial_extent(op, {"heatmap", heatmap}, heatmap.extent(-2), heatmap.extent(-1));
    if (bytes(heatmap) > max_elements)
        refuse_value(op, ": heatmap of shape ", show(heatmap.shape), " takes more than 2**56 bytes");
    return heatmap;
}

// What resampling [height, width] takes beside its result, at most: for each output row and column where it comes from,
// and the map widened along its rows.
double working_bytes(Size from, Size to, DType dtype) {
    const double rows = static_cast<double>(to.height), columns = static_cast<double>(to.width);
    const bool same = from.height == to.height && from.width == to.width;
    return same ? 0
                : 32 * (rows + columns) + static_cast<double>(item_size(result_dtype(dtype))) * columns *
                                              static_cast<double>(from.height + 1);
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

// weights [N | 1, (K,) C] -> gradients [N, K, C, H, W] that are constant over space.
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
    view.insert_axis(3, activations.extent(2), 0);
    view.insert_axis(4, activations.extent(3), 0);
    return view;
}

ArrayView checked_gradients(const ArrayView& gradients, const ArrayView& activations, const Shape& given, bool batched,
                            bool channels_last, bool& classes) {
    const int plain = batched ? 4 : 3;
    const int rank = gradients.shape.rank;
    ArrayView view = gradients;
    bool fits = rank == plain || rank == plain + 1;
    if (fits) {
        classes = rank == plain + 1;
        if (channels_last) view.move_axis(rank - 1, rank - 3);
        if (!batched) view.insert_axis(0, 1, 0);
        if (!classes) view.insert_axis(1, 1, 0);
        fits = view.extent(0) == activations.extent(0);
        for (int axis = 1; axis < 4; ++axis) fits = fits && view.extent(axis + 1) == activations.extent(axis);
    }
    if (!fits)
        refuse_value("cam: gradients have shape ", show(gradients.shape), " and activations ", show(given),
                     "; accepted are gradients of the activations' shape, or with K classes ",
                     batched ? "after N" : "in front");
    return view;
}

}  // namespace

CamCall plan_cam(const ArrayView& activations, const ArrayView& second, CamSource source, const CamOptions& options) {
    if (options.spatial != 2)
        refuse_value("cam: spatial is ", options.spatial, "; accepted is 2, for maps of [height, width]");
    if (!rules::visit(options.method, [](auto) {})) {
        std::string known;
        std::apply([&](auto... rule) { ((known += text(known.empty() ? "'" : ", '", rule.name, "'")), ...); },
                   rules::All{});
        refuse_value("cam: method is ", quoted(options.method), "; accepted: ", known);
    }
    check_eps("cam", options.normalize);
    check_floating("cam", {"activations", activations});
    check_alike("cam", {"activations", activations}, {source == CamSource::weights ? "weights" : "gradients", second});

    CamCall call;
    call.options = options;
    call.activations = activations;
    const int rank = activations.shape.rank;
    const bool batched = rank == 4;
    if (rank != 3 && rank != 4)
        refuse_value("cam: activations have shape ", show(activations.shape), "; accepted is ",
                     options.channels_last ? "[N, H, W, C] or [H, W, C]" : "[N, C, H, W] or [C, H, W]");
    if (options.channels_last) call.activations.move_axis(rank - 1, rank - 3);
    if (!batched) call.activations.insert_axis(0, 1, 0);

    bool classes = false;
    if (source == CamSource::gradients)
        call.gradients =
            checked_gradients(second, call.activations, activations.shape, batched, options.channels_last, classes);
    else
        call.gradients = weights_as_gradients(second, call.activations, batched, classes);

    const int64_t N = call.activations.extent(0), C = call.activations.extent(1), H = call.activations.extent(2),
                  W = call.activations.extent(3), K = call.gradients.extent(1);
    if (C == 0)
        refuse_value("cam: activations of shape ", show(activations.shape), " have no channels; C must be at least 1");
    check_spatial_extent("cam", {"activations", activations}, H, W);
    const Size size = options.size.value_or(Size{H, W});
    check_size("cam", size);

    if (batched) call.result.append(N);
    if (classes) call.result.append(K);
    call.result.append(size.height);
    call.result.append(size.width);
    // A class costs another pass over the activations, though not over memory; constant gradients are read once.
    const bool constant = call.gradients.strides[3] == 0 && call.gradients.strides[4] == 0;
    const double channels = static_cast<double>(N) * static_cast<double>(C);
    const double pixels = static_cast<double>(H) * static_cast<double>(W), classes_each = static_cast<double>(K);
    const double reads =
        channels * pixels * std::max(1.0, classes_each) + channels * classes_each * (constant ? 1 : pixels);
    call.work = reads * static_cast<double>(item_size(activations.dtype)) +
                check_fits("cam", call.result, result_dtype(activations.dtype),
                           working_bytes({H, W}, size, activations.dtype), activations.device);
    // Expanded arrays may have more elements than memory has bytes.
    if (channels * pixels > max_elements)
        refuse_value("cam: activations of shape ", show(activations.shape), " have more than 2**56 elements");
    return call;
}

ResizeCall plan_resize(const ArrayView& heatmap, Size size, Normalization normalize) {
    check_eps("resize", normalize);
    ResizeCall call;
    call.heatmap = checked_heatmap("resize", heatmap);
    check_size("resize", size);
    call.result = with_size(heatmap.shape, size);
    call.normalize = normalize;
    call.work = bytes(heatmap) + check_fits("resize", call.result, result_dtype(heatmap.dtype),
                                            working_bytes(own_size(heatmap), size, heatmap.dtype), heatmap.device);
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
    check_place("overlay", {"image", image}, {"heatmap", heatmap});
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
    check_spatial_extent("overlay", {"image", image}, call.image.extent(-3), call.image.extent(-2));
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

MaskCall plan_mask(const ArrayView& image, const ArrayView& heatmap, const ArrayView* noise, Normalization normalize) {
    check_eps("mask", normalize);
    check_floating("mask", {"image", image});
    const int rank = image.shape.rank;
    if (rank != 3 && rank != 4)
        refuse_value("mask: image has shape ", show(image.shape), "; accepted is [C, H, W] or [N, C, H, W]");
    check_spatial_extent("mask", {"image", image}, image.extent(-2), image.extent(-1));
    MaskCall call;
    call.image = image;
    call.heatmap = checked_heatmap("mask", heatmap);
    const bool batched = rank == 4, several = heatmap.shape.rank == rank;
    if ((!several && heatmap.shape.rank != rank - 1) || (batched && heatmap.extent(0) != image.extent(0)))
        refuse_value("mask: image has shape ", show(image.shape), " and heatmap ", show(heatmap.shape), "; for ",
                     batched ? "a batch of images accepted are [N, H, W] and [N, M, H, W]"
                             : "a single image accepted are [H, W] and [M, H, W]");
    check_place("mask", {"image", image}, {"heatmap", heatmap});

    const Size target = own_size(image);
    if (noise) {
        check_floating("mask", {"noise", *noise});
        check_place("mask", {"image", image}, {"noise", *noise});
        const DType dtype = result_dtype(heatmap.dtype);
        if (!(noise->shape == with_size(heatmap.shape, target)))
            refuse_value("mask: noise has shape ", show(noise->shape), "; the masks have shape ",
                         show(with_size(heatmap.shape, target)));
        if (noise->dtype != dtype)
            refuse_type("mask: dtype of noise is ", name(noise->dtype), "; that of the masks is ", name(dtype));
        call.noise = *noise;
    }

    if (batched) call.result.append(image.extent(0));
    if (several) call.result.append(heatmap.extent(-3));
    call.result.append(image.extent(-3));
    call.result.append(target.height);
    call.result.append(target.width);
    for (ArrayView* view : {&call.heatmap, &call.noise}) {
        if (view == &call.noise && !noise) continue;
        if (!batched) view->insert_axis(0, 1, 0);
        if (!several) view->insert_axis(1, 1, 0);
    }
    if (!batched) call.image.insert_axis(0, 1, 0);
    call.normalize = normalize;
    call.work = bytes(heatmap) + (noise ? bytes(*noise) : 0) +
                2 * check_fits("mask", call.result, image.dtype,
                               working_bytes(own_size(heatmap), target, heatmap.dtype), image.device);
    return call;
}

}  // namespace fusedcam
