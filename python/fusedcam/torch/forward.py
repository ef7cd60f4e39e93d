"""Methods without gradients: a layer's activations from one run of inference, and what becomes of scores."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .capture import Capture, without_autocast_cache
from .explainer import Explainer, Finish, Run
from .finishing import finished
from .forms import Form
from .fused import fused
from .located import shapes_of
from .outputs import describe, detached, find_map, normal
from .plan import Plan
from .recording import Survey, watching
from .state import evaluating, unchanged_buffers

__all__ = ["ActivationExplainer", "Forward", "activations_of", "finished", "on_plane"]

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
    """Keeps what one call of each layer returned; `call` below 0 counts from the last."""

    def __init__(self, n: int, call: int, form: Form):
        super().__init__(n, form)
        self.call = call
        self.kept: dict[nn.Module, deque[tuple[Tensor | None, str]]] = {}
        """A layer's map, and in its place a description of what was none; of the last calls, the oldest first."""

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> None:
        super().hook(module, inputs, output)
        if not self.acts or (self.call >= 0 and self.calls[module] != self.call + 1):
            return
        kept = self.kept.setdefault(module, deque(maxlen=max(-self.call, 1)))
        activations = find_map(output, self.n, self.form, tokens=True)
        if activations is None:
            kept.append((None, describe(output)))
            return
        with torch.inference_mode(False), torch.no_grad():
            # A copy, since a later operation in place may change what the layer returned.
            kept.append((activations.detach().clone(), ""))


def activations_of(capture: Capture, args: Sequence[Any], kwargs: Mapping[str, Any], n: int) -> Forward:
    """Runs the model of `capture` on a batch of N images as in inference, and keeps the map of its first layer.

    Raises:
        ValueError: a layer without a map [N, C, H, W], or without so many calls.
        RuntimeError: the layer did not run where hooks see it.
    """
    return activations_of_layers(capture, args, kwargs, n)[0]


def activations_of_layers(capture: Capture, args: Sequence[Any], kwargs: Mapping[str, Any], n: int) -> list[Forward]:
    """The same of each of its layers."""
    with torch.inference_mode(False), torch.no_grad(), without_autocast_cache():
        args = [normal(value) for value in args]
        kwargs = {key: normal(value) for key, value in kwargs.items()}
        for _ in range(_MOST_RUNS):
            with suppress(_Surveyed), unchanged_buffers(capture.model, _Surveyed):
                return _run(capture, args, kwargs, n)
    raise RuntimeError("the model does not run twice alike: it takes another path each time")


def _run(capture: Capture, args: Sequence[Any], kwargs: Mapping[str, Any], n: int) -> list[Forward]:
    """One run; raises _Surveyed where it has to be made again."""
    layers, call = capture.layers, capture.call
    if not layers:
        shapes = shapes_of(args, kwargs)
        if shapes not in capture._last_maps:
            capture._survey(args, kwargs, n)
            raise _Surveyed
        last, call = capture._last_maps[shapes]
        layers = (last,)
    keeper = _Keeper(n, call, capture.form)
    with watching(keeper, layers):
        output = capture.model(*args, **kwargs)
    if not capture.layers and keeper.calls.get(layers[0], 0) != capture._calls[layers[0]]:
        capture._last_maps.clear()
        raise _Surveyed
    found = []
    for layer in layers:
        calls = keeper.calls.get(layer, 0)
        right = capture.checked_call(layer, call, calls)
        activations, refused = keeper.kept[layer][0]
        if activations is None:
            raise ValueError(
                f"layer {capture.name_of(layer)} returned {refused}; accepted is {capture.form.accepted} with N = {n}"
            )
        grid = capture.form.grid(activations, args[0])
        shape = tuple(activations.shape)
        plan = Plan(capture._names[layer], right, calls, shape, "nothing", (), *(grid or ()))
        found.append(Forward(capture.form.channels_first(activations, grid), detached(output), plan))
    return found


class ActivationExplainer(Explainer):
    """Base of the methods that look at activations alone: one run of inference, nothing recorded, and no class.

    A method replaces `_map`, or `_scores`.
    """

    classless = True

    def _explain(self, run: Run, finish: Finish) -> Tensor:
        if run.targets is not None:
            raise ValueError(
                f"targets: {type(self).__name__} looks at activations alone, and its maps are the same for every "
                "class; accepted is None"
            )
        with evaluating(self.model, self.eval):
            every = activations_of_layers(self._capture, run.args, run.kwargs, run.x.shape[0])
            with torch.inference_mode(False), torch.no_grad():
                if len(every) > 1:
                    own = finish._replace(size=None)
                    heat = fused([self._map(one.activations, own) for one in every], self.fuse, finish)
                else:
                    heat = self._map(every[0].activations, finish)
        self._note_all(every)
        return heat

    def _map(self, activations: Tensor, finish: Finish) -> Tensor:
        """The heatmaps of activations [N, C, H, W], or of another rank."""
        return finished(on_plane(self._scores, activations, nan=finish.nan), finish)

    def _scores(self, activations: Tensor, nan: str) -> Tensor:
        """[N, H, W] before the ReLU."""
        raise NotImplementedError


def on_plane(scores: Callable[..., Tensor], *maps: Tensor, **options: Any) -> Tensor:
    """What `scores` makes of maps [..., C, H, W], for maps [N, (K,) C, *S] of any rank and methods to which it does not
    matter where a pixel lies: [N, (K,) *S]."""
    space = maps[0].shape[2:]
    if len(space) == 2:
        return scores(*maps, **options)
    flat = scores(*(one.flatten(-len(space)).unsqueeze(-2) for one in maps), **options)
    return flat.reshape(*flat.shape[:-2], *space)
