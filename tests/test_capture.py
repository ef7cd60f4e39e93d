"""GradCAM: maps against plain autograd, targets and layers of every form, and what each refusal says."""

import numpy as np
import pytest
import torch
from torch import nn

import fusedcam
from capture_models import CLASSES, CONTAINERS, HABITS, Net, Overwriting, Returning, Shared, expected, unchanged
from fusedcam.torch import GradCAM

CONTEXTS = {
    "grad": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


def pick(rows):
    """The score of one list of classes per image."""
    return lambda output: output.gather(1, torch.tensor(rows))


def close(got, wanted):
    torch.testing.assert_close(got.clone(), wanted.clone(), rtol=0, atol=1e-9)


@pytest.fixture(autouse=True)
def _double():
    """Fresh numbers, in float64: a map's small range must not hide behind a wide tolerance."""
    print("seed:", torch.seed())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def net():
    return Net().eval()


@pytest.fixture
def x():
    return torch.rand(3, 3, 21, 18)


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())
@pytest.mark.parametrize("layer", ["stem", "body", "last", None])
@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # the checkpoint's, as in inference
def test_habits(habit, layer, context, x):
    model = Net(habit).eval()
    rows = [[1, 4], [0, 2], [3, 3]]
    twin = Net("in-place" if habit == "in-place" else "plain").eval()
    twin.load_state_dict(model.state_dict())
    module = twin.get_submodule(layer or "last")
    if habit == "in-place":  # plain autograd sees the layer's output after it was overwritten
        twin_body, twin_last = twin.body, twin.last
        twin.forward = lambda x: twin.head(twin_last((twin_body(twin.stem(x)) * 2).relu()).add(1).relu().mean((2, 3)))
    wanted = expected(twin, module, x, pick(rows), relu=False)
    with GradCAM(model, layer) as explain:
        for _ in range(2):
            with context(), unchanged(model):
                heat = explain(x, targets=rows, relu=False)
            close(heat, wanted)
            with torch.no_grad():
                close(explain.output, twin(x))
            assert explain.plan.layer == (layer or "last")
            assert not explain.output.requires_grad
    off = habit in ("no_grad", "inference_mode", "checkpoint, reentrant")
    assert explain.plan.recording == ("from the start" if off else "from the layer")
    assert not explain.plan.reruns, "what was found out once is remembered"


@pytest.mark.parametrize("habit", ["no_grad", "inference_mode", "checkpoint, reentrant"])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_the_plan_reports_a_rerun(habit, x):
    explain = GradCAM(Net(habit).eval(), "body")
    explain(x)
    assert explain.plan.reruns == ("the model switched recording off after the layer",)
    assert explain.plan.recording == "from the start"
    assert "ran again because" in str(explain.plan)


@pytest.mark.parametrize(
    ("targets", "rows", "several"),
    [
        (None, None, False),
        (2, [[2], [2], [2]], False),
        (np.int64(2), [[2], [2], [2]], False),
        (torch.tensor(2), [[2], [2], [2]], False),
        ([4, 0, 1], [[4], [0], [1]], False),
        ((4, 0, 1), [[4], [0], [1]], False),
        (torch.tensor([4, 0, 1]), [[4], [0], [1]], False),
        (np.array([4, 0, 1], np.uint8), [[4], [0], [1]], False),
        ([torch.tensor(4), np.int32(0), 1], [[4], [0], [1]], False),
        ([[4, 0], [1, 1], [2, 3]], [[4, 0], [1, 1], [2, 3]], True),
        (torch.tensor([[4, 0], [1, 1], [2, 3]]), [[4, 0], [1, 1], [2, 3]], True),
        ([torch.tensor([4, 0]), (1, 1), np.array([2, 3])], [[4, 0], [1, 1], [2, 3]], True),
        ([[4], [1], [2]], [[4], [1], [2]], True),
    ],
    ids=lambda value: repr(value).replace("\n", ""),
)
def test_classes(net, x, targets, rows, several):
    if rows is None:
        with torch.no_grad():
            rows = net(x).argmax(1)[:, None].tolist()
    heat = GradCAM(net, "body")(x, targets=targets)
    wanted = expected(net, net.body, x, pick(rows))
    close(heat, wanted if several else wanted[:, 0])


def test_callables(net, x):
    wanted = expected(net, net.last, x, lambda output: output.logsumexp(1))[:, 0]
    explain = GradCAM(net, "last")
    close(explain(x, targets=lambda output: output.logsumexp(1)), wanted)
    close(explain(x, targets=[lambda image: image.logsumexp(0)] * 3), wanted)
    pairs = expected(net, net.last, x, lambda output: output[:, 1:3] * output[:, :1])
    close(explain(x, targets=lambda output: output[:, 1:3] * output[:, :1]), pairs)
    close(explain(x, targets=[lambda image: image[1:3] * image[0]] * 3), pairs)


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers(container, x):
    kind, take = CONTAINERS[container]
    model = Returning(kind, take).eval()
    twin = Returning(lambda extra, maps: maps, lambda output: output).eval()
    twin.load_state_dict(model.state_dict())
    explain = GradCAM(model, "layer")
    with unchanged(model):
        heat = explain(x, targets=lambda output: take(output)[:, 3])
    close(heat, expected(twin, twin.layer, x, pick([[3]] * 3))[:, 0])
    output = explain.output
    assert type(output) is type(model(x))
    close(take(output), twin(x).detach())
    assert not take(output).requires_grad
    with pytest.raises(ValueError, match=r"classes need an output \[N, classes\] .* the model returned"):
        explain(x, targets=[0, 1, 2])
    with pytest.raises(ValueError, match="the model returned"):
        explain(x)
    if container == "dict":
        with pytest.raises(ValueError, match=r"list of callables needs an output whose .* returned dict"):
            explain(x, targets=[lambda image: image[0]] * 3)


