"""cam against the float64 oracle: random calls, the sizes where its paths change, weights, out, flat maps."""

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import fusedcam
import reference
from cases import CHANNELS, NUMBERS, Case, cases
from conftest import LAYOUTS, SAME, assert_close, expanded, sliced

WIDE = st.one_of(st.sampled_from([1024, 1025, 1280, 2048, 2049]), st.integers(1024, 2100))
OTHERS = st.sampled_from([name for name in fusedcam.METHODS if name != "gradcam"])
STRIDED = st.sampled_from([name for name in LAYOUTS if name != "dense"])
# What the random calls are drawn from, and how many different ones there are at least. Hypothesis repeats
# itself, so twice as many run.
KINDS = {
    "any": (cases(), 200),
    "at least 1024 channels": (cases(channels=WIDE), 80),
    "strided": (cases(layouts=STRIDED), 80),
    "other methods": (cases(methods=OTHERS), 200),
    "other methods, strided": (cases(methods=OTHERS, layouts=STRIDED), 100),
    "cancelling": (
        cases(
            methods=st.just("gradcam"),
            numbers=st.just("cancelling"),
            channels=st.sampled_from([c for c in CHANNELS if c > 9]),
            layouts=st.sampled_from(list(SAME)),
        ),
        80,
    ),
}


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize(("strategy", "count"), KINDS.values(), ids=KINDS)
def test_random_calls(strategy, count):
    ran: set[Case] = set()

    @hypothesis.settings(max_examples=2 * count)
    @hypothesis.given(strategy)
    def check(case: Case) -> None:
        case.check()
        ran.add(case)

    check()
    assert len(ran) >= count


# Above the threshold for threads, on every way of sharing the work: N, K, C, (H, W), size.
SHARED = {
    "images": (5, 1, 64, (28, 28), None),
    "blocks of one image, then its rows": (1, 1, 513, (28, 28), (201, 223)),
    "blocks of one image, then its classes": (1, 7, 259, (14, 14), 40),
    "groups of classes": (2, 30, 9, (71, 69), 17),
    "groups of classes, fewer than threads": (1, 19, 20, (71, 69), None),
    "one channel": (1, 1, 1, (3, 5), (300, 450)),
    "a map of many tiles": (1, 2, 11, (131, 127), (64, 300)),
}


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("numbers", ["typical", "positive"])
@pytest.mark.parametrize(("N", "K", "C", "grid", "size"), SHARED.values(), ids=SHARED)
def test_threads_share_the_work_and_leave_the_bits(rng, N, K, C, grid, size, numbers):
    A, G = (array.astype(np.float32) for array in NUMBERS[numbers](rng, (N, K, C, *grid)))
    side = grid if size is None else (size, size) if isinstance(size, int) else size
    results = {}
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        out = np.full((N, K, *side), np.nan, np.float32)
        results[threads] = fusedcam.cam(A, G, size=size, normalize=None, out=out)
    raw, magnitude = reference.cam(*map(reference.wide, (A, G)), size=side, typical=numbers == "typical")
    assert_close(results[1], raw, magnitude)
    for threads, result in results.items():
        assert np.array_equal(result, results[1]), f"{threads} threads"


@pytest.mark.parametrize("layout", [np.asarray, expanded], ids=["dense", "expanded"])
@pytest.mark.parametrize("value", [0.1, 1 / 3])
def test_constant_gradients_over_many_pixels(rng, layout, value):
    """One chain of 16384 additions would be off by 2.3e-4."""
    A = rng.normal(size=(1, 3, 128, 128)).astype(np.float32)
    G = layout(np.full((1, 1, 3, 128, 128), value, np.float32))
    raw, magnitude = reference.cam(*map(reference.wide, (A, G)), typical=True)
    assert_close(fusedcam.cam(A, G, normalize=None), raw, magnitude)


def test_many_channels_of_one_sign(rng):
    """The error stays that of sixteen short chains: a fifth of what the rule allows."""
    A, G = (array.astype(np.float32) for array in NUMBERS["positive"](rng, (1, 1, 8192, 2, 3)))
    raw, magnitude = reference.cam(*map(reference.wide, (A, G)))
    got = fusedcam.cam(A, G[:, 0], normalize=None)[:, None]
    assert_close(got, raw, magnitude / 5)


def test_weights_are_constant_gradients(rng, dtype):
    N, K, C, H, W = 3, 2, 37, 5, 4
    A = rng.normal(size=(N, C, H, W)).astype(dtype)
    rows = rng.normal(size=(N, K, C)).astype(dtype)
    by_gradients = fusedcam.cam(A, np.broadcast_to(rows[..., None, None], (N, K, C, H, W)), normalize=None)
    assert np.array_equal(fusedcam.cam(A, weights=rows, normalize=None), by_gradients)
    assert np.array_equal(fusedcam.cam(A, weights=rows[:, 0], normalize=None), by_gradients[:, 0])
    assert np.array_equal(fusedcam.cam(A[1], weights=rows[1], normalize=None), by_gradients[1])
    assert np.array_equal(fusedcam.cam(A[1], weights=rows[1, 1], normalize=None), by_gradients[1, 1])


