"""Models that were compiled, scripted or exported before they are explained: the eager model's map, or what to do."""

import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fusedcam
from capture_models import Net, Shared, expected, plain_gradients, unchanged
from fusedcam.torch import (
    CAM,
    EXPLAINERS,
    AblationCAM,
    EigenCAM,
    FullGrad,
    GradCAM,
    GuidedBackprop,
    RefineCAM,
    ScoreCAM,
    Smoothed,
)

pytestmark = [
    pytest.mark.usefixtures("doubles"),
    pytest.mark.filterwarnings("ignore:.*(torch.jit|TracerWarning)"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),  # Dynamo's, of what it compiles
]

CONTEXTS = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.fixture
def x():
    return torch.rand(3, 3, 21, 18)


@pytest.fixture(autouse=True)
def _fresh():
    """What was compiled for another test would be taken."""
    torch.compiler.reset()


def wanted(net, layer, x, k=1, **options):
    return expected(net, net.get_submodule(layer), x, lambda output: output[:, k], **options)[:, 0]


def whole(net):
    return torch.compile(net, backend="eager", fullgraph=True)


def wrapped(net):
    return torch.compile(net, backend="eager")


def in_place(net):
    net.compile(backend="eager")
    return net


def a_part(net):
    net.body = torch.compile(net.body, backend="eager")
    return net


def a_part_in_place(net):
    net.body.compile(backend="eager")
    net.last.compile(backend="aot_eager")
    return net


def its_forward(net):
    net.forward = torch.compile(net.forward, backend="eager")
    return net


def a_function(net):
    net.features = torch.compile(net.features, backend="eager")
    return net


def twice(net):
    net.body = torch.compile(net.body, backend="eager")
    return torch.compile(net, backend="aot_eager")


def by_aot(net):
    return torch.compile(net, backend="aot_eager", dynamic=True)


WAYS = [wrapped, in_place, whole, by_aot, a_part, a_part_in_place, its_forward, a_function, twice]


@pytest.mark.parametrize("layer", ["body", None])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_compiled_before(way, layer, x):
    """Hooks of the extractor come after the code was compiled, for both grad modes; no model is compiled anew."""
    net = Net().eval()
    heat = wanted(net, layer or "last", x)
    with torch.no_grad():
        scores = net(x)
    model = way(net)
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            model(x)
    stance = torch._dynamo.eval_frame._stance
    frames = torch._dynamo.utils.counters["frames"]["total"]
    with GradCAM(model, layer) as explain:
        for context in CONTEXTS.values():
            with context(), unchanged(model):
                torch.testing.assert_close(explain(x, targets=1).clone(), heat, rtol=0, atol=1e-9)
            torch.testing.assert_close(explain.output.clone(), scores, rtol=0, atol=1e-9)
            assert not explain.plan.reruns or layer is None
            assert explain.plan.layer == (layer or "last"), "as the eager model has it"
    assert torch._dynamo.eval_frame._stance is stance
    with torch.no_grad():
        torch.testing.assert_close(model(x), scores, rtol=0, atol=1e-9)
    assert torch._dynamo.utils.counters["frames"]["total"] == frames


@pytest.mark.slow
def test_compiled_by_inductor(x):
    net = Net().eval()
    heat = wanted(net, "body", x)
    model = torch.compile(net, options={"compile_threads": 1})
    with torch.no_grad():
        model(x)
    torch.testing.assert_close(GradCAM(model, "body")(x, targets=1), heat, rtol=0, atol=1e-9)


