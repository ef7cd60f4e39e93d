"""AblationCAM: maps against the paper's formula on whole runs of the model, for every kind of target and model."""

import pytest
import torch
from torch import nn

import fusedcam
from ablation_models import EVERY, all_classes, close, expected, plain
from capture_models import CLASSES, CONTAINERS, HABITS, Net, Overwriting, Returning, Shared, unchanged
from fusedcam.torch import AblationCAM

pytestmark = pytest.mark.usefixtures("doubles")


@pytest.fixture
def x():
    return torch.randn(3, 3, 21, 18)


@pytest.mark.parametrize("batch_size", [1, 4, None])
@pytest.mark.parametrize("layer", ["stem", "body", "last"])
def test_every_layer(x, layer, batch_size):
    model = Net().eval()
    wanted = expected(model, model.get_submodule(layer), x, all_classes)
    with unchanged(model):
        explain = AblationCAM(model, layer, batch_size=batch_size)
        got = explain(x, targets=EVERY)
    close(got, wanted)
    assert explain.plan.reruns == ()
    assert explain.plan.recording == "nothing"
    assert not any("forward" in vars(module) for module in model.modules())
    torch.testing.assert_close(explain.output, model(x).detach())


TARGETS = {
    "none": (None, lambda out: out.max(1).values),
    "int": (2, lambda out: out[:, 2]),
    "a class per image": ([4, 0, 2], lambda out: out.gather(1, torch.tensor([[4], [0], [2]]))[:, 0]),
    "several": ([[1, 4], [0, 2], [3, 3]], lambda out: out.gather(1, torch.tensor([[1, 4], [0, 2], [3, 3]]))),
    "callable": (lambda out: out[:, 1] * 2, lambda out: out[:, 1] * 2),
    "callable of the batch": (lambda out: out.gather(1, torch.tensor([[1, 4], [0, 2], [3, 3]])),) * 2,
    "callables": ([lambda row, i=i: row[i] ** 2 for i in (4, 0, 2)], lambda out: out.diagonal(dim1=0, dim2=1)[:0]),
}


@pytest.mark.parametrize("top_channels", [None, 3])
@pytest.mark.parametrize(("targets", "score"), TARGETS.values(), ids=TARGETS)
def test_targets(x, targets, score, top_channels):
    model = Net().eval()
    if targets is None:
        first = model(x).argmax(1, keepdim=True)
        score = lambda out: out.gather(1, first)[:, 0]  # noqa: E731
    if isinstance(targets, list) and callable(targets[0]):
        score = lambda out: out.gather(1, torch.tensor([[4], [0], [2]]))[:, 0] ** 2  # noqa: E731
    activations, y, y_k = plain(model, model.last, x, score)
    weights = (y[..., None] - y_k) / y[..., None]
    if top_channels:
        tried = activations.flatten(2).std(2).argsort(1, descending=True)[:, :3]
        keep = torch.zeros(3, 7).scatter(1, tried, 1)
        weights = weights * (keep if weights.ndim == 2 else keep[:, None])
    got = AblationCAM(model, "last", top_channels=top_channels)(
        x, targets=targets, size=None, normalize=None, relu=False
    )
    close(got, fusedcam.cam(activations, weights=weights, normalize=None, relu=False))


def test_callables_of_one_image(x):
    model = Net().eval()
    got = AblationCAM(model, "last", batch_size=4)(x[:1], targets=lambda out: out[:, 1])
    close(got, expected(model, model.last, x[:1], lambda out: out[:, 1:2])[:, 0])
    assert AblationCAM(model, "last")(x[:0]).shape == (0, 21, 18)


def test_a_score_of_zero_is_not_divided_by(x):
    model = Net().eval()
    zero = model(x[:1]).detach()[0, 1]
    activations, y, y_k = plain(model, model.last, x[:1], lambda out: out[:, 1] - zero)
    assert not y.any()
    got = AblationCAM(model, "last")(x[:1], targets=lambda out: out[:, 1] - zero, size=None, normalize=None, relu=False)
    close(got, fusedcam.cam(activations, weights=-y_k, normalize=None, relu=False))


@pytest.mark.parametrize("call", [0, 1, 2, -2])
def test_a_shared_layers_calls(x, call):
    model = Shared().eval()
    close(
        AblationCAM(model, "act", call=call, batch_size=3)(x, targets=EVERY),
        expected(model, model.act, x, all_classes, call),
    )


