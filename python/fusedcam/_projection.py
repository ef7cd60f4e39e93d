"""The pixels of an image projected on their first principal component, in float64: what Eigen-CAM is made of.

On the CPU by NumPy's BLAS and LAPACK, one image after the other, so that no image's bits depend on its batch; on other
devices by PyTorch's, all at once.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _native
from ._frameworks import from_numpy, kernels_alone

__all__ = ["heatmaps"]

Wide = NDArray[np.float64]

_NOISE = 1e-28
"""Of the squares' sum: what rounding leaves of channels that are constant, once their means are subtracted."""
_EQUAL = 1 - 1e-9
"""Extremes of both signs that differ by less than this factor are equal."""
_RANGE = 1e-12
"""Of the larger extreme: a map's range below that is what rounding makes of none."""
_TRIAL = 5
"""After how many steps the power iteration has to have a bound."""


def heatmaps(
    activations: Any,
    gradients: Any,
    center: bool,
    size: Any,
    relu: bool,
    normalize: str | None,
    nan: str,
    layout: str,
) -> Any:
    """`eigencam`, whose docstring tells of the arguments."""
    if not isinstance(center, bool):
        raise TypeError(f"eigencam: center is {center!r} ({type(center).__name__}); accepted is True or False")
    for name, given in (("activations", activations), ("gradients", gradients)):
        if isinstance(given, list | tuple):  # which cam takes for several layers
            raise TypeError(f"eigencam: {name} must be an array, not {type(given).__name__}")
    rest = {"size": size, "relu": relu, "normalize": normalize, "nan": nan}
    with _as_eigencam():  # cam knows what to refuse: arrays, and options, with which there is nothing to do yet
        second = activations if gradients is None else gradients
        _native.cam(activations, second, normalize=None, layout=layout)
        _native.cam(np.empty((0, 1, 1, 1), np.float32), weights=np.ones((1, 1), np.float32), **rest)
    a = _channels_first(activations, layout)
    g = None if gradients is None else _channels_first(gradients, layout)
    batched = a.ndim == 4
    if not batched:
        a, g = a[None], None if g is None else g[None]
    double = str(a.dtype).endswith("float64")
    if isinstance(a, np.ndarray):
        with np.errstate(all="ignore"):  # of elements that are not finite
            scores = _project(a, g, center, nan == "zero").astype(np.float64 if double else np.float32)
        one = np.ones((1, 1), scores.dtype)
    else:
        scores = _project_tensors(a, g, center, nan == "zero")
        scores = scores if double else scores.float()
        one = scores.new_ones((1, 1))
    with _as_eigencam():
        heat = _native.cam(scores.reshape(-1, 1, *scores.shape[-2:]), weights=one, **rest)
    heat = heat.reshape(*scores.shape[:-2], *heat.shape[-2:])
    heat = heat if batched else heat[0]
    # A tensor that went through DLPack would be foreign memory to PyTorch's allocator.
    return heat if isinstance(activations, type(heat)) else from_numpy(heat, activations)


@contextmanager
def _as_eigencam() -> Iterator[None]:
    """Refusals of `cam` within the block are eigencam's, which has no derivative."""
    try:
        with kernels_alone():
            yield
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("cam:", "eigencam:", 1)) from None


def _project(a: NDArray[Any], g: NDArray[Any] | None, center: bool, zero: bool) -> Wide:
    """Scores of activations [N, C, H, W], or of their products with gradients of that shape or [N, K, C, H, W].

    With `zero`, elements that are not finite count as 0; without it they make their map NaN.

    Returns:
        [N, H, W], or [N, K, H, W].
    """
    shape = a.shape if g is None else g.shape
    C, H, W = shape[-3:]
    scores = np.empty((*shape[:-3], H * W))
    matrix = np.empty((C, H * W))
    image = matrix.reshape(C, H, W)
    double = a.dtype == np.float64
    tolerance = 1e-13 if double else 1e-9  # against the result's rounding
    for at in np.ndindex(shape[:-3]):  # (image,) or (image, class)
        if g is None:
            image[...] = a[at]
        else:
            np.multiply(a[at[0]], g[at], out=image, dtype=np.float64)
        if zero:
            matrix[~np.isfinite(matrix)] = 0
        exponent = _exponent(matrix) if double else 0
        if exponent:
            np.ldexp(matrix, -exponent, out=matrix)
        scores[at] = np.ldexp(_signed(_projected(matrix, center, tolerance)), exponent)
    return scores.reshape(*shape[:-3], H, W)


def _exponent(matrix: Wide) -> int:
    """Of the power of two that brings the matrix into reach of its squares."""
    extreme = max(matrix.max(initial=0), -matrix.min(initial=0))
    return int(np.frexp(extreme)[1]) if np.isfinite(extreme) else 0


def _projected(matrix: Wide, center: bool, tolerance: float) -> Wide:
    """[C, P], which is overwritten, -> [P]: its first right singular vector, times the singular value."""
    C, P = matrix.shape
    noise = 0.0
    if center:
        means = matrix.mean(1)
        matrix -= means[:, None]
        noise = _NOISE * P * (means @ means)
    gram = matrix.T @ matrix if P <= C else matrix @ matrix.T
    squares = np.trace(gram)
    if not np.isfinite(squares):
        return np.full(P, np.nan)
    if squares <= noise:
        return np.zeros(P)
    value, vector = _leading(gram, tolerance)
    return np.sqrt(value) * vector if P <= C else vector @ matrix


