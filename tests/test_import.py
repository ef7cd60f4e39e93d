"""Importing fusedcam: what it loads, which names it has, and what it says where its native module is missing."""

import importlib
import importlib.metadata
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import fusedcam
import fusedcam.torch
import fusedcam.torch.metrics

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "PIL", "jax", "jaxlib", "tensorflow", "matplotlib", "cv2", "click", "rich", "scipy", "skimage")


def fresh(code: str, *options: str, **environment: str) -> str:
    """What the code prints in a new process."""
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize("use", ["", "fusedcam.cam", "fusedcam.overlay", "fusedcam.METHODS", "fusedcam.info()"])
def test_loads_no_framework(use):
    loaded = fresh(f"import sys, fusedcam\n{use}\nprint(*sys.modules)").split()
    assert not {name.partition(".")[0] for name in loaded} & {*HEAVY}
    assert ("fusedcam._cpu" in loaded) == (use not in ("", "fusedcam.METHODS"))


def test_a_call_loads_no_framework():
    """Nor does an array of a type that fusedcam has not seen."""
    loaded = fresh(
        "import array, sys, numpy as np, fusedcam\n"
        "heat = fusedcam.cam(np.ones((2, 3, 4, 4)), np.ones((2, 3, 4, 4)), size=9)\n"
        "rgb = fusedcam.overlay(np.zeros((9, 9, 3), np.uint8), heat[0])\n"
        "fusedcam.resize(memoryview(array.array('f', range(4))).cast('B').cast('f', [2, 2]), 3)\n"
        "print(*sys.modules)"
    ).split()
    assert not {name.partition(".")[0] for name in loaded} & {*HEAVY}


def test_says_how_long_it_takes():
    """For people (`pytest -rP`); bench/overhead.py measures it. That it is loaded at all is what counts here."""
    spent, module = fresh(
        "import time, numpy\nstart = time.perf_counter()\nimport fusedcam\nfusedcam.cam\n"
        "print(time.perf_counter() - start, fusedcam.cam.__module__)"
    ).split()
    print(f"import fusedcam takes {1e3 * float(spent):.1f} ms beyond NumPy's")
    assert module == "fusedcam._cpu"


def test_names():
    assert dir(fusedcam) == sorted(fusedcam.__all__)
    assert fusedcam.__all__ == sorted(fusedcam.__all__)
    assert set(fusedcam.__all__) == {*fusedcam._HOME}
    for name in fusedcam.__all__:
        value = getattr(fusedcam, name)
        assert value is getattr(importlib.import_module(fusedcam._HOME[name], "fusedcam"), name)
        assert vars(fusedcam)[name] is value  # kept: the next access asks nobody
    assert "torch" not in fusedcam.__all__
    modules = ("fusedcam.functional", "fusedcam.torch", "fusedcam.torch.metrics", "fusedcam.torch.pretrained")
    for module in map(importlib.import_module, modules):
        assert all(hasattr(module, name) for name in module.__all__)


def test_names_are_the_same_before_and_after_use():
    """`hasattr` too: what is loaded on first use is there from the first."""
    before, after, has = fresh(
        "import fusedcam\nprint(*dir(fusedcam))\n"
        "[getattr(fusedcam, name) for name in dir(fusedcam)]\nprint(*dir(fusedcam))\n"
        "print(hasattr(fusedcam, 'cam'), hasattr(fusedcam, 'torch'))"
    ).splitlines()
    assert before == after == " ".join(fusedcam.__all__)
    assert has == "True False"


def test_star():
    names: dict[str, object] = {}
    exec("from fusedcam import *", names)
    del names["__builtins__"]
    assert names == {name: getattr(fusedcam, name) for name in fusedcam.__all__}


@pytest.mark.parametrize("name", ["grad_cam", "_cam", "__path", "Cam"])
def test_unknown_name(name):
    with pytest.raises(AttributeError, match=re.escape(f"module 'fusedcam' has no attribute {name!r}")):
        getattr(fusedcam, name)
    assert not hasattr(fusedcam, name)
    with pytest.raises(ImportError, match=f"cannot import name {name!r}"):
        exec(f"from fusedcam import {name}", {})


@pytest.mark.parametrize(
    "package", [fusedcam, fusedcam.torch, fusedcam.torch.metrics], ids=lambda package: package.__name__
)
def test_no_submodule_has_a_public_name(package):
    """Importing the submodule would set the package's attribute of that name."""
    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    assert modules
    assert not {*modules} & {*package.__all__}


def test_version():
    written = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert fusedcam.__version__ == written
    assert importlib.metadata.version("fusedcam") == written
    assert fusedcam.info()["version"] == written


@pytest.mark.parametrize("native", ["missing", "broken"])
def test_without_the_native_module(native, tmp_path):
    """As in the source tree: the package imports, and the first use says what to do."""
    package = Path(fusedcam.__file__).parent
    shutil.copytree(package, tmp_path / "fusedcam", ignore=shutil.ignore_patterns("_cpu*.so", "__pycache__"))
    if native == "broken":
        (tmp_path / "fusedcam" / Path(fusedcam._native._cpu.__file__).name).write_text("no library")
    # Without `site`, so that an editable installation's finder does not come first.
    path = os.pathsep.join([str(tmp_path), str(Path(np.__file__).parent.parent)])
    printed = fresh(
        "import fusedcam\nprint(fusedcam.__file__)\nprint(fusedcam.METHODS['gradcam'].title)\n"
        "for name in ('cam', 'overlay', 'info', '__version__', 'cam'):\n"
        "    try:\n        getattr(fusedcam, name)\n"
        "    except ImportError as error:\n        print(name, error)",
        "-S",
        PYTHONPATH=path,
    )
    file, title, *errors = printed.splitlines()
    assert file == str(tmp_path / "fusedcam" / "__init__.py")
    assert title == "Grad-CAM"
    assert len(errors) == 5
    for error in errors:
        assert re.search(r"fusedcam's native module does not load \(.+\).*`pip install \.` in the source folder", error)


@pytest.mark.parametrize("module", ["fusedcam.torch", "fusedcam.torch.metrics", "fusedcam.torch.pretrained"])
def test_without_torch(module):
    printed = fresh(
        "import sys\nsys.modules['torch'] = None\n"
        f"try:\n    import {module}\n"
        "except ImportError as error:\n    print(type(error).__name__, error.name, error, sep='\\n')"
    )
    assert printed == "ModuleNotFoundError\ntorch\nfusedcam.torch needs PyTorch: pip install 'fusedcam[torch]'\n"


def test_another_missing_module_is_not_taken_for_torch():
    printed = fresh(
        "import sys\nsys.modules['fusedcam.functional'] = None\n"
        "try:\n    import fusedcam.torch\nexcept ImportError as error:\n    print(error.name)"
    )
    assert printed == "fusedcam.functional\n"
