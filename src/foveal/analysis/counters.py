"""What fvcore, ptflops and thop must be told to count foveal's layers as ``cost`` does; none of them is imported."""

from collections.abc import Callable
from copy import deepcopy
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

Hook = Callable[[nn.Module, Any, Any], None]


def fvcore_handles() -> dict[str, Callable[[Any, Any], Any]]:
    """Operator handles for fvcore, which traces: there a log-polar layer is a convolution whose kernel is read from bins.

    It is counted in the pooling form, ``columns * C / groups * O * H' * W'``. An anisotropic layer is right without a
    handle; fvcore counts its interpolation, too, under ``grid_sampler``.

    Returns:
        What ``FlopCountAnalysis(model, images).set_op_handle(**fvcore_handles())`` takes.

    Example:
        >>> sorted(fvcore_handles())
        ['aten::_convolution']
    """

    def convolution(inputs: Any, outputs: Any) -> dict[str, int]:
        weight, output = (value.type().sizes() for value in (inputs[1], outputs[0]))
        transposed = inputs[6].toIValue()
        positions = prod(inputs[0].type().sizes()[2:] if transposed else output[2:])
        return {"conv": output[0] * positions * prod(_columns(inputs[1]) or weight)}

    return {"aten::_convolution": convolution}


def ptflops_hooks(model: nn.Module) -> dict[type[nn.Module], Hook]:
    """Hooks for ptflops (its backend "pytorch"), which sees modules.

    Returns:
        What ``get_model_complexity_info(model, size, custom_modules_hooks=ptflops_hooks(model))`` takes.

    Example:
        >>> ptflops_hooks(nn.Conv2d(3, 4, 3))
        {}
    """

    def hook(module: Any, inputs: Any, output: Any) -> None:
        module.__flops__ += _macs(module, inputs[0])

    return dict.fromkeys(_kinds(model), hook)


def thop_hooks(model: nn.Module) -> dict[type[nn.Module], Hook]:
    """Hooks for thop, which sees modules.

    Returns:
        What ``thop.profile(model, (images,), custom_ops=thop_hooks(model))`` takes.

    Example:
        >>> thop_hooks(nn.Conv2d(3, 4, 3))
        {}
    """

    def hook(module: Any, inputs: Any, output: Any) -> None:
        module.total_ops += _macs(module, inputs[0])

    return dict.fromkeys(_kinds(model), hook)


def _kinds(model: nn.Module) -> list[type[nn.Module]]:
    """The classes of a network's layers that have a map and a weight, and of its convolutions whose weight is computed, which
    counters do not take for convolutions."""

    def is_one(module: nn.Module) -> bool:
        if parametrize.is_parametrized(module, "weight") and isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return True
        return (hasattr(module, "bins") or hasattr(module, "taps")) and hasattr(module, "weight")

    return list({type(module): None for module in model.modules() if is_one(module)})


def _macs(module: nn.Module, input: Tensor) -> int:
    """Multiply-adds of a layer with all that is in it, from shapes alone."""
    bare = deepcopy(module).to("meta")
    for part in bare.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        bare(torch.empty_like(input, device="meta"))
    return counter.get_total_flops() // 2


def _columns(kernel: Any) -> list[int] | None:
    """The weight [O, C / groups, columns] of which a traced kernel was read by bins, or None for any other kernel."""
    read = kernel.node()
    if read.kind() != "aten::index" or len(kernel.type().sizes()) not in (4, 5):
        return None
    padded = next(iter(read.inputs())).type().sizes()  # one column of zeros behind the weight's
    return [*padded[:2], padded[2] - 1] if len(padded) == 3 else None
