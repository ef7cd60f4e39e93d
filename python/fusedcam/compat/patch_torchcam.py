"""What fusedcam replaces in torch-cam: Grad-CAM, XGrad-CAM and LayerCAM whole, weighted sums, the normalisation, the
fusion, the overlay. Its Grad-CAM++ and Smooth Grad-CAM++ are not those of the papers; their weights stay its own.

Its extractors keep capturing by themselves: the user runs the model, so that there is nothing to spare.
"""

import functools
import sys
from typing import Any

import torch
from torch import Tensor

from . import native
from .patching import Options
from .pictures import blend_mask
from .replacing import Replacement

__all__ = ["replacements"]

EPS = 1e-8

# What each class's weights and their sum are in `cam`.
RULES: dict[str, dict[str, Any]] = {
    "GradCAM": {"method": "gradcam"},
    "GradCAMpp": {"method": "gradcam++", "weight_eps": EPS},  # with fix_known_defects
    "XGradCAM": {"method": "xgradcam", "weight_eps": EPS},
    "LayerCAM": {"method": "layercam"},
}


def replacements(options: Options) -> list[Replacement]:
    core, gradient, utils = "torchcam.methods.core", "torchcam.methods.gradient", "torchcam.utils"
    overlay = functools.partial(_overlay_mask, options)
    found = [
        Replacement(core, "_CAM.compute_cams", _compute_cams, ("8116b7e4b15d40ef",)),
        Replacement(core, "_CAM._fuse_cams", _fuse_cams, ("1df47f9b6497ac7a",)),
        Replacement(utils, "overlay_mask", overlay, ("a524a44b1e71763f",)),
    ]
    if options.fix_known_defects:
        found.append(Replacement(gradient, "GradCAMpp._get_weights", _grad_cam_pp_weights, ("ea8837d5b0ea20f0",)))
    return found


