"""Maps that gradients lead through: against finite differences in float64, and against plain PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import device_derivatives
import fusedcam
from cases import MOMENTS

pytestmark = pytest.mark.usefixtures("doubles")

METHODS = list(fusedcam.METHODS)
DIVIDING = [name for name in METHODS if name in ("gradcam++", "smoothgradcam++", "xgradcam")]


def arrays(method="gradcam", shape=(2, 5, 4, 3), classes=(), positive=True):
    """Leaves; activations as behind a ReLU, but away from its kink."""
    a = torch.rand(shape) + 0.1 if positive else torch.randn(shape)
    full = (*shape[:1], *classes, *shape[1:])
    g = torch.randn(full)
    if method in MOMENTS:
        noisy = (g.abs() + 0.5) * (1 + 0.2 * torch.randn(4, *full)).abs()  # which keeps the divisor away from 0
        g = torch.stack([(noisy**power).mean(0) for power in (1, 2, 3)])
    return a.requires_grad_(), g.requires_grad_()


def checked(function, inputs, twice=True):
    """By finite differences of the native call itself."""
    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-6, rtol=1e-4)
    if twice:
        assert torch.autograd.gradgradcheck(function, inputs, eps=1e-6, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("normalize", [None, "minmax", "max"])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_and_their_gradients_of_every_method(method, normalize):
    inputs = arrays(method, (1, 3, 3, 2))
    checked(lambda a, g: fusedcam.cam(a, g, method=method, size=(5, 4), normalize=normalize), inputs)


@pytest.mark.parametrize("method", METHODS)
def test_several_classes(method):
    checked(lambda a, g: fusedcam.cam(a, g, method=method), arrays(method, (2, 3, 2, 3), (2,)), twice=False)


@pytest.mark.parametrize("method", DIVIDING)
def test_weight_eps(method):
    checked(lambda a, g: fusedcam.cam(a, g, method=method, weight_eps=0.3), arrays(method, (1, 3, 3, 3)))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_options(relu, eps):
    checked(lambda a, g: fusedcam.cam(a, g, relu=relu, eps=eps, size=7), arrays())


@pytest.mark.parametrize(
    ("shape", "given"),
    [
        ((2, 3, 5), {"spatial": 1, "size": 9}),
        ((1, 3, 2, 3, 2), {"spatial": 3, "size": (3, 4, 5)}),
        ((2, 3, 2, 4), {"layout": "last", "size": (5, 3)}),
        ((2, 8, 3), {"tokens": (2, 3), "size": (3, 7)}),
        ((2, 6, 5, 4), {"size": (2, 3)}),
    ],
    ids=["signal", "volume", "channels-last", "tokens", "smaller"],
)
@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam"])
def test_layouts(shape, given, method):
    checked(lambda a, g: fusedcam.cam(a, g, method=method, **given), arrays(method, shape), twice=False)


def test_unbatched_and_weights():
    a = (torch.rand(3, 4, 2) + 0.1).requires_grad_()
    checked(lambda a, g: fusedcam.cam(a, g, size=5), (a, torch.randn(3, 4, 2).requires_grad_()))
    checked(lambda a, w: fusedcam.cam(a, weights=w, size=5), (a, torch.randn(3).requires_grad_()))
    checked(lambda a, w: fusedcam.cam(a, weights=w), (a, torch.randn(2, 3).requires_grad_()))
    batch = (torch.rand(2, 3, 4, 2) + 0.1).requires_grad_()
    for shape in ((2, 3), (1, 3), (1, 2, 3), (2, 2, 3)):
        checked(lambda a, w: fusedcam.cam(a, weights=w, size=5), (batch, torch.randn(shape).requires_grad_()))


@pytest.mark.parametrize("fuse", ["mean", "max", "product"])
def test_several_layers(fuse):
    a, g = arrays(shape=(2, 3, 4, 3))
    b, h = arrays(shape=(2, 2, 2, 5))
    checked(lambda a, b, g, h: fusedcam.cam([a, b], [g, h], fuse=fuse, size=6), (a, b, g, h), twice=False)
    heat = fusedcam.cam([a, b], [g, h], fuse=fuse, size=6)
    with torch.no_grad():
        np.testing.assert_allclose(heat.detach(), fusedcam.cam([a, b], [g, h], fuse=fuse, size=6), atol=1e-12)


@pytest.mark.parametrize("normalize", [None, "minmax", "max"])
def test_resize(normalize):
    for shape, size in (
        ((2, 3, 4), (7, 5)),
        ((3, 6), (9,)),
        ((2, 2, 3, 2), (3, 5, 4)),
        ((1, 9, 8), (4, 3)),
        ((2, 7, 2), (3, 5)),
        ((2, 2, 7), (5, 3)),
        ((1, 3, 3, 2), (2, 2, 5)),
    ):
        heatmap = torch.randn(shape).requires_grad_()
        checked(lambda heat, size=size: fusedcam.resize(heat, size, normalize=normalize, eps=0.1), (heatmap,))


def plain(a, g, size):
    """In plain PyTorch."""
    raw = torch.relu((g.mean((2, 3), keepdim=True) * a).sum(1))
    big = F.interpolate(raw[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    low, high = big.amin((1, 2), keepdim=True), big.amax((1, 2), keepdim=True)
    return (big - low) / (high - low)


def test_equal_to_plain_pytorch():
    a, g = arrays(shape=(3, 16, 7, 5))
    target = torch.rand(3, 21, 18)
    losses = [((heat - target) ** 2).sum() for heat in (fusedcam.cam(a, g, size=(21, 18)), plain(a, g, (21, 18)))]
    (ours_a, ours_g), (theirs_a, theirs_g) = (torch.autograd.grad(loss, (a, g)) for loss in losses)
    np.testing.assert_allclose(ours_a, theirs_a, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours_g, theirs_g, rtol=1e-9, atol=1e-12)


def test_ties_share_as_those_of_amax():
    """Every pixel twice: two maxima and two minima."""
    a, g = arrays(shape=(2, 4, 3, 3))
    doubled = torch.cat([a, a], 3)
    raw = (g.detach().mean((2, 3), keepdim=True) * doubled).sum(1)
    wanted = (raw - raw.amin((1, 2), keepdim=True)) / (raw.amax((1, 2), keepdim=True) - raw.amin((1, 2), keepdim=True))
    weights = torch.randn_like(wanted)
    both = torch.cat([g, g], 3).detach()
    got = fusedcam.cam(doubled, both, relu=False)
    (ours,) = torch.autograd.grad((got * weights).sum(), a, retain_graph=True)
    (theirs,) = torch.autograd.grad((wanted * weights).sum(), a)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    heat = torch.tensor([[1.0, 3.0, 3.0], [0.0, 0.0, 2.0]]).requires_grad_()
    (slope,) = torch.autograd.grad(fusedcam.resize(heat, (2, 3), normalize="minmax")[1, 2], heat)
    np.testing.assert_allclose(slope, [[0, -1 / 9, -1 / 9], [-1 / 18, -1 / 18, 1 / 3]], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", device_derivatives.SHAPES)
def test_narrow_types_as_float64(name, dtype):
    """Within what rounding to the type costs; by what a GPU's derivatives are measured by, too."""
    for method in ("gradcam",) if name == "weights" else METHODS:
        for got, exact, bound in device_derivatives.errors(name, method, "cpu", dtype):
            assert exact.any()
            assert abs(got - exact).max() <= bound


