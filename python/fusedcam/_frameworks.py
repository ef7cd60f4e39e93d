"""What a framework has to be asked in Python: arrays of its own over given memory and, on CUDA, for memory and streams.

Called by the native modules, for frameworks without DLPack's C exchange API or where that falls short.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray


def from_numpy(array: NDArray[Any], like: Any) -> Any:
    """`array`'s memory as an array of the framework of `like`; `array` itself where there is no way into it.

    NumPy's DLPack knows no bfloat16: its bits come as uint16, which nothing else does.
    """
    package, halves = _package(like), array.dtype == "uint16"
    if package in ("jax", "jaxlib"):
        jnp = sys.modules["jax"].numpy
        found = jnp.from_dlpack(array, device=_device(like))
        return found.view(jnp.bfloat16) if halves else found
    if package == "tensorflow":
        tensorflow = sys.modules["tensorflow"]
        found = tensorflow.experimental.dlpack.from_dlpack(array.__dlpack__())
        return tensorflow.bitcast(found, tensorflow.bfloat16) if halves else found
    torch = sys.modules.get("torch")
    if torch and isinstance(like, torch.Tensor):  # a subclass has its author's package
        return torch.from_dlpack(array).view(torch.bfloat16) if halves else torch.from_dlpack(array)
    if halves:
        dtypes = sys.modules.get("ml_dtypes")
        if dtypes and not hasattr(like, "__array_namespace__") and not hasattr(type(like), "from_dlpack"):
            return array.view(dtypes.bfloat16)
        raise TypeError(f"there is no way to make a bfloat16 {type(like).__name__} of ours; pass one as out")
    if hasattr(like, "__array_namespace__"):
        return like.__array_namespace__().from_dlpack(array)
    if hasattr(type(like), "from_dlpack"):
        return type(like).from_dlpack(array)
    return array


def to_numpy(array: Any) -> NDArray[Any]:
    """The numbers of a framework's array on the host; torch's bfloat16 as float32."""
    torch = sys.modules.get("torch")
    if torch and isinstance(array, torch.Tensor):
        plain = array.detach().cpu()
        return np.asarray((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())
    if _package(array) == "cupy":
        return np.asarray(array.get())
    return np.asarray(array.numpy() if hasattr(array, "numpy") else array)  # TensorFlow, ONNX Runtime


def like(array: NDArray[Any], other: Any, dtype: Any = None) -> Any:
    """`array`'s numbers as an array of the framework of `other`, on its device; of `dtype`, one of that framework's,
    or of `array`'s."""
    name = array.dtype.name if dtype is None else getattr(dtype, "name", None) or str(dtype).removeprefix("torch.")
    array = array.astype("float32" if name == "bfloat16" else name, copy=False)
    torch, package = sys.modules.get("torch"), _package(other)
    if torch and isinstance(other, torch.Tensor):
        return torch.from_numpy(array).to(other.device, getattr(torch, name))
    if package == "cupy":
        with other.device:
            return sys.modules["cupy"].asarray(array)
    made = from_numpy(array, other)
    if name != "bfloat16":
        return made
    return sys.modules["tensorflow"].cast(made, dtype) if package == "tensorflow" else made.astype(dtype)


_calls = threading.local()


def traced_op(name: str) -> Any:
    """What computes op `name` of tensors that the kernels do not take: traced, transformed, to be differentiated; None
    where nothing does. The one way up to PyTorch, taken by name when such a tensor comes."""
    if getattr(_calls, "kernels_alone", False):
        return None
    return getattr(import_module(".torch.op", __package__), name, None)


@contextmanager
def kernels_alone() -> Iterator[None]:
    """Within the block, on this thread, such tensors are refused."""
    before, _calls.kernels_alone = getattr(_calls, "kernels_alone", False), True
    try:
        yield
    finally:
        _calls.kernels_alone = before


def writable(array: Any) -> bool:
    """Whether arrays of that framework are written to."""
    return isinstance(array, np.ndarray) or _package(array) in ("torch", "cupy")


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
    """Memory of ours on a CUDA device, for whoever takes it over by DLPack; once.

    The call that made it has waited for it, so any stream may read it.
    """

    def __init__(self, capsule: Any, legacy: Callable[[Any], Any], device: tuple[int, int]):
        self._capsule, self._legacy, self._device = capsule, legacy, device

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """The capsule: of DLPack 1 for those that name it as `max_version`, else the one before."""
        if copy or (dl_device or self._device) != self._device:
            raise BufferError(f"this memory is on device {self._device} and handed over there, without a copy")
        if self._capsule is None:
            raise BufferError("this memory has been handed over already; keep the array that was made of it")
        capsule, self._capsule = self._capsule, None
        return capsule if max_version and max_version[0] >= 1 else self._legacy(capsule)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


def from_capsule(capsule: Any, legacy: Callable[[Any], Any], device: tuple[int, int], like: Any) -> Any:
    """New memory on CUDA as an array of the framework of `like`; as DLPack alone where there is no way into it.

    `legacy` makes of the capsule one for those that know nothing of DLPack's versions.
    """
    memory = CudaMemory(capsule, legacy, device)
    package = _package(like)
    if package in ("jax", "jaxlib"):
        return sys.modules["jax"].numpy.from_dlpack(memory)
    if package == "tensorflow":
        return sys.modules["tensorflow"].experimental.dlpack.from_dlpack(memory.__dlpack__())
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
