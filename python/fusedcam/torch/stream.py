"""Video: an explainer's pictures frame by frame, each drawn while the model runs on the next."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..functional import overlay, resize
from .copies import repeated_targets
from .frames import Batch, batches, displayable, share_memory
from .outputs import rows
from .targets import class_indices, score_function

if TYPE_CHECKING:
    from .explainer import Explainer

__all__ = ["stream_of"]


def stream_of(
    self: "Explainer",
    frames: Iterable[Any],
    *,
    picture: Callable[[Tensor], Any] | None = None,
    targets: Any = None,
    targets_of: Callable[[int], Any] | None = None,
    kind: Literal["overlay", "heatmap"] = "overlay",
    size: int | tuple[int, ...] | list[int] | None = None,
    colormap: Any = "jet",
    alpha: float = 0.5,
    relu: bool | None = None,
    normalize: Literal["minmax", "max"] | None = "minmax",
    nan: Literal["propagate", "zero", "raise"] = "propagate",
    batch: int = 1,
    outputs: bool = False,
    copy: bool = True,
    overlap: bool = True,
    **kwargs: Any,
) -> Iterator[Any]:
    """The pictures of a video, frame by frame, in its order.

    Equivalent to, for every frame x with its picture::

        overlay(picture, explain(x[None], size=None, normalize=None)[0], normalize="minmax")

    which of one layer is `overlay(picture, explain(x[None])[0])`. A frame is read when it is needed, on the caller's
    thread, where the model runs too. On the CPU a second thread draws it while the next one is read and explained, so
    that from the second frame on what is yielded is one frame (or batch) behind what was read; where frames lie in one
    and the same memory, which is written anew for each, every frame is drawn before the next is read. An error comes
    after all pictures of the frames before it. Closing the iterator, or leaving a loop over it, ends the thread.

    Args:
        frames: [C, H, W] tensors, or [n, C, H, W], explained as they come: the model's first argument; or pairs of
            such a tensor and its picture (or n pictures), as `fusedcam.overlay` takes them. A frame's memory may be
            written to when its picture has come.
        picture: from a frame [C, H, W] to its picture, for models whose input is none, as where it is normalised; it is
            called on the second thread. Without it and without pairs the frame itself is the picture: uint8, or floats
            from 0 to 1.
        targets: as in a call for one image, for every frame.
        targets_of: in its place, from a frame's number, from 0, to its targets.
        kind: what is drawn: overlays, or the heatmaps alone.
        size: of the heatmaps, as in a call; None: as the last dimensions of the frame. Overlays have the picture's.
        colormap, alpha: as in `fusedcam.overlay`.
        relu, nan: as in a call; relu=None: as in one that does not say.
        normalize: of each frame alone, as in `fusedcam.overlay`.
        batch: how many frames [C, H, W] of one shape are explained at once.
        outputs: yield pairs of the picture and what the model returned for the frame, [1, ...].
        copy: what is yielded is the caller's. Otherwise it is overwritten when the next is asked for: two buffers take
            turns, and no memory is allocated for pictures.
        overlap: draw on a second thread. Without it every frame is yielded before the next is read.
        kwargs: arguments of the model by name, the same for every frame.

    Yields:
        uint8 [H, W, 3], or heatmaps [H, W]; with K in front for several classes. On the frame's device.

    Raises:
        ValueError, TypeError: naming the argument, at once or, of frames and pictures, when they come.
    """
    space = self._capture.form.spatial
    if kind not in ("overlay", "heatmap"):
        raise ValueError(f'kind is {kind!r}; accepted: "overlay", "heatmap"')
    if kind == "overlay" and space != 2:
        raise ValueError(f'kind is "overlay", which is of images, but spatial is {space}; accepted is "heatmap"')
    if kind == "overlay" and size is not None:
        raise ValueError(f'size is {size!r}, but overlays have the size of the picture; accepted with kind="heatmap"')
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise ValueError(f"batch is {batch!r}; accepted is an int of at least 1")
    for name, flag in (("outputs", outputs), ("copy", copy), ("overlap", overlap)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} is {flag!r}; accepted: True, False")
    for name, function in (("picture", picture), ("targets_of", targets_of)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} is of type {type(function).__name__}; accepted is a callable or None")
    if targets is not None and targets_of is not None:
        raise ValueError("targets and targets_of are both given; accepted is one of them")
    if not isinstance(frames, Iterable) or isinstance(frames, str | bytes):
        raise TypeError(f"frames is of type {type(frames).__name__}; accepted is an iterable of tensors")

    if relu is not None:
        kwargs["relu"] = relu
    each = batches(frames, batch, space, pairs=picture is None)
    ring = _Ring(copy)
    extents = (size,) * space if isinstance(size, int) else size

    def explained(given: Batch) -> tuple[Tensor, Any]:
        own = _for_batch(targets, len(given.x))
        if targets_of is not None:
            own = _joined([targets_of(given.first + i) for i in range(len(given.x))])
        # Scores at the layer's resolution: they are resampled, normalised and drawn in one pass.
        heat = self(given.x, targets=own, size=None, normalize=None, nan=nan, **kwargs)
        return heat, self.output if outputs else None

    def drawn(given: Batch, heat: Tensor, turn: int) -> list[Tensor]:
        if kind == "heatmap":
            at: Any = extents or tuple(given.x.shape[-space:])
            draw = partial(resize, size=at, normalize=normalize)
            return [ring(turn, i, (one.shape, at, one.dtype), partial(draw, one)) for i, one in enumerate(heat)]
        pictures = [displayable(given, i, picture) for i in range(len(given.x))]
        draw = partial(_overlaid, colormap=colormap, alpha=alpha, normalize=normalize)
        return [
            ring(turn, i, (one.shape, one.dtype, heat.shape[1:]), partial(draw, one, heat[i]))
            for i, one in enumerate(pictures)
        ]

    return _run(each, explained, drawn, overlap, outputs)


def _run(
    source: Iterator[Batch],
    explained: Callable[[Batch], tuple[Tensor, Any]],
    drawn: Callable[[Batch, Tensor, int], list[Tensor]],
    overlap: bool,
    outputs: bool,
) -> Iterator[Any]:
    """Draws each batch while the next is explained."""
    worker: ThreadPoolExecutor | None = None
    pending: tuple[Future[list[Tensor]], Any] | None = None
    before: Batch | None = None
    given: Batch | None
    turn = 0

    def each(pictures: list[Tensor], output: Any) -> Iterator[Any]:
        for i, one in enumerate(pictures):
            yield (one, rows(output, i, 1, len(pictures))) if outputs else one

    try:
        while True:
            failure = None
            try:
                given = next(source, None)
                if given is not None:
                    heat, output = explained(given)
            except Exception as error:
                given, failure = None, error
            future = None
            # CUDA's kernels are launched, not waited for. The first frame is drawn before the second is read, whose
            # memory shows whether that is written anew.
            if given and overlap and heat.device.type == "cpu" and before and not share_memory(before, given):
                worker = worker or ThreadPoolExecutor(1, "fusedcam.stream")
                future = worker.submit(drawn, given, heat, turn)
            if pending:
                yield from each(pending[0].result(), pending[1])
                pending = None
            if failure:
                raise failure
            if given is None:
                return
            if future:
                pending = future, output
            else:
                yield from each(drawn(given, heat, turn), output)
            before, turn = given, turn + 1
    finally:
        failure = None  # whose traceback leads back here
        if worker:
            worker.shutdown(cancel_futures=True)


def _overlaid(image: Tensor, heat: Tensor, out: Tensor | None = None, **options: Any) -> Tensor:
    """[H, W, 3], or [K, H, W, 3] for maps [K, h, w]."""
    if heat.ndim == 2:
        result: Tensor = overlay(image, heat, out=out, **options)
        return result
    if out is None:
        return torch.stack([overlay(image, one, **options) for one in heat])
    for one, place in zip(heat, out, strict=True):
        overlay(image, one, out=place, **options)
    return out


class _Ring:
    """Two sets of results that take turns; none where what is yielded is the caller's."""

    def __init__(self, copy: bool):
        self.copy = copy
        self._kept: tuple[dict[int, Any], dict[int, Any]] = ({}, {})

    def __call__(self, turn: int, i: int, form: Any, draw: Callable[..., Tensor]) -> Tensor:
        """What `draw(out=...)` returns, for the i-th of this turn, in the memory of the one before last of its form."""
        if self.copy:
            return draw()
        kept = self._kept[turn % 2]
        before, out = kept.get(i, (None, None))
        if before == form:
            return draw(out=out)
        kept[i] = form, draw()
        result: Tensor = kept[i][1]
        return result


def _for_batch(targets: Any, n: int) -> Any:
    """What `targets` means for one image, for n."""
    return targets if targets is None or n == 1 else repeated_targets(targets, 1, n)


def _joined(each: list[Any]) -> Any:
    """What each of them means for one image, for all."""
    n = len(each)
    if n == 1 or all(one is None for one in each):
        return each[0]
    try:
        classes = [class_indices(one, 1) for one in each]
    except TypeError:  # callables, or None
        scores = [score_function(one, 1) for one in each]
        return lambda output: torch.cat([score(rows(output, i, 1, n)) for i, score in enumerate(scores)])
    if len({one.shape for one in classes}) > 1:
        shapes = [list(one.shape[1:]) for one in classes]
        raise ValueError(f"targets_of: frames of a batch have classes {shapes}; accepted is the same number for each")
    return torch.cat(classes)
