"""What all of the rarer methods share: no trace on the model or the caller, threads, types of numbers, docstrings."""

import re
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fusedcam.torch
from capture_models import Net, unchanged
from fusedcam.torch import (
    SESS,
    Deconvnet,
    Explainer,
    FinerCAM,
    FullGrad,
    GradCAM,
    GuidedBackprop,
    GuidedGradCAM,
    LeGrad,
    RefineCAM,
    ShapleyCAM,
    Smoothed,
    noisy_moments,
)
from fusedcam.torch.explainer import Run
from fusedcam.torch.methods import EXPLAINERS
from rare_models import Curved, ViT, close, double  # noqa: F401

pytestmark = pytest.mark.usefixtures("double")

MAKERS = {
    "FinerCAM": (Net, lambda model: FinerCAM(model, "body")),
    "ShapleyCAM": (Curved, lambda model: ShapleyCAM(model, "layer")),
    "RefineCAM": (Net, lambda model: RefineCAM(model, ["stem", "last"])),
    "FullGrad": (Net, FullGrad),
    "GuidedBackprop": (Net, GuidedBackprop),
    "Deconvnet": (Net, Deconvnet),
    "GuidedGradCAM": (Net, GuidedGradCAM),
    "LeGrad": (lambda: ViT("fused"), lambda model: LeGrad(model, list(model.blocks), head=model.pooled)),
    "LeGrad of modules": (ViT, LeGrad),
    "SESS": (Net, lambda model: SESS(GradCAM(model, "last"), scales=2)),
    "Smoothed": (Net, lambda model: Smoothed(GradCAM(model, "last"), noise=2)),
}


@pytest.fixture(params=MAKERS)
def made(request):
    """A model, its explainer and images."""
    model, make = MAKERS[request.param]
    model = model().eval()
    return model, make(model), torch.rand(2, 3, 32, 32)


def test_no_trace(made):
    model, explain, x = made
    x.requires_grad_()
    before, state = x.detach().clone(), torch.random.get_rng_state()
    with unchanged(model):
        heat = explain(x, targets=[1, 3])
    assert not heat.requires_grad
    assert x.grad is None
    assert torch.equal(x, before)
    assert torch.equal(state, torch.random.get_rng_state())
    model.requires_grad_(False)
    with unchanged(model):
        close(explain(x.detach(), targets=[1, 3]), heat, 1e-12)
    assert not explain(x.detach()).requires_grad


def test_no_trace_of_a_failure(made):
    model, explain, x = made
    forward = model.forward

    def fail(*args):
        forward(*args)
        raise ZeroDivisionError

    model.forward = fail
    for context in (torch.enable_grad, torch.no_grad):
        with context(), unchanged(model), pytest.raises(ZeroDivisionError):
            explain(x, targets=[1, 3])
    model.forward = forward
    assert torch.isfinite(explain(x, targets=[1, 3])).all()
    last = list(model.modules())[-1]  # deep within the run
    last.forward = fail
    forward = type(last).forward.__get__(last)
    with unchanged(model), pytest.raises(ZeroDivisionError):
        explain(x, targets=[1, 3])
    del last.forward


def test_evaluates_for_the_length_of_the_call():
    model, x = Net().train(), torch.rand(2, 3, 32, 32)
    for explain in (
        FinerCAM(model, "body", eval=True),
        RefineCAM(model, ["stem", "last"], eval=True),
        FullGrad(model, eval=True),
        GuidedBackprop(model, eval=True),
        GuidedGradCAM(model, "body", eval=True),
        SESS(GradCAM(model, "last", eval=True), scales=1),
        Smoothed(GradCAM(model, "last", eval=True)),
    ):
        modes = []
        handle = model.body.register_forward_hook(
            lambda module, inputs, output, seen=modes: seen.append(module.training)
        )
        explain(x)
        handle.remove()
        assert modes
        assert not any(modes)
        assert all(module.training for module in model.modules())


