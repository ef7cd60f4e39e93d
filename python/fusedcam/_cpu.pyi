"""The native module on the CPU (csrc/bind/module_cpu.cpp)."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = TypeVar("Array")
Size = int | tuple[int, ...] | list[int]

__version__: str

def cam(
    activations: Array | Sequence[Array],
    gradients: Array | Sequence[Array] | None = None,
    *,
    weights: Array | Sequence[Array] | None = None,
    method: str = "gradcam",
    size: Size | None = None,
    relu: bool = True,
    normalize: str | None = "minmax",
    nan: str = "propagate",
    spatial: int = 2,
    layout: str = "first",
    eps: float = 0.0,
    weight_eps: float = 0.0,
    tokens: tuple[int, ...] | list[int] | None = None,
    fuse: str = "mean",
    out: Array | None = None,
) -> Array: ...
def resize(
    heatmap: Array, size: Size, *, normalize: str | None = None, eps: float = 0.0, out: Array | None = None
) -> Array: ...
def colorize(
    heatmap: Array,
    colormap: NDArray[np.uint8],
    size: Size | None,
    normalize: str | None,
    out: Array | None,
    /,
) -> Array: ...
def overlay(
    image: Array,
    heatmap: Array,
    colormap: NDArray[np.uint8],
    alpha: float,
    normalize: str | None,
    out: Array | None,
    /,
) -> Array: ...
def mask(
    image: Array,
    heatmap: Array,
    *,
    normalize: str | None = "minmax",
    eps: float = 0.0,
    noise: Array | None = None,
    out: Array | None = None,
) -> Array: ...
def cam_backward(
    activations: Any,
    second: Any,
    scores: Any,
    of_activations: Any,
    of_second: Any,
    by_weights: bool,
    method: str,
    spatial: int,
    layout: str,
    weight_eps: float,
    tokens: tuple[int, ...] | list[int] | None,
    /,
) -> None: ...
def resize_backward(
    heatmap: Any,
    of_result: Any,
    of_heatmap: Any,
    size: tuple[int, ...] | list[int],
    normalize: str | None,
    eps: float,
    /,
) -> None: ...
def address(array: Any, /) -> int: ...
def set_frameworks(frameworks: ModuleType, /) -> None: ...
def set_other_module(find: Callable[[str], Any], /) -> None: ...

class _Description(TypedDict):
    simd: str
    threads: int
    thread_runtime: str

def describe() -> _Description: ...
def overlay_stretched_float32(
    image: NDArray[np.float32],
    index: NDArray[np.uint8],
    colours: NDArray[np.float32],
    share: float,
    /,
) -> tuple[NDArray[np.uint8], float, float]: ...
def overlay_stretched_float64(
    image: NDArray[np.float64],
    index: NDArray[np.uint8],
    colours: NDArray[np.float64],
    share: float,
    /,
) -> tuple[NDArray[np.uint8], float, float]: ...
def limit_threads(count: int, /) -> None: ...
