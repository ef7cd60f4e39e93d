"""Runs of a model without gradients: what one call of a layer returns, and what the model makes of other maps."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from .capture import Capture
from .outputs import describe, find_map, rebuilt, replaced, tensors
from .recording import Watch, watching
from .wrapped import uncompiled

__all__ = ["Keeper", "Rest", "Unfit", "place_of", "repeated"]


def place_of(capture: Capture, args: Any, kwargs: Any, n: int) -> tuple[nn.Module, int, str, bool]:
    """The layer that is meant, its call (below 0 from the last), its name, and whether a run had to find them."""
    if capture._layer is not None:
        return capture._layer, capture.call, capture._names[capture._layer], False
    shapes = tuple(value.shape for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    searched = shapes not in capture._last_maps
    if searched:
        capture._survey(args, kwargs, n)
    layer, call = capture._last_maps[shapes]
    return layer, call, capture._names[layer], searched


class Keeper(Watch):
    """Watches one layer during one run and keeps what its call `call` returned: from 0, or below 0 from the last."""

    def __init__(self, n: int, call: int):
        self.n, self.call, self.calls = n, call, 0
        self._kept: deque[Tensor | str] = deque(maxlen=max(1, -call))

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not self.acts:
            return
        call, self.calls = self.calls, self.calls + 1
        if self.call in (call, -1) or self.call < -1:
            activations = find_map(output, self.n)
            # A copy, since what follows may write to it.
            self._kept.append(describe(output) if activations is None else activations.detach().clone())

    @property
    def activations(self) -> Tensor | str:
        """Its map, or what came in place of one."""
        return self._kept[0]


class Replacer(Watch):
    """Puts other maps in the place of the one that a layer's call returns."""

    def __init__(self, rows: int, call: int, maps: Tensor):
        self.rows, self.call, self.maps, self.calls = rows, call, maps, 0
        self.done = False

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not self.acts:
            return None
        call, self.calls = self.calls, self.calls + 1
        if call != self.call:
            return None
        there = find_map(output, self.rows)
        if there is None:
            return None
        self.done = True
        return replaced(output, there, self.maps)


class Unfit(Exception):
    """What follows the layer cannot be run alone; the message says why."""


