"""Where the pixels are in what a layer returns: maps of any rank, channels last, tokens on a grid."""

import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from torch import Tensor

__all__ = ["IMAGES", "Form", "Grid", "Layout", "checked_form"]

Layout = Literal["first", "last"]

_AXES = {1: "L", 2: "H, W", 3: "D, H, W"}

_PREFIXES = (0, 1, 2, 4, 5)
"""How many tokens may come before those of the grid: none; a class token; that and one for distillation; four
registers; a class token and four registers."""


class Grid(NamedTuple):
    """Where tokens [N, T, C] lie."""

    size: tuple[int, int]
    """(height, width); the tokens run along its rows."""
    skipped: int
    """How many tokens come before them."""


class Form(NamedTuple):
    """What counts as a map."""

    spatial: int = 2
    """How many dimensions have pixels."""
    layout: Layout = "first"
    """Where the channels are."""
    tokens: tuple[int, int] | None = None
    """The grid of tokens, (height, width); with it, tokens [N, T, C] alone are meant."""

    @property
    def accepted(self) -> str:
        """In words, for an error message."""
        if self.tokens:
            return "tokens [N, T, C] of floats"
        return f"a map {self.shape}{' or tokens [N, T, C]' if self.spatial == 2 else ''} of floats"

    @property
    def shape(self) -> str:
        """A map's, in words."""
        axes = _AXES[self.spatial]
        return f"[N, C, {axes}]" if self.layout == "first" else f"[N, {axes}, C]"

    @property
    def extent(self) -> str:
        """How many pixels a map has, in words."""
        return _AXES[self.spatial].replace(",", " *")

    def is_map(self, tensor: Tensor, n: int) -> bool:
        """Whether it is one with a dimension for each of space."""
        return self.tokens is None and tensor.ndim == self.spatial + 2 and _is_batch(tensor, n)

    def are_tokens(self, tensor: Tensor, n: int) -> bool:
        return self.spatial == 2 and tensor.ndim == 3 and _is_batch(tensor, n)

    def channel_axis(self, output: Tensor, n: int) -> int:
        """Of a map, or of tokens [N, T, C]."""
        return 1 if self.layout == "first" and self.is_map(output, n) else output.ndim - 1

    def pixels(self, maps: Tensor) -> int:
        """How many a map has."""
        extents = maps.shape[2:] if self.layout == "first" else maps.shape[1:-1]
        return math.prod(extents)

    def grid(self, output: Tensor, x: Any) -> Grid | None:
        """Of tokens; None for a map with a dimension for each of space.

        Raises:
            ValueError: no grid fits the tokens, or several do.
        """
        if output.ndim != 3 or self.spatial != 2:
            return None
        count = output.shape[1]
        if self.tokens is not None:
            height, width = self.tokens
            if height * width > count:
                raise ValueError(
                    f"tokens is {self.tokens}, a grid of {height * width}, but the layer returned {count} tokens, "
                    f"{list(output.shape)}"
                )
            return Grid(self.tokens, count - height * width)
        what = f"the layer returned {list(output.shape)}, taken for tokens [N, T, C] with T = {count}"
        if not isinstance(x, Tensor) or x.ndim != 4:
            raise ValueError(
                f"{what}, and x is no batch of images [N, C, H, W] whose shape would tell their grid; pass "
                "tokens=(height, width), or spatial=1 for signals [N, C, L]"
            )
        found = _grids(count, x.shape[-2], x.shape[-1])
        if len(found) != 1:
            fits = " or ".join(f"{h} x {w} after {skipped}" for (h, w), skipped in found) or "no grid"
            raise ValueError(
                f"{what}; {fits} fits images of {x.shape[-2]} x {x.shape[-1]} after {_listed(_PREFIXES)} other tokens; "
                "pass tokens=(height, width)"
            )
        return found[0]

    def channels_first(self, tensor: Tensor, grid: Grid | None) -> Tensor:
        """A view [..., C, *S] of what the layer returned, or of its gradients."""
        if grid is not None:
            rows = tensor[..., grid.skipped :, :]
            return rows.reshape(*rows.shape[:-2], *grid.size, rows.shape[-1]).movedim(-1, -3)
        return tensor if self.layout == "first" else tensor.movedim(-1, -1 - self.spatial)


IMAGES = Form()


def checked_form(spatial: Any, layout: Any, tokens: Any) -> Form:
    """That of a constructor's arguments.

    Raises:
        ValueError, TypeError: naming the argument that does not fit.
    """
    if isinstance(spatial, bool) or not isinstance(spatial, int):
        raise TypeError(f"spatial is {spatial!r}; accepted: 1, 2, 3")
    if spatial not in _AXES:
        raise ValueError(f"spatial is {spatial}; accepted: 1, 2, 3")
    if layout not in ("first", "last"):
        raise ValueError(f'layout is {layout!r}; accepted: "first", "last"')
    if tokens is None:
        return Form(spatial, layout)
    accepted = "accepted is (height, width), two ints of at least 1, or None"
    if not isinstance(tokens, list | tuple) or any(isinstance(e, bool) or not isinstance(e, int) for e in tokens):
        raise TypeError(f"tokens is {tokens!r}; {accepted}")
    if len(tokens) != 2 or min(tokens) < 1:
        raise ValueError(f"tokens is {tokens!r}; {accepted}")
    if spatial != 2:
        raise ValueError(f"tokens is {tokens!r} and spatial is {spatial}; tokens on a grid have spatial=2")
    return Form(spatial, layout, (tokens[0], tokens[1]))


def _is_batch(tensor: Tensor, n: int) -> bool:
    return tensor.shape[0] == n and tensor.is_floating_point()


@lru_cache(maxsize=256)
def _grids(count: int, height: int, width: int) -> tuple[Grid, ...]:
    """Those of so many tokens that cut an image into square patches, with at least two of them."""
    found: set[Grid] = set()
    exact: set[Grid] = set()
    for skipped in _PREFIXES:
        area = count - skipped
        if area < 1 or (area == 1 and count > 1):
            continue
        if height == width:
            side = math.isqrt(area)
            if side * side == area:
                found.add(Grid((side, side), skipped))
            continue
        for patch in range(1, min(height, width) + 1):
            rows, columns = height // patch, width // patch
            if rows * columns == area:
                found.add(Grid((rows, columns), skipped))
                if not height % patch and not width % patch:
                    exact.add(Grid((rows, columns), skipped))
    # Patches that leave no rest are the rule.
    return tuple(sorted(exact or found))


def _listed(counts: tuple[int, ...]) -> str:
    return ", ".join(map(str, counts[:-1])) + f" or {counts[-1]}"
