"""Grad-CAM's post-processing as one fused native call: activations and gradients in, heatmap or overlay out.

Public names load on first use; importing the package imports neither a framework nor an image library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._imports import when_imported

if TYPE_CHECKING:
    from ._native import __version__, info, set_num_threads
    from .compat import patch, patch_status, patched, unpatch
    from .functional import cam, colorize, eigencam, mask, overlay, resize
    from .methods import METHODS

__all__ = [
    "METHODS",
    "__version__",
    "cam",
    "colorize",
    "eigencam",
    "info",
    "mask",
    "overlay",
    "patch",
    "patch_status",
    "patched",
    "resize",
    "set_num_threads",
    "unpatch",
]

_HOME = {
    "METHODS": ".methods",
    "__version__": "._native",
    "cam": ".functional",
    "colorize": ".functional",
    "eigencam": ".functional",
    "info": "._native",
    "mask": ".functional",
    "overlay": ".functional",
    "patch": ".compat",
    "patch_status": ".compat",
    "patched": ".compat",
    "resize": ".functional",
    "set_num_threads": "._native",
    "unpatch": ".compat",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fusedcam' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)  # not what is imported above, and what has been used looks no different


def _tell_compiler(compiler: object) -> None:
    """torch.compile and torch.export ask what stands for native functions; who uses neither does not import this."""
    import_module(".torch.compiling", __name__).register()


when_imported("torch._dynamo", _tell_compiler)
