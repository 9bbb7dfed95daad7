"""Parts of a model, modules or parameters, that are not trained: their weights stay the source's that `init` names.

They get no gradient and no optimizer state, average nothing and are in no checkpoint, and they are in evaluation mode
at all times: no dropout, no drop path, no batch norm counts. A run records the source by hash and refuses another.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    for part in parts:
        held(model, part).requires_grad_(False)


def held(model: nn.Module, part: str) -> nn.Module | nn.Parameter:
    """The part of this name."""
    parameters = dict(model.named_parameters())
    return parameters[part] if part in parameters else model.get_submodule(part)


def train_mode(model: nn.Module, parts: Sequence[str]) -> None:
    """Training mode for all but the frozen parts."""
    model.train()
    for part in parts:
        if isinstance(module := held(model, part), nn.Module):
            module.eval()


def lies_in(name: str, parts: Sequence[str]) -> bool:
    """Whether a parameter or buffer of this name lies in one of them."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def trained(state: dict[str, Tensor], parts: Sequence[str]) -> dict[str, Tensor]:
    """What of a model's state dict a checkpoint holds."""
    return {name: value for name, value in state.items() if not lies_in(name, parts)} if parts else state


def whole(saved: dict[str, Any], model: nn.Module, parts: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint holds, with the frozen parts as `model` has them from their source."""
    if not parts:
        return saved
    return {name: value for name, value in model.state_dict().items() if lies_in(name, parts)} | saved
