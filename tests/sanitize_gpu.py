"""Runs gpu_calls.py under compute-sanitizer's tools and writes what each said to a JSON file; 1 if one found an error.

    python tests/sanitize_gpu.py build/sanitizers.json

A tool that is missing, or that the machine's runtime refuses to run, is recorded as such: that is no error of ours.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

TOOLS = ("memcheck", "racecheck")
FOUND = 3  # the exit status asked for where a tool finds an error


def verdict(tool: str) -> dict[str, str]:
    program = shutil.which("compute-sanitizer")
    if not program:
        return {"status": "missing"}
    calls = [sys.executable, str(Path(__file__).with_name("gpu_calls.py")), "--few"]
    done = subprocess.run(
        [program, "--tool", tool, "--error-exitcode", str(FOUND), *calls],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    end = done.stdout[-2000:]
    if done.returncode == 0:
        return {"status": "passed", "said": end.strip().rpartition("\n")[2]}
    # A tool that cannot run makes CUDA fail in torch, with a traceback: only a comparison of ours that failed is one.
    ours = done.returncode == FOUND or "AssertionError" in done.stdout
    return {"status": "found an error" if ours else "refused", "said": end}


def main(output: Path) -> int:
    found = {tool: verdict(tool) for tool in TOOLS}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n")
    for tool, said in found.items():
        print(f"compute-sanitizer --tool {tool}: {said['status']}\n{said.get('said', '')}")
    return any(said["status"] == "found an error" for said in found.values())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
