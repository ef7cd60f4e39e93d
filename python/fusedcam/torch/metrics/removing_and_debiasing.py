"""ROAD: the score after a part of the pixels was removed so that their shape tells nothing."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .imputation import linear_imputation
from .scoring import Curve, Model, Scoring, ranks

__all__ = ["road"]


def road(
    model: Model,
    images: Tensor,
    heatmaps: Tensor,
    targets: Any = None,
    *,
    order: Literal["morf", "lerf"] = "morf",
    fractions: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    noise: float = 0.01,
    seed: int = 0,
    softmax: bool = True,
    batch_size: int = 32,
) -> Curve:
    """The score after the most (or least) relevant pixels were imputed: remove and debias.

    Rong et al. 2022, https://arxiv.org/abs/2202.00449: pixels removed by a constant show the model the
    mask's shape; `linear_imputation` of them with a little noise does not. Most relevant first ("morf"): a low score
    is good; least relevant first ("lerf"): a high one. The paper reports the accuracy over a data set at each fraction;
    here it is the score of each image, whose `Curve.mean` over the fractions is pytorch-grad-cam's
    ROADMostRelevantFirstAverage or ROADLeastRelevantFirstAverage plus the image's own score, and half of lerf's less
    morf's its ROADCombined. That package takes the threshold at a percentile of the heatmap's values, and so may remove
    more pixels where values are equal; here the first in rows from the top left count as the more relevant.

    Args:
        model: called with images, [M, C, H, W] at a time, without recording.
        images: [N, C, H, W] as the model takes them.
        heatmaps: [N, H, W], or [N, K, H, W] for targets [N, K]; finite; only their order counts.
        targets: as an explainer takes them. None: the class that is first for the whole image. A callable gets the
            output for a batch of changed images, each row of which it has to treat alike.
        order: "morf" removes the highest values, "lerf" the lowest.
        fractions: of the pixels, each from 0 to below 1, ascending; rounded to whole pixels.
        noise: standard deviation of what is added to removed pixels, in the images' units; the paper's code has 0.01.
        seed: of the noise, which is one [C, H, W] for all images, fractions and orders, the same on every device, so
            that methods are compared on the same. PyTorch's own random state is left alone.
        softmax: whether classes' scores are taken after a softmax over the classes; False for a model that returns
            probabilities, or for scores as they are. Callables get the output as it is.
        batch_size: images that are imputed, and that the model sees, at a time.

    Returns:
        `fractions` [S] that were removed, and `scores` [N, S] or [N, K, S] on the images' device.

    Raises:
        ValueError: shapes, devices, targets or options that do not fit, heatmaps with NaN.
        TypeError: arguments of another type.
    """
    if order not in ("morf", "lerf"):
        raise ValueError(f'order is {order!r}; accepted is "morf" or "lerf"')
    given = _checked_fractions(fractions)
    if not isinstance(noise, int | float) or not noise >= 0:
        raise ValueError(f"noise is {noise!r}; accepted is a number from 0")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed is {seed!r}; accepted is an int")
    scoring = Scoring(model, images, heatmaps, targets, softmax, batch_size)
    pixels = images.shape[2] * images.shape[3]
    counts = [round(fraction * pixels) for fraction in given]
    if counts[-1] >= pixels:
        raise ValueError(f"fractions has {given[-1]}, which leaves none of {pixels} pixels; accepted is less")
    count = torch.tensor(counts, device=images.device)
    place = ranks(scoring.heatmaps) if order == "morf" else pixels - 1 - ranks(scoring.heatmaps)
    added = _noise(scoring.images, noise, seed)

    def perturb(cases: Tensor, levels: Tensor) -> Tensor:
        removed = place[cases] < count[levels][:, None, None]
        filled = linear_imputation(scoring.images[scoring.image_of(cases)], removed)
        return torch.where(removed[:, None], filled + added, filled)

    scores = scoring(len(counts), perturb)
    return Curve((count.double() / pixels).to(scores.dtype), scoring.shaped(scores))


def _noise(images: Tensor, scale: float, seed: int) -> Tensor:
    """[C, H, W], drawn on the CPU, whose generator gives the same numbers everywhere."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(images.shape[1:], generator=generator, dtype=torch.float32, device="cpu")
    return (scale * drawn).to(images)


def _checked_fractions(fractions: Any) -> list[float]:
    accepted = "numbers from 0 to below 1, ascending"
    try:
        given = [float(fraction) for fraction in fractions]
    except (TypeError, ValueError) as error:
        raise TypeError(f"fractions is {fractions!r}; accepted are {accepted}") from error
    if not given or sorted(given) != given or not 0 <= given[0] <= given[-1] < 1:
        raise ValueError(f"fractions is {fractions!r}; accepted are {accepted}")
    return given
