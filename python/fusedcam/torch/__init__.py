"""Explanations of PyTorch models: activations and gradients of a layer at about the cost of inference."""

try:
    from .capture import Plan
    from .methods import GradCAM
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("fusedcam.torch needs PyTorch: pip install 'fusedcam[torch]'", name="torch") from error

__all__ = ["GradCAM", "Plan"]
