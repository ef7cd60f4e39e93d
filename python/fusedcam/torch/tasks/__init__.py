"""Targets for every task: what is explained of a classifier, a segmentation, a detector, an embedding, a captioner or a
regression. Each is a callable from a batch's output to scores [N] or [N, K], and so the `targets` of any explainer.

    heat = GradCAM(model, "backbone")(images, targets=SegmentationScore(12))
"""

from .boxes import DenseDetections
from .classification import BinaryScore, ClassScore, MarginScore
from .detection import DetectionScore
from .segmentation import SegmentationScore
from .sequence import SequenceScore
from .values import PartScore, RegressionScore, SimilarityScore

__all__ = [
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
]
