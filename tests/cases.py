"""Random calls of `cam` for hypothesis: shapes, dtypes, layouts and options, and numbers of four kinds."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

import fusedcam
import reference
from conftest import DTYPES, LAYOUTS, POSITIVE, assert_close, dense, sliced, to_numpy, to_torch

Dims = tuple[int, int, int, int, int]


def typical(rng: np.random.Generator, dims: Dims) -> tuple[NDArray, NDArray]:
    """Behind a ReLU, gradients nearly constant over space: as networks with a pooling head have them."""
    N, K, C, H, W = dims
    means = rng.normal(size=(N, K, C, 1, 1))
    return np.maximum(rng.normal(-0.5, 1, (N, C, H, W)), 0), means * (1 + 0.1 * rng.normal(size=dims))


def signed(rng: np.random.Generator, dims: Dims) -> tuple[NDArray, NDArray]:
    N, _, C, H, W = dims
    return rng.normal(size=(N, C, H, W)), rng.normal(size=dims)


def positive(rng: np.random.Generator, dims: Dims) -> tuple[NDArray, NDArray]:
    """Nothing cancels, so that a long chain of additions shows."""
    activations, gradients = signed(rng, dims)
    return 1 + 0.1 * abs(activations), 1 + 0.1 * abs(gradients)


def cancelling(rng: np.random.Generator, dims: Dims) -> tuple[NDArray, NDArray]:
    """Pairs of channels that leave about a thousandth of each other; an odd one is as small."""
    activations, gradients = signed(rng, dims)
    C = dims[2] // 2 * 2
    activations = 1 + 0.2 * activations
    activations[:, C:] *= 1e-3
    activations[:, 1:C:2] = activations[:, :C:2]
    gradients[:, :, 1:C:2] = -gradients[:, :, :C:2] * (1 + 1e-3 * gradients[:, :, 1:C:2])
    return activations, gradients


def moments_of(rng: np.random.Generator, gradients: NDArray) -> NDArray:
    """[3, ...]: the means of the first three powers over some noisy inputs."""
    noisy = gradients * (1 + 0.5 * rng.normal(size=(4, *gradients.shape)))
    return np.stack([(noisy**power).mean(0) for power in (1, 2, 3)])


MOMENTS = ("smoothgradcam++",)
"""Methods that take them."""
EPS = ("gradcam++", "smoothgradcam++", "xgradcam")
"""Methods that divide by a sum of activations: `weight_eps` is theirs, and activations are not negative."""

NUMBERS = {kind.__name__: kind for kind in (typical, signed, positive, cancelling)}


@dataclass(frozen=True)
class Case:
    """One call. K is None for a single class, and `batched` False drops N = 1."""

    seed: int
    method: str
    weight_eps: float
    numbers: str
    scale: tuple[int, int]  # exponents of two, for activations and gradients
    dtype: str
    torch: bool
    N: int
    K: int | None
    C: int
    H: int
    W: int
    batched: bool
    last: bool  # layout="last"
    weights: str | None  # None: gradients; "own": a row for each image; "shared": one for all
    layouts: tuple[str, str]
    size: int | tuple[int, int] | None
    relu: bool
    normalize: str | None
    out: str | None
    threads: int

    @property
    def grid(self) -> tuple[int, int]:
        if self.size is None:
            return self.H, self.W
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def arrays(self) -> tuple[NDArray, NDArray]:
        """Activations [N, C, H, W] and gradients [N, K, C, H, W] or weights [N or 1, K, C], as laid out; moments are in
        front of all."""
        rng = np.random.default_rng(self.seed)
        activations, second = NUMBERS[self.numbers](rng, (self.N, self.K or 1, self.C, self.H, self.W))
        scales = [2.0**exponent for exponent in self.scale]
        if self.method in EPS:
            activations = abs(activations)
        if self.method in MOMENTS:  # cubes have to be numbers too
            second = moments_of(rng, second * 2.0 ** (self.scale[1] // 4))
            scales[1] = 1
        activations, second = (
            (array * scale).astype(DTYPES[self.dtype])
            for array, scale in zip((activations, second), scales, strict=True)
        )
        if self.weights:
            second = second[: 1 if self.weights == "shared" else None, ..., 0, 0]
        return LAYOUTS[self.layouts[0]](activations), LAYOUTS[self.layouts[1]](second)

    def call(self, activations: NDArray, second: NDArray) -> NDArray:
        """The call as a user makes it, with the axes he leaves out left out; checks shape and `out`."""
        shape = ((self.N,) if self.batched else ()) + ((self.K,) if self.K else ()) + self.grid
        front = (slice(None),) * (self.method in MOMENTS)
        if self.K is None:
            second = second[(*front, slice(None), 0)]
        if not self.batched:
            activations, second = activations[0], second[(*front, 0)]
        if self.last:
            activations = np.moveaxis(activations, -3, -1)
            second = second if self.weights else np.moveaxis(second, -3, -1)
        wrap = to_torch if self.torch else np.asarray
        given: dict[str, Any] = {"weights" if self.weights else "gradients": wrap(second)}
        if self.out:
            poison = np.full(shape, np.nan, np.float64 if self.dtype == "float64" else np.float32)
            given["out"] = wrap((sliced if self.out == "sliced" else dense)(poison))
        torch.set_num_threads(self.threads)
        result = fusedcam.cam(
            wrap(activations),
            method=self.method,
            weight_eps=self.weight_eps,
            size=self.size,
            relu=self.relu,
            normalize=self.normalize,
            layout="last" if self.last else "first",
            **given,
        )
        assert isinstance(result, torch.Tensor if self.torch else np.ndarray)
        assert tuple(result.shape) == shape
        assert not self.out or result is given["out"]
        return to_numpy(result)

    def check(self) -> None:
        activations, second = self.arrays()
        got = self.call(activations, second)
        activations, second = reference.wide(activations), reference.wide(second)
        if self.weights:
            second = np.broadcast_to(second, (self.N, *second.shape[1:]))[..., None, None]
        raw, magnitude = reference.cam(
            activations,
            second,
            method=self.method,
            weight_eps=self.weight_eps,
            size=self.grid,
            relu=self.relu,
            typical=self.numbers == "typical",
        )
        if (
            self.numbers == "cancelling"
            and self.method == "gradcam"
            and self.C > 9
            and not {"expanded", "shared"} & {*self.layouts}
        ):
            assert abs(raw).max() < magnitude.max() / 50
        assert_close(got.reshape(raw.shape), raw, magnitude, self.normalize)


CHANNELS = [1, 2, 3, 5, 15, 16, 17, 31, 127, 128, 129, 255, 257, 300]
EXTENTS = st.sampled_from([1, 1, 2, 3, 4, 5, 7, 8, 11, 13])
LARGE = [(33, 37), (1, 1100), (1031, 1), (64, 64)]  # more than one tile of pixels


@st.composite
def cases(
    draw: st.DrawFn,
    numbers: st.SearchStrategy[str] = st.sampled_from(list(NUMBERS)),  # noqa: B008
    channels: st.SearchStrategy[int] = st.sampled_from(CHANNELS),  # noqa: B008
    layouts: st.SearchStrategy[str] = st.sampled_from(list(LAYOUTS)),  # noqa: B008
    methods: st.SearchStrategy[str] = st.sampled_from(["gradcam", *fusedcam.METHODS]),  # noqa: B008
) -> Case:
    method = draw(methods)
    dtype = draw(st.sampled_from(list(DTYPES)))
    C, H, W = draw(channels), draw(EXTENTS), draw(EXTENTS)
    N, K = draw(st.integers(1, 4)), draw(st.sampled_from([None, 1, 2, 3, 5]))
    if draw(st.integers(0, 9)) == 0 and C < 1000:
        H, W = draw(st.sampled_from(LARGE))
        C = min(C, 40)
    if C >= 1000:
        N, K = min(N, 2), K and min(K, 2)
    weights = draw(st.sampled_from([None, None, None, "own", "shared"])) if method == "gradcam" else None
    exponents = st.integers(-6, 6) if dtype == "float16" else st.integers(-30, 30)
    pair = (draw(layouts), draw(layouts))
    axis = st.integers(1, 40)
    batched = draw(st.booleans())
    return Case(
        seed=draw(st.integers(0, 2**32 - 1)),
        method=method,
        weight_eps=draw(st.sampled_from([0, 0, 1e-7, 0.5])) if method in EPS else 0,
        numbers=draw(numbers),
        scale=(draw(exponents), draw(exponents)),
        dtype=dtype,
        torch=draw(st.booleans()) and set(pair) <= set(POSITIVE),
        N=N if batched else 1,
        K=K,
        C=C,
        H=H,
        W=W,
        batched=batched,
        last=draw(st.booleans()),
        weights=weights,
        layouts=pair,
        size=draw(st.one_of(st.none(), axis, st.tuples(axis, axis))),
        relu=draw(st.booleans()),
        normalize=draw(st.sampled_from(["minmax", "max", None])),
        out=draw(st.sampled_from([None, None, "dense", "sliced"])),
        threads=draw(st.integers(1, 3)),
    )
