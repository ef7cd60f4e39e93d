"""Detection: the scores of the predicted boxes that lie where boxes are given."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from ..targets import check_recorded
from .boxes import DenseDetections, Given, Predicted, given_boxes, overlaps, predicted_boxes
from .reading import Finding, Found, Missing, check_flag, check_option, wide

__all__ = ["DetectionScore"]

_PARTS = DenseDetections()
_TENSOR = DenseDetections(activation=None, background=None)


@dataclass(frozen=True, eq=False)
class DetectionScore(Finding):
    """Scores of the predicted boxes that lie where boxes are given: for each given box, of the predicted ones with its
    label that which overlaps it most, by the intersection over union o and its score p.

    "sum" is the sum of o + p over the given boxes, as pytorch-grad-cam's `FasterRCNNBoxScoreTarget` has it; "product"
    that of o p (Petsiuk et al. 2021, D-RISE, https://arxiv.org/abs/2006.03204, without its likeness of class scores);
    "score" that of p. Gradients go through both, as far as the model records its boxes. Which boxes are there is found
    anew in each output.

    Outputs: a list with a dict of "boxes" [P, 4], "labels" [P] and "scores" [P] for each image, as torchvision's
    detectors return it; the parts "logits" and "pred_boxes" (`DenseDetections()`, DETR's); [N, Q, 4 + classes]
    (centre, extents and scores as they are); any other by `read`.

    Args:
        boxes: left, top, right, bottom in the units of the predicted boxes: [B, 4] for all images, or N of these, a
            list or a tensor [N, B, 4].
        labels: the boxes' classes as the model counts them: an int, one for each box (N lists where boxes are N lists),
            or None for boxes of any class.
        iou_threshold: a predicted box has to overlap by more than that.
        form: "sum", "product" or "score".
        min_score: predicted boxes with a score below it are left out; None: none is. Outputs with all queries need it
            where they have no background class.
        each: a score, and so a map, for each given box in place of their sum: [N, B].
        read: from the model's output to such a list; a `DenseDetections` or any callable.
        missing: a given box that no predicted box meets is an error, naming the image ("raise"), or adds 0 ("zero"):
            for methods that mask images, and for measures.

    Raises:
        ValueError, TypeError: naming the argument that does not fit; when called, also another output, another number
            of images than boxes are for, and boxes that are not met.
    """

    boxes: Any
    labels: Any = None
    iou_threshold: float = 0.5
    form: Literal["sum", "product", "score"] = "sum"
    min_score: float | None = None
    each: bool = False
    read: Callable[[Any], Sequence[Mapping[str, Tensor]]] | None = None
    missing: Missing = "raise"
    _given: Given | list[Given] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_option("form", self.form, ("sum", "product", "score"))
        check_flag("each", self.each)
        self._check_missing()
        for name, value in (("iou_threshold", self.iou_threshold), ("min_score", self.min_score)):
            if value is None and name == "min_score":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} is of type {type(value).__name__}; accepted is a number")
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}; accepted is a finite number")
        if not 0 <= self.iou_threshold < 1:
            raise ValueError(f"iou_threshold is {self.iou_threshold}; accepted is 0 to below 1")
        if self.read is not None and not callable(self.read):
            raise TypeError(f"read is of type {type(self.read).__name__}; accepted is a callable or None")
        given = given_boxes(self.boxes, self.labels)
        object.__setattr__(self, "_given", given)
        if self.each and isinstance(given, list) and len({len(one.boxes) for one in given}) != 1:
            counts = [len(one.boxes) for one in given]
            raise ValueError(f"each is True and images have {counts} boxes; accepted is the same number for all")

    def mirrored(self) -> NoReturn:
        """Of mirror images nothing is said: how wide an image is, in the boxes' units, is the model's matter."""
        raise ValueError("targets: the boxes of DetectionScore are those of the images as they are; pass flips=False")

    def _search(self, output: Any) -> Found:
        images = predicted_boxes(self._read(output), self.labels is not None)
        given = self._given if isinstance(self._given, list) else [self._given] * len(images)
        if len(given) != len(images):
            raise ValueError(f"boxes: those of {len(given)} images came for an output of {len(images)}")
        if not images:
            raise ValueError("targets: the model returned no image's detections; accepted is at least one image")
        scores, absent, message = [], [], None
        for i, (wanted, there) in enumerate(zip(given, images, strict=True)):
            own, met, best = self._of_image(wanted, there)
            if message is None and not all(met):
                message = self._message(i, met.index(False), best, wanted, len(there.boxes))
            scores.append(own)
            absent.append(torch.tensor(met, device=own.device).logical_not())
        check_recorded(
            [bool(one.requires_grad) for one, none in zip(scores, absent, strict=True) if not bool(none.all())]
        )
        if self.each:
            return Found(torch.stack(scores), torch.stack(absent), message)
        totals, nothing = [one.sum() for one in scores], [one.all() for one in absent]
        return Found(torch.stack(totals), torch.stack(nothing), message)

    def _read(self, output: Any) -> Any:
        if self.read is not None:
            return self.read(output)
        if isinstance(output, Tensor):
            return _TENSOR(output)
        if isinstance(output, Mapping):
            return _PARTS(output) if "pred_boxes" in output else output
        return _PARTS(output) if hasattr(output, "pred_boxes") else output

    def _of_image(self, given: Given, there: Predicted) -> tuple[Tensor, list[bool], list[float]]:
        """[B] scores, 0 where a box is not met; which are met; and by how much the best overlaps."""
        boxes, values = wide(there.boxes), wide(there.scores)
        wanted = given.boxes.to(boxes)
        chosen = overlaps(wanted, boxes.detach()).nan_to_num(nan=0.0)  # [B, P]
        if given.labels is not None and there.labels is not None:
            labels = torch.tensor(given.labels, device=boxes.device)
            chosen = chosen.where(there.labels == labels[:, None], 0)
        if self.min_score is not None:
            chosen = chosen.where(values.detach() >= self.min_score, 0)
        if not len(boxes):
            chosen = chosen.new_zeros(len(chosen), 1)
        best, index = chosen.max(1)
        met = (best > self.iou_threshold).tolist()
        # A sum over nothing is 0 and yet a part of the graph, where NaN times 0 would be NaN.
        nothing = values[:0].sum() + boxes[:0].sum()
        found = []
        for row, (is_met, place) in enumerate(zip(met, index.tolist(), strict=True)):
            if not is_met:
                found.append(nothing)
            elif self.form == "score":
                found.append(values[place])
            else:  # of these two boxes alone, so that another's NaN does not reach the gradient
                overlap, score = overlaps(wanted[row, None], boxes[place, None])[0, 0], values[place]
                found.append(overlap + score if self.form == "sum" else overlap * score)
        return torch.stack(found), met, best.tolist()

    def _message(self, image: int, box: int, best: list[float], given: Given, count: int) -> str:
        label = "" if given.labels is None else f" of label {given.labels[box]}"
        least = "" if self.min_score is None else f" with a score of at least {self.min_score}"
        return (
            f"boxes: no predicted box{label}{least} overlaps box {box} of image {image} by more than "
            f"{self.iou_threshold}; the best of {count} does by {best[box]:.3g}. Accepted are boxes that the model "
            'predicts, a lower iou_threshold, or missing="zero"'
        )