def test_shared_layer(x):
    model = Shared().eval()
    for call in (0, 1, 2, -2, -4):
        explain = GradCAM(model, model.act, call=call)
        close(explain(x, targets=1), expected(model, model.act, x, pick([[1]] * 3), call=call)[:, 0])
        assert explain.plan.call == call % 4
        assert explain.plan.calls == 4
    explain = GradCAM(model)  # the classifier's call of the same module has no map
    close(explain(x, targets=1), expected(model, model.act, x, pick([[1]] * 3), call=2)[:, 0])
    assert (explain.plan.layer, explain.plan.call) == ("act", 2)
    for call in (-1, 3):
        with pytest.raises(ValueError, match=r"layer act returned float64 \[3, 7\]; accepted is a map \[N, C, H, W\]"):
            GradCAM(model, "act", call=call)(x)
    for call in (4, -5):
        with pytest.raises(ValueError, match=f"call is {call}, but layer act was called 4 times"):
            GradCAM(model, "act", call=call)(x)


def test_output_overwritten_through_its_other_name(x):
    model = Overwriting().eval()
    with torch.no_grad():
        stem = model.stem(x)
    activations = stem.clone().requires_grad_()
    weights = model.head.weight.detach()[1][:, None, None]
    # What the layer returned is the map; forward reads it as the clone it was given, unwritten.
    gradients = (2 * activations * weights / activations[0, 0].numel()).detach()
    wanted = fusedcam.cam(activations.detach(), gradients, size=(21, 18))
    explain = GradCAM(model, "layer")
    for _ in range(2):
        close(explain(x, targets=1), wanted)
    assert not explain.plan.reruns
    first = GradCAM(model, "layer")
    first(x)
    assert first.plan.reruns[-1] == "the layer's output was overwritten"


def test_options_are_those_of_cam(net, x):
    explain = GradCAM(net, "body")
    options = {"relu": False, "normalize": None, "nan": "zero"}
    wanted = expected(net, net.body, x, pick([[2]] * 3), **options, size=None)[:, 0]
    close(explain(x, targets=2, size=None, **options), wanted)
    assert explain.plan.shape[2:] == wanted.shape[1:]
    close(explain(x, targets=2, size=(5, 40)), expected(net, net.body, x, pick([[2]] * 3), size=(5, 40))[:, 0])
    close(
        explain(x, targets=2, size=9, normalize="max"),
        expected(net, net.body, x, pick([[2]] * 3), size=9, normalize="max")[:, 0],
    )


def test_the_last_map_depends_on_the_input(net):
    net.last.stride = 3
    explain = GradCAM(net)
    for side, layer in ((21, "last"), (9, "body"), (21, "last")):
        explain(torch.rand(1, 3, side, side))
        assert explain.plan.layer == layer
    with pytest.raises(ValueError, match=r"no layer returned a map .* H \* W > 1"):
        GradCAM(nn.Sequential(nn.Flatten(), nn.Linear(3, 4)).eval())(torch.rand(2, 3, 1, 1), targets=0)


def test_other_arguments_reach_the_model(x):
    class Scaled(Net):
        def forward(self, x, factor, *, shift):
            return super().forward(x * factor) + shift

    model = Scaled().eval()
    plain = Net().eval()
    plain.load_state_dict(model.state_dict())
    heat = GradCAM(model, "body")(x, 0.5, targets=[0, 1, 2], shift=torch.ones(1))
    close(heat, expected(plain, plain.body, x * 0.5, pick([[0], [1], [2]]))[:, 0])


