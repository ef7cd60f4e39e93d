"""Derivatives of narrow types on a device against float64's on the CPU, of inputs whose maps are far from every kink.

A ReLU whose sign, or an extreme whose place, rounding decides has another derivative there, of any size. So here scores
are positive, though gradients are not, and two pixels at the corners are the extremes by far.
"""

import torch
from torch import Tensor

import fusedcam

SHAPES = {
    "image": ((2, 24, 19, 14), {"size": (30, 50)}),
    "unresized": ((2, 24, 19, 14), {"normalize": None, "relu": False}),
    "large": ((1, 5, 130, 90), {"size": (40, 200)}),
    "volume": ((2, 7, 4, 6, 5), {"spatial": 3, "size": (9, 6, 11)}),
    "signal": ((2, 7, 50), {"spatial": 1, "size": 4000}),
    "channels last": ((2, 9, 8, 40), {"layout": "last", "normalize": "max", "size": 20}),
    "tokens": ((2, 1 + 6 * 7, 33), {"tokens": (6, 7), "size": 20}),
    "classes": ((2, 24, 9, 11), {"size": 33}),
    "weights": ((2, 24, 9, 11), {"size": 33}),
    "flipped": ((2, 24, 9, 11), {"size": 33}),
    "the same at every pixel": ((2, 24, 9, 11), {"size": 33}),
}
_SCALES = (1.0, 0.6, 1.7)


def settled(name: str, moments: bool, device: torch.device | str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Activations, and gradients of which a quarter is negative, of every channel and at every pixel."""
    shape, given = SHAPES[name]
    a, g = torch.rand(shape) + 0.1, torch.rand(shape) + 0.3
    places = sum(torch.arange(extent).reshape(-1, *(1,) * (len(shape) - 1 - i)) for i, extent in enumerate(shape))
    g = torch.where(torch.as_tensor(places) % 4 == 0, -0.1 * g, g)
    last = "tokens" in given or given.get("layout") == "last"
    maps = a.movedim(-1, 1) if last else a  # tokens: [N, C, T], of which the first is no pixel
    rows = maps.flatten(2)
    low, high = int("tokens" in given), -1
    if last:
        maps[(slice(None), slice(None), *(0,) * (maps.ndim - 3), low)] *= 0.05
        maps[(slice(None), slice(None), *(-1,) * (maps.ndim - 2))] *= 6
    else:
        rows[..., low] *= 0.05
        rows[..., high] *= 6
    if moments:
        g = torch.stack([g, g**2, g**3]).abs() + 0.25
    if name == "classes":
        g = torch.stack([scale * g for scale in _SCALES], 1 + moments)
    elif name == "weights":
        g = torch.stack([scale * g.flatten(2).mean(2) for scale in _SCALES], 1)
    elif name == "the same at every pixel":
        g = g[..., :1, 1:2]
    a, g = a.to(device, dtype), g.to(device, dtype)
    return (a.flip(1, 3), g.flip(-3, -1)) if name == "flipped" else (a, g)


def errors(
    name: str, method: str, device: torch.device | str, dtype: torch.dtype
) -> list[tuple[Tensor, Tensor, float]]:
    """Of the derivatives of both arrays: what came, what float64 says, and the largest difference that rounding may
    make. AssertionError where a second run has other bits."""
    given = dict(SHAPES[name][1])
    inputs = settled(name, method == "smoothgradcam++", device, dtype)
    found = []
    for leaves in (inputs, tuple(one.cpu().double() for one in inputs)):
        own = [one.detach().requires_grad_() for one in leaves]
        second = own[1].expand(*own[1].shape[:-2], *own[0].shape[-2:]) if name == "the same at every pixel" else own[1]
        if name == "weights":
            heat = fusedcam.cam(own[0], weights=second, **given)
        else:
            heat = fusedcam.cam(own[0], second, method=method, **given)
        slopes = torch.linspace(-1, 1, heat.numel(), dtype=torch.float64).to(heat).reshape(heat.shape)
        found.append(torch.autograd.grad(heat, own, slopes, retain_graph=True))
        if leaves is inputs:
            again = torch.autograd.grad(heat, own, slopes)
            assert all(map(torch.equal, found[0], again)), "another run, other bits"
    step = {torch.float32: 5e-5, torch.float64: 1e-11}.get(dtype, 4 * torch.finfo(dtype).eps)
    return [
        (got.cpu().double(), exact, step * float(exact.abs().max()) + 6e-8)  # float16's smallest step
        for got, exact in zip(*found, strict=True)
    ]
