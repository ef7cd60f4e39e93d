// The ops' derivatives as Python calls them: autograd's own. Results go to arrays that are given.
#include "backward.hpp"

#include "calls.hpp"

namespace fusedcam::bind {
namespace {

PyObject* cam_backward(PyObject*, PyObject* const* values, Py_ssize_t positional, PyObject* keywords) {
    return guarded("cam_backward", values, positional, keywords, [&] {
        enum {
            activations_,
            second_,
            scores_,
            of_activations_,
            of_second_,
            by_weights,
            method,
            spatial,
            layout,
            weight_eps,
            tokens
        };
        static const Signature signature("cam_backward", 11, 11,
                                         {"activations", "second", "scores", "of_activations", "of_second",
                                          "by_weights", "method", "spatial", "layout", "weight_eps", "tokens"});
        const Arguments given(signature, values, positional, keywords);
        constexpr std::array<std::string_view, 2> layouts{"first", "last"};
        CamOptions options;
        options.method = given.string(method, options.method);
        options.layout.spatial = given.integer(spatial, options.layout.spatial);
        options.layout.tokens = given.extents(tokens, "(height, width)");
        options.layout.channels_last = given.choice(layout, 0, layouts) == 1;
        options.weight_eps = given.number(weight_eps);
        const CamSource source = given.boolean(by_weights, false) ? CamSource::weights : CamSource::gradients;
        const Borrowed activations("cam_backward", "activations", given.required(activations_));
        const Borrowed second("cam_backward", "second", given.required(second_));
        const Borrowed scores("cam_backward", "scores", given.required(scores_));
        const Borrowed of_activations("cam_backward", "of_activations", given.required(of_activations_));
        const Borrowed of_second("cam_backward", "of_second", given.required(of_second_));
        const CamBackwardCall call = plan_cam_backward(activations.view(), second.view(), source, options,
                                                       scores.view(), of_activations.view(), of_second.view());
        backend::run(call, activations);
        return Py_NewRef(Py_None);
    });
}

PyObject* resize_backward(PyObject*, PyObject* const* values, Py_ssize_t positional, PyObject* keywords) {
    return guarded("resize_backward", values, positional, keywords, [&] {
        enum { heatmap_, of_result_, of_heatmap_, size, normalize, eps };
        static const Signature signature("resize_backward", 6, 6,
                                         {"heatmap", "of_result", "of_heatmap", "size", "normalize", "eps"});
        const Arguments given(signature, values, positional, keywords);
        const std::optional<Extents> target = given.extents(size, "a tuple of one to three extents");
        if (!target || !target->count) given.refuse(size, "a tuple of one to three extents", true);
        const int64_t spatial = target->count;
        const Normalization mode(given.normalize(normalize, Normalize::none), given.number(eps));
        const Borrowed heatmap("resize_backward", "heatmap", given.required(heatmap_));
        const Borrowed of_result("resize_backward", "of_result", given.required(of_result_));
        const Borrowed of_heatmap("resize_backward", "of_heatmap", given.required(of_heatmap_));
        const ResizeBackwardCall call = plan_resize_backward(heatmap.view(), size_of(*target, spatial), mode, spatial,
                                                             of_result.view(), of_heatmap.view());
        backend::run(call, heatmap);
        return Py_NewRef(Py_None);
    });
}

template <class Function>
PyMethodDef entry(const char* name, Function function, const char* doc) {
    return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL | METH_KEYWORDS,
            doc};
}

}  // namespace

PyMethodDef backward_entries[] = {
    entry("cam_backward", cam_backward,
          "cam_backward(activations, second, scores, of_activations, of_second, by_weights, method, spatial, layout,\n"
          "             weight_eps, tokens, /)\n--\n\n"
          "Into of_activations and of_second: the derivatives of sum(scores * S), S the scores before the ReLU."),
    entry("resize_backward", resize_backward,
          "resize_backward(heatmap, of_result, of_heatmap, size, normalize, eps, /)\n--\n\n"
          "Into of_heatmap: the derivatives of sum(of_result * resize(heatmap, size, normalize, eps))."),
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace fusedcam::bind
