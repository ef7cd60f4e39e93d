"""How a stream flows: what is read when, what overlaps, whose memory it is, and how it ends."""

import gc
import itertools
import threading
import weakref

import pytest
import torch

import fusedcam
from capture_models import Net
from fusedcam.torch import GradCAM
from test_stream import collected, drawing, equal, one_by_one

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


@pytest.mark.parametrize(("overlap", "ahead"), [(True, 1), (False, 0)])
def test_nothing_is_read_ahead(overlap, ahead, explain):
    """Of an infinite video, either: one frame."""
    read = []

    def frames():
        for i in itertools.count():
            read.append(i)
            yield torch.rand(3, 21, 18)

    stream = explain.stream(frames(), targets=1, overlap=overlap)
    assert not read
    for i in range(6):
        next(stream)
        assert len(read) == i + 1 + ahead
    stream.close()
    assert len(read) == 6 + ahead


def test_no_more_than_two_frames_live(explain):
    alive = []

    def frames():
        for _ in range(8):
            x = torch.rand(3, 21, 18)
            alive.append(weakref.ref(x.untyped_storage()))
            yield x
            del x

    gc.disable()
    try:
        for _ in explain.stream(frames(), targets=1):
            assert sum(one() is not None for one in alive) <= 3  # two, and the one that the generator may still hold
    finally:
        gc.enable()
    assert not any(one() is not None for one in alive)


@pytest.mark.parametrize("views", [True, False], ids=["views of one tensor", "tensors of their own"])
def test_a_frame_is_drawn_while_the_next_is_explained(views, net, video):
    """Its drawing waits here until the model runs on the one after it."""
    runs, waited = [threading.Event() for _ in range(7)], []
    count = itertools.count()
    handle = net.stem.register_forward_hook(lambda *_: runs[next(count)].set())
    drawn = itertools.count()

    def picture(x):
        i = next(drawn)
        if i <= 4:
            waited.append(runs[i + 1].wait(30))
            assert drawing() == [threading.current_thread()]
        return x

    frames = video if views else [x.clone() for x in video]
    got = list(GradCAM(net, "body").stream(frames, targets=1, picture=picture))
    handle.remove()
    assert waited == [True] * 5
    equal(got, one_by_one(GradCAM(net, "body"), video))


@pytest.mark.parametrize("kind", ["overlay", "heatmap"])
@pytest.mark.parametrize("overlap", [True, False])
def test_buffers_take_turns(overlap, kind, explain, video):
    """With copy=False a picture is valid until the next is asked for, and there are two in all; else it stays."""
    kept = list(explain.stream(video, targets=1, kind=kind, overlap=overlap))
    places = set()
    for one, other in zip(explain.stream(video, targets=1, kind=kind, overlap=overlap, copy=False), kept, strict=True):
        assert torch.equal(one, other)
        places.add(one.data_ptr())
    assert len(places) == 2
    assert len({one.data_ptr() for one in kept}) == len(video)
    equal(kept, list(explain.stream(video, targets=1, kind=kind)))


