"""The native calls of this package, counted: a peer that is patched makes some, or the patch does nothing."""

from typing import Any

from .. import _native, functional

__all__ = ["cam", "count", "heat", "overlay_stretched", "products", "resize"]

_calls = 0


def count() -> int:
    """How many there have been in this process."""
    return _calls


def cam(*args: Any, **options: Any) -> Any:
    global _calls
    _calls += 1
    return functional.cam(*args, **options)


def heat(activations: Any, gradients: Any = None, weights: Any = None, **options: Any) -> Any:
    """`cam` of layers [N, C, *S] of any dimension, which pool and add up alike: [N, *S]."""
    if activations.ndim == 4:
        return cam(activations, gradients, weights=weights, **options)
    flat = (None if one is None else one.reshape(*one.shape[:2], -1, one.shape[-1]) for one in (activations, gradients))
    return cam(*flat, weights=weights, **options).reshape(activations.shape[0], *activations.shape[2:])


def products(activations: Any, gradients: Any = None, weights: Any = None, **rule: Any) -> Any:
    """What each channel adds to the map, [N, C, *S]: its own map when it is alone."""
    alone = activations.reshape(-1, 1, *activations.shape[2:])
    if gradients is not None:
        gradients = gradients.reshape(alone.shape)
    if weights is not None:
        weights = weights.reshape(-1, 1)
    maps = heat(alone, gradients, weights, **rule, normalize=None, relu=False)
    return maps.reshape(activations.shape)


def resize(*args: Any, **options: Any) -> Any:
    global _calls
    _calls += 1
    return functional.resize(*args, **options)


def overlay_stretched(image: Any, *args: Any) -> Any:
    global _calls
    _calls += 1
    return _native.overlay_stretched[image.dtype.name](image, *args)
