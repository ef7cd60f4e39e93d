"""What is explained: from what a caller asks for to a score per image, [N], or per image and class, [N, K]."""

import operator
import reprlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .outputs import rows

__all__ = [
    "OutputColumns",
    "RowScores",
    "Score",
    "check_recorded",
    "check_without_callables",
    "chosen_classes",
    "class_indices",
    "forgiving",
    "in_rows",
    "mirrored",
    "score_function",
    "unexcused",
]

Score = Callable[[Any], Tensor]

ALL = "all"
"""As targets: every class of the model's output."""

_ACCEPTED = 'a class for all images, N classes, N equally long lists of classes, "all", a callable or N callables'


class OutputColumns:
    """The score of classes: an output's own columns, and nothing made of them.

    Args:
        classes: [N] or [N, K]; None is each image's first choice, "all" every class.
        n: N.
    """

    def __init__(self, classes: Tensor | str | None, n: int):
        self.classes, self.n = classes, n

    def __call__(self, output: Any) -> Tensor:
        rows = _classes(output, self.n)
        if self.classes is None:
            return rows.max(1).values
        return rows if isinstance(self.classes, str) else _select(rows, self.classes)

    def columns(self, output: Tensor) -> Tensor | None:
        """Which of an output [N, classes], [N] or [N, K], on its device; None is all of them."""
        if self.classes is None:
            return output.detach().max(1).indices
        return None if isinstance(self.classes, str) else self.classes.to(output.device)


def score_function(targets: Any, n: int) -> Score:
    """The function from the model's output to its score, [N] or [N, K], that `targets` means for N images.

    Raises:
        ValueError: a wrong count, lists of different lengths; when called: a class out of range, an output that is not
            [N, classes], a score of another shape.
        TypeError: neither classes nor callables.
    """
    if targets is None or _is_all(targets):
        return OutputColumns(targets, n)
    if callable(targets):
        return lambda output: _checked(targets(output), n)
    if isinstance(targets, list | tuple) and targets and all(callable(target) for target in targets):
        _check_count(len(targets), n)
        return lambda output: _checked(_of_each(targets, output), n)
    return OutputColumns(class_indices(targets, n), n)


def chosen_classes(targets: Any, output: Any, n: int) -> Tensor:
    """The classes that `targets` names for N images, [N] or [N, K] on the output's device; None names first choices,
    "all" every class.

    Raises:
        ValueError: a wrong count, a class out of range, an output that is not [N, classes].
        TypeError: callables, which name no class.
    """
    rows = _classes(output, n)
    if targets is None:
        return rows.detach().argmax(1)
    if _is_all(targets):
        return torch.arange(rows.shape[1], device=rows.device).expand(rows.shape)
    indices = class_indices(targets, n)
    _check_range(indices, rows.shape[1])
    return indices.to(rows.device)


def check_without_callables(targets: Any, why: str) -> None:
    """Refuses callables where classes are needed."""
    listed = targets if isinstance(targets, list | tuple) else [targets]
    if any(callable(one) for one in listed):
        raise TypeError(f"targets: a callable came; accepted are classes, {why}")


def unexcused(targets: Any, output: Any, places: list[list[int]]) -> list[list[int]]:
    """Those of `places`, (image,) or (image, class), whose score is not by its target's own word zero, for want of
    anything to score: a target says so by its method `absent`, from the output to bools [N] or [N, K]."""
    absent = getattr(targets, "absent", None)
    if absent is None or not places:
        return places
    nothing = absent(output)
    return [place for place in places if not nothing[tuple(place)]]


def forgiving(targets: Any) -> Any:
    """The same targets, with a score of 0 where they would refuse an output for want of anything to score: of a target
    with such a method."""
    method = getattr(targets, "forgiving", None)
    return targets if method is None else method()


def mirrored(targets: Any) -> Any:
    """The same targets for mirror images: of a target that scores a place, and so has such a method."""
    if isinstance(targets, list | tuple):
        return [mirrored(target) for target in targets]
    method = getattr(targets, "mirrored", None)
    return targets if method is None else method()


def in_rows(values: Tensor) -> Tensor:
    """[N] or [N, K] as [N, K], of no images too."""
    return values if values.ndim == 2 else values[:, None]


def class_indices(targets: Any, n: int) -> Tensor:
    """Classes as integers, [N] or [N, K], on the CPU.

    Raises:
        ValueError: a wrong count, lists of different lengths.
        TypeError: something else than classes.
    """
    if isinstance(targets, Tensor | np.ndarray | np.generic):
        targets = targets.tolist()
    if not isinstance(targets, Sequence) or isinstance(targets, str | bytes):
        return torch.full((n,), _index(targets), device="cpu")  # whatever the default device
    _check_count(len(targets), n)
    rows = [row.tolist() if isinstance(row, Tensor | np.ndarray | np.generic) else row for row in targets]
    nested = [isinstance(row, Sequence) and not isinstance(row, str | bytes) for row in rows]
    if not any(nested):
        return torch.tensor([_index(row) for row in rows], dtype=torch.int64, device="cpu")
    lengths = [len(row) if is_list else None for row, is_list in zip(rows, nested, strict=True)]
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise ValueError(
            f"targets: images have {lengths} classes; accepted is the same number, at least 1, for every image"
        )
    return torch.tensor([[_index(k) for k in row] for row in rows], dtype=torch.int64, device="cpu")


