"""The methods: from a layer's activations and gradients, or scores of changed inputs, to its map."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import pgc_maps
from .base import BaseCAM, Run, Transform, projected

__all__ = [
    "FEM",
    "KPCA_CAM",
    "AblationCAM",
    "EigenCAM",
    "EigenGradCAM",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "RandomCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "XGradCAM",
]


class _Ruled(BaseCAM):
    """Methods that are rules of `cam`'s."""

    method: ClassVar[str]
    """In pgc_maps.METHODS."""

    def products(self, run: Run) -> Tensor:
        if type(self).weights is not BaseCAM.weights:
            return super().products(run)
        return pgc_maps.products(self.method, run.activations, run.gradients)

    def _small(self, run: Run, eigen_smooth: bool) -> Tensor:
        cls = type(self)
        steps = (cls.weights, cls.products, cls.raw_map)
        if eigen_smooth or steps != (BaseCAM.weights, _Ruled.products, BaseCAM.raw_map):
            return super()._small(run, eigen_smooth)
        return pgc_maps.small_map(self.method, run.activations, run.gradients)


class GradCAM(_Ruled):
    """w_c = mean of the gradient (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391)."""

    method = "GradCAM"


class GradCAMPlusPlus(_Ruled):
    """w_c = sum relu(g) g^2 / (2 g^2 + sum(A) g^3 + 1e-6) (Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063)."""

    method = "GradCAMPlusPlus"


class XGradCAM(_Ruled):
    """w_c = sum(g A) / (sum(A) + 1e-7) (Fu et al. 2020, https://arxiv.org/abs/2008.02312)."""

    method = "XGradCAM"


class HiResCAM(_Ruled):
    """sum_c g A (Draelos and Carin 2020, https://arxiv.org/abs/2011.08891)."""

    method = "HiResCAM"


class GradCAMElementWise(_Ruled):
    """sum_c relu(g A)."""

    method = "GradCAMElementWise"


class LayerCAM(_Ruled):
    """sum_c relu(g) A (Jiang et al. 2021, https://ieeexplore.ieee.org/document/9462463)."""

    method = "LayerCAM"


class EigenCAM(BaseCAM):
    """The first principal component of the activations (Muhammad and Yeasin 2020, https://arxiv.org/abs/2008.00299);
    its sign is what LAPACK gives."""

    uses_gradients = False

    def products(self, run: Run) -> Tensor:
        return run.activations

    def raw_map(self, run: Run) -> Tensor:
        return projected(self.products(run))


class EigenGradCAM(EigenCAM):
    """The first principal component of g A."""

    uses_gradients = True

    def products(self, run: Run) -> Tensor:
        return run.gradients * run.activations


class SegEigenCAM(EigenCAM):
    """The first principal component of |g| A, with the sign whose extreme is the larger (Chung and Ying 2025,
    https://doi.org/10.3390/app15137562)."""

    smooths = False
    uses_gradients = True

    def products(self, run: Run) -> Tensor:
        return run.gradients.abs() * run.activations

    def raw_map(self, run: Run) -> Tensor:
        raw = super().raw_map(run)
        axes = tuple(range(1, raw.ndim))
        turned = raw.amin(axes, keepdim=True).abs() > raw.amax(axes, keepdim=True).abs()
        return torch.where(turned, -raw, raw)


class KPCA_CAM(BaseCAM):
    """The first component of kernel PCA of the activations, by scikit-learn (Karmani et al. 2024,
    https://arxiv.org/abs/2410.00267)."""

    smooths = False
    uses_gradients = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Transform | None = None,
        kernel: str = "sigmoid",
        gamma: float | None = None,
        *,
        device: Literal["keep"] | None = None,
    ):
        super().__init__(model, target_layers, reshape_transform, device=device)
        self.kernel, self.gamma = kernel, gamma

    def products(self, run: Run) -> Tensor:
        return run.activations

    def raw_map(self, run: Run) -> Tensor:
        from sklearn.decomposition import KernelPCA

        maps = []
        for one in run.activations.cpu().numpy():
            points = np.where(np.isnan(one), 0, one).reshape(one.shape[0], -1).transpose()
            found = KernelPCA(n_components=1, kernel=self.kernel, gamma=self.gamma).fit_transform(
                points - points.mean(axis=0)
            )
            maps.append(np.float32(found.reshape(one.shape[1:])))
        return torch.from_numpy(np.array(maps)).to(run.activations.device)


class FEM(BaseCAM):
    """w_c = share of pixels above mean + k deviations (Fuad et al. 2020, https://hal.science/hal-02963298)."""

    smooths = False
    uses_gradients = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Transform | None = None,
        k: float = 2,
        *,
        device: Literal["keep"] | None = None,
    ):
        super().__init__(model, target_layers, reshape_transform, device=device)
        self.k = k

    def weights(self, run: Run) -> Tensor:
        axes = tuple(range(2, run.activations.ndim))
        deviation, mean = torch.std_mean(run.activations, axes, correction=0, keepdim=True)
        return (run.activations > mean + self.k * deviation).to(run.activations.dtype).mean(axes)


