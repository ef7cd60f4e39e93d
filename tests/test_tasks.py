"""Targets of every task beside formulas in loops: their scores, and what autograd has for both."""

import math

import pytest
import torch

import task_models as tiny
from fusedcam.compat import pgc_targets as theirs
from fusedcam.torch import (
    BinaryScore,
    ClassScore,
    MarginScore,
    PartScore,
    RegressionScore,
    SegmentationScore,
    SequenceScore,
    SimilarityScore,
)
from rare_models import close, double  # noqa: F401
from task_models import agree, stack

pytestmark = pytest.mark.usefixtures("double")


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
    agree(
        MarginScore(ours, against),
        lambda o: stack([[o[i, ours[i][j]] - o[i, against[i][j]] for j in (0, 1)] for i in range(3)]),
        output,
    )


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
    output = torch.randn(3, 4, 7, 9)
    masks = {"one mask": torch.rand(7, 9) > 0.5, "masks": (torch.rand(3, 7, 9) > 0.5).numpy(), "predicted": None}
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
    for shape in ((2, 3, 60), (2, 3, 4, 5, 3)):
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


@pytest.mark.parametrize("measure", ["cosine", "dot"])
def test_similarity(measure):
    output, one, several, own = torch.randn(3, 5), torch.randn(5), torch.randn(4, 5), torch.randn(3, 2, 5)

    def formula(e, r):
        product = sum(e[d] * r[d] for d in range(5))
        return product / (sum(e * e).sqrt() * sum(r * r).sqrt()) if measure == "cosine" else product

    agree(SimilarityScore(one, measure), lambda o: stack([formula(e, one) for e in o]), output)
    agree(
        SimilarityScore(several.numpy(), measure),
        lambda o: stack([[formula(e, r) for r in several] for e in o]),
        output,
    )
    agree(
        SimilarityScore(own, measure), lambda o: stack([[formula(o[i], r) for r in own[i]] for i in range(3)]), output
    )


@pytest.mark.parametrize("shift", [False, True], ids=["", "shift"])
def test_sequence(shift):
    output = torch.randn(3, 4, 6)
    tokens = [[5, 0, 1, 1], [2, 3, -100, -100], [-100, 4, 4, 0]]
    first, last = (1, 3) if shift else (0, 4)

    def formula(output):
        return [tiny.log_probability(output[i, :last], tokens[i][first:], -100) for i in range(3)]

    agree(SequenceScore(tokens, shift=shift), lambda o: stack([sum(row) for row in formula(o)]), output)
    agree(
        SequenceScore(tokens, shift=shift, reduction="mean"),
        lambda o: stack([sum(row) / len(row) for row in formula(o)]),
        output,
    )

    def raw(o):
        return stack(
            [
                sum(o[i, t - first, k] for t, k in enumerate(row) if t >= first and k >= 0)
                for i, row in enumerate(tokens)
            ]
        )

    agree(SequenceScore(torch.tensor(tokens), shift=shift, form="raw"), raw, output)
    each = SequenceScore(tokens, shift=shift, each=True)
    kept = torch.tensor(tokens)[:, first:] >= 0
    agree(lambda o: each(o)[kept], lambda o: torch.cat([stack(row) for row in formula(o)]), output)
    assert not each(output)[~kept].any()
    assert each.absent(output).equal(~kept)
    same = [1, 2, 0, 5]
    every = lambda o: stack([sum(tiny.log_probability(row[:last], same[first:], -1)) for row in o])  # noqa: E731
    agree(SequenceScore(same, -1, shift), every, output)
    close(
        SequenceScore(same, 0, shift)(tiny.Caption(output)),
        stack([sum(tiny.log_probability(row[:last], same[first:], 0)) for row in output]),
    )


def test_no_images():
    """Scores of an empty batch, which explainers take."""
    for target, shape, wanted in (
        (ClassScore(1, "log_odds"), (0, 3), (0,)),
        (ClassScore(None), (0, 3), (0,)),
        (MarginScore(1), (0, 3), (0,)),
        (BinaryScore(), (0, 1), (0,)),
        (SegmentationScore(1), (0, 3, 4, 4), (0,)),
        (SegmentationScore(1, torch.ones(4, 4)), (0, 3, 4, 4), (0,)),
        (SimilarityScore(torch.ones(2, 3)), (0, 3), (0, 2)),
        (SequenceScore([1, 2], each=True), (0, 2, 3), (0, 2)),
        (RegressionScore([0, 2]), (0, 3), (0, 2)),
        (PartScore("a"), (0, 3), (0,)),
    ):
        output = torch.zeros(shape)
        assert target({"a": output} if isinstance(target, PartScore) else output).shape == wanted


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
    close(PartScore("values", SimilarityScore(torch.ones(4), "dot"))({"values": scores}), scores.sum(1))
