"""pytorch-grad-cam's numbers: each method's raw map, and the way from raw maps to finished ones.

Per layer: ReLU, min-max with 1e-7 added to the range, bilinear resampling; the mean over layers; min-max again. Torch
tensors of any device in and out; what has no kernel of ours is PyTorch's on the same device.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import native

__all__ = ["EPS", "METHODS", "finished", "scaled", "small_map"]

EPS = 1e-7

Raw = Callable[[Tensor, Tensor], Tensor]


def _weighted(activations: Tensor, weights: Tensor) -> Tensor:
    """sum_c w_c A_c."""
    raw: Tensor = native.cam(activations, weights=weights, normalize=None, relu=False)
    return raw


def _gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    raw: Tensor = native.cam(activations, gradients, normalize=None, relu=False)
    return raw


def _hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    return (gradients * activations).sum(1)


def _elementwise(activations: Tensor, gradients: Tensor) -> Tensor:
    return (gradients * activations).clamp_(min=0).sum(1)


def _layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    return (gradients.clamp(min=0) * activations).sum(1)


def _xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    total = activations.sum((2, 3), keepdim=True) + 1e-7
    return _weighted(activations, (gradients * activations / total).sum((2, 3)))


def _gradcam_plusplus(activations: Tensor, gradients: Tensor) -> Tensor:
    """With its eps of 1e-6, which at the size of real gradients is most of the denominator."""
    square = gradients * gradients
    total = activations.sum((2, 3), keepdim=True)
    alpha = square / (2 * square + total * (square * gradients) + 1e-6)
    alpha = torch.where(gradients != 0, alpha, 0)
    return _weighted(activations, (gradients.clamp(min=0) * alpha).sum((2, 3)))


# By the names of its classes; activations and gradients [N, C, H, W] -> the raw map [N, H, W].
METHODS: dict[str, Raw] = {
    "GradCAM": _gradcam,
    "GradCAMPlusPlus": _gradcam_plusplus,
    "XGradCAM": _xgradcam,
    "HiResCAM": _hirescam,
    "GradCAMElementWise": _elementwise,
    "LayerCAM": _layercam,
}


def small_map(method: str, activations: Tensor, gradients: Tensor) -> Tensor:
    """Activations and gradients [N, C, *S] -> the layer's map after the ReLU [N, *S], normalised where S is 2-D."""
    if activations.dtype in (torch.float16, torch.bfloat16) and method != "GradCAM":
        activations, gradients = activations.float(), gradients.float()
    if activations.ndim == 4 and method == "GradCAM":  # in one call
        whole: Tensor = native.cam(activations, gradients, normalize="minmax", eps=EPS)
        return whole
    raw = METHODS[method](_flat(activations), _flat(gradients))
    raw = raw.reshape(activations.shape[0], *activations.shape[2:]).clamp_(min=0)
    return scaled(raw, None) if raw.ndim == 3 else raw


def _flat(array: Tensor) -> Tensor:
    """Volumes [N, C, D, H, W] as maps [N, C, D * H, W], which pool and add up alike."""
    return array.flatten(2, 3) if array.ndim == 5 else array


def scaled(maps: Any, size: tuple[int, int] | None) -> Any:
    """[N, H, W] by the extremes of each, then resampled to (height, width)."""
    own = native.resize(maps, tuple(maps.shape[-2:]), normalize="minmax", eps=EPS)
    return own if size is None else native.resize(own, size)


def finished(small: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """The layers' maps, normalised, as one [N, height, width]."""
    heat = small[0]
    if len(small) > 1:
        heat = native.resize(small[0], size)
        for one in small[1:]:
            heat = heat + native.resize(one, size)
        heat = heat / len(small)
    result: Tensor = native.resize(heat, size, normalize="minmax", eps=EPS)
    return result
