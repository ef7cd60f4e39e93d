"""fusedcam.forward on a NumPy network: weights against the papers' formulas in float64, and what is refused."""

import sys

import ml_dtypes
import numpy as np
import pytest
import torch

import fusedcam
import reference
from fusedcam import _batches
from fusedcam.forward import ablationcam_weights, iscam_weights, scorecam_weights, sscam_weights

CLASSES = 3


class Net:
    """Two linear layers with a nonlinearity that no scaling passes through, in the type of its input."""

    def __init__(self, rng, pixels):
        self.first = rng.normal(size=(pixels, 8)) / np.sqrt(pixels)
        self.second = rng.normal(size=(8, CLASSES))
        self.seen: list[int] = []

    def __call__(self, batch):
        batch = np.asarray(batch, np.float64)
        self.seen.append(len(batch))
        return np.tanh(3 * batch.reshape(len(batch), -1) @ self.first) @ self.second


@pytest.fixture
def images(rng):
    return rng.normal(size=(2, 3, 13, 11))


@pytest.fixture
def activations(rng):
    return np.maximum(rng.normal(size=(2, 7, 4, 5)), -0.5)


@pytest.fixture
def net(rng):
    return Net(rng, 3 * 13 * 11)


@pytest.fixture
def head(rng):
    return Net(rng, 7 * 4 * 5)


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def scores_of(net, images, activations, change=lambda batch, mask, image: batch):
    """[N, K, C]: one masked image at a time, by the oracle's mask."""
    found = np.empty((len(images), CLASSES, activations.shape[1]))
    for n, image in enumerate(images):
        for k in range(activations.shape[1]):
            mask = reference.normalize(reference.bilinear(activations[n, k], image.shape[-2:]), "minmax")
            found[n, :, k] = net(change(mask * image, mask, image)[None])[0]
    return found


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100, None])
def test_scorecam(net, images, activations, batch_size):
    wanted = softmax(scores_of(net, images, activations))
    net.seen.clear()
    got = scorecam_weights(net, images, activations, batch_size=batch_size)
    assert got.dtype == np.float64
    assert got.shape == (2, CLASSES, 7)
    np.testing.assert_allclose(got, wanted, rtol=1e-10)
    assert max(net.seen) == min(batch_size or 32, 7)
    assert sum(net.seen) == 14
    heat = fusedcam.cam(activations, weights=got, size=(13, 11))
    assert heat.shape == (2, CLASSES, 13, 11)


def test_scores_of_one_class(net, images, activations):
    got = scorecam_weights(lambda batch: net(batch)[:, 1], images, activations)
    np.testing.assert_allclose(got, softmax(scores_of(net, images, activations)[:, 1]), rtol=1e-10)


@pytest.mark.parametrize("baseline", ["nothing", "number", "image", "images"])
def test_increase_of_confidence(rng, net, images, activations, baseline):
    below = {
        "nothing": 0.0,
        "number": -1.5,
        "image": rng.normal(size=(3, 13, 11)),
        "images": rng.normal(size=(2, 3, 13, 11)),
    }[baseline]
    wanted = scores_of(net, images, activations) - net(np.broadcast_to(below, images.shape))[:, :, None]
    given = {} if baseline == "nothing" else {"baseline": below}
    most = []
    counted = lambda batch: [most.append(len(batch)), net(batch)][1]  # noqa: E731
    one = scorecam_weights(counted, images, activations, softmax=False, batch_size=1, **given)
    assert {*most} == {1}
    np.testing.assert_allclose(one, wanted, atol=1e-10)
    np.testing.assert_allclose(scorecam_weights(net, images, activations, softmax=False, **given), wanted, atol=1e-10)


