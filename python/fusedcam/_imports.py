"""What happens once somebody has imported a module."""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ["Finder", "imported", "when_imported"]


def imported(name: str) -> ModuleType | None:
    """The module if it is imported as a whole; one that is being imported now comes by a finder's way or not at all."""
    module = sys.modules.get(name)
    return None if module is None or getattr(module.__spec__, "_initializing", False) else module


def when_imported(name: str, then: Callable[[ModuleType], None]) -> None:
    """Calls `then` with the module, now or once it is there."""
    if module := imported(name):
        then(module)
    else:
        sys.meta_path.insert(0, Finder([name], then))


class Finder(MetaPathFinder):
    """Calls back when one of the modules has been imported."""

    def __init__(self, names: Iterable[str], then: Callable[[ModuleType], None]):
        self._names, self._then = frozenset(names), then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._names:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            _follow(spec.loader, self._then)
        return spec


def _follow(loader: Loader, then: Callable[[ModuleType], None]) -> None:
    execute = loader.exec_module

    def execute_and_tell(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        execute(module)
        then(module)

    loader.exec_module = partial(execute_and_tell, execute)  # type: ignore[method-assign]
