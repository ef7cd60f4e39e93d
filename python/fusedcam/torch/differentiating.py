"""cam and resize as autograd's functions: kernels forward and back; formulas for what is beyond them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _native
from .._frameworks import kernels_alone
from . import formulas
from .formulas import Options

__all__ = [
    "Cam",
    "Resize",
    "cam_slopes",
    "cam_slopes_by_formula",
    "derived",
    "has_memory",
    "like_inputs",
    "native_cam",
    "native_resize",
    "resize_slopes",
    "resize_slopes_by_formula",
]

_EVEN = ("gradcam",)
"""Methods whose scores change alike with the gradients of all of a channel's pixels."""


def native_cam(activations: Tensor, second: Tensor, options: Options) -> Tensor:
    """`fusedcam.cam` itself, without a derivative."""
    given: dict[str, Any] = options._asdict()
    given["weights" if given.pop("by_weights") else "gradients"] = second
    if options.tokens:  # of which the layout is known
        del given["layout"]
    with torch.no_grad(), kernels_alone():
        maps: Tensor = _native.cam(activations, **given)
    return maps


def native_resize(heatmap: Tensor, size: tuple[int, ...], normalize: str | None, eps: float) -> Tensor:
    """`fusedcam.resize` itself, without a derivative."""
    with torch.no_grad(), kernels_alone():
        maps: Tensor = _native.resize(heatmap, size, normalize=normalize, eps=eps)
    return maps


class Cam(torch.autograd.Function):
    """The scores of activations and gradients, resampled and normalised; the maps before that are kept."""

    # The older style of autograd's functions, whose call takes a quarter of the newer one's time.
    @staticmethod
    def forward(ctx: Any, activations: Tensor, second: Tensor, options: Options) -> Tensor:
        raw = native_cam(activations, second, options.raw())
        ctx.save_for_backward(activations, second, raw)
        ctx.options = options
        if options.size is None and options.normalize is None:
            return raw
        size = options.size or tuple(raw.shape[-options.spatial :])
        return native_resize(raw, size, options.normalize, options.eps)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> Any:
        activations, second, raw = ctx.saved_tensors
        # A derivative's derivative is asked for, or many derivatives at once.
        if torch.is_grad_enabled() or not has_memory(slopes):
            found = cam_slopes_by_formula(activations, second, slopes, ctx.options, ctx.needs_input_grad)
        else:
            found = list(cam_slopes(activations, second, slopes, ctx.options, raw))
        return *(one if needed else None for one, needed in zip(found, ctx.needs_input_grad, strict=False)), None


class Resize(torch.autograd.Function):
    """A map on another grid, normalised."""

    @staticmethod
    def forward(ctx: Any, heatmap: Tensor, size: tuple[int, ...], normalize: str | None, eps: float) -> Tensor:
        ctx.save_for_backward(heatmap)
        ctx.options = (size, normalize, eps)
        return native_resize(heatmap, size, normalize, eps)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> Any:
        (heatmap,) = ctx.saved_tensors
        if torch.is_grad_enabled() or not has_memory(slopes):
            found = resize_slopes_by_formula(heatmap, slopes, *ctx.options)
        else:
            found = resize_slopes(heatmap, slopes, *ctx.options)
        return found, None, None, None


