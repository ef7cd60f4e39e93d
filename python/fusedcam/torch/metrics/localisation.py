"""Pointing games: whether a heatmap's maximum, or its mass, lies on the object. The model is not asked."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .checks import checked_heatmaps
from .regions import region_masks

__all__ = ["energy_pointing_game", "grid_pointing_game", "mosaic", "pointing_game"]


def pointing_game(heatmaps: Tensor, regions: Tensor | Sequence[Tensor], *, tolerance: float = 15) -> Tensor:
    """Whether a heatmap's maximum lies on the object, or within `tolerance` pixels of it.

    Zhang et al. 2018, https://arxiv.org/abs/1608.00507: a hit or a miss per image and class; the mean of
    hits over the images of a class, then over classes, is the paper's accuracy, and high is good. The distance is from
    the middle of the maximum's pixel to the middle of the region's nearest one, as in TorchRay, which counts less than
    `tolerance` where this counts up to it. Of equal maxima the first in rows from the top left points; a constant map
    points nowhere and misses.

    Args:
        heatmaps: [N, H, W] or [N, K, H, W], finite.
        regions: the object of each heatmap. Boolean masks of the heatmaps' shape; or boxes (left, top, right, bottom)
            in pixels, right and bottom beyond the last: [N, 4] or [N, K, 4], or a sequence of N tensors [B, 4] with
            the boxes of several instances. A box holds the pixels whose middles it holds.
        tolerance: in pixels; the paper's is 15.

    Returns:
        [N] or [N, K], boolean, on the heatmaps' device.

    Raises:
        ValueError: shapes that do not fit, boxes that are empty or reach beyond the image, an image without a region,
            heatmaps with NaN.
        TypeError: arguments of another type.
    """
    checked_heatmaps(heatmaps)
    if not isinstance(tolerance, int | float) or isinstance(tolerance, bool) or not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance!r}; accepted is a number of pixels from 0")
    masks = region_masks(regions, heatmaps)
    width = heatmaps.shape[-1]
    flat = heatmaps.flatten(-2)
    maxima = flat.amax(-1, keepdim=True)
    rank = torch.arange(flat.shape[-1], 0, -1, device=flat.device)  # argmax does not say which of equal ones it takes
    place = ((flat == maxima) * rank).argmax(-1)[..., None, None]
    rows, columns = (torch.arange(extent, device=heatmaps.device) for extent in heatmaps.shape[-2:])
    squared = (rows[:, None] - place // width) ** 2 + (columns - place % width) ** 2
    hit = (masks & (squared <= tolerance**2)).flatten(-2).any(-1)
    return hit & (maxima[..., 0] > flat.amin(-1))


def energy_pointing_game(heatmaps: Tensor, regions: Tensor | Sequence[Tensor]) -> Tensor:
    """The share of a heatmap's positive values that lies on the object: 1 is all.

    Wang et al. 2020 (energy-based pointing game), https://arxiv.org/abs/1910.01279: the sum over the box divided by the
    sum over the image. Negative values, which the paper's maps do not have, count as 0; a map without a positive one
    gets 0.

    Args:
        heatmaps, regions: as in `pointing_game`.

    Returns:
        [N] or [N, K], from 0 to 1, of the heatmaps' dtype and device.

    Raises:
        ValueError, TypeError: as `pointing_game`.
    """
    checked_heatmaps(heatmaps)
    masks = region_masks(regions, heatmaps)
    positive = heatmaps.detach().double().clamp(min=0)
    inside, whole = (positive * masks).sum((-2, -1)), positive.sum((-2, -1))
    return torch.where(whole > 0, inside / whole, 0).to(heatmaps.dtype)


def mosaic(tiles: Tensor | Sequence[Tensor], grid: tuple[int, int] = (2, 2)) -> Tensor:
    """Images side by side, row by row: the input of the grid pointing game.

    Args:
        tiles: [rows * columns, C, H, W], or a sequence of so many tensors [1, C, H, W].
        grid: (rows, columns).

    Returns:
        [1, C, rows * H, columns * W], a batch of one image.

    Raises:
        ValueError: another number of tiles, a grid without tiles.
        TypeError: arguments of another type.
    """
    rows, columns = _checked_grid(grid)
    if isinstance(tiles, Sequence) and tiles and all(isinstance(tile, Tensor) for tile in tiles):
        if tiles[0].shape[:1] != (1,) or any(tile.shape != tiles[0].shape for tile in tiles):
            shapes = [tuple(tile.shape) for tile in tiles]
            raise ValueError(f"tiles has shapes {shapes}; accepted is the same [1, C, H, W] for each")
        tiles = torch.cat([*tiles])
    if not isinstance(tiles, Tensor):
        raise TypeError(f"tiles is of type {type(tiles).__name__}; accepted is a tensor [rows * columns, C, H, W]")
    if tiles.ndim != 4 or tiles.shape[0] != rows * columns:
        raise ValueError(f"tiles has shape {tuple(tiles.shape)}; accepted is [{rows * columns}, C, H, W]")
    _, channels, height, width = tiles.shape
    lines = tiles.reshape(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return lines.reshape(1, channels, rows * height, columns * width)


def grid_pointing_game(heatmaps: Tensor, grid: tuple[int, int] = (2, 2)) -> Tensor:
    """The share of each class's positive attribution that lies in the class's own cell of a mosaic.

    Böhle et al. 2021 (localisation metric), https://arxiv.org/abs/2104.00032: images of different classes form
    one; the map of the class of cell k is summed over that cell and divided by its sum over all. 1 is
    all, and a map that knows nothing has 1 / (rows * columns). A map without a positive value gets 0, as in the paper's
    code.

        image = mosaic(tiles)
        grid_pointing_game(GradCAM(model)(image, targets=[classes]))

    Args:
        heatmaps: [rows * columns, H, W] or [N, rows * columns, H, W], finite: of one mosaic or several, the k-th map
            being that of the class of the k-th cell, row by row.
        grid: (rows, columns), which divide H and W.

    Returns:
        [rows * columns] or [N, rows * columns], from 0 to 1, of the heatmaps' dtype and device.

    Raises:
        ValueError: another number of maps than cells, cells that are not of one size, heatmaps with NaN.
        TypeError: arguments of another type.
    """
    rows, columns = _checked_grid(grid)
    checked_heatmaps(heatmaps)
    cells = rows * columns
    *_, maps, height, width = heatmaps.shape
    if maps != cells:
        raise ValueError(f"heatmaps has {maps} maps for the {cells} cells of a mosaic; accepted is one for each")
    if height % rows or width % columns:
        raise ValueError(f"heatmaps has {height} x {width} pixels; accepted are multiples of the grid {grid}")
    positive = heatmaps.detach().double().clamp(min=0)
    inside = positive.reshape(*heatmaps.shape[:-2], rows, height // rows, columns, width // columns)
    sums = inside.sum((-3, -1)).flatten(-2)  # [..., maps, cells]
    own, whole = sums.diagonal(dim1=-2, dim2=-1), sums.sum(-1)
    return torch.where(whole > 0, own / whole, 0).to(heatmaps.dtype)


def _checked_grid(grid: Any) -> tuple[int, int]:
    if not isinstance(grid, tuple | list) or len(grid) != 2 or not all(type(count) is int for count in grid):
        raise TypeError(f"grid is {grid!r}; accepted is (rows, columns)")
    if min(grid) < 1:
        raise ValueError(f"grid is {grid!r}; accepted is (rows, columns) from 1")
    return grid[0], grid[1]
