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


def built(folder: Path, cuda: str, *settings: str) -> tuple[set[str], str, str]:
    """The native modules of a wheel, and what it says of CUDA."""
    given = [f"--config-settings={setting}" for setting in (f"cmake.define.FUSEDCAM_CUDA={cuda}", *settings)]
    wheels = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}"]
    subprocess.run([sys.executable, *wheels, *given, str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "package")
    modules = {path.name.partition(".")[0] for path in (folder / "package").rglob("*.so")}
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder / 'package')!r}); {SAYS}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout.strip()
    missing, _, compiled = said.rpartition("|")
    return modules, missing, compiled


def main() -> None:
    architectures = sys.argv[1]
    # AUTO is what was installed: with ON it shares the build folder, whose objects are the same, and comes last so as
    # to leave the folder as it was. OFF has a folder of its own, and the kernels that every processor has.
    own = ("build-dir={folder}/build", "cmake.define.FUSEDCAM_X86_LEVELS=OFF")
    shared = (f"cmake.define.CMAKE_CUDA_ARCHITECTURES={architectures}",)
    choices = {"OFF": ({"_cpu"}, own), "ON": ({"_cpu", "_cuda"}, shared), "AUTO": ({"_cpu", "_cuda"}, shared)}
    if not (shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")):
        print("no nvcc: the builds with CUDA are left out")
        choices = {"OFF": choices["OFF"]}
    for cuda, (expected, settings) in choices.items():
        with tempfile.TemporaryDirectory() as folder:
            given = [setting.format(folder=folder) for setting in settings]
            modules, missing, compiled = built(Path(folder), cuda, *given)
        assert modules == expected, modules
        assert compiled == ("" if cuda == "OFF" else architectures), compiled
        assert ("FUSEDCAM_CUDA=OFF" in missing) == (cuda == "OFF"), missing
        print(f"FUSEDCAM_CUDA={cuda}: {', '.join(sorted(modules))}; CUDA: {missing}")


if __name__ == "__main__":
    main()
