"""ShapleyCAM: Grad-CAM with the score's curvature."""

from typing import Any

import torch
from torch import Tensor, nn

from .derivatives import Edge, derivatives, stacked
from .explainer import Explainer
from .forms import Layout
from .targets import Score

__all__ = ["ShapleyCAM"]


class ShapleyCAM(Explainer):
    """Explains a model's scores by ShapleyCAM (Cai 2025, https://arxiv.org/abs/2501.06261).

    The score of a pixel is sum_c mean_p(g - H A / 2) A: Grad-CAM with the gradient g less half the product of the
    score's Hessian H with the activations A, which is the second-order estimate of what a channel adds to the score.
    Where the score is piecewise linear behind the layer, as with ReLUs alone, H is zero and the map is Grad-CAM's. The
    gradient is differentiated once more, through the network behind the layer alone. pytorch-grad-cam has the same.

    Args:
        model, target_layer, call, eval, spatial, layout, tokens: as in `GradCAM`.

    Raises:
        ValueError, TypeError: as `GradCAM`.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | None = None,
        *,
        call: int = -1,
        eval: bool = False,
        spatial: int = 2,
        layout: Layout = "first",
        tokens: tuple[int, int] | None = None,
    ):
        super().__init__(model, target_layer, call=call, eval=eval, spatial=spatial, layout=layout, tokens=tokens)
        self._capture.differentiate = _corrected


def _corrected(score: Score, output: Any, leaf: Tensor, edge: Edge) -> Tensor | None:
    """g - H A / 2 of each score at the edge of the activations A; None where the graph does not lead there."""
    with torch.enable_grad():
        scores = score(output)
    if not scores.requires_grad:
        return None
    activations, rows = leaf.detach(), []
    try:
        for (first,) in derivatives(scores, [edge], twice=True):
            if first is None:
                return None
            second = None
            if first.requires_grad:  # else the score is linear from here on
                with torch.autocast(leaf.device.type, enabled=False):
                    (second,) = torch.autograd.grad(first, edge, activations, retain_graph=True, allow_unused=True)
            rows.append(first.detach() if second is None else first.detach() - 0.5 * second)
    except RuntimeError as error:
        if "use_reentrant=True" in str(error):  # a checkpoint after the layer
            return None
        raise
    return stacked(rows, scores)
