"""Smoothed and noisy_moments: against separate calls one by one, pytorch-grad-cam's, random numbers, refusals."""

import numpy as np
import pytest
import torch
from torch import nn

import reference
from capture_models import CLASSES, CONTAINERS, Net, Returning, plain_gradients, unchanged
from fusedcam.torch import (
    FEM,
    KPCACAM,
    DetectionScore,
    EigenCAM,
    FinerCAM,
    GradCAM,
    GuidedBackprop,
    LayerCAM,
    PartScore,
    SegmentationScore,
    ShapleyCAM,
    Smoothed,
    noisy_moments,
)
from fusedcam.torch.explainer import Run
from peer_models import images, network, pytorch_grad_cam
from rare_models import Curved, close, double  # noqa: F401

pytestmark = pytest.mark.usefixtures("double")

PAIRS = [(flip, factor) for flip in (False, True) for factor in (0.9, 1.0, 1.1)]


def copy(x, flip, factor):
    return (x.flip(-1) if flip else x) * factor


def one_by_one(explain, x, targets, pairs=PAIRS, **options):
    """The mean of a call for each copy of each image."""
    total = 0
    for flip, factor in pairs:
        rows = [explain(copy(x[i : i + 1], flip, factor), targets=targets[i : i + 1], **options) for i in range(len(x))]
        total = total + (torch.cat(rows).flip(-1) if flip else torch.cat(rows))
    return total / len(pairs)


@pytest.mark.parametrize(
    ("context", "chunk"), [(torch.enable_grad, 64), (torch.no_grad, 7), (torch.inference_mode, 5), (torch.no_grad, 1)]
)
def test_separate_calls(context, chunk):
    model, x = Net().eval(), torch.rand(3, 3, 21, 18)
    explain = GradCAM(model, "last")
    smooth = Smoothed(explain, chunk=chunk)
    rows = [[1, 4], [0, 2], [3, 3]]
    for targets in (rows, [row[1] for row in rows]):
        for options in ({}, {"size": None, "relu": False, "normalize": None}, {"size": (30, 7), "normalize": "max"}):
            with context(), unchanged(model):
                heat = smooth(x, targets=targets, **options)
            close(heat, one_by_one(explain, x, targets, **options))
    assert torch.isfinite(heat).all()


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("factors", [(1,), [0.5, 2]], ids=str)
def test_which_copies(flips, factors):
    model, x = Net().eval(), torch.rand(2, 3, 21, 18)
    pairs = [(flip, factor) for flip in ((False, True) if flips else (False,)) for factor in factors]
    explain = GradCAM(model, "body")
    wanted = one_by_one(explain, x, [1, 3], pairs)
    close(Smoothed(explain, flips=flips, factors=factors)(x, targets=[1, 3]), wanted)
    calls = []
    model.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    Smoothed(explain, flips=flips, factors=factors)(x, targets=[1, 3])
    assert calls == [2 * len(pairs)], "one run of all copies"


def test_targets_of_every_form():
    model, x = Net().eval(), torch.rand(2, 3, 21, 18)
    smooth = Smoothed(GradCAM(model, "last"), chunk=6)
    with torch.no_grad():
        first = model(x).argmax(1)
    wanted = smooth(x, targets=[1, 3])
    raw = {"relu": False, "normalize": None}
    close(smooth(x, targets=torch.tensor([1, 3])), wanted)
    close(smooth(x, targets=lambda output: output.gather(1, torch.tensor([[1], [3]]))[:, 0]), wanted)
    close(smooth(x, targets=[lambda image: image[1], lambda image: image[3]]), wanted)
    close(smooth(x, targets=2, **raw), smooth(x, targets=[2, 2], **raw))
    close(smooth(x, **raw), smooth(x, targets=first, **raw))  # of the images as they are
    close(smooth(x[:0], targets=1), torch.zeros(0, 21, 18))


