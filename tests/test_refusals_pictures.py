"""Refusals of resize, colorize and overlay: shapes, sizes, colour maps, images and calls that do not fit."""

import re

import numpy as np

from refusals import FLOATS, KINDS, Case, Row, check, table

f32 = np.float32
MINMAX = "accepted is 'minmax', 'max' or None"
SIZE = "accepted is an int or (height, width)"
RANGE = "height and width must be from 1 to 2**31 - 1"
HEATMAP = "accepted is [..., H, W], at least two dimensions"
PIXELS = "have no pixels; height and width must be at least 1"
MEMORY = (
    r"takes [\d.e+]+ GB, working memory included, more than this machine's [\d.e+]+ GB of memory; "
    "pass a smaller size or fewer maps at once"
)
ALIAS = "out shares memory with an input; pass an array of its own"
NAMES = "'jet', 'turbo', 'viridis', 'inferno', 'grey', 'opencv-jet', or a table [256, 3]"
TABLE = "accepted: a name, or a table [256, 3] of integers from 0 to 255 or floats from 0 to 1"


def value(call, message):
    return Row(call, ValueError, message)


def kind(call, message):
    return Row(call, TypeError, message)


RESIZE = {
    "one dimension": value(lambda x: x.resize(x.h[0], 7), f"resize: heatmap has shape (5,); {HEATMAP}"),
    "integers": kind(lambda x: x.resize(x.image, 7), f"resize: dtype of heatmap is uint8; {FLOATS}"),
    "no pixels": value(lambda x: x.resize(x.h[:0], 7), f"resize: heatmap of shape (0, 5) {PIXELS}"),
    "a list": kind(lambda x: x.resize([[1.0]], 7), f"resize: heatmap {KINDS}, not list"),
    "size None": kind(lambda x: x.resize(x.h, None), f"resize: size is None (NoneType); {SIZE}"),
    "size 0": value(lambda x: x.resize(x.h, 0), f"resize: size is (0, 0); {RANGE}"),
    "size -1": value(lambda x: x.resize(x.h, (6, -1)), f"resize: size is (6, -1); {RANGE}"),
    "size 2.5": kind(lambda x: x.resize(x.h, 2.5), f"resize: size is 2.5 (float); {SIZE}"),
    "size missing": kind(lambda x: x.resize(x.h), "resize() misses the argument size"),
    "heatmap missing": kind(lambda x: x.resize(size=7), "resize() misses the argument heatmap"),
    "too many positional": kind(
        lambda x: x.resize(x.h, 7, None),
        "resize() takes at most 2 positional arguments, 3 were given; pass the others by name",
    ),
    "unknown keyword": kind(
        lambda x: x.resize(x.h, 7, relu=True), "resize() got an unexpected keyword argument 'relu' (str)"
    ),
    "normalize": value(lambda x: x.resize(x.h, 7, normalize="x"), f"resize: normalize is 'x' (str); {MINMAX}"),
    "memory": value(
        lambda x: x.resize(np.broadcast_to(x.h, (10**6, 4, 5)), 10**5),
        re.compile(rf"resize: a result of shape \(1000000, 100000, 100000\) {MEMORY}"),
    ),
    "beyond addresses": value(
        lambda x: x.resize(np.broadcast_to(f32(1), (2**30, 2**30)), 7),
        "resize: heatmap of shape (1073741824, 1073741824) takes more than 2**56 bytes",
    ),
    "too wide": value(
        lambda x: x.resize(np.broadcast_to(f32(1), (1, 2**31)), 7),
        "resize: heatmap of shape (1, 2147483648) are too large; height and width must be below 2**31",
    ),
    "out of another shape": value(
        lambda x: x.resize(x.h, 7), "resize: out has shape (6, 7); the result has shape (7, 7)"
    ),
    "out is the heatmap": value(lambda x: x.resize(x.h, (4, 5), out=x.h), f"resize: {ALIAS}"),
    "out overlaps the heatmap": value(lambda x: x.resize(x.big[:4], (4, 7), out=x.big[2:]), f"resize: {ALIAS}"),
    "out of another dtype": kind(
        lambda x: x.resize(x.h.astype("f8"), (6, 7)),
        "resize: dtype of out is float32; the result has dtype float64",
    ),
}


