"""Guided backpropagation and its kin: gradients of scores by the input that are let through ReLUs by another rule.

The rule is laid on the nodes of the recorded graph, which knows every ReLU whatever it was written as; the model itself
is not touched, and the graph is gone after the call.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..functional import cam
from . import state
from .derivatives import derivatives, nodes_of, stacked
from .explainer import Explainer, Run
from .outputs import describe, detached, find_map
from .plan import LastCall
from .recording import Watch
from .targets import score_function
from .whole import recorded
from .wrapped import inside

__all__ = ["Deconvnet", "GuidedBackprop", "GuidedGradCAM"]

Gradients = tuple[Tensor | None, ...]
Rule = Callable[[Gradients, Gradients], Gradients]


def _guided(inner: Gradients, outer: Gradients) -> Gradients:
    """Plain backpropagation's gradient, where it is positive. Its mask is 0 or 1, so that this is the same as masking
    what is positive of the gradient from above."""
    return tuple(None if one is None else one.clamp(min=0) for one in inner)


def _deconvolved(inner: Gradients, outer: Gradients) -> Gradients:
    """What is positive of the gradient from above, whatever the ReLU's own input."""
    return (None if outer[0] is None else outer[0].clamp(min=0), *inner[1:])


class GuidedBackprop:
    """Explains a model's scores by guided backpropagation (Springenberg et al. 2015, https://arxiv.org/abs/1412.6806):
    the gradient by the input, of which every ReLU lets through only what is positive.

    ReLUs are found in the recorded graph: modules, functions and methods, in-place or not, ReLU6 and clamping at 0.
    pytorch-grad-cam swaps the modules `nn.ReLU` for the length of the call and explains the first image of a batch;
    Captum hooks the same modules. The map is signed, is the gradient as it is, and no heatmap.

    Args:
        model: maps a batch of N images to any output.
        eval: as in `GradCAM`.

    Raises:
        TypeError: not a module.
    """

    _rule: Rule = staticmethod(_guided)

    def __init__(self, model: nn.Module, *, eval: bool = False):
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is of type {type(model).__name__}; accepted is a torch.nn.Module")
        self.model, self.eval = inside(model), eval
        self._warn_of_training = True
        self._last = LastCall()

    def __call__(self, x: Tensor, *args: Any, targets: Any = None, **kwargs: Any) -> Tensor:
        """The gradients of a batch.

        Args:
            x: the model's first argument, [N, ...] of floats; `args` and `kwargs` are passed to the model after it.
            targets: as in a call of `GradCAM`.

        Returns:
            [N, ...] of x's shape, device and type, or [N, K, ...] for several classes.

        Raises:
            ValueError: targets that do not fit, a score that does not depend on x, a network without a ReLU.
            TypeError: targets or x of another type.
            RuntimeError: a compiled model, whose ReLUs no graph shows, or one that cannot be recorded.
        """
        x, scores, _ = self._recorded(x, args, kwargs, targets, _Tap(-1, []))
        return self._backward(x, scores)

    @property
    def output(self) -> Any:
        """What the model returned in this thread's last call, detached."""
        try:
            return self._last.output
        except AttributeError:
            raise AttributeError("output is there after a call on this thread has succeeded") from None

    def _recorded(
        self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], targets: Any, tap: "_Tap"
    ) -> tuple[Tensor, Tensor, Any]:
        """x as the leaf, the scores [N] or [N, K] with their graph, and the model's output."""
        self._last.__dict__.clear()
        if not isinstance(x, Tensor) or x.ndim == 0:
            raise TypeError(f"x is of type {type(x).__name__}; accepted is a tensor [N, ...], a batch of N images")
        if self._warn_of_training and not self.eval:
            self._warn_of_training = not state.warn_of_training(self.model)
        with torch.inference_mode(False):
            score = score_function(targets, len(x))
        tap.n = len(x)
        with state.evaluating(self.model, self.eval):
            leaf, output = recorded(self.model, Run((x, *args), kwargs, targets), tap, tap.layers)
        with torch.inference_mode(False), torch.enable_grad():
            scores = score(output)
        if scores.grad_fn is None:
            raise ValueError("the score does not depend on x, as far as autograd can see")
        self._last.output = detached(output)
        return leaf, scores, output

    def _backward(self, x: Tensor, scores: Tensor) -> Tensor:
        """The gradients by x, by the rule."""
        found = list(nodes_of(scores))
        if not any(getattr(node, "variable", None) is x for node in found):
            raise ValueError("the score does not depend on x, as far as autograd can see")
        relus = [node for node in found if _is_relu(node)]
        if not relus:
            raise ValueError(f"{type(self).__name__} changes what ReLUs let through, and the network has none")
        for node in relus:
            node.register_hook(self._rule)
        rows = []
        with torch.inference_mode(False):
            for (gradient,) in derivatives(scores, [x]):
                if gradient is None:
                    raise ValueError("the score does not depend on x, as far as autograd can see")
                rows.append(gradient)
        return stacked(rows, scores)


