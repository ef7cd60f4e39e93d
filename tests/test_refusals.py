"""Refusals of cam: shapes, sizes, options and calls that do not fit, and the whole message of each."""

import re

import numpy as np
import pytest

from fusedcam import METHODS
from refusals import Case, Row, check, table

GRADIENTS = "accepted are gradients of the activations' shape, or with K classes"
WEIGHTS = "[N, C], [N, K, C], or 1 in place of N for rows shared by all images"
RANGE = "height and width must be from 1 to 2**31 - 1"
SIZE = "an int or (height, width)"
f32 = np.float32


def shape(call, message):
    return Row(call, ValueError, f"cam: {message}")


SHAPES = {
    "spatial extents differ": shape(
        lambda x: x.cam(x.a, x.g[..., :4]),
        f"gradients have shape (2, 3, 4, 4) and activations (2, 3, 4, 5); {GRADIENTS} after N",
    ),
    "channels differ": shape(
        lambda x: x.cam(x.a, x.g[:, :2]),
        f"gradients have shape (2, 2, 4, 5) and activations (2, 3, 4, 5); {GRADIENTS} after N",
    ),
    "batches differ": shape(
        lambda x: x.cam(x.a, x.g[:1]),
        f"gradients have shape (1, 3, 4, 5) and activations (2, 3, 4, 5); {GRADIENTS} after N",
    ),
    "K before N": shape(
        lambda x: x.cam(x.a, np.ones((7, 2, 3, 4, 5), f32)),
        f"gradients have shape (7, 2, 3, 4, 5) and activations (2, 3, 4, 5); {GRADIENTS} after N",
    ),
    "gradients of rank 3 for a batch": shape(
        lambda x: x.cam(x.a, x.g[0]),
        f"gradients have shape (3, 4, 5) and activations (2, 3, 4, 5); {GRADIENTS} after N",
    ),
    "unbatched, channels differ": shape(
        lambda x: x.cam(x.a[0], x.g[:, :2]),
        f"gradients have shape (2, 2, 4, 5) and activations (3, 4, 5); {GRADIENTS} in front",
    ),
    "gradients of the other layout": shape(
        lambda x: x.cam(x.a, np.moveaxis(x.g, 1, -1), layout="last"),
        f"gradients have shape (2, 4, 5, 3) and activations (2, 3, 4, 5); {GRADIENTS} after N",
    ),
    "activations of rank 2": shape(
        lambda x: x.cam(x.h, x.h), "activations have shape (4, 5); accepted is [N, C, H, W] or [C, H, W]"
    ),
    "activations of rank 5": shape(
        lambda x: x.cam(x.a[None], x.g[None]),
        "activations have shape (1, 2, 3, 4, 5); accepted is [N, C, H, W] or [C, H, W]",
    ),
    "activations of rank 2, channels last": shape(
        lambda x: x.cam(x.h, x.h, layout="last"),
        "activations have shape (4, 5); accepted is [N, H, W, C] or [H, W, C]",
    ),
    "a scalar": shape(
        lambda x: x.cam(f32(3), f32(3)), "activations have shape (); accepted is [N, C, H, W] or [C, H, W]"
    ),
    "activations of rank 9": shape(
        lambda x: x.cam(x.a[None, None, None, None, None], x.g),
        "activations has 9 dimensions; accepted are at most 8",
    ),
    "no channels": shape(
        lambda x: x.cam(x.a[:, :0], x.g[:, :0]),
        "activations of shape (2, 0, 4, 5) have no channels; C must be at least 1",
    ),
    "no channels, unbatched": shape(
        lambda x: x.cam(x.a[0, :0], x.g[0, :0]),
        "activations of shape (0, 4, 5) have no channels; C must be at least 1",
    ),
    "no height": shape(
        lambda x: x.cam(x.a[:, :, :0], x.g[:, :, :0]),
        "activations of shape (2, 3, 0, 5) have no pixels; height and width must be at least 1",
    ),
    "no width": shape(
        lambda x: x.cam(x.a[..., :0], x.g[..., :0]),
        "activations of shape (2, 3, 4, 0) have no pixels; height and width must be at least 1",
    ),
    "no height, empty batch": shape(
        lambda x: x.cam(x.a[:0, :, :0], x.g[:0, :, :0]),
        "activations of shape (0, 3, 0, 5) have no pixels; height and width must be at least 1",
    ),
    "weights of other channels": shape(
        lambda x: x.cam(x.a, weights=x.h[:2, :4]),
        f"weights have shape (2, 4); for N = 2 images of 3 channels accepted are {WEIGHTS}",
    ),
    "weights of other N": shape(
        lambda x: x.cam(x.a, weights=x.h[:3, :3]),
        f"weights have shape (3, 3); for N = 2 images of 3 channels accepted are {WEIGHTS}",
    ),
    "weights without N": shape(
        lambda x: x.cam(x.a, weights=x.h[0, :3]),
        f"weights have shape (3,); for N = 2 images of 3 channels accepted are {WEIGHTS}",
    ),
    "weights with N, unbatched": shape(
        lambda x: x.cam(x.a[0], weights=x.a[..., 0, :3]),
        "weights have shape (2, 3, 3); for unbatched activations, 3 channels accepted are [C] and [K, C]",
    ),
}


