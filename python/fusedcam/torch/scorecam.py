"""The methods that run a model on images masked by a layer's channels: Score-CAM, SS-CAM and IS-CAM."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._batches import Progress, check_count, check_noise, steps_of, track
from ..functional import mask
from .explainer import Finish, Run
from .forward_explainer import ForwardExplainer, Seen, spread
from .passes import repeated

__all__ = ["ISCAM", "SSCAM", "ScoreCAM"]

Masker = Callable[[Tensor, Tensor], object]
"""Fills a batch [M, N, Cimg, H', W'] with the images, masked by maps [N, M, H, W]."""


class ScoreCAM(ForwardExplainer):
    """Explains a model's scores by Score-CAM: the weight of a channel is the score of the image as it masks it.

    Wang et al. 2020, Algorithm 1, https://arxiv.org/abs/1910.01279: each channel is upsampled to the image, brought to
    [0, 1] and multiplied with it; the softmax over the channels of what these images score gives the weights, and the
    map is the ReLU of the weighted sum. One forward a channel, in batches; no gradient.

    pytorch-grad-cam 1.5.7 aligns the corners when it upsamples; torch-cam 0.5.0 brings channels to [0, 1] before it
    does; tf-keras-vis takes no softmax over the channels.

    The first argument of the call is the images, [N, Cimg, H', W'] of floats; tensors among the others whose first
    dimension is N are taken for a batch too, and repeated with it. Callables as targets see N rows at a time.

    Args:
        model: maps a batch of N images to any output; classes as targets need scores [N, classes], before softmax.
        target_layer: a module of the model or its dotted name; it returns a map [N, C, H, W] of floats, or a container
            whose first such tensor is meant. None picks the last call whose output is a map with H * W > 1, anew for
            each input shape, at the cost of one more run of inference then.
        softmax: over the channels; without it weights are by how much the score exceeds that of `baseline`.
        baseline: the image that confidence increases over: a number for all its pixels, or a tensor that broadcasts to
            the images. It does not change what the softmax gives, and the model is not run on it then.
        top_channels: only that many channels of each image are tried, those whose activations deviate the most
            (Faster Score-CAM, https://github.com/tabayashi0117/Score-CAM); the others' weights are 0. None: all.
        batch_size: masked images that the model is given at once, but never fewer than N; None takes as many as fit
            into a part of the free memory, 32 at most on the CPU and 256 on CUDA.
        progress: True shows a bar, by rich or else tqdm; or a callable that takes the list of batches and hands them
            on, as `tqdm.tqdm` does.
        call: which call of a layer that runs several times; -1 is the last. With target_layer=None it has to be -1.
        eval: run the model in evaluation mode; every module's own flag, the buffers and PyTorch's random state are
            restored afterwards.

    Raises:
        ValueError: no such layer, or a number out of range.
        TypeError: an argument of another type.
    """

    title = "Score-CAM"

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | None = None,
        *,
        softmax: bool = True,
        baseline: float | Tensor = 0.0,
        top_channels: int | None = None,
        batch_size: int | None = None,
        progress: Progress = False,
        call: int = -1,
        eval: bool = False,
    ):
        super().__init__(
            model,
            target_layer,
            top_channels=top_channels,
            batch_size=batch_size,
            progress=progress,
            call=call,
            eval=eval,
        )
        if not isinstance(softmax, bool):
            raise TypeError(f"softmax is {softmax!r}; accepted is True or False")
        if isinstance(baseline, bool) or not isinstance(baseline, int | float | Tensor):
            raise TypeError(f"baseline is of type {type(baseline).__name__}; accepted is a number or a tensor")
        self.softmax, self.baseline = softmax, baseline

    def _explain(self, run: Run, finish: Finish) -> Tensor:
        if run.x.ndim != 4 or not run.x.is_floating_point():
            raise ValueError(
                f"x is {run.x.dtype} of shape {tuple(run.x.shape)}; {self.title} masks images [N, C, H, W] of floats"
            )
        return super()._explain(run, finish)

    def _maskers(self, seen: Seen) -> Sequence[Masker]:
        """The ways in which a channel masks its image; scores are averaged over them."""
        return [partial(_fill, seen.run.x)]

    def _weights(self, seen: Seen, reruns: list[str]) -> Tensor:
        x, n = seen.run.x, seen.n
        tried = self._tried(seen.activations)
        maps = seen.activations
        if tried is not None:
            maps = maps.gather(1, tried[:, :, None, None].expand(-1, -1, *maps.shape[2:]))
        channels = maps.shape[1]
        if n == 0:
            return seen.activations.new_zeros(seen.activations.shape[:2])
        step = min(max(1, self._together(x) // n), channels)
        buffer = _like_images(x, step)
        maskers = self._maskers(seen)
        steps = list(itertools.product(maskers, range(0, channels, step)))
        found = []
        for masker, start in track(self.progress, steps, self.title):
            part = maps[:, start : start + step]
            batch = buffer[: part.shape[1]]
            masker(part, batch)
            found.append(self._scored(seen, batch.flatten(0, 1)))
        scores = torch.stack(torch.cat(found).chunk(len(maskers))).mean(0).movedim(0, -1)
        weights = scores.softmax(-1) if self.softmax else scores - self._scored(seen, self._below(x))[0].unsqueeze(-1)
        return spread(weights, tried, seen.activations.shape[1])

    def _scored(self, seen: Seen, images: Tensor) -> Tensor:
        """The scores of M times N images, [M, N] or [M, N, K]."""
        _, *args = (repeated(value, seen.n, None, len(images)) for value in seen.run.args)
        kwargs = {name: repeated(value, seen.n, None, len(images)) for name, value in seen.run.kwargs.items()}
        return seen.scores(self.model(images, *args, **kwargs), len(images))

    def _below(self, x: Tensor) -> Tensor:
        if not isinstance(self.baseline, Tensor):
            return torch.full_like(x, self.baseline)
        try:
            return self.baseline.to(x).expand_as(x).clone()
        except RuntimeError:
            raise ValueError(
                f"baseline has shape {tuple(self.baseline.shape)}; accepted is what broadcasts to x, {tuple(x.shape)}"
            ) from None


def _like_images(x: Tensor, step: int) -> Tensor:
    """Memory for `step` times the images, [step, N, ...], in their order of channels."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    order = torch.channels_last if last else torch.contiguous_format
    rows = torch.empty((step * len(x), *x.shape[1:]), dtype=x.dtype, device=x.device, memory_format=order)
    return rows.view(step, len(x), *x.shape[1:])


def _fill(images: Tensor, maps: Tensor, batch: Tensor, noise: Tensor | None = None) -> None:
    mask(images, maps, noise=noise, out=batch.transpose(0, 1))


class SSCAM(ScoreCAM):
    """Explains a model's scores by SS-CAM: Score-CAM's scores on average over noise.

    Wang, Naidu, Michael and Kundu 2020, https://arxiv.org/abs/2006.14255. Normal noise is added to each channel as it
    masks the image, in [0, 1], or to the masked image, anew for every sample; then as `ScoreCAM`. `samples` forwards a
    channel.

    torch-cam 0.5.0 adds noise to the mask; the authors' code adds it there to channels that are not brought to [0, 1],
    of a deviation of (2 / range)^2.

    Args:
        model, target_layer: as of `ScoreCAM`.
        samples: of noise, for each channel.
        std: the noise's standard deviation.
        noise: "mask" adds it to the masks, the paper's SS-CAM (1); "image" to the masked images, SS-CAM (2).
        seed: of the noise, which comes from a generator of its own, seeded anew for every call. The numbers depend on
            the device and on how many channels a batch holds.
        options: ScoreCAM's others: softmax, baseline, top_channels, batch_size, progress, call, eval.

    Raises:
        ValueError, TypeError: as of `ScoreCAM`.
    """

    title = "SS-CAM"

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | None = None,
        *,
        samples: int = 35,
        std: float = 2.0,
        noise: Literal["mask", "image"] = "mask",
        seed: int = 0,
        **options: Any,
    ):
        check_noise("", samples, std, noise, seed)
        super().__init__(model, target_layer, **options)
        self.samples, self.std, self.noise, self.seed = samples, std, noise, seed

    def _maskers(self, seen: Seen) -> Sequence[Masker]:
        device = seen.run.x.device
        source = torch.Generator(device).manual_seed(self.seed)
        wide = torch.float64 if seen.activations.dtype == torch.float64 else torch.float32

        def drawn(batch: Tensor, dtype: torch.dtype) -> Tensor:
            return torch.randn(batch.shape, generator=source, dtype=dtype, device=device).mul_(self.std)

        def on_masks(maps: Tensor, batch: Tensor) -> None:
            _fill(seen.run.x, maps, batch, drawn(batch[:, :, 0], wide).transpose(0, 1))

        def on_images(maps: Tensor, batch: Tensor) -> None:
            _fill(seen.run.x, maps, batch)
            batch += drawn(batch, batch.dtype)

        return [on_masks if self.noise == "mask" else on_images] * self.samples


