"""cam, resize, colorize and overlay as operators of torch.library, for torch.compile, torch.export and fake tensors.

An operator costs ten times what a small call does, so only what is traced comes this way.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _colormaps, _native
from .._frameworks import kernels_alone
from .checking import check_cam, check_resize
from .differentiating import (
    cam_slopes,
    cam_slopes_by_formula,
    derived,
    like_inputs,
    native_cam,
    native_resize,
    resize_slopes,
    resize_slopes_by_formula,
)
from .formulas import Options

__all__ = ["cam", "colorize", "overlay", "resize"]


def _options(given: Sequence[Any]) -> Options:
    """The operators' arguments have no tuples."""
    made = Options(*given)
    return made._replace(
        size=None if made.size is None else tuple(made.size), tokens=None if made.tokens is None else tuple(made.tokens)
    )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _keeping(tensors: int) -> Any:
    """What keeps an operator's first arguments, and all others, for its derivative."""

    def keep(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:tensors])
        ctx.given = inputs[tensors:]

    return keep


@torch.library.custom_op("fusedcam::cam", mutates_args=())
def cam(
    activations: Tensor,
    second: Tensor,
    by_weights: bool,
    method: str,
    size: Sequence[int] | None,
    relu: bool,
    normalize: str | None,
    nan: str,
    spatial: int,
    layout: str,
    eps: float,
    weight_eps: float,
    tokens: Sequence[int] | None,
) -> Tensor:
    """`fusedcam.cam`; `second` are gradients or weights."""
    given = (by_weights, method, size, relu, normalize, nan, spatial, layout, eps, weight_eps, tokens)
    return native_cam(activations, second, _options(given))


@cam.register_fake
def _(activations: Tensor, second: Tensor, *given: Any) -> Tensor:
    options = _options(given)
    check_cam(activations, second, options)
    batched = activations.ndim == options.inner + 1
    moments = options.method == "smoothgradcam++"
    plain = (2 if batched else 1) if options.by_weights else options.inner + batched + moments
    if options.tokens:
        own: Sequence[int] = options.tokens
    else:
        last = activations.ndim - (options.layout == "last")
        own = activations.shape[last - options.spatial : last]
    images = activations.shape[:1] if batched else ()
    place = int(batched) if options.by_weights else moments + batched
    classes = second.shape[place : place + 1] if second.ndim == plain + 1 else ()
    return activations.new_empty((*images, *classes, *(options.size or own)), dtype=_wide(activations.dtype))


@torch.library.custom_op("fusedcam::cam_backward", mutates_args=())
def cam_backward(
    activations: Tensor,
    second: Tensor,
    slopes: Tensor,
    by_weights: bool,
    method: str,
    size: Sequence[int] | None,
    relu: bool,
    normalize: str | None,
    nan: str,
    spatial: int,
    layout: str,
    eps: float,
    weight_eps: float,
    tokens: Sequence[int] | None,
) -> tuple[Tensor, Tensor]:
    """What sum(slopes * cam(activations, second)) changes by with both."""
    given = (by_weights, method, size, relu, normalize, nan, spatial, layout, eps, weight_eps, tokens)
    with torch.no_grad():
        return cam_slopes(activations, second, slopes, _options(given))


