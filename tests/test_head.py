"""Gradients behind a global pool and from a classifier's rows: equal to plain autograd's, class by class."""

import pytest
import torch
from torch import nn

import fusedcam
from capture_models import expected, plain_gradients, unchanged
from fusedcam.torch import GradCAM, LayerCAM
from fusedcam.torch.explainer import Finish
from fusedcam.torch.finishing import weighted
from head_models import CHANNELS, CLASSES, HEADS, Headed, captured, close

pytestmark = pytest.mark.usefixtures("doubles")


def chosen(rows):
    return lambda output: output.gather(1, rows)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", HEADS)
def test_gradients_are_autograds(name, n):
    head, shortcut = HEADS[name]
    model = Headed(head()).eval()
    if shortcut == "mixed":
        shortcut = "linear" if n == 1 else "pooled"
    x = torch.rand(n, 3, 7, 6)
    classes = model(x).shape[1]
    rows = torch.randint(classes, (n, 7))
    rows[0] = rows[0, 0]  # tied
    plain = plain_gradients(model, model.layer, x, chosen(rows))
    for allowed in (True, False):
        explain = GradCAM(model, "layer", shortcut=allowed)
        for _ in range(2):
            with unchanged(model):
                found = captured(explain, x, rows)
            assert found.plan.shortcut == (shortcut if allowed else "none")
            assert (found.gradients.stride()[-2:] == (0, 0)) == (found.plan.shortcut != "none")
            if "in place" not in name:  # where plain autograd sees the layer's output after it was overwritten
                close(found.activations, plain[0])
                close(found.gradients, plain[1])
        close(captured(explain, x, rows[:, 0]).gradients, captured(explain, x, rows).gradients[:, 0])
        close(captured(explain, x, lambda output, rows=rows: output.gather(1, rows)).gradients, found.gradients)


@pytest.mark.parametrize("name", ["linear", "hidden layer", "no pooling"])
@pytest.mark.parametrize("n", [1, 3])
def test_every_class(name, n):
    model, x = Headed(HEADS[name][0]()).eval(), torch.rand(n, 3, 7, 6)
    explain = GradCAM(model, "layer")
    for options in ({"size": None, "normalize": None, "relu": False}, {}):
        heat = explain(x, targets="all", **options)
        assert heat.shape[:2] == (n, CLASSES)
        close(heat, expected(model, model.layer, x, lambda output: output, **options), 1e-9)
        for k in range(CLASSES):
            close(explain(x, targets=k, **options), heat[:, k], 1e-9)
    assert explain.plan.shortcut == HEADS[name][1]
    with pytest.raises(TypeError, match="a class is given as 'every'"):
        explain(x, targets="every")


@pytest.mark.parametrize("method", fusedcam.METHODS.values(), ids=lambda method: method.name)
def test_every_method_by_every_way(method):
    """Those that read each pixel's gradient too, by the zero strides."""
    model, x = Headed(HEADS["linear"][0]()).eval(), torch.rand(2, 3, 7, 6)
    kind = getattr(fusedcam.torch, method.class_name)
    options = {"size": None, "normalize": None}
    dense = kind(model, "layer", shortcut=False)(x, targets="all", **options)
    assert dense.any()
    close(kind(model, "layer")(x, targets="all", **options), dense)
    close(kind(model, "layer")(x, targets=lambda output: output * 1, **options), dense)


@pytest.mark.parametrize("kind", [fusedcam.torch.EigenGradCAM, fusedcam.torch.SegEigenCAM])
def test_projections(kind):
    model, x = Headed(HEADS["linear"][0]()).eval(), torch.rand(2, 3, 7, 6)
    options = {"size": None, "normalize": None}
    dense = kind(model, "layer", shortcut=False)(x, targets="all", **options)
    close(kind(model, "layer")(x, targets="all", **options), dense, 1e-9)


