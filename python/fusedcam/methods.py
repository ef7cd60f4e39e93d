"""The CAM methods that are rules: one entry each. Validation, tests, benchmarks, the command line and
`fusedcam.torch` iterate over this table."""

from typing import NamedTuple


class Method(NamedTuple):
    """A class activation mapping method."""

    name: str
    """What `cam(method=...)` takes; the rule of the same name in csrc/rules.hpp computes it."""
    title: str
    """As its paper writes it; without spaces and hyphens, the name of its class in `fusedcam.torch`."""
    formula: str
    """The score of a pixel before the ReLU: A is an activation, g its gradient, sum_p over the pixels of a map."""
    assumes: str
    """What the formula was derived for."""
    paper: str

    @property
    def class_name(self) -> str:
        """Of its class in `fusedcam.torch`."""
        return self.title.replace("++", "PlusPlus").translate({ord(" "): None, ord("-"): None})


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "gradcam",
            "Grad-CAM",
            "sum_c mean_p(g) A",
            "a score before softmax",
            "Selvaraju et al. 2017, equations 1 and 2, https://arxiv.org/abs/1610.02391",
        ),
    )
}
