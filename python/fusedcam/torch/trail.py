"""Several layers in one run: what each call of them returned, and the gradients of a loss with respect to it.

The graph begins at the first call of any of them, so that what comes before costs and holds what inference does. Where
a model does not bear that it begins at the start, and still no gradient of a parameter is computed.
"""

import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .capture import without_autocast_cache
from .outputs import describe, normal, shares_memory
from .recording import Watch, watching

__all__ = ["Step", "Trail", "Unfit", "follow"]

Transform = Callable[[Any], Tensor]

_from_start: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Layers with which runs were recorded from the start."""


class Unfit(Exception):
    """This model cannot be followed so; the message says why."""


class Step(NamedTuple):
    """One call of a layer."""

    output: Tensor
    """What it returned, detached."""
    activations: Tensor
    """The same, transformed."""
    edge: Tensor | GradientEdge | None
    """What a loss is differentiated with respect to; None where nothing was recorded."""


class Trail(Watch):
    """Watches layers during one run, and keeps their calls in the order in which they ran.

    Args:
        record: whether gradients will be asked for.
        live: keep what the model goes on with, which a later in-place operation changes, instead of what the layer
            returned.
        transform: of what is kept, at once.
        from_start: recording is on already.
    """

    def __init__(self, *, record: bool, live: bool, transform: Transform | None, from_start: bool):
        self.record, self.live, self.transform, self.from_start = record, live, transform, from_start
        self.steps: list[Step] = []
        self.refused = ""
        self.shared = False
        """A layer's output has another name, by which the model may go on with it: no leaf can replace it."""
        self._replaced: list[weakref.ref[Tensor]] = []
        self._modes = ExitStack()

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not self.acts or self.refused or self.shared:
            return None
        if not isinstance(output, Tensor) or not output.is_floating_point():
            self.refused = f"a layer returned {describe(output)}"
            return None
        if not self.record:
            self._keep(output, None)
            return None
        if output.requires_grad and (self.steps or self.from_start):
            self._keep(output, get_gradient_edge(output))
            return None
        if self.from_start:
            self.refused = "nothing before a layer requires grad"
            return None
        if shares_memory(inputs, output):
            self.shared = True
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
        self._replaced.append(weakref.ref(output))
        self._add(passed.detach() if self.live else leaf.detach(), leaf)
        return passed

    def _keep(self, output: Tensor, edge: GradientEdge | None) -> None:
        self._add(output.detach() if self.live else output.detach().clone(), edge)

    def _add(self, output: Tensor, edge: Tensor | GradientEdge | None) -> None:
        with torch.no_grad():
            activations = self.transform(output) if self.transform else output
        self.steps.append(Step(output, activations, edge))

    def close(self) -> None:
        """Ends the run."""
        self._modes.close()
        self.shared = self.shared or any(one() is not None for one in self._replaced)  # somebody has kept it

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
    model: Callable[..., Any],
    layers: Iterable[nn.Module],
    *args: Any,
    record: bool,
    live: bool,
    transform: Transform | None = None,
) -> tuple[Any, Trail]:
    """What `model` returns for `args`, and its trail through `layers`.

    Raises:
        Unfit: no layer ran where hooks see it, or one returned something else than a tensor of floats.
    """
    layers = list(layers)

    def run(from_start: bool) -> tuple[Any, Trail]:
        trail = Trail(record=record, live=live, transform=transform, from_start=from_start)
        with torch.inference_mode(False), torch.set_grad_enabled(from_start), without_autocast_cache():
            given = tuple(normal(value) for value in args)
            with watching(trail, layers):
                try:
                    output = model(*given)
                finally:
                    trail.close()
        return output, trail

    if not record or not any(layer in _from_start for layer in layers):
        try:
            output, trail = run(from_start=False)
            if not trail.shared:
                return output, _checked(trail)
        except RuntimeError:  # of a model that asks autograd for something before the layer, or its own
            pass
    output, trail = run(from_start=True)
    _checked(trail)
    if record:
        _from_start.update(layers)
    return output, trail


def _checked(trail: Trail) -> Trail:
    if trail.refused:
        raise Unfit(trail.refused)
    if not trail.steps:
        raise Unfit("no layer ran where hooks see it")
    return trail