def repeated(value: Any, n: int, image: int | None, count: int) -> Any:
    """The arguments of a model for N images, where tensors [N, ...] are taken for a batch: M times these, or of one."""

    def more(tensor: Tensor) -> Tensor:
        if not tensor.ndim or tensor.shape[0] != n:
            return tensor
        own = tensor if image is None else tensor[image : image + 1]
        return own.repeat(count // own.shape[0], *[1] * (own.ndim - 1))

    return rebuilt(value, more)


class Rest:
    """What `model` computes from one call of a layer on.

    Modules that end before the call are run once, and return in later runs what they returned then, of one image and
    in as many rows as there are maps, which takes no memory. For that their `forward` is replaced while a run lasts,
    for the calling thread alone.

    Args:
        model, layer: the latter's output is replaced.
        call: which call of the layer, from 0.
        args, kwargs: the model's, for N images.
    """

    def __init__(self, model: nn.Module, layer: nn.Module, call: int, args: Any, kwargs: Any, n: int):
        self.model, self.layer, self.call, self.n = model, layer, call, n
        self.args, self.kwargs = args, kwargs
        self._tape: Tape | None = None

    def record(self) -> None:
        """Runs the model once, for what comes before the layer's call.

        Raises:
            Unfit: the layer does not run as before, or in inference mode.
        """
        tape = Tape(self.layer, self.call)
        with _taping(tape, _beside(self.model, self.layer)):
            self.model(*self.args, **self.kwargs)
        tape.close()
        self._tape = tape

    def alone(self, maps: Tensor, image: int | None) -> Any:
        """The model's output where the layer has returned `maps`, M of one image or one of each."""
        assert self._tape is not None
        before = self._tape.versions()
        self._tape.rewind(self.n, image, len(maps))
        args, kwargs = (self._expanded(value, image, len(maps)) for value in (self.args, self.kwargs))
        with _taping(self._tape, [*self._tape.modules]):
            output = self._run(args, kwargs, maps)
        if self._tape.versions() != before:
            raise Unfit("the model writes to what a layer before it returned")
        return output

    def whole(self, maps: Tensor, image: int | None) -> Any:
        """The same by running the whole model on as many images."""
        args, kwargs = (repeated(value, self.n, image, len(maps)) for value in (self.args, self.kwargs))
        return self._run(args, kwargs, maps)

    def _run(self, args: Any, kwargs: Any, maps: Tensor) -> Any:
        replacer = Replacer(len(maps), self.call, maps)
        with watching(replacer, [self.layer]):
            output = self.model(*args, **kwargs)
        if not replacer.done:
            raise Unfit("the layer did not run as before")
        return output

    def _expanded(self, value: Any, image: int | None, count: int) -> Any:
        return rebuilt(value, lambda tensor: _in_rows(tensor, self.n, image, count))


def _in_rows(tensor: Tensor, n: int, image: int | None, count: int) -> Tensor:
    """One image's row over and over, in the memory of one."""
    if not tensor.ndim or tensor.shape[0] != n or image is None:
        return tensor
    return tensor[image : image + 1].expand(count, *tensor.shape[1:])


def _beside(model: nn.Module, layer: nn.Module) -> list[nn.Module]:
    """The layer, and the modules that do not contain it."""
    return [module for module in model.modules() if module is layer or all(m is not layer for m in module.modules())]


class Tape:
    """What modules, the outermost ones, return until the layer's call, in their order; then the same again."""

    def __init__(self, layer: nn.Module, call: int):
        self.layer, self.call = layer, call
        self.modules: dict[nn.Module, list[Any]] = {}
        """The outputs of each one's calls."""
        self._seen: list[tuple[Tensor, Tensor, int]] = []
        """What the model went on with, its copy, and the former's version."""
        self._written: set[int] = set()
        """Of which copies the model writes to what it gets, by their ids."""
        self._recording, self._over, self._inside = True, False, False
        self._at: dict[nn.Module, int] = {}
        self._rows: tuple[int, int | None, int] = (0, None, 0)

    def __call__(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """In place of a module's forward."""
        if self._inside:
            return forward(*args, **kwargs)
        at = self._at[module] = self._at.get(module, -1) + 1
        if not self._recording:
            kept = self.modules[module]
            if at < len(kept):
                return rebuilt(kept[at], self._handed_out)
        elif not self._over:
            self._note_writes()
        self._inside = True
        try:
            output = forward(*args, **kwargs)
        finally:
            self._inside = False
        if self._recording and not self._over:
            # What a module changes in place it will not change again, since it will not run.
            self._seen = [(tensor, copy, tensor._version) for tensor, copy, _ in self._seen]
            self.modules.setdefault(module, []).append(rebuilt(output, self._copied))
            self._over = module is self.layer and at == self.call
        return output

    def _copied(self, tensor: Tensor) -> Tensor:
        if tensor.is_inference():
            raise Unfit("the model runs in inference mode")
        copy = tensor.detach().clone()
        self._seen.append((tensor, copy, tensor._version))
        return copy

    def _handed_out(self, copy: Tensor) -> Tensor:
        found = _in_rows(copy, *self._rows)
        return found.clone() if id(copy) in self._written else found

    def _note_writes(self) -> None:
        self._written |= {id(copy) for tensor, copy, version in self._seen if tensor._version != version}

    def close(self) -> None:
        """Ends the recording."""
        if not self._over:
            raise Unfit("the layer did not run as before")
        self._note_writes()
        self._recording, self._seen = False, []

    def rewind(self, n: int, image: int | None, rows: int) -> None:
        """To the start, for a run of so many rows of one image, or of one row of each."""
        self._at, self._inside, self._rows = {}, False, (n, image, rows)

    def versions(self) -> list[int]:
        """Of what is kept, by which writes to it show."""
        kept = (output for outputs in self.modules.values() for output in outputs)
        return [tensor._version for output in kept for tensor in tensors(output)]


_lock = threading.Lock()
_active = threading.local()
"""`.tape` is what stands in place of the modules' forward on this thread."""
_replaced: dict[nn.Module, tuple[int, Any]] = {}
"""How many runs have a module's forward replaced, and what the instance had under that name."""
_NOTHING = object()


@contextmanager
def _taping(tape: Tape, modules: list[nn.Module]) -> Iterator[None]:
    """Within the block the tape stands in place of those modules' forward, on this thread."""
    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        for module in modules:
            _replace(module)
            stack.callback(_give_back, module)
        outer, _active.tape = getattr(_active, "tape", None), tape
        stack.callback(setattr, _active, "tape", outer)
        yield


def _replace(module: nn.Module) -> None:
    with _lock:
        count, before = _replaced.get(module, (0, _NOTHING))
        if not count:
            before = module.__dict__.get("forward", _NOTHING)
            forward = module.forward

            def stand_in(*args: Any, **kwargs: Any) -> Any:
                tape = getattr(_active, "tape", None)
                if tape is None or (not tape._recording and module not in tape.modules):
                    return forward(*args, **kwargs)
                return tape(module, forward, args, kwargs)

            module.__dict__["forward"] = stand_in
        _replaced[module] = count + 1, before


def _give_back(module: nn.Module) -> None:
    with _lock:
        count, before = _replaced.pop(module)
        if count > 1:
            _replaced[module] = count - 1, before
        elif before is _NOTHING:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before
