"""DetectionScore and DenseDetections beside formulas in loops: which boxes meet, their scores and gradients."""

import pytest
import torch
from torch.autograd import gradcheck

import task_models as tiny
from fusedcam.compat import pgc_targets as theirs
from fusedcam.torch import DenseDetections, DetectionScore
from rare_models import close, double  # noqa: F401
from task_models import agree, stack

pytestmark = pytest.mark.usefixtures("double")


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
    images[0]["boxes"].requires_grad_()
    for form in ("sum", "product", "score"):
        target = DetectionScore([box, images[1]["boxes"][:1].detach(), box], 0, 0.5, form, missing="zero")
        found = torch.autograd.grad(
            target(images).sum(), [images[0]["scores"], images[0]["boxes"]], allow_unused=form == "score"
        )
        assert all(one is None or one.isfinite().all() for one in found)
        assert found[0].any()


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
    agree(
        target,
        lambda o: stack(
            [sum(tiny.matched(given[i][0], None, image, 0.5)) for i, image in enumerate(formula(o, "xywh"))]
        ),
        output,
    )
