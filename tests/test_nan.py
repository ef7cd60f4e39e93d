"""NaN and infinity stay in their image, spread as the formulas say, and nan="zero" and "raise" see them."""

import numpy as np
import pytest

import fusedcam
import reference
from cases import MOMENTS
from conftest import assert_close

BAD = [np.nan, np.inf, -np.inf]


@pytest.fixture
def arrays(rng, dtype):
    """Activations [4, 9, 5, 6] and gradients [4, 2, 9, 5, 6]."""
    return rng.normal(size=(4, 9, 5, 6)).astype(dtype), rng.normal(size=(4, 2, 9, 5, 6)).astype(dtype)


@pytest.mark.parametrize("relu", [True, False], ids=["relu", "no-relu"])
@pytest.mark.parametrize("normalize", [None, "minmax", "max"])
@pytest.mark.parametrize("size", [None, (13, 11), (3, 4)], ids=str)
@pytest.mark.parametrize("bad", BAD)
def test_one_bad_activation(arrays, bad, size, normalize, relu):
    """Raw scores: in its pixel, and where the resampling reads it. Normalised: what the formula gives."""
    A, G = arrays
    clean = fusedcam.cam(A, G, size=size, normalize=normalize, relu=relu)
    A[1, 3, 2, 4] = bad
    for nan in ("propagate", "zero"):
        got = fusedcam.cam(A, G, size=size, normalize=normalize, relu=relu, nan=nan)
        raw, magnitude = reference.cam(*map(reference.wide, (A, G)), size=size, relu=relu, nan=nan)
        assert_close(got, raw, magnitude, normalize)
        assert np.array_equal(got[[0, 2, 3]], clean[[0, 2, 3]])
        if nan == "zero":
            assert np.isfinite(got).all()
        elif np.isnan(bad):
            assert np.isnan(got[1]).all() == (normalize is not None)
            assert np.isnan(got[1]).any()


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_gradient(arrays, bad):
    """It is in the channel's mean and so in every pixel of that class, and of that class alone."""
    A, G = arrays
    clean = fusedcam.cam(A, G, relu=False, normalize=None)
    G[2, 1, 8, 4, 5] = bad
    got = fusedcam.cam(A, G, relu=False, normalize=None)
    assert not np.isfinite(got[2, 1]).any()
    got[2, 1] = clean[2, 1]
    assert np.array_equal(got, clean)
    zeroed = fusedcam.cam(A, G, relu=False, normalize=None, nan="zero")
    assert not zeroed[2, 1].any()


@pytest.mark.parametrize("method", fusedcam.METHODS)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", ["activations", "gradients"])
def test_a_bad_number_stays_in_its_map_and_nan_shows(arrays, method, bad, where):
    A, G = abs(arrays[0]), arrays[1]

    def cam(**options):
        gradients = np.stack([G, abs(G), abs(G)]) if method in MOMENTS else G
        return fusedcam.cam(A, gradients, method=method, relu=False, normalize=None, **options)

    clean = cam()
    if where == "activations":
        A[1, 3, 2, 4] = bad
        others = [(n, k) for n in (0, 2, 3) for k in (0, 1)]
    else:
        G[1, 1, 3, 2, 4] = bad
        others = [(n, k) for n in range(4) for k in (0, 1) if (n, k) != (1, 1)]
    got = cam()
    for place in others:
        assert np.array_equal(got[place], clean[place])
    if np.isnan(bad):
        assert np.isnan(got[1, 1, 2, 4])
    assert np.isfinite(cam(nan="zero")).all()


def test_zero_acts_before_the_relu_and_the_range():
    A = np.array([[[[np.nan, -2.0, 4.0, np.inf]]]], np.float32)
    ones = np.ones((1, 1), np.float32)
    assert fusedcam.cam(A, weights=ones, nan="zero").tolist() == [[[0, 0, 1, 0]]]
    bare = fusedcam.cam(A, weights=ones, nan="zero", relu=False, normalize=None)
    assert bare.tolist() == [[[0, -2, 4, 0]]]
    bare = fusedcam.cam(A, weights=ones, nan="zero", relu=False, normalize=None, size=(1, 2))
    assert bare.tolist() == [[[-1, 2]]]


@pytest.mark.parametrize("bad", BAD)
def test_raise_refuses_and_leaves_out_untouched(arrays, bad):
    A, G = arrays
    out = np.full((4, 2, 5, 6), -7, np.float64 if A.dtype == np.float64 else np.float32)
    expected = fusedcam.cam(A, G)
    assert fusedcam.cam(A, G, nan="raise", out=out) is out
    assert np.array_equal(out, expected)
    assert np.array_equal(fusedcam.cam(A, G, nan="raise"), expected)
    out[:] = -7
    A[3, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="nan='raise' and the class activation maps hold NaN or infinity"):
        fusedcam.cam(A, G, nan="raise", out=out)
    assert (out == -7).all()


def test_the_last_channels_and_pixels_are_looked_at(rng):
    """NaN at any place of a call large enough for threads and tails."""
    A, G = rng.normal(size=(2, 3, 67, 37, 29)).astype(np.float32)
    for place in [(2, 66, 36, 28), (0, 0, 0, 0), (1, 64, 35, 9), *rng.integers((3, 67, 37, 29), size=(5, 4))]:
        bad = A.copy()
        bad[tuple(place)] = np.nan
        spots = np.argwhere(np.isnan(fusedcam.cam(bad, G, normalize=None)))
        assert spots.tolist() == [[place[0], place[2], place[3]]]
        filled = np.isnan(fusedcam.cam(bad, G, size=(50, 40)))
        assert np.array_equal(filled.all((1, 2)), np.arange(3) == place[0])
        assert np.array_equal(filled.any((1, 2)), np.arange(3) == place[0])
