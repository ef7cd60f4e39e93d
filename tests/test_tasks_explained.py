"""Targets of every task through explainers of small networks: maps beside plain autograd's gradients and NumPy."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import fusedcam.torch.tasks
import task_models as tiny
from capture_models import Net, plain_gradients, unchanged
from fusedcam.torch import (
    BinaryScore,
    ClassScore,
    DenseDetections,
    DetectionScore,
    FullGrad,
    GradCAM,
    MarginScore,
    PartScore,
    RegressionScore,
    ScoreCAM,
    SegmentationScore,
    SequenceScore,
    SimilarityScore,
    Smoothed,
)
from fusedcam.torch.metrics import deletion
from rare_models import close, double, gradcam  # noqa: F401
from task_models import stack

pytestmark = pytest.mark.usefixtures("double")

SIZE = (21, 18)


def images(n=2):
    return torch.rand(n, 3, *SIZE)


def explained(model, x, target, formula, *args, layer=None):
    """The explainer's maps are those of the formula's gradients; returns them, [N, K, H, W]."""
    model = model.eval()
    layer = model.features.body if layer is None else layer
    activations, gradients = plain_gradients(lambda x: model(x, *args), layer, x, formula)
    wanted = [
        [gradcam(a, g.mean((1, 2)), SIZE, relu=False) for g in rows]
        for a, rows in zip(activations.numpy(), gradients.numpy(), strict=True)
    ]
    wanted = torch.as_tensor(np.array(wanted))
    assert wanted.flatten(2).abs().amax(2).min() > 1e-9, "a map of zeros says nothing"
    explain = GradCAM(model, layer)
    with unchanged(model):
        heat = explain(x, *args, targets=target, relu=False, normalize=None)
    close(heat.reshape(wanted.shape), wanted)
    assert explain.plan.recording == "from the layer"
    return heat


def test_classification():
    model, x = Net(), images()
    p = lambda o: o.exp() / o.exp().sum(1, keepdim=True)  # noqa: E731
    explained(model, x, ClassScore(1, "log_softmax"), lambda o: p(o)[:, 1].log(), layer=model.body)
    explained(model, x, ClassScore(1, "log_odds"), lambda o: (p(o)[:, 1] / (1 - p(o)[:, 1])).log(), layer=model.body)
    explained(model, x, MarginScore(2, 0), lambda o: o[:, 2] - o[:, 0], layer=model.body)
    heat = explained(model, x, ClassScore(3), lambda o: o[:, 3], layer=model.body)
    close(heat, GradCAM(model, model.body)(x, targets=3, relu=False, normalize=None))


@pytest.mark.parametrize("flat", [True, False], ids=["N", "N, 1"])
def test_binary(flat):
    x = images()
    model = tiny.Binary(flat)
    up = explained(model, x, BinaryScore(1), lambda o: o.reshape(-1))
    close(
        explained(model, x, BinaryScore([[0, 1]] * 2), lambda o: torch.stack([-o.reshape(-1), o.reshape(-1)], 1))[:, 0],
        -up,
    )


@pytest.mark.parametrize("given", ["mask", "predicted"])
def test_segmentation(given):
    model, x = tiny.Segmenter().eval(), images()
    mask = torch.rand(2, *SIZE) > 0.6 if given == "mask" else None
    with torch.no_grad():
        first = model(x)["out"].argmax(1)
    rows = [[int(k) for k in one.unique()[:1]] * 2 for one in first]

    def formula(output):
        regions = [(maps.argmax(0) if mask is None else mask[i]) for i, maps in enumerate(output["out"])]
        return stack(
            [
                [tiny.over_region(output["out"][i], k, regions[i] == k if mask is None else regions[i]) for k in row]
                for i, row in enumerate(rows)
            ]
        )

    explained(model, x, SegmentationScore(rows, mask), formula)
    close(
        GradCAM(model, "features.body")(x, targets=PartScore("aux", SegmentationScore(0, torch.ones(10, 8)))),
        GradCAM(model, "features.body")(x, targets=lambda o: o["aux"][:, 0].sum((1, 2))),
    )


def as_list(kind, output, background=None):
    """What the dense networks return, as lists: in loops."""
    boxes, logits = (output[..., :4], output[..., 4:]) if kind == "tensor" else (output["pred_boxes"], output["logits"])
    found = []
    for box, logit in zip(boxes, logits, strict=True):
        kept = [q for q in range(len(box)) if background is None or logit[q].argmax() != background]
        corners = [torch.cat([box[q, :2] - box[q, 2:] / 2, box[q, :2] + box[q, 2:] / 2]) for q in kept]
        scores = [logit[q] if kind == "tensor" else logit[q].exp() / logit[q].exp().sum() for q in kept]
        labels = torch.tensor([int(logit[q].argmax()) for q in kept])
        found.append(
            {"boxes": torch.stack(corners), "labels": labels, "scores": torch.stack([s.max() for s in scores])}
        )
    return found


@pytest.mark.parametrize("form", ["sum", "product", "score"])
@pytest.mark.parametrize("kind", ["list", "parts", "tensor"])
def test_detection(kind, form):
    model, x = tiny.Detector(kind).eval(), images(3)
    read = (
        (lambda o: o) if kind == "list" else lambda o: as_list(kind, o, tiny.CLASSES - 1 if kind == "parts" else None)
    )
    with torch.no_grad():
        there = read(model(x))
    boxes = [image["boxes"][:2] + 0.02 * torch.rand(2, 4) - 0.01 for image in there]
    labels = [image["labels"][:2].tolist() for image in there]

    def formula(output):
        rows = []
        for given, label, image in zip(boxes, labels, read(output), strict=True):
            pairs = [tiny.matched(given[j], label[j], image, 0.5) for j in (0, 1)]
            values = {
                "sum": [o + p for o, p in pairs],
                "product": [o * p for o, p in pairs],
                "score": [p for _, p in pairs],
            }
            rows.append(values[form])
        return stack(rows)

    explained(model, x, DetectionScore(boxes, labels, form=form, each=True), formula)
    heat = explained(model, x, DetectionScore(boxes, labels, form=form), lambda o: formula(o).sum(1))
    if kind != "list":
        dense = DenseDetections() if kind == "parts" else DenseDetections(activation=None, background=None)
        target = DetectionScore(boxes, labels, form=form, read=dense)
        close(GradCAM(model, "features.body")(x, targets=target, relu=False, normalize=None), heat)


def test_detection_of_nothing():
    """An image without the box is an error, or a map of zeros beside the others' own."""
    model, x = tiny.Detector().eval(), images(3)
    there = model(x)
    boxes = [image["boxes"][:1].detach() for image in there]
    labels = [image["labels"][:1].tolist() for image in there]
    boxes[1] = boxes[1] + 7
    explain, raw = GradCAM(model, "features.body"), {"relu": False, "normalize": None}
    with pytest.raises(ValueError, match=r"no predicted box of label \d overlaps box 0 of image 1 by more than"):
        explain(x, targets=DetectionScore(boxes, labels))
    target = DetectionScore(boxes, labels, form="score", missing="zero")
    for each in (
        target,
        DetectionScore(boxes, labels, form="score", each=True, missing="zero"),
        PartScore("list", target),
    ):
        run = GradCAM(Listed(model).eval(), "model.features.body") if isinstance(each, PartScore) else explain
        heat = run(x, targets=each, **raw).reshape(3, *SIZE)
        assert not heat[1].any()
        for i in (0, 2):
            close(heat[i], explain(x[i : i + 1], targets=DetectionScore(boxes[i], labels[i], form="score"), **raw)[0])
    assert not explain(x[1:2], targets=DetectionScore(boxes[1], labels[1], missing="zero"), **raw).any()
    smoothed = Smoothed(explain, flips=False)(x, targets=target, **raw)
    assert not smoothed[1].any()
    assert smoothed[0].any()
    assert FullGrad(model)(x, targets=target)[0].any()


