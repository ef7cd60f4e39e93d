"""FinerScore and FinerCAM: the paper's comparison by hand and by NumPy, the peers' where they agree, refusals."""

import numpy as np
import pytest
import torch

from capture_models import CLASSES, Net, Returning, plain_gradients, unchanged
from fusedcam.torch import FinerCAM, FinerScore, GradCAM, ShapleyCAM
from peer_models import images, network, pytorch_grad_cam
from rare_models import Last, close, double, gradcam  # noqa: F401

pytestmark = pytest.mark.usefixtures("double")


def compared(row, target, similar, alpha, weighting):
    """The score of one image by NumPy, the weights by the authors' quotient of probabilities."""
    order = [j for j in np.argsort(abs(row - row[target]), kind="stable") if j != target]
    others = order[:similar] if isinstance(similar, int) else list(similar)
    if weighting == "mean":
        weights = np.full(len(others), 1 / len(others))
    else:
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        weights = p[others] / p[others].sum()
    return row[target] - alpha * (weights * row[others]).sum()


def test_by_hand():
    output = torch.tensor([[1.0, 3.0, 2.5, 0.0], [4.0, -1.0, 0.0, 1.0]])
    close(FinerScore(similar=2, alpha=0.5)(output), [3 - 0.5 * (2.5 + 1) / 2, 4 - 0.5 * (1 + 0) / 2])
    close(FinerScore([2, 1], similar=1, alpha=1)(output), [2.5 - 3, -1 - 0])
    close(FinerScore(similar=9, alpha=1)(output), [3 - 3.5 / 3, 4 - 0])  # no more than there are
    close(FinerScore(0, similar=[3, 1], alpha=2)(output), [1 - 2 * 1.5, 4 - 0])
    e = np.e
    close(FinerScore(0, similar=[2, 3], alpha=1, weighting="probability")(output)[1], 4 - e / (1 + e))


@pytest.mark.parametrize("weighting", ["mean", "probability"])
@pytest.mark.parametrize("similar", [1, 3, (0, 4)], ids=str)
def test_classes(similar, weighting):
    output = 3 * torch.randn(4, 6)
    rows = [[1, 2], [2, 5], [3, 3], [5, 1]]
    wanted = [
        [compared(row, k, similar, 0.7, weighting) for k in ks] for row, ks in zip(output.numpy(), rows, strict=True)
    ]
    several = FinerScore(rows, similar, 0.7, weighting)(output)
    close(several, wanted)
    close(FinerScore([ks[1] for ks in rows], similar, 0.7, weighting)(output), several[:, 1])
    if isinstance(similar, int):
        first = [compared(row, row.argmax(), similar, 0.7, weighting) for row in output.numpy()]
        close(FinerScore(None, similar, 0.7, weighting)(output), first)


def test_far_apart_scores_have_weights():
    """All probabilities of similar classes underflow; their shares do not."""
    output = torch.tensor([[2000.0, 0.0, 1.0]])
    score = FinerScore(0, similar=2, weighting="probability", alpha=1)(output)
    close(score, [2000 - np.e / (1 + np.e)])


@pytest.mark.parametrize("alpha", [0, 0.6, 1.5])
def test_map(alpha):
    model, x = Net().eval(), torch.rand(3, 3, 21, 18)
    with torch.no_grad():
        output = model(x)
    first = output.argmax(1)
    gaps = (output - output.gather(1, first[:, None])).abs()
    others = gaps.argsort(1)[:, 1:3]
    score = lambda output: output.gather(1, first[:, None])[:, 0] - alpha * output.gather(1, others).mean(1)  # noqa: E731
    activations, gradients = plain_gradients(model, model.body, x, score)
    explain = FinerCAM(model, "body", similar=2, alpha=alpha)
    with unchanged(model), torch.inference_mode():
        heat = explain(x, relu=False, normalize=None)
    wanted = [
        gradcam(a.numpy(), g[0].numpy().mean((1, 2)), (21, 18), relu=False)
        for a, g in zip(activations, gradients, strict=True)
    ]
    close(heat, np.stack(wanted))
    close(explain.output, output)
    assert explain.plan.layer == "body"
    assert explain.plan.recording == "from the layer"
    score = FinerScore(similar=2, alpha=alpha)
    close(GradCAM(model, "body")(x, targets=score, relu=False, normalize=None), heat)
    if alpha == 0:
        close(heat, GradCAM(model, "body")(x, relu=False, normalize=None))


def test_several_classes_and_other_explainers():
    model, x = Net().eval(), torch.rand(2, 3, 21, 18)
    rows = [[1, 4], [0, 2]]
    heat = FinerCAM(model)(x, targets=rows)
    assert heat.shape == (2, 2, 21, 18)
    for k in range(2):
        close(heat[:, k], FinerCAM(model)(x, targets=[row[k] for row in rows]))
    score = FinerScore(1, weighting="probability")
    # Its score bends even where the network does not, by the weights.
    raw = {"relu": False, "normalize": None}
    curved, plain = ShapleyCAM(model)(x, targets=score, **raw), GradCAM(model)(x, targets=score, **raw)
    assert (curved - plain).abs().max() > 1e-6 * plain.abs().max()
    close(ShapleyCAM(model)(x, targets=FinerScore(1), **raw), GradCAM(model)(x, targets=FinerScore(1), **raw))


