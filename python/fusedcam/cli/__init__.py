"""The command `fusedcam`: `explain` shows what a network looked at in photographs, `evaluate` measures how far that is
so, `info` tells what runs here."""

import sys

from .. import __version__
from .. import info as describe

try:
    import click

    from .evaluating import evaluate
    from .explaining import explain
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] not in ("click", "rich"):
        raise
    sys.exit(f"fusedcam's command line needs {error.name}: pip install 'fusedcam[cli]'")

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fusedcam")
def main() -> None:
    """What a neural network looked at in a photograph (Grad-CAM)."""


main.add_command(explain)
main.add_command(evaluate)


@main.command()
def info() -> None:
    """Print the version, the backends and what they run with."""
    facts = describe()
    rows = {
        "version": facts["version"],
        "backends": ", ".join(facts["backends"]),
        "cuda": facts["cuda"] or "available",
        "simd": facts["simd"],
        "threads": f"{facts['threads']} ({facts['thread_runtime']})",
    }
    for name, value in rows.items():
        print(f"{name:10}{value}")