@cam_backward.register_fake
def _(activations: Tensor, second: Tensor, slopes: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    return like_inputs(activations, second, _options(given))


def _cam_backward_again(ctx: Any, *slopes: Tensor) -> Any:
    options = _options(ctx.given)
    found = derived(lambda a, g, s: cam_slopes_by_formula(a, g, s, options), ctx.saved_tensors, slopes)
    return *found, *(None for _ in ctx.given)


cam_backward.register_autograd(_cam_backward_again, setup_context=_keeping(3))


def _cam_backward(ctx: Any, slopes: Tensor) -> Any:
    first, second = torch.ops.fusedcam.cam_backward(*ctx.saved_tensors, slopes, *ctx.given)
    return first, second, *(None for _ in ctx.given)


cam.register_autograd(_cam_backward, setup_context=_keeping(2))


@torch.library.custom_op("fusedcam::resize", mutates_args=())
def resize(heatmap: Tensor, size: Sequence[int], normalize: str | None, eps: float) -> Tensor:
    """`fusedcam.resize`."""
    return native_resize(heatmap, tuple(size), normalize, eps)


@resize.register_fake
def _(heatmap: Tensor, size: Sequence[int], normalize: str | None, eps: float) -> Tensor:
    check_resize(heatmap, size, normalize, eps)
    return heatmap.new_empty((*heatmap.shape[: heatmap.ndim - len(size)], *size), dtype=_wide(heatmap.dtype))


@torch.library.custom_op("fusedcam::resize_backward", mutates_args=())
def resize_backward(heatmap: Tensor, slopes: Tensor, size: Sequence[int], normalize: str | None, eps: float) -> Tensor:
    """What sum(slopes * resize(heatmap)) changes by with the heatmap."""
    with torch.no_grad():
        return resize_slopes(heatmap, slopes, tuple(size), normalize, eps)


@resize_backward.register_fake
def _(heatmap: Tensor, slopes: Tensor, size: Sequence[int], normalize: str | None, eps: float) -> Tensor:
    return heatmap.new_empty(heatmap.shape)


def _resize_backward_again(ctx: Any, slopes: Tensor) -> Any:
    size, *given = ctx.given
    found = derived(
        lambda maps, s: [resize_slopes_by_formula(maps, s, tuple(size), *given)], ctx.saved_tensors, [slopes]
    )
    return *found, *(None for _ in ctx.given)


resize_backward.register_autograd(_resize_backward_again, setup_context=_keeping(2))


def _resize_backward(ctx: Any, slopes: Tensor) -> Any:
    return torch.ops.fusedcam.resize_backward(*ctx.saved_tensors, slopes, *ctx.given), None, None, None


resize.register_autograd(_resize_backward, setup_context=_keeping(1))


def named(table: Any) -> str:
    """A colour map's table as a constant of a graph: its name, or its bytes."""
    if isinstance(table, str):
        return table
    for name in _colormaps.NAMES:
        if table is _colormaps.table("", name):
            return name
    return str(np.asarray(table, np.uint8).tobytes().hex())


def _table(colormap: str) -> Any:
    if colormap in _colormaps.NAMES:
        return _colormaps.table("", colormap)
    return np.frombuffer(bytes.fromhex(colormap), np.uint8).reshape(256, 3)


@torch.library.custom_op("fusedcam::colorize", mutates_args=())
def colorize(heatmap: Tensor, colormap: str, size: Sequence[int] | None, normalize: str | None) -> Tensor:
    """`fusedcam.colorize`; `colormap` is a name, or a table's bytes as hexadecimal digits."""
    target = None if size is None else tuple(size)
    with torch.no_grad(), kernels_alone():
        picture: Tensor = _native.colorize(heatmap, _table(colormap), target, normalize, None)
    return picture


@colorize.register_fake
def _(heatmap: Tensor, colormap: str, size: Sequence[int] | None, normalize: str | None) -> Tensor:
    own = heatmap.shape[-2:] if size is None else size
    return heatmap.new_empty((*heatmap.shape[:-2], *own, 3), dtype=torch.uint8)


@torch.library.custom_op("fusedcam::overlay", mutates_args=())
def overlay(image: Tensor, heatmap: Tensor, colormap: str, alpha: float, normalize: str | None) -> Tensor:
    """`fusedcam.overlay`, with the colour map as in colorize."""
    with torch.no_grad(), kernels_alone():
        blended: Tensor = _native.overlay(image, heatmap, _table(colormap), alpha, normalize, None)
    return blended


@overlay.register_fake
def _(image: Tensor, heatmap: Tensor, colormap: str, alpha: float, normalize: str | None) -> Tensor:
    planes = image.shape[-3:] if image.ndim > 2 else (*image.shape, 1)
    last = planes[-1] in (1, 3)  # read so where both fit
    own = planes[:2] if last else planes[1:]
    return heatmap.new_empty((*heatmap.shape[:-2], *own, 3), dtype=torch.uint8)


# vmap: the mapped dimension joins N.


def _joined(array: Tensor, dim: int | None, extent: int, at: int, batched: bool) -> Tensor:
    """With the mapped dimension at `at`, as N, or as a part of the N that is there."""
    moved = array.expand(extent, *array.shape).movedim(0, at) if dim is None else array.movedim(dim, at)
    return moved.flatten(at, at + 1) if batched else moved


def _cam_mapped(info: Any, dims: Any, activations: Tensor, second: Tensor, *given: Any) -> tuple[Tensor, int]:
    options = _options(given)
    extent = info.batch_size
    batched = activations.ndim - (dims[0] is not None) == options.inner + 1
    moments = int(options.method == "smoothgradcam++")
    if options.by_weights and batched:
        n = activations.shape[0 if dims[0] is None or dims[0] > 0 else 1]
        place = 0 if dims[1] is None or dims[1] > 0 else 1
        if second.shape[place] == 1 != n:
            second = second.repeat_interleave(n, place)
    a = _joined(activations, dims[0], extent, 0, batched)
    g = _joined(second, dims[1], extent, moments, batched)
    maps = torch.ops.fusedcam.cam(a, g, *given)
    return (maps.unflatten(0, (extent, -1)) if batched else maps), 0


def _resize_mapped(info: Any, dims: Any, heatmap: Tensor, *given: Any) -> tuple[Tensor, int]:
    return torch.ops.fusedcam.resize(heatmap.movedim(dims[0], 0), *given), 0


def _colorize_mapped(info: Any, dims: Any, heatmap: Tensor, *given: Any) -> tuple[Tensor, int]:
    return torch.ops.fusedcam.colorize(heatmap.movedim(dims[0], 0), *given), 0


def _overlay_mapped(info: Any, dims: Any, image: Tensor, heatmap: Tensor, *given: Any) -> tuple[Tensor, int]:
    extent = info.batch_size
    batched = heatmap.ndim - (dims[1] is not None) == 3
    images = _joined(image, dims[0], extent, 0, batched)
    maps = _joined(heatmap, dims[1], extent, 0, batched)
    blended = torch.ops.fusedcam.overlay(images, maps, *given)
    return (blended.unflatten(0, (extent, -1)) if batched else blended), 0


for _op, _mapped in (
    (cam, _cam_mapped),
    (resize, _resize_mapped),
    (colorize, _colorize_mapped),
    (overlay, _overlay_mapped),
):
    _op.register_vmap(_mapped)
