"""FullGrad: completeness, terms by hand and by plain autograd, the paper's map, pytorch-grad-cam's, refusals."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from functorch.compile import aot_module, nop
from torch import nn

import reference
from capture_models import HABITS, Net, Shared, unchanged
from fusedcam.torch import FullGrad
from peer_models import images, network, pytorch_grad_cam, quiet
from rare_models import Spelled, close, double  # noqa: F401

pytestmark = pytest.mark.usefixtures("double")


class Mixed(nn.Module):
    """Batch normalisation with and without parameters, pooling, a branch that is not used, and `act`."""

    def __init__(self, act):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6)
        self.act, self.pool = act, nn.MaxPool2d(2)
        self.second, self.bare = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5, affine=False)
        self.turned, self.unused = nn.ConvTranspose2d(5, 4, 2), nn.Conv2d(5, 4, 1)
        self.hidden, self.flat, self.head = nn.Linear(4, 7), nn.BatchNorm1d(7), nn.Linear(7, 5)
        for norm in (self.norm, self.bare, self.flat):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.pool(self.act(self.norm(self.first(x))))
        x = self.act(self.bare(self.second(x)))
        self.unused(x)
        x = F.relu(self.turned(x)).mean((2, 3))
        return self.head(F.leaky_relu(self.flat(self.hidden(x))))


ACTS = {
    "ReLU": nn.ReLU,
    "in place": lambda: nn.ReLU(inplace=True),
    "ReLU6": nn.ReLU6,
    "ReLU6, in place": lambda: nn.ReLU6(inplace=True),
    "SiLU": nn.SiLU,
    "SiLU, in place": lambda: nn.SiLU(inplace=True),
    "Hardswish, in place": lambda: nn.Hardswish(inplace=True),
    "GELU": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "PReLU": nn.PReLU,
    "ELU": nn.ELU,
}


@pytest.mark.parametrize("act", ACTS)
def test_completeness(act):
    """The sum of all terms is the score, exactly: nothing is missing, and nothing is counted twice."""
    model, x = Mixed(ACTS[act]()).eval(), 5 * torch.randn(3, 3, 21, 26)
    rows = [[1, 4], [0, 2], [3, 3]]
    with unchanged(model), torch.no_grad():
        terms = FullGrad(model).gradients(x, targets=rows)
        output = model(x)
    close(terms.score, output.gather(1, torch.tensor(rows)), 1e-12)
    close(terms.total, terms.score, 1e-12)
    assert terms.input.shape == (3, 2, 3, 21, 26)
    assert {"norm", "second", "bare", "turned", "hidden", "flat", "head"} <= {*terms.biases}
    assert ("act#1" in terms.biases) == (act not in ("ReLU", "in place", "PReLU"))
    assert not terms.biases["unused"].any()
    if "act" in terms.biases:
        assert (terms.total - terms.biases["act"].flatten(2).sum(2) - terms.score).abs().max() > 1e-6
    one = FullGrad(model).gradients(x[1:2], targets=2)
    close(one.input, terms.input[1:2, 1], 1e-12)
    close(one.biases["bare"], terms.biases["bare"][1:2, 1], 1e-12)
    close(one.total, output[1:2, 2], 1e-12)


@pytest.mark.parametrize("habit", [habit for habit in HABITS if habit not in ("no_grad", "inference_mode")])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_habits(habit):
    model, x = Net(habit).eval(), torch.rand(2, 3, 21, 18)
    explain = FullGrad(model)
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context(), unchanged(model):
            terms = explain.gradients(x)
        total = terms.total
        if habit == "in-place":  # whose features add 1, which no module knows of
            total = total + (terms.score - total)
        close(total, model(x).amax(1), 1e-12)
    assert x.grad is None
    assert not x.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_by_hand():
    """y = 3 relu(2 x + 1) - relu(-x + 5) + 4 at x = 1: 5 x + 3 - 5 + 4, and half of each pixel's."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1))
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), ([2, -1], [1, 5], [3, -1], [4]), strict=True):
            parameter.copy_(torch.tensor(values, dtype=parameter.dtype).reshape(parameter.shape))
    terms = FullGrad(model.eval()).gradients(torch.tensor([[[[1.0, -1.0]]]]), targets=0)
    # At x = -1 the first ReLU is off: y = x - 5 + 4.
    close(terms.input, torch.tensor([[[[7 / 2, -1 / 2]]]]))
    close(terms.biases["0"], torch.tensor([[[[3 / 2, 0]], [[-5 / 2, -5 / 2]]]]))
    close(terms.biases["4"], [[4.0]])
    close(terms.score, [(7 + 3 - 5) / 2 + (-1 - 5) / 2 + 4])
    close(terms.total, terms.score)


