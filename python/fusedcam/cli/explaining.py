"""`fusedcam explain`: photographs overlaid with what a network looked at."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from .. import METHODS, overlay
from .._colormaps import NAMES
from .common import find_classes, load_classifier, one_line_errors, photos_and_model, read_square, report

__all__ = ["explain"]


@click.command()
@photos_and_model
@click.option("--method", type=click.Choice([*METHODS]), default="gradcam", show_default=True)
@click.option("--colormap", type=click.Choice(NAMES), default="jet", show_default=True)
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="The colour's share.")
@click.option(
    "-o",
    "--output",
    "folder",
    metavar="FOLDER",
    default="fusedcam-out",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
)
def explain(
    photos: tuple[Path, ...],
    model: str,
    layer: str | None,
    classes: tuple[str, ...],
    method: str,
    colormap: str,
    alpha: float,
    folder: Path,
) -> None:
    """Write each PHOTO overlaid with what the model looked at, one picture per class.

    The model sees the photo's square middle at 224 x 224 pixels; the picture is that square in the photo's
    own resolution. A photo that cannot be read or explained is reported and passed over; the exit status is
    then 1.
    """
    failed = 0
    with one_line_errors():
        from ..torch.methods import EXPLAINERS
        from ..torch.pretrained import strengths

        classifier = load_classifier(model)
        targets = find_classes(classifier, classes)
        folder.mkdir(parents=True, exist_ok=True)
        taken: set[Path] = set()
        with EXPLAINERS[METHODS[method].class_name](classifier.model, layer) as explainer:
            for path in _with_progress(photos):
                try:
                    square = read_square(path)
                    scores = explainer(
                        classifier.prepare(square),
                        targets=[targets] if targets else None,
                        size=None,  # resampled once, by overlay, to the photo's own resolution
                        normalize=None,
                    )
                    heatmaps = scores.reshape(-1, *scores.shape[-2:]).numpy()
                    shown = strengths(explainer.output[0])
                    chosen = targets or explainer.output.max(1).indices.tolist()  # as the explainer chooses
                    found = [(classifier.names[k][0], shown[k]) for k in chosen]
                except Exception as error:  # decoders and models raise a dozen types
                    failed += 1
                    report(path, error)
                    continue
                # Outside: a full disk or a closed pipe is no fault of the photo.
                for (name, strength), heatmap in zip(found, heatmaps, strict=True):
                    picture = overlay(np.asarray(square), heatmap, colormap=colormap, alpha=alpha, normalize="minmax")
                    written = _save(picture, folder, f"{path.stem}-{name}", taken)
                    print(f"{click.format_filename(path)}: {name} {strength} -> {written}")
    if failed:
        raise click.ClickException(f"{failed} of {len(photos)} photos failed")


def _with_progress(photos: tuple[Path, ...]) -> Iterator[Path]:
    """The photos; with several on a terminal, a bar that stays below what `print` writes meanwhile."""
    hidden = len(photos) == 1 or not sys.stdout.isatty()
    with Progress(transient=True, disable=hidden, redirect_stderr=sys.stderr.isatty()) as progress:
        yield from progress.track(photos, description="explaining")


def _save(picture: NDArray[np.uint8], folder: Path, title: str, taken: set[Path]) -> str:
    """Writes the picture; two folders may hold photos of one name, so none of this run is overwritten."""
    from PIL import Image

    stem = re.sub(r"[^\w.]+", "-", title)
    names = (folder / f"{stem}{suffix}.png" for suffix in ("", *(f"-{n}" for n in range(2, len(taken) + 3))))
    written = next(name for name in names if name not in taken)
    taken.add(written)
    Image.fromarray(picture).save(written)
    return click.format_filename(written)
