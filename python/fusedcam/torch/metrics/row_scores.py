"""Which score of each row of the model's output is in question, while rows are images in any state and order."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..outputs import are_probabilities
from ..state import warn
from ..targets import class_indices, score_function

__all__ = ["RowScores"]


class RowScores:
    """The scores that `targets` means, for rows that each stand for a case: an image and one of its K classes.

    Cases are counted image by image. With targets=None the classes that come first when a case is first seen stay in
    question however its image changes; the first calls have to bring all cases in order, as they are.
    """

    def __init__(self, targets: Any, shape: tuple[int, ...], softmax: bool):
        """shape: (N,) for heatmaps [N, H, W], (N, K) for [N, K, H, W]."""
        n, self._per_image = shape[0], shape[1] if len(shape) == 2 else 1
        self._targets, self._shape, self._softmax = targets, shape, softmax
        self.by_first_choice = targets is None
        score_function(targets, n)  # refuses what explainers refuse
        self._callable = callable(targets) or (
            isinstance(targets, list | tuple) and len(targets) > 0 and all(map(callable, targets))
        )
        self._classes: list[int] = []  # of each case
        self._seen = False
        if self.by_first_choice and len(shape) == 2:
            raise ValueError(
                f"heatmaps has {self._per_image} maps per image and targets is None; accepted are targets [N, K]"
            )
        self._every = isinstance(targets, str)
        if self._every:
            if len(shape) != 2:
                raise ValueError('heatmaps has one map per image and targets is "all"; accepted are [N, K, H, W]')
            self._classes = [*range(self._per_image)] * n
        elif not self.by_first_choice and not self._callable:
            indices = class_indices(targets, n)
            if n and tuple(indices.shape) != shape:  # of no images the number of classes is not known
                self._refuse(tuple(indices.shape))
            self._classes = indices.flatten().tolist()

    def __call__(self, output: Any, cases: Sequence[int]) -> Tensor:
        """[M]: the score of each case, from the row of the model's output that stands for it."""
        count = len(cases)
        if self._callable:
            return self._of_callables(output, cases)
        if isinstance(output, Tensor) and output.ndim == 2 and output.is_floating_point():
            if self._every and output.shape[1] != self._per_image:
                self._refuse((self._shape[0], output.shape[1]))
            output = self._confidences(output)
        if self.by_first_choice and cases[-1] >= len(self._classes):
            score_function(None, count)(output)  # refuses what is not [M, classes]
            self._classes += output.max(1).indices.tolist()
        return score_function([self._classes[case] for case in cases], count)(output)

    def _confidences(self, output: Tensor) -> Tensor:
        """After the softmax, where that is asked for; half types in float32."""
        half = output.dtype in (torch.float16, torch.bfloat16)
        if not self._softmax:
            return output.float() if half else output
        if output.shape[1] == 1:
            raise ValueError("softmax is True for a model of one class, whose share is always 1; accepted is False")
        if not self._seen and len(output):
            self._seen = True
            if are_probabilities(output):
                warn("the rows of the model's output sum to 1, as after a softmax; pass softmax=False")
        return output.softmax(1, dtype=torch.float32 if half else None)

    def _of_callables(self, output: Any, cases: Sequence[int]) -> Tensor:
        targets = self._targets
        if not callable(targets):
            targets = [targets[case // self._per_image] for case in cases]
        scores = score_function(targets, len(cases))(output)
        if scores.shape[1:] != self._shape[1:]:
            self._refuse((self._shape[0], *scores.shape[1:]))
        if scores.ndim == 1:
            return scores
        columns = torch.tensor([case % self._per_image for case in cases], device=scores.device)
        return scores.gather(1, columns[:, None])[:, 0]

    def _refuse(self, came: tuple[int, ...]) -> None:
        raise ValueError(
            f"heatmaps has one map for each of {self._shape} and targets one score for each of {came}; accepted are "
            "heatmaps [N, H, W] for N scores or [N, K, H, W] for [N, K]"
        )
