"""ShapleyCAM: against whole Hessians, Grad-CAM where there are none, and pytorch-grad-cam's."""

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from capture_models import HABITS, Net, Overwriting, unchanged
from fusedcam.torch import GradCAM, ShapleyCAM
from peer_models import pytorch_grad_cam, quiet
from rare_models import Curved, Last, close, double, gradcam  # noqa: F401

pytestmark = pytest.mark.usefixtures("double")

RAW = {"relu": False, "normalize": None}


def by_hessian(model, x, k, size):
    """The map of one image: the Hessian as a matrix, times all activations."""
    with torch.no_grad():
        maps = model.layer(x[None])[0]
    score = lambda flat: model.behind(flat.reshape(1, *maps.shape))[0, k]  # noqa: E731
    flat = maps.reshape(-1)
    gradient = torch.autograd.functional.jacobian(score, flat)
    hessian = torch.autograd.functional.hessian(score, flat)
    assert hessian.abs().max() > 1e-6
    weights = (gradient - hessian @ flat / 2).reshape(maps.shape).mean((1, 2))
    return gradcam(maps, weights, size, relu=False)


def test_layers_with_their_channels_last():
    """The same layer's values, [N, C, H, W], [N, H, W, C] and as tokens behind three others."""
    model, x = Last().eval(), torch.rand(2, 3, 12, 16)
    wanted = ShapleyCAM(model, "first")(x, targets=[1, 3], size=None, **RAW)
    close(ShapleyCAM(model, "last", layout="last")(x, targets=[1, 3], size=None, **RAW), wanted)
    close(ShapleyCAM(model, "tokens", tokens=(3, 4))(x, targets=[1, 3], size=None, **RAW), wanted)
    assert (wanted - GradCAM(model, "first")(x, targets=[1, 3], size=None, **RAW)).abs().max() > 1e-6


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_hessian(context):
    model, x = Curved().eval(), torch.randn(3, 3, 9, 12)
    rows = [[1, 4], [0, 2], [3, 3]]
    wanted = [[by_hessian(model, image, k, (9, 12)) for k in row] for image, row in zip(x, rows, strict=True)]
    explain = ShapleyCAM(model, "layer")
    with context(), unchanged(model):
        heat = explain(x, targets=rows, **RAW)
        one = explain(x, targets=[row[0] for row in rows], **RAW)
    close(heat, np.array(wanted), 1e-12)
    close(one, np.array(wanted)[:, 0], 1e-12)
    assert (heat - GradCAM(model, "layer")(x, targets=rows, **RAW)).abs().max() > 1e-6
    assert explain.plan.recording == "from the layer"
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # the checkpoint's, as in inference
def test_without_curvature_it_is_gradcam(habit):
    model, x = Net(habit).eval(), torch.rand(2, 3, 21, 18)
    for layer in ("body", None):
        with unchanged(model):
            heat = ShapleyCAM(model, layer)(x, targets=[1, 3], **RAW)
        close(heat, GradCAM(model, layer)(x, targets=[1, 3], **RAW), 1e-12)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [False, True])
def test_from_the_start(reentrant):
    """A checkpoint behind the layer, or a layer whose output has another name, is differentiated twice as well."""
    model, x = Curved().eval(), torch.randn(2, 3, 9, 12)
    wanted = ShapleyCAM(model, "layer")(x, targets=1, **RAW)
    behind = model.behind
    model.behind = lambda maps: checkpoint(behind, maps, use_reentrant=reentrant)
    explain = ShapleyCAM(model, "layer")
    close(explain(x, targets=1, **RAW), wanted, 1e-12)
    shared = Overwriting().eval()
    heat = ShapleyCAM(shared, "layer")(x, targets=2, **RAW)
    assert ShapleyCAM(shared, "layer")(x, targets=2, **RAW).shape == heat.shape
    # score = head(mean(9 a^2)), so that g - H A / 2 = 18 a w - 9 a w
    close(heat, GradCAM(shared, "layer")(x, targets=2, **RAW) / 2, 1e-12)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the package's own
def test_pytorch_grad_cam():
    package = pytorch_grad_cam()
    model, x = Curved().eval(), torch.randn(3, 3, 32, 40)
    classes = [1, 4, 0]
    target = package.utils.model_targets.ClassifierOutputTarget
    with quiet():
        expected = package.ShapleyCAM(model, [model.layer])(x, [target(k) for k in classes])
    close(ShapleyCAM(model, "layer")(x, targets=classes), expected, 1e-5)


def test_refusals():
    model, x = Curved().eval(), torch.randn(2, 3, 9, 12)
    with pytest.raises(ValueError, match="the model has no module 'nowhere'"):
        ShapleyCAM(model, "nowhere")
    with pytest.raises(ValueError, match="does not depend on layer layer"):
        ShapleyCAM(model, "layer")(x, targets=lambda output: torch.ones(2))
    with pytest.raises(ValueError, match="does not depend on layer layer"):
        ShapleyCAM(model, "layer")(x, targets=lambda output: model.head.weight.sum() * torch.ones(2))
