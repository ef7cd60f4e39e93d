"""Targets of every task beside formulas in loops: their scores, and what autograd has for both."""

import math

import pytest
import torch
from torch.autograd import gradcheck

import task_models as tiny
from fusedcam.compat import pgc_targets as theirs
from fusedcam.torch import (
    BinaryScore,
    ClassScore,
    DenseDetections,
    DetectionScore,
    MarginScore,
    PartScore,
    RegressionScore,
    SegmentationScore,
    SequenceScore,
    SimilarityScore,
)
from rare_models import close, double  # noqa: F401

pytestmark = pytest.mark.usefixtures("double")


def agree(target, formula, output):
    """Scores and their gradients with respect to a tensor; scores are as wide as the formula's."""
    output = output.detach().requires_grad_()
    got, wanted = target(output), formula(output)
    assert got.shape == wanted.shape
    close(got, wanted)
    seed = torch.randn_like(wanted)
    close(*(torch.autograd.grad(scores, output, seed)[0] for scores in (got, wanted)))


def stack(rows):
    return torch.stack([torch.stack(row) if isinstance(row, list) else row for row in rows])


FORMS = {
    "raw": lambda row, c: row[c],
    "log_softmax": lambda row, c: torch.log(row.exp()[c] / row.exp().sum()),
    "log_odds": lambda row, c: torch.log(row.exp()[c] / (row.exp().sum() - row.exp()[c])),
}


@pytest.mark.parametrize("form", FORMS)
def test_class(form):
    output, of = torch.randn(3, 5), FORMS[form]
    agree(ClassScore([2, 0, 4], form), lambda o: stack([of(o[0], 2), of(o[1], 0), of(o[2], 4)]), output)
    agree(ClassScore(3, form), lambda o: stack([of(row, 3) for row in o]), output)
    agree(ClassScore(None, form), lambda o: stack([of(row, row.argmax()) for row in o]), output)
    rows = [[1, 1], [0, 4], [3, 2]]
    agree(ClassScore(rows, form), lambda o: stack([[of(o[i], k) for k in rows[i]] for i in range(3)]), output)
    close(ClassScore(3, form)({"logits": output}), ClassScore(3, form)(output))


def test_class_where_probabilities_end():
    """Log-odds by hand where 1 - p is 0 in float64, and gradients where log p has none."""
    output = torch.tensor([[800.0, 0, 0]], requires_grad=True)
    odds = ClassScore(0, "log_odds")(output)
    close(odds, [800 - math.log(2)])
    close(torch.autograd.grad(odds.sum(), output)[0], [[1, -0.5, -0.5]])
    close(torch.autograd.grad(ClassScore(0, "log_softmax")(output).sum(), output)[0], [[0, 0, 0]])
    half = ClassScore(0, "log_softmax")(torch.zeros(1, 3, dtype=torch.float16))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(-math.log(3), rel=1e-6)


def test_margin():
    output = torch.randn(3, 5)
    runner_up = lambda row, c: row[c] - max(row[d] for d in range(5) if d != c)  # noqa: E731
    agree(MarginScore(), lambda o: stack([runner_up(row, row.argmax()) for row in o]), output)
    rows = [[1, 2], [0, 4], [3, 0]]
    agree(MarginScore(rows), lambda o: stack([[runner_up(o[i], k) for k in rows[i]] for i in range(3)]), output)
    agree(MarginScore(2, 4), lambda o: o[:, 2] - o[:, 4], output)
    agree(
        MarginScore([0, 1, 2], [4, 4, 0]),
        lambda o: stack([o[0, 0] - o[0, 4], o[1, 1] - o[1, 4], o[2, 2] - o[2, 0]]),
        output,
    )
    against = [[0, 3], [3, 1], [0, 1]]
    agree(MarginScore(4, against), lambda o: stack([[o[i, 4] - o[i, k] for k in against[i]] for i in range(3)]), output)
    ours = [[4, 2], [4, 2], [4, 2]]
    agree(MarginScore(ours, 0), lambda o: stack([[row[k] - row[0] for k in (4, 2)] for row in o]), output)
    agree(MarginScore(ours, against), lambda o: stack([[o[i, ours[i][j]] - o[i, against[i][j]] for j in (0, 1)] for i in range(3)]), output)  # fmt: skip


