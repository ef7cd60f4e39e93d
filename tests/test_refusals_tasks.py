"""Targets of every task refuse what does not fit, naming the argument, what came and what is accepted."""

import numpy as np
import pytest
import torch

from fusedcam.torch import (
    BinaryScore,
    ClassScore,
    DenseDetections,
    DetectionScore,
    GradCAM,
    MarginScore,
    PartScore,
    RegressionScore,
    SegmentationScore,
    SequenceScore,
    SimilarityScore,
)
from task_models import Segmenter

BOX = [[0, 0, 2, 2]]
SCORE = lambda output: output[:, 0]  # noqa: E731

MADE = [
    (ClassScore, (SCORE,), TypeError, "targets: a callable came; accepted are classes"),
    (ClassScore, (1, "softmax"), ValueError, 'form is \'softmax\'; accepted: "raw", "log_softmax", "log_odds"'),
    (MarginScore, ([SCORE],), TypeError, "targets: a callable came"),
    (MarginScore, (1, SCORE), TypeError, "versus: a callable came"),
    (BinaryScore, (SCORE,), TypeError, "targets: a callable came"),
    (SegmentationScore, (None,), TypeError, "targets is None"),
    (SegmentationScore, (SCORE,), TypeError, "targets: a callable came"),
    (SegmentationScore, (1, [[1]]), TypeError, "mask is of type list; accepted is a tensor or an array"),
    (SegmentationScore, (1, torch.tensor([[-1.0]])), ValueError, "mask has negative numbers"),
    (SegmentationScore, (1, np.array([[np.nan]])), ValueError, "mask has negative numbers, infinities or NaN"),
    (SegmentationScore, (1, torch.ones(1, 1) * 1j), TypeError, "mask has dtype torch.complex64"),
    (SegmentationScore, (1, None, "max"), ValueError, 'reduction is \'max\'; accepted: "sum", "mean"'),
    (SegmentationScore, (1, None, "sum", "skip"), ValueError, 'missing is \'skip\'; accepted: "raise", "zero"'),
    (DetectionScore, (None,), TypeError, "boxes is of type NoneType"),
    (DetectionScore, ([],), ValueError, r"boxes are no \[B, 4\]"),
    (DetectionScore, ([1, 2, 3, 4],), ValueError, r"boxes are no \[B, 4\]"),
    (DetectionScore, ([[1, 2, 3]],), ValueError, r"boxes have shape \(1, 3\); accepted is \[B, 4\]"),
    (DetectionScore, ([BOX, []],), ValueError, r"boxes of image 1 are no \[B, 4\] with at least one box"),
    (DetectionScore, ([[2, 0, 1, 3]],), ValueError, r"boxes: box 0 is \[2.0, 0.0, 1.0, 3.0\]; accepted is left, top"),
    (DetectionScore, ([BOX, [[0, 0, 1, float("inf")]]],), ValueError, "boxes: box 0 of image 1 is"),
    (DetectionScore, (BOX, [1, 2]), ValueError, "labels: 2 came for 1 boxes; accepted is one for each box"),
    (DetectionScore, ([BOX, BOX], [[1]]), ValueError, "labels: 1 came for the boxes of 2 images"),
    (DetectionScore, ([BOX, BOX], [[1], ["cat"]]), TypeError, r"labels of image 1 are \['cat'\]; accepted is an int"),
    (DetectionScore, (BOX, 1, 1.0), ValueError, "iou_threshold is 1.0; accepted is 0 to below 1"),
    (DetectionScore, (BOX, 1, "0.5"), TypeError, "iou_threshold is of type str"),
    (DetectionScore, (BOX, 1, 0.5, "iou"), ValueError, "form is 'iou'"),
    (DetectionScore, (BOX, 1, 0.5, "sum", float("nan")), ValueError, "min_score is nan"),
    (DetectionScore, (BOX, 1, 0.5, "sum", None, 1), TypeError, "each is 1; accepted is a bool"),
    (DetectionScore, ([BOX, BOX * 2], 1, 0.5, "sum", None, True), ValueError, r"images have \[1, 2\] boxes"),
    (DetectionScore, (BOX, 1, 0.5, "sum", None, False, 3), TypeError, "read is of type int"),
    (DenseDetections, ("yxyx",), ValueError, 'box_format is \'yxyx\'; accepted: "cxcywh", "xyxy", "xywh"'),
    (DenseDetections, ("xyxy", "relu"), ValueError, 'activation is \'relu\'; accepted: "softmax", "sigmoid", None'),
    (DenseDetections, ("xyxy", None, "none"), TypeError, "background is 'none'"),
    (DenseDetections, ("xyxy", None, None, (3,)), ValueError, r"size is \(3,\); accepted is \(height, width\)"),
    (DenseDetections, ("xyxy", None, None, (0, 3)), ValueError, r"size is \(0, 3\)"),
    (SimilarityScore, ([1.0],), TypeError, "references is of type list"),
    (SimilarityScore, (torch.ones(3, dtype=torch.int64),), TypeError, "references has dtype torch.int64"),
    (SimilarityScore, (torch.ones(()),), ValueError, r"references has shape \(\)"),
    (SimilarityScore, (torch.ones(0, 3),), ValueError, r"references has shape \(0, 3\)"),
    (SimilarityScore, (torch.tensor([torch.nan]),), ValueError, "references has infinities or NaN"),
    (SimilarityScore, (torch.eye(3)[:2] * torch.tensor([1, 0, 1]),), ValueError, "references has one of zeros"),
    (SimilarityScore, (torch.ones(3), "l2"), ValueError, 'measure is \'l2\'; accepted: "cosine", "dot"'),
    (SequenceScore, (3,), TypeError, "tokens is of type int"),
    (SequenceScore, ([[1, 2], [3]],), ValueError, "shorter sequences are filled by ignore_index"),
    (SequenceScore, (torch.ones(2, 3),), TypeError, "tokens has dtype torch.float32; accepted are integers"),
    (SequenceScore, (torch.ones(2, 3, 1, dtype=torch.int64),), ValueError, r"tokens has shape \(2, 3, 1\)"),
    (SequenceScore, ([],), ValueError, r"tokens has shape \(0,\)"),
    (SequenceScore, ([[1, 2], [-100, -100]],), ValueError, "tokens: image 1 has none that is scored; accepted"),
    (
        SequenceScore,
        ([[1, 2], [3, 0]], 0, True),
        ValueError,
        "image 1 has none that is scored, the first being skipped",
    ),
    (SequenceScore, ([[1], [2]], 0, True), ValueError, "image 0 has none that is scored, the first being skipped"),
    (SequenceScore, ([1], 1.5), TypeError, "ignore_index is 1.5"),
    (SequenceScore, ([1], 0, 1), TypeError, "shift is 1; accepted is a bool"),
    (SequenceScore, ([1], 0, False, "p"), ValueError, 'form is \'p\'; accepted: "log_softmax", "raw"'),
    (
        SequenceScore,
        ([1], 0, False, "raw", "mean", True),
        ValueError,
        'reduction is "mean", of what `each` keeps apart',
    ),
    (RegressionScore, (1.5,), TypeError, "element has 1.5"),
    (RegressionScore, ((1, True),), TypeError, "element has True"),
    (RegressionScore, ([],), ValueError, "element is empty"),
    (RegressionScore, ((),), ValueError, "element is empty"),
    (PartScore, (1.5,), TypeError, "part is 1.5; accepted is a name, an index, or a list of these"),
    (PartScore, ([],), TypeError, r"part is \[\]"),
    (PartScore, (True,), TypeError, "part is True"),
]


