"""Colour maps: a name or a table in, 256 rows of red, green and blue out.

The tables in colormaps.npz are matplotlib's (viridis and inferno: CC0; turbo: Google, Apache-2.0; jet and grey), and
OpenCV's own jet, whose ramps are shifted; the tests compare them with those libraries.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = ("jet", "turbo", "viridis", "inferno", "grey", "opencv-jet")

_SHAPE = (256, 3)


@cache
def _tables() -> dict[str, NDArray[np.uint8]]:
    with np.load(Path(__file__).with_name("colormaps.npz")) as archive:
        return {name: np.ascontiguousarray(archive[name]) for name in NAMES}


def table(op: str, colormap: Any) -> NDArray[np.uint8]:
    """The [256, 3] uint8 table of `colormap`: one of NAMES, or an array or nested list of 256 colours, as integers
    from 0 to 255 or as floats from 0 to 1. `op` names the caller in refusals."""
    if isinstance(colormap, str):
        if colormap not in NAMES:
            raise ValueError(
                f"{op}: colormap is {colormap!r}; accepted: {', '.join(map(repr, NAMES))}, or a table [256, 3]"
            )
        return _tables()[colormap]
    try:
        rows = np.asarray(colormap)
    except Exception as error:
        raise TypeError(
            f"{op}: colormap is a {type(colormap).__name__}; accepted: a name or a table [256, 3]"
        ) from error
    if rows.dtype.kind not in "uif":
        raise TypeError(
            f"{op}: colormap is a {type(colormap).__name__} of dtype {rows.dtype}; accepted: a name, or a table "
            "[256, 3] of integers from 0 to 255 or floats from 0 to 1"
        )
    if rows.shape != _SHAPE:
        raise ValueError(f"{op}: colormap has shape {rows.shape}; accepted is a table of shape {_SHAPE}")
    if rows.dtype == np.uint8:
        return np.ascontiguousarray(rows)
    top = 1 if rows.dtype.kind == "f" else 255
    if not ((rows >= 0) & (rows <= top)).all():
        raise ValueError(f"{op}: colormap of dtype {rows.dtype} has values outside 0 to {top}")
    return np.floor(rows.astype(np.float64) * (255 / top) + 0.5).astype(np.uint8)
