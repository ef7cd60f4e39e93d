"""Shortcuts behind layers of other types and forms: autocast, tokens, signals, volumes, several layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from capture_models import plain_gradients
from fusedcam.torch import GradCAM
from fusedcam.torch.explainer import Run
from head_models import CLASSES, HEADS, Headed, Mean, captured, close, headed

pytestmark = pytest.mark.usefixtures("doubles")


@pytest.fixture
def x():
    return torch.rand(3, 3, 7, 6)


@pytest.mark.parametrize("name", ["linear", "hidden layer"])
def test_under_autocast(name, x):
    torch.set_default_dtype(torch.float32)
    model, x = headed(name), x.float()
    with torch.autocast("cpu", torch.bfloat16):
        _, wanted = plain_gradients(model, model.layer, x, lambda output: output)
        found = captured(GradCAM(model, "layer"), x, "all")
        dense = captured(GradCAM(model, "layer", shortcut=False), x, "all")
        heat = GradCAM(model, "layer")(x, targets="all")
    assert found.plan.shortcut == HEADS[name][1]
    assert found.gradients.dtype == dense.gradients.dtype == wanted.dtype
    close(found.gradients, wanted, 2e-3 * float(wanted.abs().max()))
    close(found.gradients, dense.gradients, 0 if name == "linear" else 1e-2 * float(wanted.abs().max()))
    assert heat.dtype == torch.float32


def test_a_mean_in_another_type(x):
    torch.set_default_dtype(torch.float32)
    x = x.float()
    for head, shortcut in (
        (lambda m, a: m.fc(a.double().mean((2, 3)).float()), "linear"),
        (lambda m, a: m.fc(a.mean((2, 3)).double().float()).double(), "linear"),
        (lambda m, a: m.fc(a.half().float().mean((2, 3))), "none"),  # which rounds the gradient
    ):
        model = Headed(head).eval()
        wanted = plain_gradients(model, model.layer, x, lambda output: output)[1]
        found = captured(GradCAM(model, "layer"), x, "all")
        assert found.plan.shortcut == shortcut
        assert found.gradients.dtype == torch.float32
        close(found.gradients, wanted, 0)


class Tokens(nn.Module):
    """Tokens [N, 1 + 6, C], a class token first, and the mean of some of them."""

    def __init__(self, first):
        super().__init__()
        self.patches, self.layer, self.fc = nn.Conv2d(3, 4, 2, 2), nn.LayerNorm(4), nn.Linear(4, CLASSES)
        self.first = first

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        tokens = self.layer(torch.cat([tokens[:, :1] * 2, tokens], 1))
        return self.fc(tokens[:, self.first :].mean(1))


@pytest.mark.parametrize(("first", "shortcut"), [(0, "linear"), (1, "linear"), (2, "none")])
def test_tokens(first, shortcut):
    model, x = Tokens(first).eval(), torch.rand(2, 3, 4, 6)
    found = captured(GradCAM(model, "layer", tokens=(2, 3)), x, "all")
    assert found.plan.shortcut == shortcut
    wanted = plain_gradients(model, model.layer, x, lambda output: output)[1]
    close(found.gradients, wanted[:, :, 1:].mT.reshape(2, CLASSES, 4, 2, 3))


@pytest.mark.parametrize("spatial", [1, 3])
def test_signals_and_volumes(spatial):
    convolution, pool = (
        (nn.Conv1d, nn.AdaptiveAvgPool1d),
        None,
        (nn.Conv3d, nn.AdaptiveAvgPool3d),
    )[spatial - 1]
    model = nn.Sequential(convolution(2, 4, 2), pool(1), nn.Flatten(), nn.Linear(4, CLASSES)).eval()
    x = torch.rand(2, 2, *range(4, 4 + spatial))
    found = captured(GradCAM(model, "0", spatial=spatial), x, "all")
    assert found.plan.shortcut == "linear"
    close(found.gradients, plain_gradients(model, model[0], x, lambda output: output)[1])


def test_channels_last_layers(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 2), Permuted(), nn.Identity(), Mean((1, 2)), nn.Linear(4, CLASSES)).eval()
    found = captured(GradCAM(model, "1", layout="last"), x, "all")
    assert found.plan.shortcut == "linear"
    close(found.gradients, plain_gradients(model, model[1], x, lambda output: output)[1].movedim(-1, 2))


class Permuted(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1).contiguous()


def test_several_layers(x):
    """The last alone is pooled; all are differentiated at once."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)
    ).eval()
    explain = GradCAM(model, ["0", "2"])
    every = explain._captured_layers(Run((x,), {}, "all"))
    assert [one.plan.shortcut for one in every] == ["none", "pooled"]
    for one, layer in zip(every, (model[0], model[2]), strict=True):
        close(one.gradients, plain_gradients(model, layer, x, lambda output: output)[1])
    options = {"size": None, "normalize": None}
    close(explain(x, targets="all", **options), GradCAM(model, ["0", "2"], shortcut=False)(x, targets="all", **options))


@pytest.mark.filterwarnings("ignore:the model is in training mode")
def test_batch_statistics_mix_images(x):
    """In training mode a norm behind the pool makes a class's gradient one of all images."""
    model = headed("batch norm behind").train()
    twin = headed("batch norm behind").train()
    twin.load_state_dict(model.state_dict())
    found = captured(GradCAM(model, "layer"), x, "all")
    assert found.plan.shortcut == "pooled"
    close(found.gradients, plain_gradients(twin, twin.layer, x, lambda output: output)[1])
    model = headed("linear")
    model.head[1].register_forward_hook(lambda m, i, o: F.dropout(o, 0.5))
    assert captured(GradCAM(model, "layer"), x, "all").plan.shortcut == "pooled"


def test_no_images():
    assert GradCAM(headed("linear"), "layer")(torch.rand(0, 3, 7, 6), targets="all").shape == (0, CLASSES, 7, 6)