def _compute_cams(original: Any) -> Any:
    @functools.wraps(original)
    def compute_cams(
        self: Any,
        class_idx: Any = None,
        scores: Any = None,
        normalized: bool = True,
        *,
        targets: Any = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        if not _is_theirs(self, "_normalize"):
            return original(self, class_idx, scores, normalized, targets=targets, **kwargs)  # type: ignore[no-any-return]
        if targets is not None:
            kwargs["targets"] = targets
        rule = None if "eps" in kwargs else _rule_of(self)
        if rule and all(_mappable(activations) for activations in self.hook_a):
            self._backprop(scores, class_idx, **kwargs)  # which leaves the gradients
            seconds = self.hook_g
        else:
            rule = None
            seconds = self._get_weights(class_idx, scores, **kwargs)
        with torch.no_grad():
            return [
                _map(self, activations, second, rule, normalized)
                for activations, second in zip(self.hook_a, seconds, strict=True)
            ]

    return compute_cams


def _is_theirs(self: Any, name: str) -> bool:
    """Whether the code that an extractor has by that name stands in a file of torch-cam's, or here."""
    owner = _owner(self, name)
    function = getattr(vars(owner)[name], "__func__", vars(owner)[name])
    file = getattr(getattr(function, "__code__", None), "co_filename", "")
    own = owner.__module__.startswith("torchcam.") and name not in vars(self)
    return own and file in (__file__, getattr(sys.modules.get(owner.__module__), "__file__", ""), *_DECORATED)


def _owner(self: Any, name: str) -> Any:
    return next(one for one in type(self).__mro__ if name in vars(one))


# torch.no_grad() has wrapped what it decorates in functions of this file.
_DECORATED = (torch.no_grad()(lambda: None).__code__.co_filename,)


def _rule_of(self: Any) -> dict[str, Any] | None:
    """The rule of an extractor none of whose steps is anyone else's; None otherwise."""
    owner = _owner(self, "_get_weights")
    rule = RULES.get(owner.__name__)
    if rule is None or not (_is_theirs(self, "_get_weights") and _is_theirs(self, "_backprop")):
        return None
    own = vars(owner)["_get_weights"].__code__.co_filename == __file__
    return rule if own or owner.__name__ != "GradCAMpp" else None


def _map(self: Any, activations: Tensor, second: Tensor, rule: dict[str, Any] | None, normalized: bool) -> Tensor:
    """One layer's map [N, *S] by a rule from gradients [N, C, *S], or from weights [N, C] or [N, C, *S]."""
    if rule is None and not _weighable(activations, second):
        return _summed(self, second[(..., *(None,) * (activations.ndim - second.ndim))] * activations, normalized)
    given = {"weights": second} if rule is None else {"gradients": second, **rule}
    # Over a volume, too, the map is normalised as a whole.
    mode = {"normalize": "minmax", "eps": EPS} if normalized else {"normalize": None}
    result: Tensor = native.heat(activations, **given, relu=self._relu, **mode)
    if bool(result.isnan().any()):  # theirs leaves out the terms that are NaN
        return _summed(self, native.products(activations, **given), normalized).to(activations.dtype)
    return result.to(activations.dtype)


def _mappable(activations: Tensor) -> bool:
    return activations.ndim in (3, 4, 5) and activations.is_floating_point() and activations.numel() > 0


def _weighable(activations: Tensor, weights: Tensor) -> bool:
    return _mappable(activations) and weights.shape == activations.shape[:2] and weights.dtype == activations.dtype


def _summed(self: Any, terms: Tensor, normalized: bool) -> Tensor:
    """The map of the channels' terms [N, C, *S] without those that are NaN."""
    cam = torch.nansum(terms, dim=1)
    if self._relu:
        cam.relu_()
    if not normalized:
        return cam
    if cam.ndim == 3 and cam.numel():
        result: Tensor = native.resize(cam, tuple(cam.shape[1:]), normalize="minmax", eps=EPS)
        return result.to(cam.dtype)
    return self._normalize(cam)  # type: ignore[no-any-return]


def _fuse_cams(original: Any) -> Any:
    theirs = original.__func__  # a static method

    @functools.wraps(theirs)
    def fuse(cams: list[Tensor], target_shape: tuple[int, ...]) -> Tensor:
        plain = all(cam.ndim == 3 and cam.numel() and cam.is_floating_point() and not cam.requires_grad for cam in cams)
        # Where maps shrink, the peer's positions are not exact, and its maps not ours.
        if not plain or not _grows([cam.shape[1:] for cam in cams], target_shape):
            return theirs(cams, target_shape)  # type: ignore[no-any-return]
        sized = (native.resize(cam, tuple(target_shape)).to(cam.dtype) for cam in cams)
        fused: Tensor = next(sized)
        for cam in sized:
            fused = torch.maximum(fused, cam)
        return fused

    return staticmethod(fuse)


def _grows(shapes: list[Any], to: Any) -> bool:
    """Whether maps of these shapes are all enlarged, or stay."""
    whole = len(to) == 2 and all(isinstance(one, int) and one > 0 for one in to)
    return whole and all(shape[0] <= to[0] and shape[1] <= to[1] for shape in shapes)


def _grad_cam_pp_weights(original: Any) -> Any:
    @functools.wraps(original)
    def _get_weights(self: Any, class_idx: Any, scores: Any, eps: float = EPS, **kwargs: Any) -> list[Tensor]:
        """sum relu(g) g^2 / (2 g^2 + sum(A) g^3), equation 19 of Chattopadhay et al. 2018; 0 where g is 0."""
        self._backprop(scores, class_idx, **kwargs)
        weights = []
        for activations, gradients in zip(self.hook_a, self.hook_g, strict=True):
            axes = tuple(range(2, activations.ndim))
            total = activations.sum(axes, keepdim=True)
            # In closed form, without squares that would underflow.
            alpha = 1 / (2 + total * gradients + torch.where(gradients != 0, eps / gradients**2, 0))
            weights.append((gradients.clamp(min=0) * alpha).sum(axes))
        return weights

    return _get_weights


def _overlay_mask(options: Options, original: Any) -> Any:
    import numpy as np
    from matplotlib import colormaps
    from PIL.Image import Image, Resampling

    @functools.wraps(original)
    def overlay_mask(img: Any, mask: Any, colormap: Any = "jet", alpha: float = 0.7) -> Any:
        known = isinstance(img, Image) and isinstance(mask, Image) and img.mode in ("L", "RGB")
        if not known or mask.mode not in ("L", "F") or not isinstance(alpha, float) or not 0 <= alpha < 1:
            return original(img, mask, colormap, alpha)
        if options.fix_known_defects and mask.mode == "L":  # whose square has no room in its bytes
            from PIL.Image import fromarray

            mask = fromarray(np.asarray(mask, np.float32) / 255)
        resized = mask.resize(img.size, resample=Resampling.BICUBIC)
        return blend_mask(img, resized, colormaps.get_cmap(colormap), alpha)

    return overlay_mask
