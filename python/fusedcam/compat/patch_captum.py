"""What fusedcam replaces in Captum: layer Grad-CAM, and the bilinear upsampling of its attributions."""

import functools
import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..torch.outputs import tensors
from ..torch.trail import Unfit, follow
from . import native
from .capturing import modes_of
from .patching import Options
from .replacing import Replacement

__all__ = ["replacements"]


def replacements(options: Options) -> list[Replacement]:
    return [
        Replacement(
            "captum.attr._core.layer.grad_cam",
            "LayerGradCam.attribute",
            functools.partial(_attribute, options),
            ("d76c79de8c528f4c",),
        ),
        Replacement(
            "captum.attr._utils.attribution", "LayerAttribution.interpolate", _interpolate, ("1810db6cfb70aca2",)
        ),
    ]


def _attribute(options: Options, original: Any) -> Any:
    @functools.wraps(inspect.unwrap(original))
    def attribute(
        self: Any,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: Any = None,
    ) -> Any:
        rest = (attribute_to_layer_input, relu_attributions, attr_dim_summation, grad_kwargs)

        def theirs() -> Any:
            return original(self, inputs, target, additional_forward_args, *rest)

        plain = attr_dim_summation and not (options.strict or attribute_to_layer_input or grad_kwargs)
        if not plain or not isinstance(self.layer, nn.Module) or self.device_ids is not None:
            return theirs()
        try:
            if torch.is_grad_enabled() and _wants_graph(self.forward_func, (inputs, additional_forward_args)):
                return _attached(self, inputs, target, additional_forward_args, relu_attributions)
            return _detached(self, inputs, target, additional_forward_args, relu_attributions)
        except Unfit:
            return theirs()

    @functools.wraps(original)
    def logged(*args: Any, **kwargs: Any) -> Any:
        return attribute(*args, **kwargs)

    # By this name Captum's own callers step past its logging, which there is none of.
    logged.__wrapped__ = attribute
    return logged


def _wants_graph(model: Any, arguments: Any) -> bool:
    """Whether the caller may go backward through the maps: it trains, or has variables among the arguments."""
    if not isinstance(model, nn.Module) or any(modes_of(model)):
        return True
    return any(one.requires_grad for one in tensors(arguments))


def _detached(self: Any, inputs: Any, target: Any, more: Any, relu: bool) -> Tensor:
    """Recorded from the layer on."""
    from captum._utils.common import _run_forward

    def run() -> Any:
        return _run_forward(self.forward_func, inputs, target, more)

    scores, trail = follow(run, [self.layer], record=True, live=False)
    if len(trail.steps) > 1:
        raise Unfit("the layer ran several times")
    activations = trail.steps[0].activations
    if not isinstance(scores, Tensor) or scores[0].numel() != 1 or not _is_map(activations):
        raise Unfit("there is more than one score an image, or no map")
    (gradients,) = trail.gradients(scores.sum, 1)
    maps = _map(activations, gradients, relu)
    if not torch.is_grad_enabled():
        return maps
    anchor = torch.empty(0, requires_grad=True)
    return cast(Tensor, _WithoutGraph.apply(maps, anchor))  # type: ignore[no-untyped-call]


def _attached(self: Any, inputs: Any, target: Any, more: Any, relu: bool) -> Any:
    """Recorded from the input on, by Captum."""
    from captum._utils.gradient import compute_layer_gradients_and_eval

    gradients, activations = compute_layer_gradients_and_eval(self.forward_func, self.layer, inputs, target, more)
    maps = tuple(_weighted(*pair, relu) for pair in zip(activations, gradients, strict=True))
    return maps if len(maps) > 1 else maps[0]


def _weighted(activations: Tensor, gradients: Tensor, relu: bool) -> Tensor:
    if _is_map(activations):
        return cast(Tensor, _Weighted.apply(activations, gradients, relu))  # type: ignore[no-untyped-call]
    axes = tuple(range(2, gradients.ndim))
    weights = gradients.mean(axes, keepdim=True) if axes else gradients
    maps = (weights * activations).sum(1, keepdim=True)
    return maps.relu() if relu else maps


def _is_map(activations: Tensor) -> bool:
    return activations.ndim > 2 and activations.numel() > 0 and activations.is_floating_point()


def _map(activations: Tensor, gradients: Tensor, relu: bool) -> Tensor:
    """[N, C, *S] -> [N, 1, *S]."""
    flat = activations.detach().reshape(*activations.shape[:2], -1, activations.shape[-1])
    with torch.no_grad():
        raw: Tensor = native.cam(flat, gradients.detach().reshape(flat.shape), relu=relu, normalize=None)
        return raw.reshape(activations.shape[0], 1, *activations.shape[2:]).to(activations.dtype)


class _Weighted(torch.autograd.Function):
    """sum_c w_c A_c, the weights constants, as they are in Captum."""

    @staticmethod
    def forward(ctx: Any, activations: Tensor, gradients: Tensor, relu: bool) -> Tensor:
        maps = _map(activations, gradients, relu)
        weights = gradients.mean(tuple(range(2, gradients.ndim)), keepdim=True)
        ctx.save_for_backward(weights, (maps > 0).to(maps.dtype) if relu else torch.ones_like(maps[:0]))
        ctx.relu = relu
        return maps

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        weights, positive = ctx.saved_tensors
        return (gradient * positive if ctx.relu else gradient) * weights, None, None


class _WithoutGraph(torch.autograd.Function):
    """Maps whose graph ends here. Captum's leads on to the parameters: whoever follows it is told, not left alone."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, anchor: Tensor) -> Tensor:
        return maps.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise RuntimeError(
            "these maps were computed without a graph, since the model is in evaluation mode and no input requires "
            "grad; to go backward through them let an input require grad, or use fusedcam.patch('captum', strict=True)"
        )


def _interpolate(original: Any) -> Any:
    theirs = original.__func__  # a static method

    @functools.wraps(theirs)
    def interpolate(layer_attribution: Any, interpolate_dims: Any, interpolate_mode: str = "nearest") -> Any:
        given = layer_attribution
        size = (interpolate_dims,) * 2 if isinstance(interpolate_dims, int) else interpolate_dims
        if (
            interpolate_mode != "bilinear"
            or not isinstance(given, Tensor)
            or given.ndim != 4
            or not given.is_floating_point()
            or not given.numel()
            or (given.requires_grad and torch.is_grad_enabled())
            or not isinstance(size, tuple | list)
            or len(size) != 2
            # Where maps shrink, PyTorch's positions are not exact, and its maps not ours.
            or not all(isinstance(to, int) and to >= extent for to, extent in zip(size, given.shape[2:], strict=True))
        ):
            return theirs(layer_attribution, interpolate_dims, interpolate_mode)
        return native.resize(given.detach(), tuple(size)).to(given.dtype)

    return staticmethod(interpolate)
