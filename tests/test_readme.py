"""The README keeps its word: its Python runs, its NumPy is what the call computes, its table what was measured."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from click.testing import CliRunner
from PIL import Image

import fusedcam
import fusedcam.compat.pytorch_grad_cam
from fusedcam.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def bilinear(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What the README calls so, by PyTorch."""
    large = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], size, mode="bilinear")
    return large[:, 0].numpy()


def test_the_call_is_equivalent_to_the_formula():
    call, formula, *_ = blocks("python")
    names = {"bilinear": bilinear}
    exec(call, names)
    exec(formula, names)
    heat, raw, rgb = names["heat"], names["raw"], names["rgb"]
    assert heat.dtype == np.float32
    assert heat.shape == (2, 224, 224)
    assert raw.shape == (2, 7, 7)
    assert abs(heat - names["expected"]).max() < 1e-5
    assert np.array_equal(rgb, fusedcam.overlay(names["images"], heat))


def test_the_capture_runs(capsys):
    names: dict[str, object] = {}
    exec(blocks("python")[2], names)
    assert names["heat"].shape == (2, 224, 224)
    assert names["both"].shape == (2, 2, 224, 224)
    assert names["scores"].shape == (2, 1000)
    for heat in (names["heat"], names["both"]):
        assert (heat.amin((-2, -1)) == 0).all()
        assert (heat.amax((-2, -1)) == 1).all()
    assert "[2, 1280, 7, 7]" in capsys.readouterr().out  # the plan tells the layer's shape


def test_the_patch_runs():
    patch = blocks("python")[3]
    exec(patch, {"fusedcam": fusedcam})
    states = {status.state for status in fusedcam.patch_status()}
    fusedcam.unpatch()
    assert states <= {"patched", "waiting for its import"}
    assert {*re.findall(r"fusedcam\.(\w+)\(", patch)} <= {*fusedcam.__all__}


def test_the_page_for_those_who_come_from_elsewhere():
    """Names that are there, versions that are known, files that exist."""
    page = (ROOT / "docs" / "coming-from.md").read_text()
    assert {*re.findall(r"fusedcam\.(\w+)\(", page)} <= {*fusedcam.__all__}
    for peer in fusedcam.compat.patching.PEERS.values():
        assert f"{peer.distribution} {', '.join(peer.versions)}" in page
    for name in re.findall(r"`((?:tests|bench)/\w+\.py)`", page):
        assert (ROOT / name).is_file()
    there = page[page.index("## From pytorch-grad-cam") : page.index("## From torch-cam")]
    for name in re.findall(r"\b[A-Z]\w+CAM\w*", there):
        assert hasattr(fusedcam.compat.pytorch_grad_cam, name), name


def test_the_commands_run(tmp_path, monkeypatch):
    commands, _ = blocks("sh")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    Image.fromarray(skimage.data.camera()).save("photo.jpg")
    Image.fromarray(skimage.data.coffee()).save("another.jpg")
    (tmp_path / "my_models.py").write_text(
        "import torch\nfrom torch.nn import AdaptiveAvgPool2d, Conv2d, Flatten, Linear\n\n\n"
        "def resnet():\n    net = torch.nn.Sequential(Conv2d(3, 4, 7, 16))\n"
        "    net.add_module('layer4', Conv2d(4, 4, 3))\n"
        "    return net.extend([AdaptiveAvgPool2d(1), Flatten(), Linear(4, 3)])\n"
    )
    for line in commands.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "fusedcam"
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    assert sorted(path.name for path in Path("explained").iterdir()) == [
        "another-reflex-camera.png",
        "another-tripod.png",
        "photo-reflex-camera.png",
        "photo-tripod.png",
    ]
    assert len(list(Path("fusedcam-out").glob("photo-class-*.png"))) == 1


def test_the_table_is_what_was_measured():
    """In a process of its own: the modules in bench/ have names that others may have too."""
    assert re.search(r"^\| cam \|", README, re.MULTILINE)
    program = "import sys; from tables import with_tables; sys.stdout.write(with_tables(sys.stdin.read()))"
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT / "bench",
        input=README,
        capture_output=True,
        encoding="utf-8",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == README


def targets() -> list[str]:
    """Of make, as README and CONTRIBUTING name them."""
    return sorted(set(re.findall(r"\bmake ([\w-]+)(?:`|  )", README + CONTRIBUTING)))


def test_the_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    assert targets() == ["bench", "builds", "demo", "gpu", "lint", "test", "test-all"]
    for target in targets():
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def tree() -> list[str]:
    """The paths in CONTRIBUTING's drawing of the house."""
    drawing = CONTRIBUTING.split("## The house\n")[1].split("\n## ")[0]
    folder, paths = "", []
    for line in drawing.splitlines():
        if found := re.fullmatch(r" {4}(\S+/)", line):
            folder = found[1]
        elif found := re.match(r" {6}(\S+(?: \S+\.\w+)*)", line):
            paths += [folder + name for name in found[1].split()]
    return paths


@pytest.mark.parametrize("path", tree())
def test_the_house_stands_as_drawn(path):
    assert list(ROOT.glob(path)), path


def test_links_and_pictures_exist():
    links = re.findall(r"\]\(([^)]+)\)", README + CONTRIBUTING)
    assert len(links) >= 2
    for link in links:
        assert (ROOT / link).exists(), link
