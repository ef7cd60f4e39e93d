"""Many changed copies of a batch as one batch: the model's arguments and the targets for it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .outputs import rows, tensors
from .targets import class_indices, forgiving

__all__ = ["noisy", "repeated", "repeated_targets"]


def repeated(value: Any, n: int, times: int) -> Any:
    """A tensor with N rows, `times` over; anything else as it is."""
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == n:
        return value.repeat(times, *(1,) * (value.ndim - 1))
    return value


def repeated_targets(targets: Any, n: int, times: int) -> Any:
    """What `targets` means for N images, for `times` copies of them; None has to be made classes first."""
    if isinstance(targets, str):  # every class of all alike
        return targets
    if callable(targets):
        return _OfEachCopy(targets, n)
    if isinstance(targets, list | tuple) and targets and all(callable(target) for target in targets):
        return [*targets] * times
    indices = class_indices(targets, n)
    return indices.repeat(times, *(1,) * (indices.ndim - 1))


class _OfEachCopy:
    """A callable from an output for N images, for that of many copies of them."""

    def __init__(self, target: Callable[[Any], Tensor], n: int):
        self.target, self.n = target, n

    def __call__(self, output: Any) -> Tensor:
        return self._of_each(self.target, output)

    @property
    def absent(self) -> Callable[[Any], Tensor] | None:
        """As the target's, where it has such a method."""
        absent = getattr(self.target, "absent", None)
        return absent and (lambda output: self._of_each(absent, output))

    def forgiving(self) -> "_OfEachCopy":
        return _OfEachCopy(forgiving(self.target), self.n)

    def _of_each(self, target: Callable[[Any], Tensor], output: Any) -> Tensor:
        if not self.n:
            return target(output)
        images = _images(output)
        if not images or images % self.n:
            raise ValueError(
                f"targets: a callable needs an output with a row for each of the copies of {self.n} images, "
                f"the model returned {images} rows"
            )
        parts = [target(rows(output, start, self.n, images)) for start in range(0, images, self.n)]
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
