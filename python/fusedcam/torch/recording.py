"""Running a model so that the graph begins at a call of a layer, or of several: hooks, modes, and what disturbs them.

Up to that call nothing is recorded, so that the layers before it cost and hold what inference does. The call's output
is replaced by a clone of a new leaf; the graph behind the leaf is the network's head alone.
"""

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.checkpoint import CheckpointFunction

from .forms import IMAGES, Form
from .outputs import describe, detached, find_map, replaced, shares_memory
from .wrapped import uncompiled

__all__ = ["Disturber", "Record", "Recorder", "Survey", "Watch", "plain_checkpoints", "watching"]

_active = threading.local()
"""`.watch` is whose hooks act on this thread: others' and those of outer calls stand still."""

_lock = threading.Lock()
"""Held while hooks come and go: PyTorch hands out their keys without one."""


class Watch:
    """What hooks do during one run; they act only for the call, and on the thread, that put them there."""

    @property
    def acts(self) -> bool:
        return getattr(_active, "watch", None) is self

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """`inputs` are the positional arguments and those by name."""
        raise NotImplementedError

    def called(self, module: nn.Module, args: Any, *rest: Any) -> Any:
        """What PyTorch calls with arguments by name and the output. A thread that meets a hook while another thread
        registers it may not know yet that it takes the former."""
        return self.hook(module, (args, *rest[:-1]), rest[-1])


class Record:
    """What a recorder has of one layer."""

    def __init__(self, wanted: int | None):
        self.wanted = wanted
        self.calls = 0
        self.recorded: int | None = None
        """The call that is recorded, or would be if its output were a map."""
        self.leaf: Tensor | None = None
        """The layer's output; differentiated with respect to `edge`."""
        self.edge: Tensor | GradientEdge | None = None
        self.handed: Tensor | None = None
        """What the model went on with, on which it may have put hooks."""
        self.refused = ""
        """What the layer returned in place of a map."""
        self.version = 0
        self.replaced: Callable[[], Tensor | None] = lambda: None

    @property
    def overwritten(self) -> bool:
        """Whether something wrote to the layer's output through another name, such as a skip connection's."""
        return self.leaf is not None and self.leaf._version != self.version


class Recorder(Watch):
    """Watches layers during one run and starts the graph at the first of their calls `wanted`, counted from 0.

    Without a wanted call the first is recorded on the bet that it is the only one, as layers with parameters mostly
    have it; a second call drops all recording, since what comes before the last call shall not be held, and leaves a
    count to run again with. What a later layer returns is a part of the graph already.
    """

    def __init__(
        self,
        n: int,
        wanted: Mapping[nn.Module, int | None],
        form: Form = IMAGES,
        *,
        from_start: bool,
        copy: bool,
        whole: bool,
    ):
        self.n, self.form, self.from_start, self.copy, self.whole = n, form, from_start, copy, whole
        self.records = {layer: Record(call) for layer, call in wanted.items()}
        self.shared = False
        """A layer returned memory of its input, which the model may use by its other name: no leaf can replace it,
        and the graph has to lead through the layer as a `whole`."""
        self._begun = whole
        """Whether what a layer returns may be a part of the graph."""
        self._lost = False
        self._modes = ExitStack()

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not self.acts:
            return None
        record = self.records[module]
        call, record.calls = record.calls, record.calls + 1
        if self._lost:
            return None
        if call == (record.wanted or 0):
            record.recorded = call
            return self._record(record, inputs, output)
        if record.wanted is None and record.recorded is not None:
            torch.set_grad_enabled(self.from_start)
            self._lost = True
            for one in self.records.values():
                one.recorded, one.leaf, one.edge, one.handed = None, None, None, None
            return detached(output)
        return None

    def _record(self, record: Record, inputs: Any, output: Any) -> Any:
        activations = find_map(output, self.n, self.form, tokens=True)
        if activations is None:
            record.refused = describe(output)
            return None
        if self.shared:
            return None
        inside = self._begun and activations.requires_grad
        if not inside and not self.whole and shares_memory(inputs, activations):
            self.shared = True
            return None
        if torch.is_inference_mode_enabled():
            # The model's own inference_mode, which hides grad mode. Closed at the run's end, after that has ended.
            self._modes.enter_context(torch.inference_mode(False))
        torch.set_grad_enabled(True)
        self._begun = True
        leaf = activations.detach()
        if self.copy or leaf.is_inference():
            leaf = leaf.clone()
        record.version = leaf._version
        if inside:
            record.leaf, record.edge, record.handed = leaf, get_gradient_edge(activations), activations
            return None
        if not self.whole:
            record.replaced = weakref.ref(activations)
        record.leaf = record.edge = leaf.requires_grad_()
        # A clone, so that an in-place operation after the layer changes neither the leaf nor its right to be one.
        record.handed = leaf.clone()
        return replaced(output, activations, record.handed)

    def close(self) -> bool:
        """Ends the run; whether recording was still on."""
        still_on = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        self._modes.close()
        return still_on

    @property
    def elsewhere(self) -> bool:
        """Whether somebody has kept what a layer itself returned, by which the model may have gone on."""
        return any(record.replaced() is not None for record in self.records.values())


