"""Frames explained at once: what their targets mean together, and which of them it was where that fails."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .copies import repeated_targets
from .outputs import rows
from .targets import class_indices, score_function

__all__ = ["NOTHING", "Explained", "explained_apart", "for_batch", "joined"]


class Explained(NamedTuple):
    """The first frames of a batch, or all."""

    heats: list[Tensor]
    outputs: list[Any] | None
    """The model's, [1, ...] each, where they are wanted."""
    failure: Exception | None
    """What was raised by the frame after them."""


NOTHING = Explained([], None, None)


def explained_apart(at_once: Callable[[Tensor, Any], Explained], x: Tensor, own: Any) -> Explained:
    """The frames x, with targets of their own if there are any, at once; where that fails, one by one, since the batch
    does not tell which of them it was."""
    n, version = len(x), _version(x)
    try:
        return at_once(x, own)
    except Exception as error:
        if n == 1 or _version(x) != version:  # the latter is no longer what came
            return NOTHING._replace(failure=error)
        every: list[Explained] = []
        try:
            for i in range(n):
                every.append(at_once(x[i : i + 1], own[i : i + 1]))
        except Exception as one:
            heats = [heat for each in every for heat in each.heats]
            outputs = [output for each in every for output in each.outputs or ()]
            return Explained(heats, outputs or None, one)
        return NOTHING._replace(failure=error)  # which is of the batch alone


def _version(x: Tensor) -> int:
    """By which writes to it show. Of tensors made in inference mode the model gets copies."""
    return 0 if x.is_inference() else x._version


def for_batch(targets: Any, n: int) -> Any:
    """What `targets` means for one image, for n."""
    return targets if targets is None or n == 1 else repeated_targets(targets, 1, n)


def joined(each: list[Any]) -> Any:
    """What each of them means for one image, for all."""
    n = len(each)
    if n == 1 or all(one is None for one in each):
        return each[0]
    try:
        classes = [class_indices(one, 1) for one in each]
    except TypeError:  # callables, or None
        scores = [score_function(one, 1) for one in each]
        return lambda output: torch.cat([score(rows(output, i, 1, n)) for i, score in enumerate(scores)])
    if len({one.shape for one in classes}) > 1:
        shapes = [list(one.shape[1:]) for one in classes]
        raise ValueError(f"targets_of: frames of a batch have classes {shapes}; accepted is the same number for each")
    return torch.cat(classes)
