"""Signals, volumes and tokens against the oracle: they are maps whose pixels lie otherwise."""

import math

import numpy as np
import pytest
import torch

import fusedcam
import reference
from cases import EPS, MOMENTS, moments_of
from conftest import LAYOUTS, POSITIVE, SAME, assert_close, to_torch

# spatial -> grids and sizes
GRIDS = {
    1: [((1,), None), ((9,), 5), ((50,), (31,)), ((1300,), 77), ((7,), (1000,))],
    2: [((5, 6), (9, 7))],
    3: [((1, 1, 1), 3), ((2, 3, 4), None), ((3, 5, 4), 6), ((4, 3, 7), (9, 2, 11)), ((2, 33, 31), (5, 20, 40))],
}
CASES = [(spatial, *case) for spatial, cases in GRIDS.items() for case in cases]


def flat(array, spatial):
    """[..., (D, H,) W] as [..., 1, pixels], as the oracle takes maps."""
    return array.reshape(*array.shape[: array.ndim - spatial], 1, -1)


def oracle(A, G, method, size, relu=True):
    """Raw maps [N, K, ...] on the grid `size`, and the magnitude sums [N, K, 1, pixels]."""
    spatial = A.ndim - 2
    wide_a, wide_g = reference.wide(A), reference.wide(G)
    raw, magnitude = reference.cam(flat(wide_a, spatial), flat(wide_g, spatial), method, relu=relu)
    return reference.bilinear(raw.reshape(*raw.shape[:2], *A.shape[2:]), size), magnitude


def check(got, raw, magnitude, normalize):
    """As `assert_close`, of maps of any rank."""
    assert got.shape == raw.shape
    rank = raw.ndim - 2
    assert_close(flat(got, rank), flat(raw, rank), magnitude, normalize)


@pytest.mark.parametrize("method", fusedcam.METHODS)
@pytest.mark.parametrize(("spatial", "grid", "size"), CASES, ids=str)
def test_every_rank_and_method(rng, dtype, spatial, grid, size, method):
    N, K, C = 2, 2, int(rng.integers(1, 20))
    A = rng.normal(size=(N, C, *grid))
    A = (abs(A) if method in EPS else A).astype(dtype)
    G = rng.normal(size=(N, K, C, *grid))
    G = (moments_of(rng, G) if method in MOMENTS else G).astype(dtype)
    layout, other = (LAYOUTS[name] for name in rng.choice([*SAME], 2))
    A, G = layout(A), other(G)
    target = grid if size is None else (size,) * spatial if isinstance(size, int) else size
    for normalize in ("minmax", "max", None):
        shape = (N, K, *target)
        out = np.full(shape, np.nan, np.float64 if dtype == np.float64 else np.float32)
        got = fusedcam.cam(A, G, method=method, spatial=spatial, size=size, normalize=normalize, out=out)
        assert got is out
        check(got, *oracle(A, G, method, target), normalize)
    last = np.moveaxis(A, 1, -1), np.moveaxis(G, -spatial - 1, -1)
    options = {"method": method, "spatial": spatial, "size": size, "normalize": None}
    assert np.array_equal(fusedcam.cam(*last, layout="last", **options), got)
    front = (slice(None),) * (method in MOMENTS)
    assert np.array_equal(fusedcam.cam(A[1], G[(*front, 1, 0)], **options), got[1, 0])


def test_the_named_shapes(rng):
    """A volume, a signal, and a vision transformer's tokens with a class token."""
    for shape, options, grid, size in (
        ((1, 64, 16, 56, 56), {"spatial": 3}, (16, 56, 56), None),
        ((8, 128, 1000), {"spatial": 1}, (1000,), 250),
        ((8, 197, 768), {"tokens": (14, 14)}, (14, 14), 224),
    ):
        A = np.maximum(rng.normal(size=shape), 0).astype(np.float32)
        G = (rng.normal(size=shape) * 1e-3).astype(np.float32)
        got = fusedcam.cam(A, G, size=size, **options)
        if "tokens" in options:
            A, G = (np.moveaxis(x[:, 1:].reshape(8, 14, 14, 768), -1, 1) for x in (A, G))
        target = grid if size is None else (size,) * len(grid)
        check(got[:, None], *oracle(A, G[:, None], "gradcam", target), "minmax")