def plain_terms(model, layers, x, score):
    """Of one image: |x dx| and |bias dy| of each layer, by recording everything."""
    seen = []
    handles = [layer.register_forward_hook(lambda module, inputs, output: seen.append(output)) for layer in layers]
    x = x[None].clone().requires_grad_()
    found = torch.autograd.grad(score(model(x)), [x, *seen])
    for handle in handles:
        handle.remove()
    terms = [(x * found[0])[0].abs()]
    for layer, gradient in zip(layers, found[1:], strict=True):
        if isinstance(layer, nn.BatchNorm2d):
            deviation = (layer.running_var + layer.eps).sqrt()
            bias = layer.bias - layer.weight * layer.running_mean / deviation
        else:
            bias = layer.bias
        terms.append((bias[:, None, None] * gradient[0]).abs())
    return [term.detach().numpy() for term in terms]


def psi(term, rescale, size):
    """The paper's, summed over channels."""
    if rescale == "channel":
        ranged = reference.normalize(term, "minmax")
    else:
        ranged = (term - term.min()) / (term.max() - term.min())
    return reference.bilinear(ranged, size).sum(0)


@pytest.mark.parametrize("rescale", ["channel", "layer"])
def test_map(rescale):
    model = network("residual").double()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # for the oracle's sake
    layers = []  # in the order in which they run
    for block in (model.layer1, model.layer2, model.layer3):
        layers += [block.first, block.norm, block.second, block.skip]
    x, rows = images(2, 3, 24, 20).double(), [[1, 2], [0, 6]]
    wanted = [
        [
            sum(psi(term, rescale, (24, 20)) for term in plain_terms(model, layers, x[n], lambda o, k=k: o[0, k]))
            for k in rows[n]
        ]
        for n in range(2)
    ]
    explain = FullGrad(model, rescale=rescale)
    with unchanged(model), torch.no_grad():
        heat = explain(x, targets=rows)
    close(heat, reference.normalize(np.array(wanted), "minmax"))
    close(explain(x, targets=rows, normalize=None), np.array(wanted))
    smaller = reference.normalize(reference.bilinear(np.array(wanted)[:, 0], (12, 31)), "minmax")
    close(explain(x, targets=[1, 0], size=(12, 31)), smaller)
    close(explain.output, model(x))
    assert explain.plan.recording == "from the start"


@pytest.mark.parametrize("kind", ["residual", "dense"])
def test_pytorch_grad_cam(kind):
    """It adds 1e-7 to every channel's range, of which most are smaller than that at the size of real gradients; here
    the last layer's weights are large."""
    package = pytorch_grad_cam()
    model, x = network(kind), images(2, 3, 40, 56)
    head = model.fc if kind == "residual" else model.classifier
    with torch.no_grad():
        head.weight.mul_(1e5)
    target = package.utils.model_targets.ClassifierOutputTarget
    with quiet():
        expected = package.FullGrad(model, [])(x, [target(2), target(5)])
    close(FullGrad(model)(x, targets=[2, 5]), expected, 5e-5)


@pytest.mark.parametrize("rescale", ["channel", "layer"])
@pytest.mark.parametrize("rows", [[1, 3], [[1, 3, 0], [2, 2, 4]]], ids=["a class", "classes"])
def test_channels_last(rescale, rows):
    """Linear layers on [N, H, W, C] are convolutions of one pixel, and the activation function behind lies as they."""

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.first, self.act = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(4, 7), nn.GELU()
            self.second, self.head = nn.Linear(7, 6), nn.Linear(6, 5)

        def forward(self, x):
            x = self.second(self.act(self.first(self.stem(x).permute(0, 2, 3, 1))))
            return self.head(x.tanh().mean((1, 2)))

    class First(Last):
        def forward(self, x):
            for name in ("first", "act", "second"):
                layer = getattr(self, name)
                x = self.stem(x) if name == "first" else x
                if isinstance(layer, nn.Linear):
                    layer = self.convolutions[name]
                x = layer(x)
            return self.head(x.tanh().mean((2, 3)))

    last, first, x = Last().eval(), First().eval(), torch.rand(2, 3, 21, 26)
    first.load_state_dict(last.state_dict())
    first.convolutions = nn.ModuleDict()
    for name in ("first", "second"):
        layer = getattr(last, name)
        first.convolutions[name] = nn.Conv2d(layer.in_features, layer.out_features, 1)
        first.convolutions[name].weight.data = layer.weight.data[:, :, None, None]
        first.convolutions[name].bias.data = layer.bias.data
    first.eval()
    options = {"targets": rows, "normalize": None}
    close(FullGrad(last, rescale=rescale)(x, **options), FullGrad(first, rescale=rescale)(x, **options), 1e-9)
    assert FullGrad(last).gradients(x, targets=rows).biases["act"].shape[-1] == 7


