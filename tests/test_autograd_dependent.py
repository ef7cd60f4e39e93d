"""Derivatives that are recorded, of inputs that depend on each other; of gradients that are next to nothing."""

import numpy as np
import pytest
import torch

import fusedcam
import fusedcam.torch
from test_autograd import checked, plain
from test_trainable import Net, assert_same, plainly

pytestmark = pytest.mark.usefixtures("doubles")


def same(found, wanted):
    for got, exact in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got.detach(), exact.detach(), rtol=1e-9, atol=1e-12)


DEPENDENT = {
    "gradients of activations": lambda a: fusedcam.cam(a, (a - 0.4) ** 3, size=(7, 5)),
    "the same tensor": lambda a: fusedcam.cam(a, a, size=(7, 5)),
    "activations of gradients": lambda g: fusedcam.cam((g * 2 - 1).exp(), g, size=(7, 5)),
    "weights": lambda a: fusedcam.cam(a, weights=(a.mean((2, 3)) ** 2), size=(7, 5)),
    "layers": lambda a: fusedcam.cam([a, a**2], [a, a**3], size=(7, 5)),
    "resized twice": lambda a: fusedcam.resize(fusedcam.resize(a[:, 0] ** 2, (6, 5)), (7, 5), normalize="minmax"),
}


@pytest.mark.parametrize("function", DEPENDENT.values(), ids=DEPENDENT.keys())
def test_recorded_or_many_at_once_they_are_the_same(function):
    """With a graph of their own, in a batch of them and with a hook: as one after the other without any."""
    a = torch.rand(2, 4, 3, 4, requires_grad=True)
    heat = function(a)
    seeds = torch.randn(3, *heat.shape)
    each = [torch.autograd.grad(heat, a, seed, retain_graph=True)[0] for seed in seeds]
    same([torch.autograd.grad(heat, a, seed, create_graph=True)[0] for seed in seeds], each)
    same(torch.autograd.grad(heat, a, seeds, is_grads_batched=True, retain_graph=True)[0], each)
    assert torch.autograd.gradcheck(function, a, eps=1e-6, atol=1e-6, rtol=1e-4, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, a, eps=1e-6, atol=1e-5, rtol=1e-3)


def test_as_plain_pytorch():
    a = torch.rand(2, 4, 3, 4, requires_grad=True)
    seed = torch.randn(2, 7, 5)
    found = []
    for function in (lambda a, g: fusedcam.cam(a, g, size=(7, 5)), lambda a, g: plain(a, g, (7, 5))):
        (first,) = torch.autograd.grad(function(a, a.sin()), a, seed, create_graph=True)
        found.append((first, *torch.autograd.grad(first.square().sum(), a)))
    same(*found)


def test_hooks_are_called_once():
    leaf = torch.rand(2, 4, 3, 4, requires_grad=True)
    found = []
    for create_graph in (False, True):
        calls = []
        a = leaf * 1
        a.register_hook(lambda slope, calls=calls: calls.append(1) or 2 * slope)
        heat = fusedcam.cam(a, a**2, size=6)
        found.append(torch.autograd.grad(heat.square().sum(), leaf, create_graph=create_graph)[0])
        assert len(calls) == 1
    same(found[:1], found[1:])


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "hirescam"])
def test_mapped_and_differentiated_twice(method):
    """The operators, which vmap calls, have derivatives of derivatives as well."""
    a, g = torch.rand(2, 1, 3, 3, 2) + 0.1, torch.randn(2, 1, 3, 3, 2)
    given = {"method": method, "size": (5, 4), "normalize": None}
    checked(torch.vmap(lambda a, g: fusedcam.cam(a, g, **given)), (a.requires_grad_(), g.requires_grad_()))
    maps = torch.randn(2, 3, 4, requires_grad=True)
    checked(torch.vmap(lambda one: fusedcam.resize(one, (5, 3), normalize="minmax")), (maps,))


def test_training_with_a_penalty_on_its_own_gradients():
    """First derivatives that are recorded, and what the penalty's own come to, as in plain PyTorch."""
    net, x, classes = Net(), torch.randn(2, 3, 6, 7), torch.tensor([1, 3])
    explain = fusedcam.torch.GradCAM(net, "layer", create_graph=True)
    mask, found = torch.rand(2, 6, 7), []
    for heat in (explain(x, targets=classes, relu=False), plainly(net, x, classes)[0]):
        parameters = [one for name, one in net.named_parameters() if "norm" not in name]
        slopes = torch.autograd.grad(((heat - mask) ** 2).mean(), parameters, create_graph=True, allow_unused=True)
        penalty = sum(slope.square().sum() for slope in slopes if slope is not None)
        found.append((slopes, torch.autograd.grad(penalty, parameters, allow_unused=True)))
    for ours, theirs in zip(*found, strict=True):
        assert_same([one if one is None else one.detach() for one in ours], [*map(detached, theirs)])


