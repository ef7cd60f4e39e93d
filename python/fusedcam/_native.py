"""The only importer of the native modules: _cpu at once, _cuda with the first array on a CUDA device."""

import sys
from functools import cache
from importlib import import_module
from operator import index
from typing import Any, TypedDict

if sys.version_info < (3, 12):  # where pybind11 waits for a lock for ever; later it has Python refuse
    try:
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]
    except ImportError:
        pass
    else:
        if interpreters.get_current() != interpreters.get_main():
            raise ImportError("fusedcam does not load in a subinterpreter; import it in the process's main interpreter")

from . import _frameworks
from ._build import CUDA_ARCHITECTURES, WITHOUT_CUDA

try:
    from . import _cpu
except ImportError as error:
    raise ImportError(
        f"fusedcam's native module does not load ({error}). It is compiled when fusedcam is installed: run "
        "`pip install .` in the source folder, and do not import fusedcam from its source tree."
    ) from error

__version__ = _cpu.__version__
cam = _cpu.cam
resize = _cpu.resize
colorize = _cpu.colorize
overlay = _cpu.overlay
mask = _cpu.mask
cam_backward = _cpu.cam_backward
resize_backward = _cpu.resize_backward
overlay_stretched: dict[str, Any] = {
    "float32": _cpu.overlay_stretched_float32,
    "float64": _cpu.overlay_stretched_float64,
}

_cpu.set_frameworks(_frameworks)

_HOW_TO_GET_CUDA = (
    "install it where nvcc is found (pip install --config-settings=cmake.define.FUSEDCAM_CUDA=ON), or from a wheel "
    "that was built with it"
)


@cache
def _cuda() -> Any:
    """The module _cuda, or in words why calls with arrays on a CUDA device cannot be made."""
    if WITHOUT_CUDA:
        return f"this fusedcam has no CUDA kernels ({WITHOUT_CUDA}): {_HOW_TO_GET_CUDA}"
    try:
        module = import_module("._cuda", __package__)
    except ImportError as error:
        return f"the module of CUDA kernels does not load: {error}"
    if reason := module.unavailable():
        return f"CUDA is not available: {reason}"
    module.set_frameworks(_frameworks)
    return module


def _cuda_op(name: str) -> Any:
    """What a call with arrays on a CUDA device is handed to, or in words why there is nothing."""
    return _cuda() if isinstance(_cuda(), str) else getattr(_cuda(), name)


_cpu.set_other_module(_cuda_op)


class Info(TypedDict):
    """What this installation of fusedcam runs with."""

    version: str
    backends: list[str]
    """The devices there are kernels for."""
    cuda: str | None
    """Why CUDA is not available; None where it is."""
    cuda_architectures: str
    """Those that CUDA kernels were compiled for, as CMake writes them; empty without any."""
    simd: str
    """The instruction set of the CPU's kernels."""
    threads: int
    """Threads that a large call uses, as `torch.set_num_threads` or OMP_NUM_THREADS set them."""
    thread_runtime: str
    """The file of the OpenMP runtime they belong to, or why there is none."""


def info() -> Info:
    """Version, backends, and what the CPU's kernels run with.

    Where there are CUDA kernels it asks the driver for its devices, which initialises CUDA in this process: ask after
    forking workers that use CUDA, or in them.
    """
    description = _cpu.describe()
    missing = _cuda() if isinstance(_cuda(), str) else None
    return Info(
        version=__version__,
        backends=["cpu"] if missing else ["cpu", "cuda"],
        cuda=missing,
        cuda_architectures=CUDA_ARCHITECTURES,
        simd=description["simd"],
        threads=description["threads"],
        thread_runtime=description["thread_runtime"],
    )


def set_num_threads(count: int | None) -> None:
    """Sets how many threads large calls on the CPU use at most, from now on.

    The threads are those of the OpenMP runtime that PyTorch uses too, so that `torch.set_num_threads` and
    OMP_NUM_THREADS hold as well, and so does the limit that a container sets by its control group.
    `info()["threads"]` says what comes of it. Results do not depend on it.

    Args:
        count: at least 1; None for as many as there are.

    Raises:
        TypeError: `count` is no integer.
        ValueError: `count` is less than 1.
    """
    accepted = "accepted: an integer of at least 1, or None"
    if count is None:
        _cpu.limit_threads(0)
        return
    if isinstance(count, bool) or not hasattr(count, "__index__"):
        raise TypeError(f"set_num_threads: count is a {type(count).__name__}; {accepted}")
    if index(count) < 1:
        raise ValueError(f"set_num_threads: count is {index(count)}; {accepted}")
    _cpu.limit_threads(min(index(count), 2**31 - 1))
