"""From a photograph to a picture with its explanation, beside pytorch-grad-cam's whole call; where the time goes."""

from functools import partial
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn

import fusedcam
import peers
from fusedcam.torch import GradCAM
from fusedcam.torch.pretrained import Classifier, load
from models import resnet50
from timing import compare, digits, interleaved

CLASS = 872  # of ImageNet's: tripod
BATCHES = (1, 16)
ROUNDS = 11


def measure(batches: tuple[int, ...] = BATCHES) -> list[dict[str, Any]]:
    classifier = load("efficientnet-lite0")
    photo = Image.fromarray(skimage.data.camera())
    resnet = resnet50()
    models = {"EfficientNet-Lite0": (classifier.model, None), "ResNet-50": (resnet, "layer4")}
    rows = []
    for (name, (model, layer)), batch in ((item, batch) for item in models.items() for batch in batches):
        row = one(classifier, photo, model, layer, batch)
        rows.append({"case": f"{name}, {batch} photo{'s' if batch > 1 else ''}", **row})
        print(rows[-1]["case"], row["peers"]["pytorch-grad-cam"]["times"], row["stages"], flush=True)
    return rows


def one(classifier: Classifier, photo: Image.Image, model: nn.Module, layer: str | None, batch: int) -> dict[str, Any]:
    explain = GradCAM(model, layer)
    x = prepared(classifier, photo, batch)
    explain(x, targets=CLASS)  # finds the layer, which the peer has to be told
    found = model.get_submodule(layer or explain.plan.layer)
    package = peers.import_pytorch_grad_cam()
    peer = package.GradCAM(model, [found])
    target = [package.utils.model_targets.ClassifierOutputTarget(CLASS)] * batch
    images = pictures(photo, batch)

    def ours() -> Tensor:
        raw = explain(prepared(classifier, photo, batch), targets=CLASS, size=None, normalize=None)
        return fusedcam.overlay(pictures(photo, batch), raw, normalize="minmax")

    def theirs() -> list[np.ndarray]:
        heat = peer(prepared(classifier, photo, batch), target)
        return peers.shown_maps(pictures(photo, batch), heat)

    raw = explain(x, targets=CLASS, size=None, normalize=None)
    parts = {
        "preparing": partial(prepared, classifier, photo, batch),
        "inference": partial(infer, model, x),
        "activations, gradients and map": partial(explain, x, targets=CLASS, size=None, normalize=None),
        "picture": partial(fusedcam.overlay, images, raw, normalize="minmax"),
    }
    seconds = {name: float(np.median(found)) for name, found in interleaved(parts, ROUNDS, sample=0).items()}
    seconds["activations, gradients and map"] -= seconds["inference"]
    whole = sum(seconds.values())
    return {
        "peers": compare({"fusedcam": ours, "pytorch-grad-cam": theirs}, None, ROUNDS),
        "stages": {name: digits(100 * part / whole, 3) for name, part in seconds.items()},
    }


def prepared(classifier: Classifier, photo: Image.Image, batch: int) -> Tensor:
    return classifier.prepare(photo).expand(batch, -1, -1, -1).contiguous()


def pictures(photo: Image.Image, batch: int) -> Tensor:
    side = np.asarray(photo.convert("RGB").resize((224, 224)))
    return torch.from_numpy(side).expand(batch, -1, -1, -1).contiguous()


def infer(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)
