"""PyTorch with our functions: (eager, aot_eager, inductor, export, vmap) x (cam, overlay) x (fresh, requires grad).

python tests/torch_matrix.py prints each cell: "pass" with the largest difference from the eager call, or the reason.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fusedcam

SIZE = (20, 18)


def cam(activations: Tensor, gradients: Tensor) -> Tensor:
    return fusedcam.cam(activations, gradients, size=SIZE)


def overlay(image: Tensor, heatmap: Tensor) -> Tensor:
    return fusedcam.overlay(image, heatmap, normalize="minmax")


class Module(nn.Module):
    def __init__(self, function: Callable[..., Tensor]):
        super().__init__()
        self.function = function

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.function(first, second)


def exported(function: Callable[..., Tensor], inputs: Any, strict: bool) -> Callable[..., Tensor]:
    return torch.export.export(Module(function), inputs, strict=strict).module()


def mapped(function: Callable[..., Tensor], inputs: Any) -> Callable[..., Tensor]:
    """Of each image by itself."""
    return torch.func.vmap(function)


def compiled(function: Callable[..., Tensor], inputs: Any, backend: str, dynamic: bool | None) -> Callable[..., Tensor]:
    torch._dynamo.reset()
    return torch.compile(function, backend=backend, fullgraph=True, dynamic=dynamic)


WAYS: dict[str, Callable[..., Callable[..., Tensor]]] = {
    "eager": lambda function, inputs: function,
    "compile aot_eager": partial(compiled, backend="aot_eager", dynamic=None),
    "compile inductor fullgraph": partial(compiled, backend="inductor", dynamic=None),
    "compile aot_eager dynamic": partial(compiled, backend="aot_eager", dynamic=True),
    "export strict": partial(exported, strict=True),
    "export non-strict": partial(exported, strict=False),
    "vmap": mapped,
}
OPS = {"cam": cam, "overlay": overlay}


def inputs_of(op: str, requires_grad: bool) -> tuple[Tensor, Tensor]:
    if op == "cam":
        first, second = torch.rand(3, 8, 7, 6), torch.randn(3, 8, 7, 6)
    else:
        first, second = torch.rand(3, 3, 16, 12), torch.rand(3, 5, 4)
    return first.requires_grad_(requires_grad), second.requires_grad_(requires_grad)


def derivatives(result: Tensor, inputs: tuple[Tensor, Tensor], slopes: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(result, inputs, slopes))


def difference(way: str, op: str, requires_grad: bool) -> float:
    """From the eager call, of the result and of its derivatives."""
    function, inputs = OPS[op], inputs_of(op, requires_grad)
    with torch.no_grad():
        wanted = function(*inputs)
    got = WAYS[way](function, inputs)(*inputs)
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        raise AssertionError(f"{got.dtype} {tuple(got.shape)} came for {wanted.dtype} {tuple(wanted.shape)}")
    worst = float((got.detach().double() - wanted.double()).abs().max())
    if op == "overlay":
        if got.requires_grad:
            raise AssertionError("a picture requires grad")
        return worst
    if got.requires_grad != requires_grad:
        raise AssertionError(f"requires_grad is {got.requires_grad}")
    if requires_grad:
        leaves = [one.detach().double().requires_grad_() for one in inputs]
        slopes = torch.randn_like(got)
        exact = derivatives(function(*leaves), leaves, slopes.double())
        for one, other in zip(derivatives(got, inputs, slopes), exact, strict=True):
            worst = max(worst, float((one.double() - other).abs().max() / other.abs().max()))
    return worst


def main() -> None:
    wrong = 0
    for op in OPS:
        for way in WAYS:
            for requires_grad in (False, True):
                try:
                    worst = difference(way, op, requires_grad)
                    cell = f"pass ({worst:.1e})" if worst < 1e-5 else f"differs by {worst:.1e}"
                except Exception as error:
                    cell = f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
                wrong += not cell.startswith("pass")
                print(f"{op:8} {way:28} {'requires grad' if requires_grad else 'fresh':14} {cell}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
