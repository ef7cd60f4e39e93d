"""Refusals that the measures share."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["check_finite", "checked_count", "checked_heatmaps", "checked_images"]


def checked_images(images: Any) -> Tensor:
    """A tensor [N, C, H, W] of floats."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise TypeError(f"images is {_kind(images)}; accepted is a floating-point tensor [N, C, H, W]")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images has shape {tuple(images.shape)}; accepted is [N, C, H, W]")
    return images


def checked_heatmaps(heatmaps: Any, images: Tensor | None = None) -> Tensor:
    """A tensor [N, H, W] or [N, K, H, W] of finite floats; where there are images, of their N, H, W and device."""
    if not isinstance(heatmaps, Tensor) or not heatmaps.is_floating_point():
        raise TypeError(f"heatmaps is {_kind(heatmaps)}; accepted is a floating-point tensor [N, H, W] or [N, K, H, W]")
    if heatmaps.ndim not in (3, 4) or 0 in heatmaps.shape[1:]:
        raise ValueError(f"heatmaps has shape {tuple(heatmaps.shape)}; accepted is [N, H, W] or [N, K, H, W]")
    if images is not None:
        n, _, height, width = images.shape
        if heatmaps.shape[0] != n or heatmaps.shape[-2:] != (height, width):
            raise ValueError(
                f"heatmaps has shape {tuple(heatmaps.shape)} for images {tuple(images.shape)}; accepted is "
                f"[{n}, {height}, {width}] or [{n}, K, {height}, {width}] (fusedcam.resize brings maps to that size)"
            )
        if heatmaps.device != images.device:
            raise ValueError(f"heatmaps is on {heatmaps.device}; accepted is the device of images, {images.device}")
    check_finite(heatmaps)
    return heatmaps


def check_finite(heatmaps: Tensor) -> None:
    """An order or a share of values that are NaN or infinite would be arbitrary."""
    finite = heatmaps.isfinite().flatten(1).all(1) if heatmaps.numel() else torch.ones(1, dtype=torch.bool)
    if not bool(finite.all()):
        raise ValueError(f"heatmaps has NaN or infinite values in image {int((~finite).int().argmax())}")


def checked_count(name: str, value: Any) -> int:
    """A positive int."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; accepted is an int from 1")
    if value < 1:
        raise ValueError(f"{name} is {value}; accepted is an int from 1")
    return value


def _kind(value: Any) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