def has_memory(tensor: Any) -> bool:
    """Whether a tensor is what it looks like: not traced, mapped or a subclass."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return False
    try:
        return tensor.device.type != "meta" and bool(tensor.numel() == 0 or tensor.data_ptr() != 0)
    except RuntimeError:  # a wrapper's
        return False


def derived(
    function: Any, inputs: Sequence[Tensor], slopes: Sequence[Tensor], needed: Sequence[bool] | None = None
) -> list[Tensor | None]:
    """What sum(slopes * function(*inputs)) changes by with each input, or with those that are needed; itself recorded.

    By that one alone: an input may be computed from another, or be the same tensor, and who differentiates adds what
    comes that way. So each stands for itself here, with a way back to what it was.
    """
    wanted = [True] * len(inputs) if needed is None else needed[: len(inputs)]
    with torch.enable_grad():
        own = [
            one.view_as(one) if one.requires_grad else one.detach().requires_grad_(needs)
            for one, needs in zip(inputs, wanted, strict=True)
        ]
        variables = [one for one, needs in zip(own, wanted, strict=True) if needs]
        found = torch.autograd.grad(function(*own), variables, slopes, create_graph=True, materialize_grads=True)
    each = iter(found)
    return [next(each) if needs else None for needs in wanted]


def cam_slopes_by_formula(
    activations: Tensor, second: Tensor, slopes: Tensor, options: Options, needed: Sequence[bool] | None = None
) -> Any:
    """`cam_slopes`, itself recorded."""
    return derived(lambda a, g: [formulas.cam(a, g, options)], (activations, second), [slopes], needed)


def resize_slopes_by_formula(
    heatmap: Tensor, slopes: Tensor, size: tuple[int, ...], normalize: str | None, eps: float
) -> Any:
    """`resize_slopes`, itself recorded."""
    return derived(lambda maps: [formulas.resize(maps, size, normalize, eps)], [heatmap], [slopes])[0]


def cam_slopes(
    activations: Tensor, second: Tensor, slopes: Tensor, options: Options, raw: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What sum(slopes * cam(activations, second)) changes by with both arrays; of `second` maybe a view without strides
    over space, where it is the same for all of a channel's pixels.

    Args:
        raw: the maps before resampling and normalisation, where they are known.
    """
    if options.by_weights and activations.ndim == options.inner + 1 and len(second) == 1 != len(activations):
        rows = second.expand(len(activations), *second.shape[1:])  # one for all images
        of_activations, of_rows = cam_slopes(activations, rows, slopes, options, raw)
        return of_activations, of_rows.sum(0, keepdim=True)
    raw = native_cam(activations, second, options.raw()) if raw is None else raw
    own = tuple(raw.shape[-options.spatial :])
    if options.normalize is not None or options.size not in (None, own):
        slopes = resize_slopes(raw, slopes, options.size or own, options.normalize, options.eps)
    slopes = slopes.to(raw.dtype)
    if options.relu:
        slopes = torch.where(raw <= 0, 0, slopes)  # NaN stays, as in PyTorch's ReLU
    elif options.nan == "zero":
        plain = native_cam(activations, second, options.raw()._replace(nan="propagate"))
        slopes = torch.where(plain.isfinite(), slopes, 0)
    of_activations, of_second = like_inputs(activations, second, options)
    if options.tokens:  # those that are no part of the grid
        of_activations.zero_()
        of_second.zero_()
    _native.cam_backward(
        activations.detach(),
        second.detach(),
        slopes.contiguous(),
        of_activations,
        of_second,
        options.by_weights,
        options.method,
        options.spatial,
        options.layout,
        options.weight_eps,
        options.tokens,
    )
    return of_activations, of_second


def like_inputs(activations: Tensor, second: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Where the derivatives go, uninitialised, laid out as what they are of; of an expanded array's elements every one
    has its own place."""
    if options.by_weights or options.method not in _EVEN or options.tokens or options.layout == "last":
        return torch.empty_like(activations), torch.empty_like(second)
    once = second.new_empty((*second.shape[: -options.spatial], *(1,) * options.spatial))
    return torch.empty_like(activations), once.expand(second.shape)


def resize_slopes(heatmap: Tensor, slopes: Tensor, size: tuple[int, ...], normalize: str | None, eps: float) -> Tensor:
    """What sum(slopes * resize(heatmap)) changes by with the heatmap."""
    of_heatmap = heatmap.new_empty(heatmap.shape)
    dtype = torch.float64 if heatmap.dtype == torch.float64 else torch.float32
    _native.resize_backward(heatmap.detach(), slopes.to(dtype).contiguous(), of_heatmap, tuple(size), normalize, eps)
    return of_heatmap