@pytest.mark.parametrize("shape", [(3,), (3, 1)], ids=str)
def test_binary(shape):
    output = torch.tensor([2.0, -3.0, 0.5]).reshape(shape)
    agree(BinaryScore(), lambda o: o.reshape(-1) * torch.tensor([1, -1, 1]), output)
    agree(BinaryScore(1), lambda o: o.reshape(-1), output)
    agree(BinaryScore([0, 0, 1]), lambda o: o.reshape(-1) * torch.tensor([-1, -1, 1]), output)
    agree(BinaryScore([[0, 1]] * 3), lambda o: torch.stack([-o.reshape(-1), o.reshape(-1)], 1), output)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("given", ["one mask", "masks", "predicted"])
def test_segmentation(given, reduction):
    output = torch.randn(3, 4, 5, 6)
    masks = {"one mask": torch.rand(5, 6) > 0.5, "masks": (torch.rand(3, 5, 6) > 0.5).numpy(), "predicted": None}
    rows = [[1, 2], [0, 3], [3, 1]]

    def formula(output, rows=rows):
        found = []
        for i, maps in enumerate(output):
            found.append([])
            for k in rows[i]:
                region = maps.argmax(0) == k if given == "predicted" else torch.as_tensor(masks[given])
                region = region[i] if region.ndim == 3 else region
                share = 1 / region.sum() if reduction == "mean" else 1
                found[-1].append(share * tiny.over_region(maps, k, region))
        return stack(found)

    agree(SegmentationScore(rows, masks[given], reduction), formula, output)
    agree(SegmentationScore(1, masks[given], reduction), lambda o: formula(o, [[1]] * 3)[:, 0], output)
    close(SegmentationScore(1, masks[given], reduction)({"out": output, "aux": 1}), formula(output, [[1]] * 3)[:, 0])


def test_segmentation_by_hand():
    """One class, weights, infinities outside, half types, signals and volumes; pytorch-grad-cam's sum."""
    output = torch.tensor([[[[1.0, -2], [3, -torch.inf]]]])
    close(SegmentationScore(0)(output), [4])
    close(SegmentationScore(0, torch.tensor([[0.5, 1], [2, 0]]))(output), [0.5 - 2 + 6])
    close(SegmentationScore(0, torch.tensor([[0.5, 1], [2, 0]]), "mean")(output), [4.5 / 3.5])
    output.requires_grad_()
    gradient = torch.autograd.grad(SegmentationScore(0, torch.tensor([[2, 0], [0, 0]]))(output).sum(), output)[0]
    close(gradient, [[[[2, 0], [0, 0]]]])
    half = torch.full((1, 2, 40, 50), 60.0, dtype=torch.float16)
    close(SegmentationScore(1, torch.ones(40, 50))(half), [120000])  # float16 ends at 65504
    for shape in ((2, 3, 9), (2, 3, 4, 3, 2)):
        maps = torch.randn(shape)
        close(SegmentationScore(2)(maps), (maps[:, 2] * (maps.argmax(1) == 2)).flatten(1).sum(1))
    maps, mask = torch.randn(3, 4, 5), torch.rand(4, 5) > 0.5
    close(SegmentationScore(1, mask)(maps[None])[0], theirs.SemanticSegmentationTarget(1, mask.numpy())(maps))