@pytest.mark.parametrize(("kind", "arguments", "error", "message"), MADE, ids=lambda value: None)
def test_when_made(kind, arguments, error, message):
    with pytest.raises(error, match=message):
        kind(*arguments)


ROWS = torch.ones(2, 3)
MAPS = torch.ones(2, 3, 4, 4)
IMAGE = {"boxes": torch.tensor([[0.0, 0, 2, 2]]), "labels": torch.tensor([1]), "scores": torch.ones(1)}

CALLED = [
    (ClassScore(3), ROWS, "targets: class 3 is out of range; the model has classes 0 to 2"),
    (ClassScore([1, 2, 0]), ROWS, "targets: 3 came for 2 images"),
    (ClassScore(), MAPS, r"the model returned float32 \[2, 3, 4, 4\]; accepted is \[N, classes\] of floats"),
    (ClassScore(), {"scores": ROWS}, "the model returned dict; accepted .* PartScore"),
    (ClassScore(), ROWS.long(), r"the model returned int64 \[2, 3\]"),
    (ClassScore(0, "log_odds"), ROWS[:, :1], 'form is "log_odds", but the model has one class'),
    (MarginScore(0), ROWS[:, :1], "versus is None, but the model has one class"),
    (MarginScore(0, 7), ROWS, "versus: class 7 is out of range"),
    (MarginScore([0, 1], [2, 1]), ROWS, "versus: class 1 would be compared with itself"),
    (MarginScore([[0, 1]] * 2, [[2] * 3] * 2), ROWS, "versus has 3 classes an image for targets of 2"),
    (BinaryScore(), ROWS, r"the model returned \[2, 3\]; accepted is \[N\] or \[N, 1\]"),
    (BinaryScore(2), ROWS[:, 0], "targets: class 2 is out of range; the model has classes 0 to 1"),
    (SegmentationScore(3), MAPS, "targets: class 3 is out of range"),
    (SegmentationScore(0), ROWS, r"accepted is \[N, classes, H, W\] of floats, or an output with 'out' or 'logits'"),
    (SegmentationScore(0), MAPS[..., :0], r"the model returned \[2, 3, 4, 0\]; accepted is at least"),
    (SegmentationScore(0, torch.ones(3, 4)), MAPS, r"mask has shape \(3, 4\); accepted is \(4, 4\) or \(2, 4, 4\)"),
    (DetectionScore(BOX), ROWS[0], "the model returned float32"),
    (DetectionScore(BOX), ROWS[:, None, :], r"accepted is \[N, Q, 4 \+ classes\] of floats"),
    (DetectionScore(BOX), {"losses": ROWS}, 'the model returned dict; accepted is a list with a dict of "boxes"'),
    (DetectionScore(BOX), [ROWS], "the model returned list of"),
    (DetectionScore(BOX), [], "the model returned no image's detections"),
    (DetectionScore([BOX]), [IMAGE, IMAGE], "boxes: those of 1 images came for an output of 2"),
    (DetectionScore(BOX, 1), [{"boxes": ROWS, "scores": ROWS}], r"no tensor \"labels\" for image 0"),
    (DetectionScore(BOX), [IMAGE, {**IMAGE, "scores": torch.ones(2)}], r"'scores': \[2\]\} for image 1; accepted are"),
    (
        DetectionScore(BOX, 2),
        [IMAGE, IMAGE],
        r"no predicted box of label 2 overlaps box 0 of image 0 by more than 0\.5; the best of 1 does by 0\.",
    ),
    (DetectionScore(BOX, 1, 0.5, min_score=2), [IMAGE], "of label 1 with a score of at least 2 overlaps box 0"),
    (DenseDetections(), {"logits": ROWS}, "part 'pred_boxes' is not in the model's output, dict with 'logits'"),
    (DenseDetections(background=3), torch.ones(1, 2, 7), "background is 3, but the model has 3 classes"),
    (SimilarityScore(torch.ones(4)), ROWS, r"references has shape \(4,\); accepted is \[3\], \[K, 3\] or \[2, K, 3\]"),
    (SimilarityScore(torch.ones(3, 1, 3)), ROWS, r"references has shape \(3, 1, 3\)"),
    (SimilarityScore(torch.ones(3)), MAPS, r"accepted is \[N, D\]"),
    (SequenceScore([[1, 2]]), ROWS, r"accepted is \[N, T, V\]"),
    (SequenceScore([[1, 2]]), torch.ones(1, 3, 5), r"tokens has shape \(1, 2\); accepted is \(1, 3\) or \(3,\)"),
    (SequenceScore([[1, 5]]), torch.ones(1, 2, 5), "tokens: 5 is out of range; 0 to 4 are accepted"),
    (SequenceScore([[1, -100]], 0), torch.ones(1, 2, 5), "tokens: -100 is out of range"),
    (RegressionScore(), ROWS, r"element is None, but the model returned \[2, 3\]; accepted is an element of \(3,\)"),
    (RegressionScore(3), ROWS, r"element \(3,\) is not in \(3,\)"),
    (RegressionScore(1), MAPS, r"element \(1,\) is not in \(3, 4, 4\)"),
    (PartScore("b"), {"a": ROWS}, "part 'b' is not in the model's output, dict with 'a'"),
    (PartScore(["a", 2]), {"a": [ROWS]}, "part 2 is not in the model's output, list of"),
    (PartScore("a"), {"a": {}}, "part 'a' is of type dict; accepted is a tensor"),
    (PartScore("a", 3), {"a": ROWS}, "targets: class 3 is out of range"),
]


@pytest.mark.parametrize(("target", "output", "message"), CALLED, ids=lambda value: None)
def test_when_called(target, output, message):
    with pytest.raises(ValueError, match=message):
        target(output)


def test_through_an_explainer():
    """The same errors, and the explainer's own."""
    model, x = Segmenter().eval(), torch.rand(2, 3, 21, 18)
    explain = GradCAM(model, "features.body")
    with pytest.raises(ValueError, match=r"mask has shape \(3, 4\)"):
        explain(x, targets=SegmentationScore(0, torch.ones(3, 4)))
    with pytest.raises(ValueError, match=r"the score has shape \(3,\); accepted is \[N\] or \[N, K\] with N = 2"):
        explain(x, targets=PartScore("aux", lambda maps: maps.new_ones(3)))
    with pytest.raises(ValueError, match=r"does not depend on layer features\.body, as far as autograd can see"):
        explain(x, targets=PartScore("aux", lambda maps: maps.detach().sum((1, 2, 3))))
