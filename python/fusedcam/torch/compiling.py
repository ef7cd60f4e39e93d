"""What torch.compile and torch.export put in the place of fusedcam's functions while they trace."""

import warnings
from typing import Any

import torch
from torch import Tensor

from .. import functional
from . import op
from .explainer import Explainer

__all__ = ["register"]


def colorize(
    heatmap: Any, *, colormap: Any = "jet", size: Any = None, normalize: str | None = None, out: Any = None
) -> Tensor:
    return op.colorize(heatmap, _named("colorize", colormap), size, normalize, out)


def overlay(
    image: Any,
    heatmap: Any,
    *,
    colormap: Any = "jet",
    alpha: float = 0.5,
    normalize: str | None = None,
    out: Any = None,
) -> Tensor:
    return op.overlay(image, heatmap, _named("overlay", colormap), alpha, normalize, out)


def _named(name: str, colormap: Any) -> str:
    if not isinstance(colormap, str):
        raise TypeError(f"{name}: colormap is a {type(colormap).__name__}; accepted in a compiled function is a name")
    return colormap


def register() -> None:
    """Tells torch._dynamo, which has to be imported already. Without, compiled functions break their graph at ours."""
    for original, traced in (
        (functional.cam, op.cam),
        (functional.resize, op.resize),
        (functional.colorize, colorize),
        (functional.overlay, overlay),
    ):
        try:
            torch.compiler.substitute_in_graph(original, skip_signature_check=True)(traced)
        except (AttributeError, TypeError, ValueError) as error:  # torch.compile itself shall work all the same
            warnings.warn(f"fusedcam's functions are unknown to this torch.compile: {error}", stacklevel=2)
            return
    # Hooks, grad modes and a second thread are beyond what can be traced: a graph ends before an explanation.
    Explainer.__call__ = torch.compiler.disable(Explainer.__call__)  # type: ignore[method-assign,no-untyped-call]
