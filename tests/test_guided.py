"""Guided backpropagation and its kin: ReLUs of every spelling, by hand and by a network of other ReLUs, peers."""

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import aot_module, nop
from torch import nn

from capture_models import CLASSES, HABITS, Net, Shared, unchanged
from fusedcam.torch import Deconvnet, GradCAM, GuidedBackprop, GuidedGradCAM
from peer_models import images, network, pytorch_grad_cam
from rare_models import Spelled, close, double  # noqa: F401

pytestmark = pytest.mark.usefixtures("double")

SPELLINGS = {
    "module": nn.ReLU(),
    "module, in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu, in place": lambda x: F.relu(x, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "method": lambda x: x.relu(),
    "method, in place": lambda x: x.relu_(),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp_, in place": lambda x: x.clamp_(0),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "ReLU6": nn.ReLU6(),
    "ReLU6, in place": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "clamp to 6": lambda x: x.clamp(0, 6),
    "Hardtanh": nn.Hardtanh(0, 6),
}


class Other(torch.autograd.Function):
    """max(x, 0), at most `top`, whose backward is the papers' own equation."""

    @staticmethod
    def forward(ctx, x, top, rule):
        ctx.save_for_backward(x)
        ctx.top, ctx.rule = top, rule
        return x.clamp(0, top)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        passed = gradient * (gradient > 0)
        if ctx.rule == "guided":
            passed = passed * ((x > 0) & (x < ctx.top))
        return passed, None, None


def other(model, x, classes, rule, top):
    """[N, K, ...] by a network of the same weights with other ReLUs."""
    twin = Spelled(lambda x: Other.apply(x, top, rule))
    twin.load_state_dict(model.state_dict())
    x = x.clone().requires_grad_()
    output = twin(x)
    columns = output.gather(1, torch.tensor(classes)).sum(0)
    return torch.stack([torch.autograd.grad(column, x, retain_graph=True)[0] for column in columns], 1)


@pytest.mark.parametrize(("method", "rule"), [(GuidedBackprop, "guided"), (Deconvnet, "deconvolved")])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling, method, rule):
    model, x = Spelled(SPELLINGS[spelling]).eval(), 9 * torch.randn(3, 3, 8, 11)
    rows = [[1, 4], [0, 2], [3, 3]]
    top = 6 if "6" in spelling or spelling == "Hardtanh" else torch.inf
    explain = method(model)
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context(), unchanged(model):
            several = explain(x, targets=rows)
            one = explain(x, targets=[row[1] for row in rows])
        wanted = other(model, x, rows, rule, top)
        close(several, wanted, 1e-12)
        close(one, wanted[:, 1], 1e-12)
    close(explain.output, model(x))
    close(explain(x[1:2], targets=2), one[1:2], 1e-12)  # an image is explained as in a batch
    close(explain(x, targets=lambda output: output.logsumexp(1)).shape, torch.Size([3, 3, 8, 11]))
    # Nothing has stayed behind: the network's own gradient is the plain one.
    x.requires_grad_()
    (plain,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    twin = Spelled(lambda x: x.clamp(0, top))
    twin.load_state_dict(model.state_dict())
    close(plain, torch.autograd.grad(twin(x)[:, 1].sum(), x)[0], 1e-12)


def test_by_hand():
    """y = relu(x1) - relu(x2) + relu(2 relu(x1) - 3 relu(x2)): what is negative comes through nowhere."""
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.eye(2))
        second.weight.copy_(torch.tensor([[2.0, -3]]))

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x):
            hidden = self.first(x).relu()
            return hidden @ torch.tensor([[1.0], [-1.0]]) + self.second(hidden).relu()

    x = torch.tensor([[4.0, 1.0], [1.0, 4.0], [-1.0, -2.0]])
    model = Tiny().eval()
    close(GuidedBackprop(model)(x, targets=0), torch.tensor([[3.0, 0], [1, 0], [0, 0]]))
    close(Deconvnet(model)(x, targets=0), torch.tensor([[3.0, 0], [3, 0], [3, 0]]))


@pytest.mark.parametrize("habit", [habit for habit in HABITS if habit not in ("no_grad", "inference_mode")])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_habits(habit):
    """ReLUs within checkpoints of both kinds are found."""
    model, x = Net(habit).eval(), torch.randn(2, 3, 21, 18)
    twin = Net("in-place" if habit == "in-place" else "plain").eval()
    twin.load_state_dict(model.state_dict())
    wanted = GuidedBackprop(twin)(x)
    with unchanged(model):
        close(GuidedBackprop(model)(x), wanted, 1e-12)
        close(GuidedGradCAM(model, "body")(x), GuidedGradCAM(twin, "body")(x), 1e-12)
    assert x.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_guided_gradcam(context):
    rows = [[1, 4], [0, 2]]
    x = torch.randn(2, 3, 21, 18)
    for model, layers in ((Net().eval(), ("stem", "last", None)), (Net("in-place").eval(), ("body", "last"))):
        guided = GuidedBackprop(model)(x, targets=rows)
        for layer in layers:
            heat = GradCAM(model, layer)(x, targets=rows, normalize=None)
            explain = GuidedGradCAM(model, layer)
            with context(), unchanged(model):
                product = explain(x, targets=rows)
                first = explain(x, targets=[row[0] for row in rows])
            close(product, guided * heat[:, :, None], 1e-12)
            close(first, product[:, 0], 1e-12)
            close(explain.output, model(x))
    shared = Shared().eval()
    for call in (0, 2, -2, -4):
        heat = GradCAM(shared, "act", call=call)(x, normalize=None)
        close(GuidedGradCAM(shared, "act", call=call)(x), GuidedBackprop(shared)(x) * heat[:, None], 1e-12)


