"""What `fusedcam.cam` refuses, of tensors that no kernel sees before a result has a shape: traced or transformed."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..methods import METHODS
from .formulas import Options

__all__ = ["DIVIDING", "check_cam", "check_resize", "check_size", "check_tensors"]

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
DIVIDING = ("gradcam++", "smoothgradcam++", "xgradcam")


def check_tensors(op: str, **tensors: Any) -> None:
    """Raises:
    TypeError: one is no tensor.
    """
    known = [(name, tensor) for name, tensor in tensors.items() if isinstance(tensor, Tensor)]
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            first, other = known[0]
            raise TypeError(
                f"{op}: {first} is a {type(other).__name__} but {name} is a {type(tensor).__name__}; "
                "pass both from one framework"
            )


def check_size(op: str, size: Sequence[int] | None, spatial: int) -> None:
    """Raises:
    ValueError: not as many extents as there are dimensions of space, or one that no map has.
    """
    if size is None:
        return
    if len(size) != spatial or any(extent < 1 or extent >= 2**31 for extent in size):
        raise ValueError(f"{op}: size is {tuple(size)}; accepted are {spatial} extents of at least 1")


def _check_float(op: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in _FLOATS:
        raise TypeError(f"{op}: dtype of {name} is {tensor.dtype}; accepted: float32, float16, bfloat16, float64")


def _check_finish(op: str, normalize: str | None, **numbers: float) -> None:
    if normalize not in ("minmax", "max", None):
        raise ValueError(f"{op}: normalize is {normalize!r}; accepted: 'minmax', 'max', None")
    for name, value in numbers.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{op}: {name} is {value}; accepted is a finite number of at least 0")


def check_resize(heatmap: Tensor, size: Sequence[int], normalize: str | None, eps: float) -> None:
    """Raises:
    ValueError, TypeError: what does not fit, as the native call would say.
    """
    _check_finish("resize", normalize, eps=eps)
    _check_float("resize", "heatmap", heatmap)
    check_size("resize", size, len(size))
    own = heatmap.shape[heatmap.ndim - len(size) :] if heatmap.ndim >= len(size) else ()
    if not own or any(extent < 1 for extent in own):
        raise ValueError(
            f"resize: heatmap has shape {tuple(heatmap.shape)} and size {len(size)} extents; accepted is a heatmap "
            "[..., *S] with as many dimensions of space, each at least 1"
        )


def check_cam(activations: Tensor, second: Tensor, options: Options) -> None:
    """Raises:
    ValueError, TypeError: what does not fit, as the native call would say.
    """
    name = "weights" if options.by_weights else "gradients"
    if options.method not in METHODS:
        raise ValueError(f"cam: method is {options.method!r}; accepted: {', '.join(map(repr, METHODS))}")
    if options.by_weights and options.method != "gradcam":
        raise ValueError(
            f"cam: method is {options.method!r}; weights are the channels' own, accepted with 'gradcam' alone"
        )
    if options.nan not in ("propagate", "zero", "raise"):
        raise ValueError(f"cam: nan is {options.nan!r}; accepted: 'propagate', 'zero', 'raise'")
    _check_finish("cam", options.normalize, eps=options.eps, weight_eps=options.weight_eps)
    if options.weight_eps and options.method not in DIVIDING:
        raise ValueError(f"cam: weight_eps is {options.weight_eps}, but {options.method!r} divides by nothing")
    check_size("cam", options.size, options.spatial)
    for title, tensor in (("activations", activations), (name, second)):
        _check_float("cam", title, tensor)
    if activations.dtype != second.dtype:
        raise TypeError(
            f"cam: dtype of activations is {activations.dtype} and of {name} {second.dtype}; pass both of one dtype"
        )
    if activations.device != second.device:
        raise ValueError(
            f"cam: activations are on {activations.device} and {name} on {second.device}; pass both on one device"
        )
    given = f"cam: activations have shape {tuple(activations.shape)}"
    batched = activations.ndim == options.inner + 1
    if not batched and activations.ndim != options.inner:
        raise ValueError(f"{given}; accepted are {options.inner} dimensions, or one more for a batch")
    if any(extent < 1 for extent in activations.shape[int(batched) :]):
        raise ValueError(f"{given}; accepted are channels and pixels, at least one each")
    fits = _weights_fit if options.by_weights else _gradients_fit
    if not fits(activations, second, options, batched):
        raise ValueError(
            f"cam: {name} have shape {tuple(second.shape)} and activations {tuple(activations.shape)}; accepted are "
            + (
                "[N, C] or [N, K, C]"
                if options.by_weights
                else "gradients of the activations' shape, or with K after N"
            )
        )


def _weights_fit(activations: Tensor, weights: Tensor, options: Options, batched: bool) -> bool:
    last = bool(options.tokens) or options.layout == "last"
    channels = activations.shape[-1] if last else activations.shape[int(batched)]
    fits = weights.ndim - batched in (1, 2) and weights.shape[-1] == channels
    return fits and (not batched or weights.shape[0] == 1 or weights.shape[0] == activations.shape[0])


def _gradients_fit(activations: Tensor, gradients: Tensor, options: Options, batched: bool) -> bool:
    shape = gradients.shape
    if options.method == "smoothgradcam++":
        if gradients.ndim == 0 or shape[0] != 3:
            return False
        shape = shape[1:]
    if len(shape) == activations.ndim + 1:  # classes
        shape = shape[: int(batched)] + shape[int(batched) + 1 :]
    return len(shape) == activations.ndim and all(a == b for a, b in zip(shape, activations.shape, strict=True))
