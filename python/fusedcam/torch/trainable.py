"""Activations and gradients that stay in the graph, for losses on maps: the model runs as in training."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .derivatives import derivatives, stacked
from .forms import IMAGES, Form
from .located import LayersMeant, Located, shapes_of
from .outputs import describe, find_map, replaced
from .plan import Captured, Plan
from .recording import Watch, watching
from .state import unchanged_buffers
from .targets import score_function
from .wrapped import averaging, inside

__all__ = ["TrainableCapture"]


class _Again(Exception):
    """The model has to run again; the message says why."""


class _Keeper(Watch):
    """Keeps what layers return, with the graph behind it."""

    def __init__(self, n: int, layers: Sequence[nn.Module], form: Form, *, copy: bool):
        self.n, self.form, self.copy = n, form, copy
        self.found: dict[nn.Module, list[Any]] = {layer: [] for layer in layers}
        """Of each call the activations, their edge and their version, or what came in their place."""

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not self.acts:
            return None
        calls = self.found[module]
        activations = find_map(output, self.n, self.form, tokens=True)
        if activations is None:
            calls.append(describe(output))
            return None
        kept, new = activations, None
        if not activations.requires_grad:  # all before it is frozen: the graph begins here
            kept = activations.detach().requires_grad_()
            new = kept.clone()
        elif self.copy:
            new = activations.clone()
        calls.append((kept, get_gradient_edge(kept), kept._version))
        return None if new is None else replaced(output, activations, new)


class TrainableCapture(Located):
    """As `Capture`, but all that leads to the layers is recorded too, and the gradients are differentiable."""

    def __init__(self, model: nn.Module, target_layer: LayersMeant, call: int, form: Form = IMAGES):
        super().__init__(inside(model), target_layer, call, form)
        self._runs = averaging(model)
        self._copy = False
        """Whether the model writes to the layers' output."""

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any], n: int, targets: Any) -> list[Captured]:
        """Captures a run on `args` and `kwargs`, a batch of N images, for the score that `targets` means: of each
        layer. The output is the model's own, with its graph."""
        score = score_function(targets, n)
        reruns: list[str] = []
        with torch.inference_mode(False), torch.enable_grad():
            while True:
                try:
                    with unchanged_buffers(self.model, _Again):
                        return self._run(args, kwargs, n, targets, score, reruns)
                except _Again as again:
                    reruns.append(str(again))

    def _run(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], n: int, targets: Any, score: Any, reruns: list[str]
    ) -> list[Captured]:
        call, layers = self.call, self.layers
        if not layers:
            if shapes_of(args, kwargs) not in self._last_maps:
                with torch.no_grad(), torch.random.fork_rng(_devices(self.model)):
                    self._survey(args, kwargs, n)
                raise _Again("the last map had to be found first")
            last, call = self._last_maps[shapes_of(args, kwargs)]
            layers = (last,)
        if getattr(self._runs, "static_graph", False):
            raise ValueError(
                "create_graph is True, but the model is wrapped by DistributedDataParallel(static_graph=True), which "
                "does not average gradients of a graph that is differentiated twice; accepted is static_graph=False"
            )
        keeper = _Keeper(n, layers, self.form, copy=self._copy)
        random = torch.get_rng_state()
        with watching(keeper, layers):
            output = self._runs(*args, **kwargs)
        places, kept = [], []
        for layer, calls in keeper.found.items():
            places.append(self.checked_call(layer, call, len(calls)))
            one = calls[places[-1]]
            if isinstance(one, str):
                raise ValueError(
                    f"layer {self.name_of(layer)} returned {one}; accepted is {self.form.accepted} with N = {n}"
                )
            kept.append(one)
        if any(activations._version != version for activations, _, version in kept):
            self._copy = True
            torch.set_rng_state(random)  # the same dropout once more
            raise _Again("the layer's output was overwritten")
        found = self._gradients(score, output, [edge for _, edge, _ in kept])
        captured = []
        for layer, place, (activations, _, _), gradients in zip(layers, places, kept, found, strict=True):
            if gradients is None:
                raise ValueError(
                    f"the score of targets={targets!r} does not depend on layer {self.name_of(layer)}, as far as "
                    "autograd can see, which sees nothing through a reentrant torch.utils.checkpoint: pass it "
                    "use_reentrant=False"
                )
            grid = self.form.grid(activations, args[0])
            plan = Plan(
                self._names[layer],
                place,
                len(keeper.found[layer]),
                tuple(activations.shape),
                "from the start",
                tuple(reruns),
                *(grid or ()),
            )
            maps = [self.form.channels_first(one, grid) for one in (activations, gradients)]
            captured.append(Captured(maps[0], maps[1], output, plan))
        return captured

    def _gradients(self, score: Any, output: Any, edges: Sequence[GradientEdge]) -> list[Tensor | None]:
        """Of each score at each edge, recorded; None where the graph does not lead there."""
        scores = score(output)
        if not scores.requires_grad:
            return [None for _ in edges]
        rows = list(zip(*derivatives(scores, edges, twice=True), strict=True))
        found: list[Tensor | None] = []
        for row in rows:
            connected = [gradient for gradient in row if gradient is not None]
            found.append(stacked(connected, scores) if len(connected) == len(row) else None)
        return found


def _devices(model: nn.Module) -> set[torch.device]:
    return {parameter.device for parameter in model.parameters() if parameter.is_cuda}
