"""ROAD's linear imputation: a sparse system per image, solved for a batch on its device.

With N(u) the sum over a pixel's eight neighbours, twice the direct ones and once the diagonal ones, and s = N(1), which
is 12 away from the border, a removed pixel satisfies s u = N(u). The matrix is symmetric and positive definite as long
as a pixel is kept, so that conjugate gradients solve it. They are preconditioned by a multigrid cycle, without which
the number of iterations grows with the size of the holes: two hundred and more where the half of 224 x 224 is missing,
in place of twenty.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import checked_images

__all__ = ["linear_imputation"]

DAMPING = 0.8  # of Jacobi's steps: below 1, which makes every step contract on any mask
COARSEST = 4  # pixels of the longer side, so few that the equations are inverted
CACHED = 1 << 19  # elements that a CPU works on at a time: a few vectors of so many stay in its cache
ITERATIONS = 500  # far above the forty that the largest holes need


def linear_imputation(images: Tensor, removed: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Images whose removed pixels are the weighted means of their neighbours, removed ones included.

    The weights are 1/6 for the four direct neighbours and 1/12 for the four diagonal ones; at the border the mean is
    over the neighbours that exist (Rong et al. 2022, https://arxiv.org/abs/2202.00449, without its noise,
    which `road` adds). The equations of an image are solved together, by conjugate gradients in double precision.
    pytorch-grad-cam and Quantus solve the same by a sparse factorisation on the CPU, image by image.

    Args:
        images: [N, C, H, W] of floats.
        removed: [N, H, W], True for a pixel to be filled in; at least one pixel of an image is kept.
        tolerance: the largest error, as a part of the largest difference of a channel's kept pixels around the holes
            from their mean. It is the multigrid cycle's estimate; measured errors were up to seven times as large.

    Returns:
        [N, C, H, W], of the images' dtype and device; kept pixels are the same bits, and removed
        ones' values do not matter. NaN around a hole fills the holes of its channel.

    Raises:
        ValueError: shapes or devices that do not fit, an image of which nothing is kept, a tolerance out of range.
        TypeError: no tensors, images that are not floats, `removed` that is not boolean.
        RuntimeError: no solution of this tolerance was reached.
    """
    checked_images(images)
    if not isinstance(removed, Tensor) or removed.dtype != torch.bool:
        came = removed.dtype if isinstance(removed, Tensor) else type(removed).__name__
        raise TypeError(f"removed is {came}; accepted is a boolean tensor [N, H, W]")
    shape = (images.shape[0], *images.shape[2:])
    if removed.shape != shape or removed.device != images.device:
        raise ValueError(
            f"removed has shape {tuple(removed.shape)} on {removed.device}; accepted is {shape} on {images.device}"
        )
    if not isinstance(tolerance, int | float) or not 1e-12 <= tolerance < 1:
        raise ValueError(f"tolerance is {tolerance!r}; accepted is a number from 1e-12 to below 1")
    whole = removed.flatten(1).all(1)
    if bool(whole.any()):
        raise ValueError(f"removed has no pixel left of image {int(whole.int().argmax())}; accepted is one and more")
    filled = images.detach().clone()
    several = max(1, CACHED // images[0].numel()) if images.device.type == "cpu" and len(images) else len(images)
    # Autocast would multiply by the inverse in half precision.
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        for start in range(0, len(images), several):
            _fill(filled[start : start + several], removed[start : start + several, None], tolerance)
    return filled


def _fill(images: Tensor, hole: Tensor, tolerance: float) -> None:
    """Fills in, in place, within the smallest window that holds all holes and their neighbours."""
    window = [slice(None), slice(None)]
    for axis in (2, 3):
        found = hole.transpose(axis, 0).flatten(1).any(1).nonzero()
        if not len(found):
            return
        window.append(slice(max(int(found[0]) - 1, 0), int(found[-1]) + 2))
    part, gap = images[tuple(window)], hole[tuple(window)]
    part.copy_(torch.where(gap, _solve(part.double(), gap, tolerance).to(images.dtype), part))


def _solve(images: Tensor, hole: Tensor, tolerance: float) -> Tensor:
    """Conjugate gradients for every channel of its own; where a channel is solved its solution stays."""
    unknown = hole.double()
    diagonal = _neighbours(torch.ones_like(unknown))
    levels = _levels(hole)
    # Around the mean, so that a solution's digits are spent on what differs.
    mean = images.masked_fill(hole, 0).sum((2, 3), keepdim=True) / (1 - unknown).sum((2, 3), keepdim=True)
    known = (images - mean).masked_fill(hole, 0)
    goal = tolerance * known.abs().amax((2, 3), keepdim=True)
    solution, residual = torch.zeros_like(known), unknown * _neighbours(known)
    direction = squared = torch.zeros_like(goal)
    for _ in range(ITERATIONS):
        # The cycle is close to the matrix's inverse, and so what it returns is close to the solution's error.
        error = _cycle(levels, residual.float()).double()
        solved = ~(error.abs().amax((2, 3), keepdim=True) > goal)  # NaN too
        if bool(solved.all()):
            return solution + known + mean
        before, squared = squared, (residual * error).sum((2, 3), keepdim=True)
        direction = error.addcmul_(torch.where(before > 0, squared / before, 0), direction)
        image = unknown * (diagonal * direction - _neighbours(direction))
        curvature = (direction * image).sum((2, 3), keepdim=True)
        step = torch.where(solved, 0, squared / curvature)
        solution.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
    raise RuntimeError(f"tolerance {tolerance} was not reached in {ITERATIONS} iterations")


class _Levels(NamedTuple):
    """The grids of the multigrid cycle, from the image's own to the coarsest."""

    unknown: list[Tensor]
    """[N, 1, h, w] each: 1 where there is something to solve for, 0 elsewhere."""
    step: list[Tensor]
    """[N, 1, h, w] of all but the coarsest, for damped Jacobi: DAMPING over the matrix's diagonal, 0 where nothing is
    unknown."""
    inverse: Tensor
    """[N, h * w, h * w]: of the coarsest grid's matrix."""


def _levels(hole: Tensor) -> _Levels:
    """Each grid has half the resolution of the one before.

    A coarse pixel is unknown if one of its four is. Towards its unknown neighbours it has the image's weights, since in
    two dimensions the energy of a difference does not depend on the grid; towards what is kept it has its pixels'.
    """
    unknown = hole.float()
    held = unknown * _neighbours(1 - unknown)  # the weights towards kept neighbours
    grids, steps = [unknown], []
    while max(unknown.shape[2:]) > COARSEST:
        diagonal = unknown * _neighbours(unknown) + held
        steps.append(torch.where(unknown > 0, DAMPING / diagonal, 0))
        unknown, held = F.max_pool2d(_even(unknown), 2), 4 * F.avg_pool2d(_even(held), 2)
        grids.append(unknown)
    _, _, height, width = unknown.shape
    unit = torch.eye(height * width, dtype=unknown.dtype, device=unknown.device).reshape(1, -1, height, width)
    diagonal = torch.where(unknown > 0, _neighbours(unknown) + held, 1)
    matrix = (diagonal * unit - unknown * _neighbours(unknown * unit)).flatten(2)
    inverse, _ = torch.linalg.inv_ex(matrix)
    return _Levels(grids, steps, inverse)


def _cycle(levels: _Levels, residual: Tensor, at: int = 0) -> Tensor:
    """About the matrix's inverse times the residual: one V-cycle, the same in either direction (symmetric).

    For e, which is 0 where nothing is unknown, a damped step from e is (1 - DAMPING) e + step (residual + N(e)).
    """
    if at == len(levels.step):
        return (residual.flatten(2) @ levels.inverse).reshape(residual.shape)
    unknown, step = levels.unknown[at], levels.step[at]
    error = step * residual
    left = (1 - DAMPING) * residual + unknown * _neighbours(error)
    correction = _cycle(levels, levels.unknown[at + 1] * _halved(left), at + 1)
    height, width = residual.shape[2:]
    error = error + unknown * _doubled(correction)[..., :height, :width]
    return (1 - DAMPING) * error + step * (residual + _neighbours(error))


def _neighbours(maps: Tensor) -> Tensor:
    """The sum over the eight neighbours, the direct ones twice; beyond the border there is 0."""
    padded = F.pad(maps, (1, 1, 1, 1))
    rows = (padded[..., :-2] + padded[..., 2:]).add_(padded[..., 1:-1], alpha=2)
    return (rows[..., :-2, :] + rows[..., 2:, :]).add_(rows[..., 1:-1, :], alpha=2).sub_(maps, alpha=4)


def _even(maps: Tensor) -> Tensor:
    height, width = maps.shape[2:]
    return F.pad(maps, (0, width % 2, 0, height % 2))


def _halved(maps: Tensor) -> Tensor:
    """The transpose of `_doubled`: each coarse pixel collects from 4 x 4 what it would give to them."""
    padded = F.pad(_even(maps), (1, 1, 1, 1)) / 16
    even, odd = padded[..., ::2], padded[..., 1::2]
    rows = (even[..., :-1] + odd[..., 1:]).add_(odd[..., :-1] + even[..., 1:], alpha=3)
    even, odd = rows[..., ::2, :], rows[..., 1::2, :]
    return (even[..., :-1, :] + odd[..., 1:, :]).add_(odd[..., :-1, :] + even[..., 1:, :], alpha=3)


def _doubled(maps: Tensor) -> Tensor:
    """Bilinear, half-pixel centres: 3/4 of the pixel that covers a place and 1/4 of the next, in either direction."""
    padded = F.pad(maps, (1, 1, 1, 1)) / 16
    middle = 3 * padded[..., 1:-1]
    rows = torch.stack((middle + padded[..., :-2], middle + padded[..., 2:]), -1).flatten(-2)
    middle = 3 * rows[..., 1:-1, :]
    return torch.stack((middle + rows[..., :-2, :], middle + rows[..., 2:, :]), -2).flatten(-3, -2)
