"""The oracle: one formula per op and method in float64, written for reading and for nothing else.

Scores come beside their magnitude sums, by which the error rule in conftest.py measures.
"""

import numpy as np
from numpy.typing import NDArray

Wide = NDArray[np.floating]


def wide(array: NDArray) -> Wide:
    """The same numbers with room to spare: float64, and long double for float64 itself."""
    return array.astype(np.longdouble if array.dtype == np.float64 else np.float64)


def gradcam(activations: Wide, gradients: Wide, typical: bool = False) -> tuple[Wide, Wide]:
    """Selvaraju et al. 2017, equations 1 and 2, no ReLU; [N, C, H, W] and [N, K, C, H, W] -> [N, K, H, W].

    The magnitude sum is that of mean|g| |A|, or, with `typical`, of |alpha| |A|, which is smaller where the
    gradients of a channel cancel.
    """
    alpha = gradients.mean((-2, -1), keepdims=True)
    bound = abs(alpha) if typical else abs(gradients).mean((-2, -1), keepdims=True)
    terms = activations[:, None]
    return (alpha * terms).sum(2), (bound * abs(terms)).sum(2)


def _weighted(weights: Wide, bound: Wide, activations: Wide) -> tuple[Wide, Wide]:
    """weights and bound [N, K, C]: the scores, and the magnitude sum of bound |A|."""
    terms = activations[:, None]
    return (weights[..., None, None] * terms).sum(2), (bound[..., None, None] * abs(terms)).sum(2)


def _sums(activations: Wide) -> tuple[Wide, Wide]:
    """Of A over a channel, and of |A|, by which the former's rounding is measured; [N, 1, C, 1, 1]."""
    return tuple(array.sum((-2, -1), keepdims=True)[:, None] for array in (activations, abs(activations)))


def gradcam_plusplus(activations: Wide, gradients: Wide, typical: bool = False, eps: float = 0) -> tuple[Wide, Wide]:
    """Chattopadhay et al. 2018: w = sum of alpha relu(g), alpha = g^2 / (2 g^2 + sum(A) g^3 + eps); by 0 it is 0."""
    moments = np.stack([gradients, gradients**2, gradients**3])
    return smoothgradcam_plusplus(activations, moments, typical, eps)


def smoothgradcam_plusplus(
    activations: Wide, gradients: Wide, typical: bool = False, eps: float = 0
) -> tuple[Wide, Wide]:
    """Omeiza et al. 2019: the same with the means of g, g^2 and g^3 over noisy inputs; gradients [3, N, K, C, H, W]."""
    first, second, third = gradients
    total, size = _sums(activations)
    positive = np.maximum(first, 0)
    divisor = 2 * second + total * third + eps
    with np.errstate(invalid="ignore", divide="ignore"):
        nothing = (positive == 0) | (second == 0) | (divisor == 0)
        terms = np.where(nothing, 0 * positive, positive * second / divisor)
        rounding = np.where(terms == 0, 0, (2 * abs(second) + size * abs(third)) / abs(divisor))
    return _weighted(terms.sum((-2, -1)), (abs(terms) * (1 + rounding)).sum((-2, -1)), activations)


def xgradcam(activations: Wide, gradients: Wide, typical: bool = False, eps: float = 0) -> tuple[Wide, Wide]:
    """Fu et al. 2020: w = sum(g A) / (sum(A) + eps), 0 where that is divided by 0."""
    total, size = _sums(activations)
    products = gradients * activations[:, None]
    divisor = (total + eps)[..., 0, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.where(divisor == 0, 0, products.sum((-2, -1)) / divisor)
        bound = abs(products).sum((-2, -1)) + abs(weights) * size[..., 0, 0]
        bound = np.where(divisor == 0, 0, bound / abs(divisor))
    return _weighted(weights, bound, activations)


def hirescam(activations: Wide, gradients: Wide, typical: bool = False) -> tuple[Wide, Wide]:
    """Draelos and Carin 2020: sum over channels of g A."""
    products = gradients * activations[:, None]
    return products.sum(2), abs(products).sum(2)


def layercam(activations: Wide, gradients: Wide, typical: bool = False) -> tuple[Wide, Wide]:
    """Jiang et al. 2021: sum over channels of relu(g) A."""
    return hirescam(activations, np.maximum(gradients, 0))


def gradcam_elementwise(activations: Wide, gradients: Wide, typical: bool = False) -> tuple[Wide, Wide]:
    """pytorch-grad-cam: sum over channels of relu(g A)."""
    products = np.maximum(gradients * activations[:, None], 0)
    return products.sum(2), products.sum(2)


def gradcam_plus(activations: Wide, gradients: Wide, typical: bool = False) -> tuple[Wide, Wide]:
    """Lerma and Lucas 2022: Grad-CAM with relu(g) in place of g."""
    return gradcam(activations, np.maximum(gradients, 0), typical)


METHODS = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plusplus,
    "smoothgradcam++": smoothgradcam_plusplus,
    "xgradcam": xgradcam,
    "hirescam": hirescam,
    "layercam": layercam,
    "gradcam_elementwise": gradcam_elementwise,
    "gradcam+": gradcam_plus,
}


