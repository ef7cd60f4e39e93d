// The checks of every op but cam, and the one form its arrays are brought to. Nothing here knows a backend.
#include "ops.hpp"

#include <algorithm>

#include "check.hpp"

namespace fusedcam {
namespace {

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

}  // namespace

ResizeCall plan_resize(const ArrayView& heatmap, Size size, Normalization normalize, int64_t spatial) {
    check_eps("resize", "eps", normalize.eps);
    if (heatmap.shape.rank < spatial)
        refuse_value("resize: heatmap has shape ", show(heatmap.shape), "; accepted is ",
                     spatial == 1   ? "[..., L], at least one dimension, for a size of one extent"
                     : spatial == 2 ? "[..., H, W], at least two dimensions"
                                    : "[..., D, H, W], at least three dimensions, for a size of three extents");
    if (spatial == 1 && heatmap.shape.rank == max_rank)  // no room for the height that a signal gets
        refuse_value("resize: heatmap has ", max_rank, " dimensions; accepted are at most ", max_rank - 1,
                     " for a size of one extent");
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

MaskCall plan_mask(const ArrayView& image, const ArrayView& heatmap, const ArrayView* noise, Normalization normalize) {
    check_eps("mask", "eps", normalize.eps);
    check_floating("mask", {"image", image});
    const int rank = image.shape.rank;
    if (rank != 3 && rank != 4)
        refuse_value("mask: image has shape ", show(image.shape), "; accepted is [C, H, W] or [N, C, H, W]");
    check_spatial_extent("mask", {"image", image}, own_size(image));
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
