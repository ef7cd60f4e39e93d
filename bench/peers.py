"""The same work done otherwise: naive NumPy, eager torch and pytorch-grad-cam's own code, by op."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

import fusedcam

ALPHA = 0.5
JET = fusedcam.colorize(np.linspace(0, 1, 256)[None])[0]  # [256, 3], so that all colour alike


def numpy_bilinear(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Half-pixel centres, edges clamped."""
    for axis, length in zip((-2, -1), size, strict=True):
        count = maps.shape[axis]
        source = np.clip((np.arange(length) + 0.5) * count / length - 0.5, 0, count - 1)
        low = source.astype(int)
        high = np.minimum(low + 1, count - 1)
        weight = (source - low).astype(maps.dtype)
        if axis == -2:
            weight = weight[:, None]
        a, b = maps.take(low, axis), maps.take(high, axis)
        maps = a + weight * (b - a)
    return maps


def numpy_minmax(maps: np.ndarray) -> np.ndarray:
    low, high = maps.min((-2, -1), keepdims=True), maps.max((-2, -1), keepdims=True)
    return np.where(high > low, (maps - low) / np.where(high > low, high - low, 1), 0)


def numpy_cam(activations: np.ndarray, gradients: np.ndarray, size: int | None) -> np.ndarray:
    if gradients.ndim == 5:
        activations = activations[:, None]
    alpha = gradients.mean((-2, -1), keepdims=True)
    heat = np.maximum((alpha * activations).sum(-3), 0)
    return numpy_minmax(heat) if size is None else numpy_minmax(numpy_bilinear(heat, (size, size)))


def numpy_overlay(images: np.ndarray, heat: np.ndarray) -> np.ndarray:
    heat = numpy_minmax(numpy_bilinear(heat, images.shape[1:3]))
    colour = JET[np.floor(255 * heat + 0.5).astype(np.uint8)]
    return np.floor((1 - ALPHA) * images + ALPHA * colour + 0.5).astype(np.uint8)


def torch_minmax(maps: torch.Tensor) -> torch.Tensor:
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 0)


def torch_bilinear(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    large = torch.nn.functional.interpolate(flat, size, mode="bilinear", align_corners=False)
    return large.reshape(*maps.shape[:-2], *size)


def torch_cam(activations: torch.Tensor, gradients: torch.Tensor, size: int | None) -> torch.Tensor:
    if gradients.ndim == 5:
        activations = activations[:, None]
    alpha = gradients.mean((-2, -1), keepdim=True)
    heat = (alpha * activations).sum(-3).relu()
    return torch_minmax(heat if size is None else torch_bilinear(heat, (size, size)))


def torch_overlay(images: torch.Tensor, heat: torch.Tensor) -> torch.Tensor:
    heat = torch_minmax(torch_bilinear(heat, tuple(images.shape[1:3])))
    colour = torch.from_numpy(JET)[(255 * heat + 0.5).to(torch.uint8).int()]
    return ((1 - ALPHA) * images + ALPHA * colour + 0.5).to(torch.uint8)


def fused_cam(activations: Any, gradients: Any, size: int | None) -> Any:
    return fusedcam.cam(activations, gradients, size=size)


def fused_overlay(images: Any, heat: Any) -> Any:
    return fusedcam.overlay(images, heat, alpha=ALPHA, normalize="minmax")


@cache
def _pytorch_grad_cam() -> Any:
    """A GradCAM of pytorch-grad-cam, which is imported on first use: that takes seconds."""
    layer = torch.nn.Conv2d(3, 1, 1)
    return import_pytorch_grad_cam().GradCAM(layer, [layer])


def pytorch_grad_cam(activations: torch.Tensor, gradients: torch.Tensor, size: int) -> np.ndarray:
    """pytorch-grad-cam's own post-processing, given the arrays that its hooks would have caught."""
    explainer = _pytorch_grad_cam()
    explainer.activations_and_grads.activations = [activations]
    explainer.activations_and_grads.gradients = [gradients]
    image = torch.empty(1, 3, size, size, device="meta")  # only its size is read
    return explainer.aggregate_multi_layers(explainer.compute_cam_per_layer(image, None, False))


@cache
def _torchcam() -> Any:
    from torchcam.methods import GradCAM

    class GivenGradients(GradCAM):
        """The gradients are there already."""

        def _backprop(self, *arguments: Any, **options: Any) -> None:
            pass

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1))
    return GivenGradients(model, model[0])


def torchcam(activations: torch.Tensor, gradients: torch.Tensor, size: int) -> torch.Tensor:
    """torch-cam's own post-processing, given the arrays that its hooks would have caught, and brought to the size."""
    extractor = _torchcam()
    extractor.hook_a, extractor.hook_g = [activations], [gradients]
    return torch_bilinear(extractor.compute_cams(0)[0], (size, size))


def import_pytorch_grad_cam() -> Any:
    """The package pytorch_grad_cam."""
    _make_torchvision_importable()
    import pytorch_grad_cam

    return pytorch_grad_cam


_TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")  # what it defines lives as long as it does


def _make_torchvision_importable() -> None:
    """pytorch-grad-cam imports torchvision, which fails beside another build of torch than its own for want
    of two operators. Nothing here calls them: their schemas are enough."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for op in ("nms", "qnms"):
            _TORCHVISION.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


PEERS: dict[str, dict[str, Callable[..., Any]]] = {
    "cam": {
        "fusedcam": fused_cam,
        "numpy": numpy_cam,
        "torch": torch_cam,
        "pytorch-grad-cam": pytorch_grad_cam,
    },
    "overlay": {"fusedcam": fused_overlay, "numpy": numpy_overlay, "torch": torch_overlay},
}
