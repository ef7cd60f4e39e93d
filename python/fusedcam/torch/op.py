"""cam, resize, colorize and overlay of tensors that native kernels do not compute with as they are.

The native call hands over what requires grad, is traced, or stands for other tensors: `Cam` and `Resize` differentiate
the first, the operators of library.py stand in graphs, and what torch.func differentiates goes by formulas.
"""

from typing import Any

import torch
from torch import Tensor

from .. import _native
from . import formulas, library
from .checking import check_cam, check_resize, check_size, check_tensors
from .differentiating import Cam, Resize, has_memory
from .formulas import Options
from .fused import FUSED

__all__ = ["cam", "colorize", "overlay", "resize"]


def cam(
    activations: Any,
    gradients: Any = None,
    *,
    weights: Any = None,
    method: str = "gradcam",
    size: Any = None,
    relu: bool = True,
    normalize: str | None = "minmax",
    nan: str = "propagate",
    spatial: int = 2,
    layout: str = "first",
    eps: float = 0.0,
    weight_eps: float = 0.0,
    tokens: Any = None,
    fuse: str = "mean",
    out: Any = None,
) -> Tensor:
    """`fusedcam.cam`, whose docstring tells of the arguments."""
    if (gradients is None) == (weights is None):
        raise TypeError("cam: pass exactly one of gradients and weights")
    second = gradients if weights is None else weights
    if not _any_tensor(activations, second):  # size or tokens alone is traced
        own = {"size": _numbers(size), "tokens": _numbers(tokens), "out": out, "weight_eps": weight_eps}
        own |= {"relu": relu, "normalize": normalize, "nan": nan, "spatial": spatial, "eps": eps}
        own |= {"fuse": fuse} if isinstance(activations, list | tuple) else {}
        own |= {"layout": layout} if tokens is None else {}
        return _native.cam(activations, gradients, weights=weights, method=method, **own)  # type: ignore[no-any-return]
    options = Options(
        weights is not None,
        method,
        _extents(size, spatial),
        relu,
        normalize,
        nan,
        spatial,
        layout,
        float(eps),
        float(weight_eps),
        _extents(tokens, 2),
    )
    if isinstance(activations, list | tuple):
        return _into("cam", out, _several(list(activations), list(second), options, fuse))
    return _into("cam", out, _cam(activations, second, options))


def _cam(activations: Tensor, second: Tensor, options: Options) -> Tensor:
    check_tensors("cam", activations=activations, **{"weights" if options.by_weights else "gradients": second})
    check_size("cam", options.size, options.spatial)
    way = _way(activations, second)
    if way == "operator":
        return _operator(torch.ops.fusedcam.cam, (activations, second), *options)
    if way == "formula":
        check_cam(activations, second, options)
        if options.nan == "raise":
            raise ValueError("cam: nan is 'raise' under torch.func; accepted there: 'propagate', 'zero'")
        return formulas.cam(activations, second, options)
    # Symbols, where they and not the tensors are traced.
    options = options._replace(size=_numbers(options.size), tokens=_numbers(options.tokens))
    return Cam.apply(activations, second, options)  # type: ignore[no-any-return,no-untyped-call]


def _several(activations: list[Tensor], seconds: list[Tensor], options: Options, fuse: str) -> Tensor:
    """Of several layers: each one's finished map at its own resolution, resampled, fused and finished again."""
    if len(activations) != len(seconds) or not activations:
        raise ValueError(
            f"cam: activations are a list of {len(activations)} and the other one of {len(seconds)}; "
            "accepted are as many of both, at least 1"
        )
    if fuse not in FUSED:
        raise ValueError(f"cam: fuse is {fuse!r}; accepted: {', '.join(map(repr, FUSED))}")
    own = options._replace(size=None)
    maps = [_cam(a, g, own) for a, g in zip(activations, seconds, strict=True)]
    for i, (one, a) in enumerate(zip(maps, activations, strict=True)):
        leading, first = one.shape[: -options.spatial], maps[0].shape[: -options.spatial]
        if leading != first:
            raise ValueError(
                f"cam: layer {i}: maps of {tuple(leading)} images and classes where layer 0 has {tuple(first)}; "
                "accepted are as many of every layer"
            )
        if a.dtype != activations[0].dtype:
            raise TypeError(
                f"cam: dtype of activations[0] is {activations[0].dtype} and of activations[{i}] {a.dtype}; "
                "pass all of one dtype"
            )
    size = options.size
    if size is None:
        size = tuple(max(extents) for extents in zip(*(one.shape[-options.spatial :] for one in maps), strict=True))
    total = _resize(maps[0], size, None, 0.0)
    for one in maps[1:]:
        total = FUSED[fuse](total, _resize(one, size, None, 0.0))
    total = total / len(maps) if fuse == "mean" else total
    return total if options.normalize is None else _resize(total, size, options.normalize, options.eps)


