"""The methods that are rules, one class each, made from `fusedcam.METHODS`."""

import inspect

from ..methods import METHODS, Method
from .explainer import Explainer

__all__ = ["EXPLAINERS", "explainer_of"]


def _explainer(method: Method) -> type[Explainer]:
    rest = inspect.cleandoc(Explainer.__doc__ or "").partition("\n\n")[2]
    doc = (
        f"Explains a model's scores by {method.title} ({method.paper}).\n\n"
        f"The score of a pixel is {method.formula}, for {method.assumes}.\n\n{rest}"
    )
    return type(method.class_name, (Explainer,), {"__doc__": doc, "__module__": __name__, "method": method.name})


EXPLAINERS: dict[str, type[Explainer]] = {method.class_name: _explainer(method) for method in METHODS.values()}
"""By class name, as `fusedcam.torch` hands them out."""


def explainer_of(method: str) -> type[Explainer]:
    """The class of a method by its name in `fusedcam.METHODS`.

    Raises:
        ValueError: no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; accepted: {', '.join(METHODS)}")
    return EXPLAINERS[METHODS[method].class_name]
