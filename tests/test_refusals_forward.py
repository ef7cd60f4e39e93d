"""Refusals of fusedcam.forward and of the classes that run a model on masked images: the whole message of each."""

import numpy as np
import pytest
import torch

from capture_models import Net, unchanged
from fusedcam.forward import iscam_weights, scorecam_weights, sscam_weights
from fusedcam.torch import ISCAM, SSCAM, AblationCAM, ScoreCAM


@pytest.fixture
def images(rng):
    return rng.normal(size=(2, 3, 13, 11))


@pytest.fixture
def activations(rng):
    return rng.normal(size=(2, 7, 4, 5))


@pytest.fixture
def net():
    return Net().double().eval()


@pytest.fixture
def x():
    return torch.randn(3, 3, 21, 18, dtype=torch.float64)


REFUSED = {
    "scores no callable": (
        lambda x, a: scorecam_weights(3, x, a),
        TypeError,
        "scores is of type int; accepted is a callable",
    ),
    "images a list": (lambda x, a: scorecam_weights(sum, [1], a), TypeError, "images is a list; accepted is an array"),
    "one image": (
        lambda x, a: scorecam_weights(sum, x[0], a),
        ValueError,
        r"images have shape \(3, 13, 11\); accepted is \[N, C, H, W\]",
    ),
    "bytes": (
        lambda x, a: scorecam_weights(sum, x.astype("u1"), a),
        TypeError,
        "dtype of images is uint8; accepted are floats",
    ),
    "other N": (
        lambda x, a: scorecam_weights(sum, x[:1], a),
        ValueError,
        "images are 1 but activations are of 2; both are of N images",
    ),
    "no channels": (
        lambda x, a: scorecam_weights(sum, x, a[:, :0]),
        ValueError,
        r"activations have shape \(2, 0, 4, 5\); C, H and W must be at least 1",
    ),
    "batch_size 0": (
        lambda x, a: scorecam_weights(sum, x, a, batch_size=0),
        ValueError,
        "batch_size is 0; accepted is an int of at least 1, or None",
    ),
    "batch_size 1.5": (
        lambda x, a: scorecam_weights(sum, x, a, batch_size=1.5),
        TypeError,
        "batch_size is 1.5; accepted is",
    ),
    "top_channels True": (
        lambda x, a: scorecam_weights(sum, x, a, top_channels=True),
        TypeError,
        "top_channels is True; accepted is",
    ),
    "progress": (
        lambda x, a: scorecam_weights(sum, x, a, progress="rich"),
        TypeError,
        "progress is 'rich'; accepted is True, False, or a callable",
    ),
    "scores of another count": (
        lambda x, a: scorecam_weights(lambda b: np.ones(3), x, a),
        ValueError,
        r"scores returned shape \(3,\); accepted is \[B\] or \[B, K\] with B = 7",
    ),
    "a score": (
        lambda x, a: scorecam_weights(lambda b: 1.0, x, a),
        ValueError,
        r"scores returned shape \(\); accepted",
    ),
    "no classes": (
        lambda x, a: scorecam_weights(lambda b: np.ones((len(b), 0)), x, a),
        ValueError,
        r"scores returned shape \(7, 0\)",
    ),
    "complex scores": (
        lambda x, a: scorecam_weights(lambda b: np.ones(len(b), complex), x, a),
        TypeError,
        "scores returned dtype complex128; accepted are real numbers",
    ),
    "baseline": (
        lambda x, a: scorecam_weights(lambda b: np.ones(len(b)), x, a, softmax=False, baseline=np.ones(4)),
        ValueError,
        r"baseline has shape \(4,\); accepted is a number or an image for images \(2, 3, 13, 11\)",
    ),
    "baseline a string": (
        lambda x, a: scorecam_weights(lambda b: np.ones(len(b)), x, a, softmax=False, baseline="0"),
        TypeError,
        "dtype of baseline is <U1; accepted are real numbers",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(images, activations, call, kind, message):
    with pytest.raises(kind, match=f"^scorecam_weights: {message}"):
        call(images, activations)


def test_refused_samples_and_noise(images, activations):
    for options, kind, message in (
        ({"samples": 0}, ValueError, "samples is 0; accepted is an int of at least 1"),
        ({"samples": "3"}, TypeError, "samples is '3'; accepted is an int of at least 1"),
        ({"std": -1}, ValueError, "std is -1; accepted is a finite number of at least 0"),
        ({"std": np.nan}, ValueError, "std is nan; accepted"),
        ({"std": "2"}, TypeError, "std is '2'; accepted is a number"),
        ({"noise": "both"}, ValueError, "noise is 'both'; accepted: 'mask', 'image'"),
        ({"seed": None}, TypeError, "seed is None; accepted is an int"),
        ({"seed": -1}, ValueError, "seed is -1; accepted is an int from 0"),
    ):
        with pytest.raises(kind, match=f"^sscam_weights: {message}"):
            sscam_weights(sum, images, activations, **options)
    with pytest.raises(ValueError, match=r"^iscam_weights: samples is 0"):
        iscam_weights(sum, images, activations, samples=0)


OPTIONS = {
    "batch_size": ({"batch_size": 0}, ValueError, "batch_size is 0; accepted is an int of at least 1, or None"),
    "top_channels": (
        {"top_channels": 2.5},
        TypeError,
        "top_channels is 2.5; accepted is an int of at least 1, or None",
    ),
    "progress": ({"progress": 1}, TypeError, "progress is 1; accepted is True, False, or a callable"),
    "softmax": ({"softmax": None}, TypeError, "softmax is None; accepted is True or False"),
    "baseline": ({"baseline": "0"}, TypeError, "baseline is of type str; accepted is a number or a tensor"),
    "samples": ({"samples": 0}, ValueError, "samples is 0; accepted is an int of at least 1"),
    "std": ({"std": -1.0}, ValueError, "std is -1.0; accepted is a finite number of at least 0"),
    "noise": ({"noise": "map"}, ValueError, "noise is 'map'; accepted: 'mask', 'image'"),
    "seed": ({"seed": 1.0}, TypeError, "seed is 1.0; accepted is an int"),
    "call": ({"call": 2}, ValueError, "call is 2, which needs a target_layer"),
}


@pytest.mark.parametrize(("options", "kind", "message"), OPTIONS.values(), ids=OPTIONS)
def test_options_refused(net, options, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        SSCAM(net, **options)


def test_calls_refused(net, x):
    for call, kind, message in (
        (
            lambda: ScoreCAM(net)(x.long()),
            ValueError,
            r"x is torch.int64 of shape \(3, 3, 21, 18\); Score-CAM masks images",
        ),
        (lambda: ScoreCAM(net)(x[0]), ValueError, r"x is torch.float64 of shape \(3, 21, 18\); Score-CAM masks images"),
        (lambda: ScoreCAM(net)(x, targets=[1]), ValueError, "targets: 1 came for 3 images"),
        (lambda: ScoreCAM(net)(x, targets=9), ValueError, "targets: class 9 is out of range"),
        (lambda: ScoreCAM(net)(x, targets="cat"), TypeError, "targets: a class is given as 'cat'"),
        (lambda: ScoreCAM(net)(x, size=0), ValueError, "cam: size is"),
        (lambda: ScoreCAM(net, "head")(x), ValueError, r"layer head returned float64 \[3, 5\]; accepted is a map"),
        (lambda: ScoreCAM(net, softmax=False, baseline=torch.rand(5))(x), ValueError, r"baseline has shape \(5,\)"),
        (lambda: ScoreCAM(net, "lost"), ValueError, "target_layer: the model has no module 'lost'"),
        (lambda: ISCAM(net, cumulative=1), TypeError, "cumulative is 1; accepted is True or False"),
    ):
        with unchanged(net), pytest.raises(kind, match=message):
            call()
    with pytest.raises(AttributeError, match="output is there after a call"):
        _ = ScoreCAM(net).output


@pytest.mark.parametrize("kind", [ScoreCAM, SSCAM, ISCAM, AblationCAM])
def test_one_layer_alone(kind):
    """Refused when it is made, before any run."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3))
    with pytest.raises(ValueError, match=f"^target_layer has several layers; accepted is one by {kind.__name__}$"):
        kind(model, ["0", "1"])
