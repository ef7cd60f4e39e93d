"""Boxes: those that a caller gives, those that a model predicts, and how far two overlap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..outputs import describe
from .reading import check_option, part_of

__all__ = ["DenseDetections", "Given", "Predicted", "given_boxes", "overlaps", "predicted_boxes"]

BoxFormat = Literal["cxcywh", "xyxy", "xywh"]


@dataclass(frozen=True, eq=False)
class DenseDetections:
    """Reads outputs with a box and scores of all classes for each of Q queries, [N, Q, 4 + classes] or the parts
    "logits" [N, Q, classes] and "pred_boxes" [N, Q, 4] (Carion et al. 2020, DETR, https://arxiv.org/abs/2005.12872), as
    the detections of each image: `DetectionScore(..., read=DenseDetections(...))`.

    A query's label is its first choice, and its score what `activation` makes of that class's. Queries whose first
    choice is the background are left out.

    Args:
        box_format: "cxcywh": centre and extents, as DETR has them; "xyxy": left, top, right, bottom; "xywh": left, top
            and extents.
        activation: "softmax" over all classes, "sigmoid", or None for scores as they are.
        background: the class that means no object, below 0 counted from the last; None where there is none.
        size: (height, width) in pixels for boxes relative to the image's, from 0 to 1; None for boxes as they are.

    Raises:
        ValueError, TypeError: naming the argument that does not fit; when called, also another output.
    """

    box_format: BoxFormat = "cxcywh"
    activation: Literal["softmax", "sigmoid"] | None = "softmax"
    background: int | None = -1
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_option("box_format", self.box_format, ("cxcywh", "xyxy", "xywh"))
        check_option("activation", self.activation, ("softmax", "sigmoid", None))
        if isinstance(self.background, bool) or not isinstance(self.background, int | None):
            raise TypeError(f"background is {self.background!r}; accepted is a class or None")
        if self.size is not None:
            numbers = isinstance(self.size, tuple | list) and all(
                isinstance(one, int | float) and one > 0 for one in self.size
            )
            if not numbers or len(self.size) != 2:
                raise ValueError(f"size is {self.size!r}; accepted is (height, width), both above 0, or None")

    def __call__(self, output: Any) -> list[dict[str, Tensor]]:
        """For each image its "boxes" [P, 4] as left, top, right, bottom, "labels" [P] and "scores" [P]."""
        if isinstance(output, Tensor):
            boxes, logits = output[..., :4], output[..., 4:]
        else:
            boxes, logits = part_of(output, "pred_boxes"), part_of(output, "logits")
        if not _fit(boxes, logits):
            raise ValueError(
                f"targets: the model returned {describe(output)}; accepted is [N, Q, 4 + classes] of floats, or "
                '"logits" [N, Q, classes] and "pred_boxes" [N, Q, 4]'
            )
        classes = logits.shape[2]
        if self.background is not None and not -classes <= self.background < classes:
            raise ValueError(f"background is {self.background}, but the model has {classes} classes")
        labels = logits.detach().argmax(2)
        scores = logits
        if self.activation is not None:
            scores = logits.softmax(2) if self.activation == "softmax" else logits.sigmoid()
        scores = scores.gather(2, labels[..., None])[..., 0]
        kept = torch.ones_like(labels, dtype=torch.bool)
        if self.background is not None:
            kept = labels != self.background % classes
        boxes = self._corners(boxes)
        return [
            {"boxes": box[keep], "labels": label[keep], "scores": score[keep]}
            for box, label, score, keep in zip(boxes, labels, scores, kept, strict=True)
        ]

    def _corners(self, boxes: Tensor) -> Tensor:
        """[N, Q, 4] as left, top, right, bottom."""
        if self.box_format != "xyxy":
            place, extent = boxes[..., :2], boxes[..., 2:]
            low = place - extent / 2 if self.box_format == "cxcywh" else place
            boxes = torch.cat([low, low + extent], -1)
        if self.size is not None:
            height, width = self.size
            boxes = boxes * boxes.new_tensor([width, height, width, height])
        return boxes


def _fit(boxes: Any, logits: Any) -> bool:
    tensors = all(isinstance(one, Tensor) and one.ndim == 3 and one.is_floating_point() for one in (boxes, logits))
    return tensors and boxes.shape[:2] == logits.shape[:2] and boxes.shape[2] == 4 and logits.shape[2] > 0


class Predicted(NamedTuple):
    """Of an image."""

    boxes: Tensor
    """[P, 4]"""
    labels: Tensor | None
    """[P]"""
    scores: Tensor
    """[P]"""


def predicted_boxes(output: Any, labelled: bool) -> list[Predicted]:
    """Each image's, of a list of mappings with "boxes", "scores" and, where `labelled`, "labels"."""
    if not isinstance(output, list | tuple) or not all(isinstance(one, Mapping) for one in output):
        raise ValueError(
            f'targets: the model returned {describe(output)}; accepted is a list with a dict of "boxes", "labels" and '
            '"scores" for each image, or, for `read`, an output that it makes that of'
        )
    images = []
    for i, one in enumerate(output):
        names = ("boxes", "scores", *(("labels",) if labelled else ()))
        for name in names:
            if not isinstance(one.get(name), Tensor):
                raise ValueError(f'targets: the model returned no tensor "{name}" for image {i}, which has {list(one)}')
        boxes, scores, labels = one["boxes"], one["scores"], one["labels"] if labelled else None
        counts = {len(part) for part in (boxes, scores, labels) if part is not None and part.ndim}
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.ndim != 1 or len(counts) != 1:
            shapes = {name: list(one[name].shape) for name in names}
            raise ValueError(f"targets: the model returned {shapes} for image {i}; accepted are [P, 4], [P] and [P]")
        images.append(Predicted(boxes, labels, scores))
    return images


class Given(NamedTuple):
    """Of an image, or of all."""

    boxes: Tensor
    """[B, 4]"""
    labels: list[int] | None
    """B of them."""


def given_boxes(boxes: Any, labels: Any) -> Given | list[Given]:
    """What a caller means: one for all images, or a list of each image's.

    Raises:
        ValueError, TypeError: naming the argument that does not fit.
    """
    if not isinstance(boxes, Tensor | np.ndarray | list | tuple):
        raise TypeError(f"boxes is of type {type(boxes).__name__}; accepted is [B, 4], or a list of N of these")
    depth = _depth(boxes)
    if depth == 2:
        return _given(boxes, labels, "")
    if depth != 3:
        raise ValueError("boxes are no [B, 4], nor a list of N of these; accepted are at least one box for each image")
    each: Sequence[Any] = [labels] * len(boxes) if labels is None or isinstance(labels, int) else labels
    if len(each) != len(boxes):
        raise ValueError(f"labels: {len(each)} came for the boxes of {len(boxes)} images; accepted is a list for each")
    return [_given(own, label, f" of image {i}") for i, (own, label) in enumerate(zip(boxes, each, strict=True))]


def _given(boxes: Any, labels: Any, whose: str) -> Given:
    try:
        found = torch.stack([torch.as_tensor(box) for box in boxes]).double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"boxes{whose} are no [B, 4] with at least one box: {error}") from None
    if found.ndim != 2 or found.shape[1] != 4:
        raise ValueError(f"boxes{whose} have shape {tuple(found.shape)}; accepted is [B, 4]")
    wrong = (~(found.isfinite().all(1) & (found[:, 2:] > found[:, :2]).all(1))).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise ValueError(
            f"boxes: box {index}{whose} is {found[index].tolist()}; accepted is left, top, right, bottom, with "
            "left below right and top below bottom"
        )
    if labels is None:
        return Given(found, None)
    if isinstance(labels, Tensor | np.ndarray):
        labels = labels.tolist()
    listed = [labels] * len(found) if isinstance(labels, int) else labels
    if not isinstance(listed, list | tuple) or any(isinstance(k, bool) or not isinstance(k, int) for k in listed):
        raise TypeError(f"labels{whose} are {labels!r}; accepted is an int, or one for each box")
    if len(listed) != len(found):
        raise ValueError(f"labels: {len(listed)} came for {len(found)} boxes{whose}; accepted is one for each box")
    return Given(found, list(listed))


def _depth(value: Any) -> int:
    """How many times a list can be entered before numbers are met."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim
    if isinstance(value, list | tuple):
        return 1 + _depth(value[0]) if value else 1
    return 0


def overlaps(given: Tensor, boxes: Tensor) -> Tensor:
    """[B, 4] and [P, 4] -> [B, P]: area of the intersection over that of the union."""
    low, high = torch.maximum(given[:, None, :2], boxes[:, :2]), torch.minimum(given[:, None, 2:], boxes[:, 2:])
    common = (high - low).clamp(min=0).prod(2)
    own, other = ((one[:, 2:] - one[:, :2]).clamp(min=0).prod(1) for one in (given, boxes))
    return common / (own[:, None] + other - common)
