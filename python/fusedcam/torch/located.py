"""Which layers of a model are meant, and which of their calls."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .forms import IMAGES, Form
from .recording import Survey, watching
from .wrapped import check_visible, has_graph, inside, plain_name, shells, unseen

__all__ = ["LayersMeant", "Located", "shapes_of"]

LayersMeant = nn.Module | str | Sequence[nn.Module | str] | None


class Located:
    """Layers of a model, found by themselves, by name or as the last with a map; remembers how often they run."""

    def __init__(self, model: nn.Module, target_layer: LayersMeant, call: int, form: Form = IMAGES):
        self.model, self.call, self.form = model, call, form
        self._names = _names_in(model)
        self.layers = self._all(target_layer)
        """Those meant; none where the last map is."""
        self._calls: dict[nn.Module, int] = {}
        self._last_maps: dict[tuple[torch.Size, ...], tuple[nn.Module, int]] = {}

    @property
    def _layer(self) -> nn.Module | None:
        """The one meant, or None where the last map is; for methods that take one."""
        if len(self.layers) > 1:
            raise ValueError(f"target_layer is a list of {len(self.layers)} layers; accepted is one by this method")
        return self.layers[0] if self.layers else None

    def name_of(self, layer: nn.Module) -> str:
        """For an error message."""
        return self._names[layer] or "the model itself"

    def checked_call(self, layer: nn.Module, call: int, calls: int) -> int:
        """Which of a layer's calls is meant, from 0, of those that there were.

        Raises:
            RuntimeError: there was none.
            ValueError: there were fewer.
        """
        if not calls:
            raise RuntimeError(f"layer {self.name_of(layer)} was not called: {unseen(self.model)}")
        right = call if call >= 0 else calls + call
        if not 0 <= right < calls:
            raise ValueError(f"call is {call}, but layer {self.name_of(layer)} was called {calls} times")
        return right

    def _all(self, target_layer: LayersMeant) -> tuple[nn.Module, ...]:
        """The layers meant, each once."""
        if target_layer is None:
            check_visible(self.model, None, "target_layer")
            return ()
        if isinstance(target_layer, nn.Module | str) or not isinstance(target_layer, list | tuple):
            return (self._find(target_layer),)
        if not target_layer:
            raise ValueError("target_layer is an empty list; accepted is at least one layer")
        layers = tuple(self._find(layer) for layer in target_layer)
        for layer in layers:
            if layers.count(layer) > 1:
                raise ValueError(f"target_layer has layer {self.name_of(layer)} twice; accepted is each once")
        return layers

    def _find(self, meant: Any, argument: str = "target_layer") -> nn.Module:
        """The layer meant by itself or by its dotted name; refusals name the argument that it came as."""
        if isinstance(meant, nn.Module):
            layer = next((one for one in shells(inside(meant)) if one in self._names), None)
            if layer is None:
                raise ValueError(f"{argument} is a {type(meant).__name__} that is not part of the model")
        elif isinstance(meant, str):
            layer = self._named(meant)
            if layer is None:
                close = difflib.get_close_matches(plain_name(meant, every=True), self._names.values())
                hint = f"; close: {', '.join(close)}" if close else ""
                raise ValueError(f"{argument}: the model has no module {meant!r}{hint}")
            self._names.setdefault(layer, meant)
        else:
            more = ", a list of them, or None for the last with a spatial map" if argument == "target_layer" else ""
            raise TypeError(
                f"{argument} is of type {type(meant).__name__}; accepted is a module of the model, its dotted "
                f"name{more}"
            )
        check_visible(self.model, layer, argument)
        return layer

    def _named(self, name: str) -> nn.Module | None:
        """The module of that dotted name, with or without what wrappers put before it."""
        modules = {other: module for module, other in self._names.items()}
        for one in (name, plain_name(name, every=True)):
            if one in modules:
                return modules[one]
            try:
                return self.model.get_submodule(one)
            except (AttributeError, RuntimeError):  # the latter of a ScriptModule
                continue
        return None

    def _may_be_shared(self) -> bool:
        """Whether a layer is one that networks call many times, as one ReLU for all convolutions, and its number of
        calls is not known yet. Recording the first call on the bet that it is the last would hold the whole network."""
        return self.call < 0 and any(
            layer not in self._calls and not any(True for _ in layer.parameters()) for layer in self.layers
        )

    def _count(self, args: Sequence[Any], kwargs: Mapping[str, Any], n: int) -> int:
        """How often a run of inference calls the layers."""
        survey = Survey(n)
        with watching(survey, self.layers):
            self.model(*args, **kwargs)
        self._calls.update(survey.calls)
        return sum(survey.calls.values())

    def _survey(self, args: Sequence[Any], kwargs: Mapping[str, Any], n: int) -> None:
        """Finds the last map by a run of inference: nothing earlier shall be recorded."""
        survey = Survey(n, self.form)
        layers = [
            module
            for name, module in self.model.named_modules()
            if module not in shells(self.model) and ".parametrizations." not in name  # which make weights
        ]
        self._names.update(_names_in(self.model))
        with watching(survey, layers):
            self.model(*args, **kwargs)
        if not survey.calls:
            raise RuntimeError(f"no layer was called: {unseen(self.model)}")
        if survey.last is None:
            raise ValueError(
                f"target_layer: no layer returned a map {self.form.shape} with {self.form.extent} > 1; name a layer, "
                f"or enlarge the input{f'; {unseen(self.model)}' if has_graph(self.model) else ''}"
            )
        layer, _ = self._last_maps[shapes_of(args, kwargs)] = survey.last
        self._calls[layer] = survey.calls[layer]


def _names_in(model: nn.Module) -> dict[nn.Module, str]:
    return {module: plain_name(name) for name, module in model.named_modules()}


def shapes_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[torch.Size, ...]:
    """Of all tensors that a model takes."""
    return tuple(value.shape for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
