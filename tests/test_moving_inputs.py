"""Arguments whose reading runs the caller's code, which may move the arrays' memory; torch's count of writes."""

import os
import re

import numpy as np
import pytest
import torch

import fusedcam


class Mover:
    """An int or a float that gives the memory of an array back when it is read."""

    def __init__(self, array, value):
        self.array, self.value = array, value

    def move(self):
        self.array.resize((1,), refcheck=False)
        return self.value

    def __index__(self):
        return self.move()

    def __float__(self):
        return float(self.move())


LARGE = (2048, 2048)  # large enough for its pages to go back to the system


def test_colorize():
    heatmap = np.ones(LARGE, np.float32)
    with pytest.raises(ValueError, match=r"colorize: heatmap has shape \(1,\)"):
        fusedcam.colorize(heatmap, size=Mover(heatmap, 64))


def test_overlay():
    image = np.ones((*LARGE, 3), np.uint8)
    with pytest.raises(ValueError, match=r"overlay: image has shape \(1,\)"):
        fusedcam.overlay(image, np.ones((2, 2), np.float32), alpha=Mover(image, 0.5))


def test_resize():
    heatmap = np.ones(LARGE, np.float32)
    with pytest.raises(ValueError, match=r"resize: heatmap has shape \(1,\)"):
        fusedcam.resize(heatmap, (Mover(heatmap, 64), 64))


def test_mask():
    image = np.ones((1, *LARGE), np.float32)
    with pytest.raises(ValueError, match=r"mask: image has shape \(1,\)"):
        fusedcam.mask(image, np.ones((2, 2), np.float32), eps=Mover(image, 0))


def test_cam():
    activations = np.ones((1, *LARGE), np.float32)
    with pytest.raises(ValueError, match=r"cam: activations have shape \(1,\)"):
        fusedcam.cam(activations, activations.copy(), size=Mover(activations, 64))


def test_autograd_notices_a_write_to_out():
    a, g = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    out, weight = torch.rand(2, 4, 5), torch.rand(2, 4, 5, requires_grad=True)
    y = (weight * out).sum()
    assert fusedcam.cam(a, g, out=out) is out
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
    with torch.inference_mode():
        inside = torch.empty(2, 4, 5)
        assert torch.equal(fusedcam.cam(a, g, out=inside), out)


@pytest.mark.parametrize("size", [(1, 2**31 - 1), (2**31 - 1, 1)])
def test_working_memory_is_counted(size):
    # The result of 8.6 GB may fit; 32 bytes for each of its columns do not, in less than 69 GB.
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if memory > 69e9:
        pytest.skip("this machine has the memory")
    with pytest.raises(ValueError, match=r"cam: a result of shape .* takes .* GB, working memory included"):
        fusedcam.cam(np.ones((1, 2, 2), np.float32), np.ones((1, 2, 2), np.float32), size=size)


def test_a_method_that_cannot_be_printed():
    a = np.ones((1, 2, 2), np.float32)
    for method, shown in (("grad\0cam", "'grad?cam'"), ("x" * 5000, f"'{'x' * 80}...'")):
        with pytest.raises(ValueError, match=f"^cam: method is {re.escape(shown)}; accepted: 'gradcam', "):
            fusedcam.cam(a, a, method=method)