class ISCAM(ScoreCAM):
    """Explains a model's scores by IS-CAM: Score-CAM's scores on average while the masked image grows from nothing.

    Naidu et al. 2020, https://arxiv.org/abs/2010.03023. The masked image is multiplied with i / samples, for i from 1
    to `samples`; then as `ScoreCAM`. `samples` forwards a channel.

    Args:
        model, target_layer: as of `ScoreCAM`.
        samples: steps of the integral.
        cumulative: add the factors i / samples up from step to step, so that they end at (samples + 1) / 2, as
            torch-cam 0.5.0 does.
        options: ScoreCAM's others: softmax, baseline, top_channels, batch_size, progress, call, eval.

    Raises:
        ValueError, TypeError: as of `ScoreCAM`.
    """

    title = "IS-CAM"

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | None = None,
        *,
        samples: int = 10,
        cumulative: bool = False,
        **options: Any,
    ):
        check_count("", "samples", samples)
        if not isinstance(cumulative, bool):
            raise TypeError(f"cumulative is {cumulative!r}; accepted is True or False")
        super().__init__(model, target_layer, **options)
        self.samples, self.cumulative = samples, cumulative

    def _maskers(self, seen: Seen) -> Sequence[Masker]:
        factors = steps_of(self.samples, self.cumulative)
        return [partial(_fill, seen.run.x * factor) for factor in factors]
