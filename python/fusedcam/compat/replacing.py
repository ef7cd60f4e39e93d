"""Puts our functions in the place of a peer's, in every module that has them, now or once it is imported, and back."""

import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from .._imports import Finder, imported

__all__ = ["Replacement", "Replacer", "fingerprint"]


class Replacement(NamedTuple):
    """One function or method of a peer's."""

    module: str
    name: str
    """Within the module, dotted for a method."""
    make: Callable[[Any], Any]
    """From the original to what takes its place."""
    sources: tuple[str, ...]
    """Fingerprints of the originals that it is known to equal."""


def fingerprint(function: Any) -> str:
    """Of a function's source, whatever its spaces."""
    source = inspect.getsource(inspect.unwrap(getattr(function, "__func__", function)))
    return hashlib.sha256("".join(source.split()).encode()).hexdigest()[:16]


class Replacer:
    """The replacements of one peer.

    Args:
        known: whether the peer's version is one that the replacements were written for. Of another one, those are made
            whose original's source is the same.
    """

    def __init__(self, replacements: Sequence[Replacement], *, known: bool):
        self._replacements, self._known = replacements, known
        self._undo: list[tuple[Any, str, Any, Any]] = []
        self._finder = Finder({one.module for one in replacements}, self._imported)
        self.replaced: list[str] = []
        self.left: dict[str, str] = {}
        """What was not replaced, and why."""

    def start(self) -> None:
        sys.meta_path.insert(0, self._finder)
        modules = (imported(name) for name in dict.fromkeys(one.module for one in self._replacements))
        self._imported(*filter(None, modules))

    def stop(self) -> None:
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        functions = []
        for owner, name, original, new in reversed(self._undo):
            if isinstance(owner, ModuleType):
                functions.append((new, original))
            elif vars(owner).get(name) is new:
                setattr(owner, name, original)
        _rebind(functions)
        self._undo.clear()
        self.replaced.clear()
        self.left.clear()

    @property
    def waiting(self) -> list[str]:
        """Modules that are not imported yet."""
        done = {*self.replaced, *self.left}
        return sorted({one.module for one in self._replacements if f"{one.module}.{one.name}" not in done})

    def _imported(self, *modules: ModuleType) -> None:
        functions: list[tuple[Any, Any]] = []
        for module in modules:
            for one in self._replacements:
                if one.module == module.__name__:
                    reason = self._replace(module, one, functions)
                    title = f"{one.module}.{one.name}"
                    if reason:
                        self.left[title] = reason
                    elif title not in self.replaced:
                        self.replaced.append(title)
        _rebind(functions)

    def _replace(self, module: ModuleType, one: Replacement, functions: list[tuple[Any, Any]]) -> str | None:
        """Why not, where it was not replaced. A module's function is put down in `functions`, with its replacement."""
        *path, name = one.name.split(".")
        owner: Any = module
        for step in path:
            owner = getattr(owner, step, None)
        original = getattr(owner, "__dict__", {}).get(name)
        if original is None:
            return "this version has nothing of that name"
        function = getattr(original, "__func__", original)
        if not str(getattr(function, "__module__", "")).startswith(module.__name__.partition(".")[0]):
            return "it has been replaced by someone else"
        if not self._known:
            try:
                if fingerprint(original) not in one.sources:
                    return "this version has other code, whose numbers are not known"
            except (OSError, TypeError):
                return "its source cannot be read, so its numbers are not known"
        new = one.make(original)
        self._undo.append((owner, name, original, new))
        if isinstance(owner, ModuleType):
            functions.append((original, new))
        else:
            setattr(owner, name, new)
        return None


def _rebind(functions: Sequence[tuple[Any, Any]]) -> None:
    """Each first one becomes its second in every module, whatever the name: `from x import y` has copied it."""
    if not functions:
        return
    instead = {id(old): new for old, new in functions}  # they are alive, so that nothing else has their numbers
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            items = list(vars(module).items())
            if not instead.keys().isdisjoint([id(value) for _, value in items]):
                for name, value in items:
                    if id(value) in instead:
                        setattr(module, name, instead[id(value)])