def test_names_and_modules_of_either_model(x):
    net = Net().eval()
    heat = wanted(net, "body", x)
    conv = net.body
    model = wrapped(net)
    nested = nn.Sequential(wrapped(nn.Sequential(model))).eval()
    for given in ("body", "_orig_mod.body", conv, model.body, torch.compile(conv, backend="eager")):
        torch.testing.assert_close(GradCAM(model, given)(x, targets=1), heat, rtol=0, atol=1e-9)
        torch.testing.assert_close(GradCAM(net, given)(x, targets=1), heat, rtol=0, atol=1e-9)
    for given in ("0.0.body", "0._orig_mod.0._orig_mod.body", "0.0._orig_mod.body", conv):
        explain = GradCAM(nested, given)
        torch.testing.assert_close(explain(x, targets=1), heat, rtol=0, atol=1e-9)
        assert explain.plan.layer == "0.0.body"
    net.body = wrapped(net.body)
    for given in ("body", "_orig_mod.body", "body._orig_mod", conv, net.body):
        torch.testing.assert_close(GradCAM(model, given)(x, targets=1), heat, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="the model has no module 'bodi'; close: body"):
        GradCAM(model, "bodi")
    with pytest.raises(ValueError, match="is a Conv2d that is not part of the model"):
        GradCAM(model, nn.Conv2d(1, 1, 1))


def test_a_layer_that_runs_several_times(x):
    net = Shared().eval()
    score = {"score": lambda output: output[:, 1], "relu": False, "normalize": None}
    model = wrapped(net)
    with torch.no_grad():
        model(x)
    for call in (0, 1, 2):
        heat = expected(net, net.act, x, call=call, **score)[:, 0]
        got = GradCAM(model, "act", call=call)(x, targets=1, relu=False, normalize=None)
        torch.testing.assert_close(got, heat, rtol=0, atol=1e-9)


OTHERS = {
    **EXPLAINERS,
    **{kind.__name__: kind for kind in (CAM, EigenCAM, ScoreCAM, AblationCAM)},
    "RefineCAM": lambda model, layer: RefineCAM(model, ["body", layer]),
    "FullGrad": lambda model, layer: FullGrad(model),
    "GuidedBackprop": lambda model, layer: GuidedBackprop(model),
    "Smoothed": lambda model, layer: Smoothed(GradCAM(model, layer), noise=2),
    "several": lambda model, layer: GradCAM(model, ["body", layer]),
}


class Pooled(nn.Module):
    """With modules for its ReLUs, and a classifier behind the pooling alone."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU())
        self.head = nn.Linear(6, 5)
        with torch.no_grad():  # so that no map is empty
            self.last[0].bias += 1
            self.head.weight.abs_()

    def forward(self, x):
        return self.head(self.last(self.body(x)).mean((2, 3)))


@pytest.mark.parametrize("method", OTHERS)
def test_every_explainer(method, x):
    model = Pooled().eval()
    targets = None if method == "EigenCAM" else [2, 0, 1]
    plain = OTHERS[method](model, "last")(x, targets=targets)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        compiled(x)
    with unchanged(model):
        found = OTHERS[method](compiled, "last")(x, targets=targets)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-9)
    assert plain.any()


def test_other_threads_run_what_was_compiled(x):
    """While one explains, and while the stance is another's."""
    net = Net().eval()
    heat = wanted(net, "body", x)
    ran = []

    def backend(graph, inputs):
        def call(*args):
            ran.append(threading.get_ident())
            return graph(*args)

        return call

    other = torch.compile(Net().eval(), backend=backend)
    model = torch.compile(net, backend=backend)
    with torch.no_grad():
        other(x)
        model(x)

    def elsewhere():
        with torch.no_grad():
            other(x)
            model(x)

    def score(output):
        return output[:, 1]

    def hook(module, inputs, output):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    ran.clear()
    handle = net.stem.register_forward_hook(hook)
    with torch.compiler.set_stance("fail_on_recompile"):
        found = GradCAM(model, "body")(x, targets=score)
        assert torch._dynamo.eval_frame._stance.stance == "fail_on_recompile"
    handle.remove()
    assert torch._dynamo.eval_frame._stance.stance == "default"
    torch.testing.assert_close(found, heat, rtol=0, atol=1e-9)
    assert ran
    assert threading.get_ident() not in ran