def test_strided_and_expanded_inputs():
    a, g = arrays(shape=(2, 4, 6, 6))
    once = torch.randn(2, 4, 1, 1).requires_grad_()
    checked(lambda a, g: fusedcam.cam(a[..., ::2, 1::2], g[..., ::2, 1::2], size=5), (a, g), twice=False)
    checked(lambda a, once: fusedcam.cam(a, once.expand_as(a), method="layercam"), (a, once), twice=False)
    image = torch.randn(1, 4, 6, 6).requires_grad_()
    checked(lambda a, image: fusedcam.cam(a, image.expand_as(a)), (a, image), twice=False)


def test_only_what_needs_it():
    a, g = arrays()
    for first, second in ((a, g.detach()), (a.detach(), g)):
        heat = fusedcam.cam(first, second, size=9)
        assert heat.requires_grad
        heat.sum().backward()
    assert a.grad is not None
    assert g.grad is not None
    with torch.no_grad():
        assert not fusedcam.cam(a, g).requires_grad
    assert not fusedcam.cam(a.detach(), g.detach()).requires_grad


def test_bits_are_those_of_the_call_without_gradients():
    a, g = arrays(shape=(2, 37, 9, 8))
    for one, other in ((a, g), (a.detach().float().requires_grad_(), g.detach().float().requires_grad_())):
        for given in ({"size": 31}, {"normalize": None}, {"normalize": "max", "method": "gradcam++"}):
            with torch.no_grad():
                expected = fusedcam.cam(one, other, **given)
            assert torch.equal(fusedcam.cam(one, other, **given).detach(), expected)


