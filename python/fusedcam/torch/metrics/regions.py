"""Where an object is: masks, or boxes made into masks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["region_masks"]

_ACCEPTED = (
    "boolean masks of the heatmaps' shape, boxes [N, 4] or [N, K, 4], or a sequence of N tensors [B, 4] for heatmaps "
    "[N, H, W]"
)


def region_masks(regions: Any, heatmaps: Tensor) -> Tensor:
    """Boolean masks of the heatmaps' shape, none of which is empty."""
    if isinstance(regions, Tensor) and regions.dtype == torch.bool:
        if regions.shape != heatmaps.shape:
            raise ValueError(
                f"regions has masks {tuple(regions.shape)} for heatmaps {tuple(heatmaps.shape)}; "
                f"accepted is {_ACCEPTED}"
            )
        if regions.device != heatmaps.device:
            raise ValueError(f"regions is on {regions.device}; accepted is the device of heatmaps, {heatmaps.device}")
        masks = regions
    elif isinstance(regions, Tensor):
        if regions.shape != (*heatmaps.shape[:-2], 4):
            raise ValueError(
                f"regions has boxes {tuple(regions.shape)} for heatmaps {tuple(heatmaps.shape)}; "
                f"accepted is {_ACCEPTED}"
            )
        masks = _boxes(regions, heatmaps)
    elif isinstance(regions, Sequence) and all(isinstance(boxes, Tensor) for boxes in regions):
        if heatmaps.ndim != 3 or len(regions) != len(heatmaps):
            raise ValueError(
                f"regions has boxes for {len(regions)} images and heatmaps has shape {tuple(heatmaps.shape)}; "
                f"accepted is {_ACCEPTED}"
            )
        for number, boxes in enumerate(regions):
            if boxes.ndim != 2 or boxes.shape[1] != 4:
                raise ValueError(f"regions has boxes {tuple(boxes.shape)} for image {number}; accepted is [B, 4]")
        masks = torch.stack([_boxes(boxes, heatmaps).any(0) for boxes in regions]) if regions else heatmaps.bool()
    else:
        raise TypeError(f"regions is of type {type(regions).__name__}; accepted is {_ACCEPTED}")
    empty = ~masks.flatten(-2).any(-1).flatten()
    if masks.numel() and bool(empty.any()):
        raise ValueError(f"regions has no pixel for heatmap {int(empty.int().argmax())}; accepted is one and more")
    return masks


def _boxes(boxes: Tensor, heatmaps: Tensor) -> Tensor:
    """[..., 4] as masks [..., H, W]: the pixels whose middles a box (left, top, right, bottom) holds."""
    if boxes.dtype == torch.bool or boxes.is_complex():
        raise TypeError(f"regions has boxes of {boxes.dtype}; accepted are ints or floats")
    height, width = heatmaps.shape[-2:]
    corners = boxes.detach().to(heatmaps.device, torch.float64)
    left, top, right, bottom = corners.unbind(-1)
    good = (left >= 0) & (top >= 0) & (left < right) & (top < bottom) & (right <= width) & (bottom <= height)
    if not bool(good.all()):  # NaN too
        wrong = corners[~good][0].tolist()
        raise ValueError(
            f"regions has the box {wrong}; accepted is (left, top, right, bottom) with 0 <= left < right <= {width} "
            f"and 0 <= top < bottom <= {height}"
        )
    rows, columns = (torch.arange(extent, device=heatmaps.device) + 0.5 for extent in (height, width))
    tall = (rows >= top[..., None]) & (rows < bottom[..., None])
    wide = (columns >= left[..., None]) & (columns < right[..., None])
    return tall[..., :, None] & wide[..., None, :]
