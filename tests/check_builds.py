"""Wheels with FUSEDCAM_CUDA=ON and OFF: which modules each holds, and that it says why CUDA is not there.

python tests/check_builds.py ARCHITECTURES
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAYS = "import fusedcam; facts = fusedcam.info(); print(facts['cuda'], facts['cuda_architectures'], sep='|')"


def built(folder: Path, cuda: str, architectures: str) -> tuple[set[str], str, str]:
    """The native modules of a wheel, and what it says of CUDA."""
    options = {"FUSEDCAM_CUDA": cuda, "CMAKE_CUDA_ARCHITECTURES": architectures}
    settings = [f"--config-settings=cmake.define.{name}={value}" for name, value in options.items()]
    wheels = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}"]
    place = f"--config-settings=build-dir={folder}/build"
    subprocess.run([sys.executable, *wheels, place, *settings, str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "package")
    modules = {path.name.partition(".")[0] for path in (folder / "package").rglob("*.so")}
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder / 'package')!r}); {SAYS}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout.strip()
    missing, _, compiled = said.rpartition("|")
    return modules, missing, compiled


def main() -> None:
    choices = {"OFF": {"_cpu"}, "ON": {"_cpu", "_cuda"}}
    if not (shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")):
        print("no nvcc: the build with CUDA is left out")
        del choices["ON"]
    for cuda, expected in choices.items():
        with tempfile.TemporaryDirectory() as folder:
            modules, missing, compiled = built(Path(folder), cuda, sys.argv[1])
        assert modules == expected, modules
        assert compiled == ("" if cuda == "OFF" else sys.argv[1]), compiled
        assert ("FUSEDCAM_CUDA=OFF" in missing) == (cuda == "OFF"), missing
        print(f"FUSEDCAM_CUDA={cuda}: {', '.join(sorted(modules))}; CUDA: {missing}")


if __name__ == "__main__":
    main()
