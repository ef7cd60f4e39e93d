"""Models and users with habits that a patch has to bear: what they get is what the peer gives them."""

import copy
import functools
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

import fusedcam
from fusedcam.compat import pytorch_grad_cam as ours
from fusedcam.torch import GradCAM
from peer_models import both, difference, images, network, pytorch_grad_cam, quiet


@pytest.fixture(scope="module")
def package():
    return pytorch_grad_cam()


class Reused(nn.Module):
    """Goes on with the layer's input beside its output."""

    def __init__(self, act):
        super().__init__()
        self.first, self.act, self.last = nn.Conv2d(3, 6, 3), act, nn.Conv2d(6, 5, 3)

    def forward(self, x):
        h = self.first(x)
        y = self.act(h)
        return self.last(y * h.sin() + h).mean((2, 3))


ACTS = {
    "in-place": lambda: nn.ReLU(inplace=True),
    "identity": nn.Identity,
    "dropout": nn.Dropout,
    "plain": nn.ReLU,
    "reshaped": lambda: nn.Unflatten(1, (6,)),
}


def reused(act):
    torch.manual_seed(2)
    return Reused(ACTS[act]()).eval()


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("frozen", [False, True])
def test_layers_that_return_their_input(package, act, frozen):
    """Memory that has another name, by which the model goes on with it."""
    x = images(2, 3, 20, 28)
    for method in ("GradCAM", "HiResCAM"):
        model = reused(act).requires_grad_(not frozen)
        call = lambda: getattr(package, method)(model, [model.act])(x.clone().requires_grad_(), None)  # noqa: B023, E731
        for _ in range(2):  # the second run knows
            plain, found, calls = both("pytorch_grad_cam", call)
            assert difference(plain, found) <= 2e-6
            assert calls
        assert difference(plain, getattr(ours, method)(model, [model.act])(x.clone().requires_grad_(frozen))) <= 2e-6


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("frozen", [False, True])
def test_layers_that_return_their_input_by_our_own_capture(act, frozen):
    model = reused(act).requires_grad_(not frozen)
    x = images(2, 3, 20, 28)
    with torch.enable_grad():
        h = model.first(x.clone().requires_grad_())
        y = model.act(h)
        score = model.last(y * h.sin() + h).mean((2, 3))[:, 1].sum()
        (g,) = torch.autograd.grad(score, y)
    explain = GradCAM(model, "act")
    for _ in range(2):
        assert difference(explain(x, targets=1), fusedcam.cam(y.detach(), g, size=(20, 28))) <= 2e-6
    assert explain.plan.recording == ("from the layer" if act == "plain" else "from the start")


@pytest.mark.parametrize("act", ACTS)
def test_layers_that_return_their_input_in_captum(act):
    from captum.attr import LayerGradCam

    model, x = reused(act), images(2, 3, 20, 28)
    plain, found, _ = both("captum", lambda: LayerGradCam(model, model.act).attribute(x, 1).detach())
    assert difference(plain, found) <= 2e-6


class Asks(nn.Module):
    """Asks autograd for something before the target layer."""

    def __init__(self, what):
        super().__init__()
        self.what, self.inner = what, network("residual")

    def forward(self, x):
        h = self.inner.layer1(x)
        if self.what == "hook":
            h.register_hook(lambda gradient: None)
        elif self.what == "retain":
            h.retain_grad()
        elif self.what == "grad":
            h = h + torch.autograd.grad(h.square().sum(), self.inner.layer1.first.bias, retain_graph=True)[0].mean()
        return self.inner.fc(self.inner.layer3(self.inner.layer2(h)).mean((2, 3)))


@pytest.mark.parametrize("what", ["hook", "retain", "grad", "a user's hook"])
def test_what_is_asked_of_autograd_before_the_layer(package, what):
    model, x = Asks(what).eval(), images(2, 3, 24, 32)
    if what == "a user's hook":
        model.inner.layer2.register_forward_hook(lambda module, inputs, output: output.register_hook(print) and None)
    with quiet():
        plain, found, calls = both("pytorch_grad_cam", lambda: package.GradCAM(model, [model.inner.layer3])(x, None))
    assert difference(plain, found) <= 2e-6
    assert calls


