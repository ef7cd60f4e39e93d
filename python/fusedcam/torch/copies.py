"""Many changed copies of a batch as one batch: the model's arguments and the targets for it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .outputs import rows, tensors
from .targets import class_indices, forgiving
from .targets import mirrored as of_mirror_images

__all__ = ["noisy", "repeated", "repeated_targets"]


def repeated(value: Any, n: int, times: int) -> Any:
    """A tensor with N rows, `times` over; anything else as it is."""
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == n:
        return value.repeat(times, *(1,) * (value.ndim - 1))
    return value


def repeated_targets(targets: Any, n: int, mirrored: Sequence[bool]) -> Any:
    """What `targets` means for N images, for a copy of them for each flag, which says whether it is their mirror image;
    None has to be made classes first.

    A callable that scores a place of the image has a method `mirrored`, which gives that for mirror images.
    """
    if isinstance(targets, str):  # every class of all alike
        return targets
    if callable(targets):
        turned = of_mirror_images(targets) if any(mirrored) else targets
        return _OfEachCopy([turned if flip else targets for flip in mirrored], n)
    if isinstance(targets, list | tuple) and targets and all(callable(target) for target in targets):
        turned = of_mirror_images(targets) if any(mirrored) else targets
        return [target for flip in mirrored for target in (turned if flip else targets)]
    indices = class_indices(targets, n)
    return indices.repeat(len(mirrored), *(1,) * (indices.ndim - 1))


Target = Callable[[Any], Tensor]


class _OfEachCopy:
    """Callables from an output for N images, one for each copy of them, for that of all copies."""

    def __init__(self, targets: Sequence[Target], n: int):
        self.targets, self.n = targets, n

    def __call__(self, output: Any) -> Tensor:
        return self._of_each(self.targets, output)

    @property
    def absent(self) -> Target | None:
        """As the targets', where they have such a method."""
        absent = [getattr(target, "absent", None) for target in self.targets]
        return (lambda output: self._of_each(absent, output)) if all(absent) else None  # type: ignore[arg-type]

    def forgiving(self) -> "_OfEachCopy":
        return _OfEachCopy([forgiving(target) for target in self.targets], self.n)

    def _of_each(self, targets: Sequence[Target], output: Any) -> Tensor:
        if not self.n:
            return targets[0](output)
        images = _images(output)
        if images != len(targets) * self.n:
            raise ValueError(
                f"targets: a callable needs an output with a row for each of {len(targets)} copies of {self.n} images, "
                f"the model returned {images} rows"
            )
        starts = range(0, images, self.n)
        parts = [target(rows(output, start, self.n, images)) for target, start in zip(targets, starts, strict=True)]
        for part in parts:
            if not isinstance(part, Tensor):
                raise TypeError(f"targets: a callable returned {type(part).__name__}; accepted is a tensor")
        return torch.cat(parts)


def _images(output: Any) -> int:
    """How many items a list has, one an image, as detection models return it; else how many rows a tensor."""
    if isinstance(output, list) and not all(isinstance(one, Tensor) for one in output):
        return len(output)
    return next((one.shape[0] for one in tensors(output) if one.ndim), 0)


def noisy(x: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """x with normal noise, of a deviation of `std` times the range of each image's values."""
    span = x.flatten(1).amax(1) - x.flatten(1).amin(1)
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + noise * (std * span).reshape(-1, *(1,) * (x.ndim - 1))