def resize(heatmap: Tensor, size: Any, *, normalize: str | None = None, eps: float = 0.0, out: Any = None) -> Tensor:
    """`fusedcam.resize`, whose docstring tells of the arguments."""
    if not _any_tensor(heatmap):
        return _native.resize(heatmap, _numbers(size), normalize=normalize, eps=eps, out=out)  # type: ignore[no-any-return]
    extents = _extents(size, 2)
    if extents is None:
        raise TypeError(f"resize: size is {size!r}; accepted is an int or (height, width)")
    return _into("resize", out, _resize(heatmap, extents, normalize, float(eps)))


def _resize(heatmap: Tensor, size: tuple[int, ...], normalize: str | None, eps: float) -> Tensor:
    way = _way(heatmap)
    if way == "operator":
        return _operator(torch.ops.fusedcam.resize, (heatmap,), size, normalize, eps)
    if way == "formula":
        check_resize(heatmap, size, normalize, eps)
        return formulas.resize(heatmap, size, normalize, eps)
    return Resize.apply(heatmap, tuple(map(int, size)), normalize, eps)  # type: ignore[no-any-return,no-untyped-call]


def colorize(heatmap: Tensor, table: Any, size: Any, normalize: str | None, out: Any) -> Tensor:
    """The native function, by its positions. Pictures are integers, which have no derivative."""
    if not _any_tensor(heatmap):
        return _native.colorize(heatmap, table, _numbers(size), normalize, out)  # type: ignore[no-any-return]
    extents = _extents(size, 2)
    given = library.named(table), extents, normalize
    return _into("colorize", out, _operator(torch.ops.fusedcam.colorize, (heatmap.detach(),), *given))


def overlay(image: Tensor, heatmap: Tensor, table: Any, alpha: float, normalize: str | None, out: Any) -> Tensor:
    """The same."""
    check_tensors("overlay", image=image, heatmap=heatmap)
    given = library.named(table), float(alpha), normalize
    return _into("overlay", out, _operator(torch.ops.fusedcam.overlay, (image.detach(), heatmap.detach()), *given))


def _operator(operator: Any, tensors: tuple[Tensor, ...], *given: Any) -> Tensor:
    try:
        result: Tensor = operator(*tensors, *given)
    except NotImplementedError as error:
        kinds = " and ".join(type(tensor).__name__ for tensor in tensors)
        raise TypeError(
            f"{error} is not known to the dispatch of {kinds}; pass the plain tensors they stand for"
        ) from error
    return result


def _extents(given: Any, spatial: int) -> tuple[int, ...] | None:
    if given is None or isinstance(given, list | tuple):
        return None if given is None else tuple(given)
    return (given,) * spatial


def _any_tensor(*given: Any) -> bool:
    return any(_any_tensor(*one) if isinstance(one, list | tuple) else isinstance(one, Tensor) for one in given)


def _numbers(extents: Any) -> Any:
    """What traced extents are in this run."""
    if isinstance(extents, list | tuple):
        return tuple(map(_numbers, extents))
    return int(extents) if isinstance(extents, torch.SymInt) else extents


def _into(op: str, out: Any, result: Tensor) -> Tensor:
    if out is None:
        return result
    if not isinstance(out, Tensor):
        raise TypeError(f"{op}: the input is a Tensor but out is a {type(out).__name__}; pass both from one framework")
    if (out.shape, out.dtype) != (result.shape, result.dtype):
        raise ValueError(
            f"{op}: out is {out.dtype} of shape {tuple(out.shape)}; accepted is {result.dtype} of shape "
            f"{tuple(result.shape)}"
        )
    for name, tensor in (("an input", result), ("out", out)):
        if tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{op}: out is given, and {name} requires grad; accepted are tensors that do not, or no out"
            )
    out.copy_(result)
    return out


def _way(*tensors: Tensor) -> str:
    """Who computes: "function", autograd's; "operator", torch.library's; "formula"."""
    if _differentiated():  # compiled or not: torch.func differentiates no operator
        return "formula"
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return "operator"
    return "function" if all(map(has_memory, tensors)) else "operator"


def _differentiated() -> bool:
    """Whether torch.func differentiates what runs now, and does not only map it."""
    if not torch._C._are_functorch_transforms_active():
        return False
    functorch = torch._C._functorch
    stack = functorch.get_interpreter_stack() or []
    return any(one.key() != functorch.TransformType.Vmap for one in stack)


_differentiated._dynamo_marked_constant = True  # type: ignore[attr-defined]
"""What `torch.compiler.assume_constant_result` sets, without its import of the compiler, which takes a second. Dynamo
guards the transforms itself."""