def test_maps_without_range_have_no_gradient():
    a = torch.rand(2, 3, 4, 4).requires_grad_()
    heat = fusedcam.cam(a, -torch.ones(2, 3, 4, 4), size=8)  # nothing is positive
    (slope,) = torch.autograd.grad(heat.sum(), a)
    assert not slope.any()


def test_scores_that_are_not_finite():
    """They count 0, and nothing changes with them; another image's gradient is not touched by NaN."""
    a, g = (one.detach() for one in arrays(shape=(2, 3, 4, 4)))
    clean = a.clone()
    a[0, 1, 2, 3] = torch.nan
    leaf, other = a.requires_grad_(), clean.requires_grad_()
    for relu in (True, False):
        heat = fusedcam.cam(leaf, g, nan="zero", relu=relu, normalize=None)
        (slope,) = torch.autograd.grad(heat.sum(), leaf)
        assert not slope[0, :, 2, 3].any()
        assert slope.isfinite().all()
    (slope,) = torch.autograd.grad(fusedcam.cam(leaf, g, size=9).square().sum(), leaf)
    (alone,) = torch.autograd.grad(fusedcam.cam(other, g, size=9).square().sum(), other)
    assert torch.equal(slope[1], alone[1])
    assert slope[0].isnan().any()


def test_pictures_are_integers_without_gradients():
    heat = torch.rand(2, 4, 4).requires_grad_()
    image = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        expected = fusedcam.overlay(image, heat, normalize="minmax"), fusedcam.colorize(heat)
    for got, wanted in zip(
        (fusedcam.overlay(image, heat, normalize="minmax"), fusedcam.colorize(heat)), expected, strict=True
    ):
        assert torch.equal(got, wanted)
        assert not got.requires_grad


def test_refusals():
    a, g = arrays()
    with pytest.raises(ValueError, match="out is given, and an input requires grad"):
        fusedcam.cam(a, g, out=torch.empty(2, 4, 3))
    with pytest.raises(ValueError, match="accepted: 'gradcam'"):
        fusedcam.cam(a, g, method="nonsense")
    with pytest.raises(TypeError, match="pass exactly one"):
        fusedcam.cam(a)
    with pytest.raises(ValueError, match="requires grad, and nothing here has a derivative"):
        fusedcam.mask(torch.rand(2, 3, 8, 8), torch.rand(2, 4, 4, requires_grad=True))
    with pytest.raises(ValueError, match="eigencam: activations requires grad"):
        fusedcam.eigencam(a)
    with pytest.raises(ValueError, match="gradients have shape"):
        fusedcam.cam(a, g[:, :2])


def test_what_was_saved_and_then_written_to_is_noticed():
    a, g = arrays()
    heat = fusedcam.cam(a, g)
    with torch.no_grad():
        a.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        heat.sum().backward()