def bad_size(size, kind=ValueError, message=None):
    shown = size if isinstance(size, tuple) else (size, size)
    message = message or f"size is {shown}; {RANGE}"
    return Row(lambda x: x.cam(x.a, x.g, size=size), kind, f"cam: {message}")


def unreadable(size, kind=TypeError, each=""):
    return bad_size(size, kind, f"size is {size!r} ({type(size).__name__}); accepted is {SIZE}{each}")


SIZES = {
    **{f"size {size}": bad_size(size) for size in (0, -1, (4, 0), (0, 5), (-3, 4), 2**31, (1, 2**31), -(2**63))},
    **{f"size {size}": unreadable(size, ValueError, ", each from 1 to 2**31 - 1") for size in (2**63, 10**30)},
    **{f"size {size!r}": unreadable(size, ValueError) for size in ((), (4,), (4, 5, 6), [], [1, 2, 3])},
    **{f"size {size!r}": unreadable(size) for size in (4.0, (4.0, 4), [4, None], True, (4, False), "7", b"ab", {7})},
}


def option(name, value, kind, accepted):
    message = f"cam: {name} is {value!r} ({type(value).__name__}); accepted is {accepted}"
    return Row(lambda x: x.cam(x.a, x.g, **{name: value}), kind, message)


OPTIONS = {
    "method unknown": Row(
        lambda x: x.cam(x.a, x.g, method="guidedcam"),
        ValueError,
        "cam: method is 'guidedcam'; accepted: " + ", ".join(map(repr, METHODS)),
    ),
    "method with weights": Row(
        lambda x: x.cam(x.a, weights=x.g[..., 0, 0], method="layercam"),
        ValueError,
        "cam: method is 'layercam'; weights are the channels' own, accepted with 'gradcam' alone",
    ),
    "weight_eps where nothing is divided": Row(
        lambda x: x.cam(x.a, x.g, weight_eps=1e-7),
        ValueError,
        "cam: weight_eps is 1e-07, but 'gradcam' divides by nothing; accepted with 'gradcam++', 'smoothgradcam++', "
        "'xgradcam'",
    ),
    **{
        f"weight_eps {eps}": Row(
            lambda x, eps=eps: x.cam(x.a, x.g, method="xgradcam", weight_eps=eps),
            ValueError,
            f"cam: weight_eps is {eps:g}; accepted is a finite number of at least 0",
        )
        for eps in (-1.0, np.nan, np.inf)
    },
    "weight_eps None": option("weight_eps", None, TypeError, "a number"),
    "method None": option("method", None, TypeError, "a string"),
    "method bytes": option("method", b"gradcam", TypeError, "a string"),
    "method with a lone surrogate": option("method", "\ud800", TypeError, "a string"),
    "relu 1": option("relu", 1, TypeError, "True or False"),
    "relu None": option("relu", None, TypeError, "True or False"),
    "normalize unknown": option("normalize", "minmx", ValueError, "'minmax', 'max' or None"),
    "normalize True": option("normalize", True, TypeError, "'minmax', 'max' or None"),
    "nan unknown": option("nan", "ignore", ValueError, "'propagate', 'zero', 'raise'"),
    "nan None": option("nan", None, TypeError, "a string"),
    "layout unknown": option("layout", "NCHW", ValueError, "'first', 'last'"),
    "layout None": option("layout", None, TypeError, "a string"),
    "spatial 2.0": option("spatial", 2.0, TypeError, "an int"),
    "spatial True": option("spatial", True, TypeError, "an int"),
    "spatial 2**70": option("spatial", 2**70, ValueError, "a smaller int"),
    "spatial 4": shape(
        lambda x: x.cam(x.a, x.g, spatial=4),
        "spatial is 4; accepted is 1 for signals [N, C, L], 2 for images and 3 for volumes [N, C, D, H, W]",
    ),
    "a long value with wide characters": Row(
        lambda x: x.cam(x.a, x.g, size="a" + "é" * 100),
        TypeError,
        f"cam: size is 'a{'é' * 37}... (str); accepted is {SIZE}",
    ),
}