def cam(
    activations: Wide,  # [N, C, H, W]
    gradients: Wide,  # [N, K, C, H, W], or [N, K, C, 1, 1] for the channels' weights themselves; the moments in front
    method: str = "gradcam",
    size: tuple[int, int] | None = None,
    relu: bool = True,
    nan: str = "propagate",
    typical: bool = False,
    weight_eps: float = 0,
) -> tuple[Wide, Wide]:
    """[N, K, H', W'] before normalisation, and the magnitude sums [N, K, H, W]."""
    eps = {"eps": weight_eps} if weight_eps else {}
    with np.errstate(invalid="ignore"):  # infinity times zero
        scores, magnitude = METHODS[method](activations, gradients, typical, **eps)
    if nan == "zero":
        scores = np.where(np.isfinite(scores), scores, 0)
    if relu:
        scores = np.maximum(scores, 0)
    return bilinear(scores, size or scores.shape[-2:]), magnitude


def bilinear(maps: Wide, size: tuple[int, ...]) -> Wide:
    """Half-pixel centres, edges clamped: a + w (b - a) along x, then along y; a weight of 0 leaves b out. Of signals
    along x alone, of volumes along z at last."""
    for axis, extent in zip((-1, -2, -3), reversed(size), strict=False):
        last = maps.shape[axis] - 1
        # Source positions (x + 1/2) * in / out - 1/2 as integers, in units of 1 / (2 out).
        unit = 2 * extent
        position = np.clip((2 * np.arange(extent) + 1) * (last + 1) - extent, 0, last * unit)
        low, weight = position // unit, (position % unit) / maps.dtype.type(unit)
        a, b = np.take(maps, low, axis), np.take(maps, np.minimum(low + 1, last), axis)
        weight = weight.reshape(-1, *(1,) * (-1 - axis))
        with np.errstate(invalid="ignore"):
            maps = np.where(weight == 0, a, a + weight * (b - a))
    return maps


def resize(maps: Wide, size: tuple[int, int]) -> tuple[Wide, Wide]:
    return bilinear(maps, size), abs(maps)


def normalize(maps: Wide, mode: str | None, eps: float = 0) -> Wide:
    """Each [H, W] by its own extremes; a map without range ("max": without a positive score) becomes 0."""
    low, high = maps.min((-2, -1), keepdims=True), maps.max((-2, -1), keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        if mode == "minmax":
            return np.where(high == low, 0, (maps - low) / (high - low + eps))
        if mode == "max":
            return np.where(high <= 0, 0, maps / (high + eps))
    return maps


def mask(image: NDArray, heat: Wide, mode: str | None, noise: NDArray | float = 0) -> Wide:
    """Wang et al. 2020, Algorithm 1: image [N, C, H', W'] and heat [N, M, H, W] -> [N, M, C, H', W']."""
    masks = normalize(bilinear(heat, image.shape[-2:]), mode) + noise
    with np.errstate(invalid="ignore"):
        return masks[:, :, None] * wide(image)[:, None]


def colorize(heat: Wide, table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[..., H, W] -> [..., H, W, 3]: the nearest of 256 colours, halves upwards; NaN is black."""
    index = np.floor(255 * np.clip(np.nan_to_num(heat), 0, 1) + 0.5).astype(int)
    return np.where(np.isnan(heat)[..., None], 0, table[index]).astype(np.uint8)


def overlay(image: NDArray, heat: Wide, table: NDArray[np.uint8], alpha: float) -> NDArray[np.uint8]:
    """image [..., H, W, 3 or 1], uint8 or floats in [0, 1]; heat [..., H, W]. NaN shows the image alone."""
    below = image.astype(np.float64)
    if image.dtype != np.uint8:
        below = 255 * np.clip(np.nan_to_num(below, posinf=1), 0, 1)
    blended = (1 - alpha) * below + alpha * colorize(heat, table)
    return np.floor(np.where(np.isnan(heat)[..., None], below, blended) + 0.5).astype(np.uint8)
