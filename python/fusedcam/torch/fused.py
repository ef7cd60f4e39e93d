"""Several layers' maps as one."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .finishing import finished

if TYPE_CHECKING:
    from .explainer import Finish

__all__ = ["FUSED", "Fuse", "check_fuse", "fused"]

Fuse = Literal["mean", "max", "product"]

FUSED: dict[Fuse, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": torch.add,
    "max": torch.maximum,
    "product": torch.mul,
}


def check_fuse(fuse: Any) -> None:
    """Raises:
    ValueError: it is none of those known.
    """
    if fuse not in FUSED:
        raise ValueError(f"fuse is {fuse!r}; accepted: {', '.join(map(repr, FUSED))}")


def fused(maps: Sequence[Tensor], fuse: Fuse, finish: "Finish") -> Tensor:
    """Finished maps [N, (K,) *S_i] of each layer at its own resolution, resampled, fused and normalised again.

    They are resampled to `finish.size`; None are the largest extents of all layers.
    """
    shapes = [one.shape[-finish.spatial :] for one in maps]
    size = tuple(map(max, zip(*shapes, strict=True))) if finish.size is None else finish.size
    total: Tensor | None = None
    for one in maps:
        own = finished(one, finish._replace(size=size, relu=False, normalize=None))
        total = own if total is None else FUSED[fuse](total, own)
    assert total is not None
    if fuse == "mean":
        total = total / len(maps)
    return finished(total, finish._replace(size=None, relu=False))
