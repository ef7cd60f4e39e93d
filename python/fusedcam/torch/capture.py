"""Activations of a layer and the gradient of a score with respect to them, at about the cost of inference."""

import difflib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from .outputs import detached, normal
from .plan import Captured, Plan
from .recording import Disturber, Recorder, Survey, plain_checkpoints, watching
from .state import explain_failure, unchanged_buffers
from .targets import Score, score_function

__all__ = ["Capture", "Captured", "Plan", "without_autocast_cache"]

# Why a model runs again; the first three also say how.
_SWITCHED_OFF = "the model switched recording off after the layer"
_OVERWRITTEN = "the layer's output was overwritten"
_SHARED = "the layer's output has another name"
_OTHER_PATH = "the model took another path than before"
_MOST_RUNS = 8  # a model that surprises even then never runs twice alike


class _Probed(Exception):
    """A run has shown what it was for, and shall leave no trace."""


class _Again(Exception):
    """The model has to run again; the message says why."""


class Capture:
    """Runs `model` so that only what follows the layer is recorded; remembers how often layers run."""

    def __init__(self, model: nn.Module, target_layer: nn.Module | str | None, call: int):
        self.model, self.call = model, call
        self.differentiate = _gradients
        self._names = {module: name for name, module in model.named_modules()}
        self._layer = None if target_layer is None else self._find(target_layer)
        self._calls: dict[nn.Module, int] = {}
        self._needs: set[str] = set()
        """Which of the reasons to run again hold for every run of this model."""
        self._last_maps: dict[tuple[torch.Size, ...], tuple[nn.Module, int]] = {}

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any], n: int, targets: Any) -> Captured:
        """Captures a run on `args` and `kwargs`, a batch of N images, for the score that `targets` means."""
        reruns: list[str] = []
        with torch.inference_mode(False), torch.no_grad(), without_autocast_cache():
            score = score_function(targets, n)
            args = [normal(value) for value in args]
            kwargs = {key: normal(value) for key, value in kwargs.items()}
            while len(reruns) < _MOST_RUNS:
                try:
                    with unchanged_buffers(self.model, _Again):
                        return self._run(args, kwargs, n, targets, score, reruns)
                except _Again as again:
                    reruns.append(str(again))
                except RuntimeError as error:
                    explain_failure(self.model, error)
        raise RuntimeError(f"the model does not run twice alike: {', '.join(reruns)}")

    def _run(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        n: int,
        targets: Any,
        score: Score,
        reruns: list[str],
    ) -> Captured:
        """Finds out what has to be known about the layer first, or explains."""
        if self._layer is None and _shapes(args, kwargs) not in self._last_maps:
            self._survey(args, kwargs, n)
            raise _Again("the last map had to be found first")
        if self._may_be_shared() and self._count(args, kwargs, n):
            raise _Again("the calls of a layer without parameters, which may be shared, were counted first")
        return self._attempt(args, kwargs, n, targets, score, reruns)

    def _attempt(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        n: int,
        targets: Any,
        score: Score,
        reruns: list[str],
    ) -> Captured:
        """One run and its backward; raises _Again where the run shows that the graph should begin elsewhere."""
        layer, call = (self._layer, self.call) if self._layer else self._last_maps[_shapes(args, kwargs)]
        name = self._names[layer] or "the model itself"
        before = self._calls.get(layer)
        wanted = call if call >= 0 else None if before is None else max(before + call, 0)
        needs = self._needs.union(reruns)
        whole = _SHARED in needs
        from_start = whole or _SWITCHED_OFF in needs
        recorder = Recorder(n, wanted, from_start=from_start, copy=_OVERWRITTEN in needs, whole=whole)
        if whole:  # a graph that leads to the layer needs somewhere to begin, be every parameter frozen
            args = [_differentiable(value) for value in args]
        checkpoints = plain_checkpoints() if from_start else nullcontext()
        # The first of these restores all modes, whatever a recorder inside the model's own inference_mode leaves.
        with torch.inference_mode(False), torch.set_grad_enabled(from_start), checkpoints, watching(recorder, [layer]):
            try:
                output = self.model(*args, **kwargs)
            finally:
                still_on = recorder.close()

        if self._layer is None and recorder.calls != before:
            self._last_maps.clear()
            raise _Again(_OTHER_PATH)
        if not recorder.calls:
            raise RuntimeError(
                f"layer {name} was not called: the model was compiled or scripted before, calls the layer's .forward() "
                "directly, runs it on another thread, or does not use it for this input"
            )
        self._calls[layer] = recorder.calls
        right = call if call >= 0 else recorder.calls + call
        if not 0 <= right < recorder.calls:
            raise ValueError(f"call is {call}, but layer {name} was called {recorder.calls} times")
        if recorder.recorded != right:
            raise _Again(f"the layer was called {recorder.calls} times")
        if recorder.shared or recorder.elsewhere:
            raise _Again(_SHARED)
        if recorder.leaf is None or recorder.edge is None:
            raise ValueError(
                f"layer {name} returned {recorder.refused}; accepted is a map [N, C, H, W] of floats with N = {n}"
            )
        if recorder.overwritten:
            raise _Again(_OVERWRITTEN)

        graph = (output, recorder.leaf, recorder.edge)
        gradients = self.differentiate(score, *graph) if still_on or from_start else None
        if gradients is None:
            if not from_start:
                raise _Again(_SWITCHED_OFF)
            raise ValueError(
                f"the score of targets={_named(targets)} does not depend on layer {name}, as far as autograd can see"
            )
        zero = (~gradients.flatten(-3).any(-1)).nonzero().tolist()
        if zero and not self._reacts(args, kwargs, n, layer, right, score, zero):
            raise ValueError(
                f"the score of targets={_named(targets)} does not depend on layer {name}: for image {zero[0][0]}"
                f"{f', class number {zero[0][1]} of its list,' if zero[0][1:] else ''} its gradient is zero everywhere "
                "and another output of the layer leaves it as it is"
            )
        self._needs |= needs & {_SWITCHED_OFF, _OVERWRITTEN, _SHARED}
        shape = tuple(recorder.leaf.shape)
        where: Literal["from the layer", "from the start"] = "from the start" if from_start else "from the layer"
        plan = Plan(self._names[layer], right, recorder.calls, shape, where, tuple(reruns))
        return Captured(recorder.leaf.detach(), gradients, detached(output), plan)

    def _reacts(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        n: int,
        layer: nn.Module,
        call: int,
        score: Score,
        places: list[list[int]],
    ) -> bool:
        """Whether the scores at `places`, (image,) or (image, class), change with what the layer returns.

        A gradient of zeros alone does not tell: autograd sees a path from every column of a concatenated output to
        every branch, and a dead ReLU is a path as well. Maps of zeros are the truth for the latter alone.
        """
        scores = []
        for disturber in (Disturber(n, None), Disturber(n, call)):
            with suppress(_Probed), unchanged_buffers(self.model, _Probed), watching(disturber, [layer]):
                found = score(self.model(*args, **kwargs))
                scores.append([found[tuple(place)] for place in places])
                raise _Probed
        return all(not torch.equal(before, after) for before, after in zip(*scores, strict=True))

    def _find(self, target_layer: nn.Module | str) -> nn.Module:
        """The layer meant by itself or by its dotted name."""
        if isinstance(target_layer, nn.Module):
            if target_layer not in self._names:
                raise ValueError(f"target_layer is a {type(target_layer).__name__} that is not part of the model")
            return target_layer
        if not isinstance(target_layer, str):
            raise TypeError(
                f"target_layer is of type {type(target_layer).__name__}; accepted is a module of the model, its dotted "
                "name, or None for the last with a spatial map"
            )
        try:
            layer = self.model.get_submodule(target_layer)
        except RuntimeError:  # a ScriptModule has none
            raise RuntimeError(
                "target_layer: the model was scripted before, so that no layer of it can be watched; explain what it "
                "was made of"
            ) from None
        except AttributeError:
            close = difflib.get_close_matches(target_layer, self._names.values())
            hint = f"; close: {', '.join(close)}" if close else ""
            raise ValueError(f"target_layer: the model has no module {target_layer!r}{hint}") from None
        self._names.setdefault(layer, target_layer)
        return layer

    def _may_be_shared(self) -> bool:
        """Whether the layer is one that networks call many times, as one ReLU for all convolutions, and its number of
        calls is not known yet. Recording the first call on the bet that it is the last would hold the whole network."""
        layer = self._layer
        return (
            layer is not None
            and self.call < 0
            and layer not in self._calls
            and not any(True for _ in layer.parameters())
        )

    def _count(self, args: Sequence[Any], kwargs: Mapping[str, Any], n: int) -> int:
        """How often a run of inference calls the layer."""
        survey = Survey(n)
        assert self._layer is not None
        with watching(survey, [self._layer]):
            self.model(*args, **kwargs)
        self._calls.update(survey.calls)
        return survey.calls.get(self._layer, 0)

    def _survey(self, args: Sequence[Any], kwargs: Mapping[str, Any], n: int) -> None:
        """Finds the last map by a run of inference: nothing earlier shall be recorded."""
        survey = Survey(n)
        layers = [module for module in self.model.modules() if module is not self.model]
        self._names.update((module, name) for name, module in self.model.named_modules())
        with watching(survey, layers):
            self.model(*args, **kwargs)
        if not survey.calls:
            raise RuntimeError(
                "no layer was called: the model was compiled or scripted before; explain what it was made of"
            )
        if survey.last is None:
            raise ValueError(
                "target_layer: no layer returned a map [N, C, H, W] with H * W > 1; name a layer, or enlarge the input"
            )
        layer, _ = self._last_maps[_shapes(args, kwargs)] = survey.last
        self._calls[layer] = survey.calls[layer]