def test_top_channels(rng, net, images, activations):
    """Those that deviate the most within their map, whatever its mean; others have no weight at all."""
    activations = activations * rng.uniform(0.1, 3, (2, 7, 1, 1)) + rng.normal(size=(2, 7, 1, 1))
    order = np.argsort(-activations.std((2, 3)), 1)
    got = scorecam_weights(net, images, activations, top_channels=3, batch_size=2)
    scores = scores_of(net, images, activations)
    for n in range(2):
        chosen = order[n, :3]
        np.testing.assert_allclose(got[n][:, chosen], softmax(scores[n][:, chosen]), rtol=1e-10)
        assert not got[n][:, order[n, 3:]].any()
    all_of_them = scorecam_weights(net, images, activations, top_channels=100)
    np.testing.assert_allclose(all_of_them, softmax(scores), rtol=1e-10)


@pytest.mark.parametrize("cumulative", [False, True])
def test_iscam(net, images, activations, cumulative):
    factors = [1 / 4, 2 / 4, 3 / 4, 1]
    if cumulative:
        factors = [1 / 4, 3 / 4, 6 / 4, 10 / 4]
    parts = [scores_of(net, images, activations, lambda batch, *_, f=f: f * batch) for f in factors]
    wanted = softmax(np.mean(parts, 0))
    got = iscam_weights(net, images, activations, samples=4, cumulative=cumulative, batch_size=3)
    np.testing.assert_allclose(got, wanted, rtol=1e-9)
    assert abs(got - scorecam_weights(net, images, activations)).max() > 1e-3


def test_sscam_without_noise_is_scorecam(net, images, activations):
    wanted = scorecam_weights(net, images, activations)
    for noise in ("mask", "image"):
        got = sscam_weights(net, images, activations, samples=2, std=0, noise=noise)
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


@pytest.mark.parametrize("noise", ["mask", "image"])
def test_sscam(net, images, activations, noise):
    """What the network was shown are masks, or masked images, and noise; weights are its mean scores' softmax."""
    shown: list[np.ndarray] = []

    def scores(batch):
        shown.append(batch.copy())
        return net(batch)

    got = sscam_weights(scores, images, activations, samples=60, std=0.5, noise=noise, seed=5, batch_size=4)
    batches = np.concatenate(shown).reshape(60, 2, 7, 3, 13, 11)
    clean = fusedcam.mask(images, activations)
    added = batches - clean
    if noise == "mask":
        added = added / images[:, None]
        np.testing.assert_allclose(added, np.broadcast_to(added[:, :, :, :1], added.shape), atol=1e-8)
        added = added[:, :, :, 0]
    count = added.size
    assert abs(added.mean()) < 6 * 0.5 / np.sqrt(count)
    assert abs(added.std() / 0.5 - 1) < 6 / np.sqrt(2 * count)
    flat = added.reshape(60 * 14, -1)
    likeness = np.corrcoef(flat) - np.eye(len(flat))
    assert abs(likeness).max() < 0.75, "no two draws are the same"
    scored = net(batches.reshape(-1, 3, 13, 11)).reshape(60, 2, 7, CLASSES).mean(0).swapaxes(1, 2)
    np.testing.assert_allclose(got, softmax(scored), rtol=1e-9)

    again = sscam_weights(net, images, activations, samples=60, std=0.5, noise=noise, seed=5, batch_size=9)
    np.testing.assert_allclose(again, got, rtol=1e-9, err_msg="the batch size changed the noise")
    other = sscam_weights(net, images, activations, samples=60, std=0.5, noise=noise, seed=6)
    assert abs(other - got).max() > 1e-6


def ablated(head, activations):
    """[N, K, C]"""
    y = head(activations)[:, :, None]
    parts = []
    for k in range(activations.shape[1]):
        without = activations.copy()
        without[:, k] = 0
        parts.append(head(without))
    return y, np.stack(parts, 2)


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_ablationcam(head, activations, batch_size):
    before = activations.copy()
    y, y_k = ablated(head, activations)
    got = ablationcam_weights(head, activations, batch_size=batch_size)
    np.testing.assert_allclose(got, (y - y_k) / y, rtol=1e-9, atol=1e-12)
    assert np.array_equal(activations, before)
    top = ablationcam_weights(head, activations, top_channels=2)
    assert ((top != 0).sum(2) == 2).all()
    assert ((top == 0) | np.isclose(top, got)).all()