def test_the_last_map_is_found(x):
    explain = AblationCAM(Shared().eval())
    explain(x)
    assert explain.plan.layer == "act"
    assert explain.plan.call == 2
    assert explain.plan.reruns == ("the last map had to be found first",)


@pytest.mark.parametrize(("kind", "take"), CONTAINERS.values(), ids=CONTAINERS)
def test_what_layers_and_models_return(x, kind, take):
    model = Returning(kind, take).eval()
    score = lambda output: take(output)[:, 1]  # noqa: E731
    got = AblationCAM(model, "layer", batch_size=6)(x, targets=score)
    close(got, expected(model, model.layer, x, lambda output: score(output)[:, None])[:, 0])


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_habits(x, habit):
    model = Net(habit).eval()
    for layer in ("stem", "last"):
        got = AblationCAM(model, layer, batch_size=5)(x, targets=EVERY)
        close(got, expected(model, model.get_submodule(layer), x, all_classes))


def test_a_layer_that_returns_its_input(x):
    model = Overwriting().eval()
    close(AblationCAM(model, "layer")(x, targets=EVERY), expected(model, model.layer, x, all_classes))


def test_more_arguments(x):
    net = Net().eval()

    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, factor, shift):
            assert len(factor) == len(x)
            return self.net(x) * factor[:, None] + shift

    factor, shift = torch.rand(3) + 1, torch.rand(CLASSES)
    model = Weighted().eval()
    got = AblationCAM(model, "net.last", batch_size=4)(x, factor, targets=EVERY, shift=shift)
    close(got, expected(model, net.last, x, all_classes, factor=factor, shift=shift))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_types(x, dtype):
    model, half = Net().eval(), Net().to(dtype).eval()
    half.load_state_dict(model.state_dict())
    explain = AblationCAM(half, "last")
    got = explain(x.to(dtype), targets=1)
    assert explain.plan.reruns == ()
    assert got.dtype == torch.float32
    bound = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.6}[dtype]
    assert (got - AblationCAM(model, "last")(x, targets=1)).abs().max() < bound


def test_a_model_in_training(x):
    """Batch norm and dropout: whole runs, whose statistics and random numbers leave no trace."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    explain = AblationCAM(model, "0")
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="the model is in training mode"):
        explain(x)
    assert model[1].num_batches_tracked == 1
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    model(x)
    assert torch.equal(torch.get_rng_state(), after), "as after one forward"
    quiet = AblationCAM(model, "0", eval=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = quiet(x, targets=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    close(first, expected(model.eval(), model[0], x, lambda out: out[:, 1:2])[:, 0])


def test_gradients_are_neither_needed_nor_left(x):
    model = Net().eval()
    wanted = AblationCAM(model, "last")(x)
    with torch.inference_mode():
        assert torch.equal(AblationCAM(model, "last")(x).clone(), wanted)
    got = AblationCAM(model.requires_grad_(False), "last")(x.clone().requires_grad_())
    assert torch.equal(got, wanted)
    assert not got.requires_grad


def test_a_bar_is_shown_when_asked_for(x, capsys):
    steps: list[int] = []
    model = Net().eval()
    heat = AblationCAM(model, "last", batch_size=4, progress=lambda batches: steps.append(len(batches)) or batches)(x)
    assert steps == [6]
    assert capsys.readouterr() == ("", "")
    assert torch.equal(AblationCAM(model, "last", batch_size=4, progress=True)(x), heat)
    assert "Ablation-CAM" in capsys.readouterr().out


def test_refused(x):
    model = Net().eval()
    for call, kind, message in (
        (lambda: AblationCAM(model, batch_size=-1), ValueError, "^batch_size is -1; accepted"),
        (lambda: AblationCAM(model, progress="yes"), TypeError, "^progress is 'yes'; accepted"),
        (lambda: AblationCAM(model, "head")(x), ValueError, r"layer head returned float64 \[3, 5\]"),
        (lambda: AblationCAM(model)(x, targets=7), ValueError, "targets: class 7 is out of range"),
        (lambda: AblationCAM(nn.Sequential(model, nn.Softmax(1)), "2"), ValueError, "no module '2'"),
    ):
        with unchanged(model), pytest.raises(kind, match=message):
            call()
