"""pytorch-grad-cam's functions from arrays to arrays, by our kernels: what each factory makes from the peer's own.

The peer's own stays for what it alone can answer: volumes' resampling, methods that are not ours, arguments it refuses.
A subclass that overrides a step gets NumPy arrays and its own result.
"""

import functools
import operator
import sys
from typing import Any

import numpy as np
import torch

from . import native, pgc_maps
from .pictures import draw_stretched, opencv_table

__all__ = [
    "aggregate_multi_layers_from",
    "as_size",
    "compute_cam_per_layer_from",
    "fits",
    "get_2d_projection_from",
    "get_cam_image_from",
    "method_of",
    "scale_cam_image_from",
    "show_cam_on_image_from",
    "steps_are_theirs",
    "to_numpy",
]

_STEPS = (
    "get_cam_image",
    "get_cam_weights",
    "compute_cam_per_layer",
    "aggregate_multi_layers",
    "get_target_width_height",
)


def scale_cam_image_from(original: Any) -> Any:
    @functools.wraps(original)
    def scale_cam_image(cam: Any, target_size: Any = None) -> Any:
        maps = _as_maps(cam)
        size = None if target_size is None else as_size(target_size)
        if maps is None or (size is None and target_size is not None):
            return original(cam, target_size)
        return pgc_maps.scaled(maps, size).astype(np.float32, copy=False)

    return scale_cam_image


def _as_maps(cam: Any) -> np.ndarray | None:
    """[N, H, W] of floats, or None for what is something else."""
    if isinstance(cam, list | tuple) and cam and all(isinstance(one, np.ndarray) for one in cam):
        if len({(one.shape, one.dtype) for one in cam}) > 1:
            return None
        cam = np.stack(cam)
    if isinstance(cam, np.ndarray) and cam.ndim == 3 and cam.size and cam.dtype in (np.float16, np.float32, np.float64):
        return cam
    return None


def as_size(target_size: Any) -> tuple[int, int] | None:
    """(width, height) as (height, width)."""
    try:
        width, height = map(operator.index, target_size)
    except (TypeError, ValueError):
        return None
    return (height, width) if width > 0 and height > 0 else None


def show_cam_on_image_from(original: Any) -> Any:
    import cv2

    @functools.wraps(original)
    def show_cam_on_image(
        img: Any, mask: Any, use_rgb: bool = False, colormap: Any = cv2.COLORMAP_JET, image_weight: float = 0.5
    ) -> Any:
        def colours() -> Any:
            table = opencv_table(colormap) if isinstance(colormap, int) else opencv_table.__wrapped__(colormap)
            return table[..., ::-1] if use_rgb else table

        picture = draw_stretched(img, mask, colours, image_weight)
        return original(img, mask, use_rgb, colormap, image_weight) if picture is None else picture

    return show_cam_on_image


def get_2d_projection_from(original: Any) -> Any:
    @functools.wraps(original)
    def get_2d_projection(activation_batch: Any) -> Any:
        return pgc_maps.first_component(activation_batch)

    return get_2d_projection


def get_cam_image_from(original: Any) -> Any:
    @functools.wraps(original)
    def get_cam_image(
        self: Any,
        input_tensor: Any,
        target_layer: Any,
        targets: Any,
        activations: Any,
        grads: Any,
        eigen_smooth: bool = False,
    ) -> Any:
        def weights_given(*args: Any) -> Any:
            return weights

        weights = self.get_cam_weights(input_tensor, target_layer, targets, activations, grads)
        values = activations.detach().cpu().numpy() if isinstance(activations, torch.Tensor) else activations
        if eigen_smooth or not _weighable(values, weights):
            self = _Given(weights_given)
            return original(self, input_tensor, target_layer, targets, activations, grads, eigen_smooth)
        common = np.result_type(values, weights)
        values, weights = (one.astype(common, copy=False) for one in (values, weights))
        return native.heat(values, weights=weights, normalize=None, relu=False).astype(common, copy=False)

    return get_cam_image


class _Given:
    """In place of a CAM whose weights are known already: they may be random, or take a forward each."""

    def __init__(self, get_cam_weights: Any):
        self.get_cam_weights = get_cam_weights


