"""Video: an explainer's pictures frame by frame, each drawn while the model runs on the next."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..functional import overlay, resize
from .batched import Explained, explained_apart, for_batch, joined
from .frames import Batch, Buffers, batches, displayable, kept
from .outputs import rebuilt, rows, shares_memory

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

        overlay(picture, explain(x[None])[0])

    where of one layer, and a picture of another size than the frame, the heatmap is of the picture's size. A frame is
    read when it is needed, on the caller's thread, where the model runs too. On the CPU a second thread draws it while
    the next one is read and explained, so that what is yielded is one frame (or batch) behind what was read; it draws
    on a copy. An error comes after all pictures of the frames before it. Where a batch fails in the model, its frames
    are explained one by one to find which of them it was; the error of a batch whose frames all succeed alone comes
    before its pictures. Closing the iterator, or leaving a loop over it, ends the thread.

    Args:
        frames: [C, H, W] tensors, or [n, C, H, W], explained as they come: the model's first argument; or pairs of
            such a tensor and its picture (or n pictures), as `fusedcam.overlay` takes them. The memory of both may be
            written to as soon as the next is asked for.
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
            turns, and no memory is allocated for pictures. Heatmaps of create_graph=True are always the caller's.
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

    if kind == "heatmap" and not copy and self._trainable is not None:
        raise ValueError(
            "copy is False, but create_graph is True, whose heatmaps lead to memory that is not written to again; "
            "accepted is copy=True"
        )

    if relu is not None:
        kwargs["relu"] = relu
    extents = (size,) * space if isinstance(size, int) else size
    # Scores at the layer's resolution, which are resampled, normalised and drawn in one pass; not where a call
    # normalises more than the result.
    raw = self._finished_last

    def at_once(x: Tensor, own: Any, found: Explained) -> None:
        n = len(x)
        meant = for_batch(targets, n) if targets_of is None else joined(own)
        form: dict[str, Any] = {"size": None, "normalize": None}
        if not raw:
            form = {"size": extents or tuple(x.shape[-space:]), "normalize": normalize}
        heat = self(x, targets=meant, nan=nan, **form, **kwargs)
        with torch.inference_mode(False), torch.enable_grad():  # in any mode a graph, where there is one, leads on
            found.heats.extend(heat)
            if outputs:
                found.outputs.extend(rows(self.output, i, 1, n) for i in range(n))

    def explained(given: Batch, found: Explained) -> None:
        own: list[Any] = []
        if targets_of is not None:
            try:
                for i in range(len(given.x)):
                    own.append(targets_of(given.first + i))
            except Exception:
                if own:
                    explained_apart(at_once, given.x[: len(own)], own, found)
                raise
        explained_apart(at_once, given.x, own, found)

    def drawn(given: Batch, heats: list[Tensor], turn: int, made: list[Tensor]) -> None:
        for i, heat in enumerate(heats):
            made.append(one_of(given, heat, turn, i))

    def one_of(given: Batch, heat: Tensor, turn: int, i: int) -> Tensor:
        if kind == "heatmap":
            if not raw:
                return heat
            at: Any = extents or tuple(given.x.shape[-space:])
            with torch.inference_mode(False), torch.enable_grad():
                return results(turn, i, (heat.shape, at, heat.dtype), partial(resize, heat, at, normalize=normalize))
        image = displayable(given, i, picture)
        options = {"colormap": colormap, "alpha": alpha, "normalize": normalize if raw else None}
        return results(turn, i, (image.shape, image.dtype, heat.shape), partial(_overlaid, image, heat, **options))

    results, pictures = Buffers(copy), Buffers()

    def lasting(given: Batch, turn: int) -> Batch:
        return kept(given, pictures, turn, handed=picture is not None) if kind == "overlay" else given

    each = batches(frames, batch, space, pairs=picture is None)
    return _run(each, explained, drawn, lasting, overlap, outputs)


class _Pending(NamedTuple):
    """A batch that is being drawn."""

    future: Future[None]
    made: list[Tensor]
    """Its pictures, as far as they got."""
    outputs: list[Any]


def _run(
    source: Iterator[Batch],
    explained: Callable[[Batch, Explained], None],
    drawn: Callable[[Batch, list[Tensor], int, list[Tensor]], None],
    lasting: Callable[[Batch, int], Batch],
    overlap: bool,
    outputs: bool,
) -> Iterator[Any]:
    """Draws each batch while the next is explained. What is raised comes after what was made before."""
    worker: ThreadPoolExecutor | None = None
    pending: _Pending | None = None
    following: _Pending | None = None
    failure: Exception | None = None
    turn = 0

    def each(made: list[Tensor], of_model: list[Any]) -> Iterator[Any]:
        for i, one in enumerate(made):
            yield (one, of_model[i]) if outputs else one

    try:
        while True:
            given, found = None, Explained([], [])
            made: list[Tensor] = []
            try:
                given = next(source, None)
                if given:
                    explained(given, found)
            except Exception as error:
                failure = error
            heats, of_model = found.heats, found.outputs
            if given and not given.own:
                of_model = [rebuilt(one, partial(_apart_from, given.x)) for one in of_model]
            # CUDA's kernels are launched, not waited for. What a graph leads to lasts until the next frame is read, as
            # does the batch itself; what the thread reads has to last longer.
            if given and overlap and heats and heats[0].device.type == "cpu" and not heats[0].requires_grad:
                worker = worker or ThreadPoolExecutor(1, "fusedcam.stream")
                try:
                    following = _Pending(worker.submit(drawn, lasting(given, turn), heats, turn, made), made, of_model)
                except Exception as error:  # no memory, say
                    heats, failure = [], error
            for one in (pending, following if failure else None):
                if one:
                    one.future.exception()  # waits
                    yield from each(one.made, one.outputs)
                    one.future.result()
            if heats and given and not following:
                try:
                    drawn(given, heats, turn, made)
                except Exception as error:
                    failure = error
                yield from each(made, of_model)
            if failure:
                raise failure
            if given is None:
                return
            pending, following, turn = following, None, turn + 1
    finally:
        failure, pending, following, one = None, None, None, None  # whose tracebacks lead back here
        if worker:
            worker.shutdown(cancel_futures=True)


def _apart_from(x: Tensor, output: Tensor) -> Tensor:
    """An output in memory other than that of the frames, which may be written to before it is yielded."""
    return output.clone() if shares_memory(x, output) else output


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
