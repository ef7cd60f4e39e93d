"""Explainers whose maps a loss can train through: parameters' gradients as in plain PyTorch, in float64."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fusedcam.torch
from fusedcam.methods import METHODS

pytestmark = pytest.mark.usefixtures("doubles")

SINGLE = [method.class_name for method in METHODS.values() if method.name != "smoothgradcam++"]


class Net(nn.Module):
    """Smooth, so that the score has a curvature; the last layer's output may be written to."""

    def __init__(self, inplace=False, norm=False):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.layer = nn.Conv2d(6, 5, 3, padding=1)
        self.inplace = inplace
        self.hidden, self.head = nn.Linear(5, 7), nn.Linear(7, 4)

    def forward(self, x):
        y = self.layer(F.softplus(self.norm(self.first(x))))
        y = y.add_(1).mul_(0.5) if self.inplace else (y + 1) * 0.5
        return self.head(F.softplus(self.hidden(F.softplus(y).mean((2, 3)))))


def plainly(net, x, classes):
    """Grad-CAM's heatmaps, without a ReLU so that each has a range, and the output, by two recorded passes."""
    kept = []
    handle = net.layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    was, net.inplace = net.inplace, False
    output = net(x)
    net.inplace = was
    handle.remove()
    score = output.gather(1, classes[:, None]).sum()
    (gradients,) = torch.autograd.grad(score, kept[0], create_graph=True)
    raw = (gradients.mean((2, 3), keepdim=True) * kept[0]).sum(1)
    big = F.interpolate(raw[:, None], size=x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    low, high = big.amin((1, 2), keepdim=True), big.amax((1, 2), keepdim=True)
    return (big - low) / (high - low), output


def gradients_of(net, loss):
    return torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)


