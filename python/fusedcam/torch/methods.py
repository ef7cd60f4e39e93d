"""The methods that are rules, one class each, made from `fusedcam.METHODS`."""

import inspect

from ..methods import METHODS, Method
from .explainer import Explainer
from .rule import RuleExplainer
from .smooth_gradcam import SmoothGradCAMPlusPlus

__all__ = ["EXPLAINERS", "explainer_of"]


def _explainer(method: Method) -> type[Explainer]:
    if method.name == SmoothGradCAMPlusPlus.method:  # whose rule takes more than one gradient
        return SmoothGradCAMPlusPlus
    # What all have in common, then what rules have.
    rest, _, raises = inspect.cleandoc(Explainer.__doc__ or "").partition("\n\n")[2].partition("\n\nRaises:")
    own = inspect.cleandoc(RuleExplainer.__doc__ or "").partition("    weight_eps:")[2].partition("\n\nRaises:")[0]
    rest = f"{rest}\n    weight_eps:{own}\n\nRaises:{raises}"
    doc = (
        f"Explains a model's scores by {method.title} ({method.paper}).\n\n"
        f"The score of a pixel is {method.formula}, for {method.assumes}.\n\n{rest}"
    )
    return type(method.class_name, (RuleExplainer,), {"__doc__": doc, "__module__": __name__, "method": method.name})


EXPLAINERS: dict[str, type[Explainer]] = {method.class_name: _explainer(method) for method in METHODS.values()}
"""By class name, as `fusedcam.torch` hands them out."""

globals().update(EXPLAINERS)  # where pickles look for them


def explainer_of(method: str) -> type[Explainer]:
    """The class of a method by its name in `fusedcam.METHODS`.

    Raises:
        ValueError: no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; accepted: {', '.join(METHODS)}")
    return EXPLAINERS[METHODS[method].class_name]
