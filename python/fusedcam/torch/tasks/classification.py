"""Classification: scores of classes before and after the softmax, a class over another, a classifier of one score."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..targets import check_without_callables, chosen_classes, in_rows
from .reading import check_option, scored_tensor, wide

__all__ = ["BinaryScore", "ClassScore", "MarginScore"]

_WHY = "which alone have scores"


@dataclass(frozen=True, eq=False)
class ClassScore:
    """A class's score, of an output [N, classes] before the softmax.

    With s_c the class's score: "raw" is s_c; "log_softmax" is log p_c = s_c - log sum_d exp(s_d), over all classes d;
    "log_odds" is log(p_c / (1 - p_c)) = s_c - log sum_{d != c} exp(s_d). Where the model is sure of the class, the
    gradient of log p_c vanishes, that of the other two does not.

    Args:
        targets: the class, as in a call of an explainer: None for each image's first choice, an int, [N] or [N, K].
        form: "raw", "log_softmax" or "log_odds".

    Raises:
        ValueError, TypeError: naming the argument that does not fit; when called, also a class out of range, and
            "log_odds" of a model of one class.
    """

    targets: Any = None
    form: Literal["raw", "log_softmax", "log_odds"] = "raw"

    def __post_init__(self) -> None:
        check_without_callables(self.targets, _WHY)
        check_option("form", self.form, ("raw", "log_softmax", "log_odds"))

    def __call__(self, output: Any) -> Tensor:
        """Scores [N] or [N, K] of an output [N, classes], or of its part "logits"."""
        scores = scored_tensor(output, "[N, classes]", (2,), ("logits",))
        classes = chosen_classes(self.targets, scores, len(scores))
        rows = in_rows(classes)
        if self.form != "raw":
            scores = wide(scores)
        found = scores.gather(1, rows)
        if self.form == "log_softmax":
            found = found - scores.logsumexp(1, keepdim=True)
        elif self.form == "log_odds":
            found = found - _others(scores, rows, 'form is "log_odds"').logsumexp(2)
        return found.reshape(classes.shape)


@dataclass(frozen=True, eq=False)
class MarginScore:
    """A class's score over that of another, s_c - s_d = log(p_c / p_d), of an output [N, classes] before the softmax:
    why this class and not that one. `FinerScore` compares with a mean of several.

    Args:
        targets: the class c, as in a call of an explainer: None for each image's first choice, an int, [N] or [N, K].
        versus: the class d, given in the same way, where [N, K] and one class c are K comparisons. None: the largest
            of the other scores.

    Raises:
        ValueError, TypeError: naming the argument that does not fit; when called, also a class out of range or compared
            with itself, and a model of one class.
    """

    targets: Any = None
    versus: Any = None

    def __post_init__(self) -> None:
        check_without_callables(self.targets, _WHY)
        try:
            check_without_callables(self.versus, _WHY)
        except TypeError as error:
            raise _renamed(error) from None

    def __call__(self, output: Any) -> Tensor:
        """Scores [N] or [N, K] of an output [N, classes], or of its part "logits"."""
        scores = scored_tensor(output, "[N, classes]", (2,), ("logits",))
        n = len(scores)
        classes = chosen_classes(self.targets, scores, n)
        rows = in_rows(classes)
        if self.versus is None:
            margins = scores.gather(1, rows) - _others(scores, rows, "versus is None").amax(2)
            return margins.reshape(classes.shape)
        try:
            others = chosen_classes(self.versus, scores, n)
        except (ValueError, TypeError) as error:
            raise _renamed(error) from None
        against = in_rows(others)
        if rows.shape[1] != against.shape[1] and 1 not in (rows.shape[1], against.shape[1]):
            raise ValueError(
                f"versus has {against.shape[1]} classes an image for targets of {rows.shape[1]}; accepted are as many, "
                "or one"
            )
        shape = n, max(rows.shape[1], against.shape[1])
        rows, against = rows.expand(shape), against.expand(shape)
        same = rows[rows == against]
        if same.numel():
            raise ValueError(f"versus: class {int(same[0])} would be compared with itself; accepted is another class")
        margins = scores.gather(1, rows) - scores.gather(1, against)
        return margins if classes.ndim == 2 or others.ndim == 2 else margins[:, 0]


@dataclass(frozen=True, eq=False)
class BinaryScore:
    """The one score of a classifier of two classes, before the sigmoid, [N] or [N, 1]: for class 1 as it is, for class
    0 its negative, which is log(p / (1 - p)) of either class.

    Args:
        targets: 0 or 1, as in a call of an explainer: None for each image's first choice (1 where the score is above
            0), an int, [N] or [N, K].

    Raises:
        ValueError, TypeError: naming the argument that does not fit; when called, also a class other than 0 and 1.
    """

    targets: Any = None

    def __post_init__(self) -> None:
        check_without_callables(self.targets, _WHY)

    def __call__(self, output: Any) -> Tensor:
        """Scores [N] or [N, K] of an output [N] or [N, 1], or of its part "logits"."""
        score = scored_tensor(output, "[N] or [N, 1]", (1, 2), ("logits",))
        if score.ndim == 2 and score.shape[1] != 1:
            raise ValueError(
                f"targets: the model returned {list(score.shape)}; accepted is [N] or [N, 1]; of several classes there "
                "are ClassScore and MarginScore"
            )
        score = in_rows(score)
        pair = torch.cat([-score, score], 1)
        classes = chosen_classes(self.targets, pair, len(score))
        return pair.gather(1, in_rows(classes)).reshape(classes.shape)


def _others(scores: Tensor, rows: Tensor, why: str) -> Tensor:
    """[N, K, classes]: the scores with -inf for the class of [N, K]."""
    if scores.shape[1] < 2:
        raise ValueError(f"{why}, but the model has one class, which has no other to be compared with")
    every = scores[:, None].expand(-1, rows.shape[1], -1)
    return every.scatter(2, rows[..., None], -torch.inf)


def _renamed(error: Exception) -> Exception:
    """What was said of targets, of versus."""
    return type(error)(str(error).replace("targets:", "versus:", 1))