def test_runs_once():
    model, x = Net().eval(), torch.randn(2, 3, 21, 18)
    calls = []
    model.stem.register_forward_hook(lambda module, inputs, output: calls.append(1))
    GuidedGradCAM(model, "last")(x, targets=[[1, 2], [3, 4]])
    assert len(calls) == 1


def test_a_model_that_writes_to_its_input():
    class Writing(Spelled):
        def forward(self, x):
            return super().forward(x.mul_(2).sub_(1))

    model = Writing(F.relu).eval()
    twin = Spelled(F.relu).eval()
    twin.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 8, 11)
    before = x.clone()
    close(GuidedBackprop(model)(x, targets=1), 2 * GuidedBackprop(twin)(2 * x - 1, targets=1), 1e-12)
    assert torch.equal(x, before)


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU:UserWarning")  # Captum's
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients:UserWarning")
def test_captum():
    from captum.attr import Deconvolution, GuidedGradCam
    from captum.attr import GuidedBackprop as Guided

    model, x = Spelled(nn.ReLU()), torch.randn(3, 3, 8, 11)
    model.first_relu, model.second_relu, model.relu = nn.ReLU(), nn.ReLU(), None
    model.third_relu = nn.ReLU()

    def forward(x):
        x = model.second_relu(model.second(model.first_relu(model.first(x))))
        return model.head(model.third_relu(model.hidden(x.mean((2, 3)))))

    model.forward = forward
    classes = [1, 0, 4]
    close(GuidedBackprop(model.eval())(x, targets=classes), Guided(model).attribute(x, torch.tensor(classes)), 1e-12)
    close(Deconvnet(model)(x, targets=classes), Deconvolution(model).attribute(x, torch.tensor(classes)), 1e-12)
    product = GuidedGradCam(model, model.second).attribute(x, torch.tensor(classes), interpolate_mode="bilinear")
    close(GuidedGradCAM(model, "second")(x, targets=classes), product, 1e-12)


def test_pytorch_grad_cam():
    """Which explains the first image alone; [H, W, C]."""
    package = pytorch_grad_cam()
    model, x = network("residual"), images(2, 3, 40, 56)
    ours = GuidedBackprop(model)(x, targets=[3, 1])
    theirs = package.GuidedBackpropReLUModel(model)(x.clone(), 3)
    close(ours[0].permute(1, 2, 0), theirs, 1e-6 * abs(theirs).max())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # the compiler's
def test_compiled_in_part():
    """Ahead of time: where the graph shows some ReLUs and hides others, no number is given."""
    model = Spelled(F.relu).eval()
    compiled = aot_module(model.hidden, nop).eval()
    head, second, first = model.head, model.second, model.first
    model.forward = lambda x: head(F.relu(compiled(F.relu(second(F.relu(first(x)))).mean((2, 3)))))
    with pytest.raises(RuntimeError, match="the model is compiled, which hides what"):
        GuidedBackprop(model)(torch.randn(2, 3, 8, 11))


def test_refusals():
    model, x = Net().eval(), torch.randn(2, 3, 21, 18)
    smooth = Spelled(F.gelu).eval()
    for call, error, message in (
        (lambda: GuidedBackprop(3), TypeError, "model is of type int"),
        (lambda: GuidedBackprop(model)(3), TypeError, "x is of type int"),
        (lambda: GuidedBackprop(model)(x.int()), TypeError, "x is of torch.int32"),
        (lambda: GuidedBackprop(model)(x, targets=[1]), ValueError, "targets: 1 came for 2 images"),
        (lambda: GuidedBackprop(model)(x, targets=CLASSES), ValueError, f"class {CLASSES} is out of range"),
        (lambda: GuidedBackprop(smooth)(x), ValueError, "GuidedBackprop changes what ReLUs let through, and the net"),
        (lambda: GuidedBackprop(Spelled(F.hardtanh).eval())(x), ValueError, "the network has none"),
        (lambda: GuidedBackprop(Spelled(lambda x: x.clamp(-1, 6)).eval())(x), ValueError, "the network has none"),
        (lambda: GuidedBackprop(Net("no_grad").eval())(x), ValueError, "does not depend on x"),
        (lambda: GuidedBackprop(model)(x, targets=lambda output: torch.ones(2)), ValueError, "does not depend on x"),
        (lambda: GuidedGradCAM(model, "trunk"), ValueError, "the model has no module 'trunk'"),
        (lambda: GuidedGradCAM(model, call=2), ValueError, "call is 2, which needs a target_layer"),
        (lambda: GuidedGradCAM(model, "body", call=2)(x), ValueError, "call is 2, but the layer was called 1 times"),
        (
            lambda: GuidedGradCAM(model, "head")(x),
            ValueError,
            r"the layer returned float64 \[2, 5\]; accepted",
        ),
        (lambda: GuidedGradCAM(model, "body")(x[0]), ValueError, r"x has shape \(3, 21, 18\)"),
        (lambda: GuidedBackprop(model).output, AttributeError, "output is there after a call"),
    ):
        with pytest.raises(error, match=message):
            call()
    dead = Net().eval()
    dead.forward = lambda x: dead.head(x.mean((2, 3)).relu() @ torch.ones(3, 7))
    with pytest.raises(RuntimeError, match="the layer was not called"):
        GuidedGradCAM(dead, "body")(x)
    model.train()
    with pytest.warns(UserWarning, match="training mode"):
        GuidedBackprop(model)(x)