class Listed(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return {"list": self.model(x)}


def test_a_score_that_the_layer_has_no_part_in():
    """Zeros that nobody has announced are still an error, whatever another output of the layer makes of the boxes."""

    class Deaf(tiny.Detector):
        def forward(self, x):
            found = super().forward(x)
            found[1] = {name: part.detach() for name, part in found[1].items()}
            return found

    model, x = Deaf().eval(), images()
    boxes = [image["boxes"][:1].detach() for image in model(x)]
    with pytest.raises(ValueError, match="the score of image 1 does not depend on the model's output"):
        GradCAM(model, "features.body")(x, targets=DetectionScore(boxes, missing="zero"))

    class Stuck(tiny.Detector):
        def forward(self, x):
            found = super().forward(x)
            found[1] = {"boxes": torch.tensor([[0.0, 0, 1, 1]]), "scores": 0 * found[1]["scores"][:1] + 0.5}
            return found

    with pytest.raises(ValueError, match="for image 1 its gradient is zero everywhere"):
        GradCAM(Stuck().eval(), "features.body")(
            x, targets=DetectionScore([boxes[0], [[0, 0, 1, 1]]], iou_threshold=0, form="score")
        )


def test_a_dead_layer_is_no_error():
    """A gradient of zeros, and boxes that another output of the layer moves away: the maps are zeros."""

    class Dead(tiny.Detector):
        def forward(self, x):
            alive = (self.features(x) - 5).relu().sum((1, 2, 3))
            return [{"boxes": torch.tensor([[0.0, 0, 1, 1]]) + one, "scores": 0.5 + one[None]} for one in alive]

    model, x = Dead().eval(), images()
    target = DetectionScore([[0, 0, 1, 1]])
    assert not GradCAM(model, "features.body")(x, targets=target).any()
    assert not Smoothed(GradCAM(model, "features.body"), flips=False)(x, targets=target).any()
    listed = Listed(model).eval()
    assert not GradCAM(listed, "model.features.body")(x, targets=PartScore("list", target)).any()


def test_without_gradients():
    """Score-CAM by its formula, a masked image a channel: masked images without the box score 0."""
    model, x = tiny.Detector().eval(), images()
    with torch.no_grad():
        there = model(x)
        maps = torch.nn.functional.interpolate(
            model.features.body(torch.tanh(model.features.stem(x))), SIZE, mode="bilinear"
        )
    boxes = [image["boxes"][:1] for image in there]
    target = DetectionScore(boxes, [image["labels"][:1].tolist() for image in there], 0.6, missing="zero")
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    masks = (maps - low) / (high - low)
    with torch.no_grad():
        scores = torch.stack([target(model(x * masks[:, c : c + 1])) for c in range(maps.shape[1])], 1)
    seen = []
    spy = lambda output: seen.append(target(output)) or seen[-1]  # noqa: E731
    heat = ScoreCAM(model, "features.body")(x, targets=spy)
    assert heat.shape == (2, *SIZE)
    found = torch.stack(seen[-maps.shape[1] :], 1)
    close(found, scores)
    mask = torch.ones(SIZE)
    curve = deletion(tiny.Segmenter().eval(), x, torch.rand(2, *SIZE), targets=SegmentationScore(1, mask), step=99)
    assert curve.scores.shape[0] == 2


def test_embeddings():
    model, x = tiny.Embedder(), images()
    references = torch.randn(3, 5)
    cosine = lambda e, r: (e * r).sum() / ((e * e).sum().sqrt() * (r * r).sum().sqrt())  # noqa: E731
    explained(model, x, SimilarityScore(references), lambda o: stack([[cosine(e, r) for r in references] for e in o]))
    explained(model, x, SimilarityScore(references[0], "dot"), lambda o: o @ references[0])


@pytest.mark.parametrize("shift", [False, True], ids=["", "shift"])
def test_sequences(shift):
    model, x = tiny.Captioner(), images()
    tokens = torch.tensor([[1, 4, 6, 0], [3, 2, -100, -100]])
    first, last = (1, 3) if shift else (0, 4)

    def formula(output):
        return [
            tiny.log_probability(o[:last], t[first:], -100) for o, t in zip(output.logits, tokens.tolist(), strict=True)
        ]

    explained(model, x, SequenceScore(tokens, shift=shift), lambda o: stack([sum(row) for row in formula(o)]), tokens)
    heat = GradCAM(model, "features.body")(
        x, tokens, targets=SequenceScore(tokens, shift=shift, each=True), relu=False, normalize=None
    )
    assert heat.shape == (2, 4 - first, *SIZE)
    for t in range(2 - first):
        wanted = GradCAM(model, "features.body")(
            x, tokens, targets=lambda o, t=t: stack([row[t] for row in formula(o)]), relu=False, normalize=None
        )
        close(heat[:, t], wanted)
    assert not heat[1, 2 - first :].any()
    assert heat[0].flatten(1).any(1).all()


def test_regression():
    model, x = tiny.Regressor(), images()
    explained(model, x, RegressionScore((1, 2)), lambda o: o[:, 1, 2])
    explained(model, x, RegressionScore([(0, 0), (1, -2)]), lambda o: torch.stack([o[:, 0, 0], o[:, 1, 1]], 1))


def test_the_page_runs():
    page = (Path(__file__).resolve().parent.parent / "docs" / "tasks.md").read_text()
    torch.set_default_dtype(torch.float32)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 7
    for block in blocks:
        exec(block, names)
        heat = names["heat"]
        assert heat.isfinite().all()
        assert (heat.amax((-2, -1)) == 1).all()
    listed = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    assert listed == {*fusedcam.torch.tasks.__all__}
    assert listed <= {*fusedcam.torch.__all__}