class Deconvnet(GuidedBackprop):
    """Explains a model's scores by a deconvolutional network (Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901):
    as `GuidedBackprop`, but that ReLUs let through whatever is positive of the gradient from above.

    Args:
        model: maps a batch of N images to any output.
        eval: as in `GradCAM`.

    Raises:
        TypeError: not a module.
    """

    _rule = staticmethod(_deconvolved)


class GuidedGradCAM(GuidedBackprop):
    """Explains a model's scores by Guided Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, section
    3.2): the product of guided backpropagation with Grad-CAM's map after its ReLU, resampled bilinearly to the input.

    One run and two backwards, of which Grad-CAM's ends at the layer. The map is not normalised. Captum's resamples to
    the nearest pixel where nothing else is said.

    Args:
        model, target_layer, call, eval: as in `GradCAM`.

    Raises:
        ValueError, TypeError: as `GradCAM`.
    """

    def __init__(
        self, model: nn.Module, target_layer: nn.Module | str | None = None, *, call: int = -1, eval: bool = False
    ):
        super().__init__(model, eval=eval)
        named = Explainer(model, target_layer, call=call)  # which checks them
        self._layer, self._call = named._capture._layer, call

    def __call__(self, x: Tensor, *args: Any, targets: Any = None, **kwargs: Any) -> Tensor:
        """The products of a batch.

        Args:
            x: the model's first argument, [N, C, H, W] of floats; `args` and `kwargs` are passed to the model after it.
            targets: as in a call of `GradCAM`.

        Returns:
            [N, C, H, W] of x's device and type, or [N, K, C, H, W] for several classes.

        Raises:
            ValueError, TypeError, RuntimeError: as `GuidedBackprop` and `GradCAM`.
        """
        if isinstance(x, Tensor) and x.ndim != 4:
            raise ValueError(f"x has shape {tuple(x.shape)}; accepted are images [N, C, H, W]")
        layers = [self._layer] if self._layer else [one for one in self.model.modules() if one is not self.model]
        for copy in (False, True):
            tap = _Tap(self._call, layers, each=self._layer is None, copy=copy)
            leaf, scores, _ = self._recorded(x, args, kwargs, targets, tap)
            tapped = tap.chosen()
            if tapped.activations._version == tapped.version:  # nothing has written to the layer's output
                break
        rows = []
        with torch.inference_mode(False):
            for (gradient,) in derivatives(scores, [tapped.edge], keep=True):
                if gradient is None:
                    raise ValueError("the score does not depend on the layer, as far as autograd can see")
                rows.append(gradient)
            size = (x.shape[-2], x.shape[-1])
            heat: Tensor = cam(tapped.activations, stacked(rows, scores), size=size, normalize=None)
            return self._backward(leaf, scores) * heat.unsqueeze(-3).to(x.dtype)


class _Tapped(NamedTuple):
    activations: Tensor
    edge: GradientEdge
    version: int


class _Tap(Watch):
    """Keeps the map that a call of a layer returns, and where it stands in the graph.

    Args:
        call: which one, counted from 0, or from the last below 0.
        each: keep the last call of whatever layer that returns a map of more than one pixel.
        copy: keep a copy, which nothing overwrites.
    """

    def __init__(self, call: int, layers: list[nn.Module], *, each: bool = False, copy: bool = False):
        self.call, self.layers, self.each, self.copy = call, layers, each, copy
        self.n = 0
        """Of the batch."""
        self.calls: list[_Tapped | str] = []
        """What is not a map is described."""

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not self.acts:
            return
        found = find_map(output, self.n)
        if self.each:
            if found is None or found.shape[2] * found.shape[3] == 1:
                return
            self.calls.clear()
        if found is None or not found.requires_grad:
            self.calls.append(describe(output) + ("" if found is None else " without a gradient"))
            return
        kept = found.detach().clone() if self.copy else found.detach()
        self.calls.append(_Tapped(kept, get_gradient_edge(found), kept._version))

    def chosen(self) -> _Tapped:
        """The call that is meant.

        Raises:
            RuntimeError: the layer did not run where hooks see it.
            ValueError: there is no such call, or it returned no map.
        """
        if not self.calls:
            raise RuntimeError("the layer was not called, or no layer returned a map [N, C, H, W] with H * W > 1")
        if not -len(self.calls) <= self.call < len(self.calls):
            raise ValueError(f"call is {self.call}, but the layer was called {len(self.calls)} times")
        tapped = self.calls[self.call]
        if isinstance(tapped, str):
            raise ValueError(f"the layer returned {tapped}; accepted is a map [N, C, H, W] of floats with N = {self.n}")
        return tapped


def _is_relu(node: Any) -> bool:
    """Whether what the node goes back through is max(x, 0), or that clamped from above."""
    kind = node.name().rstrip("0123456789")
    if kind == "ReluBackward":
        return True
    floor = {"HardtanhBackward": "_saved_min_val", "ClampBackward": "_saved_min", "ClampMinBackward": "_saved_min"}
    if kind == "ThresholdBackward":
        return bool(node._saved_threshold == 0)
    least = getattr(node, floor[kind], None) if kind in floor else None
    return isinstance(least, int | float) and least == 0
