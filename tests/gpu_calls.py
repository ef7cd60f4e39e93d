"""One call of every op and path on CUDA, for compute-sanitizer, and a comparison with the CPU's results.

compute-sanitizer python tests/gpu_calls.py
"""

import itertools
import sys

import torch

import device_derivatives
import fusedcam

# H and W where quads of pixels are read at once and where they are not, one block and several, up to maps that no
# block can hold.
SIZES = [(1, 1), (7, 7), (14, 14), (28, 28), (31, 31), (33, 35), (64, 64), (200, 190)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def check(device: torch.device) -> int:
    """How many calls agreed; AssertionError at the first that does not."""
    done = 0
    for (height, width), dtype, N in itertools.product(SIZES, DTYPES, (1, 3)):
        channels = 300 if height < 60 else 5
        a, g = torch.randn(2, N, channels, height, width, device=device).to(dtype)
        images = torch.randint(256, (N, 61, 44, 3), dtype=torch.uint8, device=device)
        for first, second in (
            (a, g),
            (a.flip(1)[:, ::2], g.mT.contiguous().mT[:, ::2]),
            (a, g[..., :1, :1].expand_as(a)),
        ):
            for size in (None, (61, 44)):
                found = fusedcam.cam(first, second, size=size)
                wanted = fusedcam.cam(first.cpu(), second.cpu(), size=size)
                torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=2e-5 if dtype != torch.float64 else 1e-12)
                assert torch.equal(found, fusedcam.cam(first, second, size=size)), "another run, other bits"
                done += 1
        raw = fusedcam.cam(a, g, normalize=None, nan="raise")
        for mode in ("minmax", "max", None):
            resized = fusedcam.resize(raw, (61, 44), normalize=mode)
            assert torch.equal(resized.cpu(), fusedcam.resize(raw.cpu(), (61, 44), normalize=mode))
            picture = fusedcam.overlay(images, raw, normalize=mode)
            assert torch.equal(picture.cpu(), fusedcam.overlay(images.cpu(), raw.cpu(), normalize=mode))
            place = torch.empty_like(picture)
            assert fusedcam.overlay(images, raw, normalize=mode, out=place) is place
            assert torch.equal(place, picture)
            done += 2
        for kind in DTYPES:
            floats = torch.randn(N, 3, 61, 44, device=device).to(kind)
            masked = fusedcam.mask(floats, a[:, :4])
            assert torch.equal(masked.cpu(), fusedcam.mask(floats.cpu(), a[:, :4].cpu()))
            done += 1
        colours = fusedcam.colorize(raw, normalize="minmax")
        assert torch.equal(colours.cpu(), fusedcam.colorize(raw.cpu(), normalize="minmax"))
    return done + derivatives(device)


def derivatives(device: torch.device) -> int:
    """The same of derivatives, which are compared with float64's."""
    done = 0
    for name, dtype in itertools.product(device_derivatives.SHAPES, DTYPES):
        for method in ("gradcam",) if name == "weights" else ("gradcam", "smoothgradcam++", "xgradcam", "layercam"):
            for got, exact, bound in device_derivatives.errors(name, method, device, dtype):
                torch.testing.assert_close(got, exact, rtol=0, atol=bound)
            done += 1
    for size, mode in itertools.product(((61, 44), (3, 5), (1, 900)), ("minmax", "max", None)):
        heatmap, found = torch.rand(2, 9, 12, dtype=torch.float64), []
        for place in (device, torch.device("cpu")):
            leaf = heatmap.to(place).requires_grad_()
            heat = fusedcam.resize(leaf, size, normalize=mode, eps=0.1 if mode else 0.0)
            slopes = torch.linspace(-1, 1, heat.numel(), dtype=torch.float64).to(place).reshape(heat.shape)
            found.append(torch.autograd.grad(heat, leaf, slopes)[0].cpu())
        torch.testing.assert_close(*found, rtol=0, atol=1e-11 * float(found[1].abs().max()) + 1e-14)
        done += 1
    return done


if __name__ == "__main__":
    if "--few" in sys.argv:  # a sanitizer takes a hundred times as long
        SIZES, DTYPES = [(7, 7), (28, 28), (200, 190)], [torch.float32, torch.float16]
    print(f"{check(torch.device('cuda'))} calls agree")
