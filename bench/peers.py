"""The same work done otherwise, by op: naive NumPy, NumPy with OpenCV, torch, and the peers' own code."""

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


def numpy_cv2_cam(activations: np.ndarray, gradients: np.ndarray, size: int | None) -> np.ndarray:
    """As pytorch-grad-cam does it, normalised once."""
    import cv2  # not everywhere where this module is of use

    heat = (gradients.mean((2, 3))[:, :, None, None] * activations).sum(1)
    heat = np.maximum(heat, 0).astype(np.float32, copy=False)
    if size is not None:
        heat = np.stack([cv2.resize(one, (size, size)) for one in heat])
    return numpy_minmax(heat)


def bmm_cam(activations: torch.Tensor, gradients: torch.Tensor, size: int | None) -> torch.Tensor:
    scores = torch.bmm(gradients.mean((2, 3))[:, None], activations.flatten(2)).view(-1, *activations.shape[2:])
    heat = scores.relu()
    return torch_minmax(heat if size is None else torch_bilinear(heat, (size, size)))


def torch_overlay(images: torch.Tensor, heat: torch.Tensor) -> torch.Tensor:
    heat = torch_minmax(torch_bilinear(heat, tuple(images.shape[1:3])))
    colour = torch.from_numpy(JET)[(255 * heat + 0.5).to(torch.uint8).int()]
    return ((1 - ALPHA) * images + ALPHA * colour + 0.5).to(torch.uint8)


def fused_cam(activations: Any, gradients: Any, size: int | None) -> Any:
    return fusedcam.cam(activations, gradients, size=size)


def fused_overlay(images: Any, heat: Any) -> Any:
    return fusedcam.overlay(images, heat, alpha=ALPHA, normalize="minmax")


def fused_picture(activations: Any, gradients: Any, images: Any) -> Any:
    return fused_overlay(images, fusedcam.cam(activations, gradients, normalize=None))


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
    try:
        return explainer.aggregate_multi_layers(explainer.compute_cam_per_layer(image, None, False))
    finally:  # at its end it would detach them in place, which views refuse
        explainer.activations_and_grads.activations = explainer.activations_and_grads.gradients = []


def shown(images: torch.Tensor, heat: torch.Tensor) -> list[np.ndarray]:
    """pytorch-grad-cam's show_cam_on_image, image by image, as its users call it; it does its own normalising and
    resizing before."""
    package = import_pytorch_grad_cam()
    maps = package.utils.image.scale_cam_image(heat.cpu().numpy(), images.shape[1:3])
    return shown_maps(images, maps)


def shown_maps(images: torch.Tensor, maps: np.ndarray) -> list[np.ndarray]:
    blend = import_pytorch_grad_cam().utils.image.show_cam_on_image
    pairs = zip(images.cpu().numpy(), maps, strict=True)
    return [blend(image.astype(np.float32) / 255, one, use_rgb=True) for image, one in pairs]


def pytorch_grad_cam_picture(
    activations: torch.Tensor, gradients: torch.Tensor, images: torch.Tensor
) -> list[np.ndarray]:
    return shown_maps(images, pytorch_grad_cam(activations, gradients, images.shape[1]))


def overlaid(images: torch.Tensor, heat: torch.Tensor) -> list[np.ndarray]:
    """torch-cam's overlay_mask, image by image."""
    from PIL import Image
    from torchcam.utils import overlay_mask

    maps = torch_minmax(heat).numpy()
    pairs = zip(images.numpy(), maps, strict=True)
    return [np.asarray(overlay_mask(Image.fromarray(i), Image.fromarray(m), alpha=1 - ALPHA)) for i, m in pairs]


@cache
def _torchcam() -> Any:
    from torchcam.methods import GradCAM

    class GivenGradients(GradCAM):
        """The gradients are there already."""

        def _backprop(self, *arguments: Any, **options: Any) -> None:
            pass

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1))
    return GivenGradients(model, model[0])


def torchcam(activations: torch.Tensor, gradients: torch.Tensor, size: int | None) -> torch.Tensor:
    """torch-cam's own post-processing, given the arrays that its hooks would have caught, and brought to the size."""
    extractor = _torchcam()
    extractor.hook_a, extractor.hook_g = [activations], [gradients]
    (heat,) = extractor.compute_cams(0)
    return heat if size is None else torch_bilinear(heat, (size, size))


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


@cache
def _compiled(shape: tuple[int, ...], threads: int) -> Callable[..., torch.Tensor]:
    torch.compiler.reset()  # else it would compile for any shape from the second on
    return torch.compile(torch_cam, dynamic=False)


def compiled(activations: torch.Tensor, gradients: torch.Tensor, size: int | None) -> torch.Tensor:
    return _compiled(tuple(gradients.shape), torch.get_num_threads())(activations, gradients, size)


# Each op's peers, ours first. They take torch tensors unless they are among ON_NUMPY.
PEERS: dict[str, dict[str, Callable[..., Any]]] = {
    "cam": {
        "fusedcam": fused_cam,
        "NumPy": numpy_cam,
        "NumPy + cv2": numpy_cv2_cam,
        "pytorch-grad-cam": pytorch_grad_cam,
        "torch-cam": torchcam,
        "eager torch": torch_cam,
        "torch bmm": bmm_cam,
        "torch.compile": compiled,
    },
    "overlay": {
        "fusedcam": fused_overlay,
        "NumPy": numpy_overlay,
        "pytorch-grad-cam": shown,
        "torch-cam": overlaid,
        "eager torch": torch_overlay,
    },
    "picture": {"fusedcam": fused_picture, "pytorch-grad-cam": pytorch_grad_cam_picture},
}
ON_NUMPY = ("NumPy", "NumPy + cv2")
STRONGEST = ("NumPy + cv2", "eager torch", "torch bmm", "torch.compile")  # what a user would write instead


def able(name: str, op: str, case: Any) -> bool:
    """Whether a peer has such a call at all."""
    if name in ON_NUMPY and case.dtype == torch.bfloat16:  # NumPy has no such type
        return False
    if case.classes is not None and name in ("NumPy + cv2", "pytorch-grad-cam", "torch-cam", "torch bmm"):
        return False
    # pytorch-grad-cam takes NumPy's types and returns the image's size.
    return name != "pytorch-grad-cam" or op != "cam" or (case.dtype == torch.float32 and case.size is not None)
