"""resize against the float64 oracle, torch's interpolate and OpenCV's resize."""

import cv2
import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import fusedcam
import reference
from conftest import DTYPES, LAYOUTS, POSITIVE, assert_close, sliced, to_numpy, to_torch

EXTENT = st.integers(1, 23)
MODES = ["minmax", "max", None]


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    lead=st.lists(st.integers(1, 3), max_size=3),
    grid=st.tuples(EXTENT, EXTENT),
    size=st.one_of(st.integers(1, 50), st.tuples(st.integers(1, 50), st.integers(1, 50))),
    dtype=st.sampled_from(list(DTYPES)),
    layout=st.sampled_from(list(LAYOUTS)),
    tensor=st.booleans(),
    normalize=st.sampled_from(MODES),
    offset=st.sampled_from([0, 3, -100]),
)
def test_random_calls(seed, lead, grid, size, dtype, layout, tensor, normalize, offset):
    values = np.random.default_rng(seed).normal(size=(*lead, *grid)) + offset
    heatmap = LAYOUTS[layout](values.astype(DTYPES[dtype]))
    wrap = to_torch if tensor and layout in POSITIVE else np.asarray
    got = fusedcam.resize(wrap(heatmap), size, normalize=normalize)
    assert isinstance(got, type(wrap(heatmap)))
    side = (size, size) if isinstance(size, int) else size
    assert_close(to_numpy(got), *reference.resize(reference.wide(heatmap), side), normalize)


# Above the threshold for threads: many maps, one map by its rows, a batch of fewer maps than threads.
LARGE = [((40, 61, 67), (80, 50)), ((90, 110), (500, 701)), ((2, 300, 301), (299, 302)), ((700, 333), (33, 77))]


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("normalize", ["minmax", None])
@pytest.mark.parametrize(("shape", "size"), LARGE, ids=str)
def test_threads_share_the_work_and_leave_the_bits(rng, shape, size, normalize):
    heatmap = rng.normal(size=shape).astype(np.float32)
    expected = None
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        out = np.full((*shape[:-2], *size), np.nan, np.float32)
        assert fusedcam.resize(heatmap, size, normalize=normalize, out=out) is out
        if expected is None:
            assert_close(out, *reference.resize(reference.wide(heatmap), size), normalize)
            expected = out
        assert np.array_equal(out, expected), f"{threads} threads"


@pytest.mark.parametrize("size", [(224, 224), (7, 9), (20, 3), (3, 20), (1, 1), (5, 5), (13, 60)], ids=str)
@pytest.mark.parametrize("grid", [(7, 9), (14, 14), (1, 5), (31, 2), (60, 50)], ids=str)
def test_agrees_with_torch_and_opencv(rng, grid, size):
    """torch in float64; OpenCV's coordinates are float32, wrong by up to 1e-7 of the extent."""
    heatmap = rng.normal(size=grid)
    single, double = fusedcam.resize(heatmap.astype(np.float32), size), fusedcam.resize(heatmap, size)
    tensor = torch.from_numpy(heatmap)[None, None]
    theirs = torch.nn.functional.interpolate(tensor, size, mode="bilinear", align_corners=False)
    assert abs(double - theirs[0, 0].numpy()).max() < 1e-12
    assert abs(single - theirs[0, 0].numpy()).max() < 2e-6
    opencv = cv2.resize(heatmap.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    assert abs(single - opencv).max() < 1e-4


def test_its_own_size_is_a_copy(rng, dtype, layout):
    heatmap = layout(rng.normal(size=(2, 5, 7)).astype(dtype))
    got = fusedcam.resize(heatmap, (5, 7))
    assert np.array_equal(got, heatmap.astype(got.dtype))
    assert not np.shares_memory(got, heatmap)


@pytest.mark.parametrize("normalize", ["minmax", "max"])
@pytest.mark.parametrize("eps", [1e-8, 1e-7, 1e-3, 5.0])
@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e-38])
def test_eps(rng, normalize, eps, scale):
    """Added to what is divided by, in cam as well; to the bit what float32 makes of it on the same grid."""
    heatmap = (scale * rng.normal(size=(3, 7, 9))).astype(np.float32)
    got = fusedcam.resize(heatmap, (7, 9), normalize=normalize, eps=eps)
    low = heatmap.min((1, 2), keepdims=True) if normalize == "minmax" else np.float32(0)
    with np.errstate(under="ignore"):
        by = (heatmap.max((1, 2), keepdims=True) - low) + np.float32(eps)
        assert np.array_equal(got, (heatmap - low) / by)
    large = fusedcam.resize(heatmap, (40, 33), normalize=normalize, eps=eps)
    expected = reference.normalize(reference.bilinear(reference.wide(heatmap), (40, 33)), normalize, eps)
    assert abs(large - expected).max() < 1e-6 * max(1, abs(expected).max())
    a, g = rng.normal(size=(2, 2, 3, 7, 9)).astype(np.float32)
    raw = fusedcam.cam(a, g, normalize=None)
    assert np.array_equal(
        fusedcam.cam(a, g, size=(40, 33), normalize=normalize, eps=eps),
        fusedcam.resize(raw, (40, 33), normalize=normalize, eps=eps),
    )