def test_score_cam_runs_masked_images_as_compiled(x):
    ran = []

    def backend(graph, inputs):
        return lambda *args: ran.append(len(args)) or graph(*args)

    ScoreCAM(torch.compile(Pooled().eval(), backend=backend), "last")(x, targets=1)
    assert ran


# Scripted


class Halves(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU())
        self.head = nn.Linear(6, classes)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def scripted(model, x):
    return torch.jit.script(model)


def traced(model, x):
    return torch.jit.trace(model, x)


@pytest.mark.parametrize("way", [scripted, traced], ids=lambda way: way.__name__)
def test_a_scripted_model(way, x):
    """No hook runs in it; its own parts are called (of a traced one, parts that were traced apart), and the arrays are
    explained."""
    net = Halves().eval()
    heat = wanted(net, "features", x)
    model = way(net, x)
    for layer in ("features", "features.2", model.features, "head"):
        with pytest.raises(RuntimeError, match=r"target_layer is in .* scripted or traced before, .* fusedcam.cam"):
            GradCAM(model, layer)
    for kind in (GradCAM, ScoreCAM, EigenCAM):
        with pytest.raises(RuntimeError, match=r"target_layer is None, .* the model was scripted .* fusedcam.cam"):
            kind(model)
    with pytest.raises(RuntimeError, match="the model was scripted"):
        FullGrad(model)(x)
    features = model.features if way is scripted else traced(net.features, x)
    with torch.no_grad():
        maps = features(x)
    head = model.head if way is scripted else traced(net.head, maps.mean((2, 3)))
    maps.requires_grad_()
    (gradients,) = torch.autograd.grad(head(maps.mean((2, 3)))[:, 1].sum(), maps)
    got = fusedcam.cam(maps.detach(), gradients, size=(21, 18))
    torch.testing.assert_close(got, heat, rtol=0, atol=1e-9)


@pytest.mark.parametrize("way", [scripted, traced], ids=lambda way: way.__name__)
def test_a_scripted_part(way, x):
    """An Identity behind it is watched in its place; what lies outside of it is explained as ever."""
    net = Halves().eval()
    heat = wanted(net, "features", x)
    part = way(net.features, x)
    model = nn.Sequential(nn.Identity(), part, nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.head).eval()
    torch.testing.assert_close(GradCAM(model, "2")(x, targets=1), heat, rtol=0, atol=1e-9)
    with pytest.raises(RuntimeError, match=r"target_layer is None, .* '1' in the model was scripted"):
        GradCAM(model)
    with pytest.raises(RuntimeError, match=r"target_layer is in a part .* nn.Identity behind"):
        GradCAM(model, "1.0")


def test_the_page_runs(x):
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    net = Halves(282).eval()
    model = SimpleNamespace(features=torch.jit.script(net.features), classifier=torch.jit.script(net.head))
    names = {"model": model, "x": x}
    exec(block, names)
    torch.testing.assert_close(names["heat"], wanted(net, "features", x, 281), rtol=0, atol=1e-9)


# Exported


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # PyTorch's own, of its pytrees
def test_an_exported_program(x):
    net = Halves().eval()
    heat = wanted(net, "features.2", x)
    program = torch.export.export(net, (x,))
    flat = program.module()
    with pytest.raises(RuntimeError, match=r"features.2 was not called: .* a graph, .* torch.export.unflatten"):
        GradCAM(flat, "features.2", eval=True)(x)
    with pytest.raises((RuntimeError, ValueError), match=r"torch.export.unflatten"):
        GradCAM(flat, eval=True)(x)
    model = torch.export.unflatten(program)
    torch.testing.assert_close(GradCAM(model, "features.2", eval=True)(x, targets=1), heat, rtol=0, atol=1e-9)
    activations, gradients = plain_gradients(net, net.features[2], x, lambda output: output[:, 1])
    got = fusedcam.cam(activations, gradients[:, 0], size=(21, 18))
    torch.testing.assert_close(got, heat, rtol=0, atol=1e-9)
