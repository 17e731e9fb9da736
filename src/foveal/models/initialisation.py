"""How networks with a rule of their own start a convolution, or a layer that is put in its place."""

import math
from typing import Any

from torch import nn


def he_init(layer: Any, fan: str = "out") -> None:
    """Normal weights of std sqrt(2 / fan), zero bias; a fan is taps times out_channels ("out") or in_channels / groups ("in").

    A layer that stands for several convolutions whose outputs are added or compared starts as these: a log-polar one as
    a convolution over its bins beside a 1x1 of its own centre (its ``parts()``), one with a weight [sets, O, C / groups, kh, kw]
    as its sets.

    Args:
        layer: with ``weight`` Tensor[O, C / groups, ...taps] or [sets, O, C / groups, kh, kw], ``bias``, ``out_channels``.
        fan: "out" or "in".
    """
    parts = layer.parts() if hasattr(layer, "parts") else (layer.weight,)
    for weight in parts:
        sets = weight.shape[0] if weight.ndim == 5 else 1
        fan_in = weight.numel() // (sets * layer.out_channels)
        taps = fan_in // (layer.in_channels // layer.groups)
        nn.init.normal_(weight, std=math.sqrt(2 / (taps * layer.out_channels if fan == "out" else fan_in)))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
