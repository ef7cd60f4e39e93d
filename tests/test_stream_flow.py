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
from test_stream import drawing, equal, one_by_one

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


@pytest.mark.parametrize(("overlap", "ahead"), [(True, 1), (False, 0)])
def test_nothing_is_read_ahead(overlap, ahead, explain):
    """Of an infinite video, either: one frame, from the second on."""
    read = []

    def frames():
        for i in itertools.count():
            read.append(i)
            yield torch.rand(3, 21, 18)

    stream = explain.stream(frames(), targets=1, overlap=overlap)
    assert not read
    for i in range(6):
        next(stream)
        assert len(read) == i + 1 + (ahead if i else 0)
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
    """From the second on: its drawing waits here until the model runs on the one after it."""
    runs, waited = [threading.Event() for _ in range(7)], []
    count = itertools.count()
    handle = net.stem.register_forward_hook(lambda *_: runs[next(count)].set())
    drawn = itertools.count()

    def picture(x):
        i = next(drawn)
        if 1 <= i <= 4:
            waited.append(runs[i + 1].wait(30))
            assert drawing() == [threading.current_thread()]
        return x

    frames = video if views else [x.clone() for x in video]
    got = list(GradCAM(net, "body").stream(frames, targets=1, picture=picture))
    handle.remove()
    assert waited == [True] * 4
    equal(got, one_by_one(GradCAM(net, "body"), video))


@pytest.mark.parametrize("pairs", [False, True])
def test_a_producer_that_writes_to_one_memory(pairs, explain, video):
    """Each frame is drawn before the next is read."""

    def frames():
        x = torch.empty_like(video[0])
        image = torch.empty_like(video[0]).numpy()
        for one in video:
            x.copy_(one)
            image[:] = one
            yield (x.clone(), image) if pairs else x

    for batch in (1, 4):
        got = list(explain.stream(frames(), targets=1, batch=batch))
        wanted = [
            fusedcam.overlay(x, heat, normalize="minmax")
            for start in range(0, 6, batch)
            for x, heat in zip(
                video[start : start + batch],
                explain(video[start : start + batch], targets=1, size=None, normalize=None),
                strict=True,
            )
        ]
        equal(got, wanted)


def test_a_producer_of_two_buffers(explain, video):
    def frames():
        buffers = torch.empty_like(video[:2])
        for i, one in enumerate(video):
            yield buffers[i % 2].copy_(one)

    equal(explain.stream(frames(), targets=1), one_by_one(explain, video))


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


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    "where", ["frames", "a frame's type", "a frame's shape", "model", "targets", "picture", "drawing"]
)
def test_exceptions(where, batch, net, explain, video):
    """The fifth frame's comes after the first four pictures, and it is the one that was raised."""
    count = itertools.count()

    def fail(*args):
        raise OverflowError("in the middle")

    def frames():
        for i, x in enumerate(video):
            if i == 4 and where == "frames":
                fail()
            wrong = {"a frame's type": "a frame", "a frame's shape": x[0], "drawing": (x, torch.zeros(3, 3, 3, 3))}
            yield wrong.get(where, x) if i == 4 else x

    options = {}
    if where == "targets":
        options["targets_of"] = lambda i: fail() if i == 4 else 1
    elif where == "picture":
        options["picture"] = lambda x: fail() if next(count) == 4 else x
    handle = None
    if where == "model":
        runs = 4 if batch == 1 else 1
        handle = net.stem.register_forward_hook(lambda *_: fail() if next(count) == runs else None)
    kinds = {"a frame's type": TypeError, "a frame's shape": ValueError, "drawing": ValueError}
    got = []
    stream = explain.stream(frames(), batch=batch, **({"targets": 1} | options if where != "targets" else options))
    with pytest.raises(kinds.get(where, OverflowError)):
        collected(stream, got)
    if handle:
        handle.remove()
    assert len(got) == 4
    assert next(stream, None) is None
    assert not drawing()
    wanted = explain(video[:4], targets=1, size=None, normalize=None) if batch == 4 else None
    if batch == 4:
        equal(got, [fusedcam.overlay(x, heat, normalize="minmax") for x, heat in zip(video[:4], wanted, strict=True)])
    else:
        equal(got, one_by_one(explain, video[:4]))


def test_frames_that_wait_for_their_batch_come_before_an_error(explain, video):
    def frames():
        yield from video[:5]
        raise OverflowError

    got = []
    with pytest.raises(OverflowError):
        collected(explain.stream(frames(), targets=1, batch=3), got)
    raw = [*explain(video[:3], targets=1, size=None, normalize=None)]
    raw += explain(video[3:5], targets=1, size=None, normalize=None)
    equal(got, [fusedcam.overlay(x, heat, normalize="minmax") for x, heat in zip(video[:5], raw, strict=True)])


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
