"""Several layers in one run: what each call of them returned, and the gradients of a loss with respect to it.

The graph begins at the first call of any of them, so that what comes before costs and holds what inference does.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .capture import without_autocast_cache
from .outputs import describe, normal
from .recording import Watch, watching

__all__ = ["Step", "Trail", "Unfit", "follow"]


class Unfit(Exception):
    """This model cannot be followed so; the message says why."""


class Step(NamedTuple):
    """One call of a layer."""

    activations: Tensor
    """What it returned, detached."""
    edge: Tensor | GradientEdge | None
    """What a loss is differentiated with respect to; None where nothing was recorded."""


class Trail(Watch):
    """Watches layers during one run, and keeps their calls in the order in which they ran.

    Args:
        record: whether gradients will be asked for.
        live: keep what the model goes on with, which a later in-place operation changes, instead of what the layer
            returned.
    """

    def __init__(self, *, record: bool, live: bool):
        self.record, self.live = record, live
        self.steps: list[Step] = []
        self.refused = ""
        self._modes = ExitStack()

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not self.acts or self.refused:
            return None
        if not isinstance(output, Tensor) or not output.is_floating_point():
            self.refused = f"a layer returned {describe(output)}"
            return None
        if not self.record:
            self.steps.append(Step(output.detach() if self.live else output.detach().clone(), None))
            return None
        if self.steps and output.requires_grad:
            kept = output.detach() if self.live else output.detach().clone()
            self.steps.append(Step(kept, get_gradient_edge(output)))
            return None
        if torch.is_inference_mode_enabled():
            # The model's own inference_mode, which hides grad mode. Closed at the run's end, after that has ended.
            self._modes.enter_context(torch.inference_mode(False))
        torch.set_grad_enabled(True)
        leaf = output.detach()
        if leaf.is_inference():
            leaf = leaf.clone()
        leaf.requires_grad_()
        passed = leaf.clone()  # which an in-place operation may change, as it may not change a leaf
        self.steps.append(Step(passed.detach() if self.live else leaf.detach(), leaf))
        return passed

    def close(self) -> None:
        """Ends the run."""
        self._modes.close()

    def gradients(self, loss: Callable[[], Tensor], count: int) -> list[Tensor]:
        """Of the loss with respect to the first `count` calls.

        Raises:
            Unfit: the graph does not lead to all of them.
        """
        with torch.inference_mode(False), torch.enable_grad():
            score = loss()
        edges = [step.edge for step in self.steps[:count] if step.edge is not None]
        if not isinstance(score, Tensor) or not score.requires_grad or len(edges) < count:
            raise Unfit("the loss does not depend on the layers, as far as autograd can see")
        try:
            with torch.inference_mode(False), torch.autocast(score.device.type, enabled=False):
                found = torch.autograd.grad(score, edges, allow_unused=True)  # type: ignore[arg-type]
        except RuntimeError as error:
            if "use_reentrant=True" in str(error):
                raise Unfit("the model has reentrant checkpoints") from error
            raise
        if any(gradient is None for gradient in found):
            raise Unfit("the loss does not depend on every layer, as far as autograd can see")
        return list(found)


def follow(
    model: Callable[..., Any], layers: Iterable[nn.Module], *args: Any, record: bool, live: bool
) -> tuple[Any, Trail]:
    """What `model` returns for `args`, and its trail through `layers`.

    Raises:
        Unfit: no layer ran where hooks see it, or one returned something else than a tensor of floats.
    """
    trail = Trail(record=record, live=live)
    with torch.inference_mode(False), torch.no_grad(), without_autocast_cache():
        args = tuple(normal(value) for value in args)
        with watching(trail, layers):
            try:
                output = model(*args)
            finally:
                trail.close()
    if trail.refused:
        raise Unfit(trail.refused)
    if not trail.steps:
        raise Unfit("no layer ran where hooks see it")
    return output, trail