class Survey(Watch):
    """Watches all layers during one run and remembers the last call that returned a map of more than one pixel."""

    def __init__(self, n: int, form: Form = IMAGES):
        self.n, self.form = n, form
        self.calls: dict[nn.Module, int] = {}
        self.last: tuple[nn.Module, int] | None = None
        """The layer and which of its calls, from 0."""

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not self.acts:
            return
        call = self.calls.get(module, 0)
        self.calls[module] = call + 1
        activations = find_map(output, self.n, self.form)
        if activations is not None and self.form.pixels(activations) > 1:
            self.last = module, call


class Disturber(Watch):
    """Changes the map that one call of a layer returns, beyond recognition; None changes nothing. Tokens that are
    `skipped` are no part of the map."""

    def __init__(self, n: int, call: int | None, form: Form = IMAGES, skipped: int = 0):
        self.n, self.call, self.form, self.skipped = n, call, form, skipped
        self.calls = 0

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not self.acts:
            return None
        call, self.calls = self.calls, self.calls + 1
        if call != self.call:
            return None
        activations = find_map(output, self.n, self.form, tokens=True)
        if activations is None:
            return None
        # From a generator of its own: the caller's random numbers stay as they are. Large, so that ReLUs come alive.
        source = torch.Generator().manual_seed(call)
        channels = self.form.channel_axis(activations, self.n)
        mean = [size if axis in (0, channels) else 1 for axis, size in enumerate(activations.shape)]
        # What each channel gets as a whole stays where a head takes the mean, which noise alone would vanish from.
        each, lift = (torch.randn(shape, generator=source, device="cpu") for shape in (activations.shape, mean))
        noise = (each + lift).to(activations)
        noise[:, : self.skipped] = 0
        return replaced(output, activations, activations + noise * (10 * activations.abs().amax() + 10))


@contextmanager
def watching(watch: Watch, layers: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block the hooks of `watch` are on `layers` and act, on this thread, for compiled layers too."""
    outer = getattr(_active, "watch", None)
    handles = []
    try:
        with _lock:
            for layer in layers:
                handles.append(layer.register_forward_hook(watch.called, with_kwargs=True))
        _active.watch = watch
        with uncompiled():
            yield
    finally:
        _active.watch = outer
        with _lock:
            for handle in handles:
                handle.remove()


_plain_threads: dict[int, int] = {}


@contextmanager
def plain_checkpoints() -> Iterator[None]:
    """Within the block, reentrant checkpoints on this thread call their function as it is.

    They run it unrecorded and differentiate it in a graph of their own, which `autograd.grad` refuses to enter. PyTorch
    has no switch for that, so their entry is replaced, for all threads, by one that asks which thread calls.
    """
    thread = threading.get_ident()
    with _lock:
        _plain_threads[thread] = _plain_threads.get(thread, 0) + 1
        CheckpointFunction.apply = _apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        with _lock:
            _plain_threads[thread] -= 1
            if not _plain_threads[thread]:
                del _plain_threads[thread]
            if not _plain_threads:
                del CheckpointFunction.apply  # what it inherits shows again


def _apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
    if threading.get_ident() in _plain_threads:
        return function(*args)
    inherited: Callable[..., Any] = super(CheckpointFunction, CheckpointFunction).apply
    return inherited(function, preserve_rng_state, *args)
