"""The peers' gradient methods by our rules: numbers at which their formulas could part, steps of a subclass's own."""

import importlib

import numpy as np
import pytest
import torch
from torch import nn

import fusedcam
from fusedcam.compat import patch_torchcam, pgc_maps
from fusedcam.compat import pytorch_grad_cam as ours
from peer_models import allowed, both, difference, images, network, pytorch_grad_cam, quiet

nan, inf = torch.nan, torch.inf
METHODS = list(pgc_maps.METHODS)
TORCHCAM = [name for name in patch_torchcam.RULES if name != "GradCAMpp"]


@pytest.fixture(scope="module")
def package():
    return pytorch_grad_cam()


class Given(nn.Module):
    """A layer whose output is the input, and a score whose gradient with respect to it is `gradients`."""

    def __init__(self, gradients):
        super().__init__()
        self.layer, self.gradients = nn.Identity(), gradients
        self.unused = nn.Parameter(torch.ones(()))

    def forward(self, x):
        scores = (self.layer(1 * x) * self.gradients).flatten(1).sum(1)
        return torch.stack([scores, -scores], 1)


def arrays(*shape):
    """Activations as behind a ReLU, so that no sum of them is near 0, and gradients."""
    return torch.randn(*shape).relu_(), torch.randn(*shape)


def at_one_place(array, value):
    array = array.clone()
    array[0, 1, 2, 2] = value
    return array