def _is_all(targets: Any) -> bool:
    return isinstance(targets, str) and targets == ALL


def _index(target: Any) -> int:
    if not isinstance(target, bool | np.bool_):
        try:
            index = operator.index(target)
        except TypeError:
            pass
        else:
            if not -(2**63) <= index < 2**63:
                raise ValueError(f"targets: class {reprlib.repr(index)} is out of range for any model")
            return index
    raise TypeError(f"targets: a class is given as {target!r}; accepted is an int. Targets are {_ACCEPTED}")


def _check_count(count: int, n: int) -> None:
    if count != n:
        hint = "; several classes of one image are [[k, l]]" if n == 1 else ""
        raise ValueError(f"targets: {count} came for {n} images; accepted is one, or one list, per image{hint}")


def _classes(output: Any, n: int) -> Tensor:
    """The model's output, which is [N, classes]."""
    if isinstance(output, Tensor) and output.ndim == 2 and output.shape[0] == n and output.is_floating_point():
        return output
    came = f"{output.dtype} of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise ValueError(
        f"targets: classes need an output [N, classes] of floats with N = {n}, the model returned {came}; "
        "pass a callable from the output to a score [N] or [N, K]"
    )


def _select(output: Tensor, indices: Tensor) -> Tensor:
    _check_range(indices, output.shape[1])
    columns = indices.to(output.device)
    return output.gather(1, columns if columns.ndim == 2 else columns[:, None]).reshape(columns.shape)


def _check_range(indices: Tensor, classes: int) -> None:
    wrong = indices[(indices < 0) | (indices >= classes)]
    if wrong.numel():
        raise ValueError(f"targets: class {int(wrong[0])} is out of range; the model has classes 0 to {classes - 1}")


def _of_each(targets: Sequence[Callable[[Any], Tensor]], output: Any) -> Tensor:
    """[N] or [N, K] from one callable per image, which sees what the model returned for that image."""
    try:
        images = [output[i] for i in range(len(targets))]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"targets: a list of callables needs an output whose [i] is image i's, the model returned "
            f"{type(output).__name__}; pass one callable from the whole output to a score [N] or [N, K]"
        ) from error
    scores = [target(image) for target, image in zip(targets, images, strict=True)]
    for score in scores:
        if not isinstance(score, Tensor):
            raise TypeError(f"targets: a callable returned {type(score).__name__}; accepted is a tensor")
        if score.ndim > 1 or score.shape != scores[0].shape:
            shapes = [tuple(score.shape) for score in scores]
            raise ValueError(f"targets: the callables' scores have shapes {shapes}; accepted is () or (K,) of all")
    check_recorded([score.requires_grad for score in scores])
    return torch.stack(scores)


def check_recorded(recorded: Sequence[bool]) -> None:
    """Refuses to stack images' scores of which some are recorded: the others' gradients would be zeros."""
    if any(recorded) and not all(recorded):
        raise ValueError(
            f"targets: the score of image {recorded.index(False)} does not depend on the model's output, as far as "
            "autograd can see"
        )


def _checked(score: Any, n: int) -> Tensor:
    if not isinstance(score, Tensor):
        raise TypeError(f"targets: the score is a {type(score).__name__}; accepted is a tensor [N] or [N, K]")
    if score.ndim not in (1, 2) or score.shape[0] != n or (n > 0 and score.shape[-1] == 0):
        raise ValueError(f"targets: the score has shape {tuple(score.shape)}; accepted is [N] or [N, K] with N = {n}")
    if not score.is_floating_point():
        raise TypeError(f"targets: dtype of the score is {score.dtype}; accepted is a floating-point dtype")
    return score


class RowScores:
    """Scores of batches that hold images many times over: M times N rows, whose row m N + n is of image n.

    Args:
        targets: whose scores, as `score_function` takes them for N images; None means each image's first choice in
            `output`.
        output: the model's, for the N images themselves.
        n: N.
    """

    def __init__(self, targets: Any, output: Any, n: int):
        self.n, self._targets = n, targets
        self.by_class = targets is None or not (
            callable(targets) or (isinstance(targets, list | tuple) and bool(targets) and all(map(callable, targets)))
        )
        """Whether each row's score is its own affair; else `targets` see the rows of all N images at once."""
        if self.by_class:
            of_images = _classes(output, n)
            self._columns = chosen_classes(targets, of_images, n)
        else:
            self._score = score_function(targets, n)

    def __call__(self, output: Any, count: int, image: int | None = None) -> Tensor:
        """[M, N] or [M, N, K] of so many rows, in float32 or float64; with `image` they are all of that image, and N
        is 1."""
        if not self.by_class:
            parts = [self._score(rows(output, start, self.n, count)) for start in range(0, count, self.n)]
            return _wide(torch.stack(parts))
        columns = self._columns if image is None else self._columns[image : image + 1]
        n = len(columns)
        found = _classes(output, count).gather(1, in_rows(columns).repeat(count // n, 1))
        return _wide(found).reshape(-1, *columns.shape)


def _wide(scores: Tensor) -> Tensor:
    return scores if scores.dtype == torch.float64 else scores.float()
