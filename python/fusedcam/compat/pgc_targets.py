"""pytorch-grad-cam's targets: callables from one image's output to a score. What a batch's targets are summed to."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "BinaryClassifierOutputTarget",
    "ClassifierOutputReST",
    "ClassifierOutputSoftmaxTarget",
    "ClassifierOutputTarget",
    "FasterRCNNBoxScoreTarget",
    "FinerWeightedTarget",
    "RawScoresOutputTarget",
    "SemanticSegmentationTarget",
    "SoftmaxOutputTarget",
    "as_list",
    "check_count",
    "finer_targets",
    "loss",
]

Target = Callable[[Any], Any]


class ClassifierOutputTarget:
    """A class's score, of an output [classes] or [N, classes]."""

    def __init__(self, category: int):
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output[..., self.category]


class ClassifierOutputSoftmaxTarget(ClassifierOutputTarget):
    """A class's probability."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return torch.softmax(model_output, -1)[..., self.category]


class ClassifierOutputReST(ClassifierOutputTarget):
    """A class's score and the logarithm of its probability (Cai 2025, https://arxiv.org/abs/2501.06261)."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output[..., self.category] + torch.log_softmax(model_output, -1)[..., self.category]


class BinaryClassifierOutputTarget:
    """The one score of a classifier of two classes, or for class 0 its negative."""

    def __init__(self, category: int):
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output if self.category == 1 else -model_output


class SoftmaxOutputTarget:
    """All probabilities."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return torch.softmax(model_output, -1)


class RawScoresOutputTarget:
    """The output as it is."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output


class SemanticSegmentationTarget:
    """The sum of a class's scores [classes, H, W] over the pixels of a mask [H, W]."""

    def __init__(self, category: int, mask: np.ndarray):
        self.category, self.mask = category, torch.from_numpy(mask)

    def __call__(self, model_output: Tensor) -> Tensor:
        return (model_output[self.category] * self.mask.to(model_output.device)).sum()


class FasterRCNNBoxScoreTarget:
    """For each given box with a label, what overlaps it most: its overlap and its score, if the overlap is above the
    threshold and the label the same."""

    def __init__(self, labels: Sequence[Any], bounding_boxes: Sequence[Any], iou_threshold: float = 0.5):
        self.labels, self.bounding_boxes, self.iou_threshold = labels, bounding_boxes, iou_threshold

    def __call__(self, model_outputs: dict[str, Tensor]) -> Tensor:
        boxes = model_outputs["boxes"]
        total = torch.zeros(1, device=boxes.device, dtype=boxes.dtype)
        if len(boxes) == 0:
            return total
        for box, label in zip(self.bounding_boxes, self.labels, strict=False):
            overlaps = _overlaps(torch.as_tensor(box, device=boxes.device, dtype=boxes.dtype), boxes)
            best = overlaps.argmax()
            if overlaps[best] > self.iou_threshold and model_outputs["labels"][best] == label:
                total = total + overlaps[best] + model_outputs["scores"][best]
        return total


def _overlaps(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of one box [4] with others [n, 4], as left, top, right, bottom."""
    sides = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])).clamp(min=0)
    common = sides.prod(1)
    return common / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - common)


class FinerWeightedTarget:
    """A class's score over those of similar classes, weighted by their probabilities: sum_j p_j (s - alpha s_j) /
    (sum_j p_j + 1e-9) (Zhang et al. 2025, https://arxiv.org/abs/2501.11309)."""

    def __init__(self, main_category: int, comparison_categories: Sequence[int], alpha: float):
        self.main_category, self.comparison_categories, self.alpha = main_category, comparison_categories, alpha

    def __call__(self, model_output: Tensor) -> Tensor:
        others = list(self.comparison_categories)
        share = torch.softmax(model_output, -1)[..., others]
        ahead = model_output[..., self.main_category, None] - self.alpha * model_output[..., others]
        return (share * ahead).sum(-1) / (share.sum(-1) + 1e-9)


def check_count(targets: Any, output: Any, images: int) -> None:
    """Refuses fewer targets than images.

    Raises:
        ValueError: there are fewer.
    """
    if targets is None or not isinstance(output, Tensor | list):
        return  # what is paired with targets may be something else than images
    if len(targets) >= images or len(output) != images:
        return
    raise ValueError(
        f"targets: {len(targets)} came for {images} images; accepted is one for each (pytorch-grad-cam itself returns "
        "maps of zeros for the others)"
    )


def finer_targets(
    output: Tensor, alpha: float, comparison_categories: Any, target_idx: int | None, kind: type
) -> list[Any]:
    """What compares each image's first choice, or `target_idx`, with the classes whose scores come closest."""
    scores = output.detach()
    wanted = scores.amax(-1) if target_idx is None else scores[:, target_idx]
    order = np.argsort(abs(scores - wanted[:, None]).cpu().numpy(), axis=-1).tolist()
    places = range(1, 4) if comparison_categories is None else comparison_categories
    places = [place for place in places if place < scores.shape[-1]]
    return [kind(row[0], [row[place] for place in places], alpha) for row in order]


def as_list(targets: Any, output: Any, classifier: type) -> Any:
    """The targets, or each image's first choice where there are none, as a `classifier`: ClassifierOutputTarget or the
    peer's class of that name."""
    if targets is not None:
        return targets
    with torch.no_grad():
        return [classifier(category) for category in output.argmax(-1).cpu().numpy()]


def loss(targets: Any, output: Any, classifier: type) -> Any:
    """The sum of the targets' scores; that of classes in one operation."""
    rows = isinstance(output, Tensor) and output.ndim == 2
    if targets is None and rows:
        return output.gather(1, output.detach().argmax(1, keepdim=True)).sum()
    targets = as_list(targets, output, classifier)
    if rows and len(targets) >= len(output) and all(type(target) is classifier for target in targets):
        classes, count = [target.category for target in targets[: len(output)]], output.shape[1]
        if all(isinstance(one, int | np.integer) and -count <= one < count for one in classes):
            columns = torch.tensor([int(one) % count for one in classes], dtype=torch.int64, device=output.device)
            return output.gather(1, columns[:, None]).sum()
    return sum(target(one) for target, one in zip(targets, output, strict=False))
