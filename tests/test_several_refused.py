"""What explainers of several layers refuse, and which methods take one alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from capture_models import Net, unchanged
from fusedcam.torch import GradCAM, GuidedGradCAM, ScoreCAM, ShapleyCAM


@pytest.fixture
def x():
    print("seed:", torch.seed())
    return torch.rand(2, 3, 21, 18)


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
