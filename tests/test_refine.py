"""RefineCAM: the product of plain maps, one run for all layers, torch-cam's where nothing is resampled, refusals."""

import numpy as np
import pytest
import torch
from torch import nn

import reference
from capture_models import HABITS, Net, Returning, Shared, plain_gradients, unchanged
from fusedcam.torch import GradCAM, RefineCAM
from rare_models import close, double, gradcam  # noqa: F401

pytestmark = pytest.mark.usefixtures("double")

ROWS = [[1, 4], [0, 2], [3, 3]]


def pick(output):
    return output.gather(1, torch.tensor(ROWS))


def product(model, layers, x, size):
    """[N, K, *size] by NumPy: bilinear, then each map's range, then the product, then its range."""
    result = 1
    for layer in layers:
        activations, gradients = plain_gradients(model, layer, x, pick)
        maps = [
            [gradcam(a.numpy(), g.numpy().mean((1, 2)), size) for g in row]
            for a, row in zip(activations, gradients, strict=True)
        ]
        result = result * reference.normalize(np.array(maps), "minmax")
    return reference.normalize(result, "minmax")


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("layers", [["stem", "last"], ["last", "body", "stem"]], ids=" ".join)
def test_product(layers, context):
    model, x = Net().eval(), torch.rand(3, 3, 21, 18)
    explain = RefineCAM(model, layers)
    modules = [model.get_submodule(name) for name in layers]
    with context(), unchanged(model):
        heat = explain(x, targets=ROWS)
        one = RefineCAM(model, modules)(x, targets=[row[1] for row in ROWS])
    close(heat, product(model, modules, x, (21, 18)))
    close(one, heat[:, 1])
    close(explain(x, targets=ROWS, size=None), product(model, modules, x, (10, 8)))  # the finest layer's
    close(explain(x, targets=ROWS, size=(5, 30)), product(model, modules, x, (5, 30)))
    close(explain.output, model(x))
    assert explain.plan.layer == ", ".join(layers)
    assert explain.plan.recording == "from the layer"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_runs_once():
    model, x = Net().eval(), torch.rand(2, 3, 21, 18)
    calls = []
    model.stem.register_forward_hook(lambda module, inputs, output: calls.append(output.requires_grad))
    RefineCAM(model, ["body", "last"])(x, targets=[[1, 2], [3, 4]])
    assert calls == [False], "once, and unrecorded before the first of the layers"


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # the checkpoint's, as in inference
@pytest.mark.parametrize("habit", HABITS)
def test_habits(habit):
    model, x = Net(habit).eval(), torch.rand(3, 3, 21, 18)
    twin = Net("in-place" if habit == "in-place" else "plain").eval()
    twin.load_state_dict(model.state_dict())
    for layers in (["stem", "last"], ["body", "last"]):
        with unchanged(model):
            if habit in ("no_grad", "inference_mode"):  # the maps of no layer reach the score
                with pytest.raises((ValueError, RuntimeError), match="target_layers"):
                    RefineCAM(model, layers)(x, targets=ROWS)
                continue
            heat = RefineCAM(model, layers)(x, targets=ROWS)
        single = [GradCAM(model, layer)(x, targets=ROWS) for layer in layers]
        close(heat, reference.normalize((single[0] * single[1]).numpy(), "minmax"))


def test_torchcam():
    """It resamples what is normalised already, so that the maps agree where all have one resolution."""
    from torchcam import methods

    model, x = Net().eval(), torch.rand(3, 3, 21, 18)
    classes = [1, 0, 3]
    with methods.RefineCAM(model, ["stem", "body"], base_method=methods.GradCAM) as extract:
        expected = extract(classes, model(x.clone().requires_grad_()), normalized=False)[0].detach().numpy()
    heat = RefineCAM(model, ["stem", "body"])(x, targets=classes, size=None)
    close(heat, reference.normalize(expected, "minmax"))  # its own adds 1e-8 to a product's range, which may be small


def test_refusals():
    model, x = Net().eval(), torch.rand(2, 3, 21, 18)
    for layers, error, message in (
        ("stem", TypeError, "target_layers is of type str"),
        (model.stem, TypeError, "target_layers is of type Conv2d"),
        (3, TypeError, "target_layers is of type int"),
        (["stem"], ValueError, "target_layers has 1; accepted are two or more"),
        (["stem", model.stem], ValueError, "target_layers has a layer twice"),
        (["stem", "trunk"], ValueError, "the model has no module 'trunk'"),
        (["stem", nn.ReLU()], ValueError, "a ReLU that is not part of the model"),
    ):
        with pytest.raises(error, match=message):
            RefineCAM(model, layers)
    with pytest.raises(ValueError, match="method is 'refine'; accepted: gradcam"):
        RefineCAM(model, ["stem", "body"], method="refine")
    with pytest.raises(ValueError, match="does not depend on every layer"):
        RefineCAM(model, ["stem", "body"])(x, targets=lambda output: model.head.bias[:2])
    with pytest.raises(ValueError, match=r"one returned float64 \[2, 5\]; accepted are maps \[N, C, H, W\]"):
        RefineCAM(model, ["stem", "head"])(x)
    shared = Shared().eval()
    with pytest.raises(RuntimeError, match="2 layers ran 5 times; accepted are layers that run once"):
        RefineCAM(shared, ["convs.0", "act"])(x)
    pair = Returning(lambda extra, maps: (extra, maps), lambda output: output[1]).eval()
    with pytest.raises(RuntimeError, match="target_layers: a layer returned tuple"):
        RefineCAM(pair, ["conv", "layer"])(x, targets=lambda output: output[1][:, 0])