def test_many_classes_by_a_matrix_product():
    """Of more classes than the native call is asked for, and in float32."""
    torch.set_default_dtype(torch.float32)
    model = Headed(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 300))).eval()
    x = torch.rand(2, 3, 7, 6)
    for targets in ("all", torch.randint(300, (2, 40))):
        rows = torch.arange(300).expand(2, 300) if isinstance(targets, str) else targets
        for options in ({"size": None, "normalize": None, "relu": False}, {}):
            heat = GradCAM(model, "layer")(x, targets=targets, **options)
            wanted = expected(model, model.layer, x, chosen(rows), **options)
            if options:
                close(heat, wanted, 1e-6)
                span = (wanted.relu().amax((-1, -2)) - wanted.relu().amin((-1, -2)))[..., None, None]
            else:  # a map of a narrow range shows more of its rounding
                assert (abs(heat - wanted) <= 1e-6 + 2e-6 / span).all()


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("nan", ["propagate", "zero"])
def test_the_matrix_product_is_the_native_calls(images, nan):
    """Of layers whose values are no numbers, in other orders of memory, and whatever the caller's autocast."""
    activations = torch.randn(4, 5, 3, 6).permute(1, 3, 2, 0)[::2, :, :, :2].float()
    weights = torch.randn(images, 40, 6).float()
    activations[1, 2, 1, 0], activations[2, 3, 0, 0] = torch.nan, torch.inf
    for normalize in (None, "minmax"):
        finish = Finish(7, True, normalize, nan)
        with torch.autocast("cpu", torch.bfloat16):
            found = weighted(activations, weights, finish)
        wanted = fusedcam.cam(activations, weights=weights, **finish._asdict())
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", ["linear", "parametrized linear", "convolution of one pixel"])
def test_changed_weights(name):
    model, x = Headed(HEADS[name][0]()).eval(), torch.rand(2, 3, 7, 6)
    explain = GradCAM(model, "layer")
    for change in ("no", "in place", "its data", "another tensor", "an optimizer"):
        weight = [p for p in model.head.parameters() if p.ndim > 1][-1]
        with torch.no_grad():
            if change == "in place":
                weight.mul_(torch.rand_like(weight))
            elif change == "its data":  # which counts no version
                weight.data.mul_(torch.rand_like(weight))
            elif change == "another tensor":
                weight.data = torch.rand_like(weight)
        if change == "an optimizer":
            model(x).square().sum().backward()
            torch.optim.SGD(model.parameters(), 0.1).step()
            model.zero_grad()
        wanted = plain_gradients(model, model.layer, x, lambda output: output)[1]
        found = captured(explain, x, "all")
        assert found.plan.shortcut == "linear"
        close(found.gradients, wanted)
        close(captured(explain, x, None).gradients, wanted[torch.arange(2), model(x).argmax(1)])


def test_weights_that_tell_nothing():
    """Of equal channels in whatever order the rows are the gradients; not once they differ, be that unseen."""
    model, x = Headed(HEADS["channels shuffled"][0]()).eval(), torch.rand(2, 3, 7, 6)
    nn.init.constant_(model.fc.weight, 0.5)
    explain = GradCAM(model, "layer")
    for shortcut in ("linear", "pooled"):
        found = captured(explain, x, "all")
        assert found.plan.shortcut == shortcut
        close(found.gradients, plain_gradients(model, model.layer, x, lambda output: output)[1])
        model.fc.weight.data.copy_(torch.rand_like(model.fc.weight))


def test_a_frozen_model():
    model, x = Headed(HEADS["linear"][0]()).eval().requires_grad_(False), torch.rand(2, 3, 7, 6)
    found = captured(GradCAM(model, "layer"), x, "all")
    assert found.plan.shortcut == "linear"
    close(found.gradients, model.head[2].weight[None, :, :, None, None].expand(2, -1, -1, 5, 4) / 20)


def test_what_comes_does_not_follow_the_weights():
    """Nor hold the graph."""
    model, x = Headed(HEADS["linear"][0]()).eval(), torch.rand(2, 3, 7, 6)
    found = captured(GradCAM(model, "layer"), x, "all")
    before = found.gradients.clone()
    assert not found.gradients.requires_grad
    with torch.no_grad():
        model.head[2].weight.mul_(2)
    assert torch.equal(found.gradients, before)


@pytest.mark.parametrize("value", [True, False])
def test_the_plan_says_which(value):
    explain = GradCAM(Headed(HEADS["linear"][0]()).eval(), "layer", shortcut=value)
    explain(torch.rand(1, 3, 7, 6))
    assert ("gradients from the classifier's rows" in str(explain.plan)) == value
    explain(torch.rand(1, 3, 7, 6), targets=lambda output: output[:, 0])
    assert ("differentiated up to the pooling" in str(explain.plan)) == value


def test_shortcut_is_a_bool():
    for kind in (GradCAM, LayerCAM, fusedcam.torch.EigenGradCAM):
        with pytest.raises(TypeError, match="shortcut is 1; accepted: True, False"):
            kind(nn.Conv2d(3, 3, 1), "", shortcut=1)
