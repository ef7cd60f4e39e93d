"""ScoreCAM, SSCAM and ISCAM: maps against the papers' formulas, targets of every form, and how the model is left."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

import fusedcam
import reference
from capture_models import CLASSES, CONTAINERS, Net, Returning, Shared, unchanged
from fusedcam.forward import scorecam_weights
from fusedcam.torch import ISCAM, SSCAM, ScoreCAM

METHODS = {"ScoreCAM": ScoreCAM, "SSCAM": SSCAM, "ISCAM": ISCAM}
ROWS = [[1, 4], [0, 2], [3, 3]]


pytestmark = pytest.mark.usefixtures("doubles")


@pytest.fixture
def net():
    return Net().eval()


@pytest.fixture
def x():
    return torch.randn(3, 3, 21, 18)


def activations_of(model, layer, x):
    found = []
    with torch.no_grad(), layer.register_forward_hook(lambda module, inputs, output: found.append(output.clone())):
        model(x)
    return found[-1]


def masked_scores(model, layer, x, change=lambda batch: batch):
    """[N, classes, C]: one masked image after the other, by the oracle's mask."""
    activations = activations_of(model, layer, x).numpy()
    found = torch.empty(len(x), CLASSES, activations.shape[1])
    for n, k in np.ndindex(*activations.shape[:2]):
        mask = reference.normalize(reference.bilinear(activations[n, k], tuple(x.shape[-2:])), "minmax")
        with torch.no_grad():
            found[n, :, k] = model(change(torch.from_numpy(mask) * x[n])[None])[0]
    return found


def expected(model, layer, x, weights, **options):
    """weights [N, K, C] -> [N, K, H, W]"""
    return fusedcam.cam(activations_of(model, layer, x), weights=weights, **{"size": tuple(x.shape[-2:]), **options})


def close(got, wanted, atol=1e-9):
    torch.testing.assert_close(got, wanted, rtol=0, atol=atol)


TARGETS = {
    "none": (None, lambda out: out.argmax(1)[:, None]),
    "int": (2, lambda out: torch.full((3, 1), 2)),
    "a class per image": ([4, 0, 2], lambda out: torch.tensor([[4], [0], [2]])),
    "tensor": (torch.tensor([4, 0, 2]), lambda out: torch.tensor([[4], [0], [2]])),
    "several": (ROWS, lambda out: torch.tensor(ROWS)),
    "callable": (lambda out: out[:, 1], lambda out: torch.full((3, 1), 1)),
    "callable of the batch": (lambda out: out.gather(1, torch.tensor(ROWS)), lambda out: torch.tensor(ROWS)),
    "callables": (
        [lambda row: row[4], lambda row: row[0], lambda row: row[2]],
        lambda out: torch.tensor([[4], [0], [2]]),
    ),
}


@pytest.mark.parametrize("batch_size", [1, 5, 7, None])
@pytest.mark.parametrize(("targets", "rows"), TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("layer", ["stem", "last"])
def test_scorecam(net, x, layer, targets, rows, batch_size):
    module = net.get_submodule(layer)
    with torch.no_grad():
        rows = rows(net(x))
    weights = masked_scores(net, module, x).gather(1, rows[:, :, None].expand(-1, -1, module.out_channels)).softmax(2)
    wanted = expected(net, module, x, weights)
    sizes = []
    with unchanged(net), net.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0]))):
        explain = ScoreCAM(net, layer, batch_size=batch_size)
        got = explain(x, targets=targets)
    close(got, wanted if got.ndim == 4 else wanted[:, 0])
    assert (got.ndim == 4) == (rows.shape[1] > 1)
    assert sizes[0] == 3, "the images themselves"
    assert max(sizes) == max(
        3, (batch_size or 32) // 3 * 3 if (batch_size or 32) // 3 < module.out_channels else 3 * module.out_channels
    )
    assert sum(sizes) == 3 + 3 * module.out_channels
    torch.testing.assert_close(explain.output, net(x).detach())
    assert (
        str(explain.plan) == f"{layer}, call 1 of 1, {[3, *activations_of(net, module, x).shape[1:]]}; recorded nothing"
    )