def test_layers_with_their_channels_last():
    model, x = Last().eval(), torch.rand(2, 3, 12, 16)
    for options in ({"layout": "last"}, {"tokens": (3, 4)}):
        layer = "last" if "layout" in options else "tokens"
        wanted = GradCAM(model, layer, **options)(x, targets=FinerScore([1, 3]), size=None, relu=False)
        assert wanted.shape == (2, 3, 4)
        close(FinerCAM(model, layer, **options)(x, targets=[1, 3], size=None, relu=False), wanted)
    assert FinerCAM(model, "last", layout="last")(x[:0]).shape == (0, 12, 16)


def test_pytorch_grad_cam():
    """Its weighted comparison; its maps are normalised twice, with 1e-7 added."""
    package = pytorch_grad_cam()
    model, x = network("residual").double(), images(3, 3, 40, 56).double()
    target = package.utils.model_targets.FinerWeightedTarget
    output = model(x).detach()
    theirs = torch.stack([target(2, [0, 5], 0.8)(row) for row in output])
    close(FinerScore(2, [0, 5], 0.8, "probability")(output), theirs, 1e-8)
    expected = package.FinerCAM(model, [model.layer3])(x, None, alpha=1)
    close(FinerCAM(model, "layer3", alpha=1, weighting="probability")(x), expected, 1e-5)


def test_torchcam():
    from torchcam import methods

    model, x = network("residual").double(), images(3, 3, 40, 56).double()
    classes = [2, 0, 5]
    with methods.FinerCAM(model, "layer3", gamma=0.6, num_references=3) as extract:
        expected = extract(classes, model(x.clone().requires_grad_()), normalized=False)[0]
    close(FinerCAM(model, "layer3")(x, targets=classes, size=None, normalize=None), expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"targets": lambda output: output[:, 0]}, TypeError, "targets: a callable came"),
        ({"targets": [lambda output: output[0]]}, TypeError, "targets: a callable came"),
        ({"similar": 0}, ValueError, "similar is 0; accepted is 1 or more"),
        ({"similar": []}, ValueError, "similar is an empty list"),
        ({"similar": True}, TypeError, "similar is True"),
        ({"similar": "23"}, TypeError, "similar is '23'"),
        ({"similar": 2.5}, TypeError, "similar is of type float"),
        ({"alpha": float("nan")}, ValueError, "alpha is nan"),
        ({"alpha": "1"}, TypeError, "alpha is of type str"),
        ({"weighting": "softmax"}, ValueError, 'weighting is \'softmax\'; accepted: "mean", "probability"'),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value),
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        FinerScore(**options)


def test_refusals_when_called():
    model, x = Net().eval(), torch.rand(2, 3, 21, 18)
    for options, message in (
        ({"similar": [CLASSES]}, f"similar: class {CLASSES} is out of range; 0 to {CLASSES - 1} are accepted"),
        ({"similar": [0, 1]}, "similar: class 1 is explained itself"),
    ):
        with pytest.raises(ValueError, match=message):
            FinerCAM(model, "body", **options)(x, targets=[1, 2])
    with pytest.raises(ValueError, match="targets: class 9 is out of range"):
        FinerCAM(model, "body")(x, targets=9)
    with pytest.raises(TypeError, match="targets: a callable came"):
        FinerCAM(model, "body")(x, targets=lambda output: output[:, 0])
    with pytest.raises(ValueError, match="method is 'finercam'; accepted: gradcam"):
        FinerCAM(model, "body", method="finercam")
    with pytest.raises(ValueError, match="the model has one class"):
        FinerScore()(torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"classes need an output \[N, classes\]"):
        FinerScore()(torch.ones(2))
    pair = Returning(lambda extra, maps: (extra, maps), lambda output: output[1]).eval()
    with pytest.raises(ValueError, match="the model returned tuple"):
        FinerCAM(pair, "layer")(x)
    with pytest.raises(TypeError, match="model is of type int"):
        FinerCAM(1)
    with pytest.raises(AttributeError, match="output is there after a call"):
        _ = FinerCAM(model, "body").output


def test_reference_is_apart():
    """The oracle itself: a class compared with all others by equal weights is the mean's difference."""
    row = np.array([0.5, -1, 2, 4.0])
    assert compared(row, 2, 3, 1, "mean") == pytest.approx(2 - (0.5 - 1 + 4) / 3)
    assert compared(row, 2, 1, 1, "probability") == pytest.approx(2 - 0.5)
