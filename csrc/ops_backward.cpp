// The checks of the ops' derivatives. Their callers are ours, so what does not fit is a mistake of ours.
#include "check.hpp"
#include "ops.hpp"

namespace fusedcam {
namespace {

void check_given(const char* op, Named array, const Shape& shape, DType dtype, bool dense) {
    const ArrayView& view = array.view;
    const ArrayView wanted = dense_view(view.data, shape, dtype);
    bool fits = view.shape == shape && view.dtype == dtype;
    for (int axis = 0; fits && dense && shape.count() && axis < shape.rank; ++axis)
        fits = shape.extent[axis] == 1 || view.strides[axis] == wanted.strides[axis];
    if (!fits)
        refuse_value(op, ": ", array.name, " is ", name(view.dtype), " of shape ", show(view.shape), "; accepted is ",
                     name(dtype), " of shape ", show(shape), dense ? ", contiguous" : "");
}

}  // namespace

CamBackwardCall plan_cam_backward(const ArrayView& activations, const ArrayView& second, CamSource source,
                                  const CamOptions& options, const ArrayView& scores, const ArrayView& of_activations,
                                  const ArrayView& of_second) {
    CamBackwardCall call;
    call.forward = plan_cam(activations, second, source, options);
    call.of_weights = source == CamSource::weights;
    check_given("cam_backward", {"scores", scores}, call.forward.result, result_dtype(activations.dtype), true);
    check_given("cam_backward", {"of_activations", of_activations}, activations.shape, activations.dtype, false);
    check_given("cam_backward", {"of_second", of_second}, second.shape, second.dtype, false);
    for (const Named& array : {Named{"scores", scores}, {"of_activations", of_activations}, {"of_second", of_second}})
        check_place("cam_backward", {"activations", activations}, array);
    const CamCall results = plan_cam(of_activations, of_second, source, options);
    call.scores = scores;
    call.of_activations = results.activations;
    call.of_gradients = results.gradients;
    call.of_moments_step = results.moments_step;
    return call;
}

ResizeBackwardCall plan_resize_backward(const ArrayView& heatmap, Size size, Normalization normalize, int64_t spatial,
                                        const ArrayView& of_result, const ArrayView& of_heatmap) {
    ResizeBackwardCall call;
    call.forward = plan_resize(heatmap, size, normalize, spatial);
    check_given("resize_backward", {"of_result", of_result}, call.forward.result, result_dtype(heatmap.dtype), true);
    check_given("resize_backward", {"of_heatmap", of_heatmap}, heatmap.shape, heatmap.dtype, false);
    for (const Named& array : {Named{"of_result", of_result}, {"of_heatmap", of_heatmap}})
        check_place("resize_backward", {"heatmap", heatmap}, array);
    call.of_result = of_result;
    call.of_heatmap = as_maps(of_heatmap, spatial);
    return call;
}

}  // namespace fusedcam
