"""Finer-CAM: what sets a class apart from those that it is most easily taken for."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .explainer import Explainer, Finish, Run
from .forms import Layout
from .methods import explainer_of
from .targets import check_without_callables, chosen_classes, in_rows

__all__ = ["FinerCAM", "FinerScore"]


@dataclass(frozen=True, eq=False)
class FinerScore:
    """A class's score over those of similar classes: the `targets` of any explainer.

    s_c - alpha * mean_d(s_d), over the classes d similar to c (Zhang et al. 2025, https://arxiv.org/abs/2501.11309, the
    comparison y^c - gamma y^d, averaged over references). With weighting="probability" the mean is weighted by the
    softmax of the similar classes' scores, as the authors' code and pytorch-grad-cam have it (which add 1e-9 to the sum
    of weights); torch-cam has the plain mean.

    Args:
        targets: the class explained, as in a call of an explainer: None, an int, [N] or [N, K].
        similar: how many classes are compared, those whose scores come closest to the class's own, at most all others;
            or the classes themselves, the same for all images.
        alpha: the strength of the comparison, 0 for none; the paper's gamma.
        weighting: "mean" or "probability".

    Raises:
        ValueError, TypeError: naming the argument that does not fit; when called, also a class compared with itself and
            a model of one class.
    """

    targets: Any = None
    similar: int | Sequence[int] = 3
    alpha: float = 0.6
    weighting: Literal["mean", "probability"] = "mean"

    def __post_init__(self) -> None:
        check_without_callables(self.targets, "which alone can be compared with others")
        if isinstance(self.similar, str | bytes | bool):
            raise TypeError(f"similar is {self.similar!r}; accepted is how many classes, or a list of them")
        count = self._count
        if count is not None and count < 1:
            raise ValueError(f"similar is {count}; accepted is 1 or more")
        if count is None and not [operator.index(one) for one in self._classes]:
            raise ValueError("similar is an empty list; accepted is at least one class")
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float):
            raise TypeError(f"alpha is of type {type(self.alpha).__name__}; accepted is a number")
        if not math.isfinite(self.alpha):
            raise ValueError(f"alpha is {self.alpha}; accepted is a finite number")
        if self.weighting not in ("mean", "probability"):
            raise ValueError(f'weighting is {self.weighting!r}; accepted: "mean", "probability"')

    def __call__(self, output: Any) -> Tensor:
        """Scores [N], or [N, K] for K classes an image, of an output [N, classes]."""
        n = len(output) if isinstance(output, Tensor) and output.ndim else -1
        classes = chosen_classes(self.targets, output, n)
        rows = in_rows(classes)
        others = self._others(output.detach(), rows)  # [N, K, T]
        scores = output.gather(1, others.flatten(1)).reshape(others.shape)
        compared = scores.mean(-1)
        if self.weighting == "probability":
            compared = (scores.softmax(-1) * scores).sum(-1)
        ahead: Tensor = output.gather(1, rows) - self.alpha * compared
        return ahead.reshape(classes.shape)

    def _others(self, scores: Tensor, rows: Tensor) -> Tensor:
        """The classes that each of [N, K] is compared with, [N, K, T]."""
        count = self._count
        if count is not None:
            if scores.shape[1] < 2:
                raise ValueError("similar: the model has one class, which has no other to be compared with")
            gaps = (scores[:, None] - scores.gather(1, rows)[..., None]).abs()
            gaps = gaps.scatter(2, rows[..., None], torch.inf)
            return gaps.topk(min(count, scores.shape[1] - 1), largest=False).indices
        classes = torch.tensor(self._classes, device=rows.device)
        wrong = classes[(classes < 0) | (classes >= scores.shape[1])]
        if wrong.numel():
            raise ValueError(f"similar: class {int(wrong[0])} is out of range; 0 to {scores.shape[1] - 1} are accepted")
        same = rows[(rows[..., None] == classes).any(-1)]
        if same.numel():
            raise ValueError(f"similar: class {int(same[0])} is explained itself; accepted are classes other than that")
        return classes.expand(*rows.shape, -1)

    @property
    def _count(self) -> int | None:
        """How many classes, unless they are listed."""
        try:
            return operator.index(self.similar)  # type: ignore[arg-type]
        except TypeError:
            return None

    @property
    def _classes(self) -> list[int]:
        if not hasattr(self.similar, "__iter__"):
            raise TypeError(
                f"similar is of type {type(self.similar).__name__}; accepted is an int or a list of classes"
            )
        return [operator.index(one) for one in self.similar]


class FinerCAM(Explainer):
    """Explains by Finer-CAM (Zhang et al. 2025, https://arxiv.org/abs/2501.11309) what sets a class apart from those
    most similar to it: another method's map of `FinerScore` in place of the class's score.

    Args:
        model, target_layer: as in `GradCAM`.
        method: whose map it is, a name in `fusedcam.METHODS`.
        similar, alpha, weighting: as in `FinerScore`.
        call, eval, spatial, layout, tokens, shortcut: as in `GradCAM`.

    Raises:
        ValueError, TypeError: as `GradCAM` and `FinerScore`; a call refuses callables as targets.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | None = None,
        *,
        method: str = "gradcam",
        similar: int | Sequence[int] = 3,
        alpha: float = 0.6,
        weighting: Literal["mean", "probability"] = "mean",
        call: int = -1,
        eval: bool = False,
        spatial: int = 2,
        layout: Layout = "first",
        tokens: tuple[int, int] | None = None,
        shortcut: bool = True,
    ):
        own: dict[str, Any] = {"call": call, "eval": eval, "spatial": spatial, "layout": layout, "tokens": tokens}
        super().__init__(model, target_layer, **own, shortcut=shortcut)
        self._score = FinerScore(None, similar, alpha, weighting)
        self._base = explainer_of(method)(model, target_layer, **own, shortcut=shortcut)

    def _explain(self, run: Run, finish: Finish) -> Tensor:
        score = FinerScore(run.targets, self._score.similar, self._score.alpha, self._score.weighting)
        return self._base._explain(run._replace(targets=score), finish)

    def _of_last_call(self, name: str) -> Any:
        return self._base._of_last_call(name)
