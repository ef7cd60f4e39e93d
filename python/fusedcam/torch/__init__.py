"""Explanations of PyTorch models: activations and gradients of a layer at about the cost of inference."""

try:
    from .ablationcam import AblationCAM
    from .capture import Plan
    from .classifier import CAM
    from .decomposition import KPCACAM, DeepFeatureFactorization, Factorization
    from .eigen import EigenCAM, EigenGradCAM, SegEigenCAM
    from .explainer import Explainer
    from .fem import FEM
    from .finer import FinerCAM, FinerScore
    from .fullgrad import FullGrad, FullGradients
    from .guided import Deconvnet, GuidedBackprop, GuidedGradCAM
    from .legrad import LeGrad
    from .methods import EXPLAINERS
    from .refine import RefineCAM
    from .scorecam import ISCAM, SSCAM, ScoreCAM
    from .sess import SESS
    from .shapley import ShapleyCAM
    from .smoothing import Moments, Smoothed, noisy_moments
    from .tasks import (
        BinaryScore,
        ClassScore,
        DenseDetections,
        DetectionScore,
        MarginScore,
        PartScore,
        RegressionScore,
        SegmentationScore,
        SequenceScore,
        SimilarityScore,
    )
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("fusedcam.torch needs PyTorch: pip install 'fusedcam[torch]'", name="torch") from error

__all__ = [
    "CAM",
    "FEM",
    "KPCACAM",
    "DeepFeatureFactorization",
    "EigenCAM",
    "EigenGradCAM",
    "Explainer",
    "Factorization",
    "Plan",
    "SegEigenCAM",
    "SESS",
    "Deconvnet",
    "FinerCAM",
    "FinerScore",
    "FullGrad",
    "FullGradients",
    "GuidedBackprop",
    "GuidedGradCAM",
    "LeGrad",
    "Moments",
    "RefineCAM",
    "ShapleyCAM",
    "Smoothed",
    "noisy_moments",
    "ISCAM",
    "SSCAM",
    "AblationCAM",
    "ScoreCAM",
    "BinaryScore",
    "ClassScore",
    "DenseDetections",
    "DetectionScore",
    "MarginScore",
    "PartScore",
    "RegressionScore",
    "SegmentationScore",
    "SequenceScore",
    "SimilarityScore",
    *EXPLAINERS,
]

globals().update(EXPLAINERS)


def __getattr__(name: str) -> type[Explainer]:
    """For type checkers, which do not see the classes that are made from a table."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
