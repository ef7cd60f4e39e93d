"""Frames of a video on their way to a model: one by one or as batches, and the pictures that are drawn on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .outputs import describe

__all__ = ["Batch", "Buffers", "batches", "displayable", "kept"]


_OVERSHOT = 0.1
"""By how much resampling may leave the range of a picture, which is clamped."""


class Batch(NamedTuple):
    """Frames that are explained at once."""

    x: Tensor
    """[n, C, H, W]"""
    images: Sequence[Any] | None
    """Their n pictures, where they came with them."""
    first: int
    """The first one's number."""
    own: bool
    """Whether nobody else writes to x and the pictures; else they last until the next frame is asked for."""


class Buffers:
    """Two sets of results that take turns; none where `copy` says that every one is the caller's."""

    def __init__(self, copy: bool = False):
        self.copy = copy
        self._kept: tuple[dict[int, Any], dict[int, Any]] = ({}, {})

    def __call__(self, turn: int, i: int, form: Any, make: Callable[..., Tensor]) -> Tensor:
        """What `make(out=...)` returns, for the i-th of this turn, in the memory of the one before last of its form."""
        if self.copy:
            return make()
        kept = self._kept[turn % 2]
        before, out = kept.get(i, (None, None))
        if before == form:
            return make(out=out)
        kept[i] = form, make()
        result: Tensor = kept[i][1]
        return result


class _Failed(NamedTuple):
    """In place of a picture that could not be copied."""

    error: Exception


def batches(frames: Iterable[Any], batch: int, space: int, pairs: bool) -> Iterator[Batch]:
    """Frames as they come, or as many at once as `batch` says; those before an error come before it."""
    first, held = 0, 0
    x: Tensor | None = None  # [batch, C, H, W], of which the first `held` are filled
    images: list[Any] = []

    def filled() -> Batch:
        assert x is not None
        return Batch(x[:held], images or None, first, own=True)

    failure = None
    try:
        for item in frames:
            frame, image = _frame(item, space, pairs)
            whole = frame.ndim == space + 2
            if held and x is not None:
                alike = (frame.shape, frame.dtype, frame.device) == (x.shape[1:], x.dtype, x.device)
                if whole or not alike or bool(images) != (image is not None):
                    yield filled()
                    first, held, images, x = first + held, 0, [], None
            if whole or batch == 1:
                if not whole:
                    frame, image = frame[None], None if image is None else [image]
                if len(frame):
                    yield Batch(frame, image, first, own=False)
                first += len(frame)
                continue
            # Copied as they come, since the next may be written to the same memory; and to new memory for each batch,
            # which the model's output and graph may lead to.
            with torch.inference_mode(False), torch.no_grad():
                x = frame.new_empty((batch, *frame.shape)) if x is None else x
                x[held] = frame
            if image is not None:
                images.append(_copied(image, frame.device, Buffers(copy=True), 0, 0))
            held += 1
            if held == batch:
                yield filled()
                first, held, images, x = first + held, 0, [], None
    except Exception as error:
        failure = error
    if held:
        yield filled()
    try:
        if failure:
            raise failure
    finally:
        del failure  # whose traceback leads back here


def kept(given: Batch, buffers: Buffers, turn: int, handed: bool) -> Batch:
    """The same with pictures that last, whatever happens to the memory that they came in: in `buffers`, or in memory of
    their own where they are handed to somebody else's function, which may keep them.

    Always copied: whether somebody writes to it again is not to be seen, be it a camera's buffer or an object that
    NumPy can read.
    """
    if given.own:
        return given
    if given.images is None:
        with torch.inference_mode(False), torch.no_grad():
            x = given.x.detach().clone() if handed else _copied(given.x, given.x.device, buffers, turn, 0)
        return given._replace(x=x, own=True)
    images: list[Any] = []
    for i in range(len(given.x)):
        try:
            images.append(_copied(given.images[i], given.x.device, buffers, turn, i))
        except Exception as error:  # which comes when its turn to be drawn has come
            images.append(_Failed(error))
            break
    return given._replace(images=images, own=True)


def _copied(image: Any, device: torch.device, buffers: Buffers, turn: int, i: int) -> Tensor:
    """A picture in one of the buffers, on that device; copies between devices are in the order of the stream."""
    if isinstance(image, Tensor) and image.device != device:
        return image.detach().to(device)
    one = image.detach() if isinstance(image, Tensor) else np.asarray(image)

    def copy(out: Tensor | None = None) -> Tensor:
        if isinstance(one, Tensor):
            with torch.inference_mode(False), torch.no_grad():
                return one.clone() if out is None else out.copy_(one)
        if out is None:
            return torch.from_numpy(one.copy())
        np.copyto(out.numpy(), one)
        return out

    return buffers(turn, i, (tuple(one.shape), str(one.dtype), device), copy)


def _frame(item: Any, space: int, pairs: bool) -> tuple[Tensor, Any]:
    """A frame and its picture, or None."""
    x, image = item if isinstance(item, tuple | list) and len(item) == 2 else (item, None)
    if not isinstance(x, Tensor):
        raise TypeError(f"frames: one is {describe(item)}; accepted is a tensor, or a pair of a tensor and its picture")
    if x.ndim not in (space + 1, space + 2):
        shape = ("C, L", "C, H, W", "C, D, H, W")[space - 1]
        raise ValueError(f"frames: one has shape {list(x.shape)}; accepted is [{shape}], or [n, {shape}]")
    if image is not None and not pairs:
        raise ValueError("frames: one has a picture, but picture is given, too; accepted is one of them")
    if image is not None and x.ndim == space + 2 and len(image) != len(x):
        raise ValueError(f"frames: {len(x)} have {len(image)} pictures; accepted is one for each")
    return x, image


def displayable(given: Batch, i: int, picture: Callable[[Tensor], Any] | None) -> Tensor:
    """The i-th frame's picture, on the frame's device."""
    if given.images is None and picture is None:
        own = given.x[i].detach()
        if own.is_floating_point() and own.numel():
            low, high = (end.item() for end in own.aminmax())
            if low < -_OVERSHOT or high > 1 + _OVERSHOT:
                raise ValueError(
                    f"frames: one has values from {low:.3g} to {high:.3g}, and a picture has them from 0 to 1; give "
                    "pairs of a frame and its picture, or picture=, a function from the one to the other"
                )
        return own
    image = given.images[i] if given.images is not None else picture(given.x[i]) if picture else None
    if isinstance(image, _Failed):
        raise image.error
    if isinstance(image, Tensor):
        return image.detach().to(given.x.device)
    array = np.asarray(image)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):  # which PyTorch does not borrow
        array = array.copy()
    return torch.from_numpy(array).to(given.x.device)
