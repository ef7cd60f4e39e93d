"""Activations of a layer and the gradient of a score with respect to them, at about the cost of inference."""

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .derivatives import Edge
from .forms import IMAGES, Form
from .head import Found, Head, Layer, constant_over_space, is_hooked
from .located import LayersMeant, Located, shapes_of
from .outputs import detached, normal
from .plan import Captured, Plan
from .recording import Disturber, Recorder, plain_checkpoints, watching
from .state import explain_failure, unchanged_buffers
from .targets import Score, forgiving, score_function, unexcused

__all__ = ["Capture", "Captured", "Plan", "without_autocast_cache"]

# Why a model runs again; the first three also say how.
_SWITCHED_OFF = "the model switched recording off after the layer"
_OVERWRITTEN = "the layer's output was overwritten"
_SHARED = "the layer's output has another name"
_OTHER_PATH = "the model took another path than before"
_TOKENS_UNUSED = (
    "; where the model goes on with its class token alone, an earlier layer is meant, such as the last block's first "
    "normalisation"
)
_MOST_RUNS = 8  # a model that surprises even then never runs twice alike


Differentiate = Callable[[Score, Any, Tensor, Edge], Tensor | None]


class _Probed(Exception):
    """A run has shown what it was for, and shall leave no trace."""


class _Again(Exception):
    """The model has to run again; the message says why."""