def detached(tensor):
    return None if tensor is None else tensor.detach()


@pytest.mark.parametrize("create_graph", [False, True], ids=["kernels", "formulas"])
@pytest.mark.parametrize("weight_eps", [0.0, 1e-6, 1e-8, 0.3, 1e-30])
def test_gradients_next_to_nothing_as_float64(weight_eps, create_graph):
    """float32, whose eps / g^3 overflows and whose g^2 underflows, beside gradients of a usual size."""
    a, g = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    tiny = 10.0 ** torch.randint(-40, -2, (2, 3, 2, 5))
    g[:, :, :2] = torch.where(torch.rand(2, 3, 2, 5) < 0.3, 0, tiny)
    slopes = torch.randn(2, 4, 5)
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = [one.float().to(dtype).requires_grad_() for one in (a, g)]
        heat = fusedcam.cam(*leaves, method="gradcam++", weight_eps=weight_eps, normalize=None)
        both = torch.autograd.grad(heat, leaves, slopes.float().to(dtype), create_graph=create_graph)
        found.append([one.detach().double() for one in both])
    for got, exact in zip(*found, strict=True):
        assert got.isfinite().all()
        assert abs(got - exact).max() <= 1e-5 * abs(exact).max()


@pytest.mark.parametrize("create_graph", [False, True], ids=["kernels", "formulas"])
@pytest.mark.parametrize("weight_eps", [0.0, 1e-30, 1e-3])
@pytest.mark.parametrize("sign", [1, -1])
def test_slopes_where_the_quotient_rule_would_cancel(sign, weight_eps, create_graph):
    """2 / D^2 along Grad-CAM++'s gradients, D in the thousands; along the second of Smooth Grad-CAM++'s moments."""
    a = sign * (torch.rand(1, 2, 6, 6) + 200)
    g = torch.rand(1, 2, 6, 6) + 0.5
    moments = torch.stack([1e-6 * g, 1e-12 * g**2, 1e-18 * g**3])
    for method, gradients, eps in (("gradcam++", g, weight_eps), ("smoothgradcam++", moments, weight_eps * 1e-15)):
        found = []
        for dtype in (torch.float32, torch.float64):
            leaf = gradients.float().to(dtype).requires_grad_()
            options = {"method": method, "weight_eps": eps, "normalize": None, "relu": False}
            maps = fusedcam.cam(a.float().to(dtype), leaf, **options)
            slopes = torch.autograd.grad(maps.sum(), leaf, create_graph=create_graph)[0]
            found.append(slopes.detach().double())
        got, exact = found
        assert exact.all()
        assert (abs(got - exact) <= 1e-5 * abs(exact)).all()


@pytest.mark.parametrize("create_graph", [False, True], ids=["kernels", "formulas"])
@pytest.mark.parametrize("method", ["gradcam++", "smoothgradcam++"])
@pytest.mark.parametrize("weight_eps", [0.0, 0.25])
def test_a_pixel_whose_denominator_is_0_has_no_slope(weight_eps, method, create_graph):
    a, g = torch.zeros(1, 3, 5, 4), 2 ** torch.randint(1, 3, (1, 3, 5, 4)).double()
    a[..., 0, 0], zero = -2 - weight_eps, torch.rand(1, 3, 5, 4) < 0.5
    found = []
    for at_zero in (1.0, -1.0):  # there 2 g^2 + S g^3 + eps = 0; of negative gradients nothing counts either
        gradients = torch.where(zero, at_zero, g)
        if method == "smoothgradcam++":
            gradients = torch.stack([gradients, gradients**2, gradients**2 * g.where(~zero, torch.ones_like(g))])
        leaves = [a.double().requires_grad_(), gradients.requires_grad_()]
        maps = fusedcam.cam(*leaves, method=method, weight_eps=weight_eps, relu=False, normalize=None)
        of_a, of_g = torch.autograd.grad(maps, leaves, torch.ones_like(maps), create_graph=create_graph)
        assert not of_g[..., zero].any()
        assert of_g[..., ~zero].all()
        found.append(torch.cat([maps.flatten(), of_a.flatten(), of_g.flatten()]))
    assert torch.allclose(*found, rtol=1e-12)