def _leading(gram: Wide, tolerance: float) -> tuple[float, Wide]:
    """The largest eigenvalue of a Gram matrix and a vector to it.

    By power iteration, where the second eigenvalue can be bounded: the squares of all add up to the Frobenius norm's,
    so that it is at most sqrt(norm^2 - value^2). The vector's distance from the eigenvector is then at most the
    residual over the gap between the two (Davis and Kahan 1970), which is brought below the tolerance. Where there is
    no such bound, as with two equal eigenvalues, or after steps that take about LAPACK's time, LAPACK finds all.
    """
    square = float(np.vdot(gram, gram))
    n = len(gram)
    image = gram[np.argmax(gram.diagonal())]
    for step in range(max(_TRIAL, min(n // 2, n * n // 120))):
        vector = image / math.sqrt(image @ image)
        image = gram @ vector
        value = float(vector @ image)
        gap = value - math.sqrt(max(square - value * value, 0.0))
        if gap > 0:
            residual = image - value * vector
            if residual @ residual <= (tolerance * gap) ** 2:
                return value, vector
        elif step >= _TRIAL:
            break
    values, vectors = np.linalg.eigh(gram)
    return float(max(values[-1], 0)), vectors[:, -1]


def _signed(scores: Wide) -> Wide:
    """The extreme of larger magnitude is positive; of equal ones, the first. A map without range is constant."""
    extent = abs(scores)
    extreme = extent.max()
    first = scores[np.argmax(extent >= extreme * _EQUAL)]
    if np.ptp(scores) <= extreme * _RANGE:
        return np.full_like(scores, abs(first))
    return -scores if first < 0 else scores


def _project_tensors(a: Any, g: Any, center: bool, zero: bool) -> Any:
    """`_project` of PyTorch's tensors, on their device; `eigh` waits for it."""
    torch = sys.modules["torch"]
    wide = a.double()
    if g is not None:
        wide = (wide[:, None] if g.ndim == 5 else wide) * g.double()
    *outer, C, H, W = wide.shape
    matrix = wide.reshape(-1, C, H * W)
    if zero:
        matrix = torch.where(torch.isfinite(matrix), matrix, 0)
    extreme = matrix.abs().amax((1, 2), keepdim=True)
    # A power of two; `ldexp` would make one of float32.
    unit = 2.0 ** torch.where(torch.isfinite(extreme), torch.frexp(extreme)[1], 0).double().clamp(-1000, 1000)
    matrix = matrix / unit
    means = matrix.mean(2, keepdim=True) if center else matrix.new_zeros(())
    matrix = matrix - means
    gram = matrix.mT @ matrix if H * W <= C else matrix @ matrix.mT
    squares = gram.diagonal(dim1=1, dim2=2).sum(1)
    bad = ~torch.isfinite(squares)
    values, vectors = torch.linalg.eigh(torch.where(bad[:, None, None], 0, gram))
    vector = vectors[..., -1]
    scores = values[:, -1:].clamp(min=0).sqrt() * vector if H * W <= C else (vector[:, None] @ matrix)[:, 0]
    noise = _NOISE * H * W * (means * means).sum((1, 2)) if center else 0.0
    scores = torch.where((squares <= noise)[:, None], 0, scores)
    scores = torch.where(bad[:, None], torch.nan, scores)
    extent = scores.abs()
    extreme = extent.amax(1, keepdim=True)
    first = scores.gather(1, (extent >= extreme * _EQUAL).int().argmax(1, keepdim=True))
    flat = scores.amax(1, keepdim=True) - scores.amin(1, keepdim=True) <= extreme * _RANGE
    scores = torch.where(flat, first, scores)
    scores = torch.where(first < 0, -scores, scores)
    return (scores * unit[:, 0]).reshape(*outer, H, W)


def _channels_first(array: Any, layout: str) -> Any:
    """A tensor for what lies on a device, else a NumPy array, of the same memory where NumPy can have it."""
    array = _opened(array)
    if isinstance(array, np.ndarray):
        return np.moveaxis(array, -1, -3) if layout == "last" else array
    tensor = array.detach()
    if tensor.device.type == "cpu":
        known = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
        return _channels_first(known.numpy(), layout)
    return tensor.movedim(-1, -3) if layout == "last" else tensor


def _opened(array: Any) -> Any:
    """As a NumPy array or a tensor of PyTorch's."""
    torch = sys.modules.get("torch")
    if torch and isinstance(array, torch.Tensor):
        return array
    if isinstance(array, np.ndarray):
        return np.asarray(array)
    # PyTorch, where it is loaded, knows bfloat16 and devices.
    for opened in (np.from_dlpack, torch.from_dlpack if torch else np.asarray, np.asarray):
        try:
            known = opened(array)
        except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):
            continue
        if known.ndim:
            return known
    kind = f"{type(array).__module__}.{type(array).__name__}"
    raise TypeError(f"eigencam: neither NumPy nor PyTorch can read a {kind}; pass an array of NumPy's")
