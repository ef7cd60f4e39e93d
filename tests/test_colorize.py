"""colorize, to the last bit: rounding, the tables of matplotlib and OpenCV, tables of one's own, NaN, layouts."""

import cv2
import hypothesis
import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import fusedcam
import reference
from conftest import DTYPES, LAYOUTS, POSITIVE, SAME, to_numpy, to_torch

LEVELS = np.arange(256, dtype=np.uint8)
MATPLOTLIB = {"jet": "jet", "turbo": "turbo", "viridis": "viridis", "inferno": "inferno", "grey": "gray"}
GREY = LEVELS[:, None].repeat(3, 1)


def ramp(dtype) -> np.ndarray:
    """Every level, and its neighbours on either side of the point where it is rounded to the next, [1, n]."""
    halves = ((np.arange(255) + 0.5) / 255).astype(dtype)
    beside = [halves, np.nextafter(halves, dtype(0)), np.nextafter(halves, dtype(1))]
    return np.concatenate([(LEVELS / 255).astype(dtype), *beside, np.array([-1, 2, -0.0], dtype)])[None]


@pytest.mark.parametrize(("name", "theirs"), MATPLOTLIB.items())
def test_matplotlibs_tables(name, theirs):
    expected = matplotlib.colormaps[theirs](LEVELS, bytes=True)[:, :3]
    assert np.array_equal(fusedcam.colorize((LEVELS / 255)[None], colormap=name)[0], expected)


def test_opencvs_jet():
    expected = cv2.applyColorMap(LEVELS[None], cv2.COLORMAP_JET)[0, :, ::-1]
    assert np.array_equal(fusedcam.colorize((LEVELS / 255)[None], colormap="opencv-jet")[0], expected)


def test_jet_is_the_default():
    heat = (LEVELS / 255)[None]
    assert np.array_equal(fusedcam.colorize(heat), fusedcam.colorize(heat, colormap="jet"))


def test_tables_of_ones_own(rng):
    table = rng.integers(256, size=(256, 3), dtype=np.uint8)
    heat = rng.uniform(size=(9, 8)).astype(np.float32)
    expected = reference.colorize(heat.astype(np.float64), table)
    floats = table / 255
    for same in (table, table.astype(np.int64), table.tolist(), floats, floats.astype(np.float32)):
        assert np.array_equal(fusedcam.colorize(heat, colormap=same), expected)
    assert np.array_equal(fusedcam.colorize(heat, colormap=np.asfortranarray(table)), expected)
    fine = np.clip(floats + 0.4 / 255, 0, 1)  # rounded to nearest, not cut off
    assert np.array_equal(fusedcam.colorize(heat, colormap=fine), expected)
    assert np.array_equal(fusedcam.colorize(heat, colormap=np.clip(floats - 0.4 / 255, 0, 1)), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_halves_are_rounded_upwards(dtype):
    heat = ramp(dtype)
    expected = reference.colorize(heat.astype(np.float64), GREY)
    assert np.array_equal(fusedcam.colorize(heat, colormap=GREY), expected)
    # One by one, as the rest of a row that fills no vector is coloured.
    alone = fusedcam.colorize(heat.reshape(-1, 1), colormap=GREY)
    assert np.array_equal(alone, expected.reshape(-1, 1, 3))
    assert fusedcam.colorize(np.array([[0.5]], dtype), colormap=GREY).tolist() == [[[128] * 3]]


def test_every_value_of_half_types(rng):
    for dtype in ("float16", "bfloat16"):
        heat = np.arange(2**16, dtype=np.uint16).view(DTYPES[dtype]).reshape(256, 256)
        with np.errstate(invalid="ignore"):
            exact = heat.astype(np.float64)
        table = rng.integers(256, size=(256, 3), dtype=np.uint8)
        expected = reference.colorize(exact, table)
        assert np.array_equal(fusedcam.colorize(heat, colormap=table), expected)


@hypothesis.settings(max_examples=200)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    size=st.sampled_from([None, 1, 7, (3, 20), (31, 2)]),
    dtype=st.sampled_from(list(DTYPES)),
    layout=st.sampled_from(list(LAYOUTS)),
    tensor=st.booleans(),
    normalize=st.sampled_from(["minmax", "max", None]),
    holes=st.booleans(),
    out=st.sampled_from([None, *POSITIVE[:4]]),
)
def test_random_calls(seed, shape, size, dtype, layout, tensor, normalize, holes, out):
    """The colours of exactly the map that resize returns."""
    rng = np.random.default_rng(seed)
    heat = rng.normal(0.5, 0.5, shape)
    if holes:
        heat[rng.uniform(size=shape) < 0.1] = np.nan
    heat = LAYOUTS[layout](heat.astype(DTYPES[dtype]))
    table = rng.integers(256, size=(256, 3), dtype=np.uint8)
    values = fusedcam.resize(heat, heat.shape[-2:] if size is None else size, normalize=normalize)
    expected = reference.colorize(values.astype(np.float64), table)
    wrap = to_torch if tensor and layout in POSITIVE else np.asarray
    given = {} if out is None else {"out": wrap(SAME[out](np.full(expected.shape, 77, np.uint8)))}
    got = fusedcam.colorize(wrap(heat), colormap=table, size=size, normalize=normalize, **given)
    assert isinstance(got, type(wrap(heat)))
    assert out is None or got is given["out"]
    assert to_numpy(got).dtype == np.uint8
    assert np.array_equal(to_numpy(got), expected)


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize(("shape", "size"), [((30, 70, 60), (90, 80)), ((7, 7), (600, 401)), ((2, 300, 400), None)])
def test_threads_share_the_work(rng, shape, size):
    heat = rng.normal(size=shape).astype(np.float32)
    values = fusedcam.resize(heat, size or shape[-2:], normalize="minmax")
    expected = reference.colorize(values.astype(np.float64), GREY)
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        got = fusedcam.colorize(heat, colormap=GREY, size=size, normalize="minmax")
        assert np.array_equal(got, expected), f"{threads} threads"


def test_nan_is_black_and_infinities_are_clamped():
    heat = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    table = np.full((256, 3), 50, np.uint8)
    table[255] = 200
    assert fusedcam.colorize(heat, colormap=table)[..., 0].tolist() == [[0, 200, 50]]


def test_an_empty_batch():
    assert fusedcam.colorize(np.empty((0, 3, 4), np.float32), size=5).shape == (0, 5, 5, 3)