@pytest.mark.parametrize("form", ["one for all", "of each image", "in a part", "in a list"])
@pytest.mark.parametrize("chunk", [64, 1])
def test_targets_that_have_a_place(form, chunk):
    """Mirror images are scored over the mirrored mask."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 5, 3, padding=1)

        def forward(self, x):
            scores = self.layer(x).tanh()
            return {"out": scores} if form == "in a part" else scores

    model, x = Model().eval(), torch.rand(2, 3, 6, 8)
    masks = torch.rand(2, 6, 8) * (torch.arange(8) < 3)
    if form == "one for all":
        masks = masks[:1].expand(2, -1, -1)
    given = {
        "one for all": SegmentationScore(1, masks[0].numpy()),
        "of each image": SegmentationScore(1, masks),
        "in a part": PartScore("out", SegmentationScore(1, masks)),
        "in a list": [SegmentationScore(1, mask) for mask in masks],
    }[form]
    if form == "in a list":
        given = [lambda image, one=one: one(image[None])[0] for one in given]
        for one, mask in zip(given, masks, strict=True):
            one.mirrored = lambda mask=mask: lambda image: SegmentationScore(1, mask.flip(-1))(image[None])[0]
    explain = LayerCAM(model, "layer")
    raw = {"relu": False, "normalize": None}
    plain = explain(x, targets=SegmentationScore(1, masks), **raw)
    mirrored = explain(x.flip(-1), targets=SegmentationScore(1, masks.flip(-1)), **raw).flip(-1)
    got = Smoothed(explain, factors=(1,), chunk=chunk)(x, targets=given, **raw)
    close(got, (plain + mirrored) / 2, 1e-12)
    assert got[..., :3].any()
    assert not got[..., 3:].any()
    region = SegmentationScore(1, missing="zero")  # without a mask the region is found anew
    both = (explain(x, targets=region, **raw) + explain(x.flip(-1), targets=region, **raw).flip(-1)) / 2
    close(Smoothed(explain, factors=(1,))(x, targets=region, **raw), both, 1e-12)


def test_boxes_are_not_mirrored():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 5, 3, padding=1)

        def forward(self, x):
            score = self.layer(x).mean((1, 2, 3)).sigmoid()
            return [{"boxes": torch.tensor([[0.0, 0, 4, 4]]), "scores": one[None]} for one in score]

    explain, x = GradCAM(Model().eval(), "layer"), torch.rand(2, 3, 6, 8)
    target = DetectionScore([[0.0, 0, 4, 4]])
    assert Smoothed(explain, flips=False)(x, targets=target).shape == (2, 6, 8)
    with pytest.raises(ValueError, match="the boxes of DetectionScore are those of the images as they are; pass flips"):
        Smoothed(explain)(x, targets=target)


@pytest.mark.parametrize("make", [EigenCAM, FEM, KPCACAM], ids=lambda make: make.__name__)
def test_without_classes(make):
    model, x = Net().eval(), torch.rand(2, 3, 21, 18)
    explain = make(model, "last")
    wanted = sum(explain(copy(x, *pair)).flip(-1) if pair[0] else explain(copy(x, *pair)) for pair in PAIRS) / 6
    close(Smoothed(explain, chunk=5)(x), wanted, 1e-5)
    with pytest.raises(ValueError, match=r"targets: .* looks at activations alone"):
        Smoothed(explain)(x, targets=1)


def test_a_copy_does_not_choose_for_itself():
    """A model whose first choice turns with the sign of its input."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 2, 1)
            self.layer.weight.data = torch.tensor([1.0, -1]).reshape(2, 1, 1, 1)
            self.layer.bias.data = torch.tensor([0.0, 0.5])

        def forward(self, x):
            return self.layer(x).mean((2, 3))

    model, x = Model().eval(), torch.rand(2, 1, 4, 4)
    options = {"relu": False, "normalize": None}
    smooth = Smoothed(GradCAM(model, "layer"), factors=(1, -3))
    close(smooth(x, **options), smooth(x, targets=model(x).argmax(1), **options))


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers(container):
    kind, take = CONTAINERS[container]
    model, x = Returning(kind, take).eval(), torch.rand(2, 3, 12, 9)
    score = lambda output: take(output)[:, 3]  # noqa: E731
    close(Smoothed(GradCAM(model, "layer"))(x, targets=score), one_by_one_callable(model, x, score))


def one_by_one_callable(model, x, score):
    explain = GradCAM(model, "layer")
    maps = [explain(copy(x, flip, factor), targets=score) for flip, factor in PAIRS]
    return torch.stack([one.flip(-1) if flip else one for one, (flip, _) in zip(maps, PAIRS, strict=True)]).mean(0)


