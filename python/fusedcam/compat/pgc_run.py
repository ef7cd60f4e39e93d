"""pytorch-grad-cam's run of the model: recorded from the first layer on, differentiated with respect to layers alone.

The peer's own run stays for models that cannot be followed so.
"""

import functools
from typing import Any

import torch

from ..torch.trail import Trail, Unfit, follow
from . import pgc_maps
from .capturing import as_it_was, lifted, predicting
from .pgc_numbers import as_size, fits, method_of, to_numpy
from .pgc_targets import as_list, check_count, loss

__all__ = ["forward_from", "run_from"]


def forward_from(original: Any) -> Any:
    @functools.wraps(original)
    def forward(self: Any, input_tensor: Any, targets: Any, eigen_smooth: bool = False) -> Any:
        with predicting(self.model):
            if self.detach and not self.compute_input_gradient and _hooks_are_theirs(self):
                try:
                    return _explained(self, input_tensor, targets, eigen_smooth)
                except Unfit:
                    pass
            with as_it_was(self.model):
                return original(self, input_tensor, targets, eigen_smooth)

    return forward


def _hooks_are_theirs(cam: Any) -> bool:
    import pytorch_grad_cam

    return type(cam.activations_and_grads) is pytorch_grad_cam.ActivationsAndGradients


def _explained(self: Any, input_tensor: Any, targets: Any, eigen_smooth: bool) -> Any:
    """forward, recording from the first of the layers on and differentiating with respect to the layers alone."""
    captured, count = self.activations_and_grads, len(self.target_layers)
    input_tensor = input_tensor.to(self.device)
    with lifted(captured.handles):
        output, trail = follow(
            self.model,
            self.target_layers,
            input_tensor,
            record=self.uses_gradients,
            live=input_tensor.device.type == "cpu",
        )
        check_count(targets, output)
        gradients = []
        if self.uses_gradients:
            if len(trail.steps) < count:
                raise Unfit("a layer did not run")
            gradients = trail.gradients(lambda: loss(targets, output, _classifier()), count)
        transform = captured.reshape_transform or (lambda tensor: tensor)
        with torch.no_grad():
            # Of views `release` could not make leaves; their `data` are none.
            activations = [transform(step.activations).data for step in trail.steps[: max(count, 1)]]
            gradients = [transform(gradient).data for gradient in gradients]
            captured.activations, captured.gradients = activations, gradients
            self.outputs = _detached(output)
            method = None if eigen_smooth or not self.uses_gradients else method_of(self)
            size = as_size(self.get_target_width_height(input_tensor)) if input_tensor.ndim == 4 else None
            if method and size and all(map(fits, zip(activations, gradients, strict=True))):
                small = [pgc_maps.small_map(method, *pair) for pair in zip(activations, gradients, strict=True)]
                return to_numpy(pgc_maps.finished(small, size))
        return self.aggregate_multi_layers(
            self.compute_cam_per_layer(input_tensor, as_list(targets, output, _classifier()), eigen_smooth)
        )


def _detached(output: Any) -> Any:
    return output.detach() if isinstance(output, torch.Tensor) else output


def _classifier() -> Any:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    return ClassifierOutputTarget


def run_from(original: Any) -> Any:
    """What FinerCAM and others' classes call before they go backward by themselves."""

    @functools.wraps(original)
    def __call__(self: Any, x: Any) -> Any:
        plain = isinstance(x, torch.Tensor) and not x.requires_grad
        if not self.detach or not self.handles or not plain:
            return original(self, x)
        try:
            with lifted(self.handles):
                layers = _layers_of(self)
                output, trail = follow(
                    self.model, layers, x, record=torch.is_grad_enabled(), live=x.device.type == "cpu"
                )
        except Unfit:
            return original(self, x)
        _keep(self, trail)
        return output

    return __call__


def _layers_of(captured: Any) -> list[torch.nn.Module]:
    wanted = {id(hooks) for handle in captured.handles if (hooks := handle.hooks_dict_ref()) is not None}
    return [module for module in captured.model.modules() if id(module._forward_hooks) in wanted]


def _keep(captured: Any, trail: Trail) -> None:
    """The lists that their hooks would have filled; gradients come with the backward, the last layer's first."""
    transform = captured.reshape_transform or (lambda tensor: tensor)
    captured.gradients = []
    with torch.no_grad():
        captured.activations = [transform(step.activations).cpu().data for step in trail.steps]

    def store(gradient: torch.Tensor) -> None:
        captured.gradients = [transform(gradient).cpu().data, *captured.gradients]

    for step in trail.steps:
        if isinstance(step.edge, torch.Tensor):
            step.edge.register_hook(store)  # type: ignore[no-untyped-call]
        elif step.edge is not None:
            number = step.edge.output_nr
            step.edge.node.register_prehook(lambda gradients, number=number: store(gradients[number]))
