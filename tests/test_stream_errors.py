"""What comes before an error: every picture of the frames before it, whatever batch they are in."""

import gc
import itertools
import weakref

import pytest
import torch
from torch import nn

import fusedcam
from capture_models import CLASSES, Net
from fusedcam.torch import GradCAM
from test_stream import close, collected, drawing, equal, one_by_one

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


class Unwilling(nn.Module):
    """Does not take a frame whose first value is 7, nor more than `most` at once."""

    def __init__(self, most=99):
        super().__init__()
        self.net, self.most, self.rows = Net(), most, []

    def forward(self, x):
        self.rows.append(len(x))
        if len(x) > self.most:
            raise MemoryError("too many")
        if wrong := (x[:, 0, 0, 0] == 7).nonzero().flatten().tolist():
            raise OverflowError(f"row {wrong[0]} of {len(x)}")
        return self.net(x)


def failing(where, at, video, batch, whole, **more):
    """A stream whose frame `at` fails there, and the model that it explains."""
    model = Unwilling().eval()
    count = itertools.count()

    def fail(*args):
        raise OverflowError("in the middle")

    def picture(x):
        return fail() if next(count) == at and where == "picture" else x

    frames = video.clone()
    options = {"targets": 1}
    if where == "model":
        frames[at, 0, 0, 0] = 7
        options["picture"] = lambda x: x.clamp(0, 1)
    elif where == "targets":
        options = {"targets_of": lambda i: fail() if i == at else 1}
    elif where == "picture":
        options["picture"] = picture
    pictures = [*frames]
    if where == "drawing":
        pictures[at] = torch.zeros(3, 3, 3, 3)
    elif where == "image":
        pictures[at] = type("Image", (), {"__array__": fail})()
    if where in ("drawing", "image"):
        given = [(x, shown) for x, shown in zip(frames, pictures, strict=True)]
        if whole:
            given = [(frames[i : i + batch], pictures[i : i + batch]) for i in range(0, len(frames), batch)]
    else:
        given = [frames[i : i + batch] for i in range(0, len(frames), batch)] if whole else frames
    return GradCAM(model, "net.body").stream(given, batch=1 if whole else batch, **options, **more), model


@pytest.mark.parametrize("options", [{}, {"overlap": False}, {"copy": False}, {"outputs": True}], ids=str)
@pytest.mark.parametrize("whole", [False, True], ids=["frames", "batches"])
@pytest.mark.parametrize("where", ["model", "targets", "picture", "drawing", "image"])
def test_an_error_inside_a_batch(where, whole, options, video):
    for batch, at in itertools.product((1, 2, 4), range(6)):
        stream, model = failing(where, at, video, batch, whole, **options)
        explain = GradCAM(model, "net.body")
        got = []
        with pytest.raises(OverflowError if where != "drawing" else ValueError):
            collected(((one[0] if options.get("outputs") else one).clone() for one in stream), got)
        assert len(got) == at, (batch, at)
        assert next(stream, None) is None
        assert not drawing()
        wanted = one_by_one(explain, video[:at])
        assert all(close(one, other) for one, other in zip(got, wanted, strict=True))


def test_frames_of_a_batch_that_fails_run_again_one_by_one(video):
    """With the bits of their own calls. The failing frame's own error is the one raised."""
    stream, model = failing("model", 2, video, 4, False)
    got = []
    with pytest.raises(OverflowError, match="row 0 of 1") as caught:
        collected(stream, got)
    assert model.rows == [4, 1, 1, 1]
    assert str(caught.value.__context__) == "row 2 of 4"
    equal(got, one_by_one(GradCAM(model, "net.body"), video[:2]))


def test_an_error_of_the_batch_alone(video):
    """No frame of it fails: it is raised before all of them."""
    model = Unwilling(most=2).eval()
    got = []
    with pytest.raises(MemoryError, match="too many"):
        collected(GradCAM(model, "net.body").stream([video[:2], video[2:]], targets=1), got)
    assert model.rows == [2, 4, 1, 1, 1, 1]
    assert len(got) == 2


def test_the_earlier_of_two_errors(video):
    """The picture of frame 1 fails, then the targets of frame 2."""

    def fail(i):
        raise OverflowError(i)

    stream = GradCAM(Net().eval(), "body").stream(
        video,
        picture=lambda x: fail("picture") if torch.equal(x, video[1]) else x,
        targets_of=lambda i: fail("targets") if i == 2 else 1,
        batch=4,
    )
    got = []
    with pytest.raises(OverflowError, match="picture"):
        collected(stream, got)
    assert len(got) == 1


def test_targets_are_asked_for_once(video):
    """Also where frames run again."""
    asked = []
    stream, model = failing("model", 3, video, 4, False)
    stream = GradCAM(model, "net.body").stream(
        [torch.cat((video[:3], torch.full((1, 3, 21, 18), 7.0)))],
        picture=lambda x: x.clamp(0, 1),
        targets_of=lambda i: asked.append(i) or i % CLASSES,
    )
    got = []
    with pytest.raises(OverflowError):
        collected(stream, got)
    assert asked == [0, 1, 2, 3]
    equal(got, [one_by_one(GradCAM(model, "net.body"), video[i : i + 1], targets=i % CLASSES)[0] for i in range(3)])


class Overwriting(nn.Module):
    """Scales the frames where they lie, and does not take one whose first value is 7."""

    def __init__(self):
        super().__init__()
        self.net, self.rows = Net(), []

    def forward(self, x):
        self.rows.append(len(x))
        failing = bool((x[:, 0, 0, 0] == 7).any())
        x.mul_(2).sub_(1)
        if failing:
            raise OverflowError
        return self.net(x)


@pytest.mark.parametrize("whole", [False, True])
def test_frames_that_a_failing_model_wrote_to_do_not_run_again(whole, video):
    """They are no longer what came: the error is the batch's."""
    model, got = Overwriting().eval(), []
    frames = video.clone()
    frames[5, 0, 0, 0] = 7
    pairs = [(x.clone(), shown) for x, shown in zip(frames, video, strict=True)]
    if whole:
        pairs = [(frames[i : i + 3].clone(), video[i : i + 3]) for i in (0, 3)]
    with pytest.raises(OverflowError):
        collected(GradCAM(model, "net.body").stream(pairs, targets=1, batch=3), got)
    assert model.rows == [3, 3]
    heat = GradCAM(model, "net.body")(frames[:3].clone(), targets=1, size=None, normalize=None)
    equal(got, [fusedcam.overlay(x, one, normalize="minmax") for x, one in zip(video[:3], heat, strict=True)])


def test_an_error_leaves_nothing_behind(video):
    """No cycle of a traceback and a frame of the interpreter holds the video."""
    gc.collect()
    gc.disable()
    try:
        for where in ("model", "targets", "picture", "drawing", "image"):
            stream, model = failing(where, 3, video, 2, False)
            try:  # pytest's own way of catching makes a cycle
                collected(stream, [])
            except (OverflowError, ValueError):
                alive = weakref.ref(model)
            del stream, model
            assert alive() is None, where
    finally:
        gc.enable()
