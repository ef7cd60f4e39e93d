"""Explanations of PyTorch models: activations and gradients of a layer at about the cost of inference."""

from .capture import Plan
from .methods import GradCAM

__all__ = ["GradCAM", "Plan"]
