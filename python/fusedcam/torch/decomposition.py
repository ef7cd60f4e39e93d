"""Methods that scikit-learn decomposes activations for: KPCA-CAM and Deep Feature Factorization."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .explainer import Finish
from .forward import ActivationExplainer, finished
from .located import LayersMeant

__all__ = ["KPCACAM", "DeepFeatureFactorization", "Factorization"]


def _decomposition(user: str) -> ModuleType:
    try:
        import sklearn.decomposition
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"fusedcam.torch.{user} needs scikit-learn: pip install 'fusedcam[sklearn]'", name=error.name
        ) from error
    module: ModuleType = sklearn.decomposition
    return module


def _pixels(activations: Tensor, nan: str) -> NDArray[np.float64]:
    """[N, C, H, W] -> [N, H * W, C] for scikit-learn; with "zero", what is not finite counts as 0."""
    pixels: NDArray[np.float64] = activations.double().cpu().flatten(2).mT.numpy()
    return np.where(np.isfinite(pixels), pixels, 0) if nan == "zero" else pixels


def _scores_like(activations: Tensor, scores: NDArray[np.float64]) -> Tensor:
    """On the device of the activations, in float32 (float64 for float64)."""
    return torch.from_numpy(scores).to(activations.device, torch.promote_types(activations.dtype, torch.float32))


class KPCACAM(ActivationExplainer):
    """Explains a layer by KPCA-CAM (Karmani et al. 2024, https://arxiv.org/abs/2410.00267).

    The score of a pixel is its projection on the first principal component of all pixels of the image in the space of a
    kernel between their channels, from which the channels' means are subtracted first, as pytorch-grad-cam does. It
    knows no class, and needs no gradient. scikit-learn computes it, on the CPU and in float64, with its own sign: the
    extreme of larger magnitude is positive. Memory and time grow with (H * W)^2.

    Args:
        kernel: of scikit-learn's `KernelPCA`: "linear", "poly", "rbf", "sigmoid", "cosine", or a callable.
        gamma: the kernel's coefficient; None is 1 / C.
        model, target_layer, options: as in `Explainer`.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
        ValueError, TypeError: as `Explainer`; when called: targets, which it has no use for, and what scikit-learn
            refuses of `kernel` and `gamma`.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: LayersMeant = None,
        *,
        kernel: str | Callable[..., float] = "sigmoid",
        gamma: float | None = None,
        **options: Any,
    ):
        super().__init__(model, target_layer, **options)
        _decomposition("KPCACAM")
        self.kernel, self.gamma = kernel, gamma

    def _scores(self, activations: Tensor, nan: str) -> Tensor:
        N, _, H, W = activations.shape
        scores = np.zeros((N, H * W))
        for image, pixels in zip(scores, _pixels(activations, nan), strict=True):
            if not np.isfinite(pixels).all():
                image[:] = np.nan
            elif (pixels != pixels[0]).any():  # else no kernel tells the pixels apart
                # A seed, since ARPACK starts from a random vector.
                found = _decomposition("KPCACAM").KernelPCA(1, kernel=self.kernel, gamma=self.gamma, random_state=0)
                image[:] = found.fit_transform(pixels - pixels.mean(0))[:, 0]
        return _scores_like(activations, scores.reshape(N, H, W))


