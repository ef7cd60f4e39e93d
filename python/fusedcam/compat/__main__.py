"""python -m fusedcam.compat [--strict] [--fix-known-defects] script.py [arguments], or -m module [arguments].

Runs a script as `python script.py` would, with every installed peer patched.
"""

import argparse
import runpy
import sys
from pathlib import Path

from .patching import patch


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m fusedcam.compat", description="Runs a script with installed peers patched to use fusedcam."
    )
    parser.add_argument("--strict", action="store_true", help="keep the peers' side effects")
    parser.add_argument("--fix-known-defects", action="store_true", help="right numbers where a peer's are known wrong")
    parser.add_argument("-m", dest="module", action="store_true", help="the script is a module's name")
    parser.add_argument("script")
    # What stands behind the script is the script's, dashes and all.
    words, options = sys.argv[1:], 0
    while options < len(words) and words[options].startswith("-") and words[options] not in ("-", "--"):
        options += 1
    given = parser.parse_args(words[: options + 1])
    arguments = words[options + 1 :]
    if not given.module and not Path(given.script).exists():
        parser.error(f"there is no file {given.script}")
    patch(strict=given.strict, fix_known_defects=given.fix_known_defects)
    sys.argv = [given.script, *arguments]
    if given.module:
        sys.path[0] = ""
        runpy.run_module(given.script, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(given.script).resolve().parent)
        runpy.run_path(given.script, run_name="__main__")


if __name__ == "__main__":
    main()
