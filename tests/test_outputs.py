"""What is found in a model's output."""

import pytest
import torch

from fusedcam.torch.outputs import are_probabilities


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 10, 1000, 21841])
def test_what_is_taken_for_probabilities(dtype, classes):
    scores = (torch.randn(3, classes) * torch.rand(3, 1) * 9).to(dtype)
    assert are_probabilities(scores.softmax(1))
    assert are_probabilities(scores.log_softmax(1).exp())
    for factor in (0.9, 1.1):
        rows = scores.double().softmax(1)
        rows[1] *= factor
        assert not are_probabilities(rows.to(dtype))
    assert not are_probabilities(scores)
