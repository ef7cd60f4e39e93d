"""Who owns what: exports are given back exactly once, results outlive their inputs, nothing is kept or leaked."""

import array
import gc
import os
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import fusedcam
from conftest import to_torch
from exporter import LEGACY, VERSIONED, Exporter
from frameworks import EACH, Versioned, opened
from fusedcam import _cpu


@pytest.fixture(params=EACH)
def kit(request):
    with opened(request.param) as kit:
        yield kit


@pytest.fixture
def a(rng):
    return rng.normal(size=(2, 3, 4, 5)).astype(np.float32)


@pytest.fixture
def g(rng):
    return rng.normal(size=(2, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("name", [VERSIONED, LEGACY], ids=["versioned", "legacy"])
def test_capsules_are_given_back_once(name, a, g):
    activations, gradients = Exporter(a, name), Exporter(g, name)
    result = fusedcam.cam(activations, gradients)
    assert (activations.made, activations.freed, gradients.made, gradients.freed) == (1, 1, 1, 1)
    assert result.tobytes() == fusedcam.cam(a, g).tobytes()
    del result
    gc.collect()
    assert (activations.freed, gradients.freed) == (1, 1)


REFUSED = {
    "version 2": ({"major": 2}, "(DLPack version 2; 1 is understood)"),
    "dtype": ({"code": 0}, "dtype of activations is int32"),
    "lanes": ({"lanes": 4}, "dtype of activations is float32x4; accepted are"),
    "no memory": ({"data": 0}, "(it has a shape but no memory)"),
    "unaligned": ({"byte_offset": 2}, "activations is not aligned to its item size; pass a contiguous copy"),
    "rank 9": ({"rank": 9}, "activations has 9 dimensions; accepted are at most 8"),
    "rank 3": ({"rank": 3}, "activations"),
    "used capsule": ({"name": b"used_dltensor_versioned"}, "(its __dlpack__ returned no live DLPack capsule)"),
    "used legacy capsule": ({"name": b"used_dltensor"}, "(its __dlpack__ returned no live DLPack capsule)"),
    "device": ({"device_type": 2}, "activations is on cuda:0"),
}


@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_capsules_of_refused_calls_are_given_back(fields, message, a, g):
    activations = Exporter(a, **fields)
    with pytest.raises((TypeError, ValueError)) as error:
        fusedcam.cam(activations, Exporter(g))
    assert message in str(error.value)
    assert (activations.made, activations.freed) == (1, 1)


def test_later_arguments_refused(a, g):
    """The arrays that were borrowed before a refusal are given back too."""
    activations, gradients = Exporter(a), Exporter(g)
    with pytest.raises(ValueError, match="spatial"):
        fusedcam.cam(activations, gradients, spatial=4)
    with pytest.raises(TypeError, match="out must be an array"):
        fusedcam.cam(activations, gradients, out=[])
    out = Exporter(np.zeros((2, 4, 6), np.float32))
    with pytest.raises(ValueError, match=r"out has shape \(2, 4, 6\)"):
        fusedcam.cam(activations, gradients, out=out)
    for exporter in (activations, gradients, out):
        assert exporter.made == exporter.freed


def test_buffers_of_refused_calls_are_released(g):
    """Memory that is still exported could never be resized again."""
    for name, memory in {"integers": array.array("i", range(60)), "one axis": array.array("f", range(60))}.items():
        with pytest.raises((TypeError, ValueError), match="activations"):
            fusedcam.cam(memory, g)
        memory.append(1)  # a BufferError while anyone has the buffer
        assert len(memory) == 61, name


def test_read_only_capsules(a, g):
    """As input as any other, never as out; a legacy capsule cannot say."""
    expected = fusedcam.cam(a, g)
    assert fusedcam.cam(Exporter(a, flags=1), Exporter(g, flags=1)).tobytes() == expected.tobytes()
    poison = np.full_like(expected, 77)
    for fields in ({"flags": 1}, {"name": LEGACY}):
        out = Exporter(poison, **fields)
        with pytest.raises(ValueError, match="out is read-only; pass a writable array or none"):
            fusedcam.cam(Exporter(a), Exporter(g), out=out)
        assert (poison == 77).all()
        assert (out.made, out.freed) == (1, 1)
    out = Exporter(poison)
    assert fusedcam.cam(Exporter(a), Exporter(g), out=out) is out
    assert poison.tobytes() == expected.tobytes()


def test_the_rarer_fields(a, g):
    """No strides for a dense array, an offset from the start, pinned memory, a CPU with a number."""
    expected = fusedcam.cam(a, g)
    offset = {"data": a.ctypes.data - 40, "byte_offset": 40}
    for fields in ({"strides": None}, offset, {"device_type": 3, "device_index": 2}, {"device_index": 1}):
        exporter = Exporter(a, **fields)
        assert _cpu.address(exporter) == a.ctypes.data
        assert fusedcam.cam(exporter, Exporter(g)).tobytes() == expected.tobytes(), fields


def test_no_elements():
    """Whose data pointer may be null."""
    exporter = Exporter(np.zeros((0, 3, 4), np.float32), data=0)
    assert fusedcam.resize(exporter, (5, 6)).shape == (0, 5, 6)
    assert (exporter.made, exporter.freed) == (1, 1)


def test_one_failed_export_is_not_held_against_the_class(a, g):
    """A TypeError may come from one array; only an export that works without max_version shows that it is not known."""

    class Moody(Versioned):
        def export(self, **options):
            if self.array is None:
                raise TypeError("nothing here")
            return super().export(**options)

    with pytest.raises(TypeError, match=r"cannot read the memory of activations, a Moody \(nothing here\)"):
        fusedcam.cam(Moody(None), Moody(None))
    out = Moody(np.zeros((2, 4, 5), np.float32))
    assert fusedcam.cam(Moody(a), Moody(g), out=out) is out  # writable, as only versioned capsules can be
    assert out.array.tobytes() == fusedcam.cam(a, g).tobytes()


def test_results_outlive_inputs(kit, a, g):
    expected = fusedcam.cam(a, g)
    inputs = [kit.make(a), kit.make(g)]
    result = fusedcam.cam(*inputs)
    del inputs
    gc.collect()
    noise = [np.full_like(expected, 7) for _ in range(50)]
    assert kit.back(result).tobytes() == expected.tobytes()
    del noise


def test_views_of_results_outlive_them(a, g):
    for make in (np.asarray, torch.from_numpy, jnp.asarray):
        result = fusedcam.cam(make(a), make(g))
        row = result[1, 2:]
        del result
        gc.collect()
        noise = [np.full((2, 4, 5), 7, np.float32) for _ in range(50)]
        assert np.asarray(row).tobytes() == fusedcam.cam(a, g)[1, 2:].tobytes()
        del noise


def test_no_reference_is_kept(kit, a, g):
    inputs = kit.make(a), kit.make(g)
    fusedcam.cam(*inputs)  # the first of a type may be probed
    before = [sys.getrefcount(value) for value in inputs]
    result, other = fusedcam.cam(*inputs), object()
    assert [sys.getrefcount(value) for value in inputs] == before
    assert sys.getrefcount(result) == sys.getrefcount(other)
    if kit.mutable:
        out = kit.make(np.zeros((2, 4, 5), np.float32))
        before = sys.getrefcount(out)
        fusedcam.cam(*inputs, out=out)
        assert sys.getrefcount(out) == before


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory in use is read from /proc")
def test_results_are_freed(kit):
    def in_use():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    heatmap = kit.make(np.ones((2, 2), np.float32))
    fusedcam.resize(heatmap, 600)
    before = in_use()
    for _ in range(30):
        fusedcam.resize(heatmap, 600)  # 1.4 MB
    gc.collect()
    assert in_use() - before < 15e6


def test_torch_without_grad_mode(a, g):
    """Tensors that require grad are taken where nothing is recorded; the result requires none."""
    expected = fusedcam.cam(a, g)
    wanting = [torch.nn.Parameter(torch.from_numpy(a)), torch.from_numpy(g).requires_grad_()]
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            result = fusedcam.cam(*wanting)
            assert result.is_inference() == torch.is_inference_mode_enabled()
        assert type(result) is torch.Tensor
        assert not result.requires_grad
        assert result.numpy().tobytes() == expected.tobytes()
        assert all(tensor.grad is None and tensor.requires_grad for tensor in wanting)


def test_inference_tensors(a, g):
    with torch.inference_mode():
        inputs = torch.from_numpy(a).clone(), torch.from_numpy(g).clone()
    result = fusedcam.cam(*inputs)
    assert inputs[0].is_inference()
    assert not result.is_inference()
    assert result.numpy().tobytes() == fusedcam.cam(a, g).tobytes()


def test_results_are_ordinary_tensors(a, g):
    """Written to, reshaped, differentiated and sent through a network like torch's own."""
    result = fusedcam.cam(*map(to_torch, (a, g)))
    assert result.is_contiguous()
    assert result.is_leaf
    copy = result.clone()
    result.requires_grad_()
    (result * copy).sum().backward()
    assert torch.equal(result.grad, copy)
    with torch.no_grad():
        result.zero_()
    assert not result.any()
