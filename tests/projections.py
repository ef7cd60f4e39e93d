"""The oracle of Eigen-CAM and of what was made of it: float64, from the papers, one image at a time."""

import numpy as np
from numpy.typing import NDArray


def principal(image: NDArray, center: bool = False) -> tuple[NDArray, NDArray]:
    """[C, H, W] -> O V_1 as [H, W], of unknown sign, and all singular values.

    Muhammad and Yeasin 2020 (https://arxiv.org/abs/2008.00299): O = U S V^T of the pixels, [H*W, C].
    """
    pixels = image.astype(np.float64).reshape(len(image), -1).T
    if center:
        pixels = pixels - pixels.mean(0)
    _, singular, V = np.linalg.svd(pixels, full_matrices=False)
    return (pixels @ V[0]).reshape(image.shape[1:]), singular


def signed(scores: NDArray) -> NDArray:
    """Chung and Ying 2025 (https://doi.org/10.3390/app15137562), equation 13."""
    return -scores if abs(scores.min()) > abs(scores.max()) else scores


def assert_principal(got: NDArray, image: NDArray, center: bool = False) -> None:
    """`got` [H, W] is the projection: equal up to the sign where there is a first component, else as long."""
    wanted, singular = principal(image, center)
    first, second = [*singular, 0.0][:2]
    got = got.astype(np.float64)
    if second <= 0.9 * first:
        error = min(abs(got - wanted).max(), abs(got + wanted).max())
        assert error <= 1e-5 * abs(wanted).max(), (error, abs(wanted).max(), second / first)
    pixels = image.astype(np.float64).reshape(len(image), -1).T
    if center:
        pixels = pixels - pixels.mean(0)
    # The Rayleigh quotient of the map, and its length, both the square of the first singular value.
    square = got.ravel() @ got.ravel()
    quotient = np.square(pixels.T @ got.ravel()).sum() / square
    assert abs(quotient - first**2) <= 1e-6 * first**2
    assert abs(square - first**2) <= 1e-6 * first**2


def with_spectrum(rng: np.random.Generator, C: int, H: int, W: int, singular: list[float]) -> NDArray:
    """An image [C, H, W] whose pixels have these singular values, and no others but 0."""
    count = len(singular)
    left, _ = np.linalg.qr(rng.normal(size=(C, count)))
    right, _ = np.linalg.qr(rng.normal(size=(H * W, count)))
    return ((left * singular) @ right.T).reshape(C, H, W)


def kernel_principal(image: NDArray, kernel: str, gamma: float | None = None) -> NDArray:
    """[C, H, W] -> [H, W], of unknown sign: kernel PCA of the centred pixels (Schoelkopf et al. 1998, equation 17)."""
    pixels = image.astype(np.float64).reshape(len(image), -1).T
    pixels = pixels - pixels.mean(0)
    gamma = 1 / len(image) if gamma is None else gamma
    squares = np.square(pixels[:, None] - pixels[None]).sum(-1)
    product = pixels @ pixels.T
    K = {"linear": product, "sigmoid": np.tanh(gamma * product + 1), "rbf": np.exp(-gamma * squares)}[kernel]
    K = K - K.mean(0) - K.mean(1)[:, None] + K.mean()
    values, vectors = np.linalg.eigh(K)
    return (np.sqrt(values[-1]) * vectors[:, -1]).reshape(image.shape[1:])


def fem(image: NDArray, k: float = 2) -> NDArray:
    """[C, H, W] -> [H, W]: Fuad et al. 2020, the binary maps of channels weighted by their means."""
    scores = np.zeros(image.shape[1:])
    for channel in image.astype(np.float64):
        scores += channel.mean() * (channel > channel.mean() + k * channel.std())
    return scores
