"""The tensors of a run by name, as a checkpoint holds them."""

import torch
from torch import nn

from ctray.training.checkpoints import Tensors
from ctray.training.optim import Average


def collect_tensors(
    model: nn.Module, average: Average | None, optimizer: torch.optim.Optimizer
) -> Tensors:
    """All that a run needs to resume: `model.…`, `average.…` and `optimizer.KEY.PARAMETER`."""
    found = {f"model.{name}": value for name, value in model.state_dict().items()}
    if average is not None:
        averaged = average.model.state_dict()
        found |= {f"average.{name}": value for name, value in averaged.items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"optimizer.{key}.{name}"] = value
    return found


def restore_tensors(
    found: Tensors, model: nn.Module, average: Average | None, optimizer: torch.optim.Optimizer
) -> None:
    """Put what `collect_tensors` gave back into a model, its average and its optimizer."""
    groups: dict[str, Tensors] = {"model": {}, "average": {}, "optimizer": {}}
    for key, value in found.items():
        group, _, name = key.partition(".")
        groups[group][name] = value
    model.load_state_dict(groups["model"])
    if average is not None:
        average.model.load_state_dict(groups["average"])
    parameters = dict(model.named_parameters())
    for key, value in groups["optimizer"].items():
        kind, _, name = key.partition(".")
        parameter = parameters[name]
        # In the layout of the parameter, as the optimizer would have made it.
        empty = torch.empty_like(parameter) if value.ndim else parameter.new_empty(())
        optimizer.state[parameter][kind] = empty.copy_(value)


def copies(tensors: Tensors) -> Tensors:
    """Copies on the CPU, as a file holds them, that the training will not change."""
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
