"""Segmentation: a class's scores over a region of pixels."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..targets import check_without_callables, chosen_classes, in_rows
from .reading import Finding, Found, Missing, check_option, scored_tensor, wide

__all__ = ["SegmentationScore"]


@dataclass(frozen=True, eq=False)
class SegmentationScore(Finding):
    """A class's scores over a region: sum over pixels p in M of s_c(p) (Vinogradova et al. 2020, Seg-Grad-CAM,
    https://arxiv.org/abs/2002.11434), of an output [N, classes, H, W], or of signals and volumes [N, classes, ...].

    A mask of numbers weighs the pixels. Without one the region is what the model itself takes for the class: the pixels
    where its score is the largest, or above 0 where there is one class only. That region is found anew in each output:
    for methods that mask or change images, and for measures, give a mask.

    Args:
        targets: the class, an int, [N] or [N, K].
        mask: [H, W] for all images or [N, H, W], of bools or non-negative numbers, a tensor or an array, on the grid of
            the model's output; None: the predicted region.
        reduction: "sum", or "mean": divided by the region's size, the sum of the mask.
        missing: an image without a pixel of the region is an error ("raise"), or its score is 0 ("zero").

    Raises:
        ValueError, TypeError: naming the argument that does not fit; when called, also a class out of range, a mask of
            another shape than the output, and an empty region, naming the image.
    """

    targets: Any
    mask: Any = None
    reduction: Literal["sum", "mean"] = "sum"
    missing: Missing = "raise"

    def __post_init__(self) -> None:
        check_without_callables(self.targets, "which alone have scores")
        if self.targets is None:
            raise TypeError("targets is None; accepted is a class, an int, [N] or [N, K]")
        check_option("reduction", self.reduction, ("sum", "mean"))
        self._check_missing()
        if self.mask is None:
            return
        if not isinstance(self.mask, Tensor | np.ndarray):
            raise TypeError(f"mask is of type {type(self.mask).__name__}; accepted is a tensor or an array")
        weights = torch.as_tensor(self.mask)
        if weights.is_complex():
            raise TypeError(f"mask has dtype {weights.dtype}; accepted are bools and real numbers")
        if not bool((weights.isfinite() & (weights >= 0)).all()):
            raise ValueError(
                "mask has negative numbers, infinities or NaN; accepted are bools and non-negative numbers"
            )

    def mirrored(self) -> "SegmentationScore":
        """For mirror images: with the mask's, where there is one."""
        return self if self.mask is None else replace(self, mask=torch.as_tensor(self.mask).flip(-1))

    def _search(self, output: Any) -> Found:
        maps = wide(scored_tensor(output, "[N, classes, H, W]", (3, 4, 5), ("out", "logits")))
        if not maps[0:1].numel() and len(maps):
            raise ValueError(
                f"targets: the model returned {list(maps.shape)}; accepted is at least a class and a pixel"
            )
        classes = chosen_classes(self.targets, maps.flatten(2)[..., 0], len(maps))
        rows = in_rows(classes)
        grid = maps.shape[2:]
        places = rows.reshape(*rows.shape, *(1 for _ in grid)).expand(*rows.shape, *grid)
        scores = maps.gather(1, places)
        region = self._region(maps.detach(), scores.detach(), rows).expand_as(scores)
        size = region.flatten(2).sum(2)
        # Outside the region a score may be infinite, and infinity times 0 is NaN.
        total = torch.where(region > 0, scores * region, 0).flatten(2).sum(2)
        if self.reduction == "mean":
            total = total / size.where(size > 0, 1)
        absent = size == 0
        return Found(total.reshape(classes.shape), absent.reshape(classes.shape), self._message(absent, rows))

    def _region(self, maps: Tensor, scores: Tensor, rows: Tensor) -> Tensor:
        """The pixels' weights, which broadcast to [N, K, H, W]."""
        if self.mask is None:
            if maps.shape[1] == 1:
                return (scores > 0).to(maps.dtype)
            first = maps.argmax(1, keepdim=True)
            return (first == rows.reshape(*rows.shape, *(1,) * (maps.ndim - 2))).to(maps.dtype)
        n, grid = len(maps), tuple(maps.shape[2:])
        mask = torch.as_tensor(self.mask).to(maps.device, maps.dtype)
        if tuple(mask.shape) == grid:
            return mask
        if tuple(mask.shape) == (n, *grid):
            return mask[:, None]
        raise ValueError(f"mask has shape {tuple(mask.shape)}; accepted is {grid} or {(n, *grid)}, as the output's")

    def _message(self, absent: Tensor, rows: Tensor) -> str | None:
        if not bool(absent.any()):
            return None
        image, column = (int(index) for index in absent.nonzero()[0])
        if self.mask is not None:
            return f'mask has no pixel of image {image}; accepted is at least one, or missing="zero"'
        return (
            f"targets: the model takes no pixel of image {image} for class {int(rows[image, column])}; accepted are "
            'classes that it finds, a mask, or missing="zero"'
        )
