"""The only importer of the native module."""

import sys
from typing import TypedDict

if sys.version_info < (3, 12):  # where pybind11 waits for a lock for ever; later it has Python refuse
    try:
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]
    except ImportError:
        pass
    else:
        if interpreters.get_current() != interpreters.get_main():
            raise ImportError("fusedcam does not load in a subinterpreter; import it in the process's main interpreter")

from ._frameworks import from_numpy

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

_cpu.set_from_numpy(from_numpy)


class Info(TypedDict):
    """What this installation of fusedcam runs with."""

    version: str
    backends: list[str]
    """The devices there are kernels for."""
    cuda: str | None
    """Why there is no CUDA backend; None where there is one."""
    simd: str
    """The instruction set of the CPU's kernels."""
    threads: int
    """Threads that a large call uses, as `torch.set_num_threads` or OMP_NUM_THREADS set them."""
    thread_runtime: str
    """The file of the OpenMP runtime they belong to, or why there is none."""


def info() -> Info:
    """Version, backends, and what the CPU's kernels run with."""
    description = _cpu.describe()
    return Info(
        version=__version__,
        backends=["cpu"],
        cuda="this version of fusedcam has no CUDA kernels",
        simd=description["simd"],
        threads=description["threads"],
        thread_runtime=description["thread_runtime"],
    )
