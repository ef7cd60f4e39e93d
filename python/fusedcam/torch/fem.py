"""FEM: where a layer's channels are far above their mean."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .forward import ActivationExplainer
from .located import LayersMeant

__all__ = ["FEM"]


class FEM(ActivationExplainer):
    """Explains a layer by FEM, the Feature Explanation Method (Fuad et al. 2020).

    The score of a pixel is sum_c m_c [A_c > m_c + k s_c], where m_c and s_c are the mean and the standard deviation of
    channel c over the pixels (https://hal.science/hal-02963298). It knows no class and needs no gradient.
    pytorch-grad-cam adds up A_c, weighted by the share of pixels above the threshold, instead.

    Args:
        k: how many standard deviations above the mean a pixel has to be.
        model, target_layer, options: as in `Explainer`.

    Raises:
        ValueError, TypeError: as `Explainer`; `k` is no finite number; when called: targets, which it has no use for.
    """

    def __init__(self, model: nn.Module, target_layer: LayersMeant = None, *, k: float = 2.0, **options: Any):
        super().__init__(model, target_layer, **options)
        if not isinstance(k, int | float) or isinstance(k, bool):
            raise TypeError(f"k is {k!r}; accepted is a number of standard deviations")
        if not math.isfinite(k):
            raise ValueError(f"k is {k}; accepted is a finite number of standard deviations")
        self.k = k

    def _scores(self, activations: Tensor, nan: str) -> Tensor:
        """A channel that is not finite makes its image's scores NaN, unless it counts as 0."""
        wide = activations.double()  # a threshold leaves no room for rounding
        if nan == "zero":
            wide = torch.where(torch.isfinite(wide), wide, 0)
        axes = (2, 3)
        mean = wide.mean(axes, keepdim=True)
        above = wide - mean
        deviation = above.square().mean(axes, keepdim=True).sqrt()
        # A constant channel has no pixel above its mean, whatever rounding makes of the two.
        varies = wide.amax(axes, keepdim=True) > wide.amin(axes, keepdim=True)
        scores = (mean * (varies & (above > self.k * deviation))).sum(1)
        return scores.to(torch.promote_types(activations.dtype, torch.float32))
