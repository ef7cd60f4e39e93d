"""Smooth Grad-CAM++ against the oracle on its own noise; options of rules."""

import numpy as np
import pytest
import torch

import fusedcam
import reference
from capture_models import CLASSES, Net, plain_gradients, unchanged
from fusedcam.torch import GradCAMPlusPlus, SmoothGradCAMPlusPlus
from fusedcam.torch.eigen_smoothing import eigen_smoothed
from fusedcam.torch.methods import EXPLAINERS
from spatial_models import Convolutions, ViT

EVERY = [list(range(CLASSES))]
RAW = {"size": None, "relu": False, "normalize": None}


@pytest.fixture(autouse=True)
def _double(keep_threads):
    print("seed:", torch.seed())
    torch.set_num_threads(1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def expected(model, layer, x, samples, std, seed, arrange=lambda array: array, **options):
    """Omeiza et al. 2019 from gradients of every copy, one run each; noise over the range of each image."""
    draws = torch.Generator().manual_seed(seed)
    activations, _ = plain_gradients(model, layer, x, lambda scores: scores)
    total = 0
    for _ in range(samples):
        span = torch.stack([image.max() - image.min() for image in x])
        noise = torch.randn(x.shape, generator=draws) * std * span.reshape(-1, *(1,) * (x.ndim - 1))
        _, gradients = plain_gradients(model, layer, x + noise, lambda scores: scores)
        gradients = arrange(gradients.numpy())
        total = total + np.stack([gradients, gradients**2, gradients**3])
    moments = total / samples
    return smooth(arrange(activations.numpy()), moments, **options)


def smooth(activations, moments, **options):
    """Of each class by itself: the oracle's helper takes one array of gradients."""
    space = activations.shape[2:]
    flat = activations.reshape(*activations.shape[:2], 1, -1)
    rows = moments.reshape(*moments.shape[: moments.ndim - len(space)], 1, -1)
    scores, _ = reference.METHODS["smoothgradcam++"](flat, rows, **options)
    return scores.reshape(*scores.shape[:2], *space)


@pytest.mark.parametrize(("samples", "std", "chunk"), [(1, 0.0, 64), (4, 0.15, 64), (3, 0.3, 4), (5, 0.5, 1)])
def test_values(samples, std, chunk):
    model = Net().eval()
    x = torch.rand(2, 3, 21, 18)
    before = torch.get_rng_state()
    for seed in (0, 7):
        generator = torch.Generator().manual_seed(seed) if seed else None
        explain = SmoothGradCAMPlusPlus(
            model, "last", samples=samples, noise_std=std, chunk=chunk, generator=generator, weight_eps=1e-9
        )
        with unchanged(model):
            raw = explain(x, targets=EVERY * 2, **RAW)
        own = expected(model, model.last, x, samples, std, seed, eps=1e-9)
        np.testing.assert_allclose(raw, own, rtol=1e-8, atol=1e-10 * abs(own).max())
    assert torch.equal(torch.get_rng_state(), before)
    assert explain.plan.layer == "last"
    with torch.no_grad():
        torch.testing.assert_close(explain.output[:2], model(x))


def test_without_noise_it_is_grad_cam_plusplus():
    model = Net().eval()
    x = torch.rand(2, 3, 21, 18)
    for targets in (None, 3, [0, 2], [[1, 2], [3, 4]], lambda scores: scores[:, 1]):
        smooth = SmoothGradCAMPlusPlus(model, "body", noise_std=0)(x, targets=targets)
        torch.testing.assert_close(smooth, GradCAMPlusPlus(model, "body")(x, targets=targets))


def test_of_tokens_and_signals():
    model = ViT().eval()
    x = torch.rand(2, 3, 16, 16)
    layer = model.blocks[1].norm1
    layer.register_forward_hook(lambda module, inputs, output: output.exp())
    raw = SmoothGradCAMPlusPlus(model, "blocks.1.norm1")(x, targets=EVERY * 2, **RAW)

    def on_grid(array):
        return np.moveaxis(array[..., 1:, :].reshape(*array.shape[:-2], 4, 4, 8), -1, -3)

    own = expected(model, layer, x, 4, 0.15, 0, on_grid)
    np.testing.assert_allclose(raw, own, rtol=1e-7, atol=1e-10 * abs(own).max())

    model = Convolutions(1).eval()
    model.act.inplace = False
    x = torch.rand(2, 2, 31)
    raw = SmoothGradCAMPlusPlus(model, "act", spatial=1)(x, targets=EVERY * 2, **RAW)
    own = expected(model, model.act, x, 4, 0.15, 0)
    np.testing.assert_allclose(raw, own, rtol=1e-7, atol=1e-10 * abs(own).max())


def test_a_generator_goes_on():
    model, x = Net().eval(), torch.rand(1, 3, 21, 18)
    # Much of it: gradients through ReLUs change where these do. Normalised, one channel's maps may be equal.
    options = {"noise_std": 3, "generator": torch.Generator().manual_seed(1)}
    explain = SmoothGradCAMPlusPlus(model, "last", **options)
    first, second = explain(x, targets=1, **RAW), explain(x, targets=1, **RAW)
    assert not torch.equal(first, second)
    explain = SmoothGradCAMPlusPlus(model, "last")
    assert torch.equal(explain(x, targets=1), explain(x, targets=1))


def test_half_types():
    model, x = Net().eval().bfloat16(), torch.rand(1, 3, 21, 18).bfloat16()
    heat = SmoothGradCAMPlusPlus(model, "last", noise_std=0)(x, targets=1)
    assert heat.dtype == torch.float32
    torch.testing.assert_close(heat, GradCAMPlusPlus(model, "last")(x, targets=1), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"samples": 0}, ValueError, "samples is 0; accepted is 1 or more"),
        ({"samples": 1.5}, TypeError, "samples is 1.5"),
        ({"noise_std": -0.1}, ValueError, "noise_std is -0.1"),
        ({"noise_std": None}, TypeError, "noise_std is None"),
        ({"chunk": 0}, ValueError, "chunk is 0"),
        ({"eigen_smooth": True}, ValueError, "eigen_smooth is True, which SmoothGradCAMPlusPlus does not have"),
        ({"target_layer": ["body", "last"]}, ValueError, "target_layer has several layers; SmoothGradCAMPlusPlus"),
    ],
)
def test_refused(options, error, message):
    with pytest.raises(error, match=message):
        SmoothGradCAMPlusPlus(Net(), **{"target_layer": "last", **options})
    with pytest.raises(TypeError, match="generator is of type int"):
        SmoothGradCAMPlusPlus(Net().eval(), "last", generator=3)(torch.rand(1, 3, 21, 18))


