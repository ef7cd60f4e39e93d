"""What a capture brings, and the account of how it was done."""

import threading
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

__all__ = ["Captured", "LastCall", "Plan", "Shortcut"]

Shortcut = Literal["none", "pooled", "linear"]


_SHORTCUTS: dict[Shortcut, str] = {
    "none": "",
    "pooled": ", differentiated up to the pooling",
    "linear": ", gradients from the classifier's rows",
}


@dataclass(frozen=True)
class Plan:
    """What an explanation did."""

    layer: str
    """Dotted name of the layer explained; "" is the model itself."""
    call: int
    """Which of the layer's calls during the forward, from 0."""
    calls: int
    """How often the forward called the layer."""
    shape: tuple[int, ...]
    """Of the activations as the layer returned them, [N, C, H, W] or the like."""
    recording: Literal["from the layer", "from the start", "nothing"]
    """Where recording for the backward began; "nothing" where there was none."""
    reruns: tuple[str, ...]
    """Why the model ran again, once each."""
    tokens: tuple[int, int] | None = None
    """The grid, (height, width), on which tokens [N, T, C] were explained."""
    skipped: int = 0
    """How many tokens come before those of the grid."""
    shortcut: Shortcut = "none"
    """What was differentiated: "none", the score with respect to the layer's output; "pooled", with respect to the
    mean over all of space that alone follows the layer; "linear", nothing: the gradients are rows of the one linear
    map between that mean and the scores."""

    def __str__(self) -> str:
        again = f"; ran again because {', then because '.join(self.reruns)}" if self.reruns else ""
        name = self.layer or "the model itself"
        form = f"{list(self.shape)}"
        if self.tokens:
            before = f" after {self.skipped} skipped" if self.skipped else ""
            form += f", tokens on a grid of {self.tokens[0]} x {self.tokens[1]}{before}"
        how = f"recorded {self.recording}{_SHORTCUTS[self.shortcut]}{again}"
        return f"{name}, call {self.call + 1} of {self.calls}, {form}; {how}"


class Captured(NamedTuple):
    activations: Tensor
    """[N, C, H, W], or with other dimensions of space: a view of what the layer returned."""
    gradients: Tensor
    """Of the same shape, or [N, K, C, H, W] for scores [N, K]; with zero strides over space by a shortcut."""
    output: Any
    """The model's own, detached."""
    plan: Plan


class LastCall(threading.local):
    """What each thread's last call leaves to be asked for. A copy or pickle of its explainer has made no call."""

    def __reduce__(self) -> tuple[type["LastCall"], tuple[()]]:
        return type(self), ()
