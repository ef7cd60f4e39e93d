// The ops as Python calls them: read the arguments, borrow the arrays, plan, compute, hand the result over. In that
// order, since reading an argument may run a caller's code, which may move an array's memory.
#include "entries.hpp"

#include <new>
#include <optional>

#include "arguments.hpp"
#include "backend.hpp"
#include "docs.hpp"
#include "exchange.hpp"

namespace fusedcam::bind {
namespace {

PyObject* other_module = nullptr;

// The same call by the other module's op of that name: a new reference, or null with a Python error set. When there is
// no such module, the error says why beside what this one refuses.
PyObject* hand_over(const Elsewhere& elsewhere, const char* op, PyObject* const* values, Py_ssize_t positional,
                    PyObject* keywords) {
    PyObject* found = other_module ? PyObject_CallFunction(other_module, "s", op) : nullptr;
    if (PyErr_Occurred()) return nullptr;
    if (found && PyCallable_Check(found)) {
        PyObject* result = PyObject_Vectorcall(found, values, static_cast<size_t>(positional), keywords);
        Py_DECREF(found);
        return result;
    }
    const char* reason = found && PyUnicode_Check(found) ? PyUnicode_AsUTF8(found) : nullptr;
    const std::string words = text(op, ": ", elsewhere.argument, " is on ", show(elsewhere.device), "; ",
                                   reason ? reason : "there are no kernels for it", "; pass a copy on the CPU");
    PyErr_SetString(PyExc_ValueError, words.c_str());
    Py_XDECREF(found);
    return nullptr;
}

// C++'s refusals as Python's exceptions.
template <class Body>
PyObject* guarded(const char* op, PyObject* const* values, Py_ssize_t positional, PyObject* keywords, Body&& body) {
    try {
        return body();
    } catch (const PythonError&) {
    } catch (const Elsewhere& error) {
        return hand_over(error, op, values, positional, keywords);
    } catch (const TypeMismatch& error) {
        PyErr_SetString(PyExc_TypeError, error.what());
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::bad_alloc&) {
        PyErr_SetString(PyExc_MemoryError, "fusedcam: no memory for the result and what computing it takes");
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

// Where a result goes: into `out` when it is given, else into new memory of the framework of `like`.
class Destination {
  public:
    Destination(const char* op, PyObject* out, const Borrowed& like, const Shape& shape, DType dtype,
                std::initializer_list<const ArrayView*> inputs) {
        if (!out) {
            fresh_.emplace(like, shape, dtype);
            return;
        }
        given_.emplace(op, "out", out);
        given_->must_match(op, "out", like, "the input");
        check_out(op, given_->view(), shape, dtype, inputs);
    }

    const ArrayView& view() const { return given_ ? given_->view() : fresh_->view(); }
    bool given() const { return given_.has_value(); }
    // A new reference, or null with a Python error set.
    PyObject* release() {
        if (!given_) return fresh_->release();
        if (given_->framework().torch) torch_note_write(given_->object());
        return Py_NewRef(given_->object());
    }

  private:
    std::optional<Borrowed> given_;
    std::optional<Result> fresh_;
};

// The maps go to memory of their own first. Resizing onto the same grid is the copy.
void compute_then_copy(CamCall& call, const Borrowed& like, const ArrayView& out) {
    const Result maps(like, call.result, result_dtype(call.activations.dtype));
    call.out = maps.view();
    backend::run(call, like);
    ResizeCall copy = plan_resize(maps.view(), call.size, Normalize::none, call.options.layout.spatial);
    copy.out = out;
    backend::run(copy, like);
}

PyObject* cam(PyObject*, PyObject* const* values, Py_ssize_t positional, PyObject* keywords) {
    return guarded("cam", values, positional, keywords, [&] {
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
            out
        };
        static const Signature signature("cam", 2, 1,
                                         {"activations", "gradients", "weights", "method", "size", "relu", "normalize",
                                          "nan", "spatial", "layout", "eps", "weight_eps", "tokens", "out"});
        constexpr std::array<std::string_view, 3> policies{"propagate", "zero", "raise"};
        constexpr std::array<std::string_view, 2> layouts{"first", "last"};
        const Arguments given(signature, values, positional, keywords);
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

        const Borrowed activations("cam", "activations", given.required(activations_));
        const bool by_gradients = given.get(gradients_);
        if (by_gradients == (given.get(weights_) != nullptr))
            refuse_type(
                "cam: ", by_gradients ? "both gradients and weights were" : "neither gradients nor weights were",
                " given; pass exactly one of them");
        const char* second_name = by_gradients ? "gradients" : "weights";
        const Borrowed second("cam", second_name, given.get(by_gradients ? gradients_ : weights_));
        second.must_match("cam", second_name, activations, "activations");
        CamCall call = plan_cam(activations.view(), second.view(),
                                by_gradients ? CamSource::gradients : CamSource::weights, options);
        Destination destination("cam", given.get(out), activations, call.result, result_dtype(activations.view().dtype),
                                {&activations.view(), &second.view()});
        if (destination.given() && options.nan == NanPolicy::raise && backend::raise_keeps_out) {
            compute_then_copy(call, activations, destination.view());
        } else {
            call.out = destination.view();
            backend::run(call, activations);
        }
        return destination.release();
    });
}

PyObject* resize(PyObject*, PyObject* const* values, Py_ssize_t positional, PyObject* keywords) {
    return guarded("resize", values, positional, keywords, [&] {
        enum { heatmap_, size, normalize, eps, out };
        static const Signature signature("resize", 2, 2, {"heatmap", "size", "normalize", "eps", "out"});
        const Arguments given(signature, values, positional, keywords);
        const std::optional<Extents> target = given.extents(size, "an int or (height, width)");
        if (!target) given.refuse(size, "an int or (height, width)", true);
        const int64_t spatial = target->count ? target->count : 2;
        const Normalization mode(given.normalize(normalize, Normalize::none), given.number(eps, 0));
        const Borrowed heatmap("resize", "heatmap", given.required(heatmap_));
        ResizeCall call = plan_resize(heatmap.view(), size_of(*target, spatial), mode, spatial);
        Destination destination("resize", given.get(out), heatmap, call.result, result_dtype(heatmap.view().dtype),
                                {&heatmap.view()});
        call.out = destination.view();
        backend::run(call, heatmap);
        return destination.release();
    });
}

// functional.py has found the table that a colour map's name stands for.
Palette palette_of(const char* op, const Borrowed& table) {
    const ArrayView& view = table.view();
    Shape rows;
    rows.append(256);
    rows.append(3);
    if (!(view.shape == rows) || view.dtype != DType::uint8 || view.strides[0] != 3 || view.strides[1] != 1)
        refuse_value(op, ": colormap is not a dense uint8 table of shape (256, 3)");
    return view.at<const uint8_t[3]>();
}

PyObject* colorize(PyObject*, PyObject* const* values, Py_ssize_t positional, PyObject* keywords) {
    return guarded("colorize", values, positional, keywords, [&] {
        enum { heatmap_, table_, size, normalize, out };
        static const Signature signature("colorize", 5, 5, {"heatmap", "colormap", "size", "normalize", "out"});
        const Arguments given(signature, values, positional, keywords);
        const std::optional<Size> target = given.size(size);
        const Normalize mode = given.normalize(normalize, Normalize::none);
        const Borrowed heatmap("colorize", "heatmap", given.required(heatmap_));
        const Borrowed table("colorize", "colormap", given.required(table_));
        ColorizeCall call = plan_colorize(heatmap.view(), palette_of("colorize", table), target, mode);
        Destination destination("colorize", given.get(out), heatmap, call.result, DType::uint8,
                                {&heatmap.view(), &table.view()});
        call.out = destination.view();
        backend::run(call, heatmap);
        return destination.release();
    });
}

PyObject* overlay(PyObject*, PyObject* const* values, Py_ssize_t positional, PyObject* keywords) {
    return guarded("overlay", values, positional, keywords, [&] {
        enum { image_, heatmap_, table_, alpha, normalize, out };
        static const Signature signature("overlay", 6, 6,
                                         {"image", "heatmap", "colormap", "alpha", "normalize", "out"});
        const Arguments given(signature, values, positional, keywords);
        const double share = given.number(alpha);
        const Normalize mode = given.normalize(normalize, Normalize::none);
        const Borrowed image("overlay", "image", given.required(image_));
        const Borrowed heatmap("overlay", "heatmap", given.required(heatmap_));
        const Borrowed table("overlay", "colormap", given.required(table_));
        heatmap.must_match("overlay", "heatmap", image, "image");
        OverlayCall call = plan_overlay(image.view(), heatmap.view(), palette_of("overlay", table), share, mode);
        Destination destination("overlay", given.get(out), image, call.result, DType::uint8,
                                {&image.view(), &heatmap.view(), &table.view()});
        call.out = destination.view();
        backend::run(call, image);
        return destination.release();
    });
}

PyObject* mask(PyObject*, PyObject* const* values, Py_ssize_t positional, PyObject* keywords) {
    return guarded("mask", values, positional, keywords, [&] {
        enum { image_, heatmap_, normalize, eps, noise_, out };
        static const Signature signature("mask", 2, 2, {"image", "heatmap", "normalize", "eps", "noise", "out"});
        const Arguments given(signature, values, positional, keywords);
        const Normalization mode(given.normalize(normalize, Normalize::minmax), given.number(eps, 0));
        const Borrowed image("mask", "image", given.required(image_));
        const Borrowed heatmap("mask", "heatmap", given.required(heatmap_));
        heatmap.must_match("mask", "heatmap", image, "image");
        std::optional<Borrowed> noise;
        if (PyObject* array = given.get(noise_)) {
            noise.emplace("mask", "noise", array);
            noise->must_match("mask", "noise", image, "image");
        }
        const ArrayView* added = noise ? &noise->view() : nullptr;
        MaskCall call = plan_mask(image.view(), heatmap.view(), added, mode);
        Destination destination("mask", given.get(out), image, call.result, image.view().dtype,
                                {&image.view(), &heatmap.view(), added ? added : &heatmap.view()});
        call.out = destination.view();
        backend::run(call, image);
        return destination.release();
    });
}

PyObject* address(PyObject*, PyObject* array) {
    return guarded("address", &array, 1, nullptr, [&] {
        const Borrowed borrowed("address", "array", array);
        return PyLong_FromVoidPtr(borrowed.view().data);
    });
}

template <class Function>
PyMethodDef entry(const char* name, Function function, const char* doc) {
    return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL | METH_KEYWORDS,
            doc};
}

}  // namespace

void set_other_module(PyObject* function) {
    Py_INCREF(function);
    Py_XSETREF(other_module, function);
}

PyMethodDef entries[] = {
    entry("cam", cam, docs::cam),
    entry("resize", resize, docs::resize),
    entry("colorize", colorize, docs::colorize),
    entry("overlay", overlay, docs::overlay),
    entry("mask", mask, docs::mask),
    {"address", address, METH_O, docs::address},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace fusedcam::bind
