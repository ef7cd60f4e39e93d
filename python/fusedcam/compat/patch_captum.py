"""What fusedcam replaces in Captum: layer Grad-CAM, and the bilinear upsampling of its attributions."""

import functools
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ..torch.trail import Unfit, follow
from . import native
from .attached import alike, attached, tensors_of
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

        def theirs(inputs: Any = inputs, more: Any = additional_forward_args) -> Any:
            return original(self, inputs, target, more, *rest)

        plain = attr_dim_summation and not (options.strict or attribute_to_layer_input or grad_kwargs)
        if not plain or not isinstance(self.layer, nn.Module) or self.device_ids is not None:
            return theirs()
        if torch.is_grad_enabled() and not isinstance(self.forward_func, nn.Module):
            return theirs()  # whose variables are nobody's to find
        try:
            with alike(self.forward_func, tensors_of(inputs)):
                maps = _map(self, inputs, target, additional_forward_args, relu_attributions)
        except Unfit:
            return theirs()
        if not torch.is_grad_enabled():
            return maps
        return attached(maps, theirs, self.forward_func, inputs, additional_forward_args)

    @functools.wraps(original)
    def logged(*args: Any, **kwargs: Any) -> Any:
        return attribute(*args, **kwargs)

    # By this name Captum's own callers step past its logging, which there is none of.
    logged.__wrapped__ = attribute
    return logged


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
            # Where maps shrink, PyTorch's positions are not exact, and its maps not ours.
            or not all(isinstance(to, int) and to >= extent for to, extent in zip(size, given.shape[2:], strict=True))
        ):
            return theirs(layer_attribution, interpolate_dims, interpolate_mode)
        return native.resize(given.detach(), tuple(size)).to(given.dtype)

    return staticmethod(interpolate)
