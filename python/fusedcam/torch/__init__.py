"""Explanations of PyTorch models: activations and gradients of a layer at about the cost of inference."""

try:
    from .ablationcam import AblationCAM
    from .capture import Plan
    from .explainer import Explainer
    from .methods import EXPLAINERS
    from .scorecam import ISCAM, SSCAM, ScoreCAM
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("fusedcam.torch needs PyTorch: pip install 'fusedcam[torch]'", name="torch") from error

__all__ = ["ISCAM", "SSCAM", "AblationCAM", "Explainer", "Plan", "ScoreCAM", *EXPLAINERS]

globals().update(EXPLAINERS)


def __getattr__(name: str) -> type[Explainer]:
    """For type checkers, which do not see the classes that are made from a table."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