def test_raw_average():
    """Finished after it is averaged: the extremes are 0 and 1."""
    model, x = Net().eval(), torch.rand(2, 3, 21, 18)
    explain = GradCAM(model, "last")
    raw = one_by_one(explain, x, [1, 3], size=None, relu=False, normalize=None).numpy()
    heat = Smoothed(explain, average="raw")(x, targets=[1, 3])
    close(heat, reference.normalize(reference.bilinear(np.maximum(raw, 0), (21, 18)), "minmax"))
    signed = Smoothed(explain, average="raw")(x, targets=[1, 3], size=(9, 9), relu=False, normalize=None)
    close(signed, reference.bilinear(raw, (9, 9)))


def test_noise():
    model, x = Net().eval(), torch.rand(2, 3, 21, 18) * torch.tensor([1.0, 50]).reshape(2, 1, 1, 1)
    explain = GradCAM(model, "body")
    state = torch.random.get_rng_state()
    smooth = Smoothed(explain, flips=False, factors=(1,), noise=5, noise_std=0.2, chunk=4)
    heat = smooth(x, targets=[1, 3], generator=torch.Generator().manual_seed(7))
    draws, total = torch.Generator().manual_seed(7), 0
    span = x.amax((1, 2, 3)) - x.amin((1, 2, 3))
    for _ in range(5):
        noisy = x + 0.2 * span[:, None, None, None] * torch.randn(x.shape, generator=draws)
        total = total + explain(noisy, targets=[1, 3])
    close(heat, total / 5)
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's random numbers are left alone"
    close(smooth(x, targets=[1, 3]), smooth(x, targets=[1, 3]))
    raw = {"targets": [1, 3], "relu": False, "normalize": None}
    assert not torch.equal(smooth(x, **raw), smooth(x, **raw, generator=torch.Generator().manual_seed(7)))
    other = Smoothed(explain, flips=False, factors=(1,), noise=5, noise_std=0.2, chunk=64)
    close(other(x, targets=[1, 3], generator=torch.Generator().manual_seed(7)), heat)
    still = Smoothed(explain, noise=2, noise_std=0)
    close(still(x, targets=[1, 3]), Smoothed(explain)(x, targets=[1, 3]))


@pytest.mark.parametrize("make", [GuidedBackprop, FinerCAM, ShapleyCAM], ids=lambda make: make.__name__)
def test_other_explainers(make):
    model = Curved().eval() if make is ShapleyCAM else Net().eval()
    x, explain = torch.rand(2, 3, 21, 18), make(model)
    close(Smoothed(explain)(x, targets=[1, 3]), one_by_one(explain, x, [1, 3]))
    close(Smoothed(explain, chunk=2)(x), Smoothed(explain)(x, targets=model(x).argmax(1)))


def test_arguments_beside_x():
    class Model(Net):
        def forward(self, x, scale, shift=0, *, name=""):
            assert name == "n"
            return super().forward(x * scale[:, None, None, None] + shift)

    model, x = Model().eval(), torch.rand(3, 3, 21, 18)
    scale, shift = torch.rand(3), torch.rand(3, 1, 1, 1)
    heat = Smoothed(GradCAM(model, "last"))(x, scale, targets=[1, 3, 0], shift=shift, name="n")
    plain = Net().eval()
    plain.load_state_dict(model.state_dict())
    total = 0
    for flip, factor in PAIRS:
        moved = copy(x, flip, factor) * scale[:, None, None, None] + shift
        one = GradCAM(plain, "last")(moved, targets=[1, 3, 0])
        total = total + (one.flip(-1) if flip else one)
    close(heat, total / 6)


def test_pytorch_grad_cam():
    package = pytorch_grad_cam()
    model, x = network("residual"), images(2, 3, 40, 56)
    target = package.utils.model_targets.ClassifierOutputTarget
    expected = package.GradCAM(model, [model.layer3])(x, [target(1), target(2)], aug_smooth=True)
    close(Smoothed(GradCAM(model, "layer3"))(x, targets=[1, 2]), expected, 5e-6)


