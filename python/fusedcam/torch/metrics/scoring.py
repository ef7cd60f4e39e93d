"""Scores of perturbed images: what the measures that run a model share."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..state import warn
from .checks import checked_count, checked_heatmaps, checked_images
from .row_scores import RowScores

__all__ = ["Curve", "Model", "Scoring", "ranks"]

Model = Callable[[Tensor], Any]
"""Images [N, C, H, W] in; scores [N, classes] out where targets are classes."""


class Curve(NamedTuple):
    """Scores while images change."""

    fractions: Tensor
    """[S]: the changed part of the pixels, ascending."""
    scores: Tensor
    """[N, S] or [N, K, S]."""

    @property
    def area(self) -> Tensor:
        """[N] or [N, K]: under the curve, by the trapezoidal rule over `fractions`."""
        return torch.trapezoid(self.scores, self.fractions)

    @property
    def mean(self) -> Tensor:
        """[N] or [N, K]: over the fractions, each counted once."""
        return self.scores.mean(-1)


class Scoring:
    """A model, images and the scores in question. A case is an image and one of its K classes; there are P = N * K.

    What can be checked without the model's output is checked when it is made; the model runs when scores are asked for.
    """

    def __init__(self, model: Model, images: Any, heatmaps: Any, targets: Any, softmax: bool, batch_size: Any):
        if not callable(model):
            raise TypeError(f"model is of type {type(model).__name__}; accepted is a callable that takes images")
        if not isinstance(softmax, bool):
            raise TypeError(f"softmax is {softmax!r}; accepted is a bool")
        self._batch_size = checked_count("batch_size", batch_size)
        self.images = checked_images(images).detach()
        heatmaps = checked_heatmaps(heatmaps, images).detach()
        self._shape: tuple[int, ...] = tuple(heatmaps.shape[:-2])
        self.heatmaps = heatmaps.reshape(-1, *heatmaps.shape[-2:])
        """[P, H, W]"""
        self._row_scores = RowScores(targets, self._shape, softmax)
        self._model = model
        if isinstance(model, nn.Module) and any(module.training for module in model.modules()):
            warn(
                "the model is in training mode: batch statistics mix the scores of a batch's images and dropout is at "
                "work; call model.eval()"
            )

    @cached_property
    def original(self) -> Tensor:
        """[P]: the scores of the images as they are."""
        return self._scores(1, lambda cases, levels: self.images[self.image_of(cases)])[:, 0]

    def __call__(self, levels: int, perturb: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The scores [P, levels] of every case at every level, in batches across both.

        Args:
            levels: how many; counted from 0.
            perturb: from cases [M] and levels [M], integers, to what the model is to see, [M, C, H, W].
        """
        if self._row_scores.by_first_choice:
            _ = self.original  # which says what the classes are
        return self._scores(levels, perturb)

    def _scores(self, levels: int, perturb: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        rows = len(self.heatmaps) * levels
        scores = []
        with torch.no_grad():
            for start in range(0, rows, self._batch_size):
                stop = min(start + self._batch_size, rows)
                row = torch.arange(start, stop, device=self.images.device)
                output = self._model(perturb(row // levels, row % levels))
                scores.append(self._row_scores(output, [at // levels for at in range(start, stop)]))
            found = torch.cat(scores) if scores else self.images.new_empty(0)
        return found.reshape(-1, levels)

    def image_of(self, cases: Tensor) -> Tensor:
        """[M]: the number of the image of each case."""
        return cases * len(self.images) // max(1, len(self.heatmaps))

    def shaped(self, results: Tensor) -> Tensor:
        """[P, ...] as [N, ...] or [N, K, ...]."""
        return results.reshape(*self._shape, *results.shape[1:])


def ranks(heatmaps: Tensor) -> Tensor:
    """[P, H, W]: 0 for the highest value. Of equal ones the first in rows from the top left has the lower rank."""
    values = heatmaps.flatten(1)
    order = values.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).reshape(heatmaps.shape)
