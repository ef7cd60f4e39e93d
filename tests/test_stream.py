"""Video: the bits of one call after the other, in order; nothing read too early, nothing left behind."""

import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fusedcam
from capture_models import CLASSES, Net
from fusedcam.torch import CAM, EXPLAINERS, AblationCAM, EigenCAM, FullGrad, GradCAM, RefineCAM, ScoreCAM

pytestmark = pytest.mark.usefixtures("doubles")


@pytest.fixture
def net():
    return Net().eval()


@pytest.fixture
def video():
    return torch.rand(6, 3, 21, 18)


@pytest.fixture
def explain(net):
    return GradCAM(net, "body")


def collected(stream, got):
    """For what comes before an error."""
    for one in stream:
        got.append(one)


def drawing():
    return [thread for thread in threading.enumerate() if thread.name.startswith("fusedcam.stream")]


def one_by_one(explain, frames, pictures=None, targets=1, normalize="minmax", **options):
    """As somebody would write it."""
    return [
        fusedcam.overlay(picture, explain(x[None], targets=targets, normalize=normalize)[0], **options)
        for x, picture in zip(frames, frames if pictures is None else pictures, strict=True)
    ]


def equal(got, wanted):
    got = list(got)
    assert len(got) == len(wanted)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


class Pooled(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, CLASSES))


METHODS = {
    **{name: (Net, kind, "body") for name, kind in EXPLAINERS.items()},
    "EigenCAM": (Net, EigenCAM, "body"),
    "ScoreCAM": (Net, ScoreCAM, "body"),
    "AblationCAM": (Net, AblationCAM, "body"),
    "CAM": (Pooled, CAM, "1"),
    "FullGrad": (Net, lambda model, layer: FullGrad(model), None),
    "the last map": (Net, GradCAM, None),
}


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "plain"])
@pytest.mark.parametrize("method", METHODS)
def test_the_bits_of_one_by_one(method, overlap, video):
    model, kind, layer = METHODS[method]
    explain = kind(model().eval(), layer)
    targets = None if method == "EigenCAM" else 2
    equal(explain.stream(video, targets=targets, overlap=overlap), one_by_one(explain, video, targets=targets))
    heat = [explain(x[None], targets=targets)[0] for x in video]
    equal(explain.stream(video, targets=targets, overlap=overlap, kind="heatmap"), heat)


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("method", ["mean", "max", "product", "Refine-CAM"])
def test_several_layers(method, copy, net, video):
    """Each layer's map is normalised before they are fused, as in a call; their scales are far apart here."""
    with torch.no_grad():
        net.stem.weight.mul_(50)
    layers = ["stem", "body"]
    explain = RefineCAM(net, layers) if method == "Refine-CAM" else GradCAM(net, layers, fuse=method)
    for options in ({}, {"normalize": "max"}, {"normalize": None}, {"relu": False}):
        call = {"normalize": "minmax", "targets": 1} | options
        for size in ("input", 9, (9, 12)):
            wanted = [explain(x[None], size=size, **call)[0] for x in video]
            given = None if size == "input" else size
            stream = explain.stream(video, targets=1, kind="heatmap", copy=copy, size=given, **options)
            equal([one.clone() for one in stream], wanted)
        wanted = [fusedcam.overlay(x, explain(x[None], **call)[0]) for x in video]
        equal([one.clone() for one in explain.stream(video, targets=1, copy=copy, **options)], wanted)
    large = torch.rand(6, 3, 50, 40)
    wanted = [
        fusedcam.overlay(picture, explain(x[None], targets=1)[0]) for x, picture in zip(video, large, strict=True)
    ]
    equal([one.clone() for one in explain.stream(zip(video, large, strict=True), targets=1, copy=copy)], wanted)
    heat = [explain(x[None], targets=[[1, 3]])[0] for x in video]
    wanted = [torch.stack([fusedcam.overlay(x, one) for one in two]) for x, two in zip(video, heat, strict=True)]
    equal([one.clone() for one in explain.stream(video, targets=[[1, 3]], copy=copy)], wanted)


@pytest.mark.parametrize("copy", [True, False])
def test_options(copy, explain, video):
    options = {"colormap": "viridis", "alpha": 0.3}
    wanted = one_by_one(explain, video, normalize="max", **options)
    stream = explain.stream(iter(video), targets=1, normalize="max", copy=copy, **options)
    for one, other in zip(stream, wanted, strict=True):
        assert torch.equal(one, other)
    for size in (9, (9, 12), [40, 30], None):
        given = "input" if size is None else size
        wanted = [explain(x[None], targets=1, size=given, relu=False)[0] for x in video]
        stream = explain.stream(video, targets=1, kind="heatmap", size=size, relu=False, copy=copy)
        for one, other in zip(stream, wanted, strict=True):
            assert torch.equal(one, other)


def test_pictures_of_normalised_frames(explain, video):
    """As pairs of any kind of picture, also larger than the frame, or by a function."""
    frames = (video - 0.45) / 0.225
    wanted = one_by_one(explain, frames, video)
    equal(explain.stream(zip(frames, video, strict=True), targets=1), wanted)
    equal(explain.stream(frames, picture=lambda x: frames_to(x, video, frames), targets=1), wanted)
    large = np.random.default_rng(0).integers(256, size=(6, 50, 40, 3), dtype=np.uint8)
    wanted = one_by_one(explain, frames, [torch.from_numpy(one) for one in large])
    equal(
        explain.stream(zip(frames, large, strict=True), targets=1, normalize="minmax"), overlaid(explain, frames, large)
    )
    large.flags.writeable = False
    equal(explain.stream(zip(frames, large, strict=True), targets=1), overlaid(explain, frames, large.copy()))
    swapped = large[..., ::-1]  # as OpenCV reads them
    equal(explain.stream(zip(frames, swapped, strict=True), targets=1), overlaid(explain, frames, swapped.copy()))
    with pytest.raises(
        ValueError, match=r"values from -\d.* to \d.*; give pairs of a frame and its picture, or picture="
    ):
        list(explain.stream(frames, targets=1))


