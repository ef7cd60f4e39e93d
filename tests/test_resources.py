"""What nvcc made of the CUDA kernels, read from the installed module: registers, spills, wide loads, architectures.

python tests/test_resources.py  prints the table
"""

import re
import subprocess
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

from fusedcam import _build

TOOLS = Path(sysconfig.get_paths()["purelib"]) / "nvidia" / "cu13" / "bin"
pytestmark = pytest.mark.skipif(bool(_build.WITHOUT_CUDA), reason=f"no CUDA kernels: {_build.WITHOUT_CUDA}")

REGISTERS = {"float": 128, "double": 255}  # two blocks of 256 threads on a multiprocessor, or one
KERNELS = 60  # an architecture: compile time goes with them


def dump(*options: str) -> str:
    module = find_spec("fusedcam._cuda").origin
    command = [TOOLS / "cuobjdump", *options, module]
    environment = {"PATH": f"{TOOLS}:/usr/bin:/bin"}  # it starts nvdisasm
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def test_architectures():
    asked = {entry.removesuffix("-real") for entry in _build.CUDA_ARCHITECTURES.split(";") if "virtual" not in entry}
    assert set(re.findall(r"\.sm_(\d+)[a-z]?\.cubin", dump("--list-elf"))) == asked
    source = {entry.removesuffix("-virtual") for entry in _build.CUDA_ARCHITECTURES.split(";") if "real" not in entry}
    assert set(re.findall(r"\.sm_(\d+)[a-z]?\.ptx", dump("--list-ptx"))) == source, "PTX, for devices to come"


def resources() -> list[tuple[str, str, str, str]]:
    """Each kernel's mangled name, registers, bytes of stack and of local memory."""
    line = r"Function (\S+):\n\s*REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)"
    return re.findall(line, dump("--dump-resource-usage"))


def test_registers_and_spills():
    used = resources()
    architectures = len(_build.CUDA_ARCHITECTURES.split(";"))
    names = {name for name, *_ in used}
    for stem in (
        "cam_cluster",
        "cam_partial",
        "cam_draw",
        "cam_finish",
        "sum_cam_slopes",
        "write_cam_slopes",
        "resize_maps",
        "find_resized_ranges",
        "sum_extreme_slopes",
        "gather_along_rows",
        "gather_across_rows",
        "paint_maps",
        "mask_maps",
        "find_ranges",
    ):
        assert any(stem in name for name in names), stem
    assert len(names) <= KERNELS
    assert len(used) <= 2 * KERNELS * architectures, "find_ranges comes with each of resize.cu, overlay.cu and mask.cu"
    for name, registers, stack, local in used:
        assert (stack, local) == ("0", "0"), f"{name} spills"
        kind = "double" if re.search(r"Id[dE]", name) else "float"
        assert int(registers) <= REGISTERS[kind], f"{name} takes {registers} registers"


def functions(*stems: str) -> list[tuple[int, str, str]]:
    """Architecture, mangled name and instructions of the kernels with a stem in their names, of every architecture."""
    names = {name for name, *_ in resources() if any(stem in name for stem in stems)}  # all take a minute
    found = []
    for section in re.split(r"(?=\n\s*code for sm_)", dump("-sass", "-fun", ",".join(names))):
        if architecture := re.search(r"code for sm_(\d+)", section):
            bodies = re.findall(r"Function : (\S+)\n(.*?)(?=Function : |\Z)", section, re.DOTALL)
            found += [(int(architecture[1]), name, body) for name, body in bodies]
    return found


def test_wide_loads_and_stores():
    copying = "cam_clusterIff", "cam_partialIff", "cam_clusterINS_7Float16", "cam_partialINS_7Float16"
    kernels = functions(*copying, "cam_drawIf", "resize_mapsIf", "mask_mapsIf", "paint_mapsIf")
    assert not [name for _, name, body in kernels if re.search(r"\b(LDL|STL)\b", body)], "local memory"

    def has(kernel: str, instruction: str, since: int = 0) -> bool:
        found = [body for architecture, name, body in kernels if kernel in name and architecture >= since]
        assert found, kernel
        return all(re.search(instruction, body) for body in found)

    for kernel in ("cam_clusterIffLi4E", "cam_partialIffLi4E"):
        assert has(kernel, r"LDG\.E\.128"), "quads of float32 of large maps are read as one"
        assert has(kernel, r"LDS(\.U)?\.128"), "and those of small ones from shared memory"
    newest = max(architecture for architecture, *_ in kernels)
    if newest >= 80:  # Turing copies by way of its registers
        for kernel in copying:
            assert has(kernel, r"LDGSTS\.E\.BYPASS\.128", since=80), "tiles are copied 16 bytes at a time"
    for kernel in ("cam_clusterIff", "cam_drawIf", "resize_mapsIf", "mask_mapsIf"):
        assert has(kernel, r"STG\.E\.128"), "four float32 are written as one"
    assert has("paint_mapsIf", r"STG\.E\b"), "four pixels are written as three words"


if __name__ == "__main__":
    print("registers, stack, local memory (bytes), kernel")
    for name, *figures in sorted(set(resources())):
        print(*(f"{figure:>4}" for figure in figures), name)
