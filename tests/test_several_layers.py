"""Several layers in one run: fused maps against plain autograd and the oracle, models with habits, and no trace."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from capture_models import CLASSES, CONTAINERS, HABITS, Net, Overwriting, Returning, Shared, plain_gradients, unchanged
from fusedcam.torch import FEM, EigenCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM
from spatial_models import Convolutions, ViT, fused, wanted

CONTEXTS = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
LAYERS = ["last", "stem", "body"]  # in no order


@pytest.fixture(autouse=True)
def _double(keep_threads):
    """Fresh numbers, in float64: a map's small range must not hide behind a wide tolerance."""
    print("seed:", torch.seed())
    torch.set_num_threads(1)  # handing over layers this small takes longer than they do
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def x():
    return torch.rand(2, 3, 21, 18)


def maps_of(model, layers, x, method="gradcam", **options):
    """Each layer's own map of every class, [N, K, H, W] at its resolution."""
    found = []
    for layer in layers:
        activations, gradients = plain_gradients(model, model.get_submodule(layer), x, lambda scores: scores)
        found.append(wanted(activations.numpy(), gradients.numpy(), method, **options))
    return found


def assert_same(got, expected):
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.detach().clone().numpy(), expected, rtol=0, atol=1e-9 * max(1, abs(expected).max()))


EVERY = [list(range(CLASSES))] * 2


@pytest.mark.parametrize("fuse", ["mean", "max", "product"])
@pytest.mark.parametrize("normalize", ["minmax", "max", None])
def test_fused(fuse, normalize, x):
    model = Net().eval()
    for cls in (GradCAM, HiResCAM):
        for relu in (True, False):
            explain = cls(model, LAYERS, fuse=fuse)
            with unchanged(model):
                heat = explain(x, targets=EVERY, normalize=normalize, relu=relu)
            own = maps_of(model, LAYERS, x, cls.method, normalize=normalize, relu=relu)
            assert_same(heat, fused(own, fuse, (21, 18), normalize))
            largest = own[1].shape[2:]
            assert_same(
                explain(x, targets=1, size=None, normalize=normalize, relu=relu)[:, None],
                fused(own, fuse, largest, normalize)[:, 1:2],
            )
            assert_same(
                explain(x, targets=[3, 0], size=(5, 30), normalize=normalize, relu=relu),
                fused(own, fuse, (5, 30), normalize)[[0, 1], [3, 0]],
            )
    assert [plan.layer for plan in explain.plans] == LAYERS
    assert [plan.shape[1] for plan in explain.plans] == [7, 4, 6]
    assert {plan.recording for plan in explain.plans} == {"from the layer"}
    with pytest.raises(AttributeError, match="plan is of one layer, and several were explained; plans has one"):
        _ = explain.plan
    with torch.no_grad():
        assert torch.equal(explain.output, model(x))


def test_one_layer_in_a_list_is_that_layer(x):
    model = Net().eval()
    for layer in ("body", model.body):
        explain = GradCAM(model, [layer])
        assert torch.equal(explain(x, targets=1), GradCAM(model, layer)(x, targets=1))
        assert explain.plans == (explain.plan,)


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())
@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # the checkpoint's, as in inference
def test_habits(habit, context, x):
    model, twin = Net(habit).eval(), Net().eval()
    twin.load_state_dict(model.state_dict())
    if habit == "in-place":  # plain autograd sees the layer's output after it was overwritten
        body, last, stem = twin.body, twin.last, twin.stem
        twin.forward = lambda x: twin.head(last((body(stem(x)) * 2).relu()).add(1).relu().mean((2, 3)))
    expected = fused(maps_of(twin, LAYERS, x, relu=False), "mean", (21, 18), "minmax")
    explain = GradCAM(model, LAYERS)
    for _ in range(2):
        with context(), unchanged(model):
            heat = explain(x, targets=EVERY, relu=False)
        assert_same(heat, expected)
    off = habit in ("no_grad", "inference_mode", "checkpoint, reentrant")
    assert explain.plans[0].recording == ("from the start" if off else "from the layer")
    assert not explain.plans[0].reruns, "what was found out once is remembered"


class Tangled(nn.Module):
    """Skip connections around layers, in-place ReLUs behind and between them, and two branches."""

    def __init__(self, inplace=True):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(3, 4, 3)
        self.norm, self.act = nn.BatchNorm2d(4), nn.ReLU(inplace)
        self.same = nn.Identity()
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        h = self.act(self.norm(self.stem(x)))
        h = h + self.same(h).sin()
        h = self.act(h + self.a(h)) + self.b(x).tanh()
        return self.head((h * h).mean((2, 3)))


