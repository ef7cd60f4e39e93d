"""Eigen-CAM and what was made of it: pixels projected on their first principal component."""

from typing import Any

from torch import Tensor, nn

from ..functional import eigencam
from .capture import Captured
from .explainer import Explainer, Finish
from .forward import ActivationExplainer, finished, on_plane
from .located import LayersMeant

__all__ = ["EigenCAM", "EigenGradCAM", "SegEigenCAM", "projected"]


def projected(activations: Tensor, gradients: Tensor | None, center: bool, nan: str) -> Tensor:
    """`eigencam` as far as scores at the layer's resolution, [N, H, W] or [N, K, H, W], before the ReLU."""
    policy = "zero" if nan == "zero" else "propagate"
    return eigencam(activations, gradients, center=center, relu=False, normalize=None, nan=policy)


def _checked(center: bool) -> bool:
    if not isinstance(center, bool):
        raise TypeError(f"center is {center!r}; accepted is True or False")
    return center


class EigenCAM(ActivationExplainer):
    """Explains a layer by Eigen-CAM (Muhammad and Yeasin 2020, https://arxiv.org/abs/2008.00299).

    The score of a pixel is the projection of its channels on the first principal component of all pixels of the image,
    as `fusedcam.eigencam` computes it. It knows no class, and needs no gradient: one run of inference.

    Args:
        center: subtract each channel's mean over the pixels first, as pytorch-grad-cam does and the paper does not.
        model, target_layer, options: as in `Explainer`.

    Raises:
        ValueError, TypeError: as `Explainer`; when called: targets, which it has no use for.
    """

    def __init__(self, model: nn.Module, target_layer: LayersMeant = None, *, center: bool = False, **options: Any):
        super().__init__(model, target_layer, **options)
        self.center = _checked(center)

    def _scores(self, activations: Tensor, nan: str) -> Tensor:
        return projected(activations, None, self.center, nan)


class EigenGradCAM(Explainer):
    """Explains a model's scores by EigenGrad-CAM, as pytorch-grad-cam names it: Eigen-CAM of gradient times activation.

    It is `fusedcam.eigencam(activations, gradients)`, and has no paper of its own.

    Args:
        center: subtract each channel's mean over the pixels first, as pytorch-grad-cam does.
        model, target_layer, options: as in `Explainer`.

    Raises:
        ValueError, TypeError: as `Explainer`.
    """

    def __init__(self, model: nn.Module, target_layer: LayersMeant = None, *, center: bool = False, **options: Any):
        super().__init__(model, target_layer, **options)
        self.center = _checked(center)

    def _heat(self, captured: Captured, finish: Finish) -> Tensor:
        return finished(self._projected(captured.activations, captured.gradients, finish.nan), finish)

    def _projected(self, activations: Tensor, gradients: Tensor, nan: str) -> Tensor:
        """Scores at the layer's resolution."""
        return on_plane(projected, activations, gradients, center=self.center, nan=nan)


class SegEigenCAM(EigenGradCAM):
    """Explains a model's scores by Seg-Eigen-CAM (Chung and Ying 2025, https://doi.org/10.3390/app15137562).

    It is Eigen-CAM of |gradient| times activation (equation 10), and the sign is that which makes the extreme of larger
    magnitude positive (equation 13). For segmentation the score is a sum over pixels of the class's channel:
    `targets=lambda output: output[:, k].sum((1, 2))`.

    Args:
        center: subtract each channel's mean over the pixels first, as pytorch-grad-cam does.
        model, target_layer, options: as in `Explainer`.

    Raises:
        ValueError, TypeError: as `Explainer`.
    """

    def _heat(self, captured: Captured, finish: Finish) -> Tensor:
        return finished(self._projected(captured.activations, captured.gradients.abs(), finish.nan), finish)
