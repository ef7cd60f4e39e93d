"""A pytest plugin: `pytest -p fusedcam.compat.pytest_patch` runs tests with every installed peer patched.

At the end it says what was replaced and how many native calls there were: a suite that checks shapes alone passes
without any.
"""

from typing import Any

from . import native
from .patching import patch, patch_status, unpatch

__all__ = ["pytest_addoption", "pytest_configure", "pytest_terminal_summary", "pytest_unconfigure"]


def pytest_addoption(parser: Any) -> None:
    group = parser.getgroup("fusedcam")
    group.addoption("--fusedcam-strict", action="store_true", help="keep the peers' side effects")
    group.addoption("--fusedcam-fix-known-defects", action="store_true", help="right numbers where a peer's are wrong")


def pytest_configure(config: Any) -> None:
    patch(strict=config.getoption("fusedcam_strict"), fix_known_defects=config.getoption("fusedcam_fix_known_defects"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.section("fusedcam")
    for status in patch_status():
        if status.state != "not installed":
            terminalreporter.line(f"{status.peer} {status.version}: {status.state}, {len(status.replaced)} replaced")
    terminalreporter.line(f"{native.count()} native calls")


def pytest_unconfigure(config: Any) -> None:
    unpatch()
