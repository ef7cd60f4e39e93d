"""The command `fusedcam evaluate`: its table, its JSON, and what it does with bad photographs and options."""

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from fusedcam import cli
from fusedcam.cli.measuring import METRICS
from fusedcam.torch import metrics, pretrained
from fusedcam.torch.methods import EXPLAINERS
from fusedcam.torch.pretrained import load

SIDE = 48

CODE = """
import torch


def build(softmax=False, classes=5):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 6, 3, 8), torch.nn.ReLU(), torch.nn.Conv2d(6, 8, 3, 2)]
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, classes)]
    return torch.nn.Sequential(*layers, *head, *([torch.nn.Softmax(1)] if softmax else []))


def sure():
    return build(softmax=True)


def lone():
    return build(classes=1)


class Tinted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 1)
        with torch.no_grad():  # red, green, blue and none of them
            self.conv.weight.copy_(torch.cat([torch.eye(3), -torch.ones(1, 3)])[:, :, None, None])

    def forward(self, x):
        return torch.relu(self.conv(x)).mean((2, 3))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, keep_threads) -> Path:
    """Each test runs in a folder with a model and three photographs of noise, and sees little of them, for speed."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "SIDE", SIDE)
    monkeypatch.setattr(sys, "path", sys.path[:])
    Path("evaluated_model.py").write_text(CODE)
    for k in range(3):
        save(f"{k}.png", np.random.default_rng(k).integers(256, size=(40, 56, 3), dtype=np.uint8))
    yield tmp_path
    sys.modules.pop("evaluated_model", None)


def save(name: str, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(name)


def run(*arguments: object) -> Result:
    """On the small model, in few steps."""
    given = ["evaluate", *map(str, arguments), "--steps", "4"]
    if "--model" not in arguments:
        given += ["--model", "evaluated_model:build"]
    return CliRunner().invoke(cli.main, given)


def test_the_numbers_are_the_metrics():
    """For two classes of two photographs, method by method."""
    result = run("0.png", "1.png", "--class", 3, "--class", 1, "--json", "--layer", "0", "--batch-size", 7)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    names = ["deletion", "insertion", "average-drop", "increase", "road-morf", "road-lerf"]
    assert [*told["methods"]] == [*EXPLAINERS]
    assert told["better"] == {name: METRICS[name] for name in names}
    assert [(case["photo"], case["name"]) for case in told["cases"]] == [
        (photo, name) for photo in ("0.png", "1.png") for name in ("class 3", "class 1")
    ]
    assert all(len(numbers["values"]) == 4 for row in told["methods"].values() for numbers in row.values())
    classifier = load("evaluated_model:build")
    x = classifier.prepare(Image.open("1.png"))
    with torch.no_grad():
        shares = classifier.model(x).softmax(1)[0, [3, 1]]
    assert [case["confidence"] for case in told["cases"][2:]] == pytest.approx(shares.tolist(), rel=1e-5)
    for method, row in told["methods"].items():
        heat = EXPLAINERS[method](classifier.model, "0")(x, targets=[[3, 1]])
        given = (classifier.model, x, heat, [[3, 1]])
        change = metrics.confidence_change(*given)
        expected = {
            "deletion": metrics.deletion(*given, step=SIDE * SIDE // 4).area,
            "insertion": metrics.insertion(*given, step=SIDE * SIDE // 4).area,
            "average-drop": change.drop,
            "increase": change.increase.double(),
            "road-morf": metrics.road(*given).mean,
            "road-lerf": metrics.road(*given, order="lerf").mean,
        }
        assert [*row] == names
        for name in names:
            assert row[name]["values"][2:] == pytest.approx(expected[name][0].tolist(), rel=1e-5), name
            assert row[name]["mean"] == pytest.approx(sum(row[name]["values"]) / 4)


def test_the_table_has_the_means():
    options = ("--metric", "insertion", "--metric", "deletion")
    table = run("0.png", "1.png", "2.png", *options)
    assert table.exit_code == 0, table.output
    assert not table.stderr
    told = json.loads(run("0.png", "1.png", "2.png", *options, "--json").stdout)
    heads, better, *rows = [line.split() for line in table.stdout.splitlines()]
    assert heads == ["insertion", "deletion"]
    assert better == ["better", "higher", "lower"]
    assert rows == [
        [method, f"{row['insertion']['mean']:.3f}", f"{row['deletion']['mean']:.3f}"]
        for method, row in told["methods"].items()
    ]
    assert len({len(line) for line in table.stdout.splitlines()}) == 1  # columns stand below each other


@pytest.mark.parametrize("name", ["GradCAM", "gradcam", "Grad-CAM"])
def test_methods_by_any_of_their_names(name):
    result = run("0.png", "--method", name, "--metric", "increase")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()[2:]] == ["GradCAM"]


def test_grid_pointing():
    """Four photographs of one colour each for a model that knows colours: every map is the photograph's own."""
    Path("evaluated_model.py").write_text(CODE + "\n\ndef tinted():\n    return Tinted()\n")
    for k, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)]):
        save(f"{k}.png", np.full((30, 30, 3), colour, np.uint8))
    photos = [f"{k}.png" for k in range(4)]
    options = ("--model", "evaluated_model:tinted", "--layer", "conv", "--metric", "grid-pointing", "--json")
    result = run(*photos, *options)
    assert result.exit_code == 0, result.output
    methods = json.loads(result.stdout)["methods"]
    assert all(len(row["grid-pointing"]["values"]) == 4 for row in methods.values())
    # Its activations have either sign, which not every method bears.
    for method in ("GradCAM", "HiResCAM"):
        row = methods[method]
        assert row["grid-pointing"]["mean"] > 0.9
    save("3.png", np.full((30, 30, 3), (255, 0, 0), np.uint8))
    result = run(*photos, *options)
    assert result.exit_code == 1
    reason = "grid-pointing needs photos of different first choices; of 0.png, 3.png they are not"
    assert result.stderr == f"Error: {reason}\n"
    Path("2.png").write_text("no photo")
    result = run(*photos, *options[:-1], "--metric", "increase")
    assert result.exit_code == 1
    assert [line.split()[1] for line in result.stdout.splitlines()[2:]] == ["-"] * len(EXPLAINERS)


