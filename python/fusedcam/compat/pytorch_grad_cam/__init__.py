"""pytorch-grad-cam's classes and functions for new code: its names, signatures and numbers, without that package.

    from fusedcam.compat.pytorch_grad_cam import GradCAM
    heat = GradCAM(model, [model.layer4])(input_tensor, targets)

What differs from it: no hooks stay on the model; modes and `.grad` are left as they are; frozen models, `no_grad` and
`inference_mode` work, and bfloat16 with the gradient methods; fewer targets than images are an error; there are no
progress bars. With `device="keep"` maps are tensors on the model's device. To override a method's step, override
`weights`, `products` or `raw_map`, which take and return tensors; the subclass contract of the package itself is
`fusedcam.patch`'s.
"""

from ..pgc_targets import (
    BinaryClassifierOutputTarget,
    ClassifierOutputReST,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
    FasterRCNNBoxScoreTarget,
    FinerWeightedTarget,
    RawScoresOutputTarget,
    SemanticSegmentationTarget,
    SoftmaxOutputTarget,
)
from .base import BaseCAM, Run
from .composed import FinerCAM, FullGrad, RefineCAM, ShapleyCAM
from .image import scale_cam_image, show_cam_on_image
from .methods import (
    FEM,
    KPCA_CAM,
    AblationCAM,
    EigenCAM,
    EigenGradCAM,
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    RandomCAM,
    ScoreCAM,
    SegEigenCAM,
    XGradCAM,
)

__all__ = [
    "FEM",
    "KPCA_CAM",
    "AblationCAM",
    "BaseCAM",
    "BinaryClassifierOutputTarget",
    "ClassifierOutputReST",
    "ClassifierOutputSoftmaxTarget",
    "ClassifierOutputTarget",
    "EigenCAM",
    "EigenGradCAM",
    "FasterRCNNBoxScoreTarget",
    "FinerCAM",
    "FinerWeightedTarget",
    "FullGrad",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "RandomCAM",
    "RawScoresOutputTarget",
    "RefineCAM",
    "Run",
    "ScoreCAM",
    "SegEigenCAM",
    "SemanticSegmentationTarget",
    "ShapleyCAM",
    "SoftmaxOutputTarget",
    "XGradCAM",
    "scale_cam_image",
    "show_cam_on_image",
]
