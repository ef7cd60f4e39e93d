"""The batches of methods that run a model many times, one image's channels after the other, and its scores."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._batches import Progress, check_options, free_memory, rows_together, track
from ._frameworks import like, to_numpy, writable

__all__ = ["Ablate", "Mask", "Passes"]

Mask = Callable[[Any, Any, Any, NDArray[np.int64]], Any]
"""From an image, maps [B, H, W], a batch to write to or None, and the image's number and its maps' channels, to the
masked images [B, C, H', W']."""
Ablate = Callable[[int, NDArray[np.int64]], Any]
"""From an image's number and channels to the batch without these."""

_MOST_ROWS = 32  # where a batch's size is not given: on a CPU larger ones gain nothing


class Passes:
    """Runs `scores` on batches that hold one row for each channel tried.

    Args:
        op: the function's name, for messages.
        scores, images, activations, top_channels, batch_size, progress: the function's arguments; `images` is None
            where rows are activations.
    """

    def __init__(
        self,
        op: str,
        scores: Callable[[Any], Any],
        images: Any,
        activations: Any,
        top_channels: int | None,
        batch_size: int | None,
        progress: Progress,
    ):
        self.op, self.scores, self.images, self.given, self.progress = op, scores, images, activations, progress
        check_options(f"{op}: ", batch_size, top_channels, progress)
        if not callable(scores):
            raise TypeError(f"{op}: scores is of type {type(scores).__name__}; accepted is a callable")
        self.activations = self._checked("activations", activations, "[N, C, H, W]")
        self.N, self.C = self.activations.shape[:2]
        rows = self.activations[:1]
        if images is not None:
            rows = self._checked("images", images, "[N, C, H, W]")
            if len(rows) != self.N:
                raise ValueError(f"{op}: images are {len(rows)} but activations are of {self.N}; both are of N images")
        row_bytes = rows[:1].nbytes
        self.rows = rows_together(batch_size, row_bytes, 0 if batch_size else free_memory(), _MOST_ROWS)
        self.channels = np.tile(np.arange(self.C), (self.N, 1))
        if top_channels is not None and top_channels < self.C:
            spread = self.activations.astype(np.float64).std((2, 3))
            self.channels = np.sort(np.argsort(-spread, 1, kind="stable")[:, :top_channels], 1)
        self.classes: int | None = None
        """K of scores [B, K]; None of [B]."""

    def masked(self, title: str, ways: Sequence[Mask]) -> NDArray[np.float64]:
        """The scores of masked images, [N, k, K or 1] for k channels, on average over the ways to mask."""
        kept: Any = None

        def batch(way: Mask, n: int, channels: NDArray[np.int64]) -> Any:
            nonlocal kept
            first, count = int(channels[0]), len(channels)
            if channels[-1] == first + count - 1:
                maps = self.given[n, first : first + count]
            else:
                maps = like(self.activations[n, channels], self.given, self.given.dtype)
            made = way(self.images[n], maps, None if kept is None else kept[:count], np.array([n, *channels]))
            if kept is None and writable(made):
                kept = made
            return made

        return self._over(title, [partial(batch, way) for way in ways])

    def ablated(self, title: str, way: Ablate) -> NDArray[np.float64]:
        """The scores of ablated activations, [N, k, K or 1]."""
        return self._over(title, [way])

    def _over(self, title: str, ways: Sequence[Ablate]) -> NDArray[np.float64]:
        steps = [
            (way, n, self.channels[n, start : start + self.rows])
            for way in ways
            for n in range(self.N)
            for start in range(0, self.channels.shape[1], self.rows)
        ]
        found = [self.ask(way(n, channels), len(channels)) for way, n, channels in track(self.progress, steps, title)]
        if not found:
            return np.zeros((self.N, self.channels.shape[1], 1))
        mean: NDArray[np.float64] = np.concatenate(found).reshape(len(ways), *self.channels.shape, -1).mean(0)
        return mean

    def ask(self, batch: Any, count: int) -> NDArray[np.float64]:
        """The scores of a batch of so many rows, [B, K or 1]."""
        found = to_numpy(self.scores(batch))
        classes = found.shape[1] if found.ndim == 2 else None
        if found.ndim not in (1, 2) or found.shape[0] != count or classes == 0:
            raise ValueError(
                f"{self.op}: scores returned shape {found.shape}; accepted is [B] or [B, K] with B = {count}"
            )
        if found.dtype.kind not in "fiuV" or (found.dtype.kind == "V" and found.dtype.name != "bfloat16"):
            raise TypeError(f"{self.op}: scores returned dtype {found.dtype}; accepted are real numbers")
        self.classes = classes
        return found.astype(np.float64).reshape(count, -1)

    def weights(self, found: NDArray[np.float64], softmax: bool, baseline: Any) -> Any:
        """Score-CAM's from its scores: the softmax over channels, or by how much they exceed the baseline's."""
        if softmax:
            powers = np.exp(found - found.max(1, keepdims=True))
            return self.spread(powers / powers.sum(1, keepdims=True))
        if not self.N:
            return self.spread(found)
        shape = tuple(self.images.shape)
        values = to_numpy(baseline)
        try:
            values = np.broadcast_to(values, shape)
        except ValueError:
            raise ValueError(
                f"{self.op}: baseline has shape {values.shape}; accepted is a number or an image for images {shape}"
            ) from None
        if values.dtype.kind not in "fiuV":
            raise TypeError(f"{self.op}: dtype of baseline is {values.dtype}; accepted are real numbers")
        parts = [np.ascontiguousarray(values[start : start + self.rows]) for start in range(0, self.N, self.rows)]
        below = [self.ask(like(part, self.images, self.images.dtype), len(part)) for part in parts]
        return self.spread(found - np.concatenate(below)[:, None])

    def spread(self, weights: NDArray[np.float64]) -> Any:
        """Of the channels tried, [N, k, K or 1], to those of all, in the activations' framework and dtype."""
        all_channels = np.zeros((self.N, weights.shape[2], self.C))
        np.put_along_axis(all_channels, self.channels[:, None], weights.swapaxes(1, 2), 2)
        found = all_channels[:, 0] if self.classes is None else all_channels
        return like(np.ascontiguousarray(found), self.given, self.given.dtype)

    def _checked(self, name: str, array: Any, accepted: str) -> NDArray[Any]:
        if not hasattr(array, "dtype"):
            raise TypeError(f"{self.op}: {name} is a {type(array).__name__}; accepted is an array")
        values = to_numpy(array)
        if values.ndim != 4:
            raise ValueError(f"{self.op}: {name} have shape {values.shape}; accepted is {accepted}")
        if values.dtype.kind != "f" and values.dtype.name != "bfloat16":
            raise TypeError(f"{self.op}: dtype of {name} is {values.dtype}; accepted are floats")
        if name == "activations" and 0 in values.shape[1:]:
            raise ValueError(f"{self.op}: activations have shape {values.shape}; C, H and W must be at least 1")
        return values
