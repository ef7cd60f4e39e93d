"""GradCAM refuses scores that do not depend on the layer, follows views of its output, and leaves the model's state."""

import pytest
import torch
from torch import nn

from fusedcam.torch import GradCAM


@pytest.fixture
def x():
    return torch.rand(3, 3, 9, 9)


class TwoHeads(nn.Module):
    """Classes 0 to 3 come from layer a, 4 and 5 from layer b."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3)
        self.first, self.second = nn.Linear(5, 4), nn.Linear(5, 2)

    def forward(self, x):
        return torch.cat([self.first(self.a(x).mean((2, 3))), self.second(self.b(x).mean((2, 3)))], 1)


@pytest.mark.parametrize(
    ("targets", "message"),
    {
        "a constant of one image": ([lambda o: o[0], lambda o: torch.tensor(1.0), lambda o: o[0]], "of image 1 does"),
        "a detached score of one": ([lambda o: o[0], lambda o: o[0].detach(), lambda o: o[0]], "of image 1 does not"),
        "a constant column": (
            lambda o: torch.stack([o[:, 0], torch.ones(3)], 1),
            "layer a: for image 0, class number 1 of its list, its gradient is zero everywhere",
        ),
        "another branch's class": (
            4,
            "targets=4 does not depend on layer a: for image 0 its gradient is zero everywhere and",
        ),
        "another branch's class of one image": ([0, 1, 5], "for image 2 its gradient is zero"),
        "another branch's class of several": ([[0, 4]] * 3, "for image 0, class number 1 of its list, its"),
    }.values(),
)
def test_no_map_of_zeros(x, targets, message):
    with pytest.raises(ValueError, match=message):
        GradCAM(TwoHeads(), "a", eval=True)(x, targets=targets)


class WithView(nn.Module):
    """The layer returns a map and a view of it; the head uses either or both."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3)

        def forward(self, x):
            h = self.conv(x)
            return h, h.flatten(2), h[:, 1:, ::2]

    def __init__(self, used):
        super().__init__()
        self.layer, self.head, self.used = self.Layer(), nn.Linear(5, 4), used

    def tail(self, h, flat, part):
        seen = torch.zeros(len(h), 5)
        if "map" in self.used:
            seen = seen + h.square().mean((2, 3))
        if "flat" in self.used:
            seen = seen + flat.sin().mean(2)
        if "part" in self.used:
            seen = seen + part.exp().mean((1, 2, 3))[:, None]
        return self.head(seen)

    def forward(self, x):
        return self.tail(*self.layer(x))


@pytest.mark.parametrize("used", [("flat",), ("part",), ("map", "flat"), ("map", "flat", "part")], ids="+".join)
def test_views_of_the_layers_output_are_followed(x, used):
    model = WithView(used).eval()
    heat = GradCAM(model, "layer")(x, targets=1, size=None, normalize=None, relu=False)
    h = model.layer.conv(x).detach().requires_grad_()
    score = model.tail(h, h.flatten(2), h[:, 1:, ::2])[:, 1].sum()
    (gradient,) = torch.autograd.grad(score, h)
    wanted = (gradient.double().mean((2, 3), keepdim=True) * h.detach().double()).sum(1)
    torch.testing.assert_close(heat.double(), wanted, rtol=0, atol=1e-6 * float(wanted.abs().max() + 1))


class Stateful(nn.Sequential):
    """Running statistics, and an average of weights that forward updates as it goes."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(245, 4))
        self.register_buffer("ema", torch.zeros(5))

    def forward(self, x):
        self.ema.mul_(0.9).add_(self[0].bias * 0.1)
        with torch.no_grad():
            h = self[2](self[1](self[0](x)))
        return self[4](self[3](h))


@pytest.mark.filterwarnings("ignore:the model is in training mode")
@pytest.mark.parametrize("layer", ["0", "1", "2", None])
def test_running_again_moves_statistics_once(x, layer):
    model, plain = Stateful(), Stateful()
    plain.load_state_dict(model.state_dict())
    plain(x)
    explain = GradCAM(model, layer)
    explain(x, targets=1)
    assert explain.plan.reruns
    for (name, buffer), wanted in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, wanted.detach(), rtol=1e-6, atol=1e-7, msg=name)
        assert not buffer.requires_grad, name


@pytest.mark.parametrize("target", [2**63, 2**70, -(2**63) - 1, [1, 2**64, 1], [[1], [2**64], [1]]])
def test_classes_beyond_64_bits(x, target):
    with pytest.raises(ValueError, match=r"targets: class -?\d+ is out of range"):
        GradCAM(TwoHeads().eval(), "a")(x, targets=target)


def test_under_another_default_device(x):
    model = TwoHeads().eval()
    wanted = GradCAM(model, "a")(x, targets=[0, 1, 2])
    with torch.device("meta"):
        assert torch.equal(GradCAM(model, "a")(x, targets=[0, 1, 2]), wanted)
        assert torch.equal(GradCAM(model, "a")(x, targets=1), GradCAM(model, "a")(x, targets=[1, 1, 1]))


def test_a_dead_relu_is_no_missing_path(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(196, 2)).eval()
    torch.nn.init.constant_(model[0].bias, -1e3)  # no pixel is positive
    before = torch.get_rng_state()
    assert not GradCAM(model, "0")(x, targets=1).any()
    assert torch.equal(torch.get_rng_state(), before)
