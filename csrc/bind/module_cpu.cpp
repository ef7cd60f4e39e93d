// The native module on the CPU: a table of contents.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "../ops.hpp"
#include "backward.hpp"
#include "entries.hpp"
#include "exchange.hpp"
#include "numpy.hpp"

namespace py = pybind11;

namespace {

template <class T>
using Dense = py::array_t<T, py::array::c_style>;

// compat/pictures.py has checked the arrays.
template <class T>
py::tuple overlay_stretched(const Dense<T>& image, const Dense<uint8_t>& index, const Dense<T>& colours, double share) {
    Dense<uint8_t> out({image.shape(0), image.shape(1), py::ssize_t{3}});
    const fusedcam::cpu::StretchCall<T> call{image.shape(0),
                                             image.shape(1),
                                             image.data(),
                                             index.data(),
                                             reinterpret_cast<const T(*)[4]>(colours.data()),
                                             static_cast<T>(share),
                                             out.mutable_data()};
    const auto [of_image, of_picture] = fusedcam::cpu::overlay_stretched(call);
    return py::make_tuple(out, of_image, of_picture);
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
    using namespace fusedcam;
    module.doc() = "fusedcam's ops on the CPU.";
    module.attr("__version__") = FUSEDCAM_VERSION;
    if (!bind::import_numpy()) throw py::error_already_set();
    for (PyMethodDef* functions : {bind::entries, bind::backward_entries})
        if (PyModule_AddFunctions(module.ptr(), functions)) throw py::error_already_set();
    module.def(
        "set_frameworks", [](const py::module_& frameworks) { bind::set_frameworks(frameworks.ptr()); },
        "Sets the module of functions that ask a framework in Python.");
    module.def(
        "set_other_module", [](const py::function& find) { bind::set_other_module(find.ptr()); },
        "Sets what finds CUDA's op of a name, or says why there is none.");
    module.def(
        "describe",
        [] {
            const auto [simd, threads, thread_runtime] = cpu::describe();
            return py::dict(py::arg("simd") = simd, py::arg("threads") = threads,
                            py::arg("thread_runtime") = thread_runtime);
        },
        "The instruction set, the threads and the OpenMP runtime of the kernels.");
    module.def(
        "limit_threads", [](int count) { cpu::limit_threads(count); }, py::arg("count"), py::pos_only(),
        "No more threads than that; 0 for no limit.");
    const char* stretched = "A picture, and the brightest values of its image and of itself; for compat/pictures.py.";
    module.def("overlay_stretched_float32", overlay_stretched<float>, py::arg("image").noconvert(),
               py::arg("index").noconvert(), py::arg("colours").noconvert(), py::arg("share"), py::pos_only(),
               stretched);
    module.def("overlay_stretched_float64", overlay_stretched<double>, py::arg("image").noconvert(),
               py::arg("index").noconvert(), py::arg("colours").noconvert(), py::arg("share"), py::pos_only(),
               stretched);
}
