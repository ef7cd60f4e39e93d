"""Whose memory a stream's frames and pictures lie in: a producer writes to it as soon as it is asked again."""

import array
import itertools
import threading

import numpy as np
import pytest
import torch
from torch import nn

import fusedcam
from capture_models import Net
from fusedcam.torch import GradCAM, stream
from test_stream import equal, one_by_one

pytestmark = pytest.mark.usefixtures("doubles")

# Which buffer each frame lies in. A number's first use is memory that nobody has seen before.
ORDERS = {
    "one": "AAAAAAAA",
    "two in turn": "ABABABAB",
    "another first": "ABBBBBBB",
    "another in the middle": "AAABBBBB",
    "two, irregularly": "ABBABAAB",
    "three": "ABCCABBC",
    "its own each": "ABCDEFGH",
}
FORMS = ["frames", "tensors", "arrays", "reversed", "read-only", "memoryviews", "interfaces", "canvases"]


class Interface:
    """What NumPy can read, and no more is known of it."""

    def __init__(self, memory):
        self.memory = memory

    def __array__(self, dtype=None, copy=None):
        return self.memory


@pytest.fixture
def net():
    return Net().eval()


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(256, size=(8, 21, 18, 3), dtype=np.uint8)


@pytest.fixture
def explain(net):
    return GradCAM(net, "body")


def scaled(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1) / 255


def in_memory(form, image):
    """A place for an image in memory of its own, and how to write one to it."""
    if form == "canvases":
        picture = pytest.importorskip("PIL.Image")
        canvas = picture.new("RGB", (18, 21))
        return canvas, lambda one: canvas.paste(picture.fromarray(one))
    if form == "memoryviews":
        memory = array.array("B", bytes(image.size))
        return memoryview(memory).cast("B").cast("B", image.shape), lambda one: memoryview(memory).__setitem__(
            slice(None), one.tobytes()
        )
    memory = np.zeros_like(image)
    if form == "reversed":
        return memory[..., ::-1], lambda one: np.copyto(memory[..., ::-1], one)
    given = memory
    if form == "read-only":
        given = memory.view()
        given.flags.writeable = False
    kinds = {"tensors": torch.from_numpy, "interfaces": Interface}
    return kinds.get(form, lambda one: one)(given), lambda one: np.copyto(memory, one)


def producer(form, order, images):
    """Frames, or pairs, whose places are written to when the next is asked for."""
    places = {}
    for name, image in zip(order, images, strict=True):
        if form == "frames":
            place = places.setdefault(name, np.empty((3, 21, 18)))
            place[:] = scaled(image)
            yield torch.from_numpy(place)
        else:
            place, write = places.setdefault(name, in_memory(form, image))
            write(image)
            yield scaled(image), place
    for place in places.values():  # and after the last as well
        place.fill(7) if form == "frames" else place[1](np.full_like(images[0], 7))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("form", FORMS)
def test_a_producer_writes_where_it_wants(form, order, batch, explain, images):
    frames = [scaled(image) for image in images]
    pictures = frames if form == "frames" else [torch.from_numpy(image.copy()) for image in images]
    wanted = []
    for start in range(0, 8, batch):
        heat = explain(torch.stack(frames[start : start + batch]), targets=1, size=None, normalize=None)
        wanted += [
            fusedcam.overlay(one, heat[i], normalize="minmax") for i, one in enumerate(pictures[start : start + batch])
        ]
    for options in ({}, {"copy": False}, {"overlap": False}):
        given = producer(form, ORDERS[order], images)
        equal([one.clone() for one in explain.stream(given, targets=1, batch=batch, **options)], wanted)


@pytest.mark.parametrize("form", ["frames", "tensors", "arrays"])
def test_a_picture_that_is_drawn_late(form, explain, images, monkeypatch):
    """Not before the next one is copied, which goes to another buffer; and the one after that to the same again."""
    copied, addresses, count = [threading.Event() for _ in range(9)], [], itertools.count()
    kept, overlay = stream.kept, stream.overlay

    def keeping(given, buffers, turn, handed):
        lasting = kept(given, buffers, turn, handed)
        addresses.append((lasting.x[0] if form == "frames" else lasting.images[0]).data_ptr())
        copied[turn].set()
        return lasting

    def drawing(*args, **kwargs):
        assert copied[next(count) + 1].wait(30)
        return overlay(*args, **kwargs)

    frames = [scaled(image) for image in images]
    pictures = frames if form == "frames" else [torch.from_numpy(image.copy()) for image in images]
    raw = [explain(x[None], targets=1, size=None, normalize=None)[0] for x in frames]
    wanted = [fusedcam.overlay(*pair, normalize="minmax") for pair in zip(pictures, raw, strict=True)]
    monkeypatch.setattr(stream, "kept", keeping)
    monkeypatch.setattr(stream, "overlay", drawing)
    copied[8].set()
    equal(explain.stream(producer(form, ORDERS["one"], images), targets=1), wanted)
    assert addresses[:2] * 4 == addresses


