"""Array kinds for the tests of frameworks: how each is made, read back, and where it says that its memory is."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conftest import to_torch
from exporter import Managed


class Versioned:
    """An array by DLPack alone, which notes what it is asked for."""

    def __init__(self, array: NDArray) -> None:
        self.array = array
        self.asked: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        self.asked.append("device")
        return (1, 0)

    def __dlpack__(self, **options: Any) -> Any:
        self.asked.append(options)
        return self.export(**options)

    def export(self, **options: Any) -> Any:
        # NumPy's own export does not know bfloat16, torch's no negative strides.
        bfloat16 = self.array.dtype == ml_dtypes.bfloat16
        return (to_torch(self.array) if bfloat16 else self.array).__dlpack__(**options)


class Legacy(Versioned):
    """As before DLPack 1.0, without max_version."""

    def __dlpack__(self, stream: Any = None) -> Any:
        self.asked.append({"stream": stream})
        return self.export()


class FromDlpack(Versioned):
    @classmethod
    def from_dlpack(cls, source: Any) -> "FromDlpack":
        return cls(np.from_dlpack(source))


class Standard(Versioned):
    """An array of the array API standard, whose module makes arrays of DLPack's."""

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return SimpleNamespace(from_dlpack=lambda source: Standard(np.from_dlpack(source)))


class Subclass(np.ndarray):
    """One whose indexing means something else; its memory is an array's all the same."""

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("its memory was asked for, not its elements")


class Tensor(torch.Tensor):
    """A subclass without a dispatch of its own."""


class Kit(NamedTuple):
    make: Callable[[NDArray], Any]
    back: Callable[[Any], NDArray]
    result: type
    """What comes out."""
    address: Callable[[Any], int]
    """Where the array itself says its first element is."""
    mutable: bool = True
    """Whether it can be `out`."""
    takes_bfloat16: bool = True
    """Whether it can be made of memory of ours that holds bfloat16: NumPy exports none."""


def dlpack_address(array: Any) -> int:
    capsule = array.__dlpack__()
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )(capsule, b"dltensor")
    tensor = Managed.from_address(pointer).tensor
    return (tensor.data or 0) + tensor.byte_offset


def numpy_address(array: Any) -> int:
    return np.asarray(array).ctypes.data


def of_numpy(make: Callable[[NDArray], Any] = np.asarray) -> Kit:
    """NumPy's arrays, and what NumPy's arrays come out for."""
    return Kit(make, np.asarray, np.ndarray, numpy_address)


def of_ctypes() -> Kit:
    return Kit(np.ctypeslib.as_ctypes, np.ctypeslib.as_array, np.ndarray, ctypes.addressof)


def of_torch(wrap: Callable[[torch.Tensor], Any] = lambda tensor: tensor) -> Kit:
    return Kit(
        lambda array: wrap(to_torch(array)),
        tensor_to_numpy,
        torch.Tensor,
        lambda tensor: tensor.data_ptr(),
    )


def tensor_to_numpy(tensor: torch.Tensor) -> NDArray:
    plain = tensor.detach()
    return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if plain.dtype == torch.bfloat16 else plain.numpy()


def of_class(cls: type, result: type | None = None, mutable: bool = True) -> Kit:
    return Kit(
        cls,
        lambda value: np.asarray(getattr(value, "array", value)),
        result or cls,
        lambda value: numpy_address(getattr(value, "array", value)),
        mutable,
        result is not None,
    )


def of_jax() -> Kit:
    return Kit(jnp.asarray, np.asarray, type(jnp.zeros(1)), lambda array: array.unsafe_buffer_pointer(), False)


def of_tensorflow() -> Kit:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    return Kit(tf.constant, lambda tensor: tensor.numpy(), type(tf.zeros(1)), dlpack_address, False)


def of_onnxruntime() -> Kit:
    from onnxruntime import OrtValue

    def make(array: NDArray) -> OrtValue:
        if array.dtype == ml_dtypes.bfloat16:
            return OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), 16)
        return OrtValue.ortvalue_from_numpy(array)

    # Its DLPack capsules are legacy ones, which cannot say that they may be written to.
    return Kit(make, lambda value: value.numpy(), OrtValue, lambda value: value.data_ptr(), False, False)


ALL = ("float32", "float16", "bfloat16", "float64")
SLOW = ("tensorflow", "onnxruntime")
KITS: dict[str, tuple[Callable[[], Kit], tuple[str, ...]]] = {
    "numpy": (of_numpy, ALL),
    "numpy subclass": (lambda: of_numpy(lambda array: array.view(Subclass)), ALL),
    "memoryview": (lambda: of_numpy(memoryview), ("float32", "float16", "float64")),
    "ctypes": (of_ctypes, ("float32", "float64")),
    "torch": (of_torch, ALL),
    "torch parameter": (lambda: of_torch(lambda tensor: torch.nn.Parameter(tensor, requires_grad=False)), ALL),
    "torch subclass": (lambda: of_torch(lambda tensor: tensor.as_subclass(Tensor)), ALL),
    "jax": (of_jax, ALL),
    "dlpack": (lambda: of_class(Versioned, np.ndarray), ALL),
    "legacy dlpack": (lambda: of_class(Legacy, np.ndarray, mutable=False), ALL),
    "from_dlpack": (lambda: of_class(FromDlpack), ALL),
    "array API": (lambda: of_class(Standard), ALL),
    "tensorflow": (of_tensorflow, ALL),
    "onnxruntime": (of_onnxruntime, ALL),
}


def _slow(name: str) -> Any:
    return pytest.mark.slow if name in SLOW else ()


# Parameters of fixtures that open a kit; TensorFlow and ONNX Runtime are heavy, so their tests are slow ones.
EACH = [pytest.param(name, marks=_slow(name)) for name in KITS]
EACH_DTYPE = [
    pytest.param((name, dtype), marks=_slow(name), id=f"{name}-{dtype}")
    for name, (_, dtypes) in KITS.items()
    for dtype in dtypes
]


@contextmanager
def opened(name: str) -> Iterator[Kit]:
    """A kit, for as long as JAX may have float64."""
    with jax.enable_x64(True):
        yield KITS[name][0]()