class Capture(Located):
    """Runs `model` so that only what follows the layers is recorded; remembers how often layers run."""

    def __init__(
        self, model: nn.Module, target_layer: LayersMeant, call: int, form: Form = IMAGES, *, shortcut: bool = True
    ):
        super().__init__(model, target_layer, call, form)
        self.head = Head(model, form, shortcut)
        self.differentiate: Differentiate | None = None
        """From a score to its gradient at one layer, where that is another than the head's."""
        self._needs: set[str] = set()
        """Which of the reasons to run again hold for every run of this model."""

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: what was verified was so of this model's weights, in this process."""
        return {**self.__dict__, "head": Head(self.model, self.form, self.head.shortcut)}

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any], n: int, targets: Any) -> list[Captured]:
        """Captures a run on `args` and `kwargs`, a batch of N images, for the score that `targets` means: of each
        layer."""
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
    ) -> list[Captured]:
        """Finds out what has to be known about the layers first, or explains."""
        if not self.layers and shapes_of(args, kwargs) not in self._last_maps:
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
    ) -> list[Captured]:
        """One run and its backward; raises _Again where the run shows that the graph should begin elsewhere."""
        call, layers = self.call, self.layers
        if not layers:
            last, call = self._last_maps[shapes_of(args, kwargs)]
            layers = (last,)
        before = [self._calls.get(layer) for layer in layers]
        wanted = [call if call >= 0 else None if calls is None else max(calls + call, 0) for calls in before]
        needs = self._needs.union(reruns)
        whole = _SHARED in needs
        from_start = whole or _SWITCHED_OFF in needs
        recorder = Recorder(
            n,
            dict(zip(layers, wanted, strict=True)),
            self.form,
            from_start=from_start,
            copy=_OVERWRITTEN in needs,
            whole=whole,
        )
        if whole:  # a graph that leads to the layer needs somewhere to begin, be every parameter frozen
            args = [_differentiable(value) for value in args]
        checkpoints = plain_checkpoints() if from_start else nullcontext()
        # The first of these restores all modes, whatever a recorder inside the model's own inference_mode leaves.
        with torch.inference_mode(False), torch.set_grad_enabled(from_start), checkpoints, watching(recorder, layers):
            try:
                output = self.model(*args, **kwargs)
            finally:
                still_on = recorder.close()

        calls = [record.calls for record in recorder.records.values()]
        if not self.layers and calls != before:
            self._last_maps.clear()
            raise _Again(_OTHER_PATH)
        places = [self.checked_call(layer, call, record.calls) for layer, record in recorder.records.items()]
        self._calls.update((layer, record.calls) for layer, record in recorder.records.items())
        for right, record in zip(places, recorder.records.values(), strict=True):
            if record.recorded != right:
                raise _Again(f"the layer was called {max(calls)} times")
        if recorder.shared or recorder.elsewhere:
            raise _Again(_SHARED)
        layered: list[Layer] = []
        for layer, record in recorder.records.items():
            if record.leaf is None or record.edge is None:
                raise ValueError(
                    f"layer {self.name_of(layer)} returned {record.refused}; accepted is {self.form.accepted} with "
                    f"N = {n}"
                )
            hooked = record.handed is not None and is_hooked(record.handed)
            layered.append(Layer(record.leaf.detach(), record.edge, self.form.grid(record.leaf, args[0]), hooked))
        if any(record.overwritten for record in recorder.records.values()):
            raise _Again(_OVERWRITTEN)

        found = [Found(None, "none") for _ in layered]
        if still_on or from_start:
            found = self._differentiated(score, output, layered)
        if any(one.gradients is None for one in found) and not from_start:
            raise _Again(_SWITCHED_OFF)
        where: Literal["from the layer", "from the start"] = "from the start" if from_start else "from the layer"
        captured = []
        for layer, right, record, (activations, _, grid, _), (gradients, shortcut) in zip(
            layers, places, recorder.records.values(), layered, found, strict=True
        ):
            independent = f"the score of targets={_named(targets)} does not depend on layer {self.name_of(layer)}"
            if gradients is None:
                raise ValueError(f"{independent}, as far as autograd can see")
            zero = unexcused(targets, output, _zeros(gradients, self.form.spatial))
            disturber = Disturber(n, right, self.form, grid.skipped if grid else 0)
            if zero and not self._reacts(args, kwargs, layer, disturber, score_function(forgiving(targets), n), zero):
                raise ValueError(
                    f"{independent}: for image {zero[0][0]}"
                    f"{f', class number {zero[0][1]} of its list,' if zero[0][1:] else ''} its gradient is zero "
                    f"everywhere {'on the grid ' if grid else ''}and another output of the layer leaves it as it is"
                    + (_TOKENS_UNUSED if grid and grid.skipped else "")
                )
            plan = Plan(
                self._names[layer],
                right,
                record.calls,
                tuple(activations.shape),
                where,
                tuple(reruns),
                tokens=grid.size if grid else None,
                skipped=grid.skipped if grid else 0,
                shortcut=shortcut,
            )
            # A view costs nothing, and every method reads maps with their channels first.
            maps = self.form.channels_first(activations, grid)
            captured.append(Captured(maps, gradients, detached(output), plan))
        self._needs |= needs & {_SWITCHED_OFF, _OVERWRITTEN, _SHARED}
        return captured

    def _differentiated(self, score: Score, output: Any, layered: Sequence[Layer]) -> list[Found]:
        """Of each score with respect to each layer; None where the graph does not lead there."""
        if self.differentiate is not None:
            if len(layered) > 1:
                raise ValueError("target_layer has several layers; this method takes one")
            ((activations, edge, grid, _),) = layered
            gradients = self.differentiate(score, output, activations, edge)
            return [Found(None if gradients is None else self.form.channels_first(gradients, grid), "none")]
        with torch.enable_grad():
            scores = score(output)
        try:
            return self.head.gradients(scores, score, output, layered)
        except RuntimeError as error:
            if "use_reentrant=True" in str(error):  # a checkpoint after the layer
                return [Found(None, "none") for _ in layered]
            raise

    def _reacts(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        layer: nn.Module,
        disturber: Disturber,
        score: Score,
        places: list[list[int]],
    ) -> bool:
        """Whether the scores at `places`, (image,) or (image, class), change with what the layer returns.

        A gradient of zeros alone does not tell: autograd sees a path from every column of a concatenated output to
        every branch, and a dead ReLU is a path as well. Maps of zeros are the truth for the latter alone.
        """
        scores, at = [], tuple(torch.tensor(places, device="cpu").unbind(1))
        for each in (Disturber(disturber.n, None), disturber):
            with suppress(_Probed), unchanged_buffers(self.model, _Probed), watching(each, [layer]):
                found = score(self.model(*args, **kwargs))
                scores.append(found[at])
                raise _Probed
        return bool((scores[0] != scores[1]).all())


def _zeros(gradients: Tensor, spatial: int) -> list[list[int]]:
    """Where gradients [N, C, *S] or [N, K, C, *S] are zero everywhere: (image,) or (image, class)."""
    once = constant_over_space(gradients, spatial)
    if once is None:
        zero = (~gradients.flatten(-1 - spatial).any(-1)).nonzero()
    else:  # of many classes those whose first channel is zero are soon found, and are few
        each = once.expand(*gradients.shape[: -1 - spatial], -1)
        places = (each[..., 0] == 0).nonzero()
        zero = places[~each[places.unbind(1)].any(-1)]
    found: list[list[int]] = zero.tolist()
    return found


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