CALLS = {
    "both gradients and weights": Row(
        lambda x: x.cam(x.a, x.g, weights=x.h[:2, :3]),
        TypeError,
        "cam: both gradients and weights were given; pass exactly one of them",
    ),
    "neither gradients nor weights": Row(
        lambda x: x.cam(x.a),
        TypeError,
        "cam: neither gradients nor weights were given; pass exactly one of them",
    ),
    "both None": Row(
        lambda x: x.cam(x.a, None, weights=None),
        TypeError,
        "cam: neither gradients nor weights were given; pass exactly one of them",
    ),
    "unknown keyword": Row(
        lambda x: x.cam(x.a, x.g, sizes=3),
        TypeError,
        "cam() got an unexpected keyword argument 'sizes' (str)",
    ),
    "too many positional": Row(
        lambda x: x.cam(x.a, x.g, None),
        TypeError,
        "cam() takes at most 2 positional arguments, 3 were given; pass the others by name",
    ),
    "given twice": Row(lambda x: x.cam(x.a, x.g, gradients=x.g), TypeError, "cam() got gradients twice"),
    "nothing": Row(lambda x: x.cam(), TypeError, "cam() misses the argument activations"),
    "no activations": Row(lambda x: x.cam(gradients=x.g), TypeError, "cam() misses the argument activations"),
}


@table(SHAPES | SIZES | OPTIONS | CALLS)
def test_refused(row):
    check(row, Case())


@pytest.mark.parametrize("size", [2**31 - 1, (2**31 - 1, 1_000_000), 10**6])
def test_more_elements_than_memory(size):
    height, width = size if isinstance(size, tuple) else (size, size)
    message = re.compile(
        rf"cam: a result of shape \(2, {height}, {width}\) takes [\d.e+]+ GB, working memory included, "
        r"more than this machine's [\d.e+]+ GB of memory; pass a smaller size or fewer maps at once"
    )
    check(Row(lambda x: x.cam(x.a, x.g, size=size), ValueError, message), Case())


@pytest.mark.parametrize("argument", ["a", "g"])
@pytest.mark.parametrize("normalize", ["minmax", "max", None])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_raise(argument, normalize, value):
    def call(x):
        array = getattr(x, argument).copy()
        array[1, 2, 3, 4] = value
        arrays = {"a": x.a, "g": x.g} | {argument: array}
        x.cam(arrays["a"], arrays["g"], nan="raise", normalize=normalize, relu=False)

    message = "cam: nan='raise' and the class activation maps hold NaN or infinity; nothing was returned"
    check(Row(call, ValueError, message), Case())
