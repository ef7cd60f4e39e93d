"""The model's own state around an explanation: its modes, buffers and random numbers, what in it stops recording."""

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .outputs import are_probabilities

__all__ = [
    "evaluating",
    "explain_failure",
    "forward_hooks",
    "unchanged_buffers",
    "warn",
    "warn_of_probabilities",
    "warn_of_training",
]

_GLOBAL = (torch.nn.modules.module._global_forward_hooks, torch.nn.modules.module._global_forward_pre_hooks)

_lock = threading.RLock()
"""Two threads that switch one model's flags at a time would each restore what the other has set."""


def forward_hooks(model: nn.Module) -> list[int]:
    """Which hooks run with the model, numbers that no two of them share, and in which mode."""
    found = [number for hooks in _GLOBAL for number in hooks]
    waiting, seen = [model], {model}
    while waiting:  # as Module.modules() goes, which takes five times as long for its names
        module = waiting.pop()
        if module._forward_hooks or module._forward_pre_hooks:
            found += [*module._forward_hooks, *module._forward_pre_hooks, module.training]
        new = [one for one in module._modules.values() if one is not None and one not in seen]
        seen.update(new)
        waiting += new
    return found


@contextmanager
def evaluating(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Where wanted, every module is in evaluation mode within the block; then flags, buffers and random state are back.

    The flags are set without `Module.eval()`, which a module may override to do more than that.
    """
    if not wanted:
        yield
        return
    with _lock:
        modes = [(module, module.training) for module in model.modules()]
        buffers = _snapshot(model)
        devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
        with torch.random.fork_rng(devices):
            try:
                for module, _ in modes:
                    module.training = False
                yield
            finally:
                for module, training in modes:
                    module.training = training
                _restore(buffers)


@contextmanager
def unchanged_buffers(model: nn.Module, on: type[Exception]) -> Iterator[None]:
    """A block that ends in `on`, to be run again, leaves no trace in buffers such as running statistics, which would
    else move twice. Nor does any block leave a graph behind in what the model writes to."""
    modules = [*model.modules()]  # walked once, at every call; `Module.buffers` would walk them again
    every = [buffer for module in modules for buffer in module._buffers.values() if buffer is not None]
    graphless = [buffer for buffer in every if buffer.grad_fn is None]
    computed = [(module, name) for module, name in _computed_weights(modules) if getattr(module, name).grad_fn is None]
    buffers = _snapshot(model) if any(module.training for module in modules) else []
    try:
        yield
    except on:
        _restore(buffers)
        raise
    finally:
        for buffer in graphless:
            if buffer.grad_fn is not None:
                buffer.detach_()
        for module, name in computed:
            setattr(module, name, getattr(module, name).detach())


def _computed_weights(modules: list[nn.Module]) -> Iterator[tuple[nn.Module, str]]:
    """Those that `torch.nn.utils.weight_norm` and `spectral_norm` compute before a forward and leave as attributes."""
    for module in modules:
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm | SpectralNorm):
                yield module, hook.name


Snapshot = list[tuple[dict[str, Tensor | None], str, Tensor, Tensor]]


def _snapshot(model: nn.Module) -> Snapshot:
    """Every buffer: its owner, name, itself and its values."""
    return [
        (module._buffers, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def _restore(buffers: Snapshot) -> None:
    for owner, name, buffer, before in buffers:
        owner[name] = buffer
        # A write, of the same values even, would spoil graphs that have saved the buffer; and PyTorch's batch norm, for
        # one, changes its statistics without counting that as a write.
        if torch.equal(buffer, before):
            continue
        with torch.no_grad(), torch.inference_mode(buffer.is_inference()):
            buffer.copy_(before)


def warn(message: str) -> None:
    """At the line that called this package."""
    level, frame = 1, sys._getframe()
    while (outer := frame.f_back) and str(frame.f_globals.get("__name__")).startswith(("fusedcam.", "torch._dynamo.")):
        level, frame = level + 1, outer
    warnings.warn(message, stacklevel=level)


def warn_of_training(model: nn.Module) -> bool:
    """Warn, and say that one did, if `model` is in training mode."""
    if not any(module.training for module in model.modules()):
        return False
    warn(
        "the model is in training mode: batch statistics mix the scores of a batch's images and dropout is at work; "
        "call model.eval() or pass eval=True to explain it as it predicts"
    )
    return True


def warn_of_probabilities(output: object) -> None:
    """Warn if the rows of `output` [N, classes] look like probabilities."""
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < 2 or not output.is_floating_point():
        return
    if len(output) and are_probabilities(output):
        warn(
            "the rows of the model's output sum to 1, as a softmax's do; Grad-CAM differentiates the score before the "
            "softmax, whose gradient vanishes where the model is sure"
        )


def explain_failure(model: nn.Module, error: RuntimeError) -> NoReturn:
    """Raise in place of `error` one that says what to do, where that is known."""
    text = str(error)
    if "cudnn RNN backward can only be called in training mode" in text:
        raise RuntimeError(
            "cuDNN cannot differentiate its recurrent layers in evaluation mode; run the call under "
            "torch.backends.cudnn.flags(enabled=False)"
        ) from error
    if "Inference tensors cannot be saved for backward" in text:
        states = [*model.named_parameters(), *model.named_buffers()]
        names = [name for name, tensor in states if tensor.is_inference()]
        what = f"{', '.join(names[:3])} of the model" if names else "a tensor that the model uses"
        raise RuntimeError(
            f"{what} was created in inference mode, which autograd cannot record; create it outside of "
            "torch.inference_mode()"
        ) from error
    raise error