class RandomCAM(BaseCAM):
    """w_c from -1 to 1, by NumPy's global random numbers."""

    def weights(self, run: Run) -> Tensor:
        drawn = np.random.uniform(-1, 1, size=tuple(run.activations.shape[:2]))  # noqa: NPY002
        return torch.from_numpy(drawn).to(run.activations)


class _Scored(BaseCAM):
    """Methods that run the model on changes of the image, many at once, without gradients."""

    uses_gradients = False
    batch_size: int

    def raw_map(self, run: Run) -> Tensor:
        return pgc_maps.weighted(run.activations, self.weights(run))

    def _scores(self, target: Callable[[Any], Any], batch: Tensor) -> list[Tensor]:
        return [target(one).reshape(()) for one in self.model(batch)]


class ScoreCAM(_Scored):
    """w = softmax over channels of the scores of the image times the enlarged, normalised channel (Wang et al. 2020,
    https://arxiv.org/abs/1910.01279)."""

    batch_size = 16

    def weights(self, run: Run) -> Tensor:
        size = run.x.shape[-2:]
        scores = []
        for image, channels, target in zip(run.x, run.activations, run.targets, strict=False):
            for batch in channels.split(self.batch_size):
                masks = F.interpolate(batch[:, None], size, mode="bilinear", align_corners=True)
                low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
                scores += self._scores(target, image * ((masks - low) / (high - low + 1e-8)))
        return torch.stack(scores).reshape(run.activations.shape[:2]).float().softmax(-1).to(run.activations.dtype)


class AblationCAM(_Scored):
    """w_c = (s - s_c) / s, s_c the score without channel c (Desai and Ramaswamy 2020, WACV).

    A channel is taken away by zeros, or where the layer's least value is not 0 by values of 1e7 and multiples of it
    below that, as the peer has it.
    """

    ABLATION_VALUE: ClassVar[float] = 1e7

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Transform | None = None,
        ablation_layer: None = None,
        batch_size: int = 32,
        ratio_channels_to_ablate: float = 1.0,
        *,
        device: Literal["keep"] | None = None,
    ):
        if ablation_layer is not None:
            raise TypeError("ablation_layer is given; accepted is None: maps and tokens are told apart by their rank")
        super().__init__(model, target_layers, reshape_transform, device=device)
        self.batch_size, self.ratio = batch_size, ratio_channels_to_ablate

    def weights(self, run: Run) -> Tensor:
        rows = []
        for i, target in enumerate(run.targets):
            (before,) = self._scores(target, run.x[i : i + 1])
            scores = before.repeat(run.activations.shape[1])
            for some in torch.split(torch.as_tensor(self._channels(run.activations[i])), self.batch_size):
                output = self._without(run.output[i], some)
                handle = run.layer.register_forward_hook(lambda module, inputs, given, output=output: output)
                try:
                    found = self._scores(target, run.x[i : i + 1].repeat(len(some), *(1,) * (run.x.ndim - 1)))
                finally:
                    handle.remove()
                scores[some.to(scores.device)] = torch.stack(found)
            rows.append((before - scores) / before)
        return torch.stack(rows).to(run.activations.dtype)

    def _without(self, output: Tensor, channels: Tensor) -> Tensor:
        """The layer's output [C, H, W], or tokens [T, C], once for each of the channels, without it."""
        copies = output[None].repeat(len(channels), *(1,) * output.ndim)
        columns = copies if output.ndim > 2 else copies.transpose(1, 2)
        value = output.min()
        for row, channel in zip(columns, channels, strict=True):
            value = value if output.min() == 0 else value - self.ABLATION_VALUE
            row[channel] = value
        return copies

    def _channels(self, activations: Tensor) -> Any:
        """All, or those that lie most and least in the region of the first principal component."""
        count = activations.shape[0]
        if self.ratio == 1.0:
            return np.arange(count)
        values = activations.cpu().numpy()
        region = abs(pgc_maps.first_component(values[None])[0])
        region = (region - region.min()) / (region - region.min()).max() > 0.01
        sizes = abs(values) - abs(values).min((1, 2), keepdims=True)
        with np.errstate(invalid="ignore"):  # a channel without a range comes last
            sizes = sizes / sizes.max((1, 2), keepdims=True)
            order = np.argsort(np.float32((region * sizes).sum((1, 2)) / sizes.sum((1, 2))))
        some = int(count * self.ratio)
        return np.unique(np.concatenate([order[::-1][:some], order[:some]]))
