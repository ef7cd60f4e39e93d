"""What fusedcam replaces in Captum: layer Grad-CAM, and the bilinear upsampling of its attributions."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

        plain = attr_dim_summation and not (options.strict or attribute_to_layer_input or grad_kwargs)
        if not plain or not isinstance(self.layer, nn.Module) or self.device_ids is not None:
            return theirs()
        if torch.is_grad_enabled() and not isinstance(self.forward_func, nn.Module):
            return theirs()  # whose variables are nobody's to find
        try:
            with _alike(self.forward_func, inputs):
                maps = _map(self, inputs, target, additional_forward_args, relu_attributions)
        except Unfit:
            return theirs()
        if not torch.is_grad_enabled():
            return maps
        variables = [one for one in (*_tensors(inputs), *self.forward_func.parameters()) if one.requires_grad]
        return _Attached.apply(maps, theirs, *variables) if variables else maps  # type: ignore[no-untyped-call]

    @functools.wraps(original)
    def logged(*args: Any, **kwargs: Any) -> Any:
        return attribute(*args, **kwargs)

    # By this name Captum's own callers step past its logging, which there is none of.
    logged.__wrapped__ = attribute
    return logged


class _Attached(torch.autograd.Function):
    """Maps that were computed without what comes before the layer, and whose backward computes them with it.

    Captum's carry a gradient, for which it records the whole model at each call, and which hardly anyone asks for.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, again: Callable[[], Tensor], *variables: Tensor) -> Tensor:
        ctx.again = again
        ctx.save_for_backward(*variables)
        return maps

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        variables = ctx.saved_tensors  # which refuses those that have been written to meanwhile
        with torch.enable_grad():
            maps = ctx.again()
        found = torch.autograd.grad(maps, variables, gradient, allow_unused=True, create_graph=torch.is_grad_enabled())
        return None, None, *found


def _tensors(inputs: Any) -> list[Tensor]:
    return [one for one in (inputs if isinstance(inputs, tuple) else (inputs,)) if isinstance(one, Tensor)]


@contextmanager
def _alike(model: Any, inputs: Any) -> Iterator[None]:
    """A block whose run of the model another one would repeat.

    Raises:
        Unfit: the model trains, and has buffers that a run may change or has drawn random numbers, which are as before.
    """
    if not isinstance(model, nn.Module) or not any(module.training for module in model.modules()):
        yield
        return
    if any(True for _ in model.buffers()):
        raise Unfit("running statistics would move twice")
    devices = {one.device for one in _tensors(inputs) if one.is_cuda}
    before = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
    yield
    after = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
    if not all(map(torch.equal, before, after)):
        torch.set_rng_state(before[0])
        for device, state in zip(devices, before[1:], strict=True):
            torch.cuda.set_rng_state(state, device)
        raise Unfit("random numbers would not come again")


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
