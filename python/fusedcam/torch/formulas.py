"""cam and resize in PyTorch's own operations: what autograd and torch.func differentiate where no kernel does.

The values are those of the kernels but for rounding. The derivatives of derivatives come from here.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["METHODS", "Options", "cam", "normalized", "resize", "scores"]

Normalize = Literal["minmax", "max"] | None


class Options(NamedTuple):
    """The arguments of `fusedcam.cam` beside its arrays, checked and brought to one form."""

    by_weights: bool = False
    """Whether the second array holds the channels' weights."""
    method: str = "gradcam"
    size: tuple[int, ...] | None = None
    """As many extents as `spatial`."""
    relu: bool = True
    normalize: str | None = "minmax"
    nan: str = "propagate"
    spatial: int = 2
    layout: str = "first"
    eps: float = 0.0
    weight_eps: float = 0.0
    tokens: tuple[int, ...] | None = None

    @property
    def inner(self) -> int:
        """Dimensions of one image's activations."""
        return 2 if self.tokens else self.spatial + 1

    def raw(self) -> "Options":
        """The same without resampling and normalisation."""
        return self._replace(size=None, normalize=None)


def cam(activations: Tensor, second: Tensor, options: Options) -> Tensor:
    """`fusedcam.cam`: [(N,) (K,) *size] in float32, float64 for float64."""
    with torch.autocast(activations.device.type, enabled=False):
        maps = scores(activations, second, options)
    size = options.size or maps.shape[-options.spatial :]
    return resize(maps, size, options.normalize, options.eps)


def resize(heatmap: Tensor, size: Sequence[int], normalize: str | None, eps: float) -> Tensor:
    """`fusedcam.resize` of [..., *own] to [..., *size]."""
    maps = heatmap if heatmap.dtype == torch.float64 else heatmap.float()
    for axis, extent in zip(range(-1, -1 - len(size), -1), reversed(size), strict=True):
        maps = _resampled(maps, axis, extent)
    return normalized(maps, normalize, eps, len(size))


def _resampled(maps: Tensor, axis: int, extent: int) -> Tensor:
    """Along one axis: half-pixel centres, edges clamped, a + w (b - a) at integer source positions."""
    own = maps.shape[axis]
    if own == extent:
        return maps
    places = torch.arange(extent, device=maps.device)
    position = ((2 * places + 1) * own - extent).clamp(0, 2 * extent * (own - 1))
    low = torch.div(position, 2 * extent, rounding_mode="floor")
    rest = position - low * (2 * extent)
    high = torch.where(rest == 0, low, low + 1)
    weight = (rest.double() / (2 * extent)).to(maps.dtype).reshape(-1, *(1,) * (-1 - axis))
    a, b = maps.index_select(axis, low), maps.index_select(axis, high)
    return torch.where(weight == 0, a, a + weight * (b - a))


def normalized(maps: Tensor, normalize: str | None, eps: float, spatial: int) -> Tensor:
    """Each map by its own extremes; one without range ("max": without a positive score) is 0."""
    if normalize is None:
        return maps
    axes = tuple(range(-spatial, 0))
    high = maps.amax(axes, keepdim=True)
    low = maps.amin(axes, keepdim=True) if normalize == "minmax" else torch.zeros_like(high)
    has_range = high > low
    divisor = torch.where(has_range, high - low + eps, torch.ones_like(high))
    heat = torch.where(has_range, (maps - low) / divisor, torch.zeros_like(maps))
    return torch.where(high.isnan(), high.detach().expand_as(maps), heat)


def scores(activations: Tensor, second: Tensor, options: Options) -> Tensor:
    """The maps at the layer's own resolution, after the policy for what is not finite and the ReLU."""
    dtype = torch.float64 if activations.dtype == torch.float64 else torch.float32
    a = _channels_first(activations.to(dtype), options)
    own = a.shape[-options.spatial :]
    batched = activations.ndim == options.inner + 1
    a = (a if batched else a[None]).flatten(-options.spatial)  # [N, C, P]
    if options.by_weights:
        classes = second.ndim == batched + 2
        w = second.to(dtype)
        w = w if batched else w[None]
        maps = (w if classes else w[:, None]) @ a
    else:
        moments = options.method == "smoothgradcam++"
        classes = second.ndim == options.inner + batched + moments + 1
        g = _channels_first(second.to(dtype), options)
        g = (g if batched else g.unsqueeze(int(moments))).flatten(-options.spatial)
        g = g if classes else g.unsqueeze(1 + int(moments))  # [(3,) N, K, C, P]
        maps = METHODS[options.method](a, g, options.weight_eps)
    maps = maps if classes else maps[:, 0]
    maps = (maps if batched else maps[0]).unflatten(-1, own)  # type: ignore[no-untyped-call]
    if options.nan == "zero":
        maps = torch.where(maps.isfinite(), maps, torch.zeros_like(maps))
    return maps.relu() if options.relu else maps


