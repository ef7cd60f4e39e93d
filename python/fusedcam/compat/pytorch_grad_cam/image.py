"""Pictures and scaled maps, by NumPy arrays, and by tensors of any device."""

from typing import Any

import numpy as np
import torch

from ... import functional
from .. import pgc_maps
from ..pictures import draw_stretched, opencv_table

__all__ = ["scale_cam_image", "show_cam_on_image"]


def scale_cam_image(cam: Any, target_size: tuple[int, int] | None = None) -> Any:
    """Maps [N, H, W] each from 0 to nearly 1, resampled bilinearly to target_size, (width, height)."""
    maps = np.asarray(cam, np.float32) if isinstance(cam, list | tuple) else cam
    return pgc_maps.scaled(maps, None if target_size is None else (target_size[1], target_size[0]))


def show_cam_on_image(
    img: Any, mask: Any, use_rgb: bool = False, colormap: Any = "opencv-jet", image_weight: float = 0.5
) -> Any:
    """The map in colours over the image, stretched so that the brightest value is white.

    Args:
        img: [H, W, 3] floats from 0 to 1, a NumPy array, or a tensor on any device.
        mask: [H, W] floats from 0 to 1, of the same kind.
        use_rgb: whether img is in the order red, green, blue, and the picture shall be.
        colormap: as in `fusedcam.overlay`, or the number of one of OpenCV's, which is asked for it.
        image_weight: the image's share, from 0 to 1.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: shapes, types or values that do not fit.
    """
    accepted = (
        "accepted are img [H, W, 3] of float32 or float64 from 0 to 1, mask [H, W] of floats, image_weight 0 to 1"
    )
    if isinstance(colormap, int) and not isinstance(colormap, bool):
        table = opencv_table(colormap)[:, ::-1]
    else:  # one row of colours by the op that colours maps
        table = functional.colorize(np.linspace(0, 1, 256)[None], colormap=colormap)[0]
    table = table if use_rgb else table[:, ::-1]
    if isinstance(img, torch.Tensor):
        return _on_device(img, mask, table, image_weight, accepted)
    picture = draw_stretched(img, mask, lambda: table, image_weight)
    if picture is None:
        raise ValueError(f"show_cam_on_image: {accepted}")
    return picture


def _on_device(img: torch.Tensor, mask: Any, table: Any, weight: float, accepted: str) -> torch.Tensor:
    if (
        not isinstance(mask, torch.Tensor)
        or mask.shape != img.shape[:2]
        or img.shape[2:] != (3,)
        or not 0 <= weight <= 1
    ):
        raise ValueError(f"show_cam_on_image: {accepted}")
    colours = torch.from_numpy(np.float32(table) / 255).to(img.device)
    if not img.is_floating_point() or not mask.is_floating_point() or bool(img.amax() > 1):
        raise ValueError(f"show_cam_on_image: {accepted}")
    blended = (1 - weight) * colours[(255 * mask).long() & 255] + weight * img  # what exceeds a byte wraps
    return (255 * (blended / blended.amax())).to(torch.uint8)