def test_segmentation_of_nothing():
    output = torch.zeros(2, 3, 4, 4)
    output[0, 1] = 1
    output[1, 2] = 1
    with pytest.raises(ValueError, match="targets: the model takes no pixel of image 1 for class 1"):
        SegmentationScore(1)(output)
    target = SegmentationScore(1, missing="zero", reduction="mean")
    close(target(output), [1, 0])
    assert target.absent(output).tolist() == [False, True]
    mask = torch.zeros(2, 4, 4)
    mask[1] = 1
    with pytest.raises(ValueError, match="mask has no pixel of image 0"):
        SegmentationScore(1, mask)(output)


def detections(counts=(9, 4)):
    images = []
    for count in counts:
        low = 3 * torch.rand(count, 2)
        boxes = torch.cat([low, low + 1 + 2 * torch.rand(count, 2)], 1)
        images.append({"boxes": boxes, "labels": torch.arange(count) % 3, "scores": torch.rand(count)})
    return images


@pytest.mark.parametrize("form", ["sum", "product", "score"])
@pytest.mark.parametrize("labelled", [True, False], ids=["labels", "any"])
def test_detection(form, labelled):
    images = detections()
    # Near some predicted boxes, and once near one with another label.
    boxes = [images[0]["boxes"][[1, 5]] + 0.1, images[1]["boxes"][[3, 3]] - 0.05]
    labels = [[1, 2], [0, 0]] if labelled else None
    flat = torch.cat([torch.cat([one["boxes"].flatten(), one["scores"]]) for one in images])

    def rebuilt(flat):
        made, at = [], 0
        for one in images:
            count = len(one["labels"])
            made.append(
                {
                    "boxes": flat[at : at + 4 * count].reshape(count, 4),
                    "labels": one["labels"],
                    "scores": flat[at + 4 * count : at + 5 * count],
                }
            )
            at += 5 * count
        return made

    def formula(flat):
        rows = []
        for i, image in enumerate(rebuilt(flat)):
            rows.append([])
            for j, box in enumerate(boxes[i]):
                common, score = tiny.matched(box, labels[i][j] if labelled else None, image, 0.3)
                rows[-1].append({"sum": common + score, "product": common * score, "score": score}[form])
        return stack(rows)

    options = {"iou_threshold": 0.3, "form": form}
    each = DetectionScore(boxes, labels, **options, each=True)
    agree(lambda flat: each(rebuilt(flat)), formula, flat)
    agree(lambda flat: DetectionScore(boxes, labels, **options)(rebuilt(flat)), lambda f: formula(f).sum(1), flat)
    assert gradcheck(lambda flat: each(rebuilt(flat)), (flat.requires_grad_(),))


def test_detection_by_hand():
    """Half of the first box; all of the second; a box nearer, but of another label or a low score, does not stand in
    the way. pytorch-grad-cam's sum where it meets the same boxes."""
    image = {
        "boxes": torch.tensor([[0.0, 0, 2, 2], [10, 10, 14, 12], [0, 0, 2, 1.1]]),
        "labels": torch.tensor([1, 2, 3]),
        "scores": torch.tensor([0.5, 0.25, 0.125]),
    }
    boxes = [[0, 0, 2, 1], [10, 10, 14, 12]]
    close(DetectionScore(boxes, [1, 2], 0.4)([image]), [0.5 + 0.5 + 1 + 0.25])
    close(DetectionScore(boxes, [1, 2], 0.4, each=True)([image]), [[1, 1.25]])
    close(DetectionScore(boxes, None, 0.4, "score")([image]), [0.125 + 0.25])
    close(DetectionScore(boxes, None, 0.4, "score", min_score=0.2)([image]), [0.5 + 0.25])
    close(DetectionScore([boxes], [[1, 2]], 0.4)([image]), [2.25])
    close(DetectionScore(torch.tensor(boxes), 1, 0.4, missing="zero")([image]), [1])
    given, labels = [[0.0, 0, 2, 1.8], [10, 10, 14, 12.5]], [1, 2]
    close(DetectionScore(given, labels)([image])[0], theirs.FasterRCNNBoxScoreTarget(labels, given)(image)[0])