def assert_same(found, wanted):
    assert any(one is not None and one.any() for one in wanted)
    for got, exact in zip(found, wanted, strict=True):
        assert (got is None) == (exact is None)
        if got is not None:
            np.testing.assert_allclose(got, exact, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch-norm"])
@pytest.mark.parametrize("inplace", [False, True], ids=["", "inplace"])
def test_parameters_gradients_as_plain_pytorch(inplace, norm):
    net = Net(inplace, norm)
    x, mask, classes = torch.randn(3, 3, 8, 9), torch.rand(3, 8, 9), torch.tensor([1, 0, 3])
    other = copy.deepcopy(net)
    explain = fusedcam.torch.GradCAM(net, "layer", create_graph=True)
    heat = explain(x, targets=classes, relu=False)
    wanted, output = plainly(other, x, classes)
    np.testing.assert_allclose(heat.detach(), wanted.detach(), atol=1e-10)
    np.testing.assert_allclose(explain.output.detach(), output.detach(), atol=1e-12)
    losses = [
        ((maps - mask) ** 2).mean() + F.cross_entropy(scores, classes)
        for maps, scores in ((heat, explain.output), (wanted, output))
    ]
    assert_same(gradients_of(net, losses[0]), gradients_of(other, losses[1]))
    if norm:  # the statistics moved once, a second run or not
        assert torch.equal(net.norm.running_mean, other.norm.running_mean)
        assert net.norm.num_batches_tracked == 1


@pytest.mark.parametrize("name", SINGLE)
def test_every_method_against_finite_differences(name):
    """Of the map's mean square along a random direction of all parameters."""
    net = Net()
    explain = getattr(fusedcam.torch, name)(net, "layer", create_graph=True)
    x, weights = torch.randn(2, 3, 5, 6), torch.randn(2, 5, 6)

    def loss():
        return (explain(x, targets=1, normalize="minmax") * weights).sum()

    slopes = gradients_of(net, loss())
    direction = [torch.randn_like(parameter) for parameter in net.parameters()]
    along = sum((s * d).sum() for s, d in zip(slopes, direction, strict=True) if s is not None)

    def rise(step):
        values = []
        for signed in (step, -step):
            with torch.no_grad():
                for parameter, d in zip(net.parameters(), direction, strict=True):
                    parameter += signed * d
            values.append(loss().item())
            with torch.no_grad():
                for parameter, d in zip(net.parameters(), direction, strict=True):
                    parameter -= signed * d
        return (values[0] - values[1]) / (2 * step)

    # The larger steps may go over a kink of the ReLUs, or to another pixel's extreme.
    rises = [rise(step) for step in (1e-6, 1e-7, 1e-8)]
    wanted = along.item()
    assert min(abs(found - wanted) for found in rises) <= 2e-4 * abs(wanted) + 1e-6, (wanted, rises)


def test_several_classes_layers_and_frozen_parts():
    net, x = Net(), torch.randn(2, 3, 6, 6)
    heat = fusedcam.torch.GradCAM(net, "layer", create_graph=True)(x, targets=[[0, 2], [1, 3]], relu=False)
    assert heat.shape == (2, 2, 6, 6)
    for image, row in enumerate(([0, 2], [1, 3])):
        for k, target in enumerate(row):
            alone, _ = plainly(net, x[image : image + 1], torch.tensor([target]))
            np.testing.assert_allclose(heat[image, k].detach(), alone[0].detach(), atol=1e-10)
    both = fusedcam.torch.HiResCAM(net, ["first", "layer"], create_graph=True, fuse="max")(x, targets=1, relu=False)
    assert_same(gradients_of(net, both.sum()), gradients_of(net, fused_plainly(net, x).sum()))
    for module in (net.first, net.layer):
        module.requires_grad_(False)
    heat = fusedcam.torch.GradCAM(net, "layer", create_graph=True)(x, targets=1, normalize=None, relu=False)
    slopes = torch.autograd.grad(heat.sum(), net.head.weight)
    plain, _ = plainly_raw(net, x)
    assert_same(slopes, torch.autograd.grad(plain.sum(), net.head.weight))


def fused_plainly(net, x):
    """HiResCAM's maps of both layers, each normalised, and the larger one normalised again."""
    first = net.first(x)
    layer = net.layer(F.softplus(first))
    output = net.head(F.softplus(net.hidden(F.softplus((layer + 1) * 0.5).mean((2, 3)))))
    maps = []
    for activations in (first, layer):
        (gradients,) = torch.autograd.grad(output[:, 1].sum(), activations, create_graph=True)
        maps.append(normalized((gradients * activations).sum(1)))
    return normalized(torch.maximum(*maps))


def normalized(maps):
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def plainly_raw(net, x):
    activations = net.layer(F.softplus(net.first(x))).detach().requires_grad_()
    output = net.head(F.softplus(net.hidden(F.softplus((activations + 1) * 0.5).mean((2, 3)))))
    (gradients,) = torch.autograd.grad(output[:, 1].sum(), activations, create_graph=True)
    raw = (gradients.mean((2, 3), keepdim=True) * activations).sum(1)
    return F.interpolate(raw[:, None], size=x.shape[-2:], mode="bilinear", align_corners=False)[:, 0], output


def test_without_a_layer_under_no_grad_and_twice():
    net, x = Net(norm=True), torch.randn(2, 3, 6, 6)
    explain = fusedcam.torch.GradCAM(net, create_graph=True)
    with torch.no_grad():
        heat = explain(x, targets=1)
    assert heat.requires_grad
    assert net.norm.num_batches_tracked == 1
    assert explain.plan.layer == "layer"
    assert explain.plan.reruns == ("the last map had to be found first",)
    heat.sum().backward()
    explain(x, targets=1).sum().backward()
    assert net.norm.num_batches_tracked == 2


class Checkpointed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=True)


def test_refusals():
    net, x = Net(), torch.randn(2, 3, 6, 6)
    with pytest.raises(TypeError, match="create_graph is 1"):
        fusedcam.torch.GradCAM(net, "layer", create_graph=1)
    with pytest.raises(ValueError, match="create_graph is True, but eigen_smooth is True"):
        fusedcam.torch.GradCAM(net, "layer", create_graph=True, eigen_smooth=True)
    explain = fusedcam.torch.GradCAM(net, "layer", create_graph=True)
    with pytest.raises(ValueError, match="does not depend on layer"):
        explain(x, targets=lambda output: torch.ones(2, requires_grad=True) * 2)
    around = Net()
    inner = Checkpointed(nn.Sequential(around.first, around.layer))
    model = nn.Sequential(inner, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    explain = fusedcam.torch.GradCAM(model, inner.inner[1], create_graph=True)
    with pytest.raises(ValueError, match="pass it use_reentrant=False"):
        explain(x.clone().requires_grad_(), targets=1)
    with pytest.raises(ValueError, match="layer head returned"):
        fusedcam.torch.GradCAM(net, "head", create_graph=True)(x, targets=1)
