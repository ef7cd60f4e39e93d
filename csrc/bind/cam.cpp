// cam as a Python call: of one layer, or of a list of them.
#include <deque>
#include <memory>
#include <vector>

#include "calls.hpp"
#include "entries.hpp"

namespace fusedcam::bind {
namespace {

enum {
    activations_,
    gradients_,
    weights_,
    method,
    size,
    relu,
    normalize,
    nan,
    spatial,
    layout,
    eps,
    weight_eps,
    tokens,
    fuse,
    out
};

CamOptions options_of(const Arguments& given) {
    constexpr std::array<std::string_view, 3> policies{"propagate", "zero", "raise"};
    constexpr std::array<std::string_view, 2> layouts{"first", "last"};
    CamOptions options;
    options.method = given.string(method, options.method);
    options.layout.spatial = given.integer(spatial, options.layout.spatial);
    options.layout.tokens = given.extents(tokens, "(height, width)");
    if (options.layout.tokens && options.layout.tokens->count == 0) given.refuse(tokens, "(height, width)", true);
    if (options.layout.tokens && given.given(layout))
        refuse_value("cam: layout is given with tokens; accepted is one of them: tokens lie [N, T, C]");
    check_layout("cam", options.layout);
    options.size = given.size(size, options.layout.spatial);
    options.relu = given.boolean(relu, options.relu);
    options.normalize = {given.normalize(normalize, options.normalize.by), given.number(eps, 0)};
    options.nan = static_cast<NanPolicy>(given.choice(nan, 0, policies));
    options.layout.channels_last = given.choice(layout, 0, layouts) == 1;
    options.weight_eps = given.number(weight_eps, 0);
    return options;
}

// The maps go to memory of their own first. Resizing onto the same grid is the copy.
void compute_then_copy(CamCall& call, const Borrowed& like, const ArrayView& out) {
    const Result maps(like, call.result, result_dtype(call.activations.dtype));
    call.out = maps.view();
    backend::run(call, like);
    ResizeCall copy = plan_resize(maps.view(), call.size, Normalize::none, call.options.layout.spatial);
    copy.out = out;
    backend::run(copy, like);
}

PyObject* one_layer(const Arguments& given, const CamOptions& options) {
    const Borrowed activations("cam", "activations", given.required(activations_));
    const bool by_gradients = given.get(gradients_);
    const char* second_name = by_gradients ? "gradients" : "weights";
    const Borrowed second("cam", second_name, given.get(by_gradients ? gradients_ : weights_));
    second.must_match("cam", second_name, activations, "activations");
    CamCall call =
        plan_cam(activations.view(), second.view(), by_gradients ? CamSource::gradients : CamSource::weights, options);
    Destination destination("cam", given.get(out), activations, call.result, result_dtype(activations.view().dtype),
                            {&activations.view(), &second.view()});
    if (destination.given() && options.nan == NanPolicy::raise && backend::raise_keeps_out) {
        compute_then_copy(call, activations, destination.view());
    } else {
        call.out = destination.view();
        backend::run(call, activations);
    }
    return destination.release();
}

// ---- Several layers ----

// A list's items, held: what borrowing one calls may change the list.
class Items {
  public:
    explicit Items(PyObject* list) : items_(PySequence_Tuple(list)) {
        if (!items_) throw PythonError{};
    }
    ~Items() { Py_DECREF(items_); }
    Items(const Items&) = delete;
    Items& operator=(const Items&) = delete;

    Py_ssize_t count() const { return PyTuple_GET_SIZE(items_); }
    PyObject* operator[](Py_ssize_t index) const { return PyTuple_GET_ITEM(items_, index); }

