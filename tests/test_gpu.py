"""CUDA on a real device: values, streams, graphs, devices and memory. Skipped, and counted, where there is none."""

import numpy as np
import pytest
import torch

import device_derivatives
import fusedcam
import gpu_calls
import reference
from fusedcam.torch import differentiating

MISSING = fusedcam.info()["cuda"] or ("" if torch.cuda.is_available() else "torch has no CUDA")
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no GPU: {MISSING}")


@pytest.fixture
def arrays():
    return torch.randn(2, 8, 512, 14, 14, device="cuda").unbind()


def oracle(a, g, size):
    scores, _ = reference.cam(*(reference.wide(x.float().cpu().numpy()) for x in (a, g[:, None])), size=size)
    return reference.normalize(scores, "minmax")[:, 0]


def test_every_path_agrees_with_the_cpu():
    assert gpu_calls.check(torch.device("cuda")) > 300


def test_against_float64(arrays):
    a, g = arrays
    heat = fusedcam.cam(a, g, size=(100, 90))
    assert heat.device == a.device
    np.testing.assert_allclose(heat.cpu().numpy(), oracle(a, g, (100, 90)), rtol=0, atol=2e-5)
    flat = heat.flatten(1)
    assert (flat.amin(1) == 0).all()
    assert (flat.amax(1) == 1).all()


@pytest.mark.parametrize("center", [False, True])
def test_eigencam(arrays, center):
    a, g = arrays
    for given in ((a,), (a, g)):
        found = fusedcam.eigencam(*given, center=center, size=20)
        assert found.device == a.device
        wanted = fusedcam.eigencam(*(x.cpu() for x in given), center=center, size=20)
        torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=1e-5)


