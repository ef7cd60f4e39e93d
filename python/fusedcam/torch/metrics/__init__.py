"""Measures of heatmaps: whether the model relies on what a map shows, and whether the map shows the object.

Functions over tensors: images [N, C, H, W], heatmaps [N, H, W] of the same size, and a model that is called with
images. Every result is a tensor with a value per image, on the images' device. Heatmaps [N, K, H, W] of K classes per
image, as explainers return them for targets [N, K], give [N, K]. The model runs without recording.

    heat = GradCAM(model)(images, targets=classes)
    deletion(model, images, heat, classes).area.mean()
"""

from .confidence import ConfidenceChange, confidence_change
from .imputation import linear_imputation
from .localisation import energy_pointing_game, grid_pointing_game, mosaic, pointing_game
from .removal import deletion, gaussian_blur, insertion
from .removing_and_debiasing import road
from .scoring import Curve

__all__ = [
    "ConfidenceChange",
    "Curve",
    "confidence_change",
    "deletion",
    "energy_pointing_game",
    "gaussian_blur",
    "grid_pointing_game",
    "insertion",
    "linear_imputation",
    "mosaic",
    "pointing_game",
    "road",
]
