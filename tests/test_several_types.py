"""Explainers of several layers: half types and several types, and what is refused."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from capture_models import Net, unchanged
from fusedcam.torch import GradCAM, GuidedGradCAM, ScoreCAM, ShapleyCAM
from spatial_models import fused

LAYERS = ["last", "stem", "body"]


@pytest.fixture
def x():
    print("seed:", torch.seed())
    return torch.rand(2, 3, 21, 18)


def test_autocast_and_half_types(x):
    net = Net().eval().float()
    with torch.autocast("cpu", torch.bfloat16), unchanged(net):
        heat = GradCAM(net, LAYERS)(x.float(), targets=1, relu=False)
    low = GradCAM(copy.deepcopy(net).bfloat16(), LAYERS)(x.bfloat16(), targets=1, relu=False)
    full = GradCAM(net, LAYERS)(x.float(), targets=1, relu=False)
    assert heat.dtype == low.dtype == torch.float32
    torch.testing.assert_close(heat, full, rtol=0, atol=0.15)
    torch.testing.assert_close(low, full, rtol=0, atol=0.15)


def test_layers_of_several_types(x):
    """As autocast makes them: one native call does not take them, and the maps are as of each by itself."""

    class Float(nn.Module):
        def forward(self, x):
            return x.float() * 1.5

    net = nn.Sequential(nn.Conv2d(3, 4, 3), Float(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    net, x = net.float(), x.float()
    with torch.autocast("cpu", torch.bfloat16):
        heat = GradCAM(net, ["0", "1"])(x, targets=1)
        single = [GradCAM(net, layer)(x, targets=1, size=None) for layer in ("0", "1")]
    expected = fused([one.double().numpy() for one in single], "mean", (21, 18), "minmax")
    np.testing.assert_allclose(heat, expected, rtol=0, atol=1e-5)


def test_refused(x):
    net = Net().eval()
    net.unused = nn.Conv2d(1, 1, 1).eval()
    with pytest.raises(ValueError, match="target_layer is an empty list"):
        GradCAM(net, [])
    with pytest.raises(ValueError, match="target_layer has layer body twice"):
        GradCAM(net, ["body", "last", net.body])
    with pytest.raises(ValueError, match="the model has no module 'bod'"):
        GradCAM(net, ["body", "bod"])
    with pytest.raises(TypeError, match="target_layer is of type int"):
        GradCAM(net, ["body", 1])
    with pytest.raises(ValueError, match="fuse is 'sum'; accepted: 'mean', 'max', 'product'"):
        GradCAM(net, ["body", "last"], fuse="sum")
    for cls in (ShapleyCAM, GuidedGradCAM, ScoreCAM):
        with pytest.raises((ValueError, TypeError), match=r"target_layer.* accepted is one|this method takes one"):
            cls(net, ["body", "last"])(x)
    with unchanged(net):
        with pytest.raises(RuntimeError, match="layer unused was not called"):
            GradCAM(net, ["body", "unused"])(x)
        with pytest.raises(ValueError, match=r"layer head returned float32 \[2, 5\]"):
            GradCAM(net, ["body", "head"])(x)
        with pytest.raises(ValueError, match="class 9 is out of range"):
            GradCAM(net, ["body", "last"])(x, targets=9)
    halves = Halves().eval()
    with pytest.raises(ValueError, match=r"targets=4 does not depend on layer a: for image 0 its gradient is zero"):
        GradCAM(halves, ["b", "a"])(x, targets=4)
    with pytest.raises(ValueError, match=r"does not depend on layer b, as far as autograd can see"):
        GradCAM(halves, ["b", "a"])(x, targets=lambda scores: halves.first(halves.kept)[:, 0])


class Halves(nn.Module):
    """Classes 0 and 1 come from layer a, the others from layer b."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3)
        self.first, self.second = nn.Linear(5, 2), nn.Linear(5, 3)

    def forward(self, x):
        self.kept = F.relu(self.a(x)).mean((2, 3))
        return torch.cat([self.first(self.kept), self.second(self.b(x).mean((2, 3)))], 1)