def test_one_model_in_several_threads(package):
    """The right maps, and no hook that stays."""
    model = network("residual")
    hooks = lambda: sum(len(module._forward_hooks) for module in model.modules())  # noqa: E731
    x = [images(1, 3, 24, 24, seed=seed) for seed in range(4)]
    with quiet():
        expected = [package.GradCAM(model, [model.layer3])(one, None) for one in x]
    before, interval = hooks(), sys.getswitchinterval()
    wrong = []

    def explain(k):
        for _ in range(25):
            if difference(cams[k](x[k], None), expected[k]) > 2e-6:
                wrong.append(k)

    with fusedcam.patched("pytorch_grad_cam"):
        cams = [package.GradCAM(model, [model.layer3]) for _ in x]
        threads = [threading.Thread(target=explain, args=(k,)) for k in range(len(x))]
        try:
            sys.setswitchinterval(1e-5)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert hooks() == before + 2 * len(x)
        for cam in cams:
            cam.activations_and_grads.release()
    assert hooks() == before
    assert not wrong


def subclasses(package):
    """Steps that a user overrides, or replaces otherwise."""

    class Again(package.GradCAM):
        """Runs the model once more, as Smooth Grad-CAM++ does."""

        def get_cam_weights(self, x, layer, targets, activations, grads):
            assert type(grads) is np.ndarray
            self.activations_and_grads.activations, self.activations_and_grads.gradients = [], []
            outputs = self.model(x + 0.5)
            sum(target(output) for target, output in zip(targets, outputs, strict=True)).backward()
            return self.activations_and_grads.gradients[0].numpy().max((2, 3))

    class Scaled(package.GradCAM):
        def get_cam_image(self, *args, **kwargs):
            return np.sqrt(abs(super().get_cam_image(*args, **kwargs)))

    class Weights(package.GradCAM):
        def get_cam_weights(self, x, layer, targets, activations, grads):
            return grads.max((2, 3)).astype(np.float64) * 1e60

    class Tiny(package.base_cam.BaseCAM):
        def get_cam_weights(self, x, layer, targets, activations, grads):
            return grads.mean((2, 3)).astype(np.float32) * 1e-7

    class Square(package.LayerCAM):
        def get_target_width_height(self, x):
            return 31, 17

    class Summed(package.GradCAM):
        def aggregate_multi_layers(self, maps):
            return np.concatenate(maps, 1).max(1)

    class Forward(package.GradCAM):
        def forward(self, x, targets, eigen_smooth=False):
            return super().forward(x * 2, targets, eigen_smooth) + 1

    class Twice(Forward):
        pass

    return [Again, Scaled, Weights, Tiny, Square, Summed, Forward, Twice]


def test_steps_that_are_overridden(package):
    x = images(2, 3, 24, 32)
    for kind in subclasses(package):
        model = network("residual")
        for layers in ([model.layer3], [model.layer3, model.layer2])[: 1 if kind.__name__ == "Again" else 2]:
            plain, found, _ = both("pytorch_grad_cam", functools.partial(explained, kind, model, layers, x))
            assert difference(plain, found) <= 2e-6, kind
        model.zero_grad()
        with fusedcam.patched("pytorch_grad_cam"):
            kind(model, [model.layer3])(x, None)
        assert all(parameter.grad is None for parameter in model.parameters())


def explained(kind, model, layers, x):
    return kind(model, layers)(x, None)


def test_steps_that_are_replaced(package, monkeypatch):
    x, model = images(2, 3, 24, 32), network("residual")
    mine = lambda self, x, layer, targets, activations, grads: grads.mean((2, 3)) * np.float32(np.arange(33))  # noqa: E731
    cam = lambda: package.GradCAM(model, [model.layer3])(x, None)  # noqa: E731
    usual = cam()
    for replacement in (mine, functools.wraps(package.GradCAM.get_cam_weights)(mine)):
        with monkeypatch.context() as patch:
            patch.setattr(package.GradCAM, "get_cam_weights", replacement)
            plain, found, _ = both("pytorch_grad_cam", cam)
            assert difference(plain, found) <= 2e-6
            assert difference(plain, usual) > 0.1
    with monkeypatch.context() as patch:  # the usual way to raw scores
        patch.setattr(package.base_cam, "scale_cam_image", lambda cam, size=None: np.float32(cam) * 3)
        plain, found, _ = both("pytorch_grad_cam", cam)
        assert plain.max() > 1.5 or plain.max() < 0.5
        assert difference(plain, found) <= 2e-6 * max(1, plain.max())
    own = type("GradCAM", (package.GradCAM,), {"get_cam_weights": mine, "__module__": "pytorch_grad_cam.my_extension"})
    plain, found, _ = both("pytorch_grad_cam", lambda: own(model, [model.layer3])(x, None))
    assert difference(plain, found) <= 2e-6

    def on_an_object():
        explain = package.GradCAM(model, [model.layer3])
        explain.get_cam_weights = functools.partial(mine, explain)
        return explain(x, None)

    plain, found, _ = both("pytorch_grad_cam", on_an_object)
    assert difference(plain, found) <= 2e-6