def test_the_last_map_is_found(net, x):
    explain = ScoreCAM(net)
    close(explain(x), ScoreCAM(net, "last")(x))
    assert explain.plan.reruns == ("the last map had to be found first",)
    explain(x)
    assert explain.plan.reruns == ()


def test_a_shared_layers_calls(x):
    model = Shared().eval()
    for call in (0, 1, 2, -2, -1):
        explain = ScoreCAM(model, "act", call=call)
        if call in (-1, 3):
            with pytest.raises(ValueError, match=r"layer act returned float64 \[3, 7\]; accepted is a map"):
                explain(x)
            continue
        seen = []
        with torch.no_grad(), model.act.register_forward_hook(lambda *io, seen=seen: seen.append(io[2])):
            model(x)
        weights = scorecam_weights(lambda batch: model(torch.as_tensor(batch)).detach(), x, seen[call])
        first = model(x).argmax(1)
        wanted = fusedcam.cam(seen[call], weights=weights[torch.arange(3), first], size=(21, 18))
        close(explain(x), wanted)
        assert explain.plan.call == call % 4
    with pytest.raises(ValueError, match="call is 9, but layer act was called 4 times"):
        ScoreCAM(model, "act", call=9)(x)


@pytest.mark.parametrize(("kind", "take"), CONTAINERS.values(), ids=CONTAINERS)
def test_what_layers_and_models_return(x, kind, take):
    model = Returning(kind, take).eval()
    got = ScoreCAM(model, "layer", batch_size=6)(x, targets=lambda output: take(output)[:, 1])
    plain = Returning(lambda extra, maps: maps, lambda output: output).eval()
    plain.load_state_dict(model.state_dict())
    close(got, ScoreCAM(plain, "layer")(x, targets=1))


def test_increase_of_confidence(net, x):
    scores = masked_scores(net, net.last, x)
    for baseline in (0.0, -1.5, torch.rand(3, 21, 18), torch.rand(3, 3, 21, 18)):
        below = net(torch.as_tensor(baseline).expand_as(x)).detach()
        got = ScoreCAM(net, "last", softmax=False, baseline=baseline)(x, targets=1, normalize=None, relu=False)
        wanted = (scores - below[:, :, None])[:, 1]
        close(got, expected(net, net.last, x, wanted, normalize=None, relu=False))


def test_top_channels(net, x):
    activations, scores = activations_of(net, net.last, x), masked_scores(net, net.last, x)[:, 1]
    tried = activations.flatten(2).std(2).argsort(1, descending=True)[:, :3]
    weights = torch.zeros(3, 7).scatter(1, tried, scores.gather(1, tried).softmax(1))
    close(ScoreCAM(net, "last", top_channels=3, batch_size=6)(x, targets=1), expected(net, net.last, x, weights))
    close(ScoreCAM(net, "last", top_channels=7)(x), ScoreCAM(net, "last")(x))


@pytest.mark.parametrize("cumulative", [False, True])
def test_iscam(net, x, cumulative):
    factors = [1 / 3, 1, 2] if cumulative else [1 / 3, 2 / 3, 1]
    parts = [masked_scores(net, net.last, x, lambda batch, f=f: f * batch) for f in factors]
    weights = torch.stack(parts).mean(0).softmax(2)[:, [2, 4]]
    got = ISCAM(net, "last", samples=3, cumulative=cumulative, batch_size=9)(x, targets=[[2, 4]] * 3)
    close(got, expected(net, net.last, x, weights))


