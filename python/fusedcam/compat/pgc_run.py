"""pytorch-grad-cam's run of the model: recorded from the first layer on, differentiated with respect to layers alone.

The peer's own run stays for models that cannot be followed so, and for hooks that are not its own.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..torch.recording import Watch
from ..torch.trail import Unfit, follow
from . import pgc_maps
from .capturing import as_it_was, lifted, modes_of, predicting
from .pgc_numbers import as_size, fits, method_of, steps_are_theirs, to_numpy
from .pgc_targets import as_list, check_count, finer_targets, loss

__all__ = ["finer_forward_from", "forward_from"]


def forward_from(original: Any) -> Any:
    @functools.wraps(original)
    def forward(self: Any, input_tensor: Any, targets: Any, eigen_smooth: bool = False) -> Any:
        if targets is not None and not hasattr(targets, "__len__"):
            targets = list(targets)  # it may be gone through twice
        trains = _trains(self)
        with predicting(self.model, unless=trains):
            if not trains and _quick(self):
                try:
                    return _explained(self, input_tensor, lambda output: targets, eigen_smooth)
                except Unfit:
                    pass
            with as_it_was(self.model):
                return original(self, input_tensor, targets, eigen_smooth)

    return forward


def finer_forward_from(original: Any) -> Any:
    @functools.wraps(original)
    def forward(
        self: Any,
        input_tensor: Any,
        targets: Any = None,
        eigen_smooth: bool = False,
        alpha: float = 1,
        comparison_categories: Any = None,
        target_idx: int | None = None,
    ) -> Any:
        from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

        def choose(output: Any) -> Any:
            if targets is not None:
                return targets
            return finer_targets(output, alpha, comparison_categories, target_idx, FinerWeightedTarget)

        base, trains = self.base_cam, _trains(self.base_cam)
        if targets is not None and not hasattr(targets, "__len__"):
            targets = list(targets)
        with predicting(base.model, unless=trains):
            if not trains and _quick(base) and base.uses_gradients == self.uses_gradients:
                try:
                    return _explained(base, input_tensor, choose, eigen_smooth)
                except Unfit:
                    pass
            with as_it_was(base.model):
                return original(self, input_tensor, targets, eigen_smooth, alpha, comparison_categories, target_idx)

    return forward


def _trains(cam: Any) -> bool:
    """Whether someone has changed the model's modes since the CAM was made, when the peer sets it to evaluation."""
    now = modes_of(cam.model)
    return bool(vars(cam).get("_modes", now) != now)


def _quick(cam: Any) -> bool:
    """Whether what the peer's hooks would bring is all there is to bring."""
    import pytorch_grad_cam

    captured = cam.activations_and_grads
    kind = pytorch_grad_cam.ActivationsAndGradients
    plain = bool(cam.detach) and not cam.compute_input_gradient
    if not plain or type(captured) is not kind or vars(captured).keys() & vars(kind).keys():
        return False
    hooks = [vars(kind)[name] for name in ("save_activation", "save_gradient")]
    home = vars(kind)["release"].__code__.co_filename
    if any(hook.__code__.co_filename != home for hook in hooks):
        return False
    # A hook of someone else's that comes after theirs may change what they have recorded.
    for handle in captured.handles:
        later: bool = False
        for key, hook in list((handle.hooks_dict_ref() or {}).items()):
            if later and not isinstance(getattr(hook, "__self__", None), kind | Watch):
                return False
            later = later or key == handle.id
    return True


def _explained(self: Any, input_tensor: Any, choose: Callable[[Any], Any], eigen_smooth: bool) -> Any:
    """forward, with the targets that `choose` has for the model's output."""
    captured = self.activations_and_grads
    layers = _layers_of(captured) or self.target_layers
    count = len(self.target_layers)
    input_tensor = input_tensor.to(self.device)
    on_cpu = input_tensor.device.type == "cpu"
    with lifted(captured.handles):
        output, trail = follow(
            captured.model,
            layers,
            input_tensor,
            record=self.uses_gradients,
            live=on_cpu,
            transform=captured.reshape_transform,
        )
    if len(trail.steps) < count:
        raise Unfit("a layer did not run, or is there twice")
    targets = choose(output)
    check_count(targets, output, len(input_tensor))
    gradients = []
    if self.uses_gradients:
        gradients = trail.gradients(lambda: loss(targets, output, _classifier()), count)
    transform = captured.reshape_transform or (lambda tensor: tensor)
    with torch.no_grad():
        # Of views `release` could not make leaves; their `data` are none.
        activations = [step.activations.data for step in trail.steps[: max(count, 1)]]
        gradients = [transform(gradient).data for gradient in gradients]
        captured.activations, captured.gradients = list(activations), list(gradients)
        self.outputs = output.detach() if isinstance(output, torch.Tensor) else output
        method = None if eigen_smooth or not self.uses_gradients else method_of(self)
        size = as_size(self.get_target_width_height(input_tensor)) if input_tensor.ndim == 4 else None
        if method and size and all(map(fits, zip(activations, gradients, strict=True))):
            small = [pgc_maps.small_map(method, *pair) for pair in zip(activations, gradients, strict=True)]
            return to_numpy(pgc_maps.finished(small, size))
    # Steps of the peer's own run the model without asking its hooks; those of a user may do anything.
    with lifted(captured.handles if steps_are_theirs(self) else ()), as_it_was(self.model):
        chosen = as_list(targets, output, _classifier())
        return self.aggregate_multi_layers(self.compute_cam_per_layer(input_tensor, chosen, eigen_smooth))


def _layers_of(captured: Any) -> list[torch.nn.Module]:
    """Those that its hooks are on, whatever a CAM's attributes say by now."""
    wanted = {id(hooks) for handle in captured.handles if (hooks := handle.hooks_dict_ref()) is not None}
    return [module for module in captured.model.modules() if id(module._forward_hooks) in wanted]


def _classifier() -> Any:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    return ClassifierOutputTarget