@pytest.mark.parametrize("chunk", [1, 6, 64])
@pytest.mark.parametrize("rows", [None, [1, 3, 0], [[1, 4], [0, 2], [3, 3]]], ids=str)
def test_moments(rows, chunk):
    model, x = Curved().eval(), torch.randn(3, 3, 9, 12)
    first = model(x).argmax(1)
    classes = first if rows is None else torch.tensor(rows)
    score = lambda output: output.gather(1, classes.reshape(3, -1))  # noqa: E731
    explain = GradCAM(model, "layer")
    state = torch.random.get_rng_state()
    with unchanged(model), torch.no_grad():
        found = noisy_moments(
            explain,
            Run((x,), {}, rows),
            samples=4,
            noise_std=0.4,
            generator=torch.Generator().manual_seed(7),
            chunk=chunk,
        )
    draws, sums = torch.Generator().manual_seed(7), np.zeros(3, object)
    span = x.amax((1, 2, 3)) - x.amin((1, 2, 3))
    for _ in range(4):
        noisy = x + 0.4 * span[:, None, None, None] * torch.randn(x.shape, generator=draws)
        _, gradients = plain_gradients(model, model.layer, noisy, score)
        for power in range(3):
            sums[power] = sums[power] + gradients.numpy() ** (power + 1) / 4
    wanted = np.stack([*sums])
    close(found.moments, wanted if isinstance(rows, list) and isinstance(rows[0], list) else wanted[:, :, 0], 1e-12)
    close(found.activations, model.layer(x), 1e-12)
    assert found.plan.layer == "layer"
    assert torch.equal(state, torch.random.get_rng_state())


def test_moments_in_half():
    """Third powers of half types would vanish."""
    model, x = Net().eval().to(torch.bfloat16), torch.rand(2, 3, 21, 18).to(torch.bfloat16)
    found = noisy_moments(GradCAM(model, "last"), Run((x,), {}, 1), samples=2)
    assert found.moments.dtype == torch.float32
    assert found.activations.dtype == torch.bfloat16
    assert found.moments[2].any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"flips": 1}, TypeError, "flips is 1"),
        ({"factors": ()}, ValueError, r"factors is \(\); accepted are one or more numbers"),
        ({"factors": [1, float("inf")]}, ValueError, "factors is .* accepted are finite numbers"),
        ({"factors": "1"}, ValueError, "factors is '1'"),
        ({"noise": -1}, ValueError, "noise is -1"),
        ({"noise": 2.0}, TypeError, "noise is 2.0"),
        ({"noise_std": float("nan")}, ValueError, "noise_std is nan"),
        ({"noise_std": "1"}, TypeError, "noise_std is '1'"),
        ({"average": "mean"}, ValueError, 'average is \'mean\'; accepted: "finished", "raw"'),
        ({"chunk": 0}, ValueError, "chunk is 0"),
    ],
    ids=str,
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        Smoothed(GradCAM(Net().eval()), **options)


def test_refusals_when_called():
    model, x = Net().eval(), torch.rand(2, 3, 21, 18)
    smooth, run = Smoothed(GradCAM(model)), Run((x,), {}, None)
    odd = lambda output: output[:, 0] * torch.ones(3)  # noqa: E731
    for call, error, message in (
        (lambda: Smoothed(model.forward), TypeError, "explainer is of type method"),
        (lambda: Smoothed(GuidedBackprop(model), average="raw"), TypeError, "needs an Explainer"),
        (lambda: smooth(3), TypeError, "x is int; accepted is a batch of images"),
        (lambda: smooth(x.int()), TypeError, "x is torch.int32"),
        (lambda: smooth(x, targets=[1]), ValueError, "targets: 1 came for 2 images"),
        (lambda: smooth(x, targets=CLASSES), ValueError, f"class {CLASSES} is out of range"),
        (lambda: smooth(x, targets=lambda output: 3), TypeError, "targets: a callable returned int"),
        (lambda: smooth(x, targets=odd), RuntimeError, "must match the size"),
        (lambda: Smoothed(GradCAM(model), noise=1)(x, generator=3), TypeError, "generator is of type int"),
        (lambda: noisy_moments(GradCAM(model), run, samples=0), ValueError, "samples is 0"),
        (lambda: noisy_moments(GradCAM(model), run, samples=1, noise_std=-1), ValueError, "noise_std is -1"),
        (lambda: noisy_moments(GradCAM(model), run, samples=1, chunk=0), ValueError, "chunk is 0"),
        (lambda: noisy_moments(GradCAM(model), Run((3,), {}, None), samples=1), TypeError, "x is int"),
    ):
        with pytest.raises(error, match=message):
            call()
