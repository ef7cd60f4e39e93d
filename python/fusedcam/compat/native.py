"""The native calls of this package, counted: a peer that is patched makes some, or the patch does nothing."""

from typing import Any

from .. import _native, functional

__all__ = ["cam", "count", "overlay_stretched", "resize"]

_calls = 0


def count() -> int:
    """How many there have been in this process."""
    return _calls


def cam(*args: Any, **options: Any) -> Any:
    global _calls
    _calls += 1
    return functional.cam(*args, **options)


def resize(*args: Any, **options: Any) -> Any:
    global _calls
    _calls += 1
    return functional.resize(*args, **options)


def overlay_stretched(image: Any, *args: Any) -> Any:
    global _calls
    _calls += 1
    return _native.overlay_stretched[image.dtype.name](image, *args)
