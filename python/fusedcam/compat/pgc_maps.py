"""pytorch-grad-cam's numbers: each method's raw map, and the way from raw maps to finished ones.

Per layer: ReLU, min-max with 1e-7 added to the range, bilinear resampling; the mean over layers; min-max again. Torch
tensors of any device in and out; what has no kernel of ours is PyTorch's on the same device.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import native

__all__ = [
    "EPS",
    "METHODS",
    "finished",
    "finished_volumes",
    "first_component",
    "plus_plus_weights",
    "scaled",
    "small_map",
    "weighted",
    "x_weights",
]

EPS = 1e-7

Raw = Callable[[Tensor, Tensor], Tensor]


def weighted(activations: Tensor, weights: Tensor) -> Tensor:
    """sum_c w_c A_c: activations [N, C, H, W] and weights [N, C] -> [N, H, W]."""
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


def x_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    """XGrad-CAM's [N, C]."""
    axes = tuple(range(2, activations.ndim))
    return (gradients * activations / (activations.sum(axes, keepdim=True) + 1e-7)).sum(axes)


def plus_plus_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++'s [N, C], with an eps of 1e-6, which at the size of real gradients is most of the denominator."""
    axes = tuple(range(2, activations.ndim))
    square = gradients * gradients
    alpha = square / (2 * square + activations.sum(axes, keepdim=True) * (square * gradients) + 1e-6)
    return (gradients.clamp(min=0) * torch.where(gradients != 0, alpha, 0)).sum(axes)


def _xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    return weighted(activations, x_weights(activations, gradients))


def _gradcam_plusplus(activations: Tensor, gradients: Tensor) -> Tensor:
    return weighted(activations, plus_plus_weights(activations, gradients))


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


def finished_volumes(small: Sequence[Tensor], size: tuple[int, int, int]) -> Tensor:
    """The same for raw maps [N, D, H, W], resampled by cubic splines through their corners, as the peer has it."""
    from scipy.ndimage import zoom

    def ranged(maps: Any) -> Any:
        axes = (1, 2, 3)
        maps = maps - maps.min(axes, keepdims=True)
        return maps / (EPS + maps.max(axes, keepdims=True))

    layers = []
    for maps in small:
        own = ranged(maps.detach().float().cpu().numpy())
        factors = [to / given for to, given in zip(size, own.shape[1:], strict=True)]
        layers.append(np.maximum([zoom(one, factors) for one in own], 0))
    return torch.from_numpy(ranged(np.mean(layers, 0, dtype=np.float32))).to(small[0].device)


def first_component(batch: Any) -> Any:
    """NumPy arrays [N, C, *S] projected on the first principal component of their pixels [N, *S], float32; NaN counts
    as 0. Its sign is what LAPACK gives."""
    projections = []
    for one in batch:
        # In the peer's layout, since the order of the mean's additions may turn the sign.
        points = np.where(np.isnan(one), one.dtype.type(0), one).reshape(one.shape[0], -1).transpose()
        points = points - points.mean(axis=0)
        # The thin decomposition has the first vector of the full one, in a fraction of its time.
        _, _, vectors = np.linalg.svd(points, full_matrices=False)
        projections.append((points @ vectors[0, :]).reshape(one.shape[1:]))
    return np.array(projections, np.float32)