def test_a_predicted_box_given_back():
    """Its overlap is 1, the largest there is, where autograd's gradient is 0: the score alone is explained."""
    images = detections()
    for image in images:
        image["boxes"].requires_grad_()
        image["scores"].requires_grad_()
    boxes = [image["boxes"][2:3].detach() for image in images]
    scores = DetectionScore(boxes, 2)(images)
    close(scores, torch.stack([1 + image["scores"][2] for image in images]))
    found = torch.autograd.grad(scores.sum(), [images[0]["boxes"], images[0]["scores"]])
    close(found[0], torch.zeros(9, 4), 1e-12)
    close(found[1], torch.eye(9)[2])


def test_detection_of_nothing():
    """A given box that none meets; an image without boxes; NaN among the predicted ones."""
    images = detections()
    images.append({"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)})
    box = images[0]["boxes"][:1] + 0.01
    images[0]["boxes"][-1] = torch.nan
    images[0]["labels"][-1] = 0
    with pytest.raises(
        ValueError, match=r"no predicted box of label 0 overlaps box 0 of image 2 by more than 0\.5; the best of 0"
    ):
        DetectionScore([box, images[1]["boxes"][:1], box], 0)(images)
    target = DetectionScore(box, 0, 0.99, missing="zero")
    close(target(images), [0, 0, 0])
    assert target.absent(images).all()
    target = DetectionScore([box, images[1]["boxes"][:1], box], 0, 0.5, "score", missing="zero")
    close(target(images), [images[0]["scores"][0], images[1]["scores"][0], 0])
    assert target.absent(images).tolist() == [False, False, True]
    images[1] = {name: part.requires_grad_() if name != "labels" else part for name, part in images[1].items()}
    with pytest.raises(ValueError, match="the score of image 0 does not depend on the model's output"):
        target(images)
    images[0]["scores"].requires_grad_()
    assert target(images).requires_grad


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
@pytest.mark.parametrize("background", [None, -1, 0])
def test_dense_detections(activation, background):
    logits, places = 3 * torch.randn(2, 40, 4), torch.rand(2, 40, 4) + 0.1
    scale = torch.tensor([20.0, 10, 20, 10])

    def formula(output, box_format):
        images = []
        for row in output:
            kept = [q for q in row if background is None or q[4:].argmax() != background % 4]
            values = {"softmax": lambda s: s.exp() / s.exp().sum(), "sigmoid": lambda s: 1 / (1 + (-s).exp())}
            corners = {
                "cxcywh": lambda x, y, w, h: [x - w / 2, y - h / 2, x + w / 2, y + h / 2],
                "xywh": lambda x, y, w, h: [x, y, x + w, y + h],
                "xyxy": lambda *corners: corners,
            }
            images.append(
                {
                    "boxes": torch.stack([scale * torch.stack([*corners[box_format](*q[:4])]) for q in kept]),
                    "labels": torch.stack([q[4:].argmax() for q in kept]),
                    "scores": torch.stack([values.get(activation, lambda s: s)(q[4:]).max() for q in kept]),
                }
            )
        return images

    output = torch.cat([places, logits], 2)
    for box_format in ("cxcywh", "xywh", "xyxy"):
        read = DenseDetections(box_format, activation, background, (10, 20))
        for form in (output, {"logits": logits, "pred_boxes": places}):
            for got, wanted in zip(read(form), formula(output, box_format), strict=True):
                assert got["labels"].equal(wanted["labels"])
                close(got["boxes"], wanted["boxes"])
                close(got["scores"], wanted["scores"])
    given = [formula(row[None], "xywh")[0]["boxes"][3:4] + 0.02 * torch.rand(4) for row in output]
    target = DetectionScore(given, read=DenseDetections("xywh", activation, background, (10, 20)))
    agree(target, lambda o: stack([sum(tiny.matched(given[i][0], None, image, 0.5)) for i, image in enumerate(formula(o, "xywh"))]), output)  # fmt: skip


@pytest.mark.parametrize("measure", ["cosine", "dot"])
def test_similarity(measure):
    output, one, several, own = torch.randn(3, 5), torch.randn(5), torch.randn(4, 5), torch.randn(3, 2, 5)

    def formula(e, r):
        product = sum(e[d] * r[d] for d in range(5))
        return product / (sum(e * e).sqrt() * sum(r * r).sqrt()) if measure == "cosine" else product

    agree(SimilarityScore(one, measure), lambda o: stack([formula(e, one) for e in o]), output)
    agree(SimilarityScore(several.numpy(), measure), lambda o: stack([[formula(e, r) for r in several] for e in o]), output)  # fmt: skip
    agree(SimilarityScore(own, measure), lambda o: stack([[formula(o[i], r) for r in own[i]] for i in range(3)]), output)  # fmt: skip


@pytest.mark.parametrize("shift", [False, True], ids=["", "shift"])
def test_sequence(shift):
    output = torch.randn(3, 4, 6)
    tokens = [[5, 0, 1, 1], [2, 3, -100, -100], [-100, 4, 4, 0]]
    first, last = (1, 3) if shift else (0, 4)

    def formula(output):
        return [tiny.log_probability(output[i, :last], tokens[i][first:], -100) for i in range(3)]

    agree(SequenceScore(tokens, shift=shift), lambda o: stack([sum(row) for row in formula(o)]), output)
    agree(SequenceScore(tokens, shift=shift, reduction="mean"), lambda o: stack([sum(row) / len(row) for row in formula(o)]), output)  # fmt: skip
    raw = lambda o: stack([sum(o[i, t - first, k] for t, k in enumerate(row) if t >= first and k >= 0) for i, row in enumerate(tokens)])  # noqa: E501, E731  # fmt: skip
    agree(SequenceScore(torch.tensor(tokens), shift=shift, form="raw"), raw, output)
    each = SequenceScore(tokens, shift=shift, each=True)
    kept = torch.tensor(tokens)[:, first:] >= 0
    agree(lambda o: each(o)[kept], lambda o: torch.cat([stack(row) for row in formula(o)]), output)
    assert not each(output)[~kept].any()
    assert each.absent(output).equal(~kept)
    same = [1, 2, 0, 5]
    every = lambda o: stack([sum(tiny.log_probability(row[:last], same[first:], -1)) for row in o])  # noqa: E731
    agree(SequenceScore(same, -1, shift), every, output)
    close(SequenceScore(same, 0, shift)(tiny.Caption(output)), stack([sum(tiny.log_probability(row[:last], same[first:], 0)) for row in output]))  # fmt: skip


def test_regression_and_parts():
    output = torch.randn(3, 2, 4)
    agree(RegressionScore((1, -1)), lambda o: stack([row[1][3] for row in o]), output)
    agree(RegressionScore([(1, 2), (0, 0)]), lambda o: stack([[row[1][2], row[0][0]] for row in o]), output)
    agree(RegressionScore(1), lambda o: o[:, 1], output[:, 0])
    agree(RegressionScore(), lambda o: o, output[:, 0, 0])
    agree(RegressionScore(), lambda o: o[:, 0], output[:, 0, :1])
    scores = output[:, 0]
    nested = {"heads": [None, tiny.Caption(scores)]}
    close(PartScore(["heads", 1, "logits"], 2)(nested), scores[:, 2])
    close(PartScore(["heads", -1, "logits"])(nested), scores.amax(1))
    close(PartScore("a", [lambda row, k=k: row[k] for k in range(3)])({"a": scores}), scores.diag())
    close(PartScore("boxes", DetectionScore([[0, 0, 1, 1]], 0, missing="zero"))({"boxes": detections()}), [0, 0])
