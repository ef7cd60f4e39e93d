"""What targets of every task share: finding the tensor that they score, checking options, having found nothing."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from ..outputs import describe

__all__ = ["Finding", "Found", "Missing", "check_flag", "check_option", "part_of", "scored_tensor", "wide"]

Missing = Literal["raise", "zero"]


class Found(NamedTuple):
    """What a search in a batch's output brought."""

    scores: Tensor
    """[N] or [N, K], 0 where nothing was found."""
    absent: Tensor
    """bools of that shape: where nothing was found."""
    message: str | None
    """Why that is refused, if it is not to count as 0; None if all was found."""


class Finding:
    """A target that may find nothing in an image, which is an error unless `missing` says that it counts as 0."""

    missing: Missing

    def _search(self, output: Any) -> Found:
        raise NotImplementedError

    def __call__(self, output: Any) -> Tensor:
        """Scores [N] or [N, K] of what the model returned."""
        found = self._search(output)
        if found.message is not None and self.missing == "raise":
            raise ValueError(found.message)
        return found.scores

    def absent(self, output: Any) -> Tensor:
        """Where the score is 0 since nothing was found, bools [N] or [N, K]: a map of zeros is the truth there."""
        return self._search(output).absent

    def forgiving(self) -> Self:
        """The same with missing="zero"."""
        other = copy.copy(self)
        object.__setattr__(other, "missing", "zero")  # past the frozen dataclass's setter
        return other

    def _check_missing(self) -> None:
        check_option("missing", self.missing, ("raise", "zero"))


def check_option(name: str, value: Any, accepted: Sequence[str | None]) -> None:
    """Refuses what is not one of the `accepted` values."""
    if not (value is None or isinstance(value, str)) or value not in accepted:
        shown = ", ".join("None" if one is None else f'"{one}"' for one in accepted)
        raise ValueError(f"{name} is {value!r}; accepted: {shown}")


def check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; accepted is a bool")


_NOTHING = object()


def part_of(output: Any, name: str | int) -> Any:
    """The item or attribute of an output; a name is looked for among a mapping's items first.

    Raises:
        ValueError: there is none, with what there is.
    """
    found = _part_of(output, name)
    if found is _NOTHING:
        there = f" with {', '.join(map(repr, output))}" if isinstance(output, Mapping) else ""
        raise ValueError(f"part {name!r} is not in the model's output, {describe(output)}{there}")
    return found


def _part_of(output: Any, name: str | int) -> Any:
    if isinstance(output, Mapping):
        if name in output:
            return output[name]
    elif isinstance(name, int):
        if isinstance(output, list | tuple) and -len(output) <= name < len(output):
            return output[name]
        return _NOTHING
    return _NOTHING if isinstance(name, int) else getattr(output, name, _NOTHING)


def scored_tensor(output: Any, shape: str, ndim: Sequence[int], names: Sequence[str] = ()) -> Tensor:
    """The tensor of floats that is scored: the output itself or, where that is none, the first of its parts `names`.

    Args:
        shape: of the tensor, as the error message has it.
        ndim: the numbers of dimensions that it may have.
    """
    found = output
    if not isinstance(output, Tensor):
        parts = [part for name in names if (part := _part_of(output, name)) is not _NOTHING]
        found = parts[0] if parts else output
    if isinstance(found, Tensor) and found.ndim in ndim and found.is_floating_point():
        return found
    inside = f", or an output with {' or '.join(map(repr, names))} of that shape" if names else ""
    raise ValueError(
        f"targets: the model returned {describe(found)}; accepted is {shape} of floats{inside}; for another part of "
        "the output there is PartScore"
    )


def wide(tensor: Tensor) -> Tensor:
    """In float32 at least: a half type's sum over pixels or classes would overflow."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