def test_eps_refused(rng):
    heatmap = rng.normal(size=(3, 7, 9))
    for call, name in (
        (lambda eps: fusedcam.resize(heatmap, 5, eps=eps), "resize"),
        (lambda eps: fusedcam.cam(heatmap, heatmap, eps=eps), "cam"),
    ):
        for eps in (-1, np.nan, np.inf, 1e39):
            with pytest.raises(ValueError, match=f"{name}: eps is .*; accepted is a finite number of at least 0"):
                call(eps)
        for eps in ("1", True, None, 1j):
            with pytest.raises(TypeError, match=f"{name}: eps is .*; accepted is a number"):
                call(eps)


@pytest.mark.parametrize("normalize", MODES)
@pytest.mark.parametrize("size", [(5, 6), (17, 13), (3, 2), (5, 12), (10, 6)], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(rng, dtype, bad, size, normalize):
    """They stay in the samples that read them, and in their map."""
    heatmap = rng.normal(size=(3, 2, 5, 6)).astype(dtype)
    clean = fusedcam.resize(heatmap, size, normalize=normalize)
    y, x = rng.integers((5, 6))
    heatmap[1, 0, y, x] = bad
    got = fusedcam.resize(heatmap, size, normalize=normalize)
    assert_close(got, *reference.resize(reference.wide(heatmap), size), normalize)
    if np.isnan(bad) and size >= (5, 6):  # when shrinking, no sample may read it
        assert np.isnan(got[1, 0]).any()
        assert np.isnan(got[1, 0]).all() == (normalize is not None)
    got[1, 0] = clean[1, 0]
    assert np.array_equal(got, clean)


def test_a_weight_of_0_leaves_the_neighbour_out():
    """Each of the first two samples lies on a pixel beside an infinity or NaN."""
    heatmap = np.array([[1, np.inf, 2, np.nan, 3]], np.float32)
    got = fusedcam.resize(heatmap, (3, 5))
    assert np.array_equal(got, np.repeat(heatmap, 3, 0), equal_nan=True)
    third = fusedcam.resize(np.array([[9, 1, np.nan, np.inf, 2, 8]], np.float32), (1, 2))
    assert third.tolist() == [[1, 2]]


@pytest.mark.parametrize("size", [(1, 1), (40, 3), (3, 40), (17, 19)], ids=str)
def test_a_constant_map_stays_constant(rng, dtype, size):
    heatmap = np.full((4, 5), rng.uniform(0.1, 10)).astype(dtype)
    got = fusedcam.resize(heatmap, size)
    assert (got == heatmap[0, 0].astype(got.dtype)).all()
    assert not fusedcam.resize(heatmap, size, normalize="minmax").any()
    assert (fusedcam.resize(heatmap, size, normalize="max") == 1).all()
    assert not fusedcam.resize(-heatmap, size, normalize="max").any()


def test_extremes_are_exactly_0_and_1(rng):
    """Of the samples that are returned, however far they are from the small map's."""
    for _ in range(300):
        heatmap = (10 + 10.0 ** rng.integers(-5, 3) * rng.normal(size=rng.integers(2, 30, 2))).astype(np.float32)
        size = tuple(rng.integers(1, 80, 2))
        raw, got = fusedcam.resize(heatmap, size), fusedcam.resize(heatmap, size, normalize="minmax")
        low, high = raw.min(), raw.max()
        if low == high:
            assert not got.any()
            continue
        assert got.min() == 0
        assert got.max() == 1
        exact = (raw - low).astype(np.float64) / float(high - low)
        # The extremes are looked for at the cells' edges; a sample between may exceed them by a rounding.
        rounding = np.spacing(abs(raw).max()) / float(high - low)
        assert (np.abs(got - exact) <= 2**-22 * exact + 2 * rounding).all()
        peak = fusedcam.resize(heatmap, size, normalize="max")
        exact = raw.astype(np.float64) / float(high) if high > 0 else 0 * raw
        assert (np.abs(peak - exact) <= 2**-22 * np.abs(exact)).all()
        assert peak.max() == (high > 0)
        for ordered in (got, peak):  # larger scores never become smaller values
            assert (np.diff(ordered.ravel()[np.argsort(raw, axis=None)]) >= 0).all()


def test_ranges_near_the_ends_of_the_exponents(rng):
    """Where a range has no reciprocal that is a normal number."""
    for size in (1e-45, 1e-40, 1e-38, 1e-30, 1e30, 3e38):
        heatmap = rng.uniform(size=(9, 11)).astype(np.float32)
        heatmap[0, :2] = 0, 1
        heatmap *= np.float32(size)
        for mode in ("minmax", "max"):
            got = fusedcam.resize(heatmap, (9, 11), normalize=mode)
            assert got.min() == 0
            assert got.max() == 1
            np.testing.assert_allclose(got, heatmap.astype(np.float64) / float(heatmap.max()), rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("normalize", MODES)
def test_out_is_written_in_full_and_nothing_beside_it(rng, dtype, normalize):
    heatmap = rng.normal(size=(3, 4, 5)).astype(dtype)
    expected = fusedcam.resize(heatmap, (9, 7), normalize=normalize)
    out = sliced(np.full(expected.shape, 7, expected.dtype))
    poison = np.isnan(out.base)
    assert fusedcam.resize(heatmap, (9, 7), normalize=normalize, out=out) is out
    assert np.array_equal(out, expected)
    assert np.array_equal(np.isnan(out.base), poison)


def test_an_empty_batch():
    assert fusedcam.resize(np.empty((2, 0, 3, 4), np.float32), 6, normalize="minmax").shape == (2, 0, 6, 6)
