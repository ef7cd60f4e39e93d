"""Frames explained at once: what their targets mean together, and which of them it was where that fails."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .copies import repeated_targets
from .outputs import rows
from .targets import class_indices, score_function

__all__ = ["Explained", "explained_apart", "for_batch", "joined"]


class Explained(NamedTuple):
    """What is known of the first frames of a batch, or of all."""

    heats: list[Tensor]
    outputs: list[Any]
    """The model's, [1, ...] each, where they are wanted."""


def explained_apart(
    at_once: Callable[[Tensor, Any, Explained], None], x: Tensor, own: list[Any], found: Explained
) -> None:
    """The frames x, with targets of their own if there are any, at once; where that fails, one by one, since the batch
    does not tell which of them it was. `found` gets those before it."""
    version = _version(x)
    try:
        at_once(x, own, found)
    except Exception:
        if len(x) == 1 or _version(x) != version:  # the latter is no longer what came
            raise
        each = Explained([], [])
        try:
            for i in range(len(x)):
                at_once(x[i : i + 1], own[i : i + 1], each)
        except Exception:
            found.heats.extend(each.heats)
            found.outputs.extend(each.outputs)
            raise
        raise  # which is of the batch alone


def _version(x: Tensor) -> int:
    """By which writes to it show. Of tensors made in inference mode the model gets copies."""
    return 0 if x.is_inference() else x._version


def for_batch(targets: Any, n: int) -> Any:
    """What `targets` means for one image, for n."""
    return targets if targets is None or n == 1 else repeated_targets(targets, 1, [False] * n)


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