@pytest.mark.parametrize(
    "layers",
    [["norm", "a"], ["stem", "norm", "a"], ["a", "b"], ["b", "norm"], ["same", "a"], ["norm", "same"], ["act", "norm"]],
    ids="+".join,
)
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
def test_skips_branches_and_in_place_operations(layers, frozen, x):
    model = Tangled().eval().requires_grad_(not frozen)
    twin = Tangled(inplace=False).eval()
    twin.load_state_dict(model.state_dict())
    expected = fused(maps_of(twin, layers, x, relu=False), "mean", (21, 18), "minmax")
    explain = GradCAM(model, layers)
    for _ in range(2):
        with unchanged(model):
            assert_same(explain(x, targets=EVERY, relu=False), expected)
    assert not explain.plans[0].reruns
    if layers[0] == "norm":  # what later layers return is a part of the graph, whatever shares its memory
        assert explain.plans[0].recording == "from the layer"


def test_calls_of_shared_layers(x):
    model = Shared().eval()
    layers = ["act", "convs.1"]
    for call in (0, -1):
        explain = GradCAM(model, layers, call=call)
        if call == -1:
            with pytest.raises(ValueError, match=r"layer act returned float64 \[2, 7\]; accepted is a map"):
                explain(x, targets=1)
            continue
        own = []
        for layer in layers:
            found = plain_gradients(model, model.get_submodule(layer), x, lambda scores: scores, call=call)
            own.append(wanted(*(part.numpy() for part in found)))
        assert_same(explain(x, targets=EVERY), fused(own, "mean", (21, 18), "minmax"))
        assert [plan.calls for plan in explain.plans] == [4, 1]

    class Twice(Net):
        def features(self, x):
            return super().features(x) + self.last(self.body(self.stem(x)))

    twice = Twice().eval()
    own = []
    for layer in ("body", "last"):
        found = plain_gradients(twice, twice.get_submodule(layer), x, lambda scores: scores)
        own.append(wanted(*(part.numpy() for part in found)))
    explain = GradCAM(twice, ["body", "last"])
    assert_same(explain(x, targets=EVERY), fused(own, "mean", (21, 18), "minmax"))
    assert explain.plans[0].reruns == ("the layer was called 2 times",)
    explain(x)
    assert not explain.plans[0].reruns


def test_a_lost_bet_is_recorded_no_further(x):
    class Late(Net):
        def __init__(self):
            super().__init__()
            self.late = nn.Conv2d(7, 7, 1)

        def features(self, x):
            return self.late(super().features(x) + self.last(self.body(self.stem(x))))

    model, modes = Late().eval(), []
    model.head.register_forward_pre_hook(lambda module, inputs: modes.append(torch.is_grad_enabled()))
    explain = GradCAM(model, ["late", "stem"])
    explain(x)
    assert modes == [False, True]
    assert explain.plans[0].reruns == ("the layer was called 2 times",)


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers(container, x):
    kind, take = CONTAINERS[container]
    model, twin = Returning(kind, take).eval(), Returning(lambda extra, maps: maps, lambda output: output).eval()
    twin.load_state_dict(model.state_dict())
    heat = GradCAM(model, ["conv", "layer"])(x, targets=lambda output: take(output)[:, 3])
    assert_same(heat, fused(maps_of(twin, ["conv", "layer"], x), "mean", (21, 18), "minmax")[:, 3])


def test_overwritten_through_another_name(x):
    model = Overwriting().eval()
    weights = model.head.weight.detach()[1][:, None, None]
    with torch.no_grad():
        stem = model.stem(x)
    explain = GradCAM(model, ["stem", "layer"])
    # Identity hands the stem's own output on, to which forward writes: both are the same tensor for plain autograd.
    gradients = 2 * (3 * stem) * weights / stem[0, 0].numel() * 3
    own = [wanted(stem.numpy(), gradients[:, None].numpy())] * 2
    heat = explain(x, targets=1)
    assert heat.shape == (2, 21, 18)
    assert [plan.shape for plan in explain.plans] == [tuple(stem.shape)] * 2
    assert_same(heat[:, None], fused(own, "mean", (21, 18), "minmax"))


