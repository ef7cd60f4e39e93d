"""What fusedcam replaces in pytorch-grad-cam.

By `strict` its run of the model, and all that it does beside its answer, stay its own.
"""

import functools
from typing import Any

import torch

from .capturing import as_it_was, modes_of, predicting
from .patching import Options
from .pgc_numbers import (
    aggregate_multi_layers_from,
    compute_cam_per_layer_from,
    get_2d_projection_from,
    get_cam_image_from,
    scale_cam_image_from,
    show_cam_on_image_from,
)
from .pgc_run import finer_forward_from, forward_from
from .replacing import Replacement

__all__ = ["replacements"]


def replacements(options: Options) -> list[Replacement]:
    base, image = "pytorch_grad_cam.base_cam", "pytorch_grad_cam.utils.image"
    svd = "pytorch_grad_cam.utils.svd_on_activations"
    found = [
        Replacement(image, "scale_cam_image", scale_cam_image_from, ("43b7175127f6dd9b",)),
        Replacement(image, "show_cam_on_image", show_cam_on_image_from, ("1e31109665126ba1",)),
        Replacement(svd, "get_2d_projection", get_2d_projection_from, ("99cd408587a9681a",)),
        Replacement(base, "BaseCAM.get_cam_image", get_cam_image_from, ("0638861552ca5f05",)),
        Replacement(base, "BaseCAM.compute_cam_per_layer", compute_cam_per_layer_from, ("2f4d38fd91c21070",)),
        Replacement(base, "BaseCAM.aggregate_multi_layers", aggregate_multi_layers_from, ("c368924e201b8298",)),
    ]
    if options.strict:
        return found
    finer, sess, guided = (f"pytorch_grad_cam.{name}" for name in ("finer_cam", "sess", "guided_backprop"))
    hooks = "pytorch_grad_cam.activations_and_gradients"
    return [
        *found,
        Replacement(hooks, "ActivationsAndGradients.clear", _clear, ("52c9e6e7a14d28a3",)),
        Replacement(base, "BaseCAM.__init__", _keeping_modes, ("d2d3813594429eec",)),
        Replacement(base, "BaseCAM.forward", forward_from, ("6cc3419b2e399b83",)),
        Replacement(base, "BaseCAM.__exit__", _exit, ("6420eeebda5ba1c3",)),
        Replacement(base, "BaseCAM.__del__", _delete, ("a423212ee42000ba",)),
        Replacement(finer, "FinerCAM.forward", finer_forward_from, ("c48ab76b6d7f8cf6",)),
        Replacement(finer, "FinerCAM.__exit__", _exit, ("cc7c6f3c39cd7404",)),
        Replacement(sess, "SESS.forward", _without_traces, ("4c1cfc2af2a604a9",)),
        Replacement(guided, "GuidedBackpropReLUModel.__init__", _keeping_modes, ("c07cec5e8b4d8e03",)),
        Replacement(guided, "GuidedBackpropReLUModel.__call__", _without_traces, ("7652ac3a421fcbf6",)),
    ]


def _keeping_modes(original: Any) -> Any:
    @functools.wraps(original)
    def __init__(self: Any, model: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        modes = [(module, module.training) for module in model.modules()]
        try:
            original(self, model, *args, **kwargs)
        finally:
            for module, training in modes:
                module.training = training
            self._modes = modes_of(model)

    return __init__


def _without_traces(original: Any) -> Any:
    @functools.wraps(original)
    def explain(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = self.model if hasattr(self, "model") else self.base_cam.model
        with predicting(model), as_it_was(model):
            return original(self, *args, **kwargs)

    return explain


def _clear(original: Any) -> Any:
    @functools.wraps(original)
    def clear(self: Any) -> None:
        """Without detaching the tensors in place, which views refuse."""
        self.activations.clear()
        self.gradients.clear()

    return clear


def _exit(original: Any) -> Any:
    @functools.wraps(original)
    def __exit__(self: Any, *exception: Any) -> None:
        (self if hasattr(self, "activations_and_grads") else self.base_cam).activations_and_grads.release()

    return __exit__


def _delete(original: Any) -> Any:
    @functools.wraps(original)
    def __del__(self: Any) -> None:
        if hasattr(self, "activations_and_grads"):  # it is not where the constructor has failed
            self.activations_and_grads.release()

    return __del__
