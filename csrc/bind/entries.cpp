// The ops as Python calls them: read the arguments, borrow the arrays, plan, compute, hand the result over. In that
// order, since reading an argument may run a caller's code, which may move an array's memory.
#include "entries.hpp"

#include "calls.hpp"
#include "docs.hpp"

namespace fusedcam::bind {

namespace {
PyObject* other_module = nullptr;
}  // namespace

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

PyObject* hand_over(const Traced& traced, const char* op, PyObject* const* values, Py_ssize_t positional,
                    PyObject* keywords) try {
    PyObject* name = PyUnicode_FromString(op);
    if (!name) return nullptr;
    PyObject* found = ask_frameworks("traced_op", &name, 1);
    Py_DECREF(name);
    if (!found) return nullptr;
    PyObject* result = nullptr;
    if (PyCallable_Check(found))
        result = PyObject_Vectorcall(found, values, static_cast<size_t>(positional), keywords);
    else
        PyErr_SetString(traced.type ? PyExc_TypeError : PyExc_ValueError, traced.words.c_str());
    Py_DECREF(found);
    return result;
} catch (const PythonError&) {
    return nullptr;
}

namespace {

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