def colours(colormap, error, message):
    return Row(lambda x: x.colorize(x.h, colormap=colormap), error, f"colorize: colormap {message}")


COLORIZE = {
    "a name": colours("hot", ValueError, f"is 'hot'; accepted: {NAMES}"),
    "None": colours(None, TypeError, f"is a NoneType of dtype object; {TABLE}"),
    "bool": colours(np.ones((256, 3), bool), TypeError, f"is a ndarray of dtype bool; {TABLE}"),
    "complex": colours(np.ones((256, 3), "c8"), TypeError, f"is a ndarray of dtype complex64; {TABLE}"),
    "ragged": colours([[1, 2], [3]], TypeError, "is a list; accepted: a name or a table [256, 3]"),
    "four columns": colours(
        np.zeros((256, 4)), ValueError, "has shape (256, 4); accepted is a table of shape (256, 3)"
    ),
    "255 rows": colours(
        np.zeros((255, 3), "u1"), ValueError, "has shape (255, 3); accepted is a table of shape (256, 3)"
    ),
    "256": colours(np.full((256, 3), 256), ValueError, "of dtype int64 has values outside 0 to 255"),
    "-1": colours(np.full((256, 3), -1, "i1"), ValueError, "of dtype int8 has values outside 0 to 255"),
    "1.5": colours(np.full((256, 3), 1.5, "f4"), ValueError, "of dtype float32 has values outside 0 to 1"),
    "NaN": colours(np.full((256, 3), np.nan), ValueError, "of dtype float64 has values outside 0 to 1"),
    "heatmap of rank 1": value(lambda x: x.colorize(x.h[0]), f"colorize: heatmap has shape (5,); {HEATMAP}"),
    "heatmap of rank 8": value(
        lambda x: x.colorize(x.h[(None,) * 6]), "colorize: heatmap has 8 dimensions; accepted are at most 7"
    ),
    "integers": kind(lambda x: x.colorize(x.image), f"colorize: dtype of heatmap is uint8; {FLOATS}"),
    "size 0": value(lambda x: x.colorize(x.h, size=(4, 0)), f"colorize: size is (4, 0); {RANGE}"),
    "normalize 1": kind(lambda x: x.colorize(x.h, normalize=1), f"colorize: normalize is 1 (int); {MINMAX}"),
    "memory": value(
        lambda x: x.colorize(x.h, size=10**6),
        re.compile(rf"colorize: a result of shape \(1000000, 1000000, 3\) {MEMORY}"),
    ),
    "out of floats": kind(
        lambda x: x.colorize(x.h, out=x.rgb.astype(f32)),
        "colorize: dtype of out is float32; the result has dtype uint8",
    ),
    "out without colours": value(
        lambda x: x.colorize(x.h, out=x.rgb[..., 0]),
        "colorize: out has shape (4, 5); the result has shape (4, 5, 3)",
    ),
    "out is the heatmap": value(
        lambda x: x.colorize(x.h, out=np.lib.stride_tricks.as_strided(x.h.view("u1"), (4, 5, 3), (20, 4, 1))),
        f"colorize: {ALIAS}",
    ),
    "out is the colour map": value(
        lambda x: x.colorize(x.h[0][None].repeat(256, 0)[:, :1].T, colormap=x.palette, out=x.palette[None]),
        f"colorize: {ALIAS}",
    ),
    "positional colour map": kind(
        lambda x: x.colorize(x.h, "jet"),
        re.compile(r"colorize\(\) takes 1 positional argument but 2 .*were given"),
    ),
    "unknown keyword": kind(
        lambda x: x.colorize(x.h, alpha=1), "colorize() got an unexpected keyword argument 'alpha'"
    ),
}


def image(make, message, error=ValueError):
    return Row(lambda x: x.overlay(make(x), x.h), error, f"overlay: {message}")


def alpha(number):
    return value(lambda x: x.overlay(x.image, x.h, alpha=number), f"overlay: alpha is {number}; accepted is 0 to 1")


def not_a_number(thing):
    shown = f"{thing!r} ({type(thing).__name__})"
    message = f"overlay: alpha is {shown}; accepted is a number"
    return kind(lambda x: x.overlay(x.image, x.h, alpha=thing), message)


