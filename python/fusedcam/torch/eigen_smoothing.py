"""eigen_smooth: a method's weighted activations projected on their first principal component, in place of their sum."""

from typing import Literal

import torch
from torch import Tensor

from ..functional import cam
from .eigen import projected
from .explainer import Finish
from .forward import finished

__all__ = ["eigen_smoothed"]

_PIXELS = (-2, -1)


def _products(activations: Tensor, gradients: Tensor, method: str) -> Tensor:
    """What the method adds up over the channels, [N, C, H, W]: the maps of one channel each."""
    n, c, *grid = activations.shape
    products: Tensor = cam(
        activations.reshape(n * c, 1, *grid),
        gradients.reshape(n * c, 1, *grid),
        method=method,
        relu=False,
        normalize=None,
    )
    return products.reshape(n, c, *grid)


def eigen_smoothed(
    activations: Tensor,
    gradients: Tensor,
    *,
    method: str = "gradcam",
    center: bool = True,
    size: int | tuple[int, ...] | list[int] | None = None,
    relu: bool = True,
    normalize: Literal["minmax", "max"] | None = "minmax",
    nan: Literal["propagate", "zero", "raise"] = "propagate",
) -> Tensor:
    """Heatmaps as pytorch-grad-cam draws them with eigen_smooth=True; it defines it, and no paper does.

    Where a method adds weighted activations up over the channels, this projects each pixel's on the first principal
    component of all pixels of the image, in float64. The sign is the one with which the map's inner product with the
    method's own is not negative; pytorch-grad-cam has the sign that LAPACK happens to return.

    Args:
        activations: [N, C, H, W], a tensor of floats.
        gradients: of the same shape, or [N, K, C, H, W] with K classes of each image.
        method: a key of `fusedcam.METHODS`, but for those of moments.
        center: subtract each channel's mean over the pixels first, as pytorch-grad-cam does.
        size, relu, normalize: as in `fusedcam.cam`.
        nan: as in `fusedcam.eigencam`, of the weighted activations.

    Returns:
        [N, H', W'], or [N, K, H', W'], on the device of the activations; float32 (float64 for float64).

    Raises:
        ValueError: no such method; gradients of another shape.
    """
    several = gradients.ndim == activations.ndim + 1
    if activations.ndim != 4 or (gradients[:, 0] if several else gradients).shape != activations.shape:
        raise ValueError(
            f"gradients have shape {tuple(gradients.shape)} and activations {tuple(activations.shape)}; accepted are "
            "[N, C, H, W], and gradients of that shape or with K classes after N"
        )
    with torch.no_grad():
        wide = activations.double()
        classes = gradients.unbind(1) if several else [gradients]
        scores = [_smoothed(_products(wide, one.double(), method), center, nan) for one in classes]
        both = torch.stack(scores, 1) if several else scores[0]
        return finished(
            both.to(torch.promote_types(activations.dtype, torch.float32)), Finish(size, relu, normalize, nan)
        )


def _smoothed(products: Tensor, center: bool, nan: str) -> Tensor:
    """[N, C, H, W] -> [N, H, W]."""
    if nan == "zero":
        products = torch.where(torch.isfinite(products), products, 0)
    scores = projected(products, None, center, nan)
    agreement = (scores * products.sum(1)).sum(_PIXELS, keepdim=True)
    return torch.where(agreement < 0, -scores, scores)