def test_empty_batch(net):
    heat = GradCAM(net, "body")(torch.rand(0, 3, 21, 18))
    assert heat.shape == (0, 21, 18)
    assert GradCAM(net, "body")(torch.rand(0, 3, 21, 18), targets=[]).shape == (0, 21, 18)


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ([1, 2], ValueError, "targets: 2 came for 3 images"),
        ([[1, 2]], ValueError, "targets: 1 came for 3 images"),
        (torch.tensor([1]), ValueError, "targets: 1 came for 3 images"),
        ([[1, 2], [1], [2, 3]], ValueError, r"targets: images have \[2, 1, 2\] classes"),
        ([[1, 2], 1, [2, 3]], ValueError, r"targets: images have \[2, None, 2\] classes"),
        ([[], [], []], ValueError, r"targets: images have \[0, 0, 0\] classes"),
        (CLASSES, ValueError, "class 5 is out of range; the model has classes 0 to 4"),
        ([0, -1, 2], ValueError, "class -1 is out of range"),
        (1.0, TypeError, "a class is given as 1.0"),
        (torch.ones(3), TypeError, "a class is given as 1.0"),
        (True, TypeError, "a class is given as True"),
        (torch.ones(3, dtype=torch.bool), TypeError, "a class is given as True"),
        ("tabby", TypeError, "a class is given as 'tabby'"),
        (["a", "b", "c"], TypeError, "a class is given as 'a'"),
        ([[[1]], [[2]], [[3]]], TypeError, r"a class is given as \[1\]"),
        ([lambda image: image[0], 1, 2], TypeError, "a class is given as <function"),
        ([lambda image: image[0]] * 2, ValueError, "targets: 2 came for 3 images"),
        ([lambda image: image] * 2 + [lambda image: image[0]], ValueError, "the callables' scores have shapes"),
        ([lambda image: 1.0] * 3, TypeError, "a callable returned float"),
        (lambda output: 1.0, TypeError, "the score is a float"),
        (
            lambda output: output.sum(),
            ValueError,
            r"the score has shape \(\); accepted is \[N\] or \[N, K\] with N = 3",
        ),
        (lambda output: output[:2, 0], ValueError, r"the score has shape \(2,\)"),
        (lambda output: output[:, :0], ValueError, r"the score has shape \(3, 0\)"),
        (lambda output: output[:, None], ValueError, r"the score has shape \(3, 1, 5\)"),
        (lambda output: output.argmax(1), TypeError, "dtype of the score is torch.int64"),
    ],
    ids=lambda value: None if callable(value) or isinstance(value, list) else repr(value).replace("\n", "")[:40],
)
def test_wrong_targets(net, x, targets, error, message):
    with unchanged(net), pytest.raises(error, match=message):
        GradCAM(net, "body")(x, targets=targets)


def test_a_score_without_the_layer_is_refused(net, x):
    explain = GradCAM(net, "body")
    with unchanged(net):
        with pytest.raises(ValueError, match=r"test_a_score_.*<lambda> does not depend on layer body"):
            explain(x, targets=lambda output: x.sum((1, 2, 3)))
        with pytest.raises(ValueError, match="does not depend on layer body"):
            explain(x, targets=lambda output: output.detach()[:, 0])
        with pytest.raises(ValueError, match="does not depend on layer body"):
            explain(x, targets=lambda output: net.head.weight[:3, 0] * 2)
    cut = Net().eval()
    cut.head.register_forward_pre_hook(lambda module, inputs: (inputs[0].detach(),))
    with pytest.raises(ValueError, match=r"targets=\[0, 1, 2\] does not depend on layer body"):
        GradCAM(cut, "body")(x, targets=[0, 1, 2])
    explain(x)
    assert explain.plan.recording == "from the layer", "a refusal is no property of the model"


def test_a_layer_that_is_not_called(net, x):
    net.unused = nn.Conv2d(1, 1, 1).eval()
    with pytest.raises(RuntimeError, match=r"layer unused was not called: .* does not use it for this input"):
        GradCAM(net, "unused")(x)
    direct = Net().eval()
    direct.tail_of_body = lambda x: direct.body.forward(x)
    with unchanged(direct), pytest.raises(RuntimeError, match=r"layer body was not called: .*forward\(\) directly"):
        GradCAM(direct, "body")(x)


def test_arguments_of_the_wrong_kind(net, x):
    with pytest.raises(TypeError, match=r"model is of type function; accepted is a torch.nn.Module"):
        GradCAM(lambda x: x, "body")
    with pytest.raises(ValueError, match="the model has no module 'bodi'; close: body"):
        GradCAM(net, "bodi")
    with pytest.raises(ValueError, match="target_layer is a ReLU that is not part of the model"):
        GradCAM(net, nn.ReLU())
    with pytest.raises(TypeError, match="target_layer is of type dict"):
        GradCAM(net, {"body": net.body})
    with pytest.raises(TypeError, match=r"call is 1.0; accepted is an int"):
        GradCAM(net, "body", call=1.0)
    with pytest.raises(ValueError, match="call is 0, which needs a target_layer"):
        GradCAM(net, call=0)
    with pytest.raises(TypeError, match="x is of type ndarray"):
        GradCAM(net, "body")(x.numpy())
    with pytest.raises(ValueError, match=r'size is "input", but x has shape \(3, 4\)'):
        GradCAM(net, "body")(torch.ones(3, 4))
    with pytest.raises(ValueError, match="cam: size"):
        GradCAM(net, "body")(x, size=(0, 3))
    with pytest.raises(ValueError, match=r"layer head returned float64 \[3, 5\]; accepted is a map"):
        GradCAM(net, "head")(x)


def test_results_of_a_call_that_failed_are_not_the_last_ones(net, x):
    explain = GradCAM(net, "body")
    explain(x)
    with pytest.raises(ValueError, match="out of range"):
        explain(x, targets=99)
    with pytest.raises(AttributeError, match="plan is there after a call on this thread has succeeded"):
        _ = explain.plan
    assert not hasattr(explain, "output")