a, g = arrays(2, 5, 6, 7)
VALUES = {
    "gradients near the root of 1e-6": (a, 1e-3 * g),
    "tiny gradients": (a, 1e-9 * g),
    "gradients whose squares underflow": (a, 1e-25 * g),
    "large gradients": (a, 1e6 * g),
    "gradients that are 0": (a, g * (g > 1)),
    "a dead channel": (a * torch.tensor([1, 0, 1, 1, 0.0])[:, None, None], g),
    "sums as small as the package's eps": (1e-9 * a, g),
    "activations of 0": (0 * a, g),
    "negative activations": (-a, -g.abs()),
    "NaN in a gradient": (a, at_one_place(g, nan)),
    "infinity in a gradient": (a, at_one_place(g, inf)),
    "-infinity in a gradient": (a, at_one_place(g, -inf)),
    "NaN in an activation": (at_one_place(a, nan), g),
    "infinity in an activation": (at_one_place(a, inf), g),
    "-infinity in an activation": (at_one_place(a, -inf), g),
    "float64": (a.double(), g.double()),
    "channels last": (a.contiguous(memory_format=torch.channels_last), g),
    "one pixel": arrays(2, 5, 1, 1),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", VALUES.values(), ids=VALUES)
def test_pytorch_grad_cam(package, method, case):
    x, gradients = case
    model = Given(gradients)
    targets = [package.utils.model_targets.ClassifierOutputTarget(0)] * len(x)

    def call(x):
        return getattr(package, method)(model, [model.layer])(x.clone().requires_grad_(), targets)

    with np.errstate(all="ignore"):
        plain, patched, calls = both("pytorch_grad_cam", lambda: call(x))
    own = getattr(ours, method)(model, [model.layer])(x.clone().requires_grad_(), targets)
    assert calls
    gap = max(difference(plain, patched), difference(plain, own))
    assert gap <= 2e-6 or gap <= allowed(call, x, plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_half_types_are_as_from_float32(package, method, dtype):
    x, model = a.to(dtype), Given(g.to(dtype))
    wide = Given(model.gradients.float())
    targets = [package.utils.model_targets.ClassifierOutputTarget(0)] * len(x)
    expected = getattr(package, method)(wide, [wide.layer])(x.float().requires_grad_(), targets)
    with fusedcam.patched("pytorch_grad_cam"):
        found = getattr(package, method)(model, [model.layer])(x.clone().requires_grad_(), targets)
    assert difference(expected, found) <= 2e-6


@pytest.mark.parametrize("method", METHODS)
def test_the_table(package, method):
    """Each class is where the table has it, and defines a step there."""
    cls = getattr(package, method)
    assert cls.__module__ == f"pytorch_grad_cam.{pgc_maps.METHODS[method].module}"
    assert {"get_cam_weights", "get_cam_image"} & vars(cls).keys()
    assert getattr(importlib.import_module(cls.__module__), method) is cls


@pytest.mark.parametrize("method", METHODS)
def test_products_of_the_channels(package, method):
    """By their first principal component, in images and in volumes."""
    for kind, shape in (("residual", (2, 3, 40, 56)), ("volumes", (2, 3, 8, 16, 24))):
        model, x = network(kind), images(*shape)
        with quiet():
            expected = getattr(package, method)(model, [model.layer2])(x, None, eigen_smooth=True)
        assert difference(expected, getattr(ours, method)(model, [model.layer2])(x, None, eigen_smooth=True)) <= 2e-6


@pytest.mark.parametrize("method", ["GradCAM", "XGradCAM", "LayerCAM"])
@pytest.mark.parametrize("eigen_smooth", [False, True])
def test_steps_of_a_subclass_are_taken(method, eigen_smooth):
    base = getattr(ours, method)
    model, x = network("residual"), images(2, 3, 40, 56)

    class First(base):
        def weights(self, run):
            return torch.eye(run.activations.shape[1])[:1].expand(len(run.x), -1)

    class Ramped(base):
        def products(self, run):
            products = super().products(run)
            return products * torch.arange(products.shape[-1])

    class Raw(base):
        def raw_map(self, run):
            return run.activations[:, 0]

    def found(cls):
        return cls(model, [model.layer3])(x, eigen_smooth=eigen_smooth)

    plain = found(base)
    assert not np.array_equal(found(Ramped), plain)
    if not eigen_smooth:
        assert difference(found(First), found(Raw)) <= 2e-6
        assert not np.array_equal(found(Raw), plain)


def torchcams(method, model, layer, x, base=None, **options):
    from torchcam import methods

    with (base or getattr(methods, method))(model, layer, input_shape=x.shape[1:]) as extract:
        return extract(0, model(x.clone().requires_grad_()), **options)[0].detach()


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("method", TORCHCAM)
@pytest.mark.parametrize("case", VALUES.values(), ids=VALUES)
def test_torchcam(method, case, normalized):
    """Terms that are NaN are left out, as its nansum does."""
    x, gradients = case
    model = Given(gradients)

    def call(x):
        return torchcams(method, model, "layer", x, normalized=normalized)

    plain, patched, calls = both("torchcam", lambda: call(x))
    assert calls
    finite = plain[plain.isfinite()].abs()
    scale = 1 if normalized or not finite.numel() else max(1e-30, float(finite.max()))
    gap = difference(plain, patched)
    assert gap <= 2e-6 * scale or (normalized and gap <= allowed(call, x, plain))


@pytest.mark.parametrize("method", TORCHCAM)
def test_torchcam_of_signals(method):
    x, gradients = arrays(2, 4, 9)
    model = Given(gradients)
    plain, patched, calls = both("torchcam", lambda: torchcams(method, model, "layer", x))
    assert calls
    assert difference(plain, patched) <= 2e-6


def test_torchcams_eps():
    """One of the caller's own is heeded; where a method has none it is torch-cam's error."""
    model = Given(g)
    for eps in (0.0, 3.0):
        plain, patched, _ = both("torchcam", lambda eps=eps: torchcams("XGradCAM", model, "layer", a, eps=eps))
        assert difference(plain, patched) <= 2e-6
    assert not torch.equal(plain, torchcams("XGradCAM", model, "layer", a))
    for options in ({}, {"fix_known_defects": True}):
        with (
            fusedcam.patched("torchcam", **options),
            pytest.raises(TypeError, match="unexpected keyword argument 'eps'"),
        ):
            torchcams("LayerCAM", model, "layer", a, eps=0.0)


@pytest.mark.parametrize("method", TORCHCAM)
def test_torchcams_steps_of_a_subclass_are_taken(method):
    from torchcam import methods

    class Doubled(getattr(methods, method)):
        def _get_weights(self, *args, **kwargs):
            return [weights.abs() for weights in super()._get_weights(*args, **kwargs)]

    class Backwards(getattr(methods, method)):
        def _backprop(self, *args, **kwargs):
            super()._backprop(*args, **kwargs)
            self.hook_g = [-gradient for gradient in self.hook_g]

    model = Given(g)
    for base in (Doubled, Backwards):
        plain, patched, _ = both("torchcam", lambda base=base: torchcams(method, model, "layer", a, base))
        assert difference(plain, patched) <= 2e-6


@pytest.mark.parametrize("kind", ["maps", "volumes"])
def test_torchcams_grad_cam_pp_without_its_defect(kind):
    """The map by the rule is that of the weights by themselves."""
    from torchcam.methods import GradCAMpp

    x, gradients = arrays(*((2, 5, 6, 7) if kind == "maps" else (2, 5, 3, 4, 6)))
    model = Given(1e-4 * gradients)
    with fusedcam.patched("torchcam", fix_known_defects=True):
        found = torchcams("GradCAMpp", model, "layer", x)
        with GradCAMpp(model, "layer", input_shape=x.shape[1:]) as extract:
            weights = extract._get_weights(0, model(x.clone().requires_grad_()))[0]
    raw = (weights[(..., *(None,) * (x.ndim - 2))].double() * x).sum(1).clamp(min=0).flatten(1)
    raw = raw - raw.min(1, keepdim=True).values
    expected = (raw / (raw.max(1, keepdim=True).values + 1e-8)).reshape(found.shape).float()
    assert difference(found, expected) <= 2e-6
    assert difference(found, torchcams("GradCAMpp", model, "layer", x)) > 1e-3
