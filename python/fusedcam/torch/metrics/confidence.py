"""Average drop and increase in confidence: the score of the image that the heatmap leaves visible."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .scoring import Model, Scoring

__all__ = ["ConfidenceChange", "confidence_change"]


class ConfidenceChange(NamedTuple):
    """Confidences, each [N] or [N, K]."""

    original: Tensor
    """Of the images."""
    masked: Tensor
    """Of the images times their heatmaps."""

    @property
    def drop(self) -> Tensor:
        """The lost part of the confidence, max(0, original - masked) / original: 0 is good, 1 is all.

        Its mean over images, times 100, is the paper's "average drop %". NaN where the original is not positive.
        """
        lost = (self.original - self.masked).clamp(min=0) / self.original
        return torch.where(self.original > 0, lost, torch.nan)

    @property
    def increase(self) -> Tensor:
        """True where masking made the model surer, masked > original, which is good.

        The share of such images, times 100, is the paper's "% increase in confidence".
        """
        return self.masked > self.original


def confidence_change(
    model: Model,
    images: Tensor,
    heatmaps: Tensor,
    targets: Any = None,
    *,
    softmax: bool = True,
    batch_size: int = 32,
) -> ConfidenceChange:
    """The confidence of images and of what their heatmaps leave visible of them.

    Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063: the image is multiplied by its heatmap,
    pixel by pixel, in the scaling in which the model takes it, so that 0 in the heatmap is the colour that becomes 0
    there. pytorch-grad-cam's DropInConfidence is the difference, without the division; torch-cam divides by 1e-7 more.

    Args:
        model: called with images, [M, C, H, W] at a time, without recording.
        images: [N, C, H, W] as the model takes them.
        heatmaps: [N, H, W], or [N, K, H, W] for targets [N, K]; values from 0 to 1, as normalised maps have.
        targets: as an explainer takes them. None: the class that is first for the whole image. A callable gets the
            output for a batch of images, each row of which it has to treat alike.
        softmax: whether classes' scores are taken after a softmax over the classes; False for a model that returns
            probabilities. Callables get the output as it is.
        batch_size: images that the model sees at a time.

    Returns:
        Both confidences, from which `drop` and `increase` follow; on the images' device.

    Raises:
        ValueError: shapes, devices or targets that do not fit, heatmaps with NaN or beyond 0 to 1.
        TypeError: arguments of another type.
    """
    scoring = Scoring(model, images, heatmaps, targets, softmax, batch_size)
    if heatmaps.numel():
        low, high = (float(end) for end in heatmaps.aminmax())
        if low < 0 or high > 1:
            raise ValueError(f'heatmaps has values from {low:g} to {high:g}; accepted is 0 to 1 (normalize="minmax")')

    def perturb(cases: Tensor, levels: Tensor) -> Tensor:
        maps: Tensor = scoring.heatmaps[cases, None].to(scoring.images.dtype)
        return scoring.images[scoring.image_of(cases)] * maps

    original, masked = scoring.original, scoring(1, perturb)[:, 0]
    return ConfidenceChange(scoring.shaped(original), scoring.shaped(masked))