def test_of_several_forms(x):
    """Maps and tokens; volumes; methods that are no rule."""
    model = ViT().eval()
    images = torch.rand(2, 3, 16, 16)
    tokens, patches = (
        [part.numpy() for part in plain_gradients(model, layer, images, lambda scores: scores)]
        for layer in (model.blocks[1].norm1, model.patch_embed)
    )
    tokens = [np.moveaxis(part[..., 1:, :].reshape(*part.shape[:-2], 4, 4, 8), -1, -3) for part in tokens]
    explain = GradCAM(model, ["blocks.1.norm1", "patch_embed"], fuse="max")
    assert_same(explain(images, targets=EVERY), fused([wanted(*tokens), wanted(*patches)], "max", (16, 16), "minmax"))
    assert [plan.tokens for plan in explain.plans] == [(4, 4), None]

    volumes = Convolutions(3).eval()
    volumes.act.inplace = False
    v = torch.rand(2, 2, 9, 8, 7)
    own = maps_of(volumes, ["stem", "body"], v)
    heat = GradCAM(volumes, ["stem", "body"], spatial=3)(v, targets=EVERY)
    assert_same(heat, fused(own, "mean", (9, 8, 7), "minmax", rank=3))

    for cls in (EigenCAM, FEM):
        net = Net().eval()
        single = [cls(net, layer)(x, size=None).numpy() for layer in LAYERS]
        assert_same(cls(net, LAYERS, fuse="product")(x), fused(single, "product", (21, 18), "minmax"))
    for options in ({"eigen_smooth": True}, {}):
        single = [LayerCAM(net, layer, **options)(x, targets=1, size=None).numpy() for layer in LAYERS]
        assert_same(LayerCAM(net, LAYERS, **options)(x, targets=1), fused(single, "mean", (21, 18), "minmax"))


@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_weight_eps(eps, x):
    net = Net().eval()
    own = maps_of(net, ["last"], x, "gradcam++", eps=eps)[0]
    heat = GradCAMPlusPlus(net, "last", weight_eps=eps)(x, targets=EVERY, size=None)
    assert_same(heat, own)
    both = maps_of(net, LAYERS, x, "gradcam++", eps=eps)
    heat = GradCAMPlusPlus(net, LAYERS, weight_eps=eps)(x, targets=EVERY)
    assert_same(heat, fused(both, "mean", (21, 18), "minmax"))


def test_one_run_and_one_backward(monkeypatch, x):
    """And recording begins at the first of the layers alone."""
    model = Net().eval()
    runs, grads, modes = [], [], []
    model.register_forward_pre_hook(lambda module, inputs: runs.append(1))
    model.body.register_forward_pre_hook(lambda module, inputs: modes.append(torch.is_grad_enabled()))
    model.last.register_forward_pre_hook(lambda module, inputs: modes.append(torch.is_grad_enabled()))
    plain = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **options: grads.append(1) or plain(*args, **options))
    GradCAM(model, ["last", "body"])(x, targets=1)
    assert (runs, grads, modes) == ([1], [1], [False, True])


def test_the_largest_extents_of_all(x):
    """Of a wide map and a high one, neither of which is the largest."""
    wide, high = nn.Conv2d(3, 4, (5, 1), stride=(4, 1)), nn.Conv2d(3, 4, (1, 5), stride=(1, 4))

    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.high, self.head = wide, high, nn.Linear(4, CLASSES)

        def forward(self, x):
            return self.head(self.wide(x).square().mean((2, 3)) + self.high(x).square().mean((2, 3)))

    model = Crossed().eval()
    own = maps_of(model, ["wide", "high"], x)
    assert [one.shape[2:] for one in own] == [(5, 18), (21, 4)]
    for options in ({}, {"eigen_smooth": True}):
        assert GradCAM(model, ["wide", "high"], **options)(x, targets=EVERY, size=None).shape == (2, 5, 21, 18)
    heat = GradCAM(model, ["wide", "high"])(x, targets=EVERY, size=None)
    assert_same(heat, fused(own, "mean", (21, 18), "minmax"))


def test_threads_on_one_model(x):
    net = Net("no_grad").eval()
    explain = GradCAM(net, LAYERS)
    inputs = [torch.rand(2, 3, 15, 15) for _ in range(4)]
    alone = [GradCAM(net, LAYERS)(one, targets=i) for i, one in enumerate(inputs)]
    plain, failures = net(inputs[0]).detach(), []

    def work(i):
        try:
            for _ in range(15):
                torch.testing.assert_close(explain(inputs[i], targets=i), alone[i], rtol=0, atol=1e-9)
                torch.testing.assert_close(net(inputs[0]).detach(), plain)
                assert torch.is_grad_enabled()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    with unchanged(net):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, failures


def test_an_exception_in_the_middle(x):
    net = Net().eval()
    explain = GradCAM(net, LAYERS)
    alone = explain(x, targets=1)

    def fail(*args):
        raise OverflowError("in the middle")

    handle = net.last.register_forward_hook(fail)
    with unchanged(net), pytest.raises(OverflowError, match="in the middle"):
        explain(x, targets=1)
    handle.remove()
    assert torch.equal(explain(x, targets=1), alone)
