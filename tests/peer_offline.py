"""A pytest plugin for the peers' own suites: networks keep their random weights, and torchvision can be imported."""

from typing import Any

import torch

from peer_models import pytorch_grad_cam

pytorch_grad_cam()

from torchvision.models import _api  # noqa: E402

_load = torch.nn.Module.load_state_dict


def _without_weights(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {}


def _load_something(self: torch.nn.Module, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
    return _load(self, state_dict, *args, **kwargs) if state_dict else None


_api.WeightsEnum.get_state_dict = _without_weights
torch.nn.Module.load_state_dict = _load_something
torch.manual_seed(0)
