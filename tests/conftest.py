"""Parameters with readable ids, memory layouts, and the one rule: how far a result may be from the oracle."""

import gc
from collections.abc import Callable, Iterator

import hypothesis
import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

import reference

hypothesis.settings.register_profile("fusedcam", deadline=None, database=None, print_blob=True)
# For planted bugs: the first failure is enough.
hypothesis.settings.register_profile(
    "planted",
    hypothesis.settings.get_profile("fusedcam"),
    phases=[hypothesis.Phase.generate],
    report_multiple_bugs=False,
)
hypothesis.settings.load_profile("fusedcam")

DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float64": np.float64,
}


def dense(array: NDArray) -> NDArray:
    return np.ascontiguousarray(array)


def sliced(array: NDArray) -> NDArray:
    """Every second column of a larger array, whose other elements are poison."""
    inner = min(3, array.ndim)
    larger = [2 * extent + 1 for extent in array.shape[-inner:]]
    whole = np.full((*array.shape[:-inner], *larger), 99 if array.dtype == np.uint8 else np.nan, array.dtype)
    view = whole[(..., *[slice(1, None, 2)] * inner)]
    view[...] = array
    return view


def transposed(array: NDArray) -> NDArray:
    return np.ascontiguousarray(array.T).T


def channels_last(array: NDArray) -> NDArray:
    """[..., C, H, W] as it lies in memory as [..., H, W, C]."""
    if array.ndim < 3:
        return transposed(array)
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, -3, -1)), -1, -3)


def negative(array: NDArray) -> NDArray:
    backwards = (slice(None, None, -1),) * array.ndim
    return np.ascontiguousarray(array[backwards])[backwards]


def expanded(array: NDArray) -> NDArray:
    """Stride 0 over space. Not the same numbers: the first pixel's everywhere."""
    first = np.ascontiguousarray(array[..., :1, :1])
    return as_strided(first, array.shape, (*first.strides[:-2], 0, 0))


def shared(array: NDArray) -> NDArray:
    """Stride 0 over the first axis. Not the same numbers: the first image's everywhere."""
    first = np.ascontiguousarray(array[:1])
    return as_strided(first, array.shape, (0, *first.strides[1:]))


Layout = Callable[[NDArray], NDArray]
SAME: dict[str, Layout] = {
    "dense": dense,
    "sliced": sliced,
    "transposed": transposed,
    "channels-last": channels_last,
    "negative": negative,
}
LAYOUTS: dict[str, Layout] = {**SAME, "expanded": expanded, "shared": shared}
POSITIVE = [name for name in LAYOUTS if name != "negative"]  # the layouts torch knows


def to_torch(array: NDArray) -> torch.Tensor:
    """The same memory as a tensor."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(array: object) -> NDArray:
    return array.numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


@pytest.fixture(params=DTYPES.values(), ids=DTYPES.keys())
def dtype(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture(params=SAME.values(), ids=SAME.keys())
def layout(request: pytest.FixtureRequest) -> Layout:
    """Memory layouts that keep the numbers."""
    return request.param


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Fresh numbers on every run; the seed is printed with a failure."""
    seed = np.random.SeedSequence().entropy
    print(f"seed of {request.node.name}: {seed}")
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True, scope="module")
def _left_by_others() -> None:
    """Goes now: peers' objects write to tensors when they go, which must not be while one is traced."""
    gc.collect()


@pytest.fixture
def keep_threads() -> Iterator[None]:
    """Restores the number of threads, which torch and fusedcam share."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def doubles() -> Iterator[None]:
    """float64 by default, and one thread: those of small networks wait for each other. The seed is printed."""
    print("seed:", torch.seed())
    before = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(before[0])
    torch.set_num_threads(before[1])


def assert_close(got: NDArray, raw: NDArray, magnitude: NDArray, normalize: str | None = None) -> None:
    """The error rule, map by map; raw [..., H', W'] is the oracle's, not normalised, magnitude on any grid.

    Raw scores may be off by d = 1e-6 S, S the map's largest magnitude sum (float64: by d * 2^-29). With R the
    oracle's range on the output grid, normalised: |h - h64| <= 2d / (R - 2d) + 2^-22; where R <= 64d the map
    has only to be one that normalisation may return. The extremes are met exactly, as are NaN and infinities.
    """
    assert got.dtype == (np.float64 if raw.dtype == np.longdouble else np.float32)
    assert got.shape == raw.shape
    precision = 2.0**-29 if got.dtype == np.float64 else 1.0
    magnitude = magnitude.reshape(-1, *magnitude.shape[-2:])
    expected = reference.normalize(raw, normalize)
    for index, value in enumerate(got.reshape(-1, *got.shape[-2:])):
        scores, wanted = (array.reshape(-1, *got.shape[-2:])[index] for array in (raw, expected))
        where = f"map {index} of {got.shape}, normalize={normalize}"
        known = np.isfinite(magnitude[index])
        d = 1e-6 * precision * magnitude[index][known].max(initial=0)
        finite = np.isfinite(wanted)
        assert np.array_equal(value[~finite], wanted[~finite].astype(got.dtype), equal_nan=True), where
        value, wanted = value[finite], wanted[finite]
        low, high = (scores.min() if normalize == "minmax" else 0), scores.max()
        if normalize is None:
            bound = np.full_like(wanted, d)
        elif not np.isfinite(low) or not np.isfinite(high):
            bound = np.zeros_like(wanted)  # finite over infinite
        else:
            if high - low <= 64 * d:
                assert not value.any() or value.max() == 1, where
                assert normalize == "max" or value.min() == 0, where
                continue
            # "max" without a ReLU may go far below 0, and errs in proportion.
            bound = np.maximum(1, abs(wanted)) * (2 * d / (high - low - 2 * d) + precision * 2.0**-22)
            assert value.max() == 1, where
            assert normalize == "max" or value.min() == 0, where
        error = abs(value - wanted)
        over = np.flatnonzero(~(error <= bound))[:1]
        assert not over.size, (
            f"{where}, pixel {np.flatnonzero(finite)[over]}: {value[over]} for {wanted[over]}, "
            f"off by {error[over]} where {bound[over]} is allowed"
        )