ONE = "for a single heatmap accepted are [H, W], [H, W, 1 or 3] and [1 or 3, H, W]"
MANY = "for a batched heatmap accepted are [N, H, W], [N, H, W, 1 or 3] and [N, 1 or 3, H, W]"
PIXEL = "accepted are uint8, float32, float16, bfloat16 and float64"
OVERLAY = {
    **{f"alpha {number}": alpha(number) for number in (1.1, -0.1, np.nan, np.inf, 2)},
    **{f"alpha {thing!r}": not_a_number(thing) for thing in ("x", True, None, 1j)},
    "four colours": image(
        lambda x: np.zeros((8, 10, 4), "u1"), f"image has shape (8, 10, 4) and heatmap (4, 5); {ONE}"
    ),
    "image of rank 1": image(lambda x: x.image[0, :, 0], f"image has shape (10,) and heatmap (4, 5); {ONE}"),
    "batched image": image(lambda x: x.image[None], f"image has shape (1, 8, 10, 3) and heatmap (4, 5); {ONE}"),
    "batches differ": value(
        lambda x: x.overlay(x.image[None], x.a[0]),
        f"overlay: image has shape (1, 8, 10, 3) and heatmap (3, 4, 5); {MANY}",
    ),
    "image of int32": image(lambda x: x.image.astype("i4"), f"dtype of image is int32; {PIXEL}", TypeError),
    "image of bool": image(lambda x: x.image > 9, f"dtype of image is bool; {PIXEL}", TypeError),
    "a nested list": image(lambda x: x.image.tolist(), f"image {KINDS}, not list", TypeError),
    "no pixels": image(lambda x: x.image[:0], f"image of shape (0, 10, 3) {PIXELS}"),
    "heatmap without pixels": value(
        lambda x: x.overlay(x.image, x.h[:, :0]), f"overlay: heatmap of shape (4, 0) {PIXELS}"
    ),
    "heatmap of rank 1": value(lambda x: x.overlay(x.image, x.h[0]), f"overlay: heatmap has shape (5,); {HEATMAP}"),
    "heatmap of rank 4": value(
        lambda x: x.overlay(x.image, x.a),
        "overlay: heatmap has shape (2, 3, 4, 5); accepted is [H, W] or [N, H, W]",
    ),
    "heatmap of integers": kind(lambda x: x.overlay(x.image, x.image), f"overlay: dtype of heatmap is uint8; {FLOATS}"),
    "heatmap None": kind(lambda x: x.overlay(x.image, None), f"overlay: heatmap {KINDS}, not NoneType"),
    "normalize": value(
        lambda x: x.overlay(x.image, x.h, normalize="sum"), f"overlay: normalize is 'sum' (str); {MINMAX}"
    ),
    "colour map": value(
        lambda x: x.overlay(x.image, x.h, colormap="x"), f"overlay: colormap is 'x'; accepted: {NAMES}"
    ),
    "memory": value(
        lambda x: x.overlay(np.broadcast_to(x.image[0, 0, 0], (10**7, 10**7)), x.h),
        re.compile(rf"overlay: a result of shape \(10000000, 10000000, 3\) {MEMORY}"),
    ),
    "out is the image": value(lambda x: x.overlay(x.image, x.h, out=x.image), f"overlay: {ALIAS}"),
    "out is the colour map": value(
        lambda x: x.overlay(x.palette[None] + 1, x.h, colormap=x.palette, out=x.palette[None]),
        f"overlay: {ALIAS}",
    ),
    "out of floats": kind(
        lambda x: x.overlay(x.image, x.h, out=x.image.astype(f32)),
        "overlay: dtype of out is float32; the result has dtype uint8",
    ),
    "heatmap missing": kind(
        lambda x: x.overlay(x.image),
        re.compile(r"overlay\(\) missing 1 required positional argument: 'heatmap'"),
    ),
    "positional colour map": kind(
        lambda x: x.overlay(x.image, x.h, "jet"),
        re.compile(r"overlay\(\) takes 2 positional arguments but 3 .*were given"),
    ),
}


class Pictures(Case):
    def __init__(self):
        super().__init__()
        self.palette = np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(256, 3)


@table(RESIZE)
def test_resize(row):
    check(row, Pictures())


@table(COLORIZE)
def test_colorize(row):
    check(row, Pictures())


@table(OVERLAY)
def test_overlay(row):
    check(row, Pictures())