  private:
    PyObject* items_;
};

bool is_list(PyObject* value) { return PyList_Check(value) || PyTuple_Check(value); }

struct Layer {
    std::string names[2];
    Borrowed activations, second;
    CamCall call;
    std::optional<Result> map;
};

// What refuses one layer's arrays says which layer.
template <class Body>
void of_layer(size_t index, Body&& body) {
    const auto words = [&](const std::exception& error) {
        const std::string_view message = error.what();
        return text("cam: layer ", index, ": ", message.substr(message.starts_with("cam: ") ? 5 : 0));
    };
    try {
        body();
    } catch (const TypeMismatch& error) {
        refuse_type(words(error));
    } catch (const std::invalid_argument& error) {
        refuse_value(words(error));
    }
}

PyObject* several_layers(const Arguments& given, const CamOptions& options) {
    constexpr std::array<std::string_view, 3> ways{"mean", "max", "product"};
    const Fuse by = static_cast<Fuse>(given.choice(fuse, 0, ways));
    const bool by_gradients = given.get(gradients_);
    const char* second_name = by_gradients ? "gradients" : "weights";
    PyObject* const seconds = given.get(by_gradients ? gradients_ : weights_);
    if (!is_list(seconds))
        refuse_type("cam: activations are a list, but ", second_name, " are of type ", Py_TYPE(seconds)->tp_name,
                    "; accepted is a list of as many arrays, one for each layer");
    const Items firsts(given.required(activations_)), others(seconds);
    if (firsts.count() != others.count() || firsts.count() < 1 || firsts.count() > FuseCall::most)
        refuse_value("cam: activations are a list of ", firsts.count(), " and ", second_name, " one of ",
                     others.count(), "; accepted are as many of both, from 1 to ", FuseCall::most);
    CamOptions of_each = options;
    of_each.size.reset();
    std::deque<Layer> layers;
    for (Py_ssize_t i = 0; i < firsts.count(); ++i) {
        Layer& layer = layers.emplace_back();
        layer.names[0] = text("activations[", i, "]");
        layer.names[1] = text(second_name, "[", i, "]");
        layer.activations.take("cam", layer.names[0].c_str(), firsts[i]);
        layer.second.take("cam", layer.names[1].c_str(), others[i]);
        const Borrowed& first = layers.front().activations;
        layer.activations.must_match("cam", layer.names[0].c_str(), first, "activations[0]");
        layer.second.must_match("cam", layer.names[1].c_str(), first, "activations[0]");
        of_layer(layers.size() - 1, [&] {
            check_alike("cam", {"activations[0]", first.view()}, {layer.names[0].c_str(), layer.activations.view()});
            layer.call = plan_cam(layer.activations.view(), layer.second.view(),
                                  by_gradients ? CamSource::gradients : CamSource::weights, of_each);
            const Shape &own = layer.call.result, &wanted = layers.front().call.result;
            bool alike = own.rank == wanted.rank;
            for (int axis = 0; alike && axis + options.layout.spatial < own.rank; ++axis)
                alike = own.extent[axis] == wanted.extent[axis];
            if (!alike)
                refuse_value("maps of shape ", show(own), " where layer 0 has ", show(wanted),
                             "; accepted are as many images and classes of every layer");
        });
    }
    const Borrowed& like = layers.front().activations;
    const DType dtype = result_dtype(like.view().dtype);
    if (options.size) check_size("cam", *options.size, options.layout.spatial);
    std::vector<ArrayView> maps;
    for (const Layer& layer : layers) maps.push_back(dense_view(nullptr, layer.call.result, dtype, like.view().device));
    FuseCall fused = plan_fuse(maps.data(), static_cast<int>(maps.size()), by, options.size, options.normalize,
                               options.layout.spatial);
    Destination destination("cam", given.get(out), like, fused.result, dtype, {&like.view()});
    if (destination.given())
        for (const Layer& layer : layers)
            check_out("cam", destination.view(), fused.result, dtype,
                      {&layer.activations.view(), &layer.second.view()});
    for (size_t i = 0; i < layers.size(); ++i) {
        Layer& layer = layers[i];
        layer.map.emplace(like, layer.call.result, dtype);
        layer.call.out = layer.map->view();
        of_layer(i, [&] { backend::run(layer.call, like); });
        fused.layers[i].data = layer.map->view().data;
    }
    fused.out = destination.view();
    backend::run(fused, like);
    return destination.release();
}

}  // namespace

PyObject* cam(PyObject*, PyObject* const* values, Py_ssize_t positional, PyObject* keywords) {
    return guarded("cam", values, positional, keywords, [&] {
        static const Signature signature("cam", 2, 1,
                                         {"activations", "gradients", "weights", "method", "size", "relu", "normalize",
                                          "nan", "spatial", "layout", "eps", "weight_eps", "tokens", "fuse", "out"});
        const Arguments given(signature, values, positional, keywords);
        const CamOptions options = options_of(given);
        const bool by_gradients = given.get(gradients_);
        if (by_gradients == (given.get(weights_) != nullptr))
            refuse_type(
                "cam: ", by_gradients ? "both gradients and weights were" : "neither gradients nor weights were",
                " given; pass exactly one of them");
        if (is_list(given.required(activations_))) return several_layers(given, options);
        if (given.given(fuse)) refuse_value("cam: fuse is given for one layer; accepted with a list of activations");
        return one_layer(given, options);
    });
}

}  // namespace fusedcam::bind
