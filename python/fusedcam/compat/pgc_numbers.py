"""pytorch-grad-cam's functions from arrays to arrays, by our kernels: what each factory makes from the peer's own.

The peer's own stays for what it alone can answer: volumes' resampling, methods that are not ours, arguments it refuses.
A subclass that overrides a step gets NumPy arrays and its own result.
"""

import functools
import operator
from typing import Any

import numpy as np
import torch

from . import native, pgc_maps
from .pictures import draw_stretched

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
    "to_numpy",
]

_STEPS = ("get_cam_image", "get_cam_weights", "compute_cam_per_layer", "aggregate_multi_layers")


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
            table = _opencv_table(colormap) if isinstance(colormap, int) else _opencv_table.__wrapped__(colormap)
            return table[:, ::-1] if use_rgb else table

        picture = draw_stretched(img, mask, colours, image_weight)
        return original(img, mask, use_rgb, colormap, image_weight) if picture is None else picture

    return show_cam_on_image


@functools.lru_cache
def _opencv_table(colormap: Any) -> Any:
    """OpenCV's colours [256, 3], blue first. It takes longer over them than a picture of ours takes."""
    import cv2

    return cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], colormap)[:, 0]


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
        flat = values.reshape(*values.shape[:2], -1, values.shape[-1])
        raw = native.cam(flat, weights=np.asarray(weights, values.dtype), normalize=None, relu=False)
        return raw.reshape(values.shape[0], *values.shape[2:])

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
        and weights.dtype.kind == "f"
        and weights.shape == activations.shape[:2]
        and activations.size > 0
    )


def method_of(cam: Any) -> str | None:
    """The name in pgc_maps.METHODS of a CAM none of whose steps is anyone else's; None otherwise."""
    import pytorch_grad_cam

    owners = {}
    for step in (*_STEPS, "get_target_width_height"):
        owner = next(cls for cls in type(cam).__mro__ if step in vars(cls))
        if step in vars(cam) or not _their_own(owner, step):
            return None
        owners[step] = owner
    image, weights = owners.pop("get_cam_image"), owners.pop("get_cam_weights")
    base = pytorch_grad_cam.base_cam.BaseCAM
    if any(owner is not base for owner in owners.values()):
        return None
    name = (weights if image is base else image).__name__
    return name if name in pgc_maps.METHODS else None


def _their_own(owner: Any, step: str) -> bool:
    """Whether a class of pytorch-grad-cam's has that method from itself or from us."""
    module = str(getattr(vars(owner)[step], "__module__", ""))
    return str(owner.__module__).startswith("pytorch_grad_cam.") and module == str(owner.__module__)


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
    return bool(tensors and pair[0].shape == pair[1].shape and 0 not in pair[0].shape[1:])


def to_numpy(result: torch.Tensor) -> np.ndarray:
    array: np.ndarray = result.detach().to("cpu", torch.float32).numpy()
    return array


def aggregate_multi_layers_from(original: Any) -> Any:
    @functools.wraps(original)
    def aggregate_multi_layers(self: Any, cam_per_target_layer: Any) -> Any:
        maps = cam_per_target_layer
        one = isinstance(maps, list) and len(maps) == 1 and isinstance(maps[0], np.ndarray) and maps[0].ndim == 4
        whole = _as_maps(maps[0][:, 0]) if one and maps[0].shape[1] == 1 else None
        if whole is not None and whole.min() >= 0:  # one layer is its own mean
            return pgc_maps.scaled(whole, None).astype(np.float32, copy=False)
        return original(self, cam_per_target_layer)

    return aggregate_multi_layers