@pytest.mark.parametrize("noise", ["mask", "image"])
def test_sscam(net, x, noise):
    """By what the model was shown: masks, or masked images, and noise of that deviation, drawn anew each time."""
    shown = []
    state = torch.get_rng_state()
    with net.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0].clone())):
        got = SSCAM(net, "last", samples=50, std=0.5, noise=noise, seed=3, batch_size=6)(x, targets=1)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        batches = torch.cat(shown[1:]).view(50, 7, 3, 3, 21, 18)
        clean = fusedcam.mask(x, activations_of(net, net.last, x)).transpose(0, 1)
        scores = net(batches.flatten(0, 2)).view(50, 7, 3, CLASSES).mean(0)[..., 1]
    close(got, expected(net, net.last, x, scores.T.softmax(1)))
    added = batches - clean
    if noise == "mask":
        added = added / x
        close(added[:, :, :, 0], added[:, :, :, 2], 1e-6)
        added = added[:, :, :, 0]
    count = added.numel()
    assert abs(added.mean()) < 6 * 0.5 / count**0.5
    assert abs(added.std() / 0.5 - 1) < 6 / (2 * count) ** 0.5
    draws = torch.corrcoef(added.reshape(50 * 21, -1))
    assert (draws - torch.eye(len(draws))).abs().max() < 0.6
    same = SSCAM(net, "last", samples=50, std=0.5, noise=noise, seed=3, batch_size=6)(x, targets=1)
    assert torch.equal(same, got)
    none = SSCAM(net, "last", samples=1, std=0, noise=noise)(x, targets=1)
    close(none, ScoreCAM(net, "last")(x, targets=1))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_more_arguments(net, x, method):
    """Tensors of N rows go along with the images; others stay."""

    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, factor, *, shift, power):
            assert len(factor) == len(x)
            return self.net(x) * factor[:, None] ** power + shift

    factor = torch.rand(3) + 1
    explain = method(Weighted().eval(), "net.last", batch_size=9)
    got = explain(x, factor, targets=1, shift=torch.rand(CLASSES), power=2)
    separate = [
        method(Weighted().eval(), "net.last")(x[i : i + 1], factor[i : i + 1], targets=1, shift=0, power=2)
        for i in range(3)
    ]
    if method is not SSCAM:
        close(got, torch.cat(separate))
    assert got.shape == (3, 21, 18)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_types(net, x, dtype):
    wanted = ScoreCAM(net, "last")(x, targets=1)
    got = ScoreCAM(Net().to(dtype).eval(), "last")
    got.model.load_state_dict(net.state_dict())
    found = got(x.to(dtype), targets=1)
    assert found.dtype == torch.float32
    bound = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.3}[dtype]
    assert (found - wanted).abs().max() < bound


def test_channels_last(net, x):
    net = net.to(memory_format=torch.channels_last)
    layouts = []
    with net.register_forward_pre_hook(
        lambda module, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    ):
        got = ScoreCAM(net, "last")(x.to(memory_format=torch.channels_last))
    assert all(layouts)
    close(got, ScoreCAM(net, "last")(x))


def test_gradients_are_neither_needed_nor_left(net, x):
    wanted = ScoreCAM(net, "last")(x)
    net.requires_grad_(False)
    x = x.clone().requires_grad_()
    with torch.inference_mode():
        assert torch.equal(ScoreCAM(net, "last")(x).clone(), wanted)
    got = ScoreCAM(net, "last")(x)
    assert torch.equal(got, wanted)
    assert not got.requires_grad
    assert x.grad is None


def test_a_model_in_training(x):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    twin = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    twin.load_state_dict({name: value.clone() for name, value in model.state_dict().items() if name < "2"})
    twin(x)
    explain = ScoreCAM(model, "0")
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="the model is in training mode"):
        explain(x)
    close(model[1].running_mean, twin[1].running_mean, 0)
    assert model[1].num_batches_tracked == 1, "as after one forward"
    torch.set_rng_state(state)
    model(x)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    explain(x)
    assert torch.equal(torch.get_rng_state(), after), "as after one forward"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quiet = ScoreCAM(model, "0", eval=True)
    assert torch.equal(quiet(x), quiet(x))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_threads_at_the_same_time(net, x):
    wanted = ScoreCAM(net, "last")(x)
    explain, found = ScoreCAM(net, "last", batch_size=3), []

    def work():
        for _ in range(3):
            found.append(explain(x))

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 9
    for heat in found:
        close(heat, wanted)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_an_empty_batch(net, x, method):
    assert method(net, "last")(x[:0]).shape == (0, 21, 18)


def test_a_bar_is_shown_when_asked_for(net, x, capsys):
    steps = []
    heat = ScoreCAM(net, "last", batch_size=9, progress=lambda batches: steps.append(len(batches)) or batches)(x)
    assert steps == [3]
    assert capsys.readouterr() == ("", "")
    assert torch.equal(ScoreCAM(net, "last", batch_size=9, progress=True)(x), heat)
    assert "Score-CAM" in capsys.readouterr().out