def test_what_is_folded_into_the_batch_is_refused():
    class Crops(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            crops = torch.cat([x[..., :9], x[..., -9:]])
            return self.head(self.layer(crops).mean((2, 3))).unflatten(0, (2, -1)).mean(0)

    model, x = Crops().eval(), torch.rand(3, 3, 12, 16)
    with pytest.raises(ValueError, match=r"layer 'layer' returned \[6, 4, 10, 7\]; accepted are maps .* with N = 3"):
        FullGrad(model)(x, targets=1)
    terms = FullGrad(model).gradients(x, targets=1)
    with pytest.raises(ValueError, match=r"the biases of 'layer' are \[6, 4, 10, 7\] for scores \[3\]"):
        assert terms.total is None


def test_no_images():
    assert FullGrad(Net().eval())(torch.rand(0, 3, 21, 18)).shape == (0, 21, 18)


def test_shared_modules_and_functions():
    model, x = Shared().eval(), 8 * torch.rand(2, 3, 12, 12)
    terms = FullGrad(model).gradients(x)
    assert {"act", "act#1", "act#2", "act#3"} <= {*terms.biases}
    close(terms.total, terms.score, 1e-12)

    class Both(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    model = Mixed(nn.ReLU()).eval()
    model.norm = Both(6).eval()
    assert "norm" not in FullGrad(model).gradients(torch.randn(2, 3, 21, 26)).biases
    # A functional ReLU6 has a bias that nobody sees; the gap tells.
    spelled = Spelled(lambda x: F.relu6(30 * x)).eval()
    terms = FullGrad(spelled).gradients(x)
    assert (terms.total - terms.score).abs().max() > 1e-6


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # the compiler's
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_hides_its_biases():
    """What was compiled ahead of time is one node of the graph."""
    model, x = Net().eval(), torch.rand(2, 3, 21, 18)
    model.stem = aot_module(model.stem, nop).eval()
    with pytest.raises(RuntimeError, match="the model is compiled, which hides what it is made of"):
        FullGrad(model)(x)
    scripted = torch.jit.trace(Mixed(nn.ReLU()).eval(), torch.rand(2, 3, 21, 26))
    with pytest.raises(RuntimeError, match="the model was scripted"):
        FullGrad(scripted)(torch.rand(2, 3, 21, 26))


def test_refusals():
    model, x = Mixed(nn.ReLU()).eval(), torch.randn(2, 3, 21, 26)
    for call, error, message in (
        (lambda: FullGrad(model, rescale="all"), ValueError, 'rescale is \'all\'; accepted: "channel", "layer"'),
        (lambda: FullGrad(3), TypeError, "model is of type int"),
        (lambda: FullGrad(model)(x[0], targets=0), ValueError, r"x has shape \(3, 21, 26\); accepted are images"),
        (lambda: FullGrad(model)(x.int()), TypeError, "x is of torch.int32; accepted is a tensor of floats"),
        (lambda: FullGrad(model).gradients(3), TypeError, "x is of type int"),
        (lambda: FullGrad(model)(x, targets=[1]), ValueError, "targets: 1 came for 2 images"),
        (lambda: FullGrad(model)(x, targets=lambda output: torch.ones(2)), ValueError, "does not depend on x"),
        (lambda: FullGrad(model)(x, targets=lambda output: model.head.bias[:2]), ValueError, "does not depend on x"),
        (lambda: FullGrad(Net("no_grad").eval())(x), ValueError, "does not depend on x"),
    ):
        with pytest.raises(error, match=message):
            call()
    model.train()
    with pytest.warns(UserWarning, match="training mode"), pytest.raises(ValueError, match="running statistics"):
        FullGrad(model)(x)
    with unchanged(model):
        heat = FullGrad(model, eval=True)(x)
    close(heat, FullGrad(model.eval())(x))
    fresh = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(3 * 21 * 26, 2))
    with pytest.raises(ValueError, match="running statistics"):
        FullGrad(fresh.eval())(x)
