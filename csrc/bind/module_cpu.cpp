// The native module on the CPU: a table of contents.
#include <pybind11/pybind11.h>

#include "../ops.hpp"
#include "entries.hpp"
#include "exchange.hpp"
#include "numpy.hpp"

namespace py = pybind11;

PYBIND11_MODULE(_cpu, module) {
    using namespace fusedcam;
    module.doc() = "fusedcam's ops on the CPU.";
    module.attr("__version__") = FUSEDCAM_VERSION;
    if (!bind::import_numpy()) throw py::error_already_set();
    if (PyModule_AddFunctions(module.ptr(), bind::entries)) throw py::error_already_set();
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
}