def frames_to(x, video, frames):
    return next(picture for picture, frame in zip(video, frames, strict=True) if torch.equal(frame, x))


def overlaid(explain, frames, images):
    """Drawn in one pass from the layer's resolution, as for pictures of another size than the frame's."""
    raw = [explain(x[None], targets=1, size=None, normalize=None)[0] for x in frames]
    return [
        fusedcam.overlay(torch.from_numpy(image), one, normalize="minmax")
        for image, one in zip(images, raw, strict=True)
    ]


# What is explained


def test_targets(explain, video):
    wanted = [one_by_one(explain, video[i : i + 1], targets=i % CLASSES)[0] for i in range(6)]
    for batch in (1, 4):
        for make in (lambda i: i % CLASSES, lambda i: [i % CLASSES], lambda i: lambda output: output[:, i % CLASSES]):
            got = list(explain.stream(video, targets_of=make, batch=batch))
            assert all(close(one, other) for one, other in zip(got, wanted, strict=True))
    first = one_by_one(explain, video, targets=None)
    mixed = [None, 1, lambda output: output[:, 1], None, 1, 1]
    second = one_by_one(explain, video, targets=1)
    wanted = [a if one is None else b for one, a, b in zip(mixed, first, second, strict=True)]
    for batch in (1, 4):
        got = explain.stream(video, targets_of=mixed.__getitem__, batch=batch)
        assert all(close(one, other) for one, other in zip(got, wanted, strict=True))
    with pytest.raises(ValueError, match=r"targets_of: frames of a batch have classes \[\[\], \[2\]\]"):
        list(explain.stream(video, targets_of=[1, [[1, 2]]].__getitem__, batch=2))


def close(one, other):
    """A batch's sums may be in another order than one image's, and a value at the edge of two colours."""
    return one.shape == other.shape and ((one.int() - other.int()).abs() > 4).double().mean() < 0.01


@pytest.mark.parametrize("copy", [True, False])
def test_several_classes(copy, explain, video):
    heat = [explain(x[None], targets=[[1, 3]])[0] for x in video]
    wanted = [torch.stack([fusedcam.overlay(x, one) for one in two]) for x, two in zip(video, heat, strict=True)]
    for one, other in zip(explain.stream(video, targets=[[1, 3]], copy=copy), wanted, strict=True):
        assert torch.equal(one, other)
    stream = explain.stream(video, targets=[[1, 3]], copy=copy, kind="heatmap")
    for one, other in zip(stream, heat, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("copy", [True, False])
def test_batches(copy, explain, net):
    """Three at once; those of another shape, and batches that come as such, are run apart."""
    small, large = torch.rand(5, 3, 21, 18), torch.rand(4, 3, 24, 20)
    frames = [*small, large[0], large[1:3], large[3]]
    groups = [small[:3], small[3:], large[:1], large[1:3], large[3:]]
    seen = []
    handle = net.stem.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    stream = explain.stream(frames, targets=1, batch=3, copy=copy)
    got = [one.clone() for one in stream]
    assert seen == [3, 2, 1, 2, 1]
    handle.remove()
    wanted = []
    for group in groups:
        heat = explain(group, targets=1, size=None, normalize=None)
        wanted += [fusedcam.overlay(x, one, normalize="minmax") for x, one in zip(group, heat, strict=True)]
    equal(got, wanted)
    pairs = ((x, x.clone()) for x in frames)
    equal([one.clone() for one in explain.stream(pairs, targets=1, batch=3, copy=copy)], wanted)


def test_outputs_belong_to_their_pictures(explain, net, video):
    for batch in (1, 4):
        for overlap in (True, False):
            stream = explain.stream(video, targets=1, outputs=True, batch=batch, overlap=overlap)
            for (picture, output), x in zip(stream, video, strict=True):
                assert picture.shape == (21, 18, 3)
                torch.testing.assert_close(output, net(x[None]).detach())


def test_the_page_runs(video):
    page = (Path(__file__).parent.parent / "docs" / "video.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    model, shown = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 19 * 16, 300)).eval(), []
    block = block.replace('"layer4"', '"0"')
    mean, std = (torch.tensor(one)[:, None, None] for one in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    frames = (video - mean) / std
    names = {
        "model": model,
        "frames": frames,
        "show": lambda picture, *output: shown.append(picture.clone()),
        "prepare": lambda image: (image - mean) / std,
        "camera": video,
    }
    exec(block, names)
    explain = GradCAM(model, "0")
    equal(shown[:6], one_by_one(explain, frames, [x * std + mean for x in frames], targets=None))
    equal(shown[6:], one_by_one(explain, frames, video, targets=281))


def test_signals():
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 28, 3)).eval()
    explain, signals = GradCAM(model, "0", spatial=1), torch.randn(5, 2, 30)
    wanted = [explain(x[None], targets=1)[0] for x in signals]
    equal(explain.stream(signals, targets=1, kind="heatmap"), wanted)
    with pytest.raises(ValueError, match='kind is "overlay", which is of images, but spatial is 1'):
        explain.stream(signals)
