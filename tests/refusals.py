"""What the tables of refusals share: fresh arrays, one row, and the check of it."""

import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import fusedcam

FLOATS = "accepted are float32, float16, bfloat16 and float64"
MAPS = "accepted is the result's: float32 or float64 for maps, uint8 for pictures, the image's for masked images"
KINDS = "must be an array (torch, NumPy, JAX, CuPy, TensorFlow or anything with __dlpack__ or the buffer protocol)"


class Case:
    """Fresh arrays, and the ops with a poisoned `out` that fits unless the row brings its own."""

    def __init__(self) -> None:
        rng = np.random.default_rng()
        self.a = rng.standard_normal((2, 3, 4, 5), np.float32)
        self.g = rng.standard_normal((2, 3, 4, 5), np.float32)
        self.h = rng.random((4, 5), np.float32)
        self.image = rng.integers(0, 256, (8, 10, 3), np.uint8)
        self.heat = np.full((2, 4, 5), 7e7, np.float32)
        self.big = np.full((6, 7), 7e7, np.float32)
        self.rgb = np.full((4, 5, 3), 77, np.uint8)
        self.picture = np.full((8, 10, 3), 77, np.uint8)

    def cam(self, *arguments: Any, **options: Any) -> Any:
        return fusedcam.cam(*arguments, **{"out": self.heat} | options)

    def resize(self, *arguments: Any, **options: Any) -> Any:
        return fusedcam.resize(*arguments, **{"out": self.big} | options)

    def colorize(self, *arguments: Any, **options: Any) -> Any:
        return fusedcam.colorize(*arguments, **{"out": self.rgb} | options)

    def overlay(self, *arguments: Any, **options: Any) -> Any:
        return fusedcam.overlay(*arguments, **{"out": self.picture} | options)

    def state(self) -> dict[str, tuple[bytes, int]]:
        """Every array's bytes and the number of references to it."""
        return {name: (self.bytes(name), sys.getrefcount(value)) for name, value in vars(self).items()}

    def bytes(self, name: str) -> bytes:
        return getattr(self, name).tobytes()


class Row(NamedTuple):
    call: Callable[[Any], Any]
    kind: type[Exception]
    message: str | re.Pattern[str]
    """The whole message, or a pattern of the whole message."""


def table(rows: dict[str, Row]) -> pytest.MarkDecorator:
    """One test a row, under the row's name."""
    return pytest.mark.parametrize("row", rows.values(), ids=rows.keys())


def attempt(call: Callable[[Any], Any], case: Case) -> tuple[type[BaseException] | None, str]:
    """What the call raised. The traceback, which would hold references to the arrays, is gone on return."""
    try:
        call(case)
    except BaseException as error:
        return type(error), str(error)
    return None, "not refused"


def check(row: Row, case: Case) -> None:
    """The row's exception and whole message; no byte of any array has changed, no reference was kept."""
    attempt(row.call, case)  # what loads on first use (colour maps, the probe of a type) keeps references
    case = type(case)()
    before = case.state()
    kind, message = attempt(row.call, case)
    assert kind is row.kind, message
    if isinstance(row.message, str):
        assert message == row.message
    else:
        assert row.message.fullmatch(message), message
    assert case.state() == before
