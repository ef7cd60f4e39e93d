// The native module on CUDA: a table of contents.
#include <pybind11/pybind11.h>

#include "../ops.hpp"
#include "backward.hpp"
#include "entries.hpp"
#include "exchange.hpp"
#include "numpy.hpp"

namespace py = pybind11;

PYBIND11_MODULE(_cuda, module) {
    using namespace fusedcam;
    module.doc() = "fusedcam's ops on CUDA.";
    module.attr("__version__") = FUSEDCAM_VERSION;
    if (!bind::import_numpy()) throw py::error_already_set();
    for (PyMethodDef* functions : {bind::entries, bind::backward_entries})
        if (PyModule_AddFunctions(module.ptr(), functions)) throw py::error_already_set();
    module.def(
        "set_frameworks", [](const py::module_& frameworks) { bind::set_frameworks(frameworks.ptr()); },
        "Sets the module of functions that ask a framework in Python.");
    module.def(
        "unavailable", [] { return cuda::unavailable(); }, "Why no call can be made, in words; empty when calls can.");
}