def test_work_is_in_order_on_the_callers_stream(arrays):
    a, g = arrays
    wanted = fusedcam.cam(a, g)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # the inputs are written late, and on this stream alone
        late = a * 2
        found = fusedcam.cam(late, g)
    side.synchronize()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_captured_in_a_graph(arrays):
    a, g = (x.clone() for x in arrays)
    out = torch.empty(8, 64, 64, device="cuda")
    fusedcam.cam(a, g, size=64, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fusedcam.cam(a, g, size=64, out=out)
        fresh = fusedcam.cam(a, g, size=64)
        with pytest.raises(ValueError, match="cannot be captured"):
            fusedcam.cam(a, g, size=64, nan="raise")
    a.copy_(torch.randn_like(a))
    out.fill_(float("nan"))
    graph.replay()
    wanted = fusedcam.cam(a, g, size=64)
    assert torch.equal(out, wanted)
    assert torch.equal(fresh, wanted)


def test_nothing_is_allocated_but_the_result(arrays):
    a, g = arrays
    fusedcam.cam(a, g)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    heat = fusedcam.cam(a, g)
    # Devices before Hopper keep partial sums in a workspace.
    if torch.cuda.get_device_capability()[0] >= 9:
        assert torch.cuda.max_memory_allocated() - before <= heat.numel() * 4 + 512


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one device")
def test_another_device_than_the_current():
    a, g = torch.randn(2, 2, 64, 7, 7, device="cuda:1").unbind()
    heat = fusedcam.cam(a, g)
    assert heat.device == a.device
    assert torch.cuda.current_device() == 0
    torch.testing.assert_close(heat.cpu(), fusedcam.cam(a.cpu(), g.cpu()), rtol=0, atol=2e-5)


@pytest.mark.parametrize("framework", ["cupy", "jax", "numba"])
def test_other_frameworks(framework, arrays):
    module = pytest.importorskip(framework)
    a, g = (x.cpu().numpy() for x in arrays)
    if framework == "jax":
        device = next((device for device in module.devices() if device.platform == "gpu"), None)
        if device is None:
            pytest.skip("JAX has no GPU")
        put = lambda x: module.device_put(x, device)  # noqa: E731
    elif framework == "cupy":
        put = module.asarray
    else:
        put = pytest.importorskip("numba.cuda").to_device
    first, second = put(a), put(g)
    heat = fusedcam.cam(first, second, size=33)
    if framework != "numba":  # which has no DLPack: the result is memory for whoever takes it
        assert type(heat) is type(first)
    values = torch.from_dlpack(heat).cpu().numpy()
    np.testing.assert_allclose(values, oracle(*arrays, (33, 33)), rtol=0, atol=2e-5)


def test_arrays_apart_are_refused(arrays):
    a, g = arrays
    with pytest.raises(ValueError, match="activations are on cuda:0 but gradients are on the CPU"):
        fusedcam.cam(a, g.cpu())
    with pytest.raises(ValueError, match="activations are on the CPU but gradients are on cuda:0"):
        fusedcam.cam(a.cpu(), g)


@pytest.mark.parametrize("dtype", gpu_calls.DTYPES)
@pytest.mark.parametrize("name", device_derivatives.SHAPES)
@pytest.mark.parametrize("method", list(fusedcam.METHODS))
def test_derivatives_against_float64(method, name, dtype):
    if name == "weights" and method != "gradcam":
        pytest.skip("weights are of no method")
    for got, exact, bound in device_derivatives.errors(name, method, "cuda", dtype):
        assert exact.any()
        assert abs(got - exact).max() <= bound


def test_derivatives_captured_in_a_graph(arrays):
    a, g = (x.clone().requires_grad_() for x in arrays)
    slopes = torch.randn(8, 30, 30, device="cuda")

    def derivatives():
        return torch.autograd.grad(fusedcam.cam(a, g, size=30, method="layercam"), (a, g), slopes)

    side = torch.cuda.Stream()  # what autograd sets up once is not captured
    with torch.cuda.stream(side):
        derivatives()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = derivatives()
    with torch.no_grad():
        a.copy_(torch.rand_like(a))
        slopes.copy_(torch.randn_like(slopes))
    graph.replay()
    assert all(map(torch.equal, found, derivatives()))


def test_derivatives_of_what_is_compiled(arrays):
    a, g = (x[:2, :40].clone().requires_grad_() for x in arrays)
    slopes = torch.randn(2, 30, 30, device="cuda")
    call = lambda a, g: fusedcam.cam(a, g, size=30)  # noqa: E731
    wanted = torch.autograd.grad(call(a, g), (a, g), slopes)
    found = torch.autograd.grad(torch.compile(call, fullgraph=True)(a, g), (a, g), slopes)
    assert all(map(torch.equal, found, wanted))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one device")
def test_derivatives_on_another_device_than_the_current():
    for got, exact, bound in device_derivatives.errors("image", "gradcam++", "cuda:1", torch.float32):
        assert abs(got - exact).max() <= bound
    assert torch.cuda.current_device() == 0


def test_derivatives_are_those_of_kernels(arrays, monkeypatch):
    a = arrays[0].clone().requires_grad_()
    monkeypatch.setattr(differentiating.formulas, "cam", None)
    monkeypatch.setattr(differentiating.formulas, "resize", None)
    fusedcam.cam(a, arrays[1], size=30).sum().backward()
    fusedcam.cam(a, weights=arrays[1][:, :, 0, 0], size=30).sum().backward()
    assert a.grad.abs().sum() > 0


def test_derivatives_are_in_order_on_the_callers_stream(arrays):
    a, g = arrays
    slopes = torch.randn(8, 30, 30, device="cuda")

    def derivative(slopes):
        leaf = a.clone().requires_grad_()
        (found,) = torch.autograd.grad(fusedcam.cam(leaf, g, size=30), leaf, slopes)
        return found

    wanted = derivative(slopes * 2)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # the slopes are written late, and on this stream alone
        found = derivative(slopes * 2)
    side.synchronize()
    assert torch.equal(found, wanted)


def test_compiled_with_cuda_graphs(arrays):
    a, g = arrays
    with torch.no_grad():
        wanted = fusedcam.cam(a, g, size=56)
        compiled = torch.compile(lambda a, g: fusedcam.cam(a, g, size=56), mode="reduce-overhead", fullgraph=True)
        for _ in range(3):
            assert torch.equal(compiled(a, g).clone(), wanted)


def test_memory_of_results_may_be_recorded_on_other_streams(arrays):
    """They are the caching allocator's: freed on one stream, not given away while another one reads."""
    a, g = arrays
    side, wanted = torch.cuda.Stream(), fusedcam.cam(a, g, size=224).cpu()
    heat = fusedcam.cam(a, g, size=224)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        copy = heat.clone()
    heat.record_stream(side)
    del heat
    for _ in range(4):
        fusedcam.cam(a * 0, g, size=224)
    side.synchronize()
    assert torch.equal(copy.cpu(), wanted)