class Factorization(NamedTuple):
    """What Deep Feature Factorization finds in a batch of N images: K concepts."""

    concepts: Tensor
    """[K, C]: the channels of each, as at the pixel of the batch where it is strongest."""
    heatmaps: Tensor
    """[N, K, H', W']: where each is."""
    scores: Tensor | None
    """[K, classes]: what the classifier says of each concept; None without one."""

    def labels(self, names: Sequence[Any] | None = None, top: int = 2) -> list[list[tuple[Any, float]]]:
        """Each concept's `top` classes, the likeliest first, with their probabilities: the softmax of the scores.

        Args:
            names: of the classes; None for their numbers.
            top: how many classes of each concept.

        Raises:
            ValueError: there was no classifier; `top` or `names` does not fit the number of classes.
        """
        if self.scores is None:
            raise ValueError("labels are there where DeepFeatureFactorization was given a classifier")
        classes = self.scores.shape[1]
        if not 1 <= top <= classes:
            raise ValueError(f"top is {top}; accepted is from 1 to the number of classes, {classes}")
        if names is not None and len(names) != classes:
            raise ValueError(f"names are {len(names)}; accepted is one for each of the {classes} classes")
        best = self.scores.double().softmax(1).topk(top, dim=1)
        return [
            [(k if names is None else names[k], p) for p, k in zip(probabilities, indices, strict=True)]
            for probabilities, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


class DeepFeatureFactorization(ActivationExplainer):
    """Explains a layer by Deep Feature Factorization (Collins et al. 2018, https://arxiv.org/abs/1806.10206).

    The pixels of all images of a batch, [N * H * W, C], are factorized into two non-negative matrices: how much of each
    of K concepts is in a pixel, and which channels make the concept. `factorize` returns both; calling the explainer
    returns the first alone, as heatmaps [N, K, H', W']. Concepts are the same over the batch, the largest first, and so
    depend on it. They know no class, and need no gradient.

    scikit-learn's `NMF` computes it on the CPU in float64, from its deterministic start "nndsvda"; pytorch-grad-cam
    starts at random. There too a concept's scale, which the factorization leaves open, is as it comes; here each is as
    strong as at its strongest pixel, so that a classifier sees activations of the layer's own size.

    Args:
        n_components: the number of concepts, K.
        classifier: what follows the pooled layer, from [K, C] to scores [K, classes], such as `model.fc`.
        shift: subtract each channel's minimum over the batch first, and add it to the concepts afterwards, as
            pytorch-grad-cam does, so that activations may be negative.
        max_iter: at most so many iterations of `NMF`, which warns where they are too few.
        model, target_layer, options: as in `Explainer`.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
        ValueError, TypeError: as `Explainer`; when called: targets, which it has no use for; an empty batch; negative
            activations without `shift`; more concepts than pixels or channels; a classifier of another shape.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | None = None,
        *,
        n_components: int = 5,
        classifier: Callable[[Tensor], Tensor] | None = None,
        shift: bool = False,
        max_iter: int = 1000,
        **options: Any,
    ):
        super().__init__(model, target_layer, **options)
        if len(self._capture.layers) > 1:
            raise ValueError("target_layer has several layers, whose concepts are not the same; accepted is one")
        for name, count in (("n_components", n_components), ("max_iter", max_iter)):
            if not isinstance(count, int) or isinstance(count, bool):
                raise TypeError(f"{name} is {count!r}; accepted is an int of at least 1")
            if count < 1:
                raise ValueError(f"{name} is {count}; accepted is at least 1")
        if classifier is not None and not callable(classifier):
            raise TypeError(f"classifier is of type {type(classifier).__name__}; accepted is a module or a callable")
        _decomposition("DeepFeatureFactorization")
        self.n_components, self.classifier, self.shift, self.max_iter = n_components, classifier, shift, max_iter

    def factorize(self, x: Tensor, *args: Any, **options: Any) -> Factorization:
        """Concepts, heatmaps and scores of a batch.

        Args:
            x: the model's first argument; `args` and `options` are those of a call.
        """
        self(x, *args, **options)
        found: Factorization = self._of_last_call("factorization")
        return found

    def _map(self, activations: Tensor, finish: Finish) -> Tensor:
        pixels = _pixels(activations, finish.nan)
        good = np.isfinite(pixels).all((1, 2))
        if finish.nan == "raise" and not good.all():
            raise ValueError("nan='raise' and the activations hold NaN or infinity; nothing was returned")
        N, P, C = pixels.shape
        if not N:
            raise ValueError("x has no images, and so nothing to factorize; accepted is at least one")
        shares = np.full((N, P, self.n_components), np.nan)
        concepts = np.full((self.n_components, C), np.nan)
        if good.any():
            found, concepts = self._factorized(pixels[good].reshape(-1, C))
            shares[good] = found.reshape(-1, P, self.n_components)
        maps = shares.transpose(0, 2, 1).reshape(N, self.n_components, *activations.shape[2:])
        heatmaps = finished(_scores_like(activations, maps), finish)
        vectors = torch.from_numpy(concepts).to(activations)
        self._last.factorization = Factorization(vectors, heatmaps, self._classified(vectors))
        return heatmaps

    def _factorized(self, pixels: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[P, C] -> [P, K] and [K, C], of which the former's columns have the maximum 1."""
        K = self.n_components
        if min(pixels.shape) < K:
            raise ValueError(f"n_components is {K}; accepted are at most the pixels and the channels, {pixels.shape}")
        offset = pixels.min(0) if self.shift else np.zeros(pixels.shape[1])
        pixels = pixels - offset
        if pixels.min() < 0:
            raise ValueError(
                f"the layer's activations go down to {pixels.min():.3g}, and factors are non-negative; name a layer "
                "behind a ReLU, or pass shift=True to subtract each channel's minimum"
            )
        if not pixels.any():
            return np.zeros((len(pixels), K)), np.zeros((K, pixels.shape[1])) + offset
        model = _decomposition("DeepFeatureFactorization").NMF(
            K, init="nndsvda", random_state=0, max_iter=self.max_iter
        )
        shares = model.fit_transform(pixels)
        concepts = model.components_
        peaks = shares.max(0)
        peaks[peaks == 0] = 1
        shares, concepts = shares / peaks, concepts * peaks[:, None]
        largest = np.argsort(-shares.sum(0) * concepts.sum(1), kind="stable")
        return shares[:, largest], concepts[largest] + offset

    def _classified(self, concepts: Tensor) -> Tensor | None:
        if self.classifier is None:
            return None
        scores = self.classifier(concepts)
        if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(concepts):
            came = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"classifier returned {came}; accepted is a tensor [{len(concepts)}, classes]")
        return scores.detach()
