"""Models in wrappers, and code in which no hook runs: compiled, scripted, exported."""

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["averaging", "check_visible", "has_graph", "inside", "plain_name", "shells", "uncompiled", "unseen"]

_ELSEWHERE = (
    "explain the model that it was made of, or hand a layer's activations and gradients to fusedcam.cam, as "
    "docs/models.md shows"
)
_PREFIXES = re.compile(r"^(module\.)+|(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(\.|$)")
_COMPILED = re.compile(r"(?<![^.])_orig_mod(\.|$)")

_eager = threading.local()
"""`.depth`: how many blocks on this thread run compiled code as it was before."""
_lock = threading.Lock()
_running = 0
"""How many such blocks there are on all threads."""


class _Stance:
    """The compiler's stance: on threads that ask for it "force_eager", on all others what it is."""

    def __init__(self, outer: Any):
        self.outer = outer

    @property
    def stance(self) -> str:
        own: str = "force_eager" if getattr(_eager, "depth", 0) else self.outer.stance
        return own

    def __getattr__(self, name: str) -> Any:
        return getattr(self.outer, name)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Within the block, compiled code on this thread runs as the Python that it was made of, where hooks run.

    `torch.compiler.set_stance` would do that for all threads at once, so the compiler's stance is replaced by one that
    asks which thread calls. What has been compiled is kept.
    """
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    if compiler is None:  # nothing can have been compiled, and importing it takes a second
        yield
        return
    global _running
    with _lock:
        _running += 1
        if not isinstance(compiler._stance, _Stance):
            compiler._stance = _Stance(compiler._stance)  # type: ignore[attr-defined]
    _eager.depth = getattr(_eager, "depth", 0) + 1
    try:
        yield
    finally:
        _eager.depth -= 1
        with _lock:
            _running -= 1
            if not _running and isinstance(compiler._stance, _Stance):  # else somebody has set another meanwhile
                compiler._stance = compiler._stance.outer  # type: ignore[attr-defined]


def inside(model: nn.Module) -> nn.Module:
    """What DataParallel and DistributedDataParallel wrap. A run of the latter waits for the other processes where the
    model has buffers, and the former's copies of a layer are none that one could watch."""
    for shell in shells(model):
        if isinstance(shell, nn.DataParallel | nn.parallel.DistributedDataParallel):
            return inside(shell.module)
    return model


def averaging(model: nn.Module) -> nn.Module:
    """What has to run for a backward that averages the parameters' gradients over all processes, where the model is
    wrapped by DistributedDataParallel; what `inside` finds where it is not."""
    ddp = nn.parallel.DistributedDataParallel
    return next((shell for shell in shells(model) if isinstance(shell, ddp)), inside(model))


def shells(model: nn.Module) -> list[nn.Module]:
    """The model, and what was compiled if it is a compiled one: names for the same."""
    found = [model]
    while (within := dict(found[-1].named_children()).get("_orig_mod")) is not None:
        found.append(within)
    return found


def plain_name(name: str, *, every: bool = False) -> str:
    """A layer's dotted name as it was before the model was compiled; `every`: before it was wrapped otherwise, too."""
    return (_PREFIXES if every else _COMPILED).sub("", name).removesuffix(".")


def check_visible(model: nn.Module, layer: nn.Module | None, argument: str) -> None:
    """Refuse a layer in a scripted part of the model, or a search (None) where there are such parts.

    Raises:
        RuntimeError: naming what to do instead.
    """
    scripted = [module for module in model.modules() if isinstance(module, torch.jit.ScriptModule)]
    if not scripted:
        return
    if layer is None:
        names = {module: name for name, module in model.named_modules()}
        part = f"{names[scripted[0]]!r} in the model" if names[scripted[0]] else "the model"
        raise RuntimeError(
            f"{argument} is None, which looks at every layer, but {part} was scripted or traced before; name a layer "
            f"outside of it, such as an nn.Identity behind it, or {_ELSEWHERE}"
        )
    hidden = isinstance(layer, torch.jit.RecursiveScriptModule) or any(  # type: ignore[attr-defined]
        layer is not one and any(layer is module for module in one.modules()) for one in scripted
    )
    if hidden:
        raise RuntimeError(
            f"{argument} is in a part of the model that was scripted or traced before, where no hook runs; name an "
            f"nn.Identity behind that part, or {_ELSEWHERE}"
        )


def has_graph(model: nn.Module) -> bool:
    """Whether a part of the model is a graph of operations, as of `torch.export`."""
    return any(isinstance(module, torch.fx.GraphModule) for module in model.modules())


def unseen(model: nn.Module) -> str:
    """Why a layer's hooks may not have run, and what to do about it."""
    if has_graph(model):
        return (
            "a part of the model is a graph, such as torch.export makes, in which modules are not called; explain "
            f"torch.export.unflatten(program) in place of program.module(), {_ELSEWHERE}"
        )
    return (
        "the model calls the layer's .forward() directly, runs it on another thread or in code that was compiled ahead "
        "of time, or does not use it for this input"
    )
