"""The CAM methods: one line each. Validation, tests, benchmarks and the command line iterate over this table."""

from typing import NamedTuple


class Method(NamedTuple):
    """A class activation mapping method."""

    name: str
    """What `cam(method=...)` takes; the rule of the same name in csrc/rules.hpp computes it."""
    title: str
    paper: str


METHODS: dict[str, Method] = {
    method.name: method
    for method in (Method("gradcam", "Grad-CAM", "Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391"),)
}