def _channels_first(array: Tensor, options: Options) -> Tensor:
    """[..., C, *S], whatever the layout."""
    if options.tokens:
        count = 1
        for extent in options.tokens:
            count *= extent
        grid = array[..., array.shape[-2] - count :, :].transpose(-1, -2)
        return grid.unflatten(-1, options.tokens)  # type: ignore[no-any-return,no-untyped-call]
    return array.movedim(-1, -1 - options.spatial) if options.layout == "last" else array


def _weighted(weights: Tensor, a: Tensor) -> Tensor:
    return weights @ a  # [N, K, C] of [N, C, P]


def _gradcam(a: Tensor, g: Tensor, eps: float) -> Tensor:
    return _weighted(g.mean(-1), a)


def _gradcam_plus(a: Tensor, g: Tensor, eps: float) -> Tensor:
    return _weighted(g.relu().mean(-1), a)


def _gradcam_plusplus(a: Tensor, g: Tensor, eps: float) -> Tensor:
    total = a.sum(-1)[:, None, :, None]
    positive = g > 0
    safe = torch.where(positive, g, torch.ones_like(g))  # where it is not, neither value nor derivative counts
    own, numerator = torch.zeros_like(safe), torch.ones_like(safe)
    if eps:  # eps / g^2 where that is at most 1; the whole fraction times g^2 / eps where it might overflow
        root = eps**0.5
        small = safe < root
        own = torch.where(small, 1.0, (root / torch.where(small, 1.0, safe)).square())
        numerator = torch.where(small, (safe / root).square(), 1.0)
    product = total * safe
    divisor = (2 + product) * numerator + own
    counts = positive & (divisor != 0)
    # By the quotient rule 2 / D^2 would be the difference of 1 / D and S g / D^2.
    steep = counts & ((product > 1) | (product < -4))
    alone = torch.where(steep, safe, 1.0)
    reciprocal = 2 / alone + total + ((eps**0.5 / alone).square() / alone if eps else 0)
    terms = safe * numerator / torch.where(counts & ~steep, divisor, 1.0)
    terms = torch.where(steep, 1 / torch.where(steep, reciprocal, 1.0), terms)
    terms = torch.where(counts, terms, 0 * g.relu())  # NaN stays
    return _weighted(terms.sum(-1), a)


def _smoothgradcam_plusplus(a: Tensor, g: Tensor, eps: float) -> Tensor:
    second, rest = g[1], a.sum(-1)[:, None, :, None] * g[2] + eps
    divisor = 2 * second + rest
    zero = divisor == 0
    flat = rest.abs() < second.abs()  # by the quotient rule rest / D^2 would be the difference of 1 / D and 2 g2 / D^2
    ratio = torch.where(flat, rest, 0.0) / torch.where(flat, second, 1.0)
    terms = g[0].relu() * torch.where(flat, 1 / (2 + ratio), second / torch.where(zero | flat, 1.0, divisor))
    return _weighted(torch.where(zero, torch.zeros_like(terms), terms).sum(-1), a)


def _xgradcam(a: Tensor, g: Tensor, eps: float) -> Tensor:
    divisor = (a.sum(-1) + eps)[:, None]
    zero = divisor == 0
    weights = (g * a[:, None]).sum(-1) / torch.where(zero, torch.ones_like(divisor), divisor)
    return _weighted(torch.where(zero, torch.zeros_like(weights), weights), a)


def _hirescam(a: Tensor, g: Tensor, eps: float) -> Tensor:
    return (g * a[:, None]).sum(2)


def _layercam(a: Tensor, g: Tensor, eps: float) -> Tensor:
    return (g.relu() * a[:, None]).sum(2)


def _gradcam_elementwise(a: Tensor, g: Tensor, eps: float) -> Tensor:
    return (g * a[:, None]).relu().sum(2)


METHODS: dict[str, Any] = {
    "gradcam": _gradcam,
    "gradcam++": _gradcam_plusplus,
    "smoothgradcam++": _smoothgradcam_plusplus,
    "xgradcam": _xgradcam,
    "hirescam": _hirescam,
    "layercam": _layercam,
    "gradcam_elementwise": _gradcam_elementwise,
    "gradcam+": _gradcam_plus,
}
"""A method each: [N, C, P] and [(3,) N, K, C, P] -> scores [N, K, P]."""
