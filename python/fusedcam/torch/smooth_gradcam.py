"""Smooth Grad-CAM++: Grad-CAM++'s weights from gradients that are averaged over noisy copies of the images."""

from typing import Any

import torch
from torch import Tensor, nn

from ..functional import cam
from .explainer import Finish, Run
from .rule import RuleExplainer
from .smoothing import check_count, check_std, noisy_moments

__all__ = ["SmoothGradCAMPlusPlus"]


class SmoothGradCAMPlusPlus(RuleExplainer):
    """Explains a model's scores by Smooth Grad-CAM++ (Omeiza et al. 2019, https://arxiv.org/abs/1908.01224).

    The score of a pixel is `fusedcam.METHODS["smoothgradcam++"].formula`: Grad-CAM++ with the means of g, g^2 and g^3
    over noisy copies of each image, on the activations of the image as it is. The image and its copies are run as one
    batch. torch-cam adds noise of one deviation, 0.3, to all images, and takes its ReLU of the last copy's g.

    Args:
        model, target_layer: as in `Explainer`, one layer.
        samples: how many noisy copies; torch-cam's default.
        noise_std: the noise's deviation over the range of an image's values; SmoothGrad's authors recommend 0.1 to 0.2
            (Smilkov et al. 2017, https://arxiv.org/abs/1706.03825, section 3.2).
        generator: of the noise, on x's device, which every call advances; None draws the same noise in every call.
            PyTorch's own random state stays as it is.
        chunk: the most images in a run, or N where that is more.
        options: as in `GradCAMPlusPlus`, without `eigen_smooth`.

    Raises:
        ValueError, TypeError: as `GradCAMPlusPlus`; an argument out of range, or of another type.
    """

    method = "smoothgradcam++"
    sums_products = False

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | None = None,
        *,
        samples: int = 4,
        noise_std: float = 0.15,
        generator: torch.Generator | None = None,
        chunk: int = 64,
        **options: Any,
    ):
        super().__init__(model, target_layer, **options)
        if len(self._capture.layers) > 1:
            raise ValueError("target_layer has several layers; SmoothGradCAMPlusPlus takes one")
        check_count("samples", samples, 1)
        check_std("noise_std", noise_std)
        check_count("chunk", chunk, 1)
        self.samples, self.noise_std, self.generator, self.chunk = samples, noise_std, generator, chunk

    def _explain(self, run: Run, finish: Finish) -> Tensor:
        found = noisy_moments(
            self,
            run,
            samples=self.samples,
            noise_std=self.noise_std,
            generator=self.generator,
            chunk=self.chunk,
        )
        with torch.no_grad():
            heat: Tensor = cam(
                found.activations.to(found.moments.dtype),
                found.moments,
                method=self.method,
                weight_eps=self.weight_eps,
                **finish._asdict(),
            )
        self._note_all([found])
        return heat