@pytest.mark.parametrize("order", ["one", "another first"])
def test_batches_that_come_as_such(order, explain, images):
    """Their pictures as one tensor or as a list."""
    frames = torch.stack([scaled(image) for image in images])

    def whole(as_list):
        places = {}
        for i, name in enumerate(ORDERS[order][:4]):
            x, shown = places.setdefault(name, (torch.empty(2, 3, 21, 18), np.empty((2, 21, 18, 3), np.uint8)))
            x.copy_(frames[2 * i : 2 * i + 2])
            shown[:] = images[2 * i : 2 * i + 2]
            yield x if as_list is None else (x, [*shown]) if as_list else (x, shown)

    for as_list in (None, True, False):
        wanted = []
        for start in range(0, 8, 2):
            heat = explain(frames[start : start + 2], targets=1, size=None, normalize=None)
            wanted += [
                fusedcam.overlay(
                    frames[start + i] if as_list is None else torch.from_numpy(images[start + i]),
                    heat[i],
                    normalize="minmax",
                )
                for i in range(2)
            ]
        equal(explain.stream(whole(as_list), targets=1), wanted)


@pytest.mark.parametrize("order", ORDERS)
def test_what_the_picture_function_gets_stays(order, explain, images):
    """It may keep it, too."""
    frames, kept = [scaled(image) for image in images], []

    def picture(x):
        kept.append(x)
        return 1 - x

    got = explain.stream(producer("frames", ORDERS[order], images), targets=1, picture=picture)
    equal(got, one_by_one(explain, frames, [1 - x for x in frames]))
    equal(kept, frames)


class WithInput(nn.Module):
    """Returns a view of what it takes, too."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, x):
        return {"scores": self.net(x), "image": x[:, 0]}


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_outputs_that_are_views_of_the_frame(order, batch, overlap, images):
    explain = GradCAM(WithInput().eval(), "net.body")
    stream = explain.stream(
        producer("frames", ORDERS[order], images),
        targets=lambda output: output["scores"][:, 1],
        outputs=True,
        batch=batch,
        overlap=overlap,
    )
    outputs = [output for _, output in stream]
    equal([one["image"] for one in outputs], [scaled(image)[None, 0] for image in images])


def test_pictures_of_changing_shapes_and_types(explain):
    """Each of them lies in its producer's one memory."""
    memory = np.empty(30 * 18 * 3 * 4, np.uint8)
    frames = torch.rand(9, 3, 21, 18)
    values = np.random.default_rng(2)
    shapes = [(21 + i // 2 % 3, 18, 3) for i in range(9)]
    pictures = [values.random(shape).astype(np.float32) for shape in shapes]
    pictures[3:6] = [(255 * one).astype(np.uint8) for one in pictures[3:6]]

    def pairs():
        for x, picture in zip(frames, pictures, strict=True):
            place = memory[: picture.nbytes].view(picture.dtype).reshape(picture.shape)
            place[:] = picture
            yield x, place

    raw = [explain(x[None], targets=1, size=None, normalize=None)[0] for x in frames]
    wanted = [
        fusedcam.overlay(torch.from_numpy(picture), one, normalize="minmax")
        for picture, one in zip(pictures, raw, strict=True)
    ]
    for copy in (True, False):
        equal([one.clone() for one in explain.stream(pairs(), targets=1, copy=copy)], wanted)


def test_a_stream_that_is_read_in_and_out_of_inference_mode(explain, images):
    """Its own buffers are written to in both."""
    frames = [scaled(image) for image in images]
    wanted = one_by_one(explain, frames)
    for batch in (1, 3):
        stream, got = explain.stream(producer("frames", ORDERS["one"], images), targets=1, batch=batch), []
        for i in range(8):
            with torch.inference_mode(i % 4 < 2):
                got.append(next(stream).clone())
        stream.close()
        if batch == 1:
            equal(got, wanted)


@pytest.mark.parametrize("kind", ["overlay", "heatmap"])
def test_a_graph_leads_through_the_frame_that_it_was_made_of(kind, net, images):
    """Nothing is read between a frame and its heatmap, whose loss is differentiated with what the model has seen."""
    explain = GradCAM(net, "body", create_graph=True)
    stream = explain.stream(producer("frames", ORDERS["one"], images), targets=1, kind=kind, outputs=True)
    parameters = [net.stem.weight, net.body.weight]
    with torch.no_grad():
        for (result, output), image in zip(stream, images, strict=True):
            twin = GradCAM(net, "body", create_graph=True)
            with torch.enable_grad():
                heat = twin(scaled(image)[None], targets=1)[0]
                loss = (heat.square() if kind == "heatmap" else twin.output).sum()
                found = (result.square() if kind == "heatmap" else output).sum()
            wanted = torch.autograd.grad(loss, parameters)
            torch.testing.assert_close(torch.autograd.grad(found, parameters), wanted)
