"""The same network in a form that another runtime computes faster: wide log-polar layers as sums over bins and a 1x1 convolution."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.layers import LogPolarConv2d, shaped

FORMS = ("auto", "dense", "sums")
_TAPS = {"onnx": 100, "openvino": 50}
"""From how many taps on sums are taken: at 9x9 the two are alike in onnxruntime and 1.8 times as fast in OpenVINO, at 31x31 they
are 3.7 and 1.7 times as fast (docs/results/runtimes.json: 64 channels, 13 and 25 columns, AVX-512, one thread)."""


class SummedConv(nn.Module):
    """A log-polar convolution as two of PyTorch's: a depthwise one of 0 and 1 (or 1 / N) that adds up each bin, and a 1x1 one.

    Exactly the layer but for rounding; columns * C / groups multiply-adds for each output where the dense kernel has
    taps * C / groups, behind taps * columns for each input channel.

    Args:
        layer: linear (reduce "mean" or "sum").

    Shape:
        input [N, C, H, W] -> output [N, O, H', W'], as of the layer.
    """

    sums: Tensor
    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: LogPolarConv2d) -> None:
        super().__init__()
        self.layer = {
            name: getattr(layer, name) for name in ("stride", "dilation", "groups", "padding_mode", "before", "after")
        }
        tap_weight = layer._tap_weight().detach()
        columns = tap_weight.shape[2]
        members = torch.stack([layer.bins == column for column in range(columns)])[:, None]
        self.register_buffer("sums", members.to(tap_weight.dtype).repeat(layer.in_channels, 1, 1, 1))
        self.register_buffer("weight", tap_weight.flatten(1)[:, :, None, None].contiguous())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, input: Tensor) -> Tensor:
        """Add up, then weigh."""
        if input.ndim == 3:
            return self.forward(input[None])[0]
        how, padding = self.layer, self.layer["before"]
        if how["padding_mode"] != "zeros" or how["before"] != how["after"]:
            input, padding = shaped.pad(input, how["before"], how["after"], how["padding_mode"]), 0
        sums = F.conv2d(input, self.sums, None, how["stride"], padding, how["dilation"], input.shape[1])
        return F.conv2d(sums, self.weight, self.bias, groups=how["groups"])


def reform(model: nn.Module, form: str, target: str) -> nn.Module:
    """Replace log-polar layers by the form that is asked for, in place, and return the model.

    Args:
        form: "dense" leaves them, since they export as one convolution; "sums" is :class:`SummedConv`; "auto" takes sums where
            the kernel has many taps.
        target: the runtime that it is for.
    """
    shaped.check_choice("form", form, FORMS)
    most = {"auto": _TAPS.get(target, 2**62), "sums": 0, "dense": 2**62}[form]

    def wanted(layer: nn.Module) -> bool:
        return (
            type(layer) is LogPolarConv2d
            and layer.reduce != "max"
            and layer.in_channels > layer.groups
            and math.prod(layer.kernel_size) > most
        )

    if wanted(model):
        return SummedConv(model)  # type: ignore[arg-type]
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if wanted(child):
                setattr(parent, name, SummedConv(child))  # type: ignore[arg-type]
    return model
