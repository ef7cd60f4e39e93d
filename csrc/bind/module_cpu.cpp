// The native module: a table of contents.
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
        "set_from_numpy", [](const py::function& function) { bind::set_from_numpy(function.ptr()); },
        "Sets what turns a NumPy array into an array of another array's framework.");
    module.def(
        "describe",
        [] {
            const auto [simd, threads, thread_runtime] = cpu::describe();
            return py::dict(py::arg("simd") = simd, py::arg("threads") = threads,
                            py::arg("thread_runtime") = thread_runtime);
        },
        "The instruction set, the threads and the OpenMP runtime of the kernels.");
}
