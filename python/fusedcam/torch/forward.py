"""Methods without gradients: a layer's activations from one run of inference, and what becomes of scores."""

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..functional import cam
from .capture import Capture, _shapes, without_autocast_cache
from .explainer import Explainer, Finish, Run
from .outputs import describe, detached, find_map, normal
from .plan import Plan
from .recording import Survey, watching
from .state import evaluating, unchanged_buffers

__all__ = ["ActivationExplainer", "Forward", "activations_of", "finished"]

_MOST_RUNS = 8  # a model that takes another path even then never takes one twice


class Forward(NamedTuple):
    """What a run of inference brings."""

    activations: Tensor
    """[N, C, H, W], as the layer returned them, detached; nobody else writes to them."""
    output: Any
    """The model's own, detached."""
    plan: Plan


class _Surveyed(Exception):
    """A run has shown what it was for, and shall leave no trace."""


class _Keeper(Survey):
    """Keeps what one call of a layer returned; `call` below 0 counts from the last."""

    def __init__(self, n: int, call: int):
        super().__init__(n)
        self.call = call
        self.kept: deque[tuple[Tensor | None, str]] = deque(maxlen=max(-call, 1))
        """Its map, and in its place a description of what was none; of the last calls, the oldest first."""

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> None:
        super().hook(module, inputs, output)
        if not self.acts or (self.call >= 0 and self.calls[module] != self.call + 1):
            return
        activations = find_map(output, self.n)
        if activations is None:
            self.kept.append((None, describe(output)))
            return
        with torch.inference_mode(False), torch.no_grad():
            # A copy, since a later operation in place may change what the layer returned.
            self.kept.append((activations.detach().clone(), ""))


def activations_of(capture: Capture, args: Sequence[Any], kwargs: Mapping[str, Any], n: int) -> Forward:
    """Runs the model of `capture` on a batch of N images as in inference, and keeps the map of its layer.

    Raises:
        ValueError: a layer without a map [N, C, H, W], or without so many calls.
        RuntimeError: the layer did not run where hooks see it.
    """
    with torch.inference_mode(False), torch.no_grad(), without_autocast_cache():
        args = [normal(value) for value in args]
        kwargs = {key: normal(value) for key, value in kwargs.items()}
        for _ in range(_MOST_RUNS):
            with suppress(_Surveyed), unchanged_buffers(capture.model, _Surveyed):
                return _run(capture, args, kwargs, n)
    raise RuntimeError("the model does not run twice alike: it takes another path each time")


def _run(capture: Capture, args: Sequence[Any], kwargs: Mapping[str, Any], n: int) -> Forward:
    """One run; raises _Surveyed where it has to be made again."""
    layer, call = capture._layer, capture.call
    if layer is None:
        shapes = _shapes(args, kwargs)
        if shapes not in capture._last_maps:
            capture._survey(args, kwargs, n)
            raise _Surveyed
        layer, call = capture._last_maps[shapes]
    name = capture._names[layer] or "the model itself"
    keeper = _Keeper(n, call)
    with watching(keeper, [layer]):
        output = capture.model(*args, **kwargs)
    calls = keeper.calls.get(layer, 0)
    if capture._layer is None and calls != capture._calls[layer]:
        capture._last_maps.clear()
        raise _Surveyed
    if not calls:
        raise RuntimeError(
            f"layer {name} was not called: the model was compiled or scripted before, calls the layer's .forward() "
            "directly, runs it on another thread, or does not use it for this input"
        )
    right = call if call >= 0 else calls + call
    if not 0 <= right < calls:
        raise ValueError(f"call is {call}, but layer {name} was called {calls} times")
    activations, refused = keeper.kept[0]
    if activations is None:
        raise ValueError(f"layer {name} returned {refused}; accepted is a map [N, C, H, W] of floats with N = {n}")
    plan = Plan(capture._names[layer], right, calls, tuple(activations.shape), "nothing", ())
    return Forward(activations, detached(output), plan)


class ActivationExplainer(Explainer):
    """Base of the methods that look at activations alone: one run of inference, nothing recorded, and no class.

    A method replaces `_map`, or `_scores`.
    """

    def _explain(self, run: Run, finish: Finish) -> Tensor:
        if run.targets is not None:
            raise ValueError(
                f"targets: {type(self).__name__} looks at activations alone, and its maps are the same for every "
                "class; accepted is None"
            )
        with evaluating(self.model, self.eval):
            forward = activations_of(self._capture, run.args, run.kwargs, run.x.shape[0])
            with torch.inference_mode(False), torch.no_grad():
                heat = self._map(forward.activations, finish)
        self._last.output, self._last.plan = forward.output, forward.plan
        return heat

    def _map(self, activations: Tensor, finish: Finish) -> Tensor:
        """The heatmaps of activations [N, C, H, W]."""
        return finished(self._scores(activations, finish.nan), finish)

    def _scores(self, activations: Tensor, nan: str) -> Tensor:
        """[N, H, W] before the ReLU."""
        raise NotImplementedError


def finished(scores: Tensor, finish: Finish) -> Tensor:
    """Scores [..., H, W] as `fusedcam.cam` goes on from them."""
    one = scores.new_ones((1, 1))
    maps: Tensor = cam(scores.reshape(-1, 1, *scores.shape[-2:]), weights=one, **finish._asdict())
    return maps.reshape(*scores.shape[:-2], *maps.shape[-2:])