@pytest.mark.parametrize("name", EXPLAINERS)
def test_methods_that_divide_take_weight_eps(name):
    """The class knows what the rule knows."""
    method = EXPLAINERS[name].method
    a = np.ones((1, 2, 3, 3))
    g = np.ones((3, 1, 2, 3, 3)) if method == "smoothgradcam++" else a
    divides = True
    try:
        fusedcam.cam(a, g, method=method, weight_eps=1e-3)
    except ValueError:
        divides = False
    if divides:
        assert EXPLAINERS[name](Net(), "last", weight_eps=1e-3).weight_eps == 1e-3
    else:
        with pytest.raises(ValueError, match=f"weight_eps is 0.001, but {name} divides by nothing"):
            EXPLAINERS[name](Net(), "last", weight_eps=1e-3)


@pytest.mark.parametrize("name", sorted({*EXPLAINERS} - {"SmoothGradCAMPlusPlus"}))
def test_eigen_smooth(name):
    model, x = Net().eval(), torch.rand(2, 3, 21, 18)
    cls = EXPLAINERS[name]
    activations, gradients = plain_gradients(model, model.last, x, lambda scores: scores)
    own = eigen_smoothed(activations, gradients, method=cls.method, size=(21, 18))
    with unchanged(model):
        heat = cls(model, "last", eigen_smooth=True)(x, targets=EVERY * 2)
    torch.testing.assert_close(heat, own, rtol=0, atol=1e-9)
    assert not torch.allclose(heat, cls(model, "last")(x, targets=EVERY * 2), atol=1e-3)
    # Of signals it is that of the same pixels in a row.
    signals = Convolutions(1).eval()
    signals.act.inplace = False
    x = torch.rand(2, 2, 31)
    activations, gradients = plain_gradients(signals, signals.act, x, lambda scores: scores)
    row = eigen_smoothed(activations[:, :, None], gradients[:, :, :, None], method=cls.method, size=(1, 31))
    heat = cls(signals, "act", spatial=1, eigen_smooth=True)(x, targets=EVERY * 2)
    torch.testing.assert_close(heat, row[..., 0, :], rtol=0, atol=1e-9)