def test_hooks_of_the_users(package, monkeypatch):
    """Another class in place of the peer's, a step of it replaced, one that changes what the layer returns."""
    x, model = images(2, 3, 24, 32), network("residual")

    class Halved(package.ActivationsAndGradients):
        def save_activation(self, module, inputs, output):
            super().save_activation(module, inputs, torch.relu(output - 0.5))

    def other_class():
        cam = package.GradCAM(model, [model.layer3])
        cam.activations_and_grads.release()
        cam.activations_and_grads = Halved(model, [model.layer3], None)
        return cam(x, None)

    def later_hook():
        cam = package.GradCAM(model, [model.layer3])
        handle = model.layer3.register_forward_hook(lambda module, inputs, output: output * 3 - 1)
        try:
            return cam(x, None)
        finally:
            handle.remove()

    for call in (other_class, later_hook):
        plain, found, _ = both("pytorch_grad_cam", call)
        assert difference(plain, found) <= 2e-6, call
    with monkeypatch.context() as patch:
        kind = package.ActivationsAndGradients
        save = kind.save_activation
        patch.setattr(kind, "save_activation", lambda self, m, i, output: save(self, m, i, torch.relu(output - 0.5)))
        plain, found, _ = both("pytorch_grad_cam", lambda: package.GradCAM(model, [model.layer3])(x, None))
        assert difference(plain, found) <= 2e-6


def test_the_hooks_alone_are_the_peers(package):
    """As a tool of one's own: parameters' gradients are what the backward gives."""
    model, x = network("residual"), images(2, 3, 24, 32)

    def call():
        model.zero_grad()
        captured = package.ActivationsAndGradients(model, [model.layer3], None)
        captured(x).sum().backward()
        captured.release()
        return model.layer1.first.weight.grad.clone()

    plain, found, _ = both("pytorch_grad_cam", call)
    assert torch.equal(plain, found)