def test_a_score_of_zero_is_not_divided_by(head, activations):
    zero = lambda batch: head(batch) - head(activations[:1])  # noqa: E731
    y, y_k = ablated(zero, activations)
    got = ablationcam_weights(zero, activations)
    np.testing.assert_allclose(got[0], (y - y_k)[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got[1], (y - y_k)[1] / y[1], rtol=1e-9, atol=1e-12)


KINDS = {
    "float32": lambda array: array.astype(np.float32),
    "float16": lambda array: array.astype(np.float16),
    "bfloat16": lambda array: array.astype(ml_dtypes.bfloat16),
    "tensor": lambda array: torch.from_numpy(array),
    "bfloat16 tensor": lambda array: torch.from_numpy(array).bfloat16(),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_types_and_frameworks(net, head, images, activations, make):
    """Weights fit the activations, so that cam takes them."""
    x, a = make(images), make(activations)
    wide = lambda array: (array.double().numpy() if isinstance(array, torch.Tensor) else array).astype(np.float64)  # noqa: E731
    calls = {
        "score": scorecam_weights(lambda batch: net(wide(batch)), x, a, top_channels=4),
        "smoothed": sscam_weights(lambda batch: net(wide(batch)), x, a, samples=2, noise="image"),
        "integrated": iscam_weights(lambda batch: net(wide(batch)), x, a, samples=2),
        "ablation": ablationcam_weights(lambda batch: head(wide(batch)), a),
    }
    for name, weights in calls.items():
        assert type(weights) is type(a), name
        assert weights.dtype == a.dtype
        assert fusedcam.cam(a, weights=weights).shape == (2, CLASSES, 4, 5)
    wanted = scorecam_weights(net, wide(x), wide(a), top_channels=4)
    assert abs(wide(calls["score"]) - wanted).max() < (1e-9 if a.dtype == torch.float64 else 0.05)
    assert abs(wanted).max() > 0.3


def test_jax(net, images, activations):
    import jax.numpy as jnp

    x, a = jnp.asarray(images, jnp.float32), jnp.asarray(activations, jnp.bfloat16)
    got = scorecam_weights(lambda batch: jnp.asarray(net(batch), jnp.bfloat16), x, a, top_channels=3)
    assert type(got) is type(a)
    assert got.dtype == a.dtype
    wanted = scorecam_weights(net, images, np.asarray(a).astype(np.float64), top_channels=3)
    assert abs(np.asarray(got).astype(np.float64) - wanted).max() < 0.05


def test_an_empty_batch(net, head, images, activations):
    for weights in (
        scorecam_weights(net, images[:0], activations[:0]),
        scorecam_weights(net, images[:0], activations[:0], softmax=False),
        ablationcam_weights(head, activations[:0]),
    ):
        assert weights.shape == (0, 7)


def test_progress(net, images, activations, capsys, monkeypatch):
    """Silent unless asked; by the caller's, by rich, and by tqdm where rich is not."""
    steps: list[int] = []

    def watched(batches):
        steps.append(len(batches))
        return iter(batches)

    wanted = scorecam_weights(net, images, activations, batch_size=4)
    assert capsys.readouterr() == ("", "")
    assert np.array_equal(scorecam_weights(net, images, activations, batch_size=4, progress=watched), wanted)
    assert steps == [4]
    assert np.array_equal(scorecam_weights(net, images, activations, batch_size=4, progress=True), wanted)
    assert "Score-CAM" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert np.array_equal(scorecam_weights(net, images, activations, batch_size=4, progress=True), wanted)
    assert "Score-CAM: 100%" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ModuleNotFoundError, match="progress=True needs rich or tqdm: pip install rich"):
        scorecam_weights(net, images, activations, progress=True)


def test_rows_follow_from_memory():
    assert _batches.rows_together(5, 10**9, 0, 32) == 5
    assert _batches.rows_together(None, 1, 10**12, 32) == 32
    assert _batches.rows_together(None, 10**6, 4 * 64 * 7 * 10**6, 32) == 7
    assert _batches.rows_together(None, 10**9, 0, 32) == 1
    assert 0 <= _batches.free_memory() < 2**50
