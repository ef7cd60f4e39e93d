"""Copies of the sources, built and tried apart from what is installed: for the planted bugs and the sanitizers.

python tests/build_copy.py FOLDER SCRIPT [ARGUMENT ...]    # runs a script with the package that lies in FOLDER
"""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11

ROOT = Path(__file__).resolve().parent.parent
COPIED = ["CMakeLists.txt", "pyproject.toml", "cmake", "csrc", "python", "tests"]

Edits = tuple[tuple[str, str], ...]
# The values are the same with little optimisation, and the build takes a third of the time.
QUICK: Edits = (
    ("set(CMAKE_INTERPROCEDURAL_OPTIMIZATION ON)", ""),
    ("INTERFACE -O2 ", "INTERFACE -O1 "),
    ("COMPILE_OPTIONS -O3)", "COMPILE_OPTIONS -O1)"),
)


class Failed(RuntimeError):
    """A command failed; the message holds what it printed."""


class Copy:
    """A copy of the sources in `folder`, with CMake's options ON that are named."""

    def __init__(self, folder: Path, *options: str, quick: bool = True, root: Path = ROOT) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(exist_ok=True)
        self.package = self.folder / "python"
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy(root / name, self.folder / name)
        if quick:
            self.edit("CMakeLists.txt", QUICK)
        tools = Path(sys.executable).parent
        self.environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
        given = {
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "SKBUILD_PROJECT_VERSION": "0",
            "FUSEDCAM_CUDA": "OFF",
            **dict(option.split("=") if "=" in option else (option, "ON") for option in options),
        }
        self.run(
            "cmake", "-S", ".", "-B", "build", "-G", "Ninja", *(f"-D{key}={value}" for key, value in given.items())
        )

    def run(self, *command: str | Path, **environment: str) -> str:
        """What the command prints, run in the folder."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if done.returncode:
            raise Failed(f"{' '.join(map(str, command))} ended with status {done.returncode}:\n{done.stdout}")
        return done.stdout

    def edit(self, file: str, edits: Edits) -> str:
        """Replaces text that must stand in the file exactly once; returns what was there before."""
        path = self.folder / file
        before = text = path.read_text()
        for old, new in edits:
            if text.count(old) != 1:
                raise LookupError(f"{file} has {text.count(old)} times instead of once: {old!r}")
            text = text.replace(old, new)
        path.write_text(text)
        return before

    def build(self, *targets: str) -> None:
        """Builds the targets, and puts a module that is built into the copy's package."""
        self.run("cmake", "--build", "build", "--target", *targets)
        built = self.folder / "build"
        for module in [*built.glob("_cpu.*.so"), *built.rglob("_cuda.*.so"), built / "_build.py"]:
            shutil.copy(module, self.package / "fusedcam" / module.name)


def use(package: str | Path) -> None:
    """From now on this process's fusedcam is the one in that folder.

    The finder of an editable install comes before sys.path and would bring the package that is installed.
    """
    sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith(("_editable_", "__editable__"))]
    sys.path.insert(0, str(package))
    import fusedcam._cpu

    assert fusedcam._cpu.__file__.startswith(str(package) + os.sep), fusedcam._cpu.__file__


if __name__ == "__main__":
    _, folder, *sys.argv = sys.argv
    use(folder)
    runpy.run_path(sys.argv[0], run_name="__main__")