@pytest.mark.parametrize("layout", SAME)
@pytest.mark.parametrize("skipped", [0, 1, 5])
def test_tokens_are_maps_in_place(rng, dtype, layout, skipped):
    N, K, C, grid = 2, 3, 11, (4, 5)
    T = skipped + math.prod(grid)
    A, G = (SAME[layout](rng.normal(size=shape).astype(dtype)) for shape in ((N, T, C), (N, K, T, C)))
    a = np.moveaxis(A[:, skipped:].reshape(N, *grid, C), -1, 1)
    g = np.moveaxis(G[:, :, skipped:].reshape(N, K, *grid, C), -1, 2)
    got = fusedcam.cam(A, G, tokens=grid, size=(9, 8))
    assert np.array_equal(got, fusedcam.cam(np.ascontiguousarray(a), np.ascontiguousarray(g), size=(9, 8)))
    check(got, *oracle(a, g, "gradcam", (9, 8)), "minmax")
    assert np.array_equal(fusedcam.cam(A[1], G[1, 2], tokens=list(grid), size=(9, 8)), got[1, 2])
    weights = fusedcam.cam(A, weights=np.ones((1, C), dtype), tokens=grid, normalize=None)
    assert np.array_equal(
        weights, fusedcam.cam(np.ascontiguousarray(a), weights=np.ones((1, C), dtype), normalize=None)
    )
    if layout in POSITIVE:
        assert np.array_equal(fusedcam.cam(to_torch(A), to_torch(G), tokens=grid, size=(9, 8)).numpy(), got)
    volume = fusedcam.cam(A, G, tokens=(2, 2, 5), spatial=3, normalize=None)
    assert np.array_equal(volume.reshape(N, K, *grid), fusedcam.cam(A, G, tokens=grid, normalize=None))


def test_swin_outputs_have_the_channels_last(rng):
    A, G = (rng.normal(size=(2, 7, 7, 96)).astype(np.float32) for _ in range(2))
    tokens = fusedcam.cam(A.reshape(2, 49, 96), G.reshape(2, 49, 96), tokens=(7, 7), size=32)
    assert np.array_equal(fusedcam.cam(A, G, layout="last", size=32), tokens)


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize(("N", "K"), [(1, 1), (1, 5), (3, 2)])
def test_volumes_on_any_number_of_threads(rng, N, K):
    A = rng.normal(size=(N, 40, 5, 21, 23)).astype(np.float32)
    G = rng.normal(size=(N, K, 40, 5, 21, 23)).astype(np.float32)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(fusedcam.cam(A, G, spatial=3, size=(9, 50, 60)))
    assert all(np.array_equal(result, results[0]) for result in results)
    check(results[0], *oracle(A, G, "gradcam", (9, 50, 60)), "minmax")


@pytest.mark.parametrize("normalize", ["minmax", "max", None])
@pytest.mark.parametrize(("spatial", "grid", "size"), CASES, ids=str)
def test_resize(rng, dtype, layout, spatial, grid, size, normalize):
    maps = layout(rng.normal(size=(2, 3, *grid)).astype(dtype))
    target = grid if size is None else (size,) * spatial if isinstance(size, int) else size
    out = np.full((2, 3, *target), np.nan, np.float64 if dtype == np.float64 else np.float32)
    got = fusedcam.resize(maps, target, normalize=normalize, out=out)
    wide = reference.wide(maps)
    check(got, reference.bilinear(wide, target), flat(abs(wide), spatial), normalize)
    one = np.ones((1, 1), dtype)
    by_cam = fusedcam.cam(
        maps.reshape(6, 1, *grid), weights=one, spatial=spatial, size=target, normalize=normalize, relu=False
    )
    assert np.array_equal(by_cam.reshape(got.shape), got)


def test_volumes_agree_with_torch(rng):
    volume = torch.from_numpy(rng.normal(size=(2, 3, 4, 5, 6)))
    expected = torch.nn.functional.interpolate(volume, (7, 3, 11), mode="trilinear", align_corners=False)
    torch.testing.assert_close(fusedcam.resize(volume, (7, 3, 11)), expected)
    signal = torch.from_numpy(rng.normal(size=(2, 3, 40)))
    expected = torch.nn.functional.interpolate(signal, 17, mode="linear", align_corners=False)
    torch.testing.assert_close(fusedcam.resize(signal, (17,)), expected)


def test_extremes_of_volumes_are_exactly_0_and_1(rng):
    for _ in range(40):
        grid, size = rng.integers(1, 8, 3), tuple(map(int, rng.integers(1, 15, 3)))
        heat = fusedcam.resize(rng.normal(size=(3, *grid)).astype(np.float32), size, normalize="minmax")
        for one in heat:
            assert one.min() == 0
            assert one.max() == (1 if one.any() else 0)


