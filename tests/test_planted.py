"""The other tests notice every bug that is planted into the sources."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_planted_bug_is_caught():
    program = Path(__file__).with_name("plant_bugs.py")
    done = subprocess.run([sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    assert done.returncode == 0