@pytest.mark.filterwarnings("ignore:the rows of the model's output sum to 1.*Grad-CAM:UserWarning")
def test_probabilities_and_lone_classes():
    """A model that ends in a softmax gets no second one; a lone class, whose share says nothing, none at all."""
    plain = json.loads(run("0.png", "--json", "--class", 2, "--metric", "road-lerf").stdout)
    sure = run("0.png", "--json", "--class", 2, "--metric", "road-lerf", "--model", "evaluated_model:sure")
    assert sure.exit_code == 0, sure.output
    share = plain["cases"][0]["confidence"]
    assert json.loads(sure.stdout)["cases"][0]["confidence"] == pytest.approx(share)
    for row in json.loads(sure.stdout)["methods"].values():  # other maps, but shares as they are: near 1 / 5
        assert row["road-lerf"]["mean"] == pytest.approx(share, abs=0.02)
    lone = run("0.png", "--json", "--metric", "average-drop", "--model", "evaluated_model:lone")
    assert lone.exit_code == 0, lone.output
    assert json.loads(lone.stdout)["cases"][0]["confidence"] != 1


def test_bad_photos_do_not_stop_the_others():
    Path("text.png").write_text("no photograph")
    result = run("0.png", "text.png", "gone.png", "2.png", "--metric", "deletion", "--json")
    assert result.exit_code == 1
    assert [case["photo"] for case in json.loads(result.stdout)["cases"]] == ["0.png", "2.png"]
    first, second, last = result.stderr.splitlines()
    assert first.startswith("fusedcam: text.png: cannot identify")
    assert second == "fusedcam: gone.png: No such file or directory"
    assert last == "Error: 2 of 4 photos failed"
    alone = run("gone.png")
    assert alone.exit_code == 1
    assert not alone.stdout


def test_what_is_no_number_is_null():
    """A model whose scores are below 0 has no average drop."""
    Path("evaluated_model.py").write_text(
        CODE + "\n\ndef low():\n    model = build(classes=1)\n    model[-1].bias.data.fill_(-9)\n    return model\n"
    )
    result = run("0.png", "--metric", "average-drop", "--json", "--model", "evaluated_model:low")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout, parse_constant=pytest.fail)
    assert told["methods"]["GradCAM"]["average-drop"] == {"mean": None, "values": [None]}
    assert told["cases"][0]["confidence"] < 0
    table = run("0.png", "--metric", "average-drop", "--model", "evaluated_model:low")
    assert table.stdout.split()[-1] == "-"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--method", "NoCAM"], 1, "Error: method is 'NoCAM'; accepted: GradCAM"),
        (["--metric", "beauty"], 2, "'beauty' is not one of 'deletion'"),
        (["--metric", "grid-pointing"], 1, "Error: grid-pointing is of 1 photos; accepted are 4, 9, 16 and so on"),
        (["--batch-size", "0"], 2, "0 is not in the range x>=1"),
        (["--steps", "0"], 2, "0 is not in the range x>=1"),
        (["--class", "9"], 1, "class 9 does not exist: the model has classes 0 to 4"),
        (["--layer", "no.such.layer"], 1, "no.such.layer"),
        (["--model", "resnet"], 1, "model is 'resnet'; accepted: efficientnet-lite0 or module:function"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_message(arguments, status, message):
    given = ["evaluate", "0.png", "--model", "evaluated_model:build", *arguments]
    result = CliRunner().invoke(cli.main, given)
    assert result.exit_code == status
    assert message in result.stderr
    assert not result.stdout
    assert "Traceback" not in result.output


@pytest.mark.parametrize("shown", [True, False])
def test_the_bar_and_how_to_turn_it_off(shown):
    """On a terminal it is drawn on the error stream; what is printed stays JSON."""
    ours, theirs = pty.openpty()
    arguments = ["evaluate", "0.png", "1.png", "--model", "evaluated_model:build", "--metric", "increase", "--json"]
    drawn = b""
    with subprocess.Popen(
        [sys.executable, "-m", "fusedcam", *arguments, *([] if shown else ["--no-progress"])],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        os.close(theirs)
        with suppress(OSError):  # how Linux says that the other side is closed
            while chunk := os.read(ours, 4096):
                drawn += chunk
        os.close(ours)
        told = json.load(process.stdout)
    assert process.returncode == 0
    assert bool(re.search(rb"evaluating .*\d+%", drawn)) == shown
    assert len(told["cases"]) == 2


def test_help_tells_what_every_metric_is():
    text = " ".join(CliRunner().invoke(cli.main, ["evaluate", "-h"]).output.split())
    assert all(name in text for name in METRICS)
    assert "evaluate" in CliRunner().invoke(cli.main, ["-h"]).output
