"""What fusedcam replaces in Captum: layer Grad-CAM, and the bilinear upsampling of its attributions."""

import functools
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ..torch.trail import Unfit, follow
from . import native
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
        def theirs() -> Any:
            return original(
                self,
                inputs,
                target,
                additional_forward_args,
                attribute_to_layer_input,
                relu_attributions,
                attr_dim_summation,
                grad_kwargs,
            )

        attached = options.strict or _needs_graph(self.forward_func, inputs)
        if attached or attribute_to_layer_input or not attr_dim_summation or grad_kwargs:
            return theirs()
        if not isinstance(self.layer, nn.Module) or self.device_ids is not None:
            return theirs()
        try:
            return _map(self, inputs, target, additional_forward_args, relu_attributions)
        except Unfit:
            return theirs()

    @functools.wraps(original)
    def logged(*args: Any, **kwargs: Any) -> Any:
        return attribute(*args, **kwargs)

    # By this name Captum's own callers step past its logging, which there is none of.
    logged.__wrapped__ = attribute
    return logged


def _needs_graph(model: Any, inputs: Any) -> bool:
    """Whether the caller may go backward through the attributions: it trains, or asks for its inputs' gradients."""
    if not torch.is_grad_enabled():
        return False
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    return any(isinstance(one, Tensor) and one.requires_grad for one in tensors) or (
        isinstance(model, nn.Module) and any(module.training for module in model.modules())
    )


def _map(self: Any, inputs: Any, target: Any, more: Any, relu: bool) -> Tensor:
    from captum._utils.common import _run_forward

    def run() -> Any:
        return _run_forward(self.forward_func, inputs, target, more)

    scores, trail = follow(run, [self.layer], record=True, live=False)
    if len(trail.steps) > 1:
        raise Unfit("the layer ran several times")
    activations = trail.steps[0].activations
    if not isinstance(scores, Tensor) or scores[0].numel() != 1 or activations.ndim < 3 or not activations.numel():
        raise Unfit("there is more than one score an image, or no map")
    (gradients,) = trail.gradients(scores.sum, 1)
    with torch.no_grad():
        flat = activations.reshape(*activations.shape[:2], -1, activations.shape[-1])
        raw: Tensor = native.cam(flat, gradients.reshape(flat.shape), relu=relu, normalize=None)
        return raw.reshape(activations.shape[0], 1, *activations.shape[2:]).to(activations.dtype)


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
        ):
            return theirs(layer_attribution, interpolate_dims, interpolate_mode)
        return native.resize(given.detach(), tuple(size)).to(given.dtype)

    return staticmethod(interpolate)
