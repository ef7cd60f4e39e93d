"""Frames of a video on their way to a model: one by one or as batches, and the pictures that are drawn on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .outputs import describe

__all__ = ["Batch", "batches", "displayable", "share_memory"]


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


def batches(frames: Iterable[Any], batch: int, space: int, pairs: bool) -> Iterator[Batch]:
    """Frames as they come, or as many at once as `batch` says; those before an error come before it."""
    first, held = 0, 0
    x: Tensor | None = None  # [batch, C, H, W], of which the first `held` are filled
    images: list[Any] = []

    def filled() -> Batch:
        assert x is not None
        return Batch(x[:held], images or None, first)

    source, failure = iter(frames), None
    while True:
        try:
            frame, image = _frame(next(source), space, pairs)
        except StopIteration:
            break
        except Exception as error:
            failure = error
            break
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
                yield Batch(frame, image, first)
            first += len(frame)
            continue
        # Copied as they come, since the next may be written to the same memory.
        x = frame.new_empty((batch, *frame.shape)) if x is None else x
        x[held] = frame.detach()
        if image is not None:
            images.append(image.clone() if isinstance(image, Tensor) else np.array(image))
        held += 1
        if held == batch:
            yield filled()
            first, held, images, x = first + held, 0, [], None
    if held:
        yield filled()
    if failure:
        raise failure


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
    if isinstance(image, Tensor):
        return image.detach().to(given.x.device)
    array = np.asarray(image)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):  # which PyTorch does not borrow
        array = array.copy()
    return torch.from_numpy(array).to(given.x.device)


def share_memory(before: Batch, after: Batch) -> bool:
    """Whether the pictures of the one may have been overwritten by those of the other."""
    first, second = (one.x if one.images is None else one.images for one in (before, after))
    return any(
        a[0] < b[1] and b[0] < a[1]
        for a in map(_span, [first] if isinstance(first, Tensor) else first)
        for b in map(_span, [second] if isinstance(second, Tensor) else second)
    )


def _span(image: Any) -> tuple[int, int]:
    """From which address to which it lies; nowhere, if that is not known."""
    if isinstance(image, Tensor) and image.device.type == "cpu" and image.layout == torch.strided:
        start, size = image.data_ptr(), image.element_size()
        steps = [step * size for step in image.stride()]
    elif isinstance(image, np.ndarray):
        start, size, steps = image.ctypes.data, image.itemsize, list(image.strides)
    else:
        return 0, 0
    if not all(image.shape):
        return 0, 0
    ends = [(extent - 1) * step for extent, step in zip(image.shape, steps, strict=True)]
    return start + sum(min(end, 0) for end in ends), start + sum(max(end, 0) for end in ends) + size
