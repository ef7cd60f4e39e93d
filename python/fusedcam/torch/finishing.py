"""From scores at some resolution to heatmaps, by the same native call for every method that is no rule."""

from typing import TYPE_CHECKING

from torch import Tensor

from ..functional import cam

if TYPE_CHECKING:
    from .explainer import Finish

__all__ = ["finished"]


def finished(maps: Tensor, finish: "Finish") -> Tensor:
    """Scores [..., H, W], or of another rank, after the ReLU, resampling and normalisation that `finish` asks for."""
    flat = maps.reshape(-1, 1, *maps.shape[-finish.spatial :])  # each a layer of one channel, whose weight is 1
    heat: Tensor = cam(flat, weights=flat.new_ones((1, 1)), **finish._asdict())
    return heat.reshape(*maps.shape[: -finish.spatial], *heat.shape[1:])
