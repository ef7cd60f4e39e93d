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
        return self.title.replace("+", "Plus").translate({ord(" "): None, ord("-"): None})


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
        Method(
            "gradcam++",
            "Grad-CAM++",
            "sum_c w A, w = sum_p relu(g) / (2 + sum_p(A) g)",
            "a score S before softmax that counts as exp(S), and activations of at least 0",
            "Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063",
        ),
        Method(
            "smoothgradcam++",
            "Smooth Grad-CAM++",
            "sum_c w A, w = sum_p relu(g1) g2 / (2 g2 + sum_p(A) g3), where g1, g2, g3 are means of g, g^2, g^3 over "
            "noisy inputs",
            "as Grad-CAM++",
            "Omeiza et al. 2019, https://arxiv.org/abs/1908.01224",
        ),
        Method(
            "xgradcam",
            "XGrad-CAM",
            "sum_c w A, w = sum_p(g A) / sum_p(A), 0 where that is divided by 0",
            "a score before softmax, and activations whose sum is not near 0: of at least 0, as behind a ReLU",
            "Fu et al. 2020, https://arxiv.org/abs/2008.02312",
        ),
        Method(
            "hirescam",
            "HiResCAM",
            "sum_c g A",
            "a score before softmax",
            "Draelos and Carin 2020, https://arxiv.org/abs/2011.08891",
        ),
        Method(
            "layercam",
            "LayerCAM",
            "sum_c relu(g) A",
            "a score before softmax, and activations of at least 0",
            "Jiang et al. 2021, https://doi.org/10.1109/TIP.2021.3089943",
        ),
        Method(
            "gradcam_elementwise",
            "Grad-CAM Element-Wise",
            "sum_c relu(g A)",
            "a score before softmax",
            "pytorch-grad-cam, which names no paper",
        ),
        Method(
            "gradcam+",
            "Grad-CAM+",
            "sum_c mean_p(relu(g)) A",
            "a score before softmax",
            "Lerma and Lucas 2022, https://arxiv.org/abs/2205.10838",
        ),
    )
}
