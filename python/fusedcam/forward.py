"""Channels' weights from forward passes alone, for models of any framework: Score-CAM, SS-CAM, IS-CAM, Ablation-CAM.

No gradient is needed, so that ONNX Runtime and the like serve as well. Each function takes a callable from a batch to
scores and returns weights for ``fusedcam.cam(activations, weights=weights)``. What is computed from scores is float64.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ._batches import Progress, check_count, check_noise, steps_of
from ._frameworks import like
from ._passes import Passes
from .functional import mask

__all__ = ["ablationcam_weights", "iscam_weights", "scorecam_weights", "sscam_weights"]

Array = TypeVar("Array")
Scores = Callable[[Any], Any]


def scorecam_weights(
    scores: Scores,
    images: Array,
    activations: Array,
    *,
    softmax: bool = True,
    baseline: Any = 0.0,
    top_channels: int | None = None,
    batch_size: int | None = None,
    progress: Progress = False,
) -> Array:
    """Score-CAM's weights: the scores of images of which a channel shows what it is active on.

    Wang et al. 2020, Algorithm 1, https://arxiv.org/abs/1910.01279. Equivalent to, for each image and class::

        masks   = resize(activations, images.shape[-2:], normalize="minmax")       # [C, H', W'], 0 to 1 each
        S       = [scores(masks[k] * image) - scores(baseline) for k in range(C)]   # increase of confidence
        weights = softmax(S)                                                       # or S

    The baseline's score does not change what the softmax gives, and the model is not run on it then.
    pytorch-grad-cam 1.5.7 aligns the corners when it upsamples, torch-cam 0.5.0 normalises before it does;
    tf-keras-vis takes no softmax over the channels.

    Args:
        scores: maps a batch of B images to scores [B], or [B, K] for K classes, before the model's softmax. The
            batch's memory is used again after the call.
        images: [N, Cimg, H', W'], as the model takes them; float32, float16, bfloat16 or float64.
        activations: what the layer returned for them, [N, C, H, W], of the same framework.
        softmax: over the channels, as in Algorithm 1; without it weights are the increases of confidence themselves.
        baseline: the image X_b that confidence increases over: a number for all its pixels, or an array
            [Cimg, H', W'] or [N, Cimg, H', W'].
        top_channels: only that many channels of each image are tried, those whose activations deviate the most
            (Faster Score-CAM, https://github.com/tabayashi0117/Score-CAM); the others' weights are 0. None: all.
        batch_size: images that the model is given at once; None takes as many as fit, 32 at most.
        progress: True shows a bar, by rich or else tqdm; or a callable that takes the list of batches and hands them
            on, as `tqdm.tqdm` does.

    Returns:
        [N, C], or [N, K, C] for scores [B, K], of the activations' framework and dtype.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, what it is and what is accepted.
    """
    run = Passes("scorecam_weights", scores, images, activations, top_channels, batch_size, progress)
    found = run.masked("Score-CAM", [lambda image, maps, out, at: mask(image, maps, out=out)])
    weights: Array = run.weights(found, softmax, baseline)
    return weights


def sscam_weights(
    scores: Scores,
    images: Array,
    activations: Array,
    *,
    samples: int = 35,
    std: float = 2.0,
    noise: Literal["mask", "image"] = "mask",
    seed: int = 0,
    softmax: bool = True,
    baseline: Any = 0.0,
    top_channels: int | None = None,
    batch_size: int | None = None,
    progress: Progress = False,
) -> Array:
    """SS-CAM's weights: Score-CAM's scores, averaged over masks, or masked images, with noise.

    Wang, Naidu, Michael and Kundu 2020, https://arxiv.org/abs/2006.14255. As `scorecam_weights`, with::

        S = [mean([scores((masks[k] + d) * image) for d in noise]) - scores(baseline) for k in range(C)]    # SS-CAM (1)
        S = [mean([scores(masks[k] * image + d) for d in noise]) - scores(baseline) for k in range(C)]      # SS-CAM (2)

    and normal noise d of that deviation, another for every channel and sample. torch-cam 0.5.0 has the former; the
    authors' code adds noise of a deviation of (2 / range)^2 to maps that are not normalised.

    Args:
        scores, images, activations: as in `scorecam_weights`.
        samples: of noise, for each channel.
        std: the noise's standard deviation, where masks go from 0 to 1.
        noise: "mask" adds it to the masks, "image" to the masked images.
        seed: of the noise, which comes from a generator of its own.
        softmax, baseline, top_channels, batch_size, progress: as in `scorecam_weights`.

    Returns:
        [N, C], or [N, K, C] for scores [B, K], of the activations' framework and dtype.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, what it is and what is accepted.
    """
    check_noise("sscam_weights: ", samples, std, noise, seed)
    run = Passes("sscam_weights", scores, images, activations, top_channels, batch_size, progress)
    kind = np.float64 if run.activations.dtype == np.float64 else np.float32

    def noisy(sample: int) -> Any:
        def drawn(at: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.float64]:
            image, *channels = at.tolist()
            source = (np.random.default_rng([seed, sample, image, channel]) for channel in channels)
            return np.stack([rng.normal(0, std, shape) for rng in source])

        def on_masks(image: Any, maps: Any, out: Any, at: NDArray[np.int64]) -> Any:
            return mask(image, maps, noise=like(drawn(at, image.shape[-2:]).astype(kind), image), out=out)

        def on_images(image: Any, maps: Any, out: Any, at: NDArray[np.int64]) -> Any:
            batch = mask(image, maps, out=out)
            batch += like(drawn(at, image.shape), image, image.dtype)
            return batch

        return on_masks if noise == "mask" else on_images

    found = run.masked("SS-CAM", [noisy(sample) for sample in range(samples)])
    weights: Array = run.weights(found, softmax, baseline)
    return weights


def iscam_weights(
    scores: Scores,
    images: Array,
    activations: Array,
    *,
    samples: int = 10,
    cumulative: bool = False,
    softmax: bool = True,
    baseline: Any = 0.0,
    top_channels: int | None = None,
    batch_size: int | None = None,
    progress: Progress = False,
) -> Array:
    """IS-CAM's weights: Score-CAM's scores, integrated while the masked image grows from nothing.

    Naidu et al. 2020, https://arxiv.org/abs/2010.03023. As `scorecam_weights`, with::

        S = [mean([scores(i / samples * masks[k] * image) for i in 1..samples]) - scores(baseline) for k in range(C)]

    Args:
        scores, images, activations: as in `scorecam_weights`.
        samples: steps of the integral.
        cumulative: add the factors i / samples up from step to step, so that they end at (samples + 1) / 2, as
            torch-cam 0.5.0 does.
        softmax, baseline, top_channels, batch_size, progress: as in `scorecam_weights`.

    Returns:
        [N, C], or [N, K, C] for scores [B, K], of the activations' framework and dtype.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, what it is and what is accepted.
    """
    check_count("iscam_weights: ", "samples", samples)
    run = Passes("iscam_weights", scores, images, activations, top_channels, batch_size, progress)

    def scaled(factor: float) -> Any:
        return lambda image, maps, out, at: mask(image * factor, maps, out=out)

    found = run.masked("IS-CAM", [scaled(factor) for factor in steps_of(samples, cumulative)])
    weights: Array = run.weights(found, softmax, baseline)
    return weights


def ablationcam_weights(
    scores: Scores,
    activations: Array,
    *,
    top_channels: int | None = None,
    batch_size: int | None = None,
    progress: Progress = False,
) -> Array:
    """Ablation-CAM's weights: by what part a score drops when a channel is set to zero.

    Desai and Ramaswamy 2020, section 3,
    https://openaccess.thecvf.com/content_WACV_2020/html/Desai_Ablation-CAM_Visual_Explanations_for_Deep_Convolutional_Network_via_Gradient-free_Localization_WACV_2020_paper.html.
    Equivalent to, for each image and class::

        y       = scores(activations)
        y_k     = [scores(where(arange(C) == k, 0, activations)) for k in range(C)]
        weights = (y - y_k) / y                                                      # y - y_k where y is 0

    A negative score turns the weights' signs. pytorch-grad-cam 1.5.7 sets channels of maps with negative values to
    their minimum less 1e7 instead, and divides by 0.

    Args:
        scores: maps a batch of B activations [B, C, H, W] to scores [B], or [B, K] for K classes: the part of the model
            behind the layer. The batch's memory is used again after the call.
        activations: what the layer returned for N images, [N, C, H, W]; float32, float16, bfloat16 or float64.
        top_channels: as in `scorecam_weights`.
        batch_size: activations that the callable is given at once; None takes as many as fit, 32 at most.
        progress: as in `scorecam_weights`.

    Returns:
        [N, C], or [N, K, C] for scores [B, K], of the framework and dtype of the activations.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, what it is and what is accepted.
    """
    run = Passes("ablationcam_weights", scores, None, activations, top_channels, batch_size, progress)

    def ablated(n: int, channels: NDArray[np.int64]) -> Any:
        batch = np.repeat(run.activations[n : n + 1], len(channels), 0)
        batch[np.arange(len(channels)), channels] = 0
        return like(batch, activations, run.given.dtype)

    y = np.stack([run.ask(activations[n : n + 1], 1) for n in range(run.N)]) if run.N else np.zeros((0, 1, 1))  # type: ignore[index]
    drop = y - run.ablated("Ablation-CAM", ablated)
    weights: Array = run.spread(np.where(y == 0, drop, drop / np.where(y == 0, 1, y)))
    return weights
