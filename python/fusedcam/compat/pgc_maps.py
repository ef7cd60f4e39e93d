"""pytorch-grad-cam's numbers: each method's raw map, and the way from raw maps to finished ones.

Per layer: ReLU, min-max with 1e-7 added to the range, bilinear resampling; the mean over layers; min-max again. Torch
tensors of any device in and out; what has no kernel of ours is PyTorch's on the same device.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

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
    "products",
    "scaled",
    "small_map",
    "weighted",
]

EPS = 1e-7


class Method(NamedTuple):
    """One of pytorch-grad-cam's gradient methods, and what `cam` computes it by."""

    module: str
    """Where in pytorch_grad_cam its class, of the name in METHODS, is."""
    rule: str
    """`method` in `cam`."""
    weight_eps: float = 0
    """What the package adds to the divisor. Grad-CAM++'s is most of it at the size of real gradients."""


METHODS: dict[str, Method] = {
    "GradCAM": Method("grad_cam", "gradcam"),
    "GradCAMPlusPlus": Method("grad_cam_plusplus", "gradcam++", 1e-6),
    "XGradCAM": Method("xgrad_cam", "xgradcam", 1e-7),
    "HiResCAM": Method("hirescam", "hirescam"),
    "GradCAMElementWise": Method("grad_cam_elementwise", "gradcam_elementwise"),
    "LayerCAM": Method("layer_cam", "layercam"),
}


def small_map(method: str, activations: Tensor, gradients: Tensor) -> Tensor:
    """Activations and gradients [N, C, *S] -> the layer's map after the ReLU [N, *S], normalised where S is 2-D."""
    mode = {"normalize": "minmax", "eps": EPS} if activations.ndim == 4 else {"normalize": None}
    result: Tensor = native.heat(activations, _seen(method, gradients), **_rule(method), **mode)
    return result


def products(method: str, activations: Tensor, gradients: Tensor) -> Tensor:
    """[N, C, *S], whose sum over the channels is the map before the ReLU."""
    result: Tensor = native.products(activations, _seen(method, gradients), **_rule(method))
    return result


def _rule(method: str) -> dict[str, Any]:
    return {"method": METHODS[method].rule, "weight_eps": METHODS[method].weight_eps}


def _seen(method: str, gradients: Tensor) -> Tensor:
    """What a gradient of -infinity counts as: NaN in the package's Grad-CAM++, whose rule takes positive ones alone."""
    if method != "GradCAMPlusPlus":
        return gradients
    return gradients.nan_to_num(nan=torch.nan, posinf=torch.inf, neginf=torch.nan)


def weighted(activations: Tensor, weights: Tensor) -> Tensor:
    """sum_c w_c A_c: activations [N, C, *S] and weights [N, C] -> [N, *S]."""
    raw: Tensor = native.heat(activations, weights=weights, normalize=None, relu=False)
    return raw


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
