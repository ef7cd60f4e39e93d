"""What a benchmark leaves: a JSON file for each machine, with what the machine is."""

import argparse
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fusedcam

RESULTS = Path(__file__).resolve().with_name("results")


def machine() -> dict[str, Any]:
    facts = fusedcam.info()
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = found[1] if found else cpu
    return {
        "cpu": cpu,
        "threads": facts["threads"],
        "simd": facts["simd"],
        "fusedcam": facts["version"],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "load": os.getloadavg()[0],
    }


def in_files(name: str) -> str:
    """A machine's name as it stands in files' names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, help="the JSON file  [default: one per machine, in bench/results]")


def save(results: Mapping[str, Any], kind: str = "", output: Path | None = None) -> Path:
    """Writes {"machine": machine(), ...} to `output`, or to the machine's own file of that kind."""
    facts = results["machine"]
    name = in_files(f"{facts['cpu']} {facts['threads']} threads {kind}")
    output = output or RESULTS / f"{name}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {output}")
    return output
