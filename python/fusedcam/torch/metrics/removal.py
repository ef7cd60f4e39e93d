"""Deletion and insertion: the score while pixels go, or come, in the order of the heatmap."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import checked_count, checked_images
from .scoring import Curve, Model, Scoring, ranks

__all__ = ["Baseline", "deletion", "gaussian_blur", "insertion"]

Baseline = Literal["zeros", "mean", "blur"] | Tensor | Callable[[Tensor], Tensor]


def deletion(
    model: Model,
    images: Tensor,
    heatmaps: Tensor,
    targets: Any = None,
    *,
    step: int | None = None,
    baseline: Baseline = "zeros",
    softmax: bool = True,
    batch_size: int = 32,
) -> Curve:
    """The score while the pixels of the highest values are replaced by a baseline: a small area is good.

    Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421: step by step the next pixels in the heatmap's
    order are replaced, all channels at once, and the model scores what is left; `Curve.area` is the deletion metric,
    the area under the score (trapezoidal rule) over the replaced part of the pixels, from 0 to 1 for confidences. Of
    equal values the pixel that is first in rows from the top left goes first.

    The last step may be a smaller one, and counts by its size; in the paper's code (eclique/RISE) it counts as the
    others, and of equal values the last pixel goes first. torch-cam's metric is the same area; its steps are given
    by their number.

    Args:
        model: called with images, [M, C, H, W] at a time, without recording.
        images: [N, C, H, W] as the model takes them.
        heatmaps: [N, H, W], or [N, K, H, W] for targets [N, K]; finite; only their order counts.
        targets: as an explainer takes them. None: the class that is first for the whole image. A callable gets the
            output for a batch of changed images, each row of which it has to treat alike.
        step: pixels that are replaced at a time; None: a row's, as in the paper's code.
        baseline: "zeros" (the colour that the model's input scaling takes to 0); "mean": each image's own colour;
            "blur": `gaussian_blur` of it; a tensor that broadcasts to the images; or a callable from images to such.
        softmax: whether classes' scores are taken after a softmax over the classes; False for a model that returns
            probabilities, or for scores as they are. Callables get the output as it is.
        batch_size: images that the model sees at a time.

    Returns:
        `fractions` [S] from 0 to 1, and `scores` [N, S] or [N, K, S] on the images' device.

    Raises:
        ValueError: shapes, devices, targets or options that do not fit, heatmaps with NaN.
        TypeError: arguments of another type.
    """
    scoring, end, counts = _prepared(model, images, heatmaps, targets, step, baseline, softmax, batch_size)
    changed = _changing(scoring, scoring.images, end, counts[1:])
    return _curve(scoring, counts, torch.cat((scoring.original[:, None], changed), 1))


def insertion(
    model: Model,
    images: Tensor,
    heatmaps: Tensor,
    targets: Any = None,
    *,
    step: int | None = None,
    baseline: Baseline = "blur",
    softmax: bool = True,
    batch_size: int = 32,
) -> Curve:
    """The score while the pixels of the highest values come back on a blurred image: a large area is good.

    As `deletion`, from the baseline to the image (Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421);
    `Curve.area` is the insertion metric, from 0 to 1 for confidences. The blur has the kernel of the paper's code, 11
    pixels and sigma 5; there the Gaussian's tails are folded back into it, which makes it nearly flat, and what lies
    beyond the border is 0. torch-cam inserts into zeros.

    Args:
        model, images, heatmaps, targets, step, baseline, softmax, batch_size: as in `deletion`.

    Returns:
        `fractions` [S] of the pixels that are back, from 0 to 1, and `scores` [N, S] or [N, K, S].

    Raises:
        ValueError, TypeError: as `deletion`.
    """
    scoring, start, counts = _prepared(model, images, heatmaps, targets, step, baseline, softmax, batch_size)
    changed = _changing(scoring, start, scoring.images, counts[:-1])
    return _curve(scoring, counts, torch.cat((changed, scoring.original[:, None]), 1))


def gaussian_blur(images: Tensor, kernel_size: int = 11, sigma: float = 5.0) -> Tensor:
    """Images under a Gaussian of `kernel_size` x `kernel_size` pixels that sums to 1; the border's pixels are repeated.

    Args:
        images: [N, C, H, W] of floats.
        kernel_size: odd, in pixels.
        sigma: the Gaussian's standard deviation in pixels.

    Returns:
        [N, C, H, W], of the images' dtype and device.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, what it is and what is accepted.
    """
    checked_images(images)
    if checked_count("kernel_size", kernel_size) % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size}; accepted is an odd int")
    if not isinstance(sigma, int | float) or not sigma > 0:
        raise ValueError(f"sigma is {sigma!r}; accepted is a number above 0")
    n, channels, height, width = images.shape
    half = kernel_size // 2
    wide = torch.promote_types(images.dtype, torch.float32)
    places = torch.arange(-half, half + 1, device=images.device, dtype=wide)
    weights = torch.exp(-0.5 * (places / sigma) ** 2)
    weights = weights / weights.sum()
    maps = F.pad(images.to(wide).reshape(n * channels, 1, height, width), (half, half, half, half), "replicate")
    with torch.autocast(images.device.type, enabled=False):
        maps = F.conv2d(F.conv2d(maps, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
    return maps.reshape(images.shape).to(images.dtype)


def _prepared(
    model: Model,
    images: Any,
    heatmaps: Any,
    targets: Any,
    step: Any,
    baseline: Any,
    softmax: bool,
    batch_size: Any,
) -> tuple[Scoring, Tensor, Tensor]:
    """The scoring, the baseline, and how many pixels are changed at each point of the curve."""
    if step is not None:
        checked_count("step", step)
    ground = _baseline(baseline, checked_images(images).detach())
    scoring = Scoring(model, images, heatmaps, targets, softmax, batch_size)
    height, width = images.shape[2:]
    counts = [*range(0, height * width, width if step is None else step), height * width]
    return scoring, ground, torch.tensor(counts, device=images.device)


def _changing(scoring: Scoring, start: Tensor, end: Tensor, counts: Tensor) -> Tensor:
    """[P, len(counts)]: scores where so many pixels are already as in `end`."""
    order = ranks(scoring.heatmaps)

    def perturb(cases: Tensor, levels: Tensor) -> Tensor:
        changed = order[cases] < counts[levels][:, None, None]
        image = scoring.image_of(cases)
        before, after = (side if len(side) == 1 else side[image] for side in (start, end))
        return torch.where(changed[:, None], after, before)

    return scoring(len(counts), perturb)


def _curve(scoring: Scoring, counts: Tensor, scores: Tensor) -> Curve:
    return Curve((counts.double() / counts[-1]).to(scores.dtype), scoring.shaped(scores))


def _baseline(baseline: Any, images: Tensor) -> Tensor:
    """What broadcasts to the images: [N or 1, C or 1, H or 1, W or 1]."""
    accepted = '"zeros", "mean", "blur", a tensor that broadcasts to the images, or a callable that returns one'
    ground: Any
    if isinstance(baseline, str):
        if baseline not in ("zeros", "mean", "blur"):
            raise ValueError(f"baseline is {baseline!r}; accepted is {accepted}")
        if baseline == "zeros":
            ground = images.new_zeros(1)
        else:
            ground = gaussian_blur(images) if baseline == "blur" else images.mean((2, 3), keepdim=True)
    else:
        ground = baseline
        if callable(baseline):
            with torch.no_grad():
                ground = baseline(images)
        if not isinstance(ground, Tensor):
            came = type(ground).__name__
            raise TypeError(f"baseline {'returned' if callable(baseline) else 'is'} a {came}; accepted is {accepted}")
    try:
        ground = ground.detach().to(images)
        ground.expand(images.shape)
    except RuntimeError as error:
        raise ValueError(
            f"baseline has shape {tuple(ground.shape)}, which does not broadcast to images {tuple(images.shape)}"
        ) from error
    spread: Tensor = ground[(None,) * (4 - ground.ndim)]
    return spread