def test_shared_rows_serve_every_image(rng, dtype):
    A = rng.normal(size=(4, 19, 3, 5)).astype(dtype)
    rows = rng.normal(size=(1, 6, 19)).astype(dtype)
    repeated = np.repeat(rows, 4, 0)
    assert np.array_equal(fusedcam.cam(A, weights=rows), fusedcam.cam(A, weights=repeated))
    assert np.array_equal(fusedcam.cam(A, weights=rows[:, 2]), fusedcam.cam(A, weights=repeated)[:, 2])


def test_a_thousand_classes(rng):
    A = np.maximum(rng.normal(size=(2, 65, 7, 7)), 0).astype(np.float32)
    rows = rng.normal(size=(1, 1000, 65)).astype(np.float32)
    raw, magnitude = reference.cam(reference.wide(A), reference.wide(rows)[..., None, None])
    assert_close(fusedcam.cam(A, weights=rows), raw, magnitude, "minmax")


@pytest.mark.parametrize("size", [None, (6, 9)])
def test_out_is_written_in_full_and_nothing_beside_it(rng, size):
    A, G = rng.normal(size=(2, 2, 3, 5, 4)).astype(np.float32)
    expected = fusedcam.cam(A, G, size=size)
    out = sliced(np.full(expected.shape, 7, np.float32))
    whole = out.base
    poison = np.isnan(whole)
    assert fusedcam.cam(A, G, size=size, out=out) is out
    assert np.array_equal(out, expected)
    assert np.array_equal(np.isnan(whole), poison)
    assert poison.sum() == whole.size - out.size


@pytest.mark.parametrize("normalize", ["minmax", "max"])
@pytest.mark.parametrize("size", [None, 7, (1, 50)])
def test_a_map_without_range_is_zeros(rng, dtype, size, normalize):
    A = np.broadcast_to(rng.normal(size=(2, 9, 1, 1)), (2, 9, 4, 5)).astype(dtype)
    weights = -abs(rng.normal(size=(2, 9))).astype(dtype)
    for constant in (A, -abs(A)):  # scores of either sign, then positive ones
        for relu in (True, False):
            got = fusedcam.cam(constant, weights=weights, relu=relu, size=size, normalize=normalize)
            if normalize == "minmax":
                assert not got.any()
    positive = fusedcam.cam(-abs(A), weights=weights, size=size, normalize="max")
    assert (positive == 1).all()


@pytest.mark.parametrize("size", [None, 7])
def test_negative_scores_only(rng, dtype, size):
    A = (1 + abs(rng.normal(size=(2, 9, 4, 5)))).astype(dtype)
    G = -np.ones_like(A)
    for normalize in ("minmax", "max", None):
        assert not fusedcam.cam(A, G, size=size, normalize=normalize).any()
    assert not fusedcam.cam(A, G, size=size, normalize="max", relu=False).any()
    heat = fusedcam.cam(A, G, size=size, relu=False)
    assert (heat.min((1, 2)) == 0).all()
    assert (heat.max((1, 2)) == 1).all()
    assert (fusedcam.cam(A, G, size=size, relu=False, normalize=None) < 0).all()


def test_the_relu_comes_before_the_resampling():
    A = np.array([[[[-3.0, 1.0]]]], np.float32)
    ones = np.ones((1, 1), np.float32)
    assert fusedcam.cam(A, weights=ones, size=(1, 4), normalize=None).tolist() == [[[0, 0.25, 0.75, 1]]]
    bare = fusedcam.cam(A, weights=ones, size=(1, 4), normalize=None, relu=False)
    assert bare.tolist() == [[[-3, -2, 0, 1]]]


@pytest.mark.parametrize("normalize", ["minmax", "max"])
@pytest.mark.parametrize("size", [1, 7, 224, (3, 40), (100, 5)])
def test_with_size_equals_resize_afterwards(rng, dtype, size, normalize):
    A, G = rng.normal(size=(2, 3, 40, 7, 9)).astype(dtype)
    raw = fusedcam.cam(A, G, normalize=None)
    assert np.array_equal(
        fusedcam.cam(A, G, size=size, normalize=normalize), fusedcam.resize(raw, size, normalize=normalize)
    )


def test_extremes_are_exactly_0_and_1(rng):
    """On the grid that is returned, whose extremes are not those of the small map."""
    for _ in range(100):
        H, W, *size = rng.integers(1, 60, 4)
        A = (rng.normal(size=(4, 3, H, W)) * 10.0 ** rng.integers(-9, 9)).astype(np.float32)
        heat = fusedcam.cam(A, weights=np.ones((1, 3), np.float32), size=tuple(size))
        for one in heat:
            assert one.min() == 0
            assert one.max() == (1 if one.any() else 0)
        raw = fusedcam.cam(A, weights=np.ones((1, 3), np.float32), size=tuple(size), normalize=None)
        assert np.array_equal(heat.any((1, 2)), raw.min((1, 2)) < raw.max((1, 2)))


def test_an_empty_batch_gives_an_empty_map():
    A = np.empty((0, 3, 4, 5), np.float32)
    assert fusedcam.cam(A, A).shape == (0, 4, 5)
    assert fusedcam.cam(A, np.empty((0, 6, 3, 4, 5), np.float32), size=9).shape == (0, 6, 9, 9)
    assert fusedcam.cam(A, weights=np.empty((0, 3), np.float32)).shape == (0, 4, 5)