def test_outputs_and_targets_of_other_kinds(package):
    target = package.utils.model_targets.ClassifierOutputTarget

    class Output(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.kind, self.inner = kind, network("residual")

        def forward(self, x):
            scores = self.inner(x)
            return {"pair": (scores[0], scores * 2), "squeezed": scores.squeeze(0), "list": [*scores]}[self.kind]

    one, two = images(1, 3, 24, 32), images(2, 3, 24, 32)
    for kind, x, targets in (
        ("pair", one, [target(1)]),
        ("pair", two, [lambda scores: scores[3]]),
        ("squeezed", one, [lambda score: score]),
        ("list", two, [target(1), target(4)]),
        ("list", two, (target(k) for k in (1, 4))),
        ("list", two, map(target, (np.int64(1), 4))),
        ("list", two, (target(1), target(4), target(2))),
    ):
        model = Output(kind).eval()
        given = targets if isinstance(targets, list | tuple) else list(targets)
        for make in (lambda given=given: given, lambda given=given: iter(given)):
            plain, found, _ = both("pytorch_grad_cam", lambda: package.GradCAM(model, [model.inner.layer3])(x, make()))  # noqa: B023
            assert difference(plain, found) <= 2e-6, kind


def test_a_model_that_trains_after_all(package):
    """Whoever calls train() after the constructor wants dropout at work; who did so before finds it so again."""
    model, x = network("residual"), images(2, 3, 24, 32)
    model.layer2 = nn.Sequential(model.layer2, nn.Dropout(0.5))

    def call():
        torch.manual_seed(0)
        cam = package.GradCAM(model.eval(), [model.layer3])
        model.layer2[1].train()
        return cam(x, None)

    plain, found, _ = both("pytorch_grad_cam", call)
    assert difference(plain, found) <= 2e-6
    assert difference(plain, package.GradCAM(model.eval(), [model.layer3])(x, None)) > 0.01


def test_attributes_that_are_set_later(package):
    """The peer's hooks stay where the constructor has put them."""
    model, x = network("residual"), images(2, 3, 24, 32)

    def call():
        cam = package.GradCAM(model, [model.layer3])
        cam.target_layers = [model.layer1]
        return cam(x, None)

    plain, found, _ = both("pytorch_grad_cam", call)
    assert difference(plain, found) <= 2e-6


def test_a_table_of_another_shape(package):
    """OpenCV takes tables [256, 1, 1] as well."""
    rng = np.random.default_rng()
    table = rng.integers(256, size=(256, 1, 1), dtype=np.uint8)
    image, mask = rng.random((6, 5, 3), np.float32), rng.random((6, 5), np.float32)
    show = lambda: package.utils.image.show_cam_on_image(image, mask, False, table)  # noqa: E731

    def outcome():
        try:
            return show()
        except Exception as error:
            return error

    plain, found, _ = both("pytorch_grad_cam", outcome)
    assert type(plain) is type(found)
    assert isinstance(plain, Exception) or np.array_equal(plain, found)


def test_maps_that_shrink():
    """Where PyTorch's positions are not exact, its numbers are kept."""
    from captum.attr import LayerAttribution
    from torchcam.methods import GradCAM as Extractor

    maps = [images(1, 500, 700), images(1, 90, 30)]
    plain, found, _ = both("torchcam", lambda: Extractor.fuse_cams(maps, (33, 61)))
    assert difference(plain, found) == 0
    plain, found, _ = both("captum", lambda: LayerAttribution.interpolate(maps[0][None], (200, 301), "bilinear"))
    assert difference(plain, found) == 0


def test_an_extractor_with_a_normalisation_of_its_own():
    from torchcam.methods import GradCAM as Extractor

    model, x = network("residual"), images(2, 3, 24, 32)

    def call():
        with Extractor(model, "layer3") as extract:
            extract._normalize = lambda cams, *args, **kwargs: cams * 5
            return extract(1, model(x))[0].detach()

    plain, found, _ = both("torchcam", call)
    assert difference(plain, found) <= 2e-6 * float(plain.max())


@pytest.mark.parametrize("change", [torch.Tensor.relu_, lambda r: r.sub_(r.min()), lambda r: r.mul_(2)])
def test_captums_maps_changed_in_place(change):
    from captum.attr import LayerGradCam

    model, x = network("residual"), images(2, 3, 24, 32)
    plain, found, _ = both("captum", lambda: change(LayerGradCam(model, model.layer3).attribute(x, 1)).detach())
    assert difference(plain, found) <= 2e-6


class Scaled(nn.Module):
    """Has a stem to be called alone, a tensor that is no parameter, and a second argument."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 3, 3, padding=1), network("residual")
        self.scale = torch.tensor(1.5, requires_grad=True)

    def forward(self, x, more=None):
        x = self.inner.layer1(x * self.scale)
        x = x if more is None else x * more
        return self.inner.fc(self.inner.layer3(self.inner.layer2(x)).mean((2, 3)))


@pytest.mark.parametrize("case", ["history", "pair", "plain tensor", "second argument", "frozen", "modes"])
def test_gradients_of_captums_maps(case):
    """Through inputs with a history, to whatever requires grad, and in the modes of the call."""
    from captum.attr import LayerGradCam

    torch.manual_seed(0)
    model = Scaled().eval()
    x, more = images(2, 3, 24, 32).requires_grad_(), torch.tensor(0.7, requires_grad=True)
    if case in ("second argument", "frozen"):
        model.requires_grad_(False)
        model.scale.requires_grad_(False)
        x.requires_grad_(False)
    if case == "modes":
        model.inner.layer2 = nn.Sequential(model.inner.layer2, nn.Dropout(0.5)).eval()
    variables = [one for one in (x, more, model.scale, *model.parameters()) if one.requires_grad]

    def call():
        explain = LayerGradCam(model, model.inner.layer3)
        for one in variables:
            one.grad = None
        given = model.stem(x) if case in ("history", "pair") else x
        extra = more if case == "second argument" else None
        if case == "pair":
            maps = explain.attribute((given, more.sigmoid()), 1)
        else:
            maps = explain.attribute(given, 1, additional_forward_args=extra)
        assert maps.requires_grad
        if case == "modes":
            model.inner.layer2[1].train()
        if case != "frozen":
            (maps * images(2, 1, 3, 4, seed=3)).sum().backward(retain_graph=True)
            if case == "history":  # the caller's own graph is whole
                given.sum().backward()
        model.eval()
        return [maps.detach(), *(torch.zeros(()) if one.grad is None else one.grad.clone() for one in variables)]

    plain, found, calls = both("captum", call)
    assert calls
    for one, other in zip(plain, found, strict=True):
        assert difference(one, other) <= 4e-6 * max(1, float(one.abs().max()))


class Kept(nn.Module):
    """Goes on with the layer's output by another way than its return value."""

    def __init__(self, way):
        super().__init__()
        self.way, self.store = way, {}
        self.stem, self.a, self.b, self.fc = nn.Conv2d(3, 5, 3), Storing(way), nn.Conv2d(6, 4, 3), nn.Linear(10, 4)
        if way == "hook":
            self.a.register_forward_hook(lambda module, inputs, output: self.store.__setitem__("a", output))

    def forward(self, x):
        x = self.stem(x)
        out = self.a(x=x) if self.way == "by name" else self.a(x)
        kept = {"hook": lambda: self.store["a"], "attribute": lambda: self.a.last, "by name": lambda: self.a.given}[
            self.way
        ]()
        y = torch.relu(self.b(torch.relu(out)))
        return self.fc(torch.cat([y.mean((2, 3)), kept.tanh().mean((2, 3))], 1))


class Storing(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way, self.conv = way, nn.Conv2d(5, 6, 3)

    def forward(self, x):
        if self.way == "by name":
            self.given = torch.cat([x, x[:, :1]], 1)
            self.same = self.given
            return self.given
        self.last = self.conv(x)
        return self.last


@pytest.mark.parametrize("way", ["hook", "attribute", "by name"])
def test_outputs_that_somebody_keeps(package, way):
    from captum.attr import LayerGradCam

    torch.manual_seed(3)
    model, x = Kept(way).eval(), images(2, 3, 20, 24)
    for method in ("GradCAM", "LayerCAM"):
        call = lambda: getattr(package, method)(model, [model.a])(x, None)  # noqa: B023, E731
        plain, found, _ = both("pytorch_grad_cam", call)
        assert difference(plain, found) <= 2e-6
        assert difference(plain, getattr(ours, method)(model, [model.a])(x)) <= 2e-6
    plain, found, _ = both("captum", lambda: LayerGradCam(model, model.a).attribute(x, 1).detach())
    assert difference(plain, found) <= 2e-6
    a, g = captured(model, x)
    assert difference(GradCAM(model, "a")(x, targets=1), fusedcam.cam(a, g, size=(20, 24))) <= 2e-6


def captured(model, x):
    """Activations and gradients of class 1, by plain autograd."""
    found = []
    handle = model.a.register_forward_hook(lambda module, inputs, output: found.append(output))
    scores = model(x)
    handle.remove()
    return found[0].detach(), torch.autograd.grad(scores[:, 1].sum(), found[0])[0]


def test_a_transform_that_copies(package):
    """At once, before an in-place operation that comes after the layer."""
    model, x = network("dense"), images(2, 3, 24, 32)
    for method in ("GradCAM", "GradCAMPlusPlus", "EigenCAM"):
        for transform in (lambda t: t * 1, lambda t: t.flip(3)):
            call = lambda: getattr(package, method)(model, [model.layer3], transform)(x, None)  # noqa: B023, E731
            plain, found, _ = both("pytorch_grad_cam", call)
            assert difference(plain, found) <= 2e-6
            assert difference(plain, getattr(ours, method)(model, [model.layer3], transform)(x)) <= 2e-6


@pytest.mark.parametrize("method", ["GradCAM", "EigenCAM", "ScoreCAM"])
def test_a_layer_that_is_there_twice(package, method):
    model, x = network("residual"), images(1, 3, 24, 32)
    call = lambda: getattr(package, method)(model, [model.layer3, model.layer3])(x, None)  # noqa: E731
    plain, found, _ = both("pytorch_grad_cam", call)
    assert difference(plain, found) <= 2e-6


def test_methods_without_gradients_of_models_that_need_some(package):
    model, x = Asks("grad").eval(), images(1, 3, 24, 32)
    plain, found, _ = both("pytorch_grad_cam", lambda: package.EigenCAM(model, [model.inner.layer3])(x, None))
    assert difference(plain, found) <= 2e-6
    assert difference(plain, ours.EigenCAM(model, [model.inner.layer3])(x)) <= 2e-6


def test_statistics_of_a_model_that_trains_move_once(package):
    model, x = network("residual"), images(2, 3, 24, 32)
    model.layer3 = nn.Sequential(model.layer3, nn.Identity())
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def call():
        model.load_state_dict(state)
        cam = package.GradCAM(model.eval(), [model.layer3[1]])
        model.train()
        return [torch.from_numpy(cam(x, None)), *(one.clone().double() for one in model.buffers())]

    plain, found, _ = both("pytorch_grad_cam", call)
    assert all(difference(one, other) <= 2e-6 for one, other in zip(plain, found, strict=True))


def test_finer_cam_with_an_iterator(package):
    finer = package.utils.model_targets.FinerWeightedTarget
    model, x = network("residual"), images(2, 3, 24, 32)
    cam = lambda: package.FinerCAM(model, [model.layer3])(x, targets=(finer(k, [2, 3], 1.0) for k in range(2)))  # noqa: E731
    with fusedcam.patched("pytorch_grad_cam"):
        found = cam()
    expected = package.FinerCAM(model, [model.layer3])(x, targets=[finer(k, [2, 3], 1.0) for k in range(2)])
    assert difference(expected, found) <= 2e-6


def test_a_copy_that_is_made_meanwhile(package):
    model, x = network("residual"), images(1, 3, 24, 32)
    with fusedcam.patched("pytorch_grad_cam"):
        cam, copies = package.EigenCAM(model, [model.layer3]), []
        layer = model.layer1.register_forward_hook(
            lambda module, inputs, output: copies.append(copy.deepcopy(cam)) and None
        )
        cam(x, None)
        layer.remove()
    copied = copies[0]
    copied.activations_and_grads(x)
    assert len(copied.activations_and_grads.activations) == 1


def test_32_data_parallel(package):
    """Without devices to spread over: hooks see the module's own calls."""
    inner, x = network("residual"), images(2, 3, 24, 32)
    model = nn.DataParallel(inner)
    plain, found, calls = both("pytorch_grad_cam", lambda: package.GradCAM(model, [inner.layer3])(x, None))
    assert difference(plain, found) <= 2e-6
    assert calls


def test_our_own_classes():
    model, x = network("residual"), images(2, 3, 24, 32)
    with pytest.raises(TypeError, match="Mine overrides get_cam_weights, which nothing here calls"):
        type("Mine", (ours.GradCAM,), {"get_cam_weights": lambda self: None})
    for iterator in (iter, lambda targets: (one for one in targets)):
        found = ours.GradCAM(model, [model.layer3])(x, iterator([ours.ClassifierOutputTarget(k) for k in (1, 2)]))
        assert found.shape == (2, 24, 32)
    cam = ours.KPCA_CAM(model, [model.layer3], None, "rbf", 0.1)
    assert (cam.kernel, cam.gamma, cam.device) == ("rbf", 0.1, torch.device("cpu"))
    with pytest.raises(TypeError, match="ablation_layer is given"):
        ours.AblationCAM(model, [model.layer3], None, nn.Identity())
    image, mask = torch.rand(4, 5, 3), torch.rand(4, 5)
    for bad in ((image * 2, mask), ((255 * image).byte(), mask), (image, (255 * mask).byte())):
        with pytest.raises(ValueError, match="show_cam_on_image: accepted"):
            ours.show_cam_on_image(*bad)


@pytest.mark.parametrize("method", ["SegEigenCAM", "KPCA_CAM", "FEM", "EigenCAM", "FullGrad"])
def test_eigen_smooth_of_our_own_classes(package, method):
    model, x = network("residual"), images(2, 3, 48, 64)
    with quiet():
        expected = getattr(package, method)(model, [model.layer3])(x, None, eigen_smooth=True)
    assert difference(expected, getattr(ours, method)(model, [model.layer3])(x, None, eigen_smooth=True)) <= 2e-6