def test_one_bad_voxel_stays_in_its_volume(rng):
    A, G = rng.normal(size=(2, 3, 7, 3, 4, 5)).astype(np.float32)
    clean = fusedcam.cam(A, G, spatial=3, size=(5, 6, 9))
    A[1, 2, 1, 3, 0] = np.nan
    got = fusedcam.cam(A, G, spatial=3, size=(5, 6, 9))
    assert np.isnan(got[1]).all()
    assert np.array_equal(got[[0, 2]], clean[[0, 2]])
    raw = fusedcam.cam(A, G, spatial=3, normalize=None)
    assert np.argwhere(np.isnan(raw)).tolist() == [[1, 1, 3, 0]]


a3, a4, a5 = (np.ones(shape, np.float32) for shape in ((2, 6, 3), (2, 3, 4, 5), (2, 3, 4, 5, 6)))
REFUSED = {
    "spatial 0": (lambda: fusedcam.cam(a4, a4, spatial=0), ValueError, "spatial is 0; accepted is 1 for signals"),
    "spatial 4": (lambda: fusedcam.cam(a4, a4, spatial=4), ValueError, "spatial is 4; accepted is 1 for signals"),
    "rank for spatial 3": (
        lambda: fusedcam.cam(a3, a3, spatial=3),
        ValueError,
        r"activations have shape \(2, 6, 3\); accepted is \[N, C, D, H, W\] or \[C, D, H, W\]",
    ),
    "rank for spatial 1": (
        lambda: fusedcam.cam(a5, a5, spatial=1, layout="last"),
        ValueError,
        r"accepted is \[N, L, C\] or \[L, C\]",
    ),
    "size of two for spatial 3": (
        lambda: fusedcam.cam(a5, a5, spatial=3, size=(4, 5)),
        ValueError,
        r"size is \(4, 5\) \(tuple\); accepted is an int or \(depth, height, width\)",
    ),
    "size of two for spatial 1": (
        lambda: fusedcam.cam(a3, a3, spatial=1, size=[4, 5]),
        ValueError,
        r"size is \[4, 5\] \(list\); accepted is an int or \(length,\)",
    ),
    "depth 0": (
        lambda: fusedcam.cam(a5, a5, spatial=3, size=(0, 5, 5)),
        ValueError,
        r"size is \(0, 5, 5\); depth, height and width must be from 1",
    ),
    "length 0": (lambda: fusedcam.resize(a3, (0,)), ValueError, r"size is \(0,\); its length must be from 1"),
    "too many tokens": (
        lambda: fusedcam.cam(a3, a3, tokens=(2, 4)),
        ValueError,
        r"tokens is \(2, 4\), a grid of 8, but activations of shape \(2, 6, 3\) have 6; accepted are at most as many",
    ),
    "no tokens": (lambda: fusedcam.cam(a3, a3, tokens=(0, 4)), ValueError, r"tokens is \(0, 4\); each extent must"),
    "tokens of another rank": (
        lambda: fusedcam.cam(a3, a3, tokens=(2, 3, 1)),
        ValueError,
        r"tokens is \(2, 3, 1\); accepted is a grid of 2 extents, as spatial says",
    ),
    "tokens an int": (lambda: fusedcam.cam(a3, a3, tokens=6), TypeError, r"tokens is 6 \(int\); accepted is \(height"),
    "tokens of floats": (lambda: fusedcam.cam(a3, a3, tokens=(2.0, 3)), TypeError, "tokens"),
    "tokens and layout": (
        lambda: fusedcam.cam(a3, a3, tokens=(2, 3), layout="last"),
        ValueError,
        "layout is given with tokens",
    ),
    "tokens of maps": (
        lambda: fusedcam.cam(a4, a4, tokens=(2, 3)),
        ValueError,
        r"accepted is \[N, T, C\] or \[T, C\]",
    ),
    "other tokens in the gradients": (
        lambda: fusedcam.cam(a3, a3[:, 1:], tokens=(2, 2)),
        ValueError,
        "gradients have shape",
    ),
    "resize of a signal of all axes": (
        lambda: fusedcam.resize(np.ones((1,) * 7 + (4,), np.float32), (2,)),
        ValueError,
        "heatmap has 8 dimensions; accepted are at most 7 for a size of one extent",
    ),
    "resize of too few axes": (
        lambda: fusedcam.resize(a3[0], (2, 2, 2)),
        ValueError,
        r"heatmap has shape \(6, 3\); accepted is \[..., D, H, W\]",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
