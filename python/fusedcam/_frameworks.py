"""What a framework has to be asked in Python: arrays of its own over given memory and, on CUDA, for memory and streams.

Called by the native modules, for frameworks without DLPack's C exchange API or where that falls short.
"""

import sys
from typing import Any

from numpy.typing import NDArray


def from_numpy(array: NDArray[Any], like: Any) -> Any:
    """`array`'s memory as an array of the framework of `like`; `array` itself where there is no way into it."""
    package = _package(like)
    if package in ("jax", "jaxlib"):
        return sys.modules["jax"].numpy.from_dlpack(array, device=_device(like))
    if package == "tensorflow":
        return sys.modules["tensorflow"].experimental.dlpack.from_dlpack(array.__dlpack__())
    torch = sys.modules.get("torch")
    if torch and isinstance(like, torch.Tensor):  # a subclass has its author's package
        return torch.from_dlpack(array)
    if hasattr(like, "__array_namespace__"):
        return like.__array_namespace__().from_dlpack(array)
    if hasattr(type(like), "from_dlpack"):
        return type(like).from_dlpack(array)
    return array


def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """An uninitialised CUDA array by the allocator of the framework of `like`; None where it cannot be asked.

    Not by the exchange API's allocator: PyTorch would take such memory for foreign, and `record_stream` do nothing.
    """
    torch = sys.modules.get("torch")
    if torch and isinstance(like, torch.Tensor):
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    if _package(like) == "cupy":
        with like.device:
            return sys.modules["cupy"].empty(shape, dtype)
    return None


def stream(like: Any) -> int | None:
    """The CUDA stream, as a number, on which the framework of `like` expects work now; None if it does not say.

    0 is CUDA's legacy default stream, which DLPack calls 1.
    """
    torch = sys.modules.get("torch")
    if torch and isinstance(like, torch.Tensor):
        return torch.cuda.current_stream(like.device).cuda_stream or 1
    if _package(like) == "cupy":
        with like.device:
            return int(sys.modules["cupy"].cuda.get_current_stream().ptr) or 1
    return None


class CudaMemory:
    """Memory of ours on a CUDA device, for whoever takes it over by DLPack."""

    def __init__(self, capsule: Any, device: tuple[int, int]):
        self._capsule, self._device = capsule, device

    def __dlpack__(self, **options: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


def from_capsule(capsule: Any, device: tuple[int, int], like: Any) -> Any:
    """New memory on CUDA as an array of the framework of `like`; as DLPack alone where there is no way into it."""
    memory = CudaMemory(capsule, device)
    package = _package(like)
    if package in ("jax", "jaxlib"):
        return sys.modules["jax"].numpy.from_dlpack(memory)
    if package == "tensorflow":
        return sys.modules["tensorflow"].experimental.dlpack.from_dlpack(capsule)
    if hasattr(like, "__array_namespace__"):
        return like.__array_namespace__().from_dlpack(memory)
    if hasattr(type(like), "from_dlpack"):
        return type(like).from_dlpack(memory)
    return memory


def _package(array: Any) -> str:
    return str(type(array).__module__).partition(".")[0]  # None for types made by ctypes


def _device(array: Any) -> Any:
    """The one device that a JAX array is on. None for tracers and sharded arrays, which the native call refuses."""
    devices = getattr(getattr(array, "sharding", None), "device_set", ())
    return next(iter(devices)) if len(devices) == 1 else None
