"""Maps averaged over changed copies of the input: test-time augmentation, SmoothGrad, Smooth Grad-CAM++'s moments."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from . import state
from .copies import noisy, repeated, repeated_targets
from .explainer import Explainer, Finish, Run
from .finishing import finished
from .outputs import rows
from .plan import Plan
from .targets import chosen_classes

__all__ = ["Moments", "Smoothed", "check_count", "check_std", "noisy_moments"]


class Smoothed:
    """Another explainer's maps, averaged over changed copies of the images; called as that explainer is.

    With flips and factors the copies are each image and its mirror image at so many times its values, as
    pytorch-grad-cam's `aug_smooth` has them. With noise they are SmoothGrad's (Smilkov et al. 2017,
    https://arxiv.org/abs/1706.03825): the mean over n images to which normal noise was added. With both, every
    pair of flip and factor has n copies. All copies of a batch are explained as one batch, of at most `chunk` images
    or, where N is more, one copy at a time. A model in evaluation mode gives what separate calls would.

    Args:
        explainer: an explainer of this package, or a callable that takes images and `targets`, has the attribute
            `model` and returns [N, ..., W].
        flips: explain mirror images, too; their maps are mirrored back.
        factors: by which the images are multiplied.
        noise: how many noisy copies, or 0 for none.
        noise_std: the noise's deviation over the range of an image's values.
        average: "finished" averages maps after ReLU, resampling and normalisation, as pytorch-grad-cam does; the mean
            does not reach 0 and 1. "raw" averages scores at the layer's resolution, as SmoothGrad does, and finishes
            the mean; it takes an `Explainer`.
        chunk: the most images in a run.

    Raises:
        ValueError, TypeError: naming the argument that does not fit.
    """

    def __init__(
        self,
        explainer: Callable[..., Tensor],
        *,
        flips: bool = True,
        factors: Sequence[float] = (0.9, 1.0, 1.1),
        noise: int = 0,
        noise_std: float = 0.15,
        average: Literal["finished", "raw"] = "finished",
        chunk: int = 64,
    ):
        if not callable(explainer) or not isinstance(getattr(explainer, "model", None), torch.nn.Module):
            raise TypeError(f"explainer is of type {type(explainer).__name__}; accepted is an explainer of a model")
        if not isinstance(flips, bool):
            raise TypeError(f"flips is {flips!r}; accepted: True, False")
        if not isinstance(factors, list | tuple) or not factors:
            raise ValueError(f"factors is {factors!r}; accepted are one or more numbers")
        if not all(isinstance(one, int | float) and math.isfinite(one) for one in factors):
            raise ValueError(f"factors is {factors!r}; accepted are finite numbers")
        if average not in ("finished", "raw"):
            raise ValueError(f'average is {average!r}; accepted: "finished", "raw"')
        if average == "raw" and not isinstance(explainer, Explainer):
            raise TypeError(f'average="raw" needs an Explainer; explainer is of type {type(explainer).__name__}')
        check_count("noise", noise, 0)
        check_count("chunk", chunk, 1)
        check_std("noise_std", noise_std)
        self.explainer, self.noise, self.noise_std, self.average, self.chunk = (
            explainer,
            noise,
            noise_std,
            average,
            chunk,
        )
        self._views = [(flip, float(factor)) for flip in ((False, True) if flips else (False,)) for factor in factors]

    def __call__(
        self, x: Tensor, *args: Any, targets: Any = None, generator: torch.Generator | None = None, **options: Any
    ) -> Tensor:
        """The mean maps of a batch.

        Args:
            x: images [N, ..., W] of floats. Those of `args` and `options` that are tensors with N rows are repeated for
                the copies; a mirror image changes x and what `targets` says of places.
            targets: as in a call of the explainer, a row for each of the N images. None is each image's first choice as
                it is, for all of its copies, by a run of inference more. Callables that score a place of the image
                need a method `mirrored()`, which returns that for mirror images, as `SegmentationScore` has it;
                `DetectionScore` takes flips=False only.
            generator: of the noise, on x's device; None draws the same noise in every call.

        Returns:
            As the explainer.

        Raises:
            ValueError, TypeError, RuntimeError: as the explainer.
        """
        _check_images(x)
        n = len(x)
        if targets is None and not getattr(self.explainer, "classless", False):
            targets = self._first_choices(x, args, options)
        finish = None
        if self.average == "raw":
            finish, options = self._split(x, options)
        draws = _draws(x, generator)
        total: Tensor | None = None
        for views in _parts(self._views * max(self.noise, 1), max(1, self.chunk // max(n, 1))):
            images = torch.cat([self._copy(x, flip, factor, draws) for flip, factor in views])
            rest = [repeated(value, n, len(views)) for value in args]
            named = {key: repeated(value, n, len(views)) for key, value in options.items()}
            own_targets = None if targets is None else repeated_targets(targets, n, [flip for flip, _ in views])
            maps = self.explainer(images, *rest, targets=own_targets, **named)
            for one, (flip, _) in zip(maps.reshape(len(views), n, *maps.shape[1:]), views, strict=True):
                own = one.flip(-1) if flip else one
                total = own if total is None else total + own
        assert total is not None
        mean = total / (len(self._views) * max(self.noise, 1))
        return mean if finish is None else finished(mean, finish)

    def _copy(self, x: Tensor, flip: bool, factor: float, draws: torch.Generator) -> Tensor:
        copy = noisy(x, self.noise_std, draws) if self.noise else x
        copy = copy if factor == 1 else copy * factor
        return copy.flip(-1) if flip else copy

    def _first_choices(self, x: Tensor, args: Sequence[Any], options: dict[str, Any]) -> Tensor:
        """Classes [N]."""
        model = cast(Any, self.explainer).model
        own = ("size", "relu", "normalize", "nan") if isinstance(self.explainer, Explainer) else ()
        rest = {key: value for key, value in options.items() if key not in own}
        with state.evaluating(model, bool(getattr(self.explainer, "eval", False))), torch.no_grad():
            return chosen_classes(None, model(x, *args, **rest), len(x))

    def _split(self, x: Tensor, options: dict[str, Any]) -> tuple[Finish, dict[str, Any]]:
        """What becomes of the mean, and the options by which the explainer leaves that to be done."""
        size, spatial = options.get("size", "input"), cast(Any, self.explainer)._capture.form.spatial
        if size == "input":
            size = tuple(x.shape[-spatial:])
        finish = Finish(
            size,
            options.get("relu", True),
            options.get("normalize", "minmax"),
            options.get("nan", "propagate"),
            spatial,
        )
        return finish, {**options, "size": None, "relu": False, "normalize": None, "nan": "propagate"}


class Moments(NamedTuple):
    """What Smooth Grad-CAM++ makes its weights of."""

    activations: Tensor
    """[N, C, H, W], of the images as they are."""
    moments: Tensor
    """[3, N, C, H, W] or [3, N, K, C, H, W]: the means over noisy copies of g, g^2 and g^3, g the gradient of a score
    with respect to the activations of its copy."""
    output: Any
    """The model's own, of the run that held the images as they are."""
    plan: Plan
    """Of that run."""


def noisy_moments(
    explainer: Explainer,
    run: Run,
    *,
    samples: int,
    noise_std: float = 0.15,
    generator: torch.Generator | None = None,
    chunk: int = 64,
) -> Moments:
    """Smooth Grad-CAM++'s averages (Omeiza et al. 2019, https://arxiv.org/abs/1908.01224): the
    derivatives D^1, D^2, D^3 of exp(score) over exp(score), which are g, g^2 and g^3 where the network is piecewise
    linear behind the layer, averaged over noisy copies.

    The images as they are and their copies are run as one batch, of at most `chunk` images or, where N is more, one
    copy at a time. torch-cam runs the model once a copy and adds noise of the same deviation to all images.

    Args:
        explainer: whose model and layer.
        run: the images and whose scores; None as targets is each image's first choice as it is, for all copies.
        samples: how many noisy copies, n.
        noise_std: the noise's deviation over the range of an image's values.
        generator: of the noise, on x's device; None draws the same noise in every call.
        chunk: the most images in a run.

    Returns:
        The moments, of the gradients' type (float32 for half types).

    Raises:
        ValueError, TypeError, RuntimeError: naming the argument that does not fit, or as a call of the explainer.
    """
    _check_images(run.x)
    check_count("samples", samples, 1)
    check_count("chunk", chunk, 1)
    check_std("noise_std", noise_std)
    x, n = run.x, len(run.x)
    first = _FirstChoices(n) if run.targets is None else None
    draws = _draws(x, generator)
    found: Moments | None = None
    for part in _parts([False] + [True] * samples, max(1, chunk // max(n, 1))):
        images = torch.cat([noisy(x, noise_std, draws) if copy else x for copy in part])
        args = (images, *(repeated(value, n, len(part)) for value in run.args[1:]))
        kwargs = {key: repeated(value, n, len(part)) for key, value in run.kwargs.items()}
        targets = first or repeated_targets(run.targets, n, [False] * len(part))
        captured = explainer._captured(Run(args, kwargs, targets))
        gradients = captured.gradients
        if gradients.dtype in (torch.float16, torch.bfloat16):
            gradients = gradients.float()
        if found is None:
            moments = gradients.new_zeros((3, n, *gradients.shape[1:]))
            # A copy, so that the noisy ones' activations need not be held.
            of_images = rows(captured.output, 0, n, len(captured.activations))
            found = Moments(captured.activations[:n].clone(), moments, of_images, captured.plan)
        for copy, own in zip(part, gradients.reshape(len(part), n, *gradients.shape[1:]), strict=True):
            if copy:
                square = own * own
                for total, power in zip(found.moments, (own, square, square * own), strict=True):
                    total += power
    assert found is not None
    found.moments.div_(samples)
    return found


class _FirstChoices:
    """The score of each image's first choice, for all copies of it, of which the first to come is the image itself."""

    def __init__(self, n: int):
        self.n = n
        self.classes: Tensor | None = None

    def __call__(self, output: Any) -> Tensor:
        copies = len(output) // self.n if isinstance(output, Tensor) and output.ndim and self.n else 1
        if self.classes is None:
            self.classes = chosen_classes(None, output, copies * self.n)[: self.n]
        return cast(Tensor, output).gather(1, self.classes.repeat(copies)[:, None])[:, 0]


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    """The items, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _draws(x: Tensor, generator: torch.Generator | None) -> torch.Generator:
    if generator is None:
        return torch.Generator(x.device).manual_seed(0)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator is of type {type(generator).__name__}; accepted is a torch.Generator, or None")
    if generator.device.type != x.device.type:
        raise ValueError(f"generator is on {generator.device}; accepted is one on x's device, {x.device}")
    return generator


def _check_images(x: Any) -> None:
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.is_floating_point():
        came = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x is {came}; accepted is a batch of images [N, ...] of floats")


def check_count(name: str, count: Any, least: int) -> None:
    """Refuses what is no int of at least `least`."""
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"{name} is {count!r}; accepted is an int")
    if count < least:
        raise ValueError(f"{name} is {count}; accepted is {least} or more")


def check_std(name: str, std: Any) -> None:
    """Refuses what is no finite number of at least 0."""
    if isinstance(std, bool) or not isinstance(std, int | float):
        raise TypeError(f"{name} is {std!r}; accepted is a number")
    if not math.isfinite(std) or std < 0:
        raise ValueError(f"{name} is {std}; accepted is a finite number, 0 or more")