def _weighable(activations: Any, weights: Any) -> bool:
    return (
        isinstance(activations, np.ndarray)
        and activations.ndim in (4, 5)
        and activations.dtype in (np.float16, np.float32, np.float64)
        and isinstance(weights, np.ndarray)
        and weights.dtype in (np.float16, np.float32, np.float64)
        and weights.shape == activations.shape[:2]
        and activations.size > 0
    )


def method_of(cam: Any) -> str | None:
    """The name in pgc_maps.METHODS of a CAM none of whose steps is anyone else's; None otherwise."""
    import pytorch_grad_cam

    if not steps_are_theirs(cam):
        return None
    base = pytorch_grad_cam.base_cam.BaseCAM
    image, weights, *others = (_owner(cam, step) for step in _STEPS)
    if any(owner is not base for owner in others):
        return None
    owner = weights if image is base else image
    method = pgc_maps.METHODS.get(owner.__name__)
    return owner.__name__ if method and owner.__module__ == f"pytorch_grad_cam.{method.module}" else None


def steps_are_theirs(cam: Any) -> bool:
    """Whether every step of a CAM is pytorch-grad-cam's own, or what we have put in its place."""
    return _scaling_is_theirs() and all(
        step not in vars(cam) and _is_theirs(vars(_owner(cam, step))[step], _owner(cam, step).__module__)
        for step in _STEPS
    )


def _scaling_is_theirs() -> bool:
    """Whether nobody has put another function in that one's place, which is the usual way to raw scores."""
    import pytorch_grad_cam

    return _is_theirs(pytorch_grad_cam.base_cam.scale_cam_image, "pytorch_grad_cam.utils.image")


def _owner(cam: Any, step: str) -> Any:
    return next(cls for cls in type(cam).__mro__ if step in vars(cls))


def _is_theirs(function: Any, module: str) -> bool:
    """By where its code stands: names can be borrowed."""
    home = sys.modules.get(module)
    file = getattr(getattr(function, "__code__", None), "co_filename", "")
    return file in (__file__, getattr(home, "__file__", "")) and module.startswith("pytorch_grad_cam.")


def compute_cam_per_layer_from(original: Any) -> Any:
    @functools.wraps(original)
    def compute_cam_per_layer(self: Any, input_tensor: Any, targets: Any, eigen_smooth: bool) -> Any:
        captured = self.activations_and_grads
        method = None if eigen_smooth or not self.detach else method_of(self)
        pairs = [*zip(captured.activations, captured.gradients, strict=False)][: len(self.target_layers)]
        size = as_size(self.get_target_width_height(input_tensor))
        if method is None or len(pairs) < len(self.target_layers) or not all(map(fits, pairs)) or size is None:
            return original(self, input_tensor, targets, eigen_smooth)
        with torch.no_grad():
            small = [pgc_maps.small_map(method, a.detach(), g.detach()) for a, g in pairs]
            return [to_numpy(native.resize(one, size))[:, None] for one in small]

    return compute_cam_per_layer


def fits(pair: tuple[Any, Any]) -> bool:
    """Whether these are the activations and gradients of a layer of maps."""
    tensors = all(isinstance(one, torch.Tensor) and one.ndim == 4 and one.is_floating_point() for one in pair)
    alike = tensors and pair[0].shape == pair[1].shape and pair[0].dtype == pair[1].dtype
    return bool(alike and 0 not in pair[0].shape[1:])


def to_numpy(result: torch.Tensor) -> np.ndarray:
    array: np.ndarray = result.detach().to("cpu", torch.float32).numpy()
    return array


def aggregate_multi_layers_from(original: Any) -> Any:
    @functools.wraps(original)
    def aggregate_multi_layers(self: Any, cam_per_target_layer: Any) -> Any:
        maps = cam_per_target_layer
        one = isinstance(maps, list) and len(maps) == 1 and isinstance(maps[0], np.ndarray) and maps[0].ndim == 4
        whole = _as_maps(maps[0][:, 0]) if one and maps[0].shape[1] == 1 else None
        if whole is not None and whole.min() >= 0 and _scaling_is_theirs():  # one layer is its own mean
            return pgc_maps.scaled(whole, None).astype(np.float32, copy=False)
        return original(self, cam_per_target_layer)

    return aggregate_multi_layers