def test_threads(made):
    """Several explain one model, and one infers with it: nobody sees another's hooks, modes or recording."""
    model, explain, x = made
    wanted = [explain(x, targets=[k, 1]) for k in range(3)]
    problems = []

    def explain_often(k):
        for _ in range(5):
            if not torch.equal(explain(x, targets=[k, 1]), wanted[k]):
                problems.append(f"class {k} differs")

    def infer_often():
        with torch.no_grad():
            expected = model(x)
            for _ in range(30):
                output = model(x)
                if output.requires_grad or not torch.equal(output, expected):
                    problems.append("inference was recorded, or changed")

    def guarded(call, *args):
        try:
            call(*args)
        except Exception as error:
            problems.append(repr(error))

    threads = [threading.Thread(target=guarded, args=(explain_often, k)) for k in range(3)]
    threads.append(threading.Thread(target=guarded, args=(infer_often,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


@pytest.mark.parametrize("way", ["bfloat16", "autocast", "channels last"])
def test_numbers(made, way):
    """Half types, autocast and other strides bring the same maps, as far as they can."""
    model, explain, x = made
    model.float()
    x = x.float()
    raw = {} if isinstance(explain, GuidedBackprop) else {"normalize": None, "relu": False}
    wanted = explain(x, targets=[1, 3], **raw)
    if way == "bfloat16":
        model.bfloat16()
        got = explain(x.bfloat16(), targets=[1, 3], **raw)
    elif way == "autocast":
        with torch.autocast("cpu", torch.bfloat16), unchanged(model):
            got = explain(x, targets=[1, 3], **raw)
    else:
        got = explain(x.to(memory_format=torch.channels_last), targets=[1, 3], **raw)
    assert got.shape == wanted.shape
    assert torch.isfinite(got).all()
    if way == "channels last":
        assert (got - wanted).abs().max() <= 1e-4 * max(wanted.abs().max(), 1e-3)
    elif not isinstance(explain, RefineCAM | SESS | Smoothed):  # these bring each map to one range, or draw noise
        assert (got.float() - wanted).norm() <= 0.5 * wanted.norm()  # ReLUs and their gradients turn on and off


class Staged(nn.Module):
    """With the names of a ResNet's stages."""

    def __init__(self):
        super().__init__()
        self.layer2, self.layer3, self.layer4 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3, 2), nn.Conv2d(5, 6, 3)
        self.head = nn.Linear(6, 300)

    def forward(self, x):
        x = F.relu(self.layer4(F.relu(self.layer3(F.relu(self.layer2(x))))))
        return self.head(x.mean((2, 3)))


def test_the_page_runs():
    page = (Path(__file__).resolve().parent.parent / "docs" / "rarer-methods.md").read_text()
    names = {"model": Staged().eval(), "vit": ViT().eval(), "x": torch.rand(1, 3, 32, 32)}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], names)
    assert names["heat"].shape == (1, 32, 32)
    assert names["edges"].shape == (1, 3, 32, 32)
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed == {*fusedcam.torch.__all__} - {
        *EXPLAINERS,
        *fusedcam.torch.tasks.__all__,  # of a page of their own
        "EXPLAINERS",
        "Explainer",
        "Plan",
        "Factorization",
        "FullGradients",
        "Moments",
    }


RARE = [SESS, FinerCAM, FullGrad, GuidedBackprop, Deconvnet, GuidedGradCAM, LeGrad, RefineCAM, ShapleyCAM, Smoothed]


@pytest.mark.parametrize("kind", RARE, ids=lambda kind: kind.__name__)
def test_names_and_places(kind):
    assert kind.__name__ in fusedcam.torch.__all__
    assert "arxiv.org" in kind.__doc__
    assert kind.__module__.startswith("fusedcam.torch.")


def test_moments_are_for_the_layer_alone():
    """No gradient of a parameter, nothing recorded before the layer."""
    model, x = Net().eval(), torch.rand(2, 3, 21, 18)
    recorded = []
    model.body.register_forward_hook(lambda module, inputs, output: recorded.append(inputs[0].requires_grad))
    with unchanged(model):
        found = noisy_moments(GradCAM(model, "body"), Run((x,), {}, None), samples=3)
    assert recorded == [False]
    assert not found.moments.requires_grad
    assert not found.activations.requires_grad
    assert F.relu(found.moments[1]).equal(found.moments[1])  # squares
    assert isinstance(Smoothed(GradCAM(model)).explainer, Explainer)
