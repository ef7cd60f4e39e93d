"""cam, eigencam, resize, colorize, overlay and mask: stateless functions, arrays in, arrays out.

cam, resize and mask are the native functions themselves: a Python wrapper would cost more than a small call.
"""

from typing import Any, TypeVar

import numpy as np

from . import _colormaps, _native, _projection
from ._frameworks import from_numpy

__all__ = ["cam", "colorize", "eigencam", "mask", "overlay", "resize"]

Array = TypeVar("Array")
Size = int | tuple[int, ...] | list[int]

cam = _native.cam
resize = _native.resize
mask = _native.mask


def eigencam(
    activations: Array,
    gradients: Array | None = None,
    *,
    center: bool = False,
    size: Size | None = None,
    relu: bool = True,
    normalize: str | None = "minmax",
    nan: str = "propagate",
    layout: str = "first",
) -> Array:
    """Eigen-CAM and EigenGrad-CAM: an image's pixels projected on their first principal component.

    Eigen-CAM (Muhammad and Yeasin 2020, https://arxiv.org/abs/2008.00299) needs no gradients and knows no class. With
    gradients it is what pytorch-grad-cam calls EigenGrad-CAM, of the products of both.

    Equivalent to, for each image::

        O       = activations.astype(float64)                           # [C, H, W]; times gradients where given
        O       = O.reshape(C, H * W).T                                 # [H*W, C]
        O       = O - O.mean(0) if center else O
        U, S, V = np.linalg.svd(O, full_matrices=False)
        L       = (O @ V[0]).reshape(H, W)
        L       = -L if -L.min() > L.max() else L                       # a singular vector has no sign of its own

    and then as `cam` goes on from scores. It is computed in float64 from the Gram matrix O^T O or O O^T, whichever is
    smaller. Where the two largest singular values are equal, so that there is no first component, any vector between
    them may come.

    The paper decomposes the activations as they are. pytorch-grad-cam centres them, and has the sign that LAPACK
    happens to return; here the extreme of larger magnitude is positive, as Chung and Ying 2025
    (https://doi.org/10.3390/app15137562, equation 13) have it, and of equal ones the first.

    Args:
        activations: [N, C, H, W], or [C, H, W] without a batch; float32, float16, bfloat16 or float64; of any framework
            on the CPU, or PyTorch's on CUDA.
        gradients: of the same shape, or [N, K, C, H, W] ([K, C, H, W]) with K classes of each image; or None.
        center: subtract each channel's mean over the pixels first.
        size, relu, normalize: as in `cam`.
        nan: an activation, or product, that is not finite leaves its image no component. "propagate" fills that image's
            map with NaN; "zero" counts such elements as 0 instead; "raise" makes them a ValueError.
        layout: as in `cam`.

    Returns:
        float32 (float64 for float64) [N, H', W'], or [N, K, H', W'] with K; without N for an unbatched call.

    Raises:
        ValueError, TypeError: as `cam`.
    """
    return _projection.heatmaps(activations, gradients, center, size, relu, normalize, nan, layout)  # type: ignore[no-any-return]


def colorize(
    heatmap: Array,
    *,
    colormap: Any = "jet",
    size: Size | None = None,
    normalize: str | None = None,
    out: Array | None = None,
) -> Array:
    """Heatmaps as pictures: resampled, normalised and coloured in one pass.

    Equivalent to ``table[floor(255 * clip(resize(heatmap, size, normalize=normalize), 0, 1) + 0.5)]``; NaN is black.

    Args:
        heatmap: [..., H, W]; float32, float16, bfloat16 or float64; any framework and strides.
        colormap: "jet", "turbo", "viridis", "inferno", "grey", "opencv-jet" (OpenCV's own, which differs), or a table
            [256, 3] of integers from 0 to 255 or floats from 0 to 1, in the order red, green, blue.
        size: None keeps the heatmap's resolution; an int or (height, width) in pixels resamples bilinearly.
        normalize: as in `fusedcam.cam`, by the extremes of the resampled map; None clamps the values to [0, 1].
        out: a uint8 array of the result's shape, framework and device to write to and return.

    Returns:
        uint8 RGB [..., H', W', 3], of the heatmap's framework.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, what it is and what is accepted.
    """
    return _native.colorize(heatmap, _colormaps.table("colorize", colormap), size, normalize, out)


def overlay(
    image: Any,
    heatmap: Array,
    *,
    colormap: Any = "jet",
    alpha: float = 0.5,
    normalize: str | None = None,
    out: Array | None = None,
) -> Array:
    """Heatmaps over their images: resampled to the image's size, normalised, coloured and blended in one pass.

    Equivalent to ``floor((1 - alpha) * image + alpha * colorize(heatmap, size=image's) + 0.5)`` on the scale of 0 to
    255; pixels where the heatmap is NaN show the image alone. The resampled map never exists as a whole.

    Args:
        image: uint8, or floats in [0, 1] (clamped); [H, W], [H, W, 1 or 3] or [1 or 3, H, W], read as channels last
            where both fit; with N in front for a batched heatmap. A PIL image is taken too.
        heatmap: [h, w] or [N, h, w] of any resolution, and raw scores too with `normalize`; same framework and device.
        colormap: as in `colorize`.
        alpha: the colour's share of every pixel, 0 to 1.
        normalize: as in `fusedcam.cam`, by the extremes of the resampled map; None clamps the values to [0, 1].
        out: a uint8 array of the result's shape, framework and device to write to and return.

    Returns:
        uint8 RGB [H, W, 3] or [N, H, W, 3].

    Raises:
        ValueError, TypeError: naming the argument that does not fit, what it is and what is accepted.
    """
    table = _colormaps.table("overlay", colormap)
    if not isinstance(image, np.ndarray) and hasattr(image, "__array_interface__") and not hasattr(image, "__dlpack__"):
        # PIL and its like have no memory to borrow. A copy of theirs takes the heatmap's framework.
        image = from_numpy(np.array(image), heatmap)
    blended: Array = _native.overlay(image, heatmap, table, alpha, normalize, out)
    return blended
