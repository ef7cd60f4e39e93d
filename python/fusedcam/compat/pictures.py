"""The pictures that pytorch-grad-cam and torch-cam draw, from NumPy and PIL images."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import native

__all__ = ["blend_mask", "draw_stretched", "opencv_table"]

Bytes = NDArray[np.uint8]


def draw_stretched(image: Any, mask: Any, colours: Callable[[], Bytes], image_weight: float) -> Bytes | None:
    """pytorch-grad-cam's picture: colours[255 * mask, cut off], blended in floats, divided by the brightest value.

    Args:
        image: [H, W, 3] floats, at most 1.
        mask: [H, W] floats.
        colours: to the table [256, 3].
        image_weight: the image's share.

    Returns:
        uint8 [H, W, 3]; None where the arrays are of another kind, an image is brighter than 1, or there is no
        brightest value, for which the peer's own function has its answers.
    """
    floats = (np.float32, np.float64)
    if not (isinstance(image, np.ndarray) and image.dtype in floats and image.ndim == 3 and image.shape[2] == 3):
        return None
    if not (isinstance(mask, np.ndarray) and mask.dtype in floats and mask.shape == image.shape[:2] and mask.size):
        return None
    if type(image_weight) not in (int, float) or not 0 <= image_weight <= 1:
        return None
    with np.errstate(invalid="ignore"):
        index = np.uint8(255 * mask)
    found = colours()
    if found.shape != (256, 3):
        return None
    table = np.zeros((256, 4), image.dtype)
    table[:, :3] = (1 - image_weight) * (np.float32(found) / 255)
    picture, of_image, of_picture = native.overlay_stretched(
        np.ascontiguousarray(image), np.ascontiguousarray(index), table, image_weight
    )
    return picture if of_image <= 1 and 0 < of_picture < np.inf else None


@lru_cache
def opencv_table(colormap: Any) -> Any:
    """OpenCV's colours [256, 3], blue first. It takes longer over them than a picture of ours takes."""
    import cv2

    return cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], colormap)[:, 0]


def _table(colormap: Any) -> Bytes:
    """A matplotlib colour map's N colours, then those below, above, and of NaN."""
    outside: Bytes = colormap(np.array([-1.0, 2.0, np.nan]), bytes=True)
    return np.concatenate([colormap(np.arange(colormap.N), bytes=True), outside])[:, :3]


def blend_mask(image: Any, mask: Any, colormap: Any, alpha: float) -> Any:
    """torch-cam's picture of a PIL image under a PIL mask of its size: colours[N * mask ** 2, cut off], blended by PIL.

    The square of a mask of 8 bits is taken modulo 256, and is the colour itself.
    """
    from PIL.Image import blend, fromarray

    values, count, table = np.asarray(mask), colormap.N, _table(colormap)
    cell = values * values
    if cell.dtype.kind == "f":
        cell *= count
    # PIL looks up bytes faster than NumPy. Mostly the colour above is the last one; NaN compares with nothing.
    above_is_last = (table[count + 1] == table[count - 1]).all()
    if count <= 256 and cell.min() >= 0 and (cell.max() < count or (above_is_last and cell.max() >= count)):
        colours = fromarray(np.minimum(cell, count - 1).astype(np.uint8))
        colours.putpalette(table[:count].tobytes())
        return blend(colours.convert("RGB"), image.convert("RGB"), alpha)
    if cell.dtype.kind == "f":
        cell[cell == count] = count - 1
    unknown = np.isnan(cell)
    index = np.where(unknown | (cell < 0) | (cell >= count), 0, cell).astype(np.intp)
    index[cell < 0], index[cell >= count], index[unknown] = count, count + 1, count + 2
    return blend(fromarray(table[index]), image.convert("RGB"), alpha)
