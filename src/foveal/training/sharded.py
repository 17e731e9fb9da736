"""A network whose weights, gradients and optimiser's state are shared out among the processes of a run: PyTorch's FSDP2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foveal.training.processes import World


def shard(model: nn.Module, world: World, device: torch.device) -> nn.Module:
    """Share a network's parameters out, in place: those of each block of layers are together only while it computes.

    A block is a `torch.nn.Sequential` that is called by the network itself; all that is in none makes another one.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    mesh = DeviceMesh.from_group(world.data_group, device.type)
    for child in model.children():
        if type(child) is nn.Sequential and any(parameter.requires_grad for parameter in child.parameters()):
            fully_shard(child, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def whole(value: Any) -> Any:
    """A copy of a state in which every tensor that is shared out is whole, on the CPU; all processes must ask for it."""
    from torch.distributed.tensor import DTensor

    def gathered(part: Any) -> Any:
        if isinstance(part, DTensor):
            return part.full_tensor().detach().cpu()
        return part.detach().cpu() if isinstance(part, Tensor) else part

    return torch.utils._pytree.tree_map(gathered, value)


def shared_out(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's saved state with each tensor that is of a parameter's shape shared out as the parameter is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def of(parameter: Any, part: Any) -> Any:
        if not isinstance(part, Tensor) or not isinstance(parameter, DTensor) or part.shape != parameter.shape:
            return part
        here = part.to(parameter.device)
        # every process has read all of it
        return distribute_tensor(here, parameter.device_mesh, parameter.placements, src_data_rank=None)

    each = {
        index: {key: of(parameters[index], part) for key, part in parts.items()}
        for index, parts in state["state"].items()
    }
    return {**state, "state": each}
