"""`make demo`: what EfficientNet-Lite0 looks at in one photograph for "tripod" and for "reflex camera".

Beside it the time of one map, against naive NumPy and pytorch-grad-cam on the same arrays.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont

import fusedcam
from bench import machine
from fusedcam.torch import GradCAM
from fusedcam.torch.pretrained import Classifier, centre_square, load
from peers import fused_cam, numpy_cam, pytorch_grad_cam
from timing import compare

NAMES = ("tripod", "reflex camera")
SIZE = 224


def picture(classifier: Classifier, photo: Image.Image, names: tuple[str, ...]) -> Image.Image:
    """The photograph once per class, side by side, with what the class's score rests on."""
    with GradCAM(classifier.model) as explain:
        classes = [classifier.find(name) for name in names]
        scores = explain(classifier.prepare(photo), targets=[classes], size=None, normalize=None)[0]
    square = np.asarray(centre_square(photo))
    halves = fusedcam.overlay(np.stack([square] * len(names)), scores.numpy(), normalize="minmax")
    image = Image.fromarray(np.concatenate(list(halves), axis=1))
    draw = ImageDraw.Draw(image)
    for k, name in enumerate(names):
        corner = (k * len(square) + 12, 8)
        draw.text(corner, name, "white", ImageFont.load_default(28), stroke_width=2, stroke_fill="black")
    return image


def arrays(classifier: Classifier, photo: Image.Image, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations and gradients of the last map before pooling, [1, 1280, 7, 7], by plain PyTorch."""
    model = classifier.model
    with torch.no_grad():
        activations = model.extract_features(classifier.prepare(photo))
    activations.requires_grad_()
    scores = model._fc(model._dropout(activations.mean((2, 3))))
    (gradients,) = torch.autograd.grad(scores[0, classifier.find(name)], activations)
    return activations.detach(), gradients.contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo.png"))
    output = parser.parse_args().output
    classifier = load("efficientnet-lite0")
    photo = Image.fromarray(skimage.data.camera())
    picture(classifier, photo, NAMES).save(output)
    print(f"{' and '.join(NAMES)}: {output.resolve()}\n")

    activations, gradients = arrays(classifier, photo, NAMES[0])
    measured = compare(
        {
            "fusedcam": partial(fused_cam, activations, gradients, SIZE),
            "naive NumPy": partial(numpy_cam, activations.numpy(), gradients.numpy(), SIZE),
            "pytorch-grad-cam": partial(pytorch_grad_cam, activations, gradients, SIZE),
        },
        numpy_cam(activations.double().numpy(), gradients.double().numpy(), SIZE),
    )
    facts = machine()
    print(f"{tuple(activations.shape)} activations and gradients to a {SIZE}x{SIZE} map,")
    print(f"{facts['cpu']}, {facts['threads']} threads:")
    print(f"{'':18}{'median (quartiles), us':>28}{'times fusedcam':>24}{'error to float64':>20}")
    for name, row in measured.items():
        low, middle, high = row["us"]
        times = "{1:.1f} ({0:.1f} to {2:.1f})".format(*row["times"]) if "times" in row else ""
        print(f"{name:18}{f'{middle:.0f} ({low:.0f} to {high:.0f})':>28}{times:>24}{row['error']:>20.1e}")


if __name__ == "__main__":
    main()
