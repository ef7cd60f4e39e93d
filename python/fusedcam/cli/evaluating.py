"""`fusedcam evaluate`: how far a model relies on what each method shows, in photographs."""

import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.progress import Progress

from .common import find_classes, load_classifier, one_line_errors, photos_and_model, read_square, report
from .measuring import GRID, METRICS, Measured, Measures, find_explainers, of_mosaic, of_photo, side_of_mosaic

__all__ = ["evaluate"]

Values = dict[str, dict[str, list[float]]]
"""By method and metric: a number for each case, or with grid-pointing for each photo."""


class Case(NamedTuple):
    """A photo and a class that is looked for in it."""

    photo: str
    name: str
    confidence: float


@click.command()
@photos_and_model
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="GradCAM and so on; may be repeated.  [default: every one]",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    type=click.Choice([*METRICS]),
    help=f"May be repeated.  [default: all but {GRID}]",
)
@click.option(
    "--steps",
    default=32,
    show_default=True,
    type=click.IntRange(1),
    help="In how many steps deletion and insertion change the picture.",
)
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(1), help="Pictures in a model's run.")
@click.option("--progress/--no-progress", default=True, help="A bar while it runs, on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Every number, instead of the table of means.")
def evaluate(
    photos: tuple[Path, ...],
    model: str,
    layer: str | None,
    classes: tuple[str, ...],
    methods: tuple[str, ...],
    metrics: tuple[str, ...],
    steps: int,
    batch_size: int,
    progress: bool,
    as_json: bool,
) -> None:
    """Measure how far the model relies on what each method shows in each PHOTO.

    The means over photos and classes are printed as a table. deletion and insertion: the area under the class's
    confidence while the brightest pixels of the heatmap go, or come back on a blurred picture. average-drop: the
    lost part of the confidence in what the heatmap leaves visible; increase: how often it rises instead. road-morf
    and road-lerf: the mean confidence after 10 to 90 % of the brightest, or darkest, pixels were filled in from
    those around them. grid-pointing: the share of a map that lies in its own cell of a mosaic of the photos, which
    are 4, 9, 16 and so on, each for its own first choice.

    A photo that cannot be read or explained is reported and passed over; the exit status is then 1.
    """
    measures = Measures(metrics or tuple(name for name in METRICS if name != GRID), steps, batch_size)
    cases: list[Case] = []
    tiles: list[Any] = []
    firsts: list[int] = []
    with one_line_errors():
        if GRID in measures.metrics:
            side_of_mosaic(len(photos))
        classifier = load_classifier(model)
        targets = find_classes(classifier, classes)
        explainers = find_explainers(methods, classifier.model, layer)
        values: Values = {name: {metric: [] for metric in measures.metrics} for name in explainers}
        hidden = not (progress and sys.stderr.isatty())
        with Progress(console=Console(stderr=True), transient=True, disable=hidden) as bar:
            task = bar.add_task("evaluating", total=len(explainers) * (len(photos) + (GRID in measures.metrics)))
            for number, path in enumerate(photos, 1):
                found: dict[str, Measured] = {}
                try:
                    tile = classifier.prepare(read_square(path))
                    for name, explainer in explainers.items():
                        found[name] = of_photo(explainer, tile, targets, measures)
                        bar.advance(task)
                except Exception as error:  # decoders and models raise a dozen types
                    report(path, error)
                    bar.update(task, completed=number * len(explainers))
                    continue
                # Kept once all methods have succeeded: their means are over the same photos.
                one, shown = next(iter(found.values())), click.format_filename(path)
                tiles.append(tile)
                firsts.append(one.first)
                cases += [Case(shown, classifier.names[k][0], share) for k, share in one.confidences.items()]
                for name, measured in found.items():
                    for metric, numbers in measured.numbers.items():
                        values[name][metric] += numbers
            if GRID in measures.metrics and len(tiles) == len(photos):
                for name, explainer in explainers.items():
                    values[name][GRID] += of_mosaic(explainer, tiles, firsts, photos)
                    bar.advance(task)
    if cases:
        print(_as_json(cases, values) if as_json else _as_table(values))
    failed = len(photos) - len(tiles)
    if failed:
        raise click.ClickException(f"{failed} of {len(photos)} photos failed")


def _as_table(values: Values) -> str:
    """The mean of each method and metric, and above it whether lower or higher is better."""
    metrics = [*next(iter(values.values()))]
    rows = [["", *metrics], ["better", *(METRICS[metric] for metric in metrics)]]
    for name, row in values.items():
        rows.append([name, *("-" if (mean := _mean(numbers)) is None else f"{mean:.3f}" for numbers in row.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("  ".join(line) for line in lines)


def _as_json(cases: list[Case], values: Values) -> str:
    """Every number; what is not a number is null."""
    methods: dict[str, Any] = {
        name: {
            metric: {"mean": _mean(numbers), "values": [_finite(number) for number in numbers]}
            for metric, numbers in row.items()
        }
        for name, row in values.items()
    }
    metrics = {metric: METRICS[metric] for metric in next(iter(values.values()))}
    shown = [case._asdict() | {"confidence": _finite(case.confidence)} for case in cases]
    return json.dumps({"cases": shown, "better": metrics, "methods": methods}, indent=1)


def _mean(numbers: list[float]) -> float | None:
    return _finite(math.fsum(numbers) / len(numbers)) if numbers else None


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
