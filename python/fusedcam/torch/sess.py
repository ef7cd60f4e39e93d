"""SESS: another method's maps of windows that slide over the image at many scales, put together."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import resize
from . import state
from .copies import repeated
from .explainer import Explainer, Finish, Run
from .finishing import finished
from .targets import chosen_classes, class_indices, in_rows

__all__ = ["SESS"]

_BLUR, _SIGMA = 11, 5.0  # pixels


class _Window(NamedTuple):
    """Of one scale: the enlarged images' size, and where in them the window lies."""

    size: tuple[int, int]
    top: int
    left: int


class SESS(Explainer):
    """Explains by SESS (Tursun et al. 2022, https://arxiv.org/abs/2207.01769): another explainer's maps of windows that
    slide over the image at several scales, each times the probability of the class in its window over the largest such,
    put where the window lies and pooled.

    "mean" pools each pixel over the windows whose weighted map is there above `theta`, "max" takes the largest. The
    result is blurred by a Gaussian of 11 pixels and a deviation of 5, as the authors' code and pytorch-grad-cam have
    it. Windows of all images are explained in runs of `chunk`; with `pre_filter_ratio` and `theta` at 0 the run that
    explains them also brings their probabilities, where both others run the model once more.

    Args:
        explainer: of the windows, which have the size of the window and the range of 0 to 1.
        scales: lengths of the enlarged images' shorter side, in pixels; or how many, each longer than the one before by
            `scale_step` of the window.
        scale_step: see scales.
        window: side of the square window in pixels; None for the images' shorter side.
        step: how far it slides, in pixels; None for the window's side. The last of a row or column ends at the edge.
        pre_filter_ratio: the share of windows, those least probable, that are not explained.
        theta: see above.
        pool: "mean" or "max".
        smooth: blur the result.
        chunk: the most windows in a run.

    Raises:
        ValueError, TypeError: naming the argument that does not fit; a call refuses callables as targets, of which
            there are no probabilities.
    """

    def __init__(
        self,
        explainer: Explainer,
        *,
        scales: int | Sequence[int] = 12,
        scale_step: float = 2 / 7,
        window: int | None = None,
        step: int | None = None,
        pre_filter_ratio: float = 0.0,
        theta: float = 0.0,
        pool: Literal["mean", "max"] = "mean",
        smooth: bool = True,
        chunk: int = 32,
    ):
        if not isinstance(explainer, Explainer):
            raise TypeError(f"explainer is of type {type(explainer).__name__}; accepted is an Explainer")
        if explainer.classless:
            raise TypeError(
                f"explainer is of type {type(explainer).__name__}, whose maps are the same for every class; accepted "
                "is an Explainer of classes, since windows are weighed by a class's probability"
            )
        super().__init__(explainer.model, None, eval=explainer.eval)
        listed = [scales] if isinstance(scales, int) else list(scales)
        counts = [("window", window), ("step", step), ("chunk", chunk), *(("scales", one) for one in listed)]
        for name, count in counts:
            if count is None and name in ("window", "step"):
                continue
            if isinstance(count, bool) or not isinstance(count, int):
                raise TypeError(f"{name} is {count!r}; accepted is an int")
            if count < 1:
                raise ValueError(f"{name} is {count}; accepted is 1 or more")
        if not listed:
            raise ValueError("scales is an empty list; accepted is at least one")
        if not 0 <= pre_filter_ratio < 1:
            raise ValueError(f"pre_filter_ratio is {pre_filter_ratio}; accepted is 0 to below 1")
        if not math.isfinite(scale_step) or scale_step < 0:
            raise ValueError(f"scale_step is {scale_step}; accepted is a finite number, 0 or more")
        if not theta >= 0:
            raise ValueError(f"theta is {theta}; accepted is 0 or more")
        if pool not in ("mean", "max"):
            raise ValueError(f'pool is {pool!r}; accepted: "mean", "max"')
        self.explainer, self.scales, self.scale_step = explainer, scales, scale_step
        self.window, self.step, self.pre_filter_ratio = window, step, pre_filter_ratio
        self.theta, self.pool, self.smooth, self.chunk = theta, pool, smooth, chunk

    def _explain(self, run: Run, finish: Finish) -> Tensor:
        x, n = run.x, len(run.x)
        if x.ndim != 4 or not x.is_floating_point():
            raise ValueError(f"x is {x.dtype} of shape {tuple(x.shape)}; accepted are images [N, C, H, W] of floats")
        if run.targets is None or isinstance(run.targets, str):  # the whole image's first choice, not each window's
            with state.evaluating(self.model, self.eval), torch.no_grad():
                classes = chosen_classes(run.targets, self.model(*run.args, **run.kwargs), n)
        else:
            classes = class_indices(run.targets, n).to(x.device)
        pooled = []
        for column in in_rows(classes).unbind(1):
            pooled.append(self._pooled(run, column))
        maps = pooled[0] if classes.ndim == 1 else torch.stack(pooled, 1)
        return finished(_blurred(maps) if self.smooth else maps, finish)

    def _pooled(self, run: Run, classes: Tensor) -> Tensor:
        """[N, H, W] for a class of each image."""
        x, n = run.x, len(run.x)
        size = (x.shape[-2], x.shape[-1])
        side = self.window or min(size)
        windows = list(self._windows(size, side))
        images = {window.size: self._scaled(x, window.size) for window in windows}
        kept = torch.ones(len(windows), n, dtype=torch.bool)
        best: Tensor | None = None
        if self.pre_filter_ratio or self.theta:
            scores = self._probabilities(run, classes, windows, images, side)
            best = scores.amax(0)
            dropped = scores.argsort(0)[: int(len(windows) * self.pre_filter_ratio)]
            kept = kept.to(scores.device).scatter(0, dropped, False).cpu()
        total = torch.zeros(n, *size, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        count = torch.zeros_like(total)
        highest = total.new_zeros(n)
        places = kept.nonzero().tolist()
        for start in range(0, len(places), self.chunk):
            part = places[start : start + self.chunk]
            rows = torch.tensor([row for _, row in part], device=x.device)
            patches = torch.cat([_cut(images[windows[w].size], windows[w], side, row) for w, row in part])
            rest = [_chosen(value, n, rows) for value in run.args[1:]]
            named = {key: _chosen(value, n, rows) for key, value in run.kwargs.items()}
            heat = self.explainer(patches, *rest, targets=classes[rows], size=(side, side), **named)
            weights = _probability(self.explainer.output, classes[rows])
            highest.scatter_reduce_(0, rows, weights.to(highest), "amax")
            if best is not None:
                weights = weights / best[rows].clamp(min=torch.finfo(best.dtype).tiny)
            heat = (heat * weights[:, None, None]).to(total)
            for (w, row), one in zip(part, heat, strict=True):
                spread = _pasted(one, windows[w], size)
                if self.pool == "max":
                    total[row] = torch.maximum(total[row], spread)
                else:
                    above = spread > self.theta
                    total[row] += torch.where(above, spread, 0)
                    count[row] += above
        if self.pool == "mean":
            total = torch.where(count > 0, total / count.clamp(min=1), 0)
        if best is None:  # the weights were not yet over the largest
            total = total / highest.clamp(min=torch.finfo(highest.dtype).tiny)[:, None, None]
        return total

    def _probabilities(
        self,
        run: Run,
        classes: Tensor,
        windows: list[_Window],
        images: dict[tuple[int, int], Tensor],
        side: int,
    ) -> Tensor:
        """Of the class in each window of each image, [windows, N], by inference."""
        n = len(run.x)
        found = []
        at_once = max(1, self.chunk // max(n, 1))
        with state.evaluating(self.model, self.eval), torch.no_grad():
            for start in range(0, len(windows), at_once):
                part = windows[start : start + at_once]
                patches = torch.cat([_cut(images[window.size], window, side, None) for window in part])
                rest = [repeated(value, n, len(part)) for value in run.args[1:]]
                named = {key: repeated(value, n, len(part)) for key, value in run.kwargs.items()}
                output = self.model(patches, *rest, **named)
                found.append(_probability(output, classes.repeat(len(part))).reshape(len(part), n))
        return torch.cat(found)

    def _windows(self, size: tuple[int, int], side: int) -> Iterator[_Window]:
        lengths: list[int]
        if isinstance(self.scales, int):
            lengths = [side + round(side * self.scale_step) * index for index in range(self.scales)]
        else:
            lengths = list(self.scales)
        for length in lengths:
            if length < side:
                raise ValueError(f"scales has {length}; accepted is the window's side or more, {side}")
            short = min(size)
            enlarged = (length * size[0] // short, length * size[1] // short)
            for top in _starts(enlarged[0], self.step or side, side):
                for left in _starts(enlarged[1], self.step or side, side):
                    yield _Window(enlarged, top, left)

    @staticmethod
    def _scaled(x: Tensor, size: tuple[int, int]) -> Tensor:
        if size == tuple(x.shape[-2:]):
            return x
        wide = x if x.dtype == torch.float64 else x.float()  # half types have no such kernel on the CPU
        return F.interpolate(wide, size, mode="bilinear", align_corners=False, antialias=True).to(x.dtype)

    def _of_last_call(self, name: str) -> Any:
        raise AttributeError(
            f"{name} is not one run's: SESS explains windows; its explainer has that of the last of them"
        )


def _starts(length: int, step: int, side: int) -> list[int]:
    """Where windows begin, so that they cover the whole length and the last one ends with it."""
    return [*range(0, length - side, step), length - side]


def _cut(images: Tensor, window: _Window, side: int, row: int | None) -> Tensor:
    """The window of one image, [1, C, side, side], or of all."""
    some = images if row is None else images[row : row + 1]
    return some[..., window.top : window.top + side, window.left : window.left + side]


def _chosen(value: Any, n: int, rows: Tensor) -> Any:
    """Of a tensor with N rows those meant; anything else as it is."""
    return value[rows] if isinstance(value, Tensor) and value.ndim and value.shape[0] == n else value


def _probability(output: Any, classes: Tensor) -> Tensor:
    """Of a class in each row."""
    rows: Tensor = output.detach()
    return rows.softmax(-1).gather(1, classes[:, None])[:, 0]


def _pasted(heat: Tensor, window: _Window, size: tuple[int, int]) -> Tensor:
    """The map of a window [side, side] in its place, resampled to the image's size."""
    canvas = heat.new_zeros(window.size)
    canvas[window.top : window.top + heat.shape[0], window.left : window.left + heat.shape[1]] = heat
    return resize(canvas, size)


def _blurred(maps: Tensor) -> Tensor:
    """Each of [..., H, W] by a Gaussian, mirrored at the edges."""
    reach = _BLUR // 2
    at = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (at / _SIGMA) ** 2)
    kernel = (kernel / kernel.sum())[None, None, None]
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    mode = "reflect" if min(maps.shape[-2:]) > reach else "replicate"
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode=mode), kernel)
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode=mode), kernel.transpose(2, 3))
    return flat.reshape(maps.shape)