def _gradients(score: Score, output: Any, leaf: Tensor, edge: Tensor | GradientEdge) -> Tensor | None:
    """Of each score with respect to the leaf, at its edge; None where the graph does not lead there."""
    with torch.enable_grad():
        scores = score(output)
        columns = scores if scores.ndim == 2 else scores[:, None]
    if not columns.requires_grad:
        return None
    gradients: list[Tensor | None] = []
    # As PyTorch advises, backward runs outside of autocast: its types are those that the forward used.
    with torch.autocast(leaf.device.type, enabled=False):
        for k in range(columns.shape[1]):
            seed = torch.zeros_like(columns)
            seed[:, k] = 1
            more = k + 1 < columns.shape[1]
            try:
                gradients += torch.autograd.grad(columns, edge, seed, retain_graph=more, allow_unused=True)
            except RuntimeError as error:
                if "use_reentrant=True" in str(error):  # a checkpoint after the layer
                    return None
                raise
    connected = [gradient for gradient in gradients if gradient is not None]
    if len(connected) < columns.shape[1]:
        return None
    return connected[0] if scores.ndim == 1 else torch.stack(connected, dim=1)


def _shapes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[torch.Size, ...]:
    return tuple(value.shape for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def _differentiable(value: Any) -> Any:
    """A tensor of floats as a variable of its own."""
    return value.detach().requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value


def _named(targets: Any) -> str:
    """The targets in an error message."""
    if targets is None:
        return "None (each image's first choice)"
    return getattr(targets, "__qualname__", None) or reprlib.repr(targets)


@contextmanager
def without_autocast_cache() -> Iterator[None]:
    """Within the block autocast keeps no cast weights: with a graph they would outlive the call, without one they would
    miss in what the caller records later."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