def test_buffers_of_changing_shapes(explain):
    video = [torch.rand(3, 21 + i // 2 % 2, 18) for i in range(9)]
    wanted = one_by_one(explain, video)
    for one, other in zip(explain.stream(video, targets=1, copy=False), wanted, strict=True):
        assert torch.equal(one, other)


# Its end


@pytest.mark.parametrize("way", ["close", "break", "drop", "throw"])
def test_stopping_early(way, explain):
    def frames():
        while True:
            yield torch.rand(3, 21, 18)

    stream = explain.stream(frames(), targets=1)
    for i, _ in enumerate(stream):
        if i == 3:
            break
    assert len(drawing()) == 1
    if way == "close":
        stream.close()
    elif way == "throw":
        with pytest.raises(OverflowError):
            stream.throw(OverflowError())
    else:
        del stream
        if way == "break":
            for _ in explain.stream(frames(), targets=1):
                break
    assert not drawing()
    explain(torch.rand(1, 3, 21, 18), targets=1)


def test_an_interrupt_ends_the_thread(explain, video):
    def frames():
        yield from video[:4]
        raise KeyboardInterrupt

    got = []
    with pytest.raises(KeyboardInterrupt):
        collected(explain.stream(frames(), targets=1), got)
    assert len(got) == 3  # what is being drawn is given up
    assert not drawing()


@pytest.mark.parametrize("video_of", [[], torch.empty(0, 3, 21, 18), [torch.empty(0, 3, 21, 18)]], ids=str)
def test_an_empty_video(video_of, explain):
    assert not list(explain.stream(video_of, targets=1))


def test_two_streams_of_one_explainer_and_modes(explain, video):
    wanted = one_by_one(explain, video)
    one, other = explain.stream(video, targets=1), explain.stream(video.flip(0), targets=1)
    got = [], []
    for _ in range(6):
        got[0].append(next(one))
        got[1].append(next(other))
    one.close()
    other.close()
    equal(got[0], wanted)
    equal(got[1], wanted[::-1])
    with torch.inference_mode():
        equal([each.clone() for each in explain.stream(video, targets=1)], [each.clone() for each in wanted])
    assert torch.is_grad_enabled()


REFUSED = {
    "kind": ({"kind": "map"}, ValueError, "kind is 'map'; accepted"),
    "size": ({"size": 9}, ValueError, 'size is 9, but overlays .* kind="heatmap"'),
    "batch": ({"batch": 0}, ValueError, "batch is 0; accepted is an int of at least 1"),
    "copy": ({"copy": 1}, TypeError, "copy is 1; accepted: True, False"),
    "overlap": ({"overlap": None}, TypeError, "overlap is None; accepted"),
    "outputs": ({"outputs": "yes"}, TypeError, "outputs is 'yes'; accepted"),
    "picture": ({"picture": 3}, TypeError, "picture is of type int; accepted is a callable or None"),
    "targets_of": ({"targets_of": 3}, TypeError, "targets_of is of type int; accepted is a callable or None"),
    "both": ({"targets": 1, "targets_of": int}, ValueError, "targets and targets_of are both given"),
    "frames": ({"frames": 3}, TypeError, "frames is of type int; accepted is an iterable of tensors"),
    "path": ({"frames": "video.mp4"}, TypeError, "frames is of type str; accepted is an iterable of tensors"),
}


@pytest.mark.parametrize("layers", ["body", ["stem", "body"]], ids=str)
def test_heatmaps_with_a_graph_need_memory_of_their_own(layers, net, video):
    explain, read = GradCAM(net, layers, create_graph=True), []
    with pytest.raises(ValueError, match=r"^copy is False, but create_graph is True, .*; accepted is copy=True"):
        explain.stream((read.append(x) or x for x in video), targets=1, kind="heatmap", copy=False)
    assert not read
    assert all(heat.requires_grad for heat in explain.stream(video, targets=1, kind="heatmap"))
    stream = explain.stream(video, targets=1, copy=False)  # pictures have none
    plain = GradCAM(net, layers)
    equal([one.clone() for one in stream], [fusedcam.overlay(x, plain(x[None], targets=1)[0]) for x in video])


@pytest.mark.parametrize(("options", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_at_once(options, kind, message, explain, video):
    with pytest.raises(kind, match=message):
        explain.stream(**({"frames": video} | options))


COMING = {
    "type": ({"frames": [3]}, TypeError, "frames: one is int; accepted is a tensor, or a pair"),
    "rank": (
        {"frames": [torch.rand(9, 9)]},
        ValueError,
        r"has shape \[9, 9\]; accepted is \[C, H, W\], or \[n, C, H, W\]",
    ),
    "pairs": (
        {"frames": [(torch.rand(3, 9, 9), 1)], "picture": abs},
        ValueError,
        "one has a picture, but picture is given",
    ),
    "pictures": ({"frames": [(torch.rand(2, 3, 9, 9), [1])]}, ValueError, "frames: 2 have 1 pictures"),
    "option": ({"colours": 3}, TypeError, "colours"),
}


@pytest.mark.parametrize(("options", "kind", "message"), COMING.values(), ids=COMING)
def test_refused_when_they_come(options, kind, message, explain, video):
    stream = explain.stream(**({"frames": video} | options))
    with pytest.raises(kind, match=message):
        next(stream)


def test_a_model_in_training_is_warned_of_where_the_stream_is_read(video):
    with pytest.warns(UserWarning, match="training mode") as caught:
        list(GradCAM(Net(), "body").stream(video, targets=1))
    assert caught[0].filename == __file__
